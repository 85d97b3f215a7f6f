//! The verbs that write: create, update, patch; every one ends in [`State::finish_update`] or a create.
//!
//! Field managers of apply patches are known to the state and not shown: `managedFields` is not served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::object::Object;
use super::patch::{self, Patch};
use super::resource::{NAMESPACES, Row, Subresource};
use super::status::{Cause, Status};
use super::stored::Stored;
use super::{State, Target, admission};

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but `status`, where the resource has that as a path of its own.
    Whole,
    /// `status`, labels and annotations.
    Status,
    /// `spec`, where only what finalizes an object may change it (namespaces).
    Finalize,
}

/// How a write is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Says what would come of it and keeps nothing (`dryRun=All`).
    pub dry_run: bool,
    /// What becomes of fields that are not what the type says.
    pub validation: FieldValidation,
}

/// What becomes of fields that are not what an object's type says (`fieldValidation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Nothing: callers in process may save the time.
    #[default]
    Unchecked,
    /// Values of a wrong type are refused, unknown fields dropped.
    Ignore,
    /// As `Ignore`, and unknown fields are told of.
    Warn,
    /// Unknown fields are refused, too.
    Strict,
}

/// What came of an update or a patch.
#[derive(Debug, Clone)]
pub struct Written {
    pub object: Arc<Stored>,
    /// Whether the object was not there before.
    pub created: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// What is kept of a `generateName`: with five letters more it is as long as a label may be.
const GENERATED_PREFIX_MAX: usize = 58;

/// An object that a client sends to be created, read and held against its type: what can be done without the state.
#[derive(Debug)]
pub struct Draft {
    object: Object,
    warnings: Vec<String>,
}

impl Draft {
    /// Reads a client's object in the form of `row`.
    ///
    /// # Errors
    /// 400 when it is none, or not of its type.
    pub fn new(row: &'static Row, value: Value, options: WriteOptions) -> Result<Self, Status> {
        let mut object = Object::from_value(row, value)?;
        let warnings = check_types(&mut object, options, |why| Status::bad_request(why))?;
        Ok(Self { object, warnings })
    }
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
        let draft = Draft::new(target.row, value, options)?;
        self.post(now, target, draft, options)
            .map(|written| written.object)
    }

    /// As [`State::create`], of an object that has been read before.
    ///
    /// # Errors
    /// As [`State::create`].
    pub fn post(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        draft: Draft,
        options: WriteOptions,
    ) -> Result<Written, Status> {
        Ok(Written {
            object: self.create_object(now, target, draft.object, options)?,
            created: true,
            warnings: draft.warnings,
        })
    }

