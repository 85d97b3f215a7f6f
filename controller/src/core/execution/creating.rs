//! Creating pods: a create is repeated while its failure is transient, and one without an answer is in doubt until the API server
//! says what exists.

use super::{CreateError, Effect, Execution};
use crate::core::backoff::backoff;
use crate::core::failure::ClusterErrorKind;
use crate::core::node_run::Progress;
use crate::core::state::Reason;
use crate::core::time::Now;
use crate::core::views::PodView;

use super::watching::is_ours;

impl Execution {
    pub(super) fn create(&mut self, index: usize, tries: u32, effects: &mut Vec<Effect>) {
        let node = &mut self.nodes[index];
        node.attempts = 1;
        node.advance(Progress::Creating { tries });
        effects.push(Effect::CreatePod {
            index,
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
            node.started = Some(now);
        }
        self.observe(now, index, pod, effects);
    }

    /// The answer to a create: of several pods that had the name one after the other, this is the newest.
    pub(super) fn created(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(node) = self.nodes.get_mut(index)
            && let Progress::Exists { uid } = &mut node.progress
            && *uid != pod.uid
        {
            uid.clone_from(&pod.uid);
            node.step += 1;
            node.is_doubtful = true;
        }
        self.decided(now, index, pod, effects);
    }

    /// The answer names the pod. While the create was in doubt the watch was not believed: what it showed is read instead.
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
        error: CreateError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        // The watch may have shown the pod before the failure was answered.
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        match error {
            CreateError::Cluster(error) if error.kind.is_transient() => {
                let pause = backoff(error.kind, tries, &node.names.node);
                node.message = format!("create is repeated: {}", error.message);
                node.is_doubtful |= error.kind == ClusterErrorKind::Unavailable;
                node.advance(Progress::Retrying { tries });
                self.retries.insert((now.monotonic.after(pause), index));
            }
            // The refusal is of this create: one before it may have made the pod.
            CreateError::Cluster(error) if node.is_doubtful => {
                let refusal = error.message;
                self.settle(index, 1, refusal, effects);
            }
            CreateError::Cluster(error) => {
                self.end_node(now, index, Err((Reason::Refused, error.message)), effects);
            }
            CreateError::Template(message) => {
                self.end_node(now, index, Err((Reason::Template, message)), effects);
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        index: usize,
        tries: u32,
        refusal: String,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        node.advance(Progress::Settling { tries, refusal });
        self.read(index, effects);
    }

    pub(super) fn name_held(
        &mut self,
        now: Now,
        index: usize,
        holder: &PodView,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        if is_ours(&self.owner, &self.id, &node.names.node, holder) {
            return self.decided(now, index, holder, effects);
        }
        if node.pod_name == node.names.alternative_pod_name {
            let message = format!("a pod that is not ours holds the name {}", node.pod_name);
            return self.end_node(now, index, Err((Reason::Refused, message)), effects);
        }
        node.pod_name = node.names.alternative_pod_name.clone();
        self.index_by_pod.insert(node.pod_name.clone(), index);
        self.create(index, tries, effects);
    }

    pub(super) fn retry_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Some(clearing) = &mut self.clearing {
            for (id, retry) in &mut clearing.pending {
                if retry.is_some_and(|(_, due)| due <= now.monotonic) {
                    // Asked again; the count of tries is kept for the next pause.
                    *retry = retry.map(|(tries, _)| (tries, clearing.deadline));
                    effects.push(Effect::DeletePreviousPods(id.clone()));
                }
            }
        }
        while let Some(&(due, index)) = self.retries.first() {
            if due > now.monotonic {
                break;
            }
            self.retries.pop_first();
            match self.nodes[index].progress.clone() {
                Progress::Retrying { tries } => self.create(index, tries + 1, effects),
                Progress::Settling { tries, refusal } => {
                    self.settle(index, tries + 1, refusal, effects);
                }
                Progress::Exists { .. } => self.read(index, effects),
                Progress::Idle | Progress::Creating { .. } | Progress::Looking => {}
            }
        }
    }
}
