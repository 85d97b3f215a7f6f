//! What an execution allows its pods and its nodes: deadlines, retries and failures, frozen as it begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of one execution, from the keys of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// From a pod's creation until it must run.
    pub pod_start_deadline: Duration,
    /// From a pod's start until it must have ended.
    pub pod_run_deadline: Option<Duration>,
    /// How long a node may be NotReady before its pod counts as lost.
    pub node_lost_timeout: Duration,
    /// From the execution's begin until it must have ended.
    pub execution_deadline: Option<Duration>,
    /// Further attempts on a node whose pod failed.
    pub retries: u32,
    /// Nodes that may end failed or lost before the execution has failed; none: any number.
    pub max_failures: Option<usize>,
    /// Whether no further pod is created once `max_failures` is exceeded.
    pub fail_fast: bool,
    /// Ended pods that are kept while the execution runs.
    pub ended_pods: usize,
}

impl Limits {
    /// What a kubelet gets, beyond the pod's grace period, to stop a pod before its node counts as lost:
    /// `nodeLostTimeout`, but never less than this.
    const STOP_MIN: Duration = Duration::from_secs(30);

    /// How long a pod may be on its way out, its grace period aside.
    #[must_use]
    pub fn stop_timeout(&self) -> Duration {
        self.node_lost_timeout.max(Self::STOP_MIN)
    }
}
