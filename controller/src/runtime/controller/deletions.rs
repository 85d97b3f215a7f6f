//! Deleting single pods. An ended pod goes only when its end is told elsewhere: in the journal while its execution
//! runs, in the summary afterwards.

use tracing::warn;

use super::Controller;
use crate::core::execution;
use crate::core::ids::ExecutionId;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterErrorKind;
use crate::runtime::Ports;
use crate::runtime::event::Event;

/// An ended pod whose end is not durable yet.
#[derive(Debug)]
pub(super) struct HeldDeletion {
    execution: ExecutionId,
    pod_name: String,
    uid: String,
    /// Entries of the journal that must be durable.
    entries: u64,
}

impl<P: Ports> Controller<P> {
    /// Also on behalf of an execution that has just ended.
    pub(super) fn delete_pod(&mut self, id: ExecutionId, pod_name: String, uid: String) {
        let api = self.api.clone();
        self.spawn(async move {
            let call = api.cluster().delete_pod(&pod_name, &uid);
            let result = api.write("delete_pod", call).await;
            if let Err(error) = &result
                && !matches!(
                    error.kind,
                    ClusterErrorKind::NotFound | ClusterErrorKind::Conflict
                )
            {
                warn!(execution_id = %id, pod = pod_name, error = %error, "pod not deleted yet");
            }
            let deleted = execution::Event::PodDeleted {
                pod_name,
                uid,
                result,
            };
            Some(Event::Answer(id, deleted))
        });
    }

    /// Deletes an ended pod as soon as what was told of it is durable.
    pub(super) fn delete_ended_pod(&mut self, id: ExecutionId, pod_name: String, uid: String) {
        self.held_deletions.push(HeldDeletion {
            execution: id,
            pod_name,
            uid,
            entries: self.journal_writes.pushed(),
        });
        self.release_deletions();
    }

    /// Deletes the ended pods whose ends are durable by now.
    pub(super) fn release_deletions(&mut self) {
        let durable = self.journal_writes.durable();
        let (free, held) = (std::mem::take(&mut self.held_deletions).into_iter())
            .partition::<Vec<_>, _>(|held| {
                if self.is_current(&held.execution) {
                    held.entries <= durable
                } else {
                    // Ended: its summary has it all.
                    self.closing.as_ref() != Some(&held.execution)
                }
            });
        self.held_deletions = held;
        for held in free {
            self.delete_pod(held.execution, held.pod_name, held.uid);
        }
    }
}
