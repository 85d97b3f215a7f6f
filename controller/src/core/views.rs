//! Nodes and pods as the core sees them: just the fields that decide something, so that thousands cost little.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::ExecutionId;
use super::taint::Taint;

/// The fields of a node that decide whether it gets a job pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeView {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: a node re-created under its name has another.
    pub uid: String,
    /// `metadata.resourceVersion`, which grows from one change of any node to the next; 0 where it is no number.
    pub version: u64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.unschedulable` (cordoned).
    pub unschedulable: bool,
    /// Whether the condition `Ready` is `True`.
    pub ready: bool,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
}

/// `status.phase` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Accepted, not every container has started.
    Pending,
    /// Bound, at least one container runs.
    Running,
    /// Every container ended with status 0.
    Succeeded,
    /// Every container ended, at least one badly; or evicted, or refused by the kubelet.
    Failed,
    /// The node cannot be reached, or a phase of a future version.
    Unknown,
}

impl PodPhase {
    /// The phase that the API calls `name`; an absent one is `Pending`, as for a pod no kubelet has seen.
    #[must_use]
    pub fn parse(name: Option<&str>) -> Self {
        match name {
            None | Some("" | "Pending") => Self::Pending,
            Some("Running") => Self::Running,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            Some(_) => Self::Unknown,
        }
    }
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The container's name.
    pub container: String,
    /// `state.waiting.reason`, such as `ImagePullBackOff`.
    pub reason: String,
    /// `state.waiting.message`; empty where unset.
    pub message: String,
}

impl Waiting {
    /// The reasons of a container whose turn has not come: nothing is wrong.
    const ORDINARY: [&'static str; 3] = ["", "ContainerCreating", "PodInitializing"];

    /// Whether it waits because something is wrong.
    #[must_use]
    pub fn is_trouble(reason: &str) -> bool {
        !Self::ORDINARY.contains(&reason)
    }
}

/// The fields of a job pod that the controller uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`; empty where unset.
    pub node: String,
    /// The owner label; empty where unset.
    pub owner: String,
    /// The execution label, where it is an execution id.
    pub execution: Option<ExecutionId>,
    /// `status.phase`.
    pub phase: PodPhase,
    /// Whether `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `metadata.deletionGracePeriodSeconds`; zero where unset.
    pub grace: Duration,
    /// `status.reason`, else the reason of the container that failed (`OOMKilled`, `Error`); empty where neither.
    pub reason: String,
    /// `status.message`, else a sentence about the container that failed; empty where neither.
    pub message: String,
    /// The first container, init ones first, that waits because something is wrong.
    pub waiting: Option<Waiting>,
    /// Names of init containers, then containers: those whose logs exist.
    pub containers: Vec<String>,
}