    fn create_object(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        mut object: Object,
        options: WriteOptions,
    ) -> Result<Arc<Stored>, Status> {
        let row = target.row;
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
        let prefix = object.metadata.generate_name.chars();
        let prefix: String = prefix.take(GENERATED_PREFIX_MAX).collect();
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
        let warnings = check_types(&mut object, options, |why| Status::bad_request(why))?;
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
                    warnings,
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
            warnings,
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
        let warnings = check_types(&mut new, options, unreadable)?;
        check_place(target, &mut new)?;
        let object = self.finish_update(target, part, &old, new, options)?;
        Ok(Written {
            object,
            created: false,
            warnings,
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
        let mut causes = admission::fixed(&new, old);
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
            Part::Finalize => new.take_all_but("spec", old),
            Part::Whole => {
                if row.has_status() {
                    new.take_section("status", old);
                }
                if row.subresources.contains(&Subresource::Finalize) {
                    new.take_section("spec", old);
                }
            }
        }
        for value in new.changed_sections(Some(old)) {
            admission::prune_nulls(value);
        }
        (row.prepare)(&mut new, Some(old), &mut self.allocator);
        causes.extend(admission::common(&new, Some(old)));
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
        let waited = !old.metadata.finalizers.is_empty() || part == Part::Finalize;
        if meta.deletion_timestamp.is_some()
            && meta.finalizers.is_empty()
            && waited
            && new.list("/spec/finalizers").is_empty()
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
        let stored = if self.compact {
            // Objects that are written one after the other are often made by the same hand.
            Stored::compact(object, self.table(row).last_written().map(|last| &***last))
        } else {
            Stored::new(object)
        };
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
        check_applied(target, value, options)?;
        let mut applied = BTreeSet::new();
        collect_fields(value, &mut Vec::new(), &mut applied);
        let Some(old) = self.find(target).cloned() else {
            if part != Part::Whole {
                return Err(Status::not_found(target.row, target.name));
            }
            if value["metadata"].get("name").is_none() {
                return Err(unnamed(target));
            }
            let object = self.create(now, target, value.clone(), options)?;
            self.remember(&object, manager, applied, &[], options);
            return Ok(Written {
                object,
                created: true,
                warnings: Vec::new(),
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
        let object = self.finish_update(target, part, &old, patched, options)?;
        self.remember(&object, manager, applied, &conflicts, options);
        Ok(Written {
            object,
            created: false,
            warnings: Vec::new(),
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
    if !target.name.is_empty() && meta.name.is_empty() {
        return Err(unnamed(target));
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

fn unnamed(target: Target<'_>) -> Status {
    let name = target.name;
    Status::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
}

/// What an apply patch must and may not say of itself. A real server does not classify what its types do not have here.
fn check_applied(target: Target<'_>, value: &Value, options: WriteOptions) -> Result<(), Status> {
    let row = target.row;
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if version != row.api_version() {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            row.api_version()
        )));
    }
    if !value["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if options.validation == FieldValidation::Unchecked {
        return Ok(());
    }
    let failed = |why: &str| {
        let (namespace, name) = (target.namespace, target.name);
        Status::unclassified(format!(
            "failed to create typed patch object ({namespace}/{name}; {}, Kind={}): {why}",
            row.api_version(),
            row.kind
        ))
    };
    let object = Object::from_value(row, value.clone())?;
    let unknown = (object.row.decode)(&object).map_err(|why| failed(&why.to_string()))?;
    match unknown.first() {
        Some(field) => Err(failed(&format!(".{field}: field not declared in schema"))),
        None => Ok(()),
    }
}

/// What is wrong with an object that a patch has made.
fn unreadable(why: &str) -> Status {
    Status::unreadable_patch("", why)
}

/// Whether a time has six digits of a second, no more and no fewer.
fn has_micros(time: &str) -> bool {
    let digits = time.split_once('.').map_or("", |(_, rest)| rest);
    let end = digits.bytes().position(|byte| !byte.is_ascii_digit());
    end == Some(6)
}

/// Refuses values of a wrong type and drops the fields that the type does not have, or refuses those too. Says what the
/// client should know; `refuse` makes the answer.
fn check_types(
    object: &mut Object,
    options: WriteOptions,
    refuse: impl Fn(&str) -> Status,
) -> Result<Vec<String>, Status> {
    if options.validation == FieldValidation::Unchecked {
        return Ok(Vec::new());
    }
    let row: &Row = object.row;
    let failed = |why: &str| {
        let (kind, version) = (row.kind, row.version);
        refuse(&format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    };
    let unknown = (row.decode)(object).map_err(|why| failed(&why.to_string()))?;
    for field in &unknown {
        object.remove_field(field);
    }
    for pointer in row.micro_times {
        let time = object.text(pointer);
        if !time.is_empty() && !has_micros(time) {
            let layout = "2006-01-02T15:04:05.000000Z07:00";
            return Err(failed(&format!("parsing time {time:?} as {layout:?}")));
        }
    }
    let told = unknown
        .iter()
        .map(|field| format!("unknown field {:?}", field.to_string()));
    let told: Vec<String> = told.collect();
    match options.validation {
        FieldValidation::Strict if !told.is_empty() => Err(failed(&format!(
            "strict decoding error: {}",
            told.join(", ")
        ))),
        FieldValidation::Warn => Ok(told),
        _ => Ok(Vec::new()),
    }
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
