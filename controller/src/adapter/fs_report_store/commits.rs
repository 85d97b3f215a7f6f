//! Reports get their names in batches: what arrives while a batch is written and synced is the next, and shares the turn of
//! the thread for files and, where reports are to survive a loss of power, the sync of the directory.
//!
//! A batch waits for nothing: a wait of a millisecond was tried, and gathered next to nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::sync_directory;
use super::temporary::Temporary;
use crate::config::ReportDurability;

/// Writes the temporary file of a report.
type Write = Box<dyn FnOnce() -> io::Result<Temporary> + Send>;

/// A report that is to be written and named.
struct Commit {
    write: Write,
    target: PathBuf,
    answer: oneshot::Sender<io::Result<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Commit>,
    /// Whether a batch is under way or about to be.
    is_served: bool,
}

/// The reports that wait for their names; clones share them.
#[derive(Clone)]
pub(super) struct Commits {
    durability: ReportDurability,
    queue: Arc<Mutex<Queue>>,
}

impl std::fmt::Debug for Commits {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Commits")
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl Commits {
    pub(super) fn new(durability: ReportDurability) -> Self {
        Self {
            durability,
            queue: Arc::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a report and puts it under its name, in place of what was there.
    ///
    /// # Errors
    /// Of the file system. Where it is the sync of the directory that failed, the report has its name already.
    ///
    /// # Cancel safety
    /// Once polled, the report is committed whether the answer is awaited or not.
    pub(super) async fn commit(
        &self,
        target: PathBuf,
        write: impl FnOnce() -> io::Result<Temporary> + Send + 'static,
    ) -> io::Result<()> {
        let (answer, answered) = oneshot::channel();
        let must_serve = {
            let mut queue = self.queue();
            queue.waiting.push(Commit {
                write: Box::new(write),
                target,
                answer,
            });
            !std::mem::replace(&mut queue.is_served, true)
        };
        if must_serve {
            self.serve();
        }
        // None answers where a batch panicked or the runtime shuts down.
        let stopped = |_| Err(io::Error::other("the batch of reports ended early"));
        answered.await.unwrap_or_else(stopped)
    }

    fn serve(&self) {
        let batch = Batch(self.clone());
        drop(tokio::task::spawn_blocking(move || batch.run()));
    }
}

/// The turn of one batch. Its end, also by a panic, hands on to the next.
struct Batch(Commits);

impl Batch {
    fn run(self) {
        let batch = std::mem::take(&mut self.0.queue().waiting);
        let mut answers = Vec::with_capacity(batch.len());
        let mut written = Vec::with_capacity(batch.len());
        for commit in batch {
            let temporary = (commit.write)().and_then(|temporary| {
                if self.0.durability == ReportDurability::Fsync {
                    temporary.file.sync_all()?;
                }
                Ok(temporary)
            });
            written.push((temporary, commit.target));
            answers.push(commit.answer);
        }
        let results = self.place(written);
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever has gone does not want to know.
            let _ = answer.send(result);
        }
    }

    /// Names what has been written and, where that is wanted, syncs each directory once.
    fn place(&self, written: Vec<(io::Result<Temporary>, PathBuf)>) -> Vec<io::Result<()>> {
        let placed: Vec<_> = written
            .into_iter()
            .map(|(temporary, target)| {
                let result = temporary.and_then(|temporary| temporary.place(&target));
                (result, target)
            })
            .collect();
        let mut synced: BTreeMap<&Path, Result<(), io::ErrorKind>> = BTreeMap::new();
        if self.0.durability == ReportDurability::Fsync {
            for (result, target) in &placed {
                if let (Ok(()), Some(directory)) = (result, target.parent()) {
                    synced
                        .entry(directory)
                        .or_insert_with(|| sync_directory(directory).map_err(|error| error.kind()));
                }
            }
        }
        let failed: Vec<_> = placed
            .iter()
            .map(|(_, target)| {
                let directory = target.parent()?;
                synced.get(directory)?.err()
            })
            .collect();
        placed
            .into_iter()
            .zip(failed)
            .map(|((result, _), failed)| match failed {
                Some(kind) => result.and(Err(kind.into())),
                None => result,
            })
            .collect()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let goes_on = {
            let mut queue = self.0.queue();
            queue.is_served = !queue.waiting.is_empty();
            queue.is_served
        };
        if goes_on {
            self.0.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(directory: &Path, number: usize) -> impl FnOnce() -> io::Result<Temporary> + use<> {
        let path = directory.join(format!("_{number}"));
        move || Temporary::create(path)?.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    #[tokio::test]
    async fn each_report_of_a_batch_has_its_own_answer() {
        for durability in [ReportDurability::Fsync, ReportDurability::None] {
            let directory = tempfile::tempdir().unwrap();
            let commits = Commits::new(durability);
            let path = directory.path();
            let committing = (0..100).map(|number| {
                // Every tenth cannot be named, every other tenth not even written.
                let target = match number % 10 {
                    0 => path.join("missing").join("report"),
                    _ => path.join(number.to_string()),
                };
                let written = if number % 10 == 5 { 1 } else { number };
                commits.commit(target, write(path, written))
            });
            fs::write(path.join("_1"), "taken").unwrap();
            let results = futures::future::join_all(committing).await;
            for (number, result) in results.into_iter().enumerate() {
                let is_wanted = !matches!(number % 10, 0 | 5) && number != 1;
                assert_eq!(result.is_ok(), is_wanted, "{durability:?} {number}");
                assert_eq!(path.join(number.to_string()).exists(), is_wanted);
            }
        }
    }

    #[tokio::test]
    async fn a_batch_that_panics_does_not_stop_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let target = directory.path().join("report");
        let panicked = commits.commit(target.clone(), || panic!("as a defect would"));
        assert!(panicked.await.is_err());
        let committed = commits.commit(target.clone(), write(directory.path(), 1));
        committed.await.unwrap();
        assert!(target.exists());
    }

    #[tokio::test]
    async fn a_report_is_committed_though_nobody_awaits_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let abandoned = directory.path().join("abandoned");
        let commit = commits.commit(abandoned.clone(), write(directory.path(), 1));
        // Polled once, then dropped.
        let polled = futures::FutureExt::now_or_never(commit);
        assert!(polled.is_none());
        let next = commits.commit(directory.path().join("next"), write(directory.path(), 2));
        next.await.unwrap();
        assert!(abandoned.exists());
    }
}
