//! Who may call back: the pairs of node and execution whose pod was created, in the kept executions.
//!
//! Written by the controller's loop before a create is sent, read by every request: a short lock, never held over I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use super::ordered_watch as watch;
use crate::core::ids::ExecutionId;
use crate::core::names;
use crate::core::report_name;

/// The table of pairs. Memory: a name per node and kept execution.
#[derive(Debug)]
pub struct Admission {
    dev_mode: bool,
    is_complete: watch::Sender<bool>,
    executions: RwLock<BTreeMap<ExecutionId, Admitted>>,
}

#[derive(Debug)]
struct Admitted {
    /// The frozen list.
    nodes: BTreeSet<Box<str>>,
    created: BTreeSet<Box<str>>,
}

impl Admission {
    /// An empty table; with `dev_mode` every well-formed pair is admitted.
    #[must_use]
    pub fn new(dev_mode: bool) -> Self {
        Self {
            dev_mode,
            is_complete: watch::Sender::new(false),
            executions: RwLock::default(),
        }
    }

    /// The execution in progress, if there is one, is known.
    pub fn complete(&self) {
        self.is_complete.set(true);
    }

    /// Returns once the execution in progress is known: before that a pair that is not here may be one all the same.
    pub async fn completed(&self) {
        // The sender is here, so the wait ends well.
        let _ = self.is_complete.subscribe().wait_for(|is| *is).await;
    }

    /// An execution begins with this frozen list.
    pub fn begin<'a>(&self, id: &ExecutionId, nodes: impl IntoIterator<Item = &'a str>) {
        let admitted = Admitted {
            nodes: nodes.into_iter().map(Box::from).collect(),
            created: BTreeSet::new(),
        };
        self.write().insert(id.clone(), admitted);
    }

    /// The pod of the pair is about to be created.
    pub fn admit(&self, id: &ExecutionId, node: &str) {
        if let Some(admitted) = self.write().get_mut(id) {
            admitted.created.insert(node.into());
        }
    }

    /// The execution left the history.
    pub fn forget(&self, id: &ExecutionId) {
        self.write().remove(id);
    }

    /// Whether every well-formed pair is admitted.
    #[must_use]
    pub fn admits_every_pair(&self) -> bool {
        self.dev_mode
    }

    /// The execution of an admitted pair; none where it is not admitted.
    #[must_use]
    pub fn admits(&self, node: &str, execution: &str) -> Option<ExecutionId> {
        let id = ExecutionId::parse(execution)?;
        if self.dev_mode {
            return names::is_dns_subdomain(node).then_some(id);
        }
        let table = self
            .executions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        table.get(&id)?.created.contains(node).then_some(id)
    }

    /// The other node whose report `stored_name` would be, if it is one.
    #[must_use]
    pub fn owner_of_name(&self, id: &ExecutionId, node: &str, stored_name: &str) -> Option<String> {
        let table = self
            .executions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let nodes = &table.get(id)?.nodes;
        report_name::other_owner(stored_name, node, |other| nodes.contains(other))
            .map(str::to_owned)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ExecutionId, Admitted>> {
        self.executions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
