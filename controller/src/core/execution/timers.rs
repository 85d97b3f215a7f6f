//! What waits for time to pass: calls that are repeated, attempts that follow, deadlines. An alarm is only a reminder:
//! what is due is read from the node's state when it rings, so that one that nobody needs any more does no harm.

use super::{Effect, Execution};
use crate::core::node_run::{NodeCondition, Progress};
use crate::core::state::{NodeState, Reason};
use crate::core::time::{Monotonic, Now};

/// What an alarm reminds of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A call that failed at this step is repeated.
    Call { step: u32 },
    /// The next attempt may begin.
    NextAttempt,
    /// `podStartDeadline` or `podRunDeadline`.
    Deadline,
    /// A pod on its way out has not gone.
    Stop,
    /// `nodeLostTimeout`.
    NodeLost,
}

impl Execution {
    pub(super) fn set_alarm(&mut self, due: Monotonic, index: usize, alarm: Alarm) {
        self.alarms.insert((due, index, alarm));
    }

    /// When a call for the node is to be repeated.
    pub(super) fn repeat_call_at(&mut self, due: Monotonic, index: usize) {
        let step = self.nodes[index].step;
        self.set_alarm(due, index, Alarm::Call { step });
    }

    /// When `Woken` is to be sent, where something waits for time to pass.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Monotonic> {
        if self.ended.is_some() {
            return None;
        }
        let clearing = self.clearing.iter().flat_map(|clearing| {
            let retries = clearing.pending.values().flatten().map(|(_, due)| *due);
            retries.chain([clearing.deadline])
        });
        let alarm = self.alarms.first().map(|(due, _, _)| *due);
        let deletion = self.deletion_retries.first().map(|(due, _)| *due);
        (clearing.chain(alarm).chain(deletion).chain(self.deadline)).min()
    }

    pub(super) fn woken(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.deadline.is_some_and(|due| due <= now.monotonic) {
            self.deadline = None;
            self.execution_overdue(now, effects);
        }
        self.repeat_clearing(now, effects);
        self.repeat_deletions(now, effects);
        while let Some(&(due, index, alarm)) = self.alarms.first() {
            if due > now.monotonic {
                break;
            }
            self.alarms.pop_first();
            self.ring(now, index, alarm, effects);
        }
    }

    fn ring(&mut self, now: Now, index: usize, alarm: Alarm, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        let exists = node.pod_uid().is_some();
        match alarm {
            Alarm::Call { step } if step == node.step => self.repeat_call(index, effects),
            Alarm::NextAttempt if node.state == NodeState::Waiting => {
                self.again.push_back(index);
            }
            // The watch may have been silent: what the pod has come to decides.
            Alarm::Deadline if exists && self.is_past_deadline(now, index) => {
                self.read(index, effects);
            }
            Alarm::Stop if exists && node.stop_by.is_some_and(|due| due <= now.monotonic) => {
                self.never_stopped(now, index, effects);
            }
            Alarm::NodeLost if node.state == NodeState::Running => {
                if let NodeCondition::NotReady { since } = node.condition
                    && since.after(self.limits.node_lost_timeout) <= now.monotonic
                {
                    let seconds = now.monotonic.since(since).as_secs();
                    let message = format!("the node has been NotReady for {seconds} s");
                    self.lose(now, index, message, effects);
                }
            }
            _ => {}
        }
    }

    fn repeat_call(&mut self, index: usize, effects: &mut Vec<Effect>) {
        match self.nodes[index].progress.clone() {
            Progress::Retrying { tries } => self.create(index, tries + 1, effects),
            Progress::Settling { tries, failure } => {
                self.settle(index, tries + 1, failure, effects);
            }
            Progress::Exists { .. } => self.read(index, effects),
            Progress::Idle | Progress::Creating { .. } | Progress::Looking => {}
        }
    }

    fn execution_overdue(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let limit = self.limits.execution_deadline.unwrap_or_default();
        let message = format!("executionDeadline of {} s has passed", limit.as_secs());
        let cause = (Reason::ExecutionDeadline, message);
        self.stop(now, &cause, effects);
        for index in self.running_indices().collect::<Vec<_>>() {
            self.overdue(now, index, cause.clone(), effects);
        }
    }
}
