//! Objects go with their owners, as `pkg/controller/garbagecollector` does it.
//!
//! In the background an object goes once none of its owners is there. In the foreground an owner that is being deleted
//! waits for the dependents that block it; an orphaning one takes its name out of theirs. Which of the three it is
//! stands in the owner's finalizers, set by the delete. An owner of a kind that is not served counts as there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::Rule;
use crate::state::{
    DeleteOptions, FOREGROUND, ORPHAN, Object, Part, Propagation, Row, Selector, State, Stored,
    Target, WatchCursor, WatchEvent, WatchFrom, resource,
};

/// Events taken from a watch at once.
const EVENTS_AT_ONCE: usize = 256;

/// Where an object is.
#[derive(Debug, Clone)]
struct Place {
    row: &'static Row,
    namespace: Arc<str>,
    name: Arc<str>,
    /// The uids of its owners.
    owners: Vec<String>,
}

impl Place {
    fn of(object: &Stored) -> Self {
        let meta = &object.metadata;
        let owners = meta.owner_references.iter();
        Self {
            row: object.row,
            namespace: Arc::clone(&meta.namespace),
            name: Arc::clone(&meta.name),
            owners: owners.map(|owner| text(owner, "uid").to_owned()).collect(),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::new(self.row, &self.namespace, &self.name)
    }
}

/// The garbage collector.
#[derive(Debug, Default)]
pub struct GarbageCollection {
    cursors: Vec<WatchCursor>,
    /// Objects that have owners, by their uids.
    dependents: BTreeMap<Arc<str>, Place>,
    /// The uids of the objects that name an owner, by the owner's uid.
    owned: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Objects to look at.
    queue: VecDeque<Arc<str>>,
    /// Objects that are being deleted and wait for this collector.
    finalizing: BTreeMap<Arc<str>, Place>,
}

impl Rule for GarbageCollection {
    fn sync(&mut self, state: &mut State, now: Timestamp) -> Option<Timestamp> {
        // What it deletes shows in the watches: it is done when they tell nothing more.
        while self.observe(state) {
            self.work(state, now);
        }
        None
    }

