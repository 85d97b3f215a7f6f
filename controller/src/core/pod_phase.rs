//! How a job pod ended, derived from its state alone: never from having seen a step.

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

/// The end of a pod that exists, or none while it runs. A terminating pod has not ended before it is gone or its phase says so.
#[must_use]
pub fn end_of(pod: &PodView) -> Option<PodEnd> {
    match pod.phase {
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => None,
        PodPhase::Succeeded => Some(PodEnd::Succeeded),
        // A pod that somebody deletes is stopped by its kubelet, which then says Failed: the cause is the deletion.
        PodPhase::Failed if pod.terminating => Some(gone()),
        PodPhase::Failed => Some(PodEnd::Failed {
            reason: if pod.reason == "Evicted" {
                Reason::Evicted
            } else {
                Reason::PodFailed
            },
            message: describe(pod),
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

fn describe(pod: &PodView) -> String {
    match (pod.reason.as_str(), pod.message.as_str()) {
        ("", "") => "the pod failed".to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}
