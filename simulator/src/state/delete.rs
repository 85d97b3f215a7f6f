//! The verbs that remove: delete, deletecollection, and the end of a namespace.
//!
//! A pod on a node that has not ended waits for its kubelet, which deletes it again with a grace period of 0. An object
//! with finalizers waits until they are gone; how its dependents go is written into two of them. Deliberately not here:
//! what then becomes of the dependents.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::list::{List, ListOptions};
use super::object::Object;
use super::resource::{self, EVENTS, NAMESPACES, Row};
use super::status::Status;
use super::stored::Stored;
use super::write::whole_seconds;
use super::{Part, State, Target};

/// The namespaces that the admission plugin `NamespaceLifecycle` keeps.
const PROTECTED: &[&str] = &["default", "kube-public", "kube-system"];

/// The finalizer of an object that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// The finalizer of an object that leaves its dependents without an owner.
pub const ORPHAN: &str = "orphan";

/// What becomes of the dependents of a deleted object (`propagationPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay, without their owner.
    Orphan,
}

/// How a delete is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a pod is given to end; its own setting where none is given.
    pub grace_period_seconds: Option<i64>,
    /// Deletes only the object of this uid.
    pub uid: Option<String>,
    /// Deletes only this version of the object.
    pub resource_version: Option<u64>,
    /// What becomes of the dependents; where none is given the object's finalizers or its resource say so.
    pub propagation: Option<Propagation>,
    /// Says what would come of it and keeps everything.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Without waiting: what a kubelet does once the containers have ended.
    #[must_use]
    pub fn now() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }
}

/// What came of a delete.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object as it is now, or was last where the resource answers so; `gone` tells which.
    Object { object: Arc<Stored>, gone: bool },
    /// It is gone, and this is the answer.
    Done(Status),
}

impl Deleted {
    /// Whether the object is no longer there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Object { gone: true, .. })
    }
}

impl State {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404 when it is not there, 409 when a precondition does not hold.
    pub fn delete(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let old = self.get(target)?;
        check_preconditions(target, &old, options)?;
        if target.row.graceful {
            return Ok(self.delete_gracefully(now, &old, options));
        }
        if std::ptr::eq(target.row, &raw const NAMESPACES) {
            if PROTECTED.contains(&target.name) {
                let why = "this namespace may not be deleted";
                return Err(Status::forbidden(target.row, target.name, why, Vec::new()));
            }
            return Ok(self.delete_namespace(now, &old, options));
        }
        let finalizers = finalizers(&old, options.propagation);
        if !finalizers.is_empty() {
            let mut marked = marked(&old, now, 0);
            marked.metadata.finalizers = finalizers;
            let object = if options.dry_run {
                Stored::new(marked)
            } else if marked.same(&old) {
                old
            } else {
                self.commit(marked)
            };
            return Ok(Deleted::Object {
                object,
                gone: false,
            });
        }
        if !options.dry_run {
            self.remove(Object::clone(&old));
        }
        if target.row.returns_deleted {
            return Ok(Deleted::Object {
                object: old,
                gone: true,
            });
        }
        Ok(Deleted::Done(Status::deleted(
            target.row,
            target.name,
            &old.metadata.uid,
        )))
    }

    fn delete_gracefully(
        &mut self,
        now: Timestamp,
        old: &Arc<Stored>,
        options: &DeleteOptions,
    ) -> Deleted {
        let asked = options
            .grace_period_seconds
            .map(|seconds| if seconds < 0 { 1 } else { seconds });
        let begun = old
            .metadata
            .deletion_timestamp
            .zip(old.metadata.deletion_grace_period_seconds);
        let mut marked = if let Some((deletion, before)) = begun {
            let Some(seconds) = asked.filter(|seconds| *seconds < before) else {
                return Deleted::Object {
                    object: Arc::clone(old),
                    gone: false,
                };
            };
            shortened(old, deletion, before, seconds)
        } else {
            marked(old, now, grace_seconds(old, asked))
        };
        marked.metadata.finalizers = finalizers(old, options.propagation);
        let gone = marked.metadata.deletion_grace_period_seconds == Some(0)
            && marked.metadata.finalizers.is_empty();
        if options.dry_run {
            return Deleted::Object {
                object: Stored::new(marked),
                gone,
            };
        }
        let object = self.commit(marked);
        if gone {
            return Deleted::Object {
                object: self.remove(Object::clone(&object)),
                gone,
            };
        }
        Deleted::Object { object, gone }
    }

