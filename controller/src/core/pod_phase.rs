//! What a job pod's state says of its end, or of why it does not begin: derived from the state alone, never from having
//! seen a step. The closed list of reasons is `state`'s; what follows from one is decided by `execution`.

use super::state::Reason;
use super::views::{PodPhase, PodView};

/// The end of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodEnd {
    /// Every container ended with status 0.
    Succeeded,
    /// It ended badly.
    Failed {
        /// Why, from the closed list.
        reason: Reason,
        /// The kubelet's or the container's own words.
        message: String,
    },
}

/// The end of a pod that exists, or none while it runs. A terminating pod has not ended before it is gone or its phase
/// says so.
#[must_use]
pub fn end_of(pod: &PodView) -> Option<PodEnd> {
    match pod.phase {
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => None,
        PodPhase::Succeeded => Some(PodEnd::Succeeded),
        // A pod that somebody deletes is stopped by its kubelet, which then says Failed: the cause is the deletion.
        PodPhase::Failed if pod.terminating => Some(gone()),
        PodPhase::Failed => Some(PodEnd::Failed {
            reason: reason_of_failure(&pod.reason),
            message: join(&pod.reason, &pod.message, "the pod failed"),
        }),
    }
}

/// The end of a pod that disappeared before it had ended.
#[must_use]
pub fn gone() -> PodEnd {
    PodEnd::Failed {
        reason: Reason::Deleted,
        message: "the pod was deleted before it had ended".to_owned(),
    }
}

/// What keeps a pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why, from the closed list.
    pub reason: Reason,
    /// The kubelet's own words, with the container's name.
    pub message: String,
    /// Whether waiting cannot help: the kubelet would go on trying, but what it tries cannot become right.
    pub is_hopeless: bool,
}

/// What keeps the pod from running; none where nothing is wrong, and once it runs.
#[must_use]
pub fn trouble_of(pod: &PodView) -> Option<Trouble> {
    let waiting = (pod.waiting.as_ref()).filter(|_| pod.phase == PodPhase::Pending)?;
    let words = join(&waiting.reason, &waiting.message, "");
    Some(Trouble {
        reason: reason_of_waiting(&waiting.reason),
        message: format!("container {}: {words}", waiting.container),
        // The name is part of the pod. A missing image, Secret or ConfigMap may still turn up.
        is_hopeless: waiting.reason == "InvalidImageName",
    })
}

/// The reasons of a failed pod that Kubernetes' own parts give: node admission, eviction, preemption, shutdown,
/// deadline.
fn reason_of_failure(reason: &str) -> Reason {
    match reason {
        "Evicted" | "Preempting" | "Terminated" | "NodeShutdown" | "Shutdown" => Reason::Evicted,
        "OutOfpods" => Reason::OutOfPods,
        "DeadlineExceeded" => Reason::RunDeadline,
        "NodeAffinity"
        | "NodeName"
        | "NodePorts"
        | "NodeUnschedulable"
        | "TaintToleration"
        | "TopologyAffinityError"
        | "UnexpectedAdmissionError"
        | "AdmissionFailed"
        | "AppArmor"
        | "SysctlForbidden"
        | "InvalidNodeInfo"
        | "PodOSSelectorNodeLabelDoesNotMatch"
        | "PodOSNotSupported"
        | "PodFeatureUnsupported"
        | "VolumeAttachmentLimitExceeded" => Reason::KubeletRefused,
        _ if reason.starts_with("OutOf") => Reason::OutOfResources,
        _ => Reason::PodFailed,
    }
}

/// The reasons of a waiting container, as the kubelet's image manager and runtime manager give them.
fn reason_of_waiting(reason: &str) -> Reason {
    match reason {
        "ImagePullBackOff"
        | "ErrImagePull"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Reason::ImagePull,
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError"
        | "RunContainerError" => Reason::CreateContainer,
        _ => Reason::StartDeadline,
    }
}

fn join(reason: &str, message: &str, neither: &str) -> String {
    match (reason, message) {
        ("", "") => neither.to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::views::Waiting;
    use super::*;

    fn pod(phase: PodPhase, reason: &str) -> PodView {
        PodView {
            name: String::new(),
            uid: String::new(),
            node: String::new(),
            owner: String::new(),
            execution: None,
            phase,
            terminating: false,
            grace: Duration::ZERO,
            reason: reason.to_owned(),
            message: "words".to_owned(),
            waiting: None,
            containers: Vec::new(),
        }
    }

    #[test]
    fn a_failure_is_told_by_the_reason_that_kubernetes_gives() {
        for (given, expected) in [
            ("Evicted", Reason::Evicted),
            ("Terminated", Reason::Evicted),
            ("OutOfpods", Reason::OutOfPods),
            ("OutOfcpu", Reason::OutOfResources),
            ("OutOfmemory", Reason::OutOfResources),
            ("NodeAffinity", Reason::KubeletRefused),
            ("UnexpectedAdmissionError", Reason::KubeletRefused),
            ("DeadlineExceeded", Reason::RunDeadline),
            ("OOMKilled", Reason::PodFailed),
            ("Error", Reason::PodFailed),
        ] {
            let end = end_of(&pod(PodPhase::Failed, given));
            let expected = PodEnd::Failed {
                reason: expected,
                message: format!("{given}: words"),
            };
            assert_eq!(end, Some(expected), "{given}");
        }
    }

    #[test]
    fn a_pod_that_is_stopped_because_it_is_deleted_was_deleted() {
        let mut stopped = pod(PodPhase::Failed, "Error");
        stopped.terminating = true;
        assert_eq!(end_of(&stopped), Some(gone()));
    }

    fn trouble(phase: PodPhase, reason: &str) -> Option<(Reason, bool)> {
        let mut pod = pod(phase, "");
        pod.waiting = Some(Waiting {
            container: "job".to_owned(),
            reason: reason.to_owned(),
            message: "words".to_owned(),
        });
        trouble_of(&pod).map(|trouble| {
            assert_eq!(trouble.message, format!("container job: {reason}: words"));
            (trouble.reason, trouble.is_hopeless)
        })
    }

    #[test]
    fn what_a_container_waits_for_is_told_while_the_pod_is_pending() {
        for (reason, expected) in [
            ("ImagePullBackOff", (Reason::ImagePull, false)),
            ("ErrImagePull", (Reason::ImagePull, false)),
            ("InvalidImageName", (Reason::ImagePull, true)),
            (
                "CreateContainerConfigError",
                (Reason::CreateContainer, false),
            ),
            ("SomethingNew", (Reason::StartDeadline, false)),
        ] {
            assert_eq!(trouble(PodPhase::Pending, reason), Some(expected));
        }
        // One of several containers waits, another runs: the pod does not count as not started.
        assert_eq!(trouble(PodPhase::Running, "ImagePullBackOff"), None);
    }
}
