//! Reports get their names in batches: what arrives while a batch is written and synced is the next, and shares the turn of
//! the thread for files and, where reports are to survive a loss of power, the sync of the directory.
//!
//! A batch waits for nothing: a wait of a millisecond was tried, and gathered next to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::sync_directory;
use super::temporary::Temporary;
use crate::config::ReportDurability;

/// Writes the temporary file of a report.
type Write = Box<dyn FnOnce() -> io::Result<Temporary> + Send>;

type Answer = oneshot::Sender<io::Result<()>>;

/// What is to be done to the file `target`.
enum Work {
    /// Write a temporary file and put it in the target's place.
    Replace(Write),
    /// Write on at its end.
    Append(Bytes),
}

struct Commit {
    target: PathBuf,
    work: Work,
    answer: Answer,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Commit>,
    /// Whether a batch is under way or about to be.
    is_served: bool,
}

/// What waits to be committed; clones share it.
#[derive(Clone)]
pub(super) struct Commits {
    durability: ReportDurability,
    queue: Arc<Mutex<Queue>>,
    /// One file is appended to again and again.
    open: Arc<Mutex<Option<(PathBuf, File)>>>,
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
            open: Arc::default(),
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
    pub(super) async fn replace(
        &self,
        target: PathBuf,
        write: impl FnOnce() -> io::Result<Temporary> + Send + 'static,
    ) -> io::Result<()> {
        self.commit(target, Work::Replace(Box::new(write))).await
    }

    /// Writes on at the end of a file, which is made where there is none. Those to one file are in the order of the calls.
    ///
    /// # Errors
    /// Of the file system; a part may have been written.
    ///
    /// # Cancel safety
    /// As [`Self::replace`].
    pub(super) async fn append(&self, target: PathBuf, bytes: Bytes) -> io::Result<()> {
        self.commit(target, Work::Append(bytes)).await
    }

