//! The verbs that write: create, update, patch, binding; every one ends in [`State::finish_update`] or a create.
//!
//! Field managers of apply patches are known to the state and not shown: `managedFields` is not served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{Object, Stored};
use super::patch::{self, Patch};
use super::resource::{NAMESPACES, PODS, Row};
use super::status::{Cause, Status};
use super::{State, Target, admission};

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but `status`, where the resource has that as a path of its own.
    Whole,
    /// `status`, labels and annotations.
    Status,
}

/// How a write is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Says what would come of it and keeps nothing (`dryRun=All`).
    pub dry_run: bool,
    /// Refuses fields of a wrong type, as decoding into Go's types does. Callers in process may save the time.
    pub check_types: bool,
}

/// What came of an update or a patch.
#[derive(Debug, Clone)]
pub struct Written {
    pub object: Arc<Stored>,
    /// Whether the object was not there before.
    pub created: bool,
}

type Path = Vec<String>;

/// A manager and the field of its that another wants to change.
type Conflict = (String, Path);

/// The fields that each manager has applied, by the uid of the object.
pub(super) type FieldManagers = BTreeMap<Arc<str>, BTreeMap<String, BTreeSet<Path>>>;

/// A server keeps whole seconds.
pub(super) fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl State {
    /// Creates an object. The name is that of the object, or made from its `generateName`.
    ///
    /// # Errors
    /// 400 for an object that contradicts the target, 404 without its namespace, 403 in one that ends, 409 when the
    /// name is taken, 422 for broken rules.
    pub fn create(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        value: Value,
        options: WriteOptions,
    ) -> Result<Arc<Stored>, Status> {
        let object = Object::from_value(target.row, value)?;
        self.create_object(now, target, object, options)
    }

    fn create_object(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        mut object: Object,
        options: WriteOptions,
    ) -> Result<Arc<Stored>, Status> {
        let row = target.row;
        check_types(&object, options)?;
        check_place(target, &mut object)?;
        self.check_namespace(target, &object.metadata.name)?;
        if object.metadata.resource_version != 0 {
            return Err(Status::unclassified(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if object.metadata.name.is_empty() && !object.metadata.generate_name.is_empty() {
            self.generate_name(&mut object);
        }
        for value in object.changed_sections(None) {
            admission::prune_nulls(value);
        }
        if row.has_status() && row.storage != "nodes" {
            object.remove("status");
        }
        (row.prepare)(&mut object, None, &mut self.allocator);
        let mut causes = admission::common(&object, None);
        causes.extend((row.validate)(&object, None));
        if !causes.is_empty() {
            return Err(Status::invalid(object.row, &object.metadata.name, causes));
        }
        if self
            .table(row)
            .get(target.namespace, &object.metadata.name)
            .is_some()
        {
            return Err(Status::already_exists(row, &object.metadata.name));
        }
        let meta = &mut object.metadata;
        meta.uid = self.identities.uid();
        meta.creation_timestamp = Some(whole_seconds(now));
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        meta.generation = i64::from(row.generation);
        if options.dry_run {
            return Ok(Stored::new(object));
        }
        Ok(self.commit(object))
    }

    /// Tries a few ends, as a real server does; a collision beyond that is `AlreadyExists`.
    fn generate_name(&mut self, object: &mut Object) {
        let prefix: String = object
            .metadata
            .generate_name
            .chars()
            .take(253 - 5)
            .collect();
        for _ in 0..8 {
            object.metadata.name = Arc::from(format!("{prefix}{}", self.identities.suffix()));
            if self
                .table(object.row)
                .get(&object.metadata.namespace, &object.metadata.name)
                .is_none()
            {
                return;
            }
        }
    }

    fn check_namespace(&self, target: Target<'_>, name: &str) -> Result<(), Status> {
        if !target.row.namespaced {
            return Ok(());
        }
        let namespace = self.get(Target::cluster(&NAMESPACES, target.namespace))?;
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            target.namespace
        );
        let message = format!("namespace {} is being terminated", target.namespace);
        let cause = Cause {
            reason: "NamespaceTerminating",
            message,
            field: "metadata.namespace".to_owned(),
        };
        Err(Status::forbidden(target.row, name, &why, vec![cause]))
    }

    /// Replaces an object, or its status. `metadata.resourceVersion`, where given, must be that of the stored object.
    ///
    /// # Errors
    /// As for a create, 404 when it is not there, 409 when it has changed since.
    pub fn update(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        part: Part,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, Status> {
        let mut object = Object::from_value(target.row, value)?;
        if object.metadata.name.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(target.row, "", vec![cause]));
        }
        check_types(&object, options)?;
        check_place(target, &mut object)?;
        let Some(old) = self.find(target).cloned() else {
            if target.row.create_on_update && part == Part::Whole {
                let uid_given = !object.metadata.uid.is_empty();
                if uid_given {
                    return Err(uid_conflict(target, "", &object.metadata.uid));
                }
                object.metadata.resource_version = 0;
                let object = self.create_object(now, target, object, options)?;
                return Ok(Written {
                    object,
                    created: true,
                });
            }
            return Err(Status::not_found(target.row, target.name));
        };
        if object.metadata.resource_version == 0 && !target.row.unconditional_update {
            return Err(Status::version_required(target.row, target.name));
        }
        let object = self.finish_update(target, part, &old, object, options)?;
        Ok(Written {
            object,
            created: false,
        })
    }

    /// Changes an object, or its status, by a patch.
    ///
    /// # Errors
    /// As for an update; 422 for a JSON patch that does not fit and for an apply without a manager.
    pub fn patch(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        part: Part,
        patch: &Patch,
        options: WriteOptions,
    ) -> Result<Written, Status> {
        if let Patch::Apply {
            value,
            manager,
            force,
        } = patch
        {
            return self.apply(now, target, part, value, manager, *force, options);
        }
        let old = self.get(target)?;
        let mut new = patch::apply(target.row, &old, patch)?;
        check_types(&new, options)?;
        check_place(target, &mut new)?;
        let object = self.finish_update(target, part, &old, new, options)?;
        Ok(Written {
            object,
            created: false,
        })
    }

    /// Changes an object in process: `change` works on a copy that shares what it does not touch.
    ///
    /// # Errors
    /// As for an update.
    pub fn modify(
        &mut self,
        target: Target<'_>,
        part: Part,
        change: impl FnOnce(&mut Object),
    ) -> Result<Arc<Stored>, Status> {
        let old = self.get(target)?;
        let mut new = Object::clone(&old);
        change(&mut new);
        self.finish_update(target, part, &old, new, WriteOptions::default())
    }

    fn finish_update(
        &mut self,
        target: Target<'_>,
        part: Part,
        old: &Arc<Stored>,
        mut new: Object,
        options: WriteOptions,
    ) -> Result<Arc<Stored>, Status> {
        let row = target.row;
        if !new.metadata.uid.is_empty() && new.metadata.uid != old.metadata.uid {
            return Err(uid_conflict(target, &old.metadata.uid, &new.metadata.uid));
        }
        if new.metadata.resource_version != 0
            && new.metadata.resource_version != old.metadata.resource_version
        {
            return Err(Status::modified(row, target.name));
        }
        keep_what_the_server_owns(&mut new, old);
        match part {
            Part::Status => {
                new.take_all_but("status", old);
                new.metadata.owner_references = Arc::clone(&old.metadata.owner_references);
                new.metadata.finalizers = Arc::clone(&old.metadata.finalizers);
            }
            Part::Whole if row.has_status() => new.take_section("status", old),
            Part::Whole => {}
        }
        for value in new.changed_sections(Some(old)) {
            admission::prune_nulls(value);
        }
        (row.prepare)(&mut new, Some(old), &mut self.allocator);
        let mut causes = admission::common(&new, Some(old));
        causes.extend((row.validate)(&new, Some(old)));
        if !causes.is_empty() {
            return Err(Status::invalid(new.row, target.name, causes));
        }
        if new.same(old) {
            return Ok(Arc::clone(old));
        }
        if row.generation && !new.same_section(old, "spec") {
            new.metadata.generation += 1;
        }
        if options.dry_run {
            return Ok(Stored::new(new));
        }
        let meta = &new.metadata;
        if meta.deletion_timestamp.is_some()
            && meta.finalizers.is_empty()
            && !old.metadata.finalizers.is_empty()
            && !row.graceful
        {
            return Ok(self.remove(new));
        }
        if row.graceful
            && meta.deletion_grace_period_seconds == Some(0)
            && meta.finalizers.is_empty()
        {
            return Ok(self.remove(new));
        }
        Ok(self.commit(new))
    }

    /// Stores under a new version.
    pub(super) fn commit(&mut self, mut object: Object) -> Arc<Stored> {
        object.metadata.resource_version = self.next_version();
        let (row, limit) = (object.row, self.history);
        let stored = Stored::new(object);
        self.table_mut(row).put(&stored, limit);
        stored
    }

    /// Server-side apply: what the manager no longer names goes, what others own is a conflict unless forced.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn apply(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        part: Part,
        value: &Value,
        manager: &str,
        force: bool,
        options: WriteOptions,
    ) -> Result<Written, Status> {
        if manager.is_empty() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid_kind(
                "meta.k8s.io",
                "PatchOptions",
                "",
                vec![cause],
            ));
        }
        let mut applied = BTreeSet::new();
        collect_fields(value, &mut Vec::new(), &mut applied);
        let Some(old) = self.find(target).cloned() else {
            let mut value = value.clone();
            if let Value::Object(fields) = &mut value
                && let Value::Object(meta) = fields.entry("metadata").or_insert(json!({}))
            {
                meta.entry("name").or_insert(json!(target.name));
            }
            let object = self.create(now, target, value, options)?;
            self.remember(&object, manager, applied, &[], options);
            return Ok(Written {
                object,
                created: true,
            });
        };
        let before = self
            .managers
            .get(&old.metadata.uid)
            .cloned()
            .unwrap_or_default();
        let mut current = old.to_value(target.row);
        let conflicts = conflicts(&before, manager, &applied, &current, value);
        if !conflicts.is_empty() && !force {
            let shown: Vec<_> = conflicts
                .iter()
                .map(|(other, path)| (other.clone(), format!(".{}", path.join("."))))
                .collect();
            return Err(Status::apply_conflict(&shown));
        }
        for gone in before
            .get(manager)
            .into_iter()
            .flatten()
            .filter(|path| !applied.contains(*path))
        {
            if !before
                .iter()
                .any(|(other, paths)| other != manager && paths.contains(gone))
            {
                remove_path(&mut current, gone);
            }
        }
        let patched = patch::apply(
            target.row,
            &Object::from_value(target.row, current)?,
            &Patch::Strategic(value.clone()),
        )?;
        check_types(&patched, options)?;
        let object = self.finish_update(target, part, &old, patched, options)?;
        self.remember(&object, manager, applied, &conflicts, options);
        Ok(Written {
            object,
            created: false,
        })
    }

    /// Notes that the manager owns these fields, and that others have lost those it has taken from them.
    fn remember(
        &mut self,
        object: &Stored,
        manager: &str,
        applied: BTreeSet<Path>,
        taken: &[Conflict],
        options: WriteOptions,
    ) {
        if options.dry_run {
            return;
        }
        let managers = self
            .managers
            .entry(Arc::clone(&object.metadata.uid))
            .or_default();
        for (other, path) in taken {
            if let Some(owned) = managers.get_mut(other) {
                owned.remove(path);
            }
        }
        managers.insert(manager.to_owned(), applied);
    }

    /// Gives a pod to a node, as the scheduler does.
    ///
    /// # Errors
    /// 404 without the pod, 409 when it has a node or is being deleted, 422 without a node's name.
    pub fn bind(&mut self, target: Target<'_>, binding: &Value) -> Result<Status, Status> {
        let node = binding
            .pointer("/target/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if node.is_empty() {
            return Err(Status::invalid_kind(
                "",
                "Binding",
                target.name,
                vec![Cause::required("target.name", "")],
            ));
        }
        let pod = self.get(Target {
            row: &PODS,
            ..target
        })?;
        if pod.metadata.deletion_timestamp.is_some() {
            return Err(Status::conflict(
                &PODS,
                target.name,
                &format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    target.name
                ),
            ));
        }
        let taken = pod.text("/spec/nodeName");
        if !taken.is_empty() {
            return Err(Status::conflict(
                &PODS,
                target.name,
                &format!("pod {} is already assigned to node {taken:?}", target.name),
            ));
        }
        let mut bound = Object::clone(&pod);
        bound
            .section_mut("spec")
            .insert("nodeName".to_owned(), json!(node));
        let conditions = bound
            .section_mut("status")
            .entry("conditions")
            .or_insert(json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}));
        }
        self.commit(bound);
        Ok(Status::created())
    }
}

