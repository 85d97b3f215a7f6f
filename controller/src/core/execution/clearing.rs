//! The pods of other executions go before the first pod of this one is created; those that do not go in time keep their
//! slots, and only their nodes fail.

use std::collections::BTreeMap;

use super::{CLEARING_TIMEOUT, Effect, Execution};
use crate::core::backoff::backoff;
use crate::core::failure::ClusterError;
use crate::core::ids::ExecutionId;
use crate::core::pod_pool::SlotHolder;
use crate::core::state::Reason;
use crate::core::time::{Monotonic, Now};

/// Waiting for the pods of other executions to go.
#[derive(Debug, Clone)]
pub(super) struct Clearing {
    pub(super) deadline: Monotonic,
    /// Executions whose deletion has not been answered well, with the time of the next try where one failed.
    pub(super) pending: BTreeMap<ExecutionId, Option<(u32, Monotonic)>>,
}

impl Execution {
    pub(super) fn delete_previous(&mut self) -> Vec<Effect> {
        let pending = self
            .clearing
            .iter()
            .flat_map(|clearing| clearing.pending.keys());
        pending.cloned().map(Effect::DeletePreviousPods).collect()
    }

    pub(super) fn previous_deleted(
        &mut self,
        now: Now,
        execution: &ExecutionId,
        result: Result<(), ClusterError>,
    ) {
        let Some(clearing) = &mut self.clearing else {
            return;
        };
        let Some(retry) = clearing.pending.get_mut(execution) else {
            return;
        };
        match result {
            Err(error) if error.kind.is_transient() => {
                let tries = retry.map_or(1, |(tries, _)| tries + 1);
                *retry = Some((
                    tries,
                    now.monotonic
                        .after(backoff(error.kind, tries, execution.as_str())),
                ));
            }
            // Refused for good: the deadline decides, as it does for pods that will not go.
            Ok(()) | Err(_) => {
                clearing.pending.remove(execution);
            }
        }
    }

    /// Repeats the deletions whose time has come.
    pub(super) fn repeat_clearing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(clearing) = &mut self.clearing else {
            return;
        };
        for (id, retry) in &mut clearing.pending {
            if retry.is_some_and(|(_, due)| due <= now.monotonic) {
                // Asked again; the count of tries is kept for the next pause.
                *retry = retry.map(|(tries, _)| (tries, clearing.deadline));
                effects.push(Effect::DeletePreviousPods(id.clone()));
            }
        }
    }

    pub(super) fn clearing_is_over(&self, now: Now) -> bool {
        match &self.clearing {
            None => true,
            Some(clearing) => {
                now.monotonic >= clearing.deadline
                    || (clearing.pending.is_empty() && self.previous.is_empty())
            }
        }
    }

    pub(super) fn end_clearing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.clearing = None;
        for (uid, node) in self.previous.clone() {
            self.pool.adopt(&uid);
            if let Some(&index) = self.index_by_node.get(&node) {
                let message = format!(
                    "a job pod of an earlier execution still runs there after {} s",
                    CLEARING_TIMEOUT.as_secs()
                );
                self.end_attempt(now, index, Err((Reason::PreviousPod, message)), effects);
            }
        }
    }

    pub(super) fn previous_ended(&mut self, uid: &str) {
        self.previous.remove(uid);
        self.pool.release(&SlotHolder::PreviousPod(uid.to_owned()));
    }
}
