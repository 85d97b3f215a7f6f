//! What an execution is told and what it answers: its plan, the events, the effects.

use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::failure::ClusterError;
use crate::core::ids::ExecutionId;
use crate::core::limits::Limits;
use crate::core::node_run::PlannedNode;
use crate::core::state::{Reason, Trigger};
use crate::core::time::Now;
use crate::core::views::{NodeView, PodView};

/// What an execution begins with; frozen from here on, also in its journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The controller's name: the value of the owner label.
    pub owner: String,
    /// The execution's id.
    pub id: ExecutionId,
    /// What began it.
    pub trigger: Trigger,
    /// The time it was due.
    pub scheduled_time: Timestamp,
    /// When it began: before the nodes were listed.
    #[serde(with = "wall_time")]
    pub started: Now,
    /// Slots of the pool.
    pub pool_size: NonZeroU32,
    /// What its pods and nodes are allowed.
    pub limits: Limits,
    /// Whether a node needs a result to have succeeded.
    pub result_expected: bool,
    /// The eligible nodes, in the order in which they get their pods.
    pub nodes: Vec<PlannedNode>,
    /// The nodes left out, each with why.
    pub excluded: Vec<(String, Reason, String)>,
    /// The pods of this owner that belong to other executions.
    #[serde(skip)]
    pub previous_pods: Vec<PodView>,
}

/// A moment in a journal: another process shares no monotonic clock.
mod wall_time {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::core::time::{Monotonic, Now};

    pub(super) fn serialize<S: Serializer>(now: &Now, to: S) -> Result<S::Ok, S::Error> {
        now.wall.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Now, D::Error> {
        let wall = Timestamp::deserialize(from)?;
        let monotonic = Monotonic::default();
        Ok(Now { wall, monotonic })
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The deletion of another execution's pods was answered.
    PreviousPodsDeleted {
        /// Whose pods.
        execution: ExecutionId,
        /// The answer.
        result: Result<(), ClusterError>,
    },
    /// A create was answered well.
    Created {
        /// Which node's.
        index: usize,
        /// Which attempt's.
        attempt: u32,
        /// The pod.
        pod: PodView,
    },
    /// A create was answered badly, or the pod could not be rendered.
    CreateFailed {
        /// Which node's.
        index: usize,
        /// Which attempt's.
        attempt: u32,
        /// Why.
        error: CreateError,
    },
    /// A create was answered `AlreadyExists`; this is who holds the name.
    NameHeld {
        /// Which node's.
        index: usize,
        /// Which attempt's.
        attempt: u32,
        /// The pod of that name.
        holder: PodView,
    },
    /// The watch showed a pod of this owner.
    PodSeen(PodView),
    /// A pod of this owner is gone.
    PodGone(PodView),
    /// The watch began again with every pod of this owner.
    Relisted(Vec<PodView>),
    /// A pod was read, because the watch gave an unclear picture of it.
    PodRead {
        /// Which node's.
        index: usize,
        /// The step of the effect that asked.
        step: u32,
        /// The answer.
        result: Result<PodView, ClusterError>,
    },
    /// The deletion of one pod was answered.
    PodDeleted {
        /// The pod's name.
        pod_name: String,
        /// Its uid.
        uid: String,
        /// The answer; `Conflict` where another pod has the name.
        result: Result<(), ClusterError>,
    },
    /// What is to be kept of an ended pod, its outcome and its logs, is kept: it may be deleted.
    PodSettled {
        /// The pod's uid.
        uid: String,
    },
    /// The watch showed a node.
    NodeSeen(NodeView),
    /// A node is gone.
    NodeGone(NodeView),
    /// The watch of nodes began, or began again, with every node.
    NodesRelisted(Vec<NodeView>),
    /// The volume was looked at; what it held was told with `ResultStored` before this.
    LookedForResult {
        /// Which node's.
        index: usize,
        /// The step of the effect that asked.
        step: u32,
    },
    /// A result of a node is on disk.
    ResultStored {
        /// The node's name.
        node: String,
        /// The report's stored name.
        name: String,
        /// Samples in it.
        samples: u32,
    },
    /// A file of a node is on disk.
    FileStored {
        /// The node's name.
        node: String,
        /// The report's stored name.
        name: String,
    },
    /// The execution is to end now: no further pod is created, and those that run are deleted.
    Cancelled {
        /// Why, for people.
        why: String,
    },
    /// The time of [`super::Execution::next_wakeup`] has come.
    Woken,
}

/// Why there is no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateError {
    /// The template gives no pod for this node.
    Template(String),
    /// The call failed.
    Cluster(ClusterError),
    /// The create was not sent, because it was withdrawn before.
    NotSent,
}

/// What to do. Each can be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Delete the job pods of another execution; answer with `PreviousPodsDeleted`.
    DeletePreviousPods(ExecutionId),
    /// Create the pod of the node at `index` under this name; answer with `Created`, `CreateFailed` or `NameHeld`.
    CreatePod {
        /// The node's place in the list.
        index: usize,
        /// Which attempt on it this is; to be repeated in the answer.
        attempt: u32,
        /// The pod's name.
        pod_name: String,
    },
    /// The create of the node at `index` that is under way is not wanted any more: where it has not been sent, it is not,
    /// and answered with `CreateFailed`.
    WithdrawCreate {
        /// The node's place in the list.
        index: usize,
    },
    /// Read a pod of which the watch gives an unclear picture; answer with `PodRead`.
    ReadPod {
        /// The node's place in the list.
        index: usize,
        /// To be repeated in the answer: one that comes after the node has moved on is void.
        step: u32,
        /// The pod's name.
        pod_name: String,
    },
    /// Delete this one pod, and no other of its name; answer with `PodDeleted`.
    DeletePod {
        /// The pod's name.
        pod_name: String,
        /// Its uid.
        uid: String,
    },
    /// Delete this ended pod, as [`Effect::DeletePod`], once everything that was answered before this is durable: it is
    /// all that tells of its end otherwise.
    DeleteEndedPod {
        /// The pod's name.
        pod_name: String,
        /// Its uid.
        uid: String,
    },
    /// Look on the volume for a result that nobody told of; answer with `ResultStored` where there is one, then with
    /// `LookedForResult`.
    LookForResult {
        /// The node's place in the list.
        index: usize,
        /// To be repeated in the answer.
        step: u32,
    },
    /// The pod of the node at `index` is known to exist: note it in the journal.
    PodKnown {
        /// The node's place in the list.
        index: usize,
    },
    /// The pod of the node at `index` ended: save its logs where that is configured, then answer with `PodSettled`.
    PodEnded {
        /// The node's place in the list.
        index: usize,
        /// The pod as it was last seen.
        pod: Box<PodView>,
    },
    /// An attempt on the node at `index` failed, and another one will follow: log it.
    AttemptFailed {
        /// The node's place in the list.
        index: usize,
    },
    /// The node at `index` reached, or changed, its final state: export and log it.
    NodeEnded {
        /// The node's place in the list.
        index: usize,
    },
    /// What just happened to the node at `index` has not happened in this execution before: tell people with an event.
    Announce {
        /// The node's place in the list.
        index: usize,
    },
    /// Every node has ended.
    Ended,
}
