//! Watches: a cursor into the history of one storage, pulled by whoever serves it.
//!
//! A cursor holds no events, so a slow watcher costs nothing; one that the history has left behind is told so by an
//! ERROR event of code 410, and is over. Deliberately not here: waiting, bookmark intervals, JSON lines.

use std::sync::Arc;
use std::vec::IntoIter;

use super::resource::Row;
use super::selector::Selector;
use super::status::Status;
use super::store::{Change, ChangeKind, Table};
use super::stored::Stored;

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Added(Arc<Stored>),
    Modified(Arc<Stored>),
    /// Also for an object that left the selector: then as it was before, under the version at which it left.
    Deleted(Arc<Stored>),
    /// Everything up to this version has been told.
    Bookmark {
        version: u64,
        /// Whether this ends the initial events of a streaming list.
        initial_events_end: bool,
    },
    /// The watch is over.
    Error(Status),
}

impl WatchEvent {
    /// `ADDED`, `MODIFIED`, …
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Added(_) => "ADDED",
            Self::Modified(_) => "MODIFIED",
            Self::Deleted(_) => "DELETED",
            Self::Bookmark { .. } => "BOOKMARK",
            Self::Error(_) => "ERROR",
        }
    }

    /// The object it is about, if any.
    #[must_use]
    pub fn object(&self) -> Option<&Arc<Stored>> {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => Some(object),
            Self::Bookmark { .. } | Self::Error(_) => None,
        }
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what exists as synthetic ADDED events (`resourceVersion` unset or 0).
    Now,
    /// As [`WatchFrom::Now`], then a bookmark that says so (`sendInitialEvents=true`).
    InitialEvents,
    /// With the first change after this version, which may lie in the future.
    Version(u64),
}

/// A watch in progress.
#[derive(Debug)]
pub struct WatchCursor {
    row: &'static Row,
    namespace: Option<Arc<str>>,
    selector: Selector,
    initial: IntoIter<Arc<Stored>>,
    /// The version to bookmark once the initial events are out.
    initial_end: Option<u64>,
    /// The sequence number of the next change to look at.
    next: u64,
    /// Changes up to this version are not told: where the watch began.
    after: u64,
    /// The newest version looked at.
    seen: u64,
    over: bool,
}

impl WatchCursor {
    pub(super) fn from_now(
        row: &'static Row,
        namespace: Option<&str>,
        selector: Selector,
        table: &Table,
        version: u64,
        bookmark: bool,
    ) -> Self {
        let initial: Vec<_> = table
            .iter(namespace, None)
            .filter(|object| selector.matches(object))
            .map(Arc::clone)
            .collect();
        Self {
            row,
            namespace: namespace.map(Arc::from),
            selector,
            initial: initial.into_iter(),
            initial_end: bookmark.then_some(version),
            next: table.end(),
            after: version,
            seen: version,
            over: false,
        }
    }

    pub(super) fn from_version(
        row: &'static Row,
        namespace: Option<&str>,
        selector: Selector,
        table: &Table,
        version: u64,
    ) -> Self {
        Self {
            row,
            namespace: namespace.map(Arc::from),
            selector,
            initial: Vec::new().into_iter(),
            initial_end: None,
            // Below the floor this is the sequence number of a change that has left: the first poll says so.
            next: if version < table.floor() {
                0
            } else {
                table.sequence_after(version)
            },
            after: version,
            seen: version,
            over: false,
        }
    }

    /// The resource that is watched.
    #[must_use]
    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// The newest version up to which everything has been told: what a bookmark may say.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.seen
    }

    /// Whether an error has ended the watch.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next events, at most `max`; `current` is the server's version, up to which nothing can be missing any more.
    pub(super) fn poll(&mut self, table: &Table, current: u64, max: usize) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        if self.over {
            return events;
        }
        events.extend(self.initial.by_ref().take(max).map(WatchEvent::Added));
        if self.initial.len() > 0 {
            return events;
        }
        if let Some(version) = self.initial_end.take() {
            events.push(WatchEvent::Bookmark {
                version,
                initial_events_end: true,
            });
        }
        while events.len() < max {
            match table.change(self.next) {
                Err(()) => {
                    self.over = true;
                    events.push(WatchEvent::Error(Status::too_old(self.seen, table.floor())));
                    return events;
                }
                Ok(None) => {
                    self.seen = self.seen.max(current);
                    return events;
                }
                Ok(Some(change)) => {
                    self.next += 1;
                    if change.version > self.after {
                        self.seen = self.seen.max(change.version);
                        events.extend(self.select(change));
                    }
                }
            }
        }
        events
    }

    fn select(&self, change: &Change) -> Option<WatchEvent> {
        if self
            .namespace
            .as_ref()
            .is_some_and(|only| *only != change.object.metadata.namespace)
        {
            return None;
        }
        let before = change
            .previous
            .as_ref()
            .filter(|old| self.selector.matches(old));
        if change.kind == ChangeKind::Deleted {
            return before.map(|_| WatchEvent::Deleted(Arc::clone(&change.object)));
        }
        match (before, self.selector.matches(&change.object)) {
            (None, true) => Some(WatchEvent::Added(Arc::clone(&change.object))),
            (Some(_), true) => Some(WatchEvent::Modified(Arc::clone(&change.object))),
            (Some(old), false) => {
                let mut last = super::object::Object::clone(old);
                last.metadata.resource_version = change.version;
                Some(WatchEvent::Deleted(Stored::new(last)))
            }
            (None, false) => None,
        }
    }
}