fn keep_what_the_server_owns(new: &mut Object, old: &Object) {
    let (meta, was) = (&mut new.metadata, &old.metadata);
    meta.uid = Arc::clone(&was.uid);
    meta.resource_version = was.resource_version;
    meta.generation = was.generation;
    meta.creation_timestamp = was.creation_timestamp;
    meta.deletion_timestamp = was.deletion_timestamp;
    meta.deletion_grace_period_seconds = was.deletion_grace_period_seconds;
    meta.namespace = Arc::clone(&was.namespace);
    if meta.generate_name.is_empty() {
        meta.generate_name = Arc::clone(&was.generate_name);
    }
}

/// Checks namespace and name against the path, and fills in what only the path says.
fn check_place(target: Target<'_>, object: &mut Object) -> Result<(), Status> {
    let meta = &mut object.metadata;
    if !target.row.namespaced {
        meta.namespace = Arc::default();
    } else if meta.namespace.is_empty() {
        meta.namespace = Arc::from(target.namespace);
    } else if &*meta.namespace != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !target.name.is_empty() && &*meta.name != target.name {
        let message = format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta.name, target.name
        );
        return Err(Status::bad_request(message));
    }
    Ok(())
}

fn check_types(object: &Object, options: WriteOptions) -> Result<(), Status> {
    if !options.check_types {
        return Ok(());
    }
    let row: &Row = object.row;
    (row.decode)(object).map_err(|why| {
        let (kind, version) = (row.kind, row.version);
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    })
}

