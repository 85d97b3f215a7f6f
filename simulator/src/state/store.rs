//! Where objects are kept: one table per storage, with the bounded history that watches and old lists read.
//!
//! Invariants: versions in a history only rise; a version at or above `floor` can be rebuilt from what stands and the
//! history, anything older is gone. Deliberately not here: rules (`admission`), verbs (`State`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::stored::Stored;

/// So many changes are news, which watchers are about to be told.
const NEWS: usize = 1_024;

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Created,
    Updated,
    Deleted,
}

/// One write in the history.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: ChangeKind,
    /// What stands after the write; for a delete the last state under the version of the delete.
    pub(super) object: Arc<Stored>,
    pub(super) previous: Option<Arc<Stored>>,
}

type Names = BTreeMap<Arc<str>, Arc<Stored>>;

/// The objects of one storage and their history.
#[derive(Debug, Default)]
pub(super) struct Table {
    objects: BTreeMap<Arc<str>, Names>,
    history: VecDeque<Change>,
    /// How many changes have left the history: the sequence number of its first one.
    dropped: u64,
    /// The version of the newest change that has left the history.
    floor: u64,
}

impl Table {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.objects.get(namespace)?.get(name)
    }

    /// The objects in order of namespace and name; all namespaces where none is given; after `start` where one is.
    pub(super) fn iter<'a>(
        &'a self,
        namespace: Option<&'a str>,
        start: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        let first = match (namespace, start) {
            (Some(only), _) => Bound::Included(only),
            (None, Some((from, _))) => Bound::Included(from),
            (None, None) => Bound::Unbounded,
        };
        let spaces = self.objects.range::<str, _>((first, Bound::Unbounded));
        let spaces =
            spaces.take_while(move |(space, _)| namespace.is_none_or(|only| &***space == only));
        spaces.flat_map(move |(space, names)| {
            let after = match start {
                Some((from, name)) if from == &**space => Bound::Excluded(name),
                _ => Bound::Unbounded,
            };
            names
                .range::<str, _>((after, Bound::Unbounded))
                .map(|(_, stored)| stored)
        })
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.objects.values().map(BTreeMap::len).sum()
    }

    /// Whether the namespace has none.
    pub(super) fn is_empty_in(&self, namespace: &str) -> bool {
        self.objects.get(namespace).is_none_or(BTreeMap::is_empty)
    }

    /// Stores a new version, which is higher than every one before.
    pub(super) fn put(&mut self, object: &Arc<Stored>, limit: usize) {
        let meta = &object.metadata;
        let names = match self.objects.get_mut(&*meta.namespace) {
            Some(names) => names,
            None => self.objects.entry(Arc::clone(&meta.namespace)).or_default(),
        };
        let previous = names.insert(Arc::clone(&meta.name), Arc::clone(object));
        let kind = if previous.is_some() {
            ChangeKind::Updated
        } else {
            ChangeKind::Created
        };
        self.record(
            Change {
                version: meta.resource_version,
                kind,
                object: Arc::clone(object),
                previous,
            },
            limit,
        );
    }

    /// Removes an object; `last` is what watchers see, under the version of the delete.
    pub(super) fn remove(&mut self, last: &Arc<Stored>, limit: usize) {
        let meta = &last.metadata;
        let Some(names) = self.objects.get_mut(&*meta.namespace) else {
            return;
        };
        let previous = names.remove(&*meta.name);
        if names.is_empty() {
            self.objects.remove(&*meta.namespace);
        }
        self.record(
            Change {
                version: meta.resource_version,
                kind: ChangeKind::Deleted,
                object: Arc::clone(last),
                previous,
            },
            limit,
        );
    }

    fn record(&mut self, change: Change, limit: usize) {
        self.history.push_back(change);
        if let Some(old) = self.history.len().checked_sub(NEWS + 1) {
            self.history[old].object.forget_encoded();
        }
        while self.history.len() > limit {
            self.drop_oldest();
        }
    }

    /// Drops every change up to that version from the history.
    pub(super) fn compact(&mut self, version: u64) {
        while (self.history.front()).is_some_and(|change| change.version <= version) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(old) = self.history.pop_front() {
            self.floor = old.version;
            self.dropped += 1;
        }
    }

    /// The oldest version from which a watch misses nothing.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// The version of the newest change.
    pub(super) fn newest(&self) -> u64 {
        self.history
            .back()
            .map_or(self.floor, |change| change.version)
    }

    /// What was written last, if that is still known.
    pub(super) fn last_written(&self) -> Option<&Arc<Stored>> {
        self.history.back().map(|change| &change.object)
    }

    /// The sequence number of the first change after `version`.
    pub(super) fn sequence_after(&self, version: u64) -> u64 {
        let index = self
            .history
            .partition_point(|change| change.version <= version);
        self.dropped + index as u64
    }

    /// The sequence number that the next change will have.
    pub(super) fn end(&self) -> u64 {
        self.dropped + self.history.len() as u64
    }

    /// The change of that sequence number; `Err` when it has left the history, `Ok(None)` when it is yet to come.
    pub(super) fn change(&self, sequence: u64) -> Result<Option<&Change>, ()> {
        let index = sequence.checked_sub(self.dropped).ok_or(())?;
        Ok(usize::try_from(index)
            .ok()
            .and_then(|i| self.history.get(i)))
    }

    /// What stood at `version` where it differs from what stands now: the state then, or none, by namespace and name.
    pub(super) fn undo_to(&self, version: u64) -> BTreeMap<(&str, &str), Option<&Arc<Stored>>> {
        let mut then = BTreeMap::new();
        for change in self
            .history
            .iter()
            .rev()
            .take_while(|change| change.version > version)
        {
            let meta = &change.object.metadata;
            then.insert((&*meta.namespace, &*meta.name), change.previous.as_ref());
        }
        then
    }
}
