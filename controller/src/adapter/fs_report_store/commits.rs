//! Reports get their names on a few threads for files, lanes, which last as long as something waits: most reports cost
//! no turn of a thread of their own.
//!
//! Where they need not survive a loss of power there is one lane, and each is answered as soon as it has its name.
//! Otherwise the file system can join the syncs of several lanes, and the syncs of a directory are shared: whatever got
//! its name there while one is under way waits for the next. What is done to one file is done in the order of the
//! calls.
//!
//! Nothing waits for others to come: a wait of a millisecond was tried, and gathered next to nothing.

use std::collections::{BTreeSet, VecDeque};
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

/// How many syncs of files are under way at a time: more are no faster.
const SYNCING_LANES_MAX: usize = 16;

/// What a report has come to, before it gets its name.
#[derive(Debug)]
pub(super) enum Written {
    /// Its content, under another name.
    Temporary(Temporary),
    /// It is there already, with this very content.
    Same(File),
}

/// Writes the temporary file of a report.
type Write = Box<dyn FnOnce() -> io::Result<Written> + Send>;

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
    target: Arc<Target>,
    work: Work,
    answer: Answer,
}

/// What one lane does next, all of it to one file.
enum Turn {
    Replace(Write, Answer),
    Append(Open, Vec<u8>, Vec<Answer>),
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Commit>,
    /// What lanes are at.
    busy: BTreeSet<Arc<Target>>,
    lanes: usize,
}

impl Queue {
    /// The first that waits for no lane. What is appended to one file goes there together.
    fn take(&mut self) -> Option<(Arc<Target>, Turn)> {
        let mut waiting = self.waiting.iter();
        let at = waiting.position(|commit| !self.busy.contains(&commit.target))?;
        let Commit {
            target,
            work,
            answer,
        } = self.waiting.remove(at)?;
        self.busy.insert(Arc::clone(&target));
        let turn = match work {
            Work::Replace(write) => Turn::Replace(write, answer),
            Work::Append(open, bytes) => {
                let (mut together, mut answers) = (bytes.to_vec(), vec![answer]);
                self.waiting = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .filter_map(|commit| match commit.work {
                        Work::Append(_, bytes) if commit.target == target => {
                            together.extend_from_slice(&bytes);
                            answers.push(commit.answer);
                            None
                        }
                        _ => Some(commit),
                    })
                    .collect();
                Turn::Append(open, together, answers)
            }
        };
        Some((target, turn))
    }
}

/// What got its name and waits for the sync of its directory.
struct Named {
    directory: Directory,
    answers: Vec<Answer>,
}

#[derive(Default)]
struct DirectorySyncs {
    waiting: Vec<Named>,
    /// Whether a lane is at it, and goes on until none waits.
    is_served: bool,
}

/// What waits to be committed; clones share it.
#[derive(Clone)]
pub(super) struct Commits {
    durability: ReportDurability,
    queue: Arc<Mutex<Queue>>,
    syncs: Arc<Mutex<DirectorySyncs>>,
    /// One file is appended to again and again.
    open: Arc<Mutex<Option<Appended>>>,
}