    async fn commit(&self, target: PathBuf, work: Work) -> io::Result<()> {
        let (answer, answered) = oneshot::channel();
        let must_serve = {
            let mut queue = self.queue();
            queue.waiting.push(Commit {
                target,
                work,
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

    /// The file that was appended to last, if it is this one and still there.
    fn take_open(&self, target: &Path) -> io::Result<Option<File>> {
        let Some((path, file)) = self.open().take() else {
            return Ok(None);
        };
        let is_there = path == target && file.metadata()?.nlink() > 0;
        Ok(is_there.then_some(file))
    }

    fn keep_open(&self, target: PathBuf, file: File) {
        *self.open() = Some((target, file));
    }

    fn open(&self) -> MutexGuard<'_, Option<(PathBuf, File)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let batch = Batch {
            commits: self.clone(),
            has_begun: false,
        };
        drop(tokio::task::spawn_blocking(move || batch.run()));
    }
}

/// The turn of one batch. Its end, also by a panic, hands on to the next.
struct Batch {
    commits: Commits,
    /// A runtime that shuts down drops it before.
    has_begun: bool,
}

impl Batch {
    fn run(mut self) {
        self.has_begun = true;
        let batch = std::mem::take(&mut self.commits.queue().waiting);
        let mut written = Vec::with_capacity(batch.len());
        let mut appends: BTreeMap<PathBuf, (Vec<u8>, Vec<Answer>)> = BTreeMap::new();
        for Commit {
            target,
            work,
            answer,
        } in batch
        {
            match work {
                Work::Replace(write) => {
                    let temporary = write().and_then(|temporary| {
                        self.sync(&temporary.file)?;
                        Ok(temporary)
                    });
                    written.push((temporary, target, answer));
                }
                Work::Append(bytes) => {
                    let (together, answers) = appends.entry(target).or_default();
                    together.extend_from_slice(&bytes);
                    answers.push(answer);
                }
            }
        }
        let mut directories = Directories::new(self.commits.durability);
        let mut done = Vec::new();
        for (target, (bytes, answers)) in appends {
            let result = self.append(&target, &bytes);
            if matches!(result, Ok(true)) {
                directories.changed(&target);
            }
            for answer in answers {
                done.push((same(&result), target.clone(), answer));
            }
        }
        for (temporary, target, answer) in written {
            let result = temporary.and_then(|temporary| temporary.place(&target));
            if result.is_ok() {
                directories.changed(&target);
            }
            done.push((result, target, answer));
        }
        let failed = directories.sync();
        for (result, target, answer) in done {
            let directory = target.parent().and_then(|directory| failed.get(directory));
            let result = match directory {
                Some(kind) => result.and(Err((*kind).into())),
                None => result,
            };
            // Whoever has gone does not want to know.
            let _ = answer.send(result);
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.commits.durability {
            ReportDurability::Fsync => file.sync_all(),
            ReportDurability::None => Ok(()),
        }
    }

    /// Whether the file is new.
    fn append(&self, target: &Path, bytes: &[u8]) -> io::Result<bool> {
        let (mut file, is_new) = if let Some(file) = self.commits.take_open(target)? {
            (file, false)
        } else {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(target)?;
            let is_new = file.metadata()?.len() == 0;
            (file, is_new)
        };
        file.write_all(bytes)?;
        self.sync(&file)?;
        self.commits.keep_open(target.to_owned(), file);
        Ok(is_new)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let (goes_on, abandoned) = {
            let mut queue = self.commits.queue();
            queue.is_served = self.has_begun && !queue.waiting.is_empty();
            let abandoned = if queue.is_served {
                Vec::new()
            } else {
                std::mem::take(&mut queue.waiting)
            };
            (queue.is_served, abandoned)
        };
        // Their requesters are told that nothing came of it.
        drop(abandoned);
        if goes_on {
            self.commits.serve();
        }
    }
}

/// The directories in which a batch gave a file its name: each is synced once.
struct Directories {
    durability: ReportDurability,
    changed: BTreeSet<PathBuf>,
}

impl Directories {
    fn new(durability: ReportDurability) -> Self {
        Self {
            durability,
            changed: BTreeSet::new(),
        }
    }

    fn changed(&mut self, target: &Path) {
        if self.durability == ReportDurability::Fsync
            && let Some(directory) = target.parent()
            && !self.changed.contains(directory)
        {
            self.changed.insert(directory.to_owned());
        }
    }

    /// Syncs them; those that could not be, with why.
    fn sync(self) -> BTreeMap<PathBuf, io::ErrorKind> {
        let failed = self.changed.into_iter().filter_map(|directory| {
            let error = sync_directory(&directory).err()?;
            Some((directory, error.kind()))
        });
        failed.collect()
    }
}

/// The same result for each of those who share it.
fn same(result: &io::Result<bool>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
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
                commits.replace(target, write(path, written))
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
        let panicked = commits.replace(target.clone(), || panic!("as a defect would"));
        assert!(panicked.await.is_err());
        let committed = commits.replace(target.clone(), write(directory.path(), 1));
        committed.await.unwrap();
        assert!(target.exists());
    }

    #[tokio::test]
    async fn a_report_is_committed_though_nobody_awaits_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let abandoned = directory.path().join("abandoned");
        let commit = commits.replace(abandoned.clone(), write(directory.path(), 1));
        // Polled once, then dropped.
        let polled = futures::FutureExt::now_or_never(commit);
        assert!(polled.is_none());
        let next = commits.replace(directory.path().join("next"), write(directory.path(), 2));
        next.await.unwrap();
        assert!(abandoned.exists());
    }

    #[test]
    fn a_runtime_that_shuts_down_leaves_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(1)
                .build()
                .unwrap()
        };
        let stopped = runtime();
        let (release, released) = std::sync::mpsc::channel::<()>();
        stopped.spawn_blocking(move || released.recv());
        let (waiting, target) = (commits.clone(), directory.path().join("abandoned"));
        let abandoned = write(directory.path(), 1);
        stopped.spawn(async move { waiting.replace(target, abandoned).await });
        while !commits.queue().is_served {
            std::thread::yield_now();
        }
        stopped.shutdown_background();
        drop(release);
        while commits.queue().is_served {
            std::thread::yield_now();
        }
        let target = directory.path().join("report");
        let next = commits.replace(target.clone(), write(directory.path(), 2));
        runtime().block_on(next).unwrap();
        assert!(target.exists());
    }
}
