//! What others may know of an execution: nothing here changes anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Execution;
use super::announcing::Failures;
use crate::core::ids::ExecutionId;
use crate::core::limits::Limits;
use crate::core::node_run::{Failure, NodeRun};
use crate::core::pod_pool::PodPool;
use crate::core::state::{ExecutionState, NodeState, Reason};
use crate::core::summary::{ExecutionSummary, NodeSummary, SCHEMA_VERSION};
use crate::core::time::Monotonic;

impl Execution {
    /// The execution's id.
    #[must_use]
    pub fn id(&self) -> &ExecutionId {
        &self.id
    }

    /// The nodes of the list, in its order.
    #[must_use]
    pub fn nodes(&self) -> &[NodeRun] {
        &self.nodes
    }

    /// The node of that name, if it is in the list.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeRun> {
        self.index_by_node
            .get(name)
            .map(|&index| &self.nodes[index])
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PodPool {
        &self.pool
    }

    /// What its pods and nodes are allowed.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Nodes of the list that have ended.
    #[must_use]
    pub fn ended_nodes(&self) -> usize {
        self.ended_nodes
    }

    /// Nodes in each state, left-out ones included; states without a node are left out.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<NodeState, u32> {
        &self.counts
    }

    /// What failed so far, attempts that were repeated included, and why.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Whether no further pod is created, and the execution has failed or was cancelled.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let is_it = |(reason, _): &Failure| *reason == Reason::Cancelled;
        self.stopped.as_ref().is_some_and(is_it)
    }

    pub(super) fn count(&self, state: NodeState) -> usize {
        self.counts.get(&state).map_or(0, |count| *count as usize)
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ExecutionState {
        if self.ended.is_none() {
            return ExecutionState::Running;
        }
        match self.count(NodeState::Succeeded) {
            _ if self.nodes.is_empty() => ExecutionState::Empty,
            _ if self.is_cancelled() => ExecutionState::Cancelled,
            _ if self.is_stopped() || self.failures_exceed_the_limit() => ExecutionState::Failed,
            0 => ExecutionState::Failed,
            all if all == self.nodes.len() => ExecutionState::Succeeded,
            _ => ExecutionState::Degraded,
        }
    }

    /// From begin to end; none before the end.
    #[must_use]
    pub fn makespan(&self) -> Option<Duration> {
        Some(self.ended?.monotonic.since(self.started.monotonic))
    }

    /// The time since its begin.
    #[must_use]
    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.started.monotonic)
    }

    /// The summary of this moment.
    #[must_use]
    pub fn summary(&self) -> ExecutionSummary {
        let excluded = self
            .excluded
            .iter()
            .map(|(node, reason, message)| NodeSummary {
                node: node.clone(),
                state: NodeState::Excluded,
                reason: Some(*reason),
                message: message.clone(),
                attempts: 0,
                start_time: None,
                end_time: None,
                reports: Vec::new(),
                samples: 0,
            });
        ExecutionSummary {
            schema_version: SCHEMA_VERSION,
            id: self.id.to_string(),
            trigger: self.trigger,
            state: self.state(),
            scheduled_time: self.scheduled_time,
            start_time: self.started.wall,
            end_time: self.ended.map(|now| now.wall),
            makespan_ms: self
                .makespan()
                .map(|makespan| u64::try_from(makespan.as_millis()).unwrap_or(u64::MAX)),
            counts: self.counts.clone(),
            nodes: self
                .nodes
                .iter()
                .map(NodeRun::summary)
                .chain(excluded)
                .collect(),
        }
    }
}