/// A file that is kept open to be appended to.
struct Appended {
    target: Arc<Target>,
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
            syncs: Arc::default(),
            open: Arc::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syncs(&self) -> MutexGuard<'_, DirectorySyncs> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes_max(&self) -> usize {
        match self.durability {
            ReportDurability::Fsync => SYNCING_LANES_MAX,
            ReportDurability::None => 1,
        }
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
        write: impl FnOnce() -> io::Result<Written> + Send + 'static,
    ) -> io::Result<()> {
        self.commit(target, Work::Replace(Box::new(write))).await
    }

    /// Writes on at the end of a file, which is made where there is none. Those to one file are in the order of the
    /// calls.
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
        let needs_lane = {
            let mut queue = self.queue();
            queue.waiting.push_back(Commit {
                target: Arc::new(target),
                work,
                answer,
            });
            let needs_lane = queue.lanes < self.lanes_max();
            queue.lanes += usize::from(needs_lane);
            needs_lane
        };
        if needs_lane {
            self.open_lane();
        }
        // None answers where a write panicked or the runtime shuts down.
        let stopped = |_| Err(io::Error::other("the write of the report ended early"));
        answered.await.unwrap_or_else(stopped)
    }

    /// It is counted already.
    fn open_lane(&self) {
        let lane = Lane {
            commits: self.clone(),
            at: None,
            state: LaneState::New,
        };
        drop(tokio::task::spawn_blocking(move || lane.run()));
    }

    /// The file that was appended to last, if it is this one and still there.
    fn take_open(&self, target: &Arc<Target>) -> io::Result<Option<Appended>> {
        let Some(appended) = self.open().take() else {
            return Ok(None);
        };
        let is_there = appended.target == *target && appended.file.metadata()?.nlink() > 0;
        Ok(is_there.then_some(appended))
    }

    fn open(&self) -> MutexGuard<'_, Option<Appended>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where reports are to survive a loss of power.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        match self.durability {
            ReportDurability::Fsync => file.sync_all(),
            ReportDurability::None => Ok(()),
        }
    }

    /// Puts a report under its name; where, if that is to be synced.
    fn replace_now(&self, name: &str, write: Write) -> io::Result<Option<Directory>> {
        match write()? {
            Written::Temporary(temporary) => {
                self.sync(&temporary.file)?;
                temporary.rename(name).map(Some)
            }
            // Whoever stored it may not have synced it.
            Written::Same(file) => self.sync(&file).map(|()| None),
        }
    }

    /// Writes on at the end of a file; where that is, if the file is new.
    fn append_now(
        &self,
        target: &Arc<Target>,
        open: Open,
        bytes: &[u8],
    ) -> io::Result<Option<Directory>> {
        let (mut appended, is_new) = if let Some(appended) = self.take_open(target)? {
            (appended, false)
        } else {
            let directory = open()?;
            let file = directory.append(&target.name)?;
            let is_new = file.metadata()?.len() == 0;
            let appended = Appended {
                target: Arc::clone(target),
                directory,
                file,
            };
            (appended, is_new)
        };
        appended.file.write_all(bytes)?;
        self.sync(&appended.file)?;
        let directory = is_new.then(|| appended.directory.clone());
        *self.open() = Some(appended);
        Ok(directory)
    }

    /// Answers, once the directory is synced where there is one.
    fn settle(&self, named: io::Result<Option<Directory>>, answers: Vec<Answer>) {
        match named {
            Ok(Some(directory)) if self.durability == ReportDurability::Fsync => {
                let must_serve = {
                    let mut syncs = self.syncs();
                    syncs.waiting.push(Named { directory, answers });
                    !std::mem::replace(&mut syncs.is_served, true)
                };
                if must_serve {
                    self.sync_directories();
                }
            }
            named => answer(&named.map(drop), answers),
        }
    }

    /// Syncs directories until none waits, each once for all that wait for it.
    fn sync_directories(&self) {
        loop {
            let mut waiting = {
                let mut syncs = self.syncs();
                if syncs.waiting.is_empty() {
                    syncs.is_served = false;
                    return;
                }
                std::mem::take(&mut syncs.waiting)
            };
            while let Some(first) = waiting.pop() {
                let synced = first.directory.sync();
                let is_same = |named: &mut Named| named.directory.is(&first.directory);
                let with_it = waiting.extract_if(.., is_same);
                let answers = with_it.flat_map(|named| named.answers).collect();
                answer(&synced, first.answers);
                answer(&synced, answers);
            }
        }
    }
}

/// The same answer for each of those who share it.
fn answer(result: &io::Result<()>, answers: Vec<Answer>) {
    for answer in answers {
        let same = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Whoever has gone does not want to know.
        let _ = answer.send(same);
    }
}

