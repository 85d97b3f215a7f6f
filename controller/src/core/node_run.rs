//! One node of an execution: what people see of it, where its pod stands, and where the node itself stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::{EndedNode, Entry};
use super::pod_phase::Trouble;
use super::state::{NodeState, Reason};
use super::summary::NodeSummary;
use super::time::{Monotonic, Now};

/// One eligible node and the names its pod may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedNode {
    /// The node's name.
    pub node: String,
    /// Its uid when it was listed: another node under its name is not this one.
    pub uid: String,
    /// The name of its pod.
    pub pod_name: String,
    /// The name of its pod where somebody else's pod holds the first.
    pub alternative_pod_name: String,
}

/// Why something failed: the reason for machines, the message for people.
pub(super) type Failure = (Reason, String);

/// One node of the list.
#[derive(Debug, Clone)]
pub struct NodeRun {
    pub(super) names: PlannedNode,
    pub(super) state: NodeState,
    pub(super) reason: Option<Reason>,
    pub(super) message: String,
    pub(super) condition: NodeCondition,
    /// The version of the node that was seen last.
    pub(super) version: u64,
    pub(super) progress: Progress,
    /// How the attempt before the newest failed.
    pub(super) earlier: Option<Failure>,
    /// How often `progress` has changed.
    pub(super) step: u32,
    /// Attempts begun; the pod of the newest is what the fields below are about.
    pub(super) attempts: u32,
    pub(super) pod_name: String,
    /// The uid of the newest attempt's pod, whether it still exists or not.
    pub(super) newest_uid: Option<String>,
    /// Whether the answer to the newest create may not be the whole story: an earlier one was not answered, or the
    /// watch began again meanwhile.
    pub(super) is_doubtful: bool,
    pub(super) started: Option<Now>,
    /// When the pod is to run at the latest.
    pub(super) start_by: Option<Monotonic>,
    pub(super) running_since: Option<Monotonic>,
    /// What keeps the pod from running.
    pub(super) trouble: Option<Trouble>,
    /// Why we delete the pod: what its end will be called.
    pub(super) overdue: Option<Failure>,
    /// Whether the pod was seen on its way out.
    pub(super) is_terminating: bool,
    /// When a pod that is on its way out counts as lost.
    pub(super) stop_by: Option<Monotonic>,
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
    /// No pod is wanted any more, but an earlier create was not answered: whether the pod exists is being read.
    Settling { tries: u32, failure: Failure },
    /// The pod exists.
    Exists { uid: String },
    /// The pod succeeded without a result that we know of: the volume is looked at before it is believed.
    Looking,
}

/// Where the node itself stands, as far as the node watch has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeCondition {
    /// Its condition Ready is True.
    Ready,
    /// It is not, and was first seen so then.
    NotReady { since: Monotonic },
    /// It was deleted, or another node has its name.
    Gone,
}

impl NodeRun {
    pub(super) fn new(names: PlannedNode) -> Self {
        Self {
            pod_name: names.pod_name.clone(),
            names,
            state: NodeState::Waiting,
            reason: None,
            message: String::new(),
            condition: NodeCondition::Ready,
            version: 0,
            progress: Progress::Idle,
            earlier: None,
            step: 0,
            attempts: 0,
            newest_uid: None,
            is_doubtful: false,
            started: None,
            start_by: None,
            running_since: None,
            trouble: None,
            overdue: None,
            is_terminating: false,
            stop_by: None,
            ended: None,
            reports: Vec::new(),
            samples: 0,
            has_result: false,
        }
    }

    /// Begins the next attempt under this pod name: nothing of the pod before it counts any more.
    pub(super) fn begin_attempt(&mut self, pod_name: String) {
        self.attempts += 1;
        self.pod_name = pod_name;
        self.earlier = (self.reason.take()).map(|reason| (reason, self.message.clone()));
        if let Some((reason, message)) = &self.earlier {
            self.message = format!(
                "attempt {} ended with {}: {message}",
                self.attempts - 1,
                reason.as_str(),
            );
        }
        self.newest_uid = None;
        self.is_doubtful = false;
        self.started = None;
        self.start_by = None;
        self.running_since = None;
        self.trouble = None;
        self.overdue = None;
        self.is_terminating = false;
        self.stop_by = None;
        self.ended = None;
    }

    /// The newest attempt was never made: the one before it counts again.
    pub(super) fn take_attempt_back(&mut self) {
        self.attempts -= 1;
        (self.reason, self.message) = match self.earlier.take() {
            Some((reason, message)) => (Some(reason), message),
            // How it failed is not known any more.
            None if self.attempts > 0 => (Some(Reason::PodFailed), "it failed".to_owned()),
            None => (None, String::new()),
        };
        self.advance(Progress::Idle);
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

    /// The name of its newest pod.
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

    /// How many reports of it are on disk.
    #[must_use]
    pub fn report_count(&self) -> usize {
        self.reports.len()
    }

    /// Attempts begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When its newest pod ended; none before.
    #[must_use]
    pub fn ended(&self) -> Option<Now> {
        self.ended
    }

    /// From the creation of its newest pod to its end; none before.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.ended?.monotonic.since(self.started?.monotonic))
    }

    /// Whether a pod of it may exist: its callbacks are accepted.
    #[must_use]
    pub fn may_call_back(&self) -> bool {
        self.attempts > 0
    }

    /// The uid of its pod, while that exists and has not ended.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        match &self.progress {
            Progress::Exists { uid } => Some(uid),
            _ => None,
        }
    }

    /// The uid of its newest attempt's pod, where there was one.
    #[must_use]
    pub fn newest_pod_uid(&self) -> Option<&str> {
        self.newest_uid.as_deref()
    }

    /// When its pod was created; none before that is known.
    #[must_use]
    pub fn started(&self) -> Option<Now> {
        self.started
    }

    /// The end of its newest attempt for the journal, where another one follows; none elsewhere.
    #[must_use]
    pub fn journal_attempt_end(&self, index: usize) -> Option<Entry> {
        let reason = self.reason.filter(|_| self.state == NodeState::Waiting)?;
        Some(Entry::AttemptEnded {
            index,
            attempt: self.attempts,
            reason,
            message: self.message.clone(),
            time: self.ended?.wall,
        })
    }

    /// Its end for the journal; none while it has not ended.
    #[must_use]
    pub fn journal_end(&self, index: usize) -> Option<EndedNode> {
        self.state.is_final().then(|| EndedNode {
            index,
            state: self.state,
            reason: self.reason,
            message: self.message.clone(),
            attempts: self.attempts,
            start_time: self.started.map(|now| now.wall),
            end_time: self.ended.map(|now| now.wall),
            samples: self.samples,
        })
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
