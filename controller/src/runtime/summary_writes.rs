//! When `_execution.json` is written: as an execution begins, now and then while it changes, and at its end. One write
//! at a time, in order, so that an older summary never replaces a newer one. Serialising and deciding only; the loop
//! writes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::core::execution::Execution;
use crate::core::ids::ExecutionId;
use crate::core::time::Monotonic;

/// The least time between two summaries of a running execution: people look at them, no machine waits for one.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// A summary grows with the list: its writes together stay below a hundredth of a processor.
const PAUSE_PER_NODE: Duration = Duration::from_millis(10);

/// A summary to be written.
pub(super) type Document = (ExecutionId, Bytes);

/// Of an execution that takes long what is a hundredth of its age old is new enough, up to this.
const PAUSE_OF_AGE_MAX: Duration = Duration::from_secs(30);

/// What is to be written, and when the next look is due.
#[derive(Debug, Default)]
pub(super) struct SummaryWrites {
    queue: VecDeque<Document>,
    is_writing: bool,
    has_changed: bool,
    /// Whether something changed in the execution that ended last.
    is_outdated: bool,
    next: Monotonic,
}

impl SummaryWrites {
    /// The running execution began, or something changed in it.
    pub(super) fn note_change(&mut self) {
        self.has_changed = true;
    }

    /// Something arrived for the execution that ended last.
    pub(super) fn note_amendment(&mut self) {
        self.is_outdated = true;
    }

    /// When a summary is to be taken; none while nothing changed or a write is under way.
    pub(super) fn due(&self) -> Option<Monotonic> {
        ((self.has_changed || self.is_outdated) && !self.is_writing).then_some(self.next)
    }

    /// Takes what is outdated of the running execution's summary and that of the last one.
    pub(super) fn take(
        &mut self,
        now: Monotonic,
        running: Option<&Execution>,
        ended: Option<&Execution>,
    ) {
        let outdated = [
            ended.filter(|_| self.is_outdated),
            running.filter(|_| self.has_changed),
        ];
        (self.is_outdated, self.has_changed) = (false, false);
        let age = running.map_or(Duration::ZERO, |running| running.age(now));
        let mut pause = PAUSE_MIN;
        for execution in outdated.into_iter().flatten() {
            pause = pause.max(pause_after(execution.nodes().len(), age));
            self.push(execution);
        }
        self.next = now.after(pause);
    }

    /// Takes the summary of an execution that has ended. The next one's first is due at once.
    pub(super) fn close(&mut self, now: Monotonic, execution: &Execution) {
        (self.is_outdated, self.has_changed) = (false, false);
        self.next = now;
        self.push(execution);
    }

    /// What to write now; to be answered with [`Self::written`].
    pub(super) fn start_write(&mut self) -> Option<Document> {
        if self.is_writing {
            return None;
        }
        let document = self.queue.pop_front()?;
        self.is_writing = true;
        Some(document)
    }

    /// A write ended, well or not.
    pub(super) fn written(&mut self) {
        self.is_writing = false;
    }

    /// Whether a newer summary of the execution waits to be written.
    pub(super) fn is_queued(&self, id: &ExecutionId) -> bool {
        self.queue.iter().any(|(queued, _)| queued == id)
    }

    fn push(&mut self, execution: &Execution) {
        let id = execution.id().clone();
        self.queue.retain(|(queued, _)| *queued != id);
        // The summary is plain data: it always serialises.
        if let Ok(document) = serde_json::to_vec_pretty(&execution.summary()) {
            self.queue.push_back((id, document.into()));
        }
    }
}

/// The pause after a summary of so many nodes, where the execution in progress is of that age.
fn pause_after(nodes: usize, age: Duration) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    let of_nodes = PAUSE_PER_NODE.saturating_mul(nodes);
    let of_age = (age / 100).min(PAUSE_OF_AGE_MAX);
    PAUSE_MIN.max(of_nodes).max(of_age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_nodes_and_up_to_half_a_minute_with_the_age() {
        for (nodes, age_minutes, expected_seconds) in [
            (0, 0, 5),
            (500, 8, 5),
            (500, 20, 12),
            (500, 600, 30),
            (5_000, 600, 50),
        ] {
            let pause = pause_after(nodes, Duration::from_mins(age_minutes));
            assert_eq!(pause, Duration::from_secs(expected_seconds), "{nodes}");
        }
    }
}