    fn follows_changes(&self) -> bool {
        true
    }
}

impl GarbageCollection {
    /// Takes what the watches tell; says whether that was anything.
    fn observe(&mut self, state: &State) -> bool {
        if self.cursors.is_empty() {
            *self = Self::default();
            // Events have no owners that matter, and expire.
            let rows = resource::ROWS.iter().copied();
            let rows = rows.filter(|row| row.storage != resource::EVENTS.storage);
            let watch = |row| state.watch(row, None, Selector::default(), WatchFrom::Now);
            self.cursors = rows.map(watch).collect();
        }
        let mut told = false;
        let mut cursors = std::mem::take(&mut self.cursors);
        for cursor in &mut cursors {
            loop {
                let events = state.poll(cursor, EVENTS_AT_ONCE);
                if events.is_empty() {
                    break;
                }
                told = true;
                for event in events {
                    match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            self.seen(&object);
                        }
                        WatchEvent::Deleted(object) => self.gone(&object.metadata.uid),
                        WatchEvent::Bookmark { .. } => {}
                        // It has fallen behind: everything is looked at again.
                        WatchEvent::Error(_) => return self.observe(state),
                    }
                }
            }
        }
        self.cursors = cursors;
        told
    }

    fn seen(&mut self, object: &Stored) {
        let meta = &object.metadata;
        if meta.owner_references.is_empty() {
            self.forget_owners(&meta.uid);
        } else {
            let place = Place::of(object);
            let known = self.dependents.get(&meta.uid);
            if known.is_none_or(|known| known.owners != place.owners) {
                self.forget_owners(&meta.uid);
                for owner in &place.owners {
                    let owned = self.owned.entry(owner.clone()).or_default();
                    owned.insert(Arc::clone(&meta.uid));
                }
                self.dependents.insert(Arc::clone(&meta.uid), place);
                self.queue.push_back(Arc::clone(&meta.uid));
            }
        }
        if meta.deletion_timestamp.is_some() && waits_for_collector(object) {
            self.finalizing
                .insert(Arc::clone(&meta.uid), Place::of(object));
            self.queue_dependents(&meta.uid);
        }
    }

    fn gone(&mut self, uid: &Arc<str>) {
        self.queue_dependents(uid);
        self.forget_owners(uid);
        self.finalizing.remove(uid);
    }

    fn forget_owners(&mut self, uid: &Arc<str>) {
        let Some(place) = self.dependents.remove(uid) else {
            return;
        };
        for owner in &place.owners {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(uid);
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
    }

    fn queue_dependents(&mut self, uid: &str) {
        let owned = self.owned.get(uid).into_iter().flatten();
        self.queue.extend(owned.cloned());
    }

    fn work(&mut self, state: &mut State, now: Timestamp) {
        while let Some(uid) = self.queue.pop_front() {
            if let Some(place) = self.dependents.get(&uid) {
                let has_dependents = self.owned.contains_key(&*uid);
                look_at(state, now, place, &uid, has_dependents);
            }
        }
        for (uid, place) in self.finalizing.clone() {
            let owned = self.owned.get(&*uid).into_iter().flatten();
            let dependents: Vec<&Place> = owned
                .filter_map(|dependent| self.dependents.get(dependent))
                .collect();
            if finalize(state, &place, &uid, &dependents) {
                self.finalizing.remove(&uid);
            }
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn waits_for_collector(object: &Object) -> bool {
    let finalizers = &object.metadata.finalizers;
    finalizers
        .iter()
        .any(|one| one == ORPHAN || one == FOREGROUND)
}

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    There,
    Gone,
    /// It is being deleted in the foreground and waits for this dependent.
    Waiting,
}

fn owner(state: &State, namespace: &str, reference: &Value) -> Owner {
    let (group, version) = match text(reference, "apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text(reference, "apiVersion")),
    };
    let kind = text(reference, "kind");
    let row = resource::ROWS
        .iter()
        .find(|row| row.kind == kind && row.group == group && row.version == version);
    let Some(row) = row else {
        return Owner::There;
    };
    let namespace = if row.namespaced { namespace } else { "" };
    let target = Target::new(row, namespace, text(reference, "name"));
    let found = state
        .find(target)
        .filter(|owner| *owner.metadata.uid == *text(reference, "uid"));
    match found {
        None => Owner::Gone,
        Some(owner)
            if owner.metadata.deletion_timestamp.is_some()
                && owner
                    .metadata
                    .finalizers
                    .iter()
                    .any(|one| one == FOREGROUND)
                && reference["blockOwnerDeletion"] == true =>
        {
            Owner::Waiting
        }
        Some(_) => Owner::There,
    }
}

/// Deletes a dependent whose owners are gone or wait for it; where another is there it loses those only.
fn look_at(state: &mut State, now: Timestamp, place: &Place, uid: &str, has_dependents: bool) {
    let found = state.find(place.target()).cloned();
    let Some(object) = found.filter(|object| *object.metadata.uid == *uid) else {
        return;
    };
    if object.metadata.deletion_timestamp.is_some() {
        return;
    }
    let references = &object.metadata.owner_references;
    let owners: Vec<Owner> = references
        .iter()
        .map(|reference| owner(state, &place.namespace, reference))
        .collect();
    if owners.iter().all(|owner| *owner == Owner::There) {
        return;
    }
    if owners.contains(&Owner::There) {
        let kept = references.iter().zip(&owners);
        let kept = kept.filter(|(_, owner)| **owner == Owner::There);
        let kept: Vec<Value> = kept.map(|(reference, _)| reference.clone()).collect();
        // An object that has gone meanwhile is as good.
        let _ = state.modify(place.target(), Part::Whole, |object| {
            object.metadata.owner_references = Arc::new(kept);
        });
        return;
    }
    let propagation = if owners.contains(&Owner::Waiting) && has_dependents {
        Some(Propagation::Foreground)
    } else if waits_for_collector(&object) {
        // Its own finalizers say how.
        None
    } else {
        Some(Propagation::Background)
    };
    let options = DeleteOptions {
        uid: Some(uid.to_owned()),
        propagation,
        ..DeleteOptions::default()
    };
    let _ = state.delete(now, place.target(), &options);
}

/// Lets an owner go that waits for nothing any more; says whether it does.
fn finalize(state: &mut State, place: &Place, uid: &str, dependents: &[&Place]) -> bool {
    let found = state.find(place.target()).cloned();
    let Some(object) = found.filter(|object| *object.metadata.uid == *uid) else {
        return true;
    };
    let finalizers = &object.metadata.finalizers;
    if finalizers.iter().any(|one| one == ORPHAN) {
        for dependent in dependents {
            let _ = state.modify(dependent.target(), Part::Whole, |object| {
                let references = Arc::make_mut(&mut object.metadata.owner_references);
                references.retain(|reference| text(reference, "uid") != uid);
            });
        }
    } else if dependents.iter().any(|one| blocks(state, one, uid)) {
        return false;
    }
    let _ = state.modify(place.target(), Part::Whole, |object| {
        let finalizers = Arc::make_mut(&mut object.metadata.finalizers);
        finalizers.retain(|one| one != ORPHAN && one != FOREGROUND);
    });
    true
}

/// Whether the dependent is still there and its owner may not go before it.
fn blocks(state: &State, dependent: &Place, owner: &str) -> bool {
    let found = state.find(dependent.target());
    found.is_some_and(|object| {
        let mut references = object.metadata.owner_references.iter();
        references.any(|one| text(one, "uid") == owner && one["blockOwnerDeletion"] == true)
    })
}