/// A thread for files, as long as something waits. Its end, also by a panic, leaves nothing waiting.
struct Lane {
    commits: Commits,
    at: Option<Arc<Target>>,
    state: LaneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// A runtime that shuts down drops it so.
    New,
    Begun,
    /// It is not counted any more.
    Ended,
}

impl Lane {
    fn run(mut self) {
        self.state = LaneState::Begun;
        while let Some((target, turn)) = self.next() {
            let (named, answers) = match turn {
                Turn::Append(open, bytes, answers) => {
                    (self.commits.append_now(&target, open, &bytes), answers)
                }
                Turn::Replace(write, answer) => {
                    let named = self.commits.replace_now(&target.name, write);
                    (named, vec![answer])
                }
            };
            // Whoever waits for this file need not wait for its directory.
            self.at = None;
            self.commits.queue().busy.remove(&target);
            self.commits.settle(named, answers);
        }
    }

    fn next(&mut self) -> Option<(Arc<Target>, Turn)> {
        let mut queue = self.commits.queue();
        let next = queue.take();
        if let Some((target, _)) = &next {
            self.at = Some(Arc::clone(target));
        } else {
            queue.lanes -= 1;
            self.state = LaneState::Ended;
        }
        drop(queue);
        next
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.state == LaneState::Ended {
            return;
        }
        let mut queue = self.commits.queue();
        if let Some(target) = self.at.take() {
            queue.busy.remove(&target);
        }
        let goes_on = self.state == LaneState::Begun && !queue.waiting.is_empty();
        queue.lanes -= usize::from(!goes_on);
        let abandoned = if queue.lanes == 0 {
            std::mem::take(&mut queue.waiting)
        } else {
            VecDeque::new()
        };
        drop(queue);
        // Their requesters are told that nothing came of it.
        drop(abandoned);
        if goes_on {
            self.commits.open_lane();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::quota::Charge;
    use super::*;

    fn write(directory: &Path, number: usize) -> impl FnOnce() -> io::Result<Written> + use<> {
        let directory = Directory::open(directory).unwrap().unwrap();
        move || {
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
    async fn each_of_many_reports_has_its_own_answer() {
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
    async fn a_write_that_panics_does_not_stop_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let commits = Commits::new(ReportDurability::None);
        let panicked = commits.replace(target("report"), || panic!("as a defect would"));
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

    #[tokio::test]
    async fn what_is_done_to_one_file_is_done_in_the_order_of_the_calls() {
        for durability in [ReportDurability::Fsync, ReportDurability::None] {
            let directory = tempfile::tempdir().unwrap();
            let commits = Commits::new(durability);
            let path = directory.path();
            let replacing = (0..100).map(|number| {
                let write = write(path, number);
                commits.replace(target("report"), move || {
                    let written = write()?;
                    if let Written::Temporary(temporary) = &written {
                        (&temporary.file).write_all(number.to_string().as_bytes())?;
                    }
                    Ok(written)
                })
            });
            let appending = (0..100).map(|number| {
                let opened = Directory::open(path).unwrap().unwrap();
                let open = move || Ok(opened);
                let line = format!("{number}\n");
                commits.append(target("journal"), open, line.into())
            });
            let (replaced, appended) = futures::future::join(
                futures::future::join_all(replacing),
                futures::future::join_all(appending),
            )
            .await;
            for result in replaced.into_iter().chain(appended) {
                result.unwrap();
            }
            assert_eq!(fs::read_to_string(path.join("report")).unwrap(), "99");
            let journal = fs::read_to_string(path.join("journal")).unwrap();
            let lines: Vec<String> = (0..100).map(|number| number.to_string()).collect();
            assert_eq!(journal.lines().collect::<Vec<_>>(), lines);
        }
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
        while commits.queue().lanes == 0 {
            std::thread::yield_now();
        }
        stopped.shutdown_background();
        drop(release);
        while commits.queue().lanes > 0 {
            std::thread::yield_now();
        }
        let next = commits.replace(target("report"), write(directory.path(), 2));
        runtime().block_on(next).unwrap();
        assert!(directory.path().join("report").exists());
    }
}