fn uid_conflict(target: Target<'_>, stored: &str, given: &str) -> Status {
    let place = if target.namespace.is_empty() {
        String::new()
    } else {
        format!("{}/", target.namespace)
    };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{place}{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {given}, UID in object meta: {stored}",
        target.row.plural, target.name
    );
    Status::conflict(target.row, target.name, &why)
}

/// The fields that an applied object names: maps are entered, lists count as one field.
fn collect_fields(value: &Value, path: &mut Path, fields: &mut BTreeSet<Path>) {
    const IDENTITY: &[&str] = &[
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
    ];
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let skipped = match path.as_slice() {
                    [] => matches!(key.as_str(), "apiVersion" | "kind"),
                    [only] => only == "metadata" && IDENTITY.contains(&key.as_str()),
                    _ => false,
                };
                if !skipped {
                    path.push(key.clone());
                    collect_fields(value, path, fields);
                    path.pop();
                }
            }
        }
        _ if path.is_empty() || *path == ["metadata"] => {}
        _ => {
            fields.insert(path.clone());
        }
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

fn remove_path(value: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let parent = parents
        .iter()
        .try_fold(value, |value, key| value.get_mut(key));
    if let Some(parent) = parent.and_then(Value::as_object_mut) {
        parent.shift_remove(last);
    }
}

/// The fields that other managers own and that would change.
fn conflicts(
    managers: &BTreeMap<String, BTreeSet<Path>>,
    own: &str,
    applied: &BTreeSet<Path>,
    current: &Value,
    wanted: &Value,
) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (other, owned) in managers.iter().filter(|(other, _)| *other != own) {
        let changed = applied.intersection(owned);
        let changed = changed.filter(|path| at(current, path) != at(wanted, path));
        conflicts.extend(changed.map(|path| (other.clone(), path.clone())));
    }
    conflicts
}
