//! Watching pods: an end is derived from a pod's state or its confirmed absence, never from having seen a step; where
//! the watch gives an unclear picture, a read decides.

use std::collections::BTreeMap;

use super::{Effect, Execution};
use crate::core::backoff::backoff;
use crate::core::failure::{ClusterError, ClusterErrorKind};
use crate::core::ids::ExecutionId;
use crate::core::node_run::{NodeRun, Progress};
use crate::core::pod_phase::{self, PodEnd};
use crate::core::state::Reason;
use crate::core::time::Now;
use crate::core::views::PodView;

/// A read that failed is repeated after some two seconds: seldom, because each holds a slot that is likely free.
const READ_TRIES: u32 = 4;

impl Execution {
    /// The node that this pod was made for: of this execution, under a name we asked for, on that node.
    fn index_of(&self, pod: &PodView) -> Option<usize> {
        let index = *self.index_by_pod.get(&pod.name)?;
        let node = &self.nodes[index].names.node;
        is_ours(&self.owner, &self.id, node, pod).then_some(index)
    }

    /// Whether the node waits for a pod of that name.
    fn awaits(&self, index: usize, pod: &PodView) -> bool {
        let node = &self.nodes[index];
        node.pod_name == pod.name && node.progress != Progress::Idle
    }

    /// With a create under way and an earlier one unanswered, the watch may be showing either's pod, one of them from
    /// the past. The answer, a few seconds away at most, says which exists.
    fn is_undecided(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.is_doubtful && matches!(node.progress, Progress::Creating { .. })
    }

    pub(super) fn pod_seen(&mut self, now: Now, pod: &PodView, effects: &mut Vec<Effect>) {
        if self.previous.contains_key(&pod.uid) {
            if pod_phase::end_of(pod).is_some() {
                self.previous_ended(&pod.uid);
            }
        } else if let Some(index) = self.index_of(pod) {
            let node = &self.nodes[index];
            if !self.awaits(index, pod) {
                self.unexpected(index, pod, effects);
            } else if self.is_undecided(index) {
                // Its answer is on the way.
            } else if node.is_doubtful && matches!(node.progress, Progress::Retrying { .. }) {
                // It may be a pod from the past; what exists now decides whether the create is repeated.
                self.read(index, effects);
            } else {
                self.pod_exists(now, index, pod, effects);
            }
        }
    }

    pub(super) fn pod_gone(&mut self, now: Now, pod: &PodView, effects: &mut Vec<Effect>) {
        if self.previous.contains_key(&pod.uid) {
            self.previous_ended(&pod.uid);
        } else if let Some(index) = self.index_of(pod)
            && self.awaits(index, pod)
            && !self.is_undecided(index)
        {
            // Created, ended and deleted before its create was answered: the last state is all there is.
            self.pod_exists(now, index, pod, effects);
            if self.nodes[index].pod_uid() == Some(&pod.uid) {
                self.end_with_pod(now, index, pod_phase::gone(), effects);
            }
        }
        self.forget_pod(&pod.uid);
    }

    pub(super) fn relisted(&mut self, now: Now, pods: &[PodView], effects: &mut Vec<Effect>) {
        for pod in pods {
            self.pod_seen(now, pod, effects);
        }
        let present: BTreeMap<&str, &PodView> =
            pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
        self.forget_ended_except(&present);
        let gone: Vec<String> = (self.previous.keys())
            .filter(|uid| !present.contains_key(uid.as_str()))
            .cloned()
            .collect();
        for uid in gone {
            self.previous_ended(&uid);
        }
        // The pod of a create under way may have come and gone between two watches: its answer is not the last word.
        for index in self.running_indices().collect::<Vec<_>>() {
            let node = &mut self.nodes[index];
            node.is_doubtful |= matches!(node.progress, Progress::Creating { .. });
        }
        // A pod created after the list was made is not in it: absence is confirmed by a read before it counts.
        let missing = self.running_indices().filter(|&index| {
            let uid = self.nodes[index].pod_uid();
            uid.is_some_and(|uid| !present.contains_key(uid))
        });
        for index in missing.collect::<Vec<_>>() {
            self.read(index, effects);
        }
    }

