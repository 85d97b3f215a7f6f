//! Reports get their names in batches: what arrives while a batch is written and synced is the next, and shares the turn of
//! the thread for files, the opening of the directory and, where reports are to survive a loss of power, its sync.
//!
//! A batch waits for nothing: a wait of a millisecond was tried, and gathered next to nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::directory::Directory;
use super::temporary::Temporary;
use crate::config::ReportDurability;
use crate::core::ids::ExecutionId;

/// What a report has come to, before it gets its name.
#[derive(Debug)]
pub(super) enum Written {
    /// Its content, under another name.
    Temporary(Temporary),
    /// It is there already, with this very content.
    Same(File),
}

/// Writes the temporary file of a report.
type Write = Box<dyn FnOnce(&mut Directories) -> io::Result<Written> + Send>;

/// Opens the directory of an execution.
type Open = Box<dyn FnOnce() -> io::Result<Directory> + Send>;

type Answer = oneshot::Sender<io::Result<()>>;

/// What is to be done to a file.
enum Work {
    /// Write a temporary file and give it the file's name.
    Replace(Write),
    /// Write on at its end.
    Append(Open, Bytes),
}

/// A file of an execution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) execution: ExecutionId,
    pub(super) name: String,
}

struct Commit {
    target: Target,
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
    open: Arc<Mutex<Option<Appended>>>,
}

/// A file that is kept open to be appended to.
struct Appended {
    target: Target,
    directory: Directory,
    file: File,
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
        target: Target,
        write: impl FnOnce(&mut Directories) -> io::Result<Written> + Send + 'static,
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
    pub(super) async fn append(
        &self,
        target: Target,
        open: impl FnOnce() -> io::Result<Directory> + Send + 'static,
        bytes: Bytes,
    ) -> io::Result<()> {
        self.commit(target, Work::Append(Box::new(open), bytes))
            .await
    }

