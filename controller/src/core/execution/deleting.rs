//! Deleting single pods, by name and uid, so that a successor under the name is safe: those past a deadline, those that
//! nobody waits for, and ended ones beyond `endedPods`. A deletion is repeated until the API server has taken it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Execution};
use crate::core::backoff::backoff;
use crate::core::failure::{ClusterError, ClusterErrorKind};
use crate::core::node_run::Progress;
use crate::core::pod_phase;
use crate::core::time::Now;
use crate::core::views::{PodPhase, PodView};

/// A deletion that has not been answered well.
#[derive(Debug, Clone)]
pub(super) struct Deletion {
    pod_name: String,
    tries: u32,
}

/// The ended pods of this execution that exist.
#[derive(Debug, Clone, Default)]
pub(super) struct EndedPods {
    by_uid: BTreeMap<String, EndedPod>,
    /// Those that may be deleted, in the order in which they go: succeeded ones first, then the older.
    deletable: BTreeSet<(bool, u64, String)>,
    next_number: u64,
}

#[derive(Debug, Clone)]
struct EndedPod {
    name: String,
    /// Its node's place in the list.
    index: usize,
    has_failed: bool,
    number: u64,
}

impl EndedPods {
    fn add(&mut self, index: usize, pod: &PodView) {
        let ended = EndedPod {
            name: pod.name.clone(),
            index,
            has_failed: pod.phase != PodPhase::Succeeded,
            number: self.next_number,
        };
        self.next_number += 1;
        self.by_uid.insert(pod.uid.clone(), ended);
    }

    fn settle(&mut self, uid: &str) {
        if let Some(pod) = self.by_uid.get(uid) {
            let key = (pod.has_failed, pod.number, uid.to_owned());
            self.deletable.insert(key);
        }
    }

    fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.by_uid.remove(uid) {
            let key = (pod.has_failed, pod.number, uid.to_owned());
            self.deletable.remove(&key);
        }
    }

    /// Takes the next one that goes, where there are more than `limit`: its name and uid. One whose node `is_open`
    /// stays.
    fn take_beyond(
        &mut self,
        limit: usize,
        is_open: impl Fn(usize) -> bool,
    ) -> Option<(String, String)> {
        if self.by_uid.len() <= limit {
            return None;
        }
        let may_go = |uid: &str| self.by_uid.get(uid).is_some_and(|pod| !is_open(pod.index));
        let key = (self.deletable.iter())
            .find(|(_, _, uid)| may_go(uid))?
            .clone();
        self.deletable.remove(&key);
        let (_, _, uid) = key;
        let pod = self.by_uid.remove(&uid)?;
        Some((pod.name, uid))
    }
}

impl Execution {
    pub(super) fn delete_pod(&mut self, pod_name: String, uid: String, effects: &mut Vec<Effect>) {
        if self.deletions.contains_key(&uid) {
            return;
        }
        let deletion = Deletion {
            pod_name: pod_name.clone(),
            tries: 1,
        };
        self.deletions.insert(uid.clone(), deletion);
        effects.push(Effect::DeletePod { pod_name, uid });
    }

    pub(super) fn pod_deleted(
        &mut self,
        now: Now,
        uid: &str,
        result: Result<(), ClusterError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(deletion) = self.deletions.get_mut(uid) else {
            return;
        };
        match result {
            Ok(()) => _ = self.deletions.remove(uid),
            // It is gone, and the watch may have nothing more to say of it.
            Err(error)
                if matches!(
                    error.kind,
                    ClusterErrorKind::NotFound | ClusterErrorKind::Conflict
                ) =>
            {
                let index = self.index_by_pod.get(&deletion.pod_name).copied();
                self.deletions.remove(uid);
                if let Some(index) = index.filter(|&i| self.nodes[i].pod_uid() == Some(uid)) {
                    self.read(index, effects);
                }
            }
            // A refusal, too: the right may come back, and until then the pod is what it was.
            Err(error) => {
                let pause = backoff(error.kind, deletion.tries, &deletion.pod_name);
                deletion.tries += 1;
                let due = now.monotonic.after(pause);
                self.deletion_retries.insert((due, uid.to_owned()));
            }
        }
    }

    pub(super) fn repeat_deletions(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((due, _)) = self.deletion_retries.first() {
            if *due > now.monotonic {
                break;
            }
            let Some((_, uid)) = self.deletion_retries.pop_first() else {
                break;
            };
            if let Some(deletion) = self.deletions.get(&uid) {
                let pod_name = deletion.pod_name.clone();
                effects.push(Effect::DeletePod { pod_name, uid });
            }
        }
    }

    /// A pod of this execution that no node waits for: a create that nobody saw answered came through after all, or its
    /// node came back. It holds no slot and must not run beside those that do.
    pub(super) fn unexpected(&mut self, index: usize, pod: &PodView, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        // Before its first turn it may be the pod of a leader before us, which the create will find.
        let is_known = node.attempts == 0
            || node.newest_uid.as_ref() == Some(&pod.uid)
            || self.ended_pods.by_uid.contains_key(&pod.uid);
        if !is_known && pod_phase::end_of(pod).is_none() && !pod.terminating {
            self.delete_pod(pod.name.clone(), pod.uid.clone(), effects);
        }
    }

    /// A pod ended and still exists.
    pub(super) fn keep_ended(&mut self, index: usize, pod: &PodView) {
        self.ended_pods.add(index, pod);
    }

    /// A pod does not exist any more.
    pub(super) fn forget_pod(&mut self, uid: &str) {
        self.ended_pods.remove(uid);
        self.deletions.remove(uid);
    }

    pub(super) fn pod_settled(&mut self, uid: &str) {
        self.ended_pods.settle(uid);
    }

    /// Deletes ended pods beyond the limit whose outcome is decided.
    pub(super) fn delete_ended_pods(&mut self, effects: &mut Vec<Effect>) {
        let nodes = &self.nodes;
        let is_open = |index: usize| nodes[index].progress == Progress::Looking;
        while let Some((pod_name, uid)) =
            (self.ended_pods).take_beyond(self.limits.ended_pods, is_open)
        {
            let deletion = Deletion {
                pod_name: pod_name.clone(),
                tries: 1,
            };
            self.deletions.insert(uid.clone(), deletion);
            effects.push(Effect::DeleteEndedPod { pod_name, uid });
        }
    }

    /// The watch began again: ended pods that are not there have gone.
    pub(super) fn forget_ended_except(&mut self, present: &BTreeMap<&str, &PodView>) {
        let known: Vec<String> = (self.ended_pods.by_uid.keys())
            .filter(|uid| !present.contains_key(uid.as_str()))
            .cloned()
            .collect();
        for uid in known {
            self.forget_pod(&uid);
        }
    }
}
