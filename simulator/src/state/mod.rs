//! The API server's state, pure: objects, their versions and history, and the verbs of the API upon them.
//!
//! [`State`] is what a Kubernetes API server is without HTTP: the same functions serve the Router and callers in
//! process. Time comes in as an argument and identities from a seed, so that the same calls give the same state.
//! Deliberately not here: waiting, sockets, clocks; and what a cluster does by itself beyond the end of a namespace
//! (`controllers`).
//!
//! ```
//! use simulator::state::{Options, State, Target, WriteOptions, resource};
//! let mut state = State::new(&Options::default());
//! let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
//! let created = state.create(jiff::Timestamp::UNIX_EPOCH, Target::new(&resource::PODS, "default", ""), pod, WriteOptions::default());
//! assert_eq!(created.unwrap().text("/status/phase"), "Pending");
//! ```

mod access;
mod admission;
mod columns;
mod delete;
mod event_form;
mod eviction;
mod identity;
mod list;
mod names;
mod object;
mod patch;
mod pod_defaults;
mod pod_log;
mod pod_rules;
pub mod resource;
mod section;
mod selector;
mod service;
mod status;
mod store;
mod stored;
mod unknown_field;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

pub use columns::Column;
pub use delete::{DeleteOptions, Deleted, FOREGROUND, ORPHAN, Propagation};
pub use list::{AtVersion, List, ListOptions};
pub use object::{Metadata, Object, StringMap};
pub use patch::Patch;
pub use pod_log::PodLog;
pub use resource::{NameRule, Row, Subresource};
pub use selector::Selector;
pub use status::{Cause, Details, Status};
pub use stored::Stored;
pub use watch::{WatchCursor, WatchEvent, WatchFrom};
pub use write::{Draft, FieldValidation, Part, WriteOptions, Written};

use admission::Allocator;
use identity::Identities;
use store::Table;

/// How a state begins and what it does by itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of uids and generated names.
    pub seed: u64,
    /// When the first namespaces were created.
    pub now: Timestamp,
    /// Changes kept for watches and old lists, per resource. 20,000 is some minutes of a busy cluster, as the watch
    /// cache of a real server keeps at least 75 s.
    pub history: usize,
    /// Whether pods without a service account get `default` (the admission plugin `ServiceAccount`).
    pub default_service_account: bool,
    /// Whether a deleted namespace takes its content with it (the namespace controller).
    pub namespace_lifecycle: bool,
    /// Whether objects are kept in little memory, for a little time at each write. A server that holds much for long
    /// wants that; a simulation that looks into its objects all the time does not.
    pub compact: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            now: Timestamp::UNIX_EPOCH,
            history: 20_000,
            default_service_account: false,
            namespace_lifecycle: true,
            compact: false,
        }
    }
}

/// Which object or collection a call is about.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub row: &'static Row,
    /// Empty for what belongs to the cluster.
    pub namespace: &'a str,
    /// Empty for a collection, and for a create that leaves the name to the object.
    pub name: &'a str,
}

impl<'a> Target<'a> {
    /// An object of `row`.
    #[must_use]
    pub fn new(row: &'static Row, namespace: &'a str, name: &'a str) -> Self {
        Self {
            row,
            namespace,
            name,
        }
    }

    /// An object of the cluster, such as a node.
    #[must_use]
    pub fn cluster(row: &'static Row, name: &'a str) -> Self {
        Self {
            row,
            namespace: "",
            name,
        }
    }
}

/// The state of a cluster's API.
#[derive(Debug)]
pub struct State {
    tables: BTreeMap<&'static str, Table>,
    version: u64,
    /// Counts what is added to pod logs.
    log_version: u64,
    identities: Identities,
    allocator: Allocator,
    logs: pod_log::Logs,
    managers: write::FieldManagers,
    history: usize,
    namespace_lifecycle: bool,
    compact: bool,
}

impl State {
    /// A cluster with the namespaces that a real one begins with.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let tables = resource::ROWS
            .iter()
            .map(|row| (row.storage, Table::default()))
            .collect();
        let mut state = Self {
            tables,
            version: 0,
            log_version: 0,
            identities: Identities::new(options.seed),
            allocator: Allocator {
                service_addresses: 0,
                default_service_account: options.default_service_account,
            },
            logs: pod_log::Logs::default(),
            managers: write::FieldManagers::default(),
            history: options.history.max(1),
            namespace_lifecycle: options.namespace_lifecycle,
            compact: options.compact,
        };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({"metadata": {"name": name}});
            let created = state.create(
                options.now,
                Target::cluster(&resource::NAMESPACES, ""),
                namespace,
                WriteOptions::default(),
            );
            debug_assert!(created.is_ok(), "a namespace of the start is valid");
        }
        state
    }

    /// The newest version: that of the last write.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Rises with whatever is added to a pod's log.
    #[must_use]
    pub fn log_version(&self) -> u64 {
        self.log_version
    }

    /// The version of the newest change of each storage, always in the same order.
    pub fn newest(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let tables = self.tables.iter();
        tables.map(|(storage, table)| (*storage, table.newest()))
    }

    fn table(&self, row: &'static Row) -> &Table {
        &self.tables[row.storage]
    }

    fn table_mut(&mut self, row: &'static Row) -> &mut Table {
        self.tables.entry(row.storage).or_default()
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// One object.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub fn get(&self, target: Target<'_>) -> Result<Arc<Stored>, Status> {
        self.find(target)
            .cloned()
            .ok_or_else(|| Status::not_found(target.row, target.name))
    }

    /// One object, if it is there.
    #[must_use]
    pub fn find(&self, target: Target<'_>) -> Option<&Arc<Stored>> {
        self.table(target.row).get(target.namespace, target.name)
    }

    /// Forgets every change up to that version: whoever watches from before it, or lists what stood then, is told that
    /// it is gone.
    pub fn compact(&mut self, version: u64) {
        for table in self.tables.values_mut() {
            table.compact(version);
        }
    }

    /// How many objects of a resource there are.
    #[must_use]
    pub fn count(&self, row: &'static Row) -> usize {
        self.table(row).len()
    }

    /// The objects of a resource in order of namespace and name, of one namespace where it is given.
    pub fn iter<'a>(
        &'a self,
        row: &'static Row,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.table(row).iter(namespace, None)
    }

    /// Begins a watch. One from a version that is no longer kept gets an ERROR event at its first poll.
    #[must_use]
    pub fn watch(
        &self,
        row: &'static Row,
        namespace: Option<&str>,
        selector: Selector,
        from: WatchFrom,
    ) -> WatchCursor {
        let table = self.table(row);
        match from {
            WatchFrom::Now => {
                WatchCursor::from_now(row, namespace, selector, table, self.version, false)
            }
            WatchFrom::InitialEvents => {
                WatchCursor::from_now(row, namespace, selector, table, self.version, true)
            }
            WatchFrom::Version(version) => {
                WatchCursor::from_version(row, namespace, selector, table, version)
            }
        }
    }

    /// The next events of a watch, at most `max`; none when nothing has happened.
    #[must_use]
    pub fn poll(&self, cursor: &mut WatchCursor, max: usize) -> Vec<WatchEvent> {
        cursor.poll(self.table(cursor.row()), self.version, max)
    }
}

#[cfg(test)]
mod tests;