    async fn commit(&self, target: Target, work: Work) -> io::Result<()> {
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
    fn take_open(&self, target: &Target) -> io::Result<Option<Appended>> {
        let Some(appended) = self.open().take() else {
            return Ok(None);
        };
        let is_there = appended.target == *target && appended.file.metadata()?.nlink() > 0;
        Ok(is_there.then_some(appended))
    }

    fn open(&self) -> MutexGuard<'_, Option<Appended>> {
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

/// What of a batch goes to the end of one file.
struct Appends {
    open: Open,
    together: Vec<u8>,
    answers: Vec<Answer>,
}

impl Batch {
    fn run(mut self) {
        self.has_begun = true;
        let batch = std::mem::take(&mut self.commits.queue().waiting);
        let mut directories = Directories::new(self.commits.durability);
        let mut written = Vec::with_capacity(batch.len());
        let mut appends: BTreeMap<Target, Appends> = BTreeMap::new();
        for Commit {
            target,
            work,
            answer,
        } in batch
        {
            match work {
                Work::Replace(write) => {
                    let report = write(&mut directories);
                    written.push((self.synced(report), target, answer));
                }
                Work::Append(open, bytes) => {
                    let appends = appends.entry(target).or_insert_with(|| Appends {
                        open,
                        together: Vec::new(),
                        answers: Vec::new(),
                    });
                    appends.together.extend_from_slice(&bytes);
                    appends.answers.push(answer);
                }
            }
        }
        let mut done = Vec::new();
        for (target, appends) in appends {
            let result = self.append(&target, appends.open, &appends.together);
            if let Ok(Some(directory)) = &result {
                directories.changed(&target.execution, directory);
            }
            for answer in appends.answers {
                done.push((same(&result), target.execution.clone(), answer));
            }
        }
        for (report, target, answer) in written {
            let result = report.and_then(|report| match report {
                Written::Same(_) => Ok(()),
                Written::Temporary(temporary) => {
                    let directory = temporary.rename(&target.name)?;
                    directories.changed(&target.execution, &directory);
                    Ok(())
                }
            });
            done.push((result, target.execution, answer));
        }
        let failed = directories.sync();
        for (result, execution, answer) in done {
            let result = match failed.get(&execution) {
                Some(kind) => result.and(Err((*kind).into())),
                None => result,
            };
            // Whoever has gone does not want to know.
            let _ = answer.send(result);
        }
    }

    fn synced(&self, report: io::Result<Written>) -> io::Result<Written> {
        let report = report?;
        match &report {
            Written::Temporary(temporary) => self.sync(&temporary.file)?,
            // Whoever stored it may not have synced it.
            Written::Same(file) => self.sync(file)?,
        }
        Ok(report)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.commits.durability {
            ReportDurability::Fsync => file.sync_all(),
            ReportDurability::None => Ok(()),
        }
    }

    /// The file's directory, where the file is new.
    fn append(&self, target: &Target, open: Open, bytes: &[u8]) -> io::Result<Option<Directory>> {
        let (mut appended, is_new) = if let Some(appended) = self.commits.take_open(target)? {
            (appended, false)
        } else {
            let directory = open()?;
            let file = directory.append(&target.name)?;
            let is_new = file.metadata()?.len() == 0;
            let appended = Appended {
                target: target.clone(),
                directory,
                file,
            };
            (appended, is_new)
        };
        appended.file.write_all(bytes)?;
        self.sync(&appended.file)?;
        let directory = is_new.then(|| appended.directory.clone());
        *self.commits.open() = Some(appended);
        Ok(directory)
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

/// The directories that a batch has to do with: each is opened once, and synced once if a file got its name there.
pub(super) struct Directories {
    durability: ReportDurability,
    open: BTreeMap<ExecutionId, Directory>,
    changed: BTreeMap<ExecutionId, Directory>,
}

impl Directories {
    fn new(durability: ReportDurability) -> Self {
        Self {
            durability,
            open: BTreeMap::new(),
            changed: BTreeMap::new(),
        }
    }

    /// The directory of an execution; `open` is asked for it the first time.
    ///
    /// # Errors
    /// That of `open`.
    pub(super) fn of(
        &mut self,
        execution: &ExecutionId,
        open: impl FnOnce() -> io::Result<Directory>,
    ) -> io::Result<Directory> {
        if let Some(directory) = self.open.get(execution) {
            return Ok(directory.clone());
        }
        let directory = open()?;
        self.open.insert(execution.clone(), directory.clone());
        Ok(directory)
    }

    fn changed(&mut self, execution: &ExecutionId, directory: &Directory) {
        if self.durability == ReportDurability::Fsync && !self.changed.contains_key(execution) {
            self.changed.insert(execution.clone(), directory.clone());
        }
    }

    /// Syncs them; those that could not be, with why.
    fn sync(self) -> BTreeMap<ExecutionId, io::ErrorKind> {
        let failed = self
            .changed
            .into_iter()
            .filter_map(|(execution, directory)| {
                let error = directory.sync().err()?;
                Some((execution, error.kind()))
            });
        failed.collect()
    }
}

/// The same result for each of those who share it.
fn same<T>(result: &io::Result<T>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::quota::Charge;
    use super::*;

    fn write(
        directory: &Path,
        number: usize,
    ) -> impl FnOnce(&mut Directories) -> io::Result<Written> + use<> {
        let directory = Directory::open(directory).unwrap().unwrap();
        move |_| {
            let temporary = Temporary::create(&directory, format!("_{number}"), Charge::free())?;
            temporary
                .map(Written::Temporary)
                .map_err(|_| io::ErrorKind::AlreadyExists.into())
        }
    }

    fn target(name: &str) -> Target {
        Target {
            execution: ExecutionId::parse("202601010342").unwrap(),
            name: name.to_owned(),
        }
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
                    0 => target("missing/report"),
                    _ => target(&number.to_string()),
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
        let panicked = commits.replace(target("report"), |_| panic!("as a defect would"));
        assert!(panicked.await.is_err());
        let committed = commits.replace(target("report"), write(directory.path(), 1));
        committed.await.unwrap();
        assert!(directory.path().join("report").exists());
    }

    #[tokio::test]
    async fn a_report_is_committed_though_nobody_awaits_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let commit = commits.replace(target("abandoned"), write(directory.path(), 1));
        // Polled once, then dropped.
        let polled = futures::FutureExt::now_or_never(commit);
        assert!(polled.is_none());
        let next = commits.replace(target("next"), write(directory.path(), 2));
        next.await.unwrap();
        assert!(directory.path().join("abandoned").exists());
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
        let (waiting, abandoned) = (commits.clone(), write(directory.path(), 1));
        stopped.spawn(async move { waiting.replace(target("abandoned"), abandoned).await });
        while !commits.queue().is_served {
            std::thread::yield_now();
        }
        stopped.shutdown_background();
        drop(release);
        while commits.queue().is_served {
            std::thread::yield_now();
        }
        let next = commits.replace(target("report"), write(directory.path(), 2));
        runtime().block_on(next).unwrap();
        assert!(directory.path().join("report").exists());
    }
}
