//! The journal on the report volume: where lines go, and the queue of those that nothing waits for.

use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::stored_result::{patiently, read_whole};
use crate::core::ids::ExecutionId;
use crate::core::journal::{Entry, entries_of, epoch_of, file_name, lines_of};
use crate::core::time::Monotonic;
use crate::ports::clock::Clock;
use crate::ports::report_store::{ReportStore, ReportStoreError};

/// The file of one execution that this leader appends to. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal<R> {
    reports: R,
    execution: ExecutionId,
    file: String,
}

impl<R: ReportStore> Journal<R> {
    pub(super) fn new(reports: R, execution: ExecutionId, epoch: u64) -> Self {
        Self {
            reports,
            execution,
            file: file_name(epoch),
        }
    }

    /// Appends entries; after `Ok` they outlive this process.
    ///
    /// # Errors
    /// Of the volume; some may be there all the same, and may be appended again.
    pub(super) async fn append(&self, entries: &[Entry]) -> Result<(), ReportStoreError> {
        let lines = Bytes::from(lines_of(entries));
        self.reports
            .append(&self.execution, &self.file, lines)
            .await
    }
}

/// Reads an execution's journals, in the order of their epochs. What nobody can read for long is left out, with a
/// warning.
pub(super) async fn read_all<R: ReportStore>(
    reports: &R,
    clock: &impl Clock,
    execution: &ExecutionId,
    files: &[String],
) -> Vec<Entry> {
    let mut epochs: Vec<u64> = files.iter().filter_map(|file| epoch_of(file)).collect();
    epochs.sort_unstable();
    let mut entries = Vec::new();
    for epoch in epochs {
        let file = file_name(epoch);
        match patiently(clock, || read_whole(reports, execution, &file, u64::MAX)).await {
            Ok(bytes) => {
                let (read, skipped) = entries_of(&bytes);
                if skipped > 0 {
                    warn!(execution_id = %execution, file, skipped, "lines of a journal cannot be read");
                }
                entries.extend(read);
            }
            Err(error) => {
                warn!(execution_id = %execution, file, error = %error, "journal cannot be read");
            }
        }
    }
    entries
}

/// Entries that tell what has happened already: written in order, one write at a time, again until it goes well.
#[derive(Debug, Default)]
pub(super) struct JournalWrites {
    queue: Vec<Entry>,
    next: Monotonic,
    /// Entries that are being written, and that outlive this process.
    in_flight: u64,
    durable: u64,
}

/// The least time between two writes of what nothing waits for. What a crash takes of it is asked of the pods.
const PAUSE: Duration = Duration::from_millis(250);

impl JournalWrites {
    pub(super) fn push(&mut self, entry: Entry) {
        self.queue.push(entry);
    }

    /// When something is to be written; none while a write is under way.
    pub(super) fn due(&self) -> Option<Monotonic> {
        (self.in_flight == 0 && !self.queue.is_empty()).then_some(self.next)
    }

    /// What to write now; to be answered with [`Self::written`].
    pub(super) fn start_write(&mut self, now: Monotonic) -> Option<Vec<Entry>> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.next = now.after(PAUSE);
        self.in_flight = self.queue.len() as u64;
        Some(std::mem::take(&mut self.queue))
    }

    /// A write ended.
    pub(super) fn written(&mut self) {
        self.durable += std::mem::take(&mut self.in_flight);
    }

    /// Forgets what is not written yet: its execution is closed.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// What was pushed so far, to be compared with [`Self::durable`].
    pub(super) fn pushed(&self) -> u64 {
        self.durable + self.in_flight + self.queue.len() as u64
    }

    /// So many of the entries pushed outlive this process.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }
}
