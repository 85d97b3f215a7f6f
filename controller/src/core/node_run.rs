//! One node of an execution: what people see of it, and where its pod stands.

use std::time::Duration;

use super::state::{NodeState, Reason};
use super::summary::NodeSummary;
use super::time::Now;

/// One eligible node and the names its pod may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNode {
    /// The node's name.
    pub node: String,
    /// The name of its pod.
    pub pod_name: String,
    /// The name of its pod where somebody else's pod holds the first.
    pub alternative_pod_name: String,
}

/// One node of the list.
#[derive(Debug, Clone)]
pub struct NodeRun {
    pub(super) names: PlannedNode,
    pub(super) state: NodeState,
    pub(super) reason: Option<Reason>,
    pub(super) message: String,
    pub(super) progress: Progress,
    /// How often `progress` has changed.
    pub(super) step: u32,
    pub(super) pod_name: String,
    pub(super) attempts: u32,
    /// Whether the answer to the newest create may not be the whole story: an earlier one was not answered, or the watch
    /// began again meanwhile.
    pub(super) is_doubtful: bool,
    pub(super) started: Option<Now>,
    pub(super) ended: Option<Now>,
    pub(super) reports: Vec<String>,
    pub(super) samples: u32,
    pub(super) has_result: bool,
}

/// Where the pod of a running node stands, beyond what [`NodeState`] tells people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// No pod asked for, or ended.
    Idle,
    /// A create is under way.
    Creating { tries: u32 },
    /// A create failed and is repeated. Its outcome may be unknown: the slot stays taken.
    Retrying { tries: u32 },
    /// A create was refused, but an earlier one was not answered: whether the pod exists is being read.
    Settling { tries: u32, refusal: String },
    /// The pod exists.
    Exists { uid: String },
    /// The pod succeeded without a result that we know of: the volume is looked at before it is believed.
    Looking,
}

impl NodeRun {
    pub(super) fn new(names: PlannedNode) -> Self {
        Self {
            pod_name: names.pod_name.clone(),
            names,
            state: NodeState::Waiting,
            reason: None,
            message: String::new(),
            progress: Progress::Idle,
            step: 0,
            attempts: 0,
            is_doubtful: false,
            started: None,
            ended: None,
            reports: Vec::new(),
            samples: 0,
            has_result: false,
        }
    }

    pub(super) fn advance(&mut self, progress: Progress) {
        self.progress = progress;
        self.step += 1;
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.names.node
    }

    /// The name of its pod.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        &self.pod_name
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// Why, where the state alone does not say.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The same for people; empty where there is nothing to say.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// From the pod's creation to its end; none before.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.ended?.monotonic.since(self.started?.monotonic))
    }

    /// Whether a pod of it may exist: its callbacks are accepted.
    #[must_use]
    pub fn may_call_back(&self) -> bool {
        self.attempts > 0
    }

    /// The uid of its pod, while that exists.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        match &self.progress {
            Progress::Exists { uid } => Some(uid),
            _ => None,
        }
    }

    pub(super) fn summary(&self) -> NodeSummary {
        NodeSummary {
            node: self.names.node.clone(),
            state: self.state,
            reason: self.reason,
            message: self.message.clone(),
            attempts: self.attempts,
            start_time: self.started.map(|now| now.wall),
            end_time: self.ended.map(|now| now.wall),
            reports: self.reports.clone(),
            samples: self.samples,
        }
    }
}
