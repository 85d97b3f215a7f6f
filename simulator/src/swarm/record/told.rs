//! What journals tell, read as they are written.

use std::collections::{BTreeMap, BTreeSet};

use controller::core::journal::{Entry, entries_of};
use controller::core::state::NodeState;

/// What the journals of an execution tell of its pods.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By name: the node's place in the list, and the attempt.
    pods: BTreeMap<String, (usize, u32)>,
    uids: BTreeSet<String>,
    /// Attempts that have ended.
    ends: BTreeSet<(usize, u32)>,
    /// Nodes that have failed or are lost.
    failed: BTreeSet<usize>,
    /// The most of them that there were: a late result saves one.
    pub(super) failed_max: usize,
}

impl Told {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for entry in entries_of(bytes).0 {
            match entry {
                Entry::Begun(_) => {}
                Entry::Creating {
                    index,
                    attempt,
                    pod,
                } => {
                    self.pods.insert(pod, (index, attempt));
                }
                Entry::Created { uid, .. } => {
                    self.uids.insert(uid);
                }
                Entry::AttemptEnded { index, attempt, .. } => {
                    self.ends.insert((index, attempt));
                }
                Entry::Ended(ended) => {
                    self.ends.insert((ended.index, ended.attempts));
                    if matches!(ended.state, NodeState::Failed | NodeState::Lost) {
                        self.failed.insert(ended.index);
                        self.failed_max = self.failed_max.max(self.failed.len());
                    } else {
                        self.failed.remove(&ended.index);
                    }
                }
            }
        }
    }

    pub(super) fn has_created(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    /// Nodes that have failed or are lost, for good.
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }

    pub(super) fn has_end(&self, pod: &str) -> bool {
        self.pods
            .get(pod)
            .is_some_and(|attempt| self.ends.contains(attempt))
    }
}