    pub(super) fn read(&self, index: usize, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        effects.push(Effect::ReadPod {
            index,
            step: node.step,
            pod_name: node.pod_name.clone(),
        });
    }

    pub(super) fn pod_read(
        &mut self,
        now: Now,
        index: usize,
        step: u32,
        result: Result<PodView, ClusterError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get(index).filter(|node| node.step == step) else {
            return;
        };
        match (node.progress.clone(), result) {
            (Progress::Exists { uid }, Ok(pod)) if pod.uid == uid => {
                self.observe(now, index, &pod, effects);
                self.keep_deadlines(now, index, effects);
            }
            (Progress::Exists { .. }, Ok(_)) => {
                self.end_with_pod(now, index, pod_phase::gone(), effects);
            }
            (Progress::Exists { .. }, Err(error)) if error.kind == ClusterErrorKind::NotFound => {
                self.end_with_pod(now, index, pod_phase::gone(), effects);
            }
            // The watch may have nothing more to say of this pod: the read is repeated until it is answered.
            (Progress::Exists { .. }, Err(error)) => {
                let pause = backoff(error.kind, READ_TRIES, &node.names.node);
                self.repeat_call_at(now.monotonic.after(pause), index);
            }
            (Progress::Settling { .. } | Progress::Retrying { .. }, Ok(pod))
                if is_ours(&self.owner, &self.id, &node.names.node, &pod) =>
            {
                self.pod_exists(now, index, &pod, effects);
            }
            // One that is refused says nothing of the pod either.
            (Progress::Settling { tries, .. }, Err(error))
                if error.kind != ClusterErrorKind::NotFound =>
            {
                let pause = backoff(error.kind, tries, &node.names.node);
                self.repeat_call_at(now.monotonic.after(pause), index);
            }
            (Progress::Settling { failure, .. }, _) => {
                self.end_attempt(now, index, Err(failure), effects);
            }
            // The create is repeated, or there is nothing left to know.
            _ => {}
        }
    }

    pub(super) fn observe(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.nodes[index].pod_uid().map(str::to_owned);
        match known {
            None => {}
            Some(uid) if uid == pod.uid => match pod_phase::end_of(pod) {
                Some(end) => self.end_pod(now, index, pod, end, effects),
                None => self.pod_stands(now, index, pod, effects),
            },
            // Same name, another uid: a pod from the past, or ours was deleted and somebody made this one. A read
            // tells.
            Some(_) => self.read(index, effects),
        }
    }

    /// The pod ended, and is still there.
    fn end_pod(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        end: PodEnd,
        effects: &mut Vec<Effect>,
    ) {
        self.keep_ended(index, pod);
        effects.push(Effect::PodEnded {
            index,
            pod: Box::new(pod.clone()),
        });
        let node = &mut self.nodes[index];
        let is_well = end == PodEnd::Succeeded && node.overdue.is_none();
        if is_well && self.result_expected && !node.has_result {
            node.ended.get_or_insert(now);
            node.advance(Progress::Looking);
            effects.push(Effect::LookForResult {
                index,
                step: node.step,
            });
            return;
        }
        self.end_with_pod(now, index, end, effects);
    }
}

impl Execution {
    /// What the volume said of a pod that succeeded without a result that we know of.
    pub(super) fn looked_for_result(
        &mut self,
        now: Now,
        index: usize,
        step: u32,
        effects: &mut Vec<Effect>,
    ) {
        let is_open = |node: &&NodeRun| node.step == step && node.progress == Progress::Looking;
        if self.nodes.get(index).as_ref().is_some_and(is_open) {
            let message = "the pod succeeded, but posted no result".to_owned();
            self.end_attempt(now, index, Err((Reason::NoResult, message)), effects);
        }
    }
}

/// Whether it is the job pod of that node in that execution, whoever created it: by labels and node, never by the uid
/// of its owner, which a re-installed controller does not share.
pub(super) fn is_ours(owner: &str, id: &ExecutionId, node: &str, pod: &PodView) -> bool {
    pod.owner == owner && pod.execution.as_ref() == Some(id) && pod.node == node
}
