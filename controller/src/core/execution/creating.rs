//! Creating pods: a create is repeated while its failure is transient, and one without an answer is in doubt until the
//! API server says what exists.

use super::{CreateError, Effect, Execution};
use crate::core::backoff::backoff;
use crate::core::failure::{ClusterError, ClusterErrorKind};
use crate::core::names::attempt_pod_name;
use crate::core::node_run::{Failure, NodeRun, Progress};
use crate::core::pod_pool::SlotHolder;
use crate::core::state::{NodeState, Reason};
use crate::core::time::Now;
use crate::core::views::PodView;

use super::watching::is_ours;

impl Execution {
    /// Begins the next attempt on a node that has a slot.
    pub(super) fn begin_attempt(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let node = &mut self.nodes[index];
        let (names, attempt) = (&node.names, node.attempts + 1);
        let pod_name = attempt_pod_name(&names.pod_name, &names.node, &self.id, attempt);
        self.index_by_pod.insert(pod_name.clone(), index);
        node.begin_attempt(pod_name);
        self.watch_for_loss(index);
        self.create(index, 1, effects);
    }

    pub(super) fn create(&mut self, index: usize, tries: u32, effects: &mut Vec<Effect>) {
        let node = &mut self.nodes[index];
        node.advance(Progress::Creating { tries });
        effects.push(Effect::CreatePod {
            index,
            attempt: node.attempts,
            pod_name: node.pod_name.clone(),
        });
    }

    pub(super) fn pod_exists(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if matches!(
            node.progress,
            Progress::Creating { .. } | Progress::Retrying { .. } | Progress::Settling { .. }
        ) {
            node.advance(Progress::Exists {
                uid: pod.uid.clone(),
            });
            node.newest_uid = Some(pod.uid.clone());
            node.started = Some(now);
            effects.push(Effect::PodKnown { index });
            let is_unwanted = node.overdue.is_some();
            self.start_in_time(now, index);
            if is_unwanted {
                self.stop_pod(now, index, pod.uid.clone(), effects);
            }
        }
        self.observe(now, index, pod, effects);
    }

    /// The answer to a create: of several pods that had the name one after the other, this is the newest.
    pub(super) fn created(
        &mut self,
        now: Now,
        index: usize,
        attempt: u32,
        pod: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_at(index, attempt) {
            return self.unexpected(index, pod, effects);
        }
        if let Some(node) = self.nodes.get_mut(index)
            && let Progress::Exists { uid } = &mut node.progress
            && *uid != pod.uid
        {
            uid.clone_from(&pod.uid);
            node.newest_uid = Some(pod.uid.clone());
            node.running_since = None;
            node.step += 1;
            node.is_doubtful = true;
            effects.push(Effect::PodKnown { index });
            self.start_in_time(now, index);
        }
        self.decided(now, index, pod, effects);
    }

    /// Whether the node is still busy with that attempt.
    fn is_at(&self, index: usize, attempt: u32) -> bool {
        let busy = |node: &NodeRun| node.attempts == attempt && node.progress != Progress::Idle;
        self.nodes.get(index).is_some_and(busy)
    }

    /// The answer names the pod. While the create was in doubt the watch was not believed: what it showed is read
    /// instead.
    fn decided(&mut self, now: Now, index: usize, pod: &PodView, effects: &mut Vec<Effect>) {
        self.pod_exists(now, index, pod, effects);
        let node = self.nodes.get(index);
        if node.is_some_and(|node| node.is_doubtful && node.pod_uid().is_some()) {
            self.read(index, effects);
        }
    }

    pub(super) fn create_failed(
        &mut self,
        now: Now,
        index: usize,
        attempt: u32,
        error: CreateError,
        effects: &mut Vec<Effect>,
    ) {
        // The watch may have shown the pod before the failure was answered.
        if !self.is_at(index, attempt) {
            return;
        }
        let node = &self.nodes[index];
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        match error {
            CreateError::NotSent => self.not_created(now, index, effects),
            CreateError::Cluster(error) if error.kind.is_transient() => {
                self.create_interrupted(now, index, tries, &error, effects);
            }
            // The refusal is of this create: one before it may have made the pod.
            CreateError::Cluster(error) if node.is_doubtful => {
                self.settle(index, 1, (Reason::Refused, error.message), effects);
            }
            CreateError::Cluster(error) => {
                self.end_attempt(now, index, Err((Reason::Refused, error.message)), effects);
            }
            CreateError::Template(message) => {
                self.end_attempt(now, index, Err((Reason::Template, message)), effects);
            }
        }
    }

    /// A create that is repeated, unless no further pod is created.
    fn create_interrupted(
        &mut self,
        now: Now,
        index: usize,
        tries: u32,
        error: &ClusterError,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        node.is_doubtful |= error.kind == ClusterErrorKind::Unavailable;
        if self.stopped.is_some() {
            return self.not_created(now, index, effects);
        }
        let pause = backoff(error.kind, tries, &node.names.node);
        node.message = format!("create is repeated: {}", error.message);
        node.advance(Progress::Retrying { tries });
        self.repeat_call_at(now.monotonic.after(pause), index);
    }

    /// The execution was stopped before the create of a running node was answered well, and it is not repeated: the
    /// node's turn has not come after all, unless an earlier create of this attempt may have made the pod.
    pub(super) fn not_created(&mut self, now: Now, index: usize, effects: &mut Vec<Effect>) {
        let Some(cause) = self.stopped.clone() else {
            return;
        };
        if self.nodes[index].is_doubtful {
            return self.settle(index, 1, cause, effects);
        }
        self.take_turn_back(index);
        self.give_up_waiting(now, index, cause, effects);
    }

    /// The pod of the newest attempt was never made, and its slot is free.
    pub(super) fn take_turn_back(&mut self, index: usize) {
        self.nodes[index].take_attempt_back();
        self.pool.release(&SlotHolder::Node(index));
        self.set_state(index, NodeState::Waiting);
    }

    pub(super) fn settle(
        &mut self,
        index: usize,
        tries: u32,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        node.advance(Progress::Settling { tries, failure });
        self.read(index, effects);
    }

    pub(super) fn name_held(
        &mut self,
        now: Now,
        index: usize,
        attempt: u32,
        holder: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_at(index, attempt) {
            return;
        }
        let node = &mut self.nodes[index];
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        if is_ours(&self.owner, &self.id, &node.names.node, holder) {
            return self.decided(now, index, holder, effects);
        }
        let names = &node.names;
        let alternative =
            attempt_pod_name(&names.alternative_pod_name, &names.node, &self.id, attempt);
        if node.pod_name == alternative {
            let message = format!("a pod that is not ours holds the name {alternative}");
            return self.end_attempt(now, index, Err((Reason::Refused, message)), effects);
        }
        if self.stopped.is_some() {
            return self.not_created(now, index, effects);
        }
        node.pod_name = alternative;
        self.index_by_pod.insert(node.pod_name.clone(), index);
        self.create(index, tries, effects);
    }
}
