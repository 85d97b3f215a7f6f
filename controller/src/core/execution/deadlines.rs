//! Pods that pass a deadline: they are deleted, and their slot is free when they have gone; one that does not go in
//! time is given up with its node. Every duration counts on our monotonic clock, from what we observed; that a pod has
//! passed one is decided from a read of it.

use std::time::Duration;

use super::timers::Alarm;
use super::{Effect, Execution};
use crate::core::node_run::{Failure, Progress};
use crate::core::pod_phase;
use crate::core::state::Reason;
use crate::core::time::Now;
use crate::core::views::{PodPhase, PodView};

impl Execution {
    /// What an existing pod that has not ended says of its way: it waits, runs, or is on its way out.
    pub(super) fn pod_stands(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        if pod.terminating && !self.nodes[index].is_terminating {
            self.nodes[index].is_terminating = true;
            self.stop_within(now, index, pod.grace + self.limits.stop_timeout());
        }
        if pod.phase == PodPhase::Running {
            self.pod_runs(now, index);
        }
        let Some(trouble) = pod_phase::trouble_of(pod) else {
            return;
        };
        let node = &mut self.nodes[index];
        node.message.clone_from(&trouble.message);
        node.trouble = Some(trouble.clone());
        if trouble.is_hopeless {
            self.overdue(now, index, (trouble.reason, trouble.message), effects);
        }
    }

    fn pod_runs(&mut self, now: Now, index: usize) {
        let node = &mut self.nodes[index];
        if node.trouble.take().is_some() {
            node.message.clear();
        }
        if node.running_since.is_some() {
            return;
        }
        node.running_since = Some(now.monotonic);
        if let Some(limit) = self.limits.pod_run_deadline {
            self.set_alarm(now.monotonic.after(limit), index, Alarm::Deadline);
        }
    }

    /// From now on the pod has time to start.
    pub(super) fn start_in_time(&mut self, now: Now, index: usize) {
        let due = now.monotonic.after(self.limits.pod_start_deadline);
        self.nodes[index].start_by = Some(due);
        self.set_alarm(due, index, Alarm::Deadline);
    }

    /// Whether the pod has passed a deadline, as far as we know of it.
    pub(super) fn is_past_deadline(&self, now: Now, index: usize) -> bool {
        let node = &self.nodes[index];
        let due = match (node.running_since, self.limits.pod_run_deadline) {
            (None, _) => node.start_by,
            (Some(since), limit) => limit.map(|limit| since.after(limit)),
        };
        node.pod_uid().is_some() && due.is_some_and(|due| due <= now.monotonic)
    }

    /// The pod was read, and has not ended: one that has passed a deadline goes.
    pub(super) fn keep_deadlines(&mut self, now: Now, index: usize, effects: &mut Vec<Effect>) {
        if !self.is_past_deadline(now, index) {
            return;
        }
        if self.nodes[index].running_since.is_some() {
            self.run_overdue(now, index, effects);
        } else {
            self.start_overdue(now, index, effects);
        }
    }

    /// What the kubelet says of the reason is the reason: it has tried all the while.
    fn start_overdue(&mut self, now: Now, index: usize, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        let seconds = self.limits.pod_start_deadline.as_secs();
        let failure = match &node.trouble {
            Some(trouble) => (
                trouble.reason,
                format!("{}; not running after {seconds} s", trouble.message),
            ),
            None => (
                Reason::StartDeadline,
                format!("the pod was not running after {seconds} s"),
            ),
        };
        self.overdue(now, index, failure, effects);
    }

    fn run_overdue(&mut self, now: Now, index: usize, effects: &mut Vec<Effect>) {
        let seconds = self.limits.pod_run_deadline.unwrap_or_default().as_secs();
        let message = format!("the pod was still running after {seconds} s");
        self.overdue(now, index, (Reason::RunDeadline, message), effects);
    }

    /// The attempt is to end for this reason. The first reason counts; the slot is free when the pod has gone.
    pub(super) fn overdue(
        &mut self,
        now: Now,
        index: usize,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        if node.overdue.is_some() {
            return;
        }
        match node.progress.clone() {
            // It is over already.
            Progress::Idle | Progress::Looking => {}
            // Whether there is a pod is not known before the answer.
            Progress::Creating { .. } | Progress::Settling { .. } => node.overdue = Some(failure),
            Progress::Retrying { .. } => {
                node.overdue = Some(failure.clone());
                self.settle(index, 1, failure, effects);
            }
            Progress::Exists { uid } => {
                node.overdue = Some(failure);
                self.stop_pod(now, index, uid, effects);
            }
        }
    }

    /// Deletes the pod of a running node.
    pub(super) fn stop_pod(
        &mut self,
        now: Now,
        index: usize,
        uid: String,
        effects: &mut Vec<Effect>,
    ) {
        let pod_name = self.nodes[index].pod_name.clone();
        self.delete_pod(pod_name, uid, effects);
        if !self.nodes[index].is_terminating {
            self.stop_within(now, index, self.limits.stop_timeout());
        }
    }

    fn stop_within(&mut self, now: Now, index: usize, limit: Duration) {
        let due = now.monotonic.after(limit);
        self.nodes[index].stop_by = Some(due);
        self.set_alarm(due, index, Alarm::Stop);
    }

    /// The pod was to go and has not: whatever its node says, it does not do what it is told.
    pub(super) fn never_stopped(&mut self, now: Now, index: usize, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        let message = match (&node.overdue, node.is_terminating) {
            (Some((reason, message)), true) => format!(
                "the kubelet did not stop the pod, which was deleted for {}: {message}",
                reason.as_str()
            ),
            (Some((reason, message)), false) => format!(
                "the pod could not be deleted, as it should have been for {}: {message}",
                reason.as_str()
            ),
            (None, _) => "the kubelet did not stop the pod, which was deleted".to_owned(),
        };
        self.finish_lost(now, index, message, effects);
    }
}
