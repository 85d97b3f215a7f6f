//! The closed lists of states and reasons that API, files, pages, command line and metrics share.

use serde::{Deserialize, Serialize};

/// Where one node stands in one execution. `camelCase` in JSON and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// Its turn has not come.
    Waiting,
    /// Its pod is being created or has not ended.
    Running,
    /// Its pod succeeded, and a result arrived where one is expected.
    Succeeded,
    /// Its pod ended badly, was refused, evicted or deleted, or passed a deadline.
    Failed,
    /// Its node is gone or has been NotReady too long.
    Lost,
    /// Its turn never came.
    NotStarted,
    /// Not eligible when the execution began.
    Excluded,
}

impl NodeState {
    /// Every state, in the order in which people read them.
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Lost,
        Self::NotStarted,
        Self::Excluded,
    ];

    /// The word for it in JSON, labels and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::NotStarted => "notStarted",
            Self::Excluded => "excluded",
        }
    }

    /// Whether it can still change by the pod's doing. (`NoResult` can turn into `succeeded` all the same.)
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// Where one execution stands. `camelCase` in JSON and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExecutionState {
    /// Not every node has ended.
    Running,
    /// Every eligible node succeeded.
    Succeeded,
    /// Some node did not succeed.
    Degraded,
    /// No node succeeded.
    Failed,
    /// No node was eligible.
    Empty,
    /// Stopped by hand.
    Cancelled,
}

impl ExecutionState {
    /// Every state an execution can end in.
    pub const FINAL: [Self; 5] = [
        Self::Succeeded,
        Self::Degraded,
        Self::Failed,
        Self::Empty,
        Self::Cancelled,
    ];

    /// The word for it in JSON, labels and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Empty => "empty",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a node is in its state, where the state alone does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// Excluded: its labels do not match `jobNodeSelector`.
    NodeSelector,
    /// Excluded: its labels do not match one of `jobNodeExpressions`.
    NodeExpression,
    /// Excluded: its condition Ready is not True.
    NotReady,
    /// Excluded: it is cordoned and `runOnUnscheduledNodes` is false.
    Unschedulable,
    /// Excluded: it has a taint that the job pod does not tolerate.
    Taint,
    /// Excluded: whoever triggered the execution by hand asked for other nodes.
    NotSelected,
    /// Failed: the pod succeeded without having posted a result.
    NoResult,
    /// Failed: a container ended badly.
    PodFailed,
    /// Failed: the kubelet or somebody evicted the pod.
    Evicted,
    /// Failed: the pod was deleted before it ended.
    Deleted,
    /// Failed: the API server refused the pod.
    Refused,
    /// Failed: the template could not be rendered for this node.
    Template,
    /// Failed: the pod of an earlier execution on this node would not go away.
    PreviousPod,
    /// Failed: an image could not be pulled before `podStartDeadline` passed, or its name is none.
    ImagePull,
    /// Failed: the kubelet could not create a container before `podStartDeadline` passed (`CreateContainerConfigError`,
    /// …).
    CreateContainer,
    /// Failed: the pod did not run before `podStartDeadline` passed.
    StartDeadline,
    /// Failed: the pod ran longer than `podRunDeadline`, or than the template's `activeDeadlineSeconds`.
    RunDeadline,
    /// Failed: the kubelet refused the pod, because the node runs as many as it may.
    OutOfPods,
    /// Failed: the kubelet refused the pod for want of CPU, memory or another resource.
    OutOfResources,
    /// Failed: the kubelet refused the pod for another reason.
    KubeletRefused,
    /// Lost: the node is gone, or NotReady longer than `nodeLostTimeout`. `NotStarted`: likewise, before its turn.
    NodeLost,
    /// `NotStarted`: more nodes failed than `maxFailures` allows, and the policy is `FailFast`.
    MaxFailures,
    /// `Failed` or `NotStarted`: `executionDeadline` passed.
    ExecutionDeadline,
    /// `Failed` or `NotStarted`: the execution was cancelled, by hand or to make room for the next one.
    Cancelled,
}

impl Reason {
    /// Every reason, for metrics that begin at zero.
    pub const ALL: [Self; 24] = [
        Self::NodeSelector,
        Self::NodeExpression,
        Self::NotReady,
        Self::Unschedulable,
        Self::Taint,
        Self::NotSelected,
        Self::NoResult,
        Self::PodFailed,
        Self::Evicted,
        Self::Deleted,
        Self::Refused,
        Self::Template,
        Self::PreviousPod,
        Self::ImagePull,
        Self::CreateContainer,
        Self::StartDeadline,
        Self::RunDeadline,
        Self::OutOfPods,
        Self::OutOfResources,
        Self::KubeletRefused,
        Self::NodeLost,
        Self::MaxFailures,
        Self::ExecutionDeadline,
        Self::Cancelled,
    ];

    /// The word for it in JSON, labels and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeSelector => "NodeSelector",
            Self::NodeExpression => "NodeExpression",
            Self::NotReady => "NotReady",
            Self::Unschedulable => "Unschedulable",
            Self::Taint => "Taint",
            Self::NotSelected => "NotSelected",
            Self::NoResult => "NoResult",
            Self::PodFailed => "PodFailed",
            Self::Evicted => "Evicted",
            Self::Deleted => "Deleted",
            Self::Refused => "Refused",
            Self::Template => "Template",
            Self::PreviousPod => "PreviousPod",
            Self::ImagePull => "ImagePull",
            Self::CreateContainer => "CreateContainer",
            Self::StartDeadline => "StartDeadline",
            Self::RunDeadline => "RunDeadline",
            Self::OutOfPods => "OutOfPods",
            Self::OutOfResources => "OutOfResources",
            Self::KubeletRefused => "KubeletRefused",
            Self::NodeLost => "NodeLost",
            Self::MaxFailures => "MaxFailures",
            Self::ExecutionDeadline => "ExecutionDeadline",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// What began an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// The cron expression.
    Schedule,
    /// `runOnStartup`.
    Startup,
    /// A person.
    Manual,
}
