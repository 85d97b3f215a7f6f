//! How an attempt and a node end: the slot is released, once; then another attempt follows, or the node's state is
//! final. Nodes whose turn never comes end here too. Why a pod ended is decided by those who call.

use super::timers::Alarm;
use super::{Effect, Execution};
use crate::core::backoff::attempt_backoff;
use crate::core::node_run::{Failure, NodeCondition, Progress};
use crate::core::pod_phase::PodEnd;
use crate::core::pod_pool::SlotHolder;
use crate::core::state::{NodeState, Reason};
use crate::core::time::Now;

impl Execution {
    /// The newest attempt of a node is over. Nothing happens to a node whose state is final.
    pub(super) fn end_attempt(
        &mut self,
        now: Now,
        index: usize,
        end: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) {
        match end {
            Ok(()) => self.finish(now, index, NodeState::Succeeded, None, effects),
            Err(failure) if self.may_repeat(index, failure.0) => {
                self.repeat(now, index, failure, effects);
            }
            Err(failure) => self.finish(now, index, NodeState::Failed, Some(failure), effects),
        }
    }

    /// What a pod's end means for its node: one that fails, or goes, while the node is away is lost with it; one that
    /// we deleted is called what we deleted it for.
    pub(super) fn end_with_pod(
        &mut self,
        now: Now,
        index: usize,
        end: PodEnd,
        effects: &mut Vec<Effect>,
    ) {
        let node = &self.nodes[index];
        match (end, node.condition, &node.overdue) {
            (PodEnd::Failed { message, .. }, NodeCondition::NotReady { .. }, _) => {
                let message = format!("the node was NotReady when its pod ended: {message}");
                self.finish_lost(now, index, message, effects);
            }
            (PodEnd::Failed { .. }, NodeCondition::Gone, _) => {
                self.finish_lost(now, index, "the node is gone".to_owned(), effects);
            }
            (_, _, Some(overdue)) => {
                let overdue = overdue.clone();
                self.end_attempt(now, index, Err(overdue), effects);
            }
            (PodEnd::Failed { reason, message }, NodeCondition::Ready, None) => {
                self.end_attempt(now, index, Err((reason, message)), effects);
            }
            (PodEnd::Succeeded, _, None) => self.end_attempt(now, index, Ok(()), effects),
        }
    }

    /// The node is gone, or away for too long.
    pub(super) fn finish_lost(
        &mut self,
        now: Now,
        index: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let failure = Some((Reason::NodeLost, message));
        self.finish(now, index, NodeState::Lost, failure, effects);
    }

    /// The node's state is final.
    pub(super) fn finish(
        &mut self,
        now: Now,
        index: usize,
        state: NodeState,
        failure: Option<Failure>,
        effects: &mut Vec<Effect>,
    ) {
        if self.nodes[index].state.is_final() {
            return;
        }
        self.leave(now, index, failure);
        self.set_state(index, state);
        self.ended_nodes += 1;
        effects.push(Effect::NodeEnded { index });
        if matches!(state, NodeState::Failed | NodeState::Lost) {
            self.count_failure(index, effects);
            self.fail_fast(now, effects);
        }
    }

    /// Where that is the policy, the execution is stopped once too many nodes have failed.
    pub(super) fn fail_fast(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.limits.fail_fast && self.failures_exceed_the_limit() {
            let message = "more nodes failed than maxFailures allows".to_owned();
            self.stop(now, &(Reason::MaxFailures, message), effects);
        }
    }

    /// The attempt is over: nothing is expected of its pod any more, and its slot is free.
    fn leave(&mut self, now: Now, index: usize, failure: Option<Failure>) {
        let node = &mut self.nodes[index];
        (node.reason, node.message) = match failure {
            Some((reason, message)) => (Some(reason), message),
            None => (None, String::new()),
        };
        if node.attempts > 0 {
            node.ended.get_or_insert(now);
        }
        node.advance(Progress::Idle);
        self.pool.release(&SlotHolder::Node(index));
    }

    /// Whether another attempt may end better, and is allowed.
    fn may_repeat(&self, index: usize, reason: Reason) -> bool {
        let node = &self.nodes[index];
        let is_settled = matches!(
            reason,
            Reason::Template | Reason::PreviousPod | Reason::ExecutionDeadline
        );
        node.state == NodeState::Running
            && !is_settled
            && !self.is_stopped()
            && node.attempts <= self.limits.retries
    }

    fn repeat(&mut self, now: Now, index: usize, failure: Failure, effects: &mut Vec<Effect>) {
        self.leave(now, index, Some(failure));
        self.set_state(index, NodeState::Waiting);
        let pause = attempt_backoff(self.nodes[index].attempts);
        self.set_alarm(now.monotonic.after(pause), index, Alarm::NextAttempt);
        effects.push(Effect::AttemptFailed { index });
        self.count_failure(index, effects);
    }

    /// Whether more nodes have failed than may.
    pub(super) fn failures_exceed_the_limit(&self) -> bool {
        let failed = self.count(NodeState::Failed) + self.count(NodeState::Lost);
        self.limits.max_failures.is_some_and(|max| failed > max)
    }

    /// No further pod is created: who waits for a first turn has not started, who waits for another has failed. Creates
    /// that are under way are withdrawn, or not repeated.
    pub(super) fn stop(&mut self, now: Now, cause: &Failure, effects: &mut Vec<Effect>) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(cause.clone());
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            match (node.state, &node.progress) {
                (NodeState::Waiting, _) => {
                    self.give_up_waiting(now, index, cause.clone(), effects);
                }
                (_, Progress::Creating { .. }) => effects.push(Effect::WithdrawCreate { index }),
                (_, Progress::Retrying { .. }) => self.not_created(now, index, effects),
                _ => {}
            }
        }
    }

    /// No further pod is created, and those that run are deleted: the execution ends with the last of them.
    pub(super) fn cancel(&mut self, now: Now, why: String, effects: &mut Vec<Effect>) {
        if self.ended.is_some() {
            return;
        }
        let cause = (Reason::Cancelled, why);
        self.stop(now, &cause, effects);
        // Also where it had been stopped for another reason, and only those that ran were waited for.
        self.stopped = Some(cause.clone());
        for index in self.running_indices().collect::<Vec<_>>() {
            self.overdue(now, index, cause.clone(), effects);
        }
    }

    /// Whether it was stopped before its first pod: the pods of other executions are in nobody's way then.
    pub(super) fn has_nothing_to_create(&self) -> bool {
        self.is_stopped() && self.ended_nodes == self.nodes.len()
    }

    /// The next turn of a waiting node will not come.
    pub(super) fn give_up_waiting(
        &mut self,
        now: Now,
        index: usize,
        cause: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let node = &self.nodes[index];
        match node.reason.filter(|_| node.attempts > 0) {
            Some(_) if cause.0 == Reason::NodeLost => {
                self.finish(now, index, NodeState::Lost, Some(cause), effects);
            }
            Some(reason) => {
                let failure = Some((reason, node.message.clone()));
                self.finish(now, index, NodeState::Failed, failure, effects);
            }
            None => self.finish(now, index, NodeState::NotStarted, Some(cause), effects),
        }
    }
}