    /// Deletes what the options select; answers with the objects as they were.
    ///
    /// # Errors
    /// As for a list.
    pub fn delete_collection(
        &mut self,
        now: Timestamp,
        row: &'static Row,
        selected: &ListOptions<'_>,
        options: &DeleteOptions,
    ) -> Result<List, Status> {
        let list = self.list(row, selected)?;
        for object in &list.items {
            let target = Target::new(row, &object.metadata.namespace, &object.metadata.name);
            match self.delete(now, target, options) {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(List {
            resource_version: self.version(),
            ..list
        })
    }

    /// Removes the events that were created more than `ttl` before `now` (`--event-ttl` of a real server, whose store
    /// lets them expire). Says how many there were.
    pub fn expire_events(&mut self, now: Timestamp, ttl: SignedDuration) -> usize {
        let is_old = |event: &&Arc<Stored>| {
            let created = event.metadata.creation_timestamp;
            created.is_some_and(|created| now.duration_since(created) > ttl)
        };
        let old: Vec<_> = self.iter(&EVENTS, None).filter(is_old).cloned().collect();
        for event in &old {
            self.remove(Object::clone(event));
        }
        old.len()
    }

    /// Removes an object for good, under a version of its own; and its namespace, when that waited for it.
    pub(super) fn remove(&mut self, mut last: Object) -> Arc<Stored> {
        last.metadata.resource_version = self.next_version();
        self.logs.remove(&last.metadata.uid);
        self.managers.remove(&last.metadata.uid);
        let (row, limit) = (last.row, self.history);
        let last = Stored::new(last);
        self.table_mut(row).remove(&last, limit);
        if row.namespaced {
            self.finish_namespace(&last.metadata.namespace);
        }
        last
    }

    fn delete_namespace(
        &mut self,
        now: Timestamp,
        old: &Arc<Stored>,
        options: &DeleteOptions,
    ) -> Deleted {
        if old.metadata.deletion_timestamp.is_some() || options.dry_run {
            return Deleted::Object {
                object: Arc::clone(old),
                gone: false,
            };
        }
        let mut marked = marked(old, now, 0);
        marked.metadata.deletion_grace_period_seconds = None;
        marked
            .section_mut("status")
            .insert("phase".to_owned(), json!("Terminating"));
        let object = self.commit(marked);
        if self.namespace_lifecycle {
            let namespace = Arc::clone(&object.metadata.name);
            for row in resource::ROWS.iter().copied().filter(|row| row.namespaced) {
                let selected = ListOptions {
                    namespace: Some(&namespace),
                    ..ListOptions::default()
                };
                // A namespace that ends deletes what it can now; what waits for a kubelet or a finalizer ends it later.
                let _ = self.delete_collection(now, row, &selected, &DeleteOptions::default());
            }
            self.finish_namespace(&namespace);
        }
        Deleted::Object {
            object,
            gone: false,
        }
    }

    /// Ends a terminating namespace once nothing is left in it.
    fn finish_namespace(&mut self, name: &str) {
        if !self.namespace_lifecycle {
            return;
        }
        let Some(namespace) = self.find(Target::cluster(&NAMESPACES, name)) else {
            return;
        };
        if namespace.metadata.deletion_timestamp.is_none()
            || !namespace.metadata.finalizers.is_empty()
        {
            return;
        }
        let last = Object::clone(namespace);
        if resource::ROWS
            .iter()
            .all(|row| !row.namespaced || self.table(row).is_empty_in(name))
        {
            self.remove(last);
        }
    }

    /// Ends a pod: its phase, and what else the closure sets, in one write. A shorthand for kubelets.
    ///
    /// # Errors
    /// 404 when the pod is gone.
    pub fn set_phase(
        &mut self,
        target: Target<'_>,
        phase: &str,
        more: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<Arc<Stored>, Status> {
        self.modify(target, Part::Status, |pod| {
            let status = pod.section_mut("status");
            status.insert("phase".to_owned(), json!(phase));
            more(status);
        })
    }
}

/// What a pod is given to end: nothing where no kubelet runs it any more, else what is asked or its own setting.
fn grace_seconds(pod: &Object, asked: Option<i64>) -> i64 {
    let ended = matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
    if ended || pod.text("/spec/nodeName").is_empty() {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds");
    asked.or_else(|| own.and_then(Value::as_i64)).unwrap_or(30)
}

/// The finalizers with which the object waits for its end.
fn finalizers(old: &Object, asked: Option<Propagation>) -> Arc<Vec<String>> {
    let before = &old.metadata.finalizers;
    if old.row.storage == EVENTS.storage {
        // Nothing collects garbage for events.
        return Arc::clone(before);
    }
    let has = |name: &str| before.iter().any(|finalizer| finalizer == name);
    let propagation = match asked {
        Some(propagation) => propagation,
        None if has(ORPHAN) => Propagation::Orphan,
        None if has(FOREGROUND) => Propagation::Foreground,
        None if old.row.orphans_dependents => Propagation::Orphan,
        None => Propagation::Background,
    };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let others = before
        .iter()
        .filter(|name| *name != ORPHAN && *name != FOREGROUND);
    let finalizers: Vec<String> = others.cloned().chain(wanted.map(str::to_owned)).collect();
    if finalizers == **before {
        return Arc::clone(before);
    }
    Arc::new(finalizers)
}

/// The object with the mark of its delete; one that has it keeps its time.
fn marked(old: &Object, now: Timestamp, grace_seconds: i64) -> Object {
    let mut object = old.clone();
    let meta = &mut object.metadata;
    if meta.deletion_timestamp.is_none() {
        let now = whole_seconds(now);
        meta.deletion_timestamp = Some(
            now.checked_add(SignedDuration::from_secs(grace_seconds))
                .unwrap_or(Timestamp::MAX),
        );
        if meta.generation > 0 {
            meta.generation += 1;
        }
    }
    meta.deletion_grace_period_seconds = Some(grace_seconds);
    object
}

fn shortened(old: &Object, deletion: Timestamp, before: i64, seconds: i64) -> Object {
    let mut object = old.clone();
    object.metadata.deletion_timestamp = Some(
        deletion
            .checked_sub(SignedDuration::from_secs(before - seconds))
            .unwrap_or(deletion),
    );
    object.metadata.deletion_grace_period_seconds = Some(seconds);
    object
}

fn check_preconditions(
    target: Target<'_>,
    old: &Object,
    options: &DeleteOptions,
) -> Result<(), Status> {
    if let Some(uid) = &options.uid
        && **uid != *old.metadata.uid
    {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.metadata.uid
        );
        return Err(Status::precondition(target.row, target.name, &why));
    }
    if let Some(version) = options.resource_version
        && version != old.metadata.resource_version
    {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.metadata.resource_version
        );
        return Err(Status::precondition(target.row, target.name, &why));
    }
    Ok(())
}
