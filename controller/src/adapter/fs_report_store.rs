//! The report directory on a file system: `<directory>/<execution id>/<stored name>` and the link `latest`.
//!
//! A report is written to a temporary file in its own directory and renamed; the same small report again is not written
//! again. Only real directories named like an execution id and regular files in them exist for this store: links are
//! neither followed nor listed (`directory.rs`), anything else in the report directory is left alone. Uploads go to
//! disk in blocks, so that their size does not show in memory, and every system call runs on the runtime's threads for
//! blocking work.

mod block;
mod commits;
mod directory;
mod fingerprints;
mod quota;
mod temporary;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use rustix::fs::Stat;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use self::block::Block;
use self::commits::{Commits, Target, Written};
use self::directory::Directory;
use self::fingerprints::Fingerprints;
use self::quota::{Charge, OverQuota, Quota};
use self::temporary::{Holder, Temporary, TemporaryPlace, is_leaders, is_temporary};
use crate::config::ReportDurability;
use crate::core::ids::ExecutionId;
use crate::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind, Upload,
};

/// The link to the newest execution.
const LATEST: &str = "latest";

/// What is written or read at a time: large enough to keep a disk busy, small enough for a thousand uploads.
const BLOCK_BYTES: usize = 64 * 1024;

/// What is written at a time of a few large uploads, which then take half as long: each has two such blocks.
const WIDE_BLOCK_BYTES: usize = 256 * 1024;
const WIDE_UPLOADS_MAX: usize = 32;

/// How many removed executions are remembered: far more than can have an upload under way.
const REMOVED_MAX: usize = 1024;

/// What is read of a file of our own: far more than a ConfigMap can hold.
const OWN_BYTES_MAX: u64 = 16 << 20;

/// What nobody has written to for so long nobody is writing: an upload that is that slow is cut off before.
const ABANDONED_SECONDS: i64 = 600;

/// Reports below one directory; clones share it, and cost next to nothing.
#[derive(Debug, Clone)]
pub struct FsReportStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    directory: PathBuf,
    durability: ReportDurability,
    commits: Commits,
    holder: Holder,
    next_temporary: AtomicU64,
    quota: Quota,
    fingerprints: Fingerprints,
    wide_uploads: Arc<Semaphore>,
    /// The newest executions that this process removed and did not make again.
    removed: Mutex<BTreeSet<ExecutionId>>,
}

impl FsReportStore {
    /// A store in `directory`, which need not exist yet. `identity` is the holder identity of this process: no other
    /// one that lives writes to the directory under it.
    #[must_use]
    pub fn new(directory: PathBuf, durability: ReportDurability, identity: &str) -> Self {
        Self(Arc::new(Store {
            directory,
            durability,
            commits: Commits::new(durability),
            holder: Holder::new(identity),
            next_temporary: AtomicU64::default(),
            quota: Quota::default(),
            fingerprints: Fingerprints::default(),
            wide_uploads: Arc::new(Semaphore::new(WIDE_UPLOADS_MAX)),
            removed: Mutex::default(),
        }))
    }

    /// The reports of an execution take at most so many bytes, those on their way included; none: as many as fit.
    ///
    /// # Panics
    /// Where there is a clone already.
    #[must_use]
    pub fn with_quota(mut self, bytes_max: Option<u64>) -> Self {
        let store = Arc::get_mut(&mut self.0).expect("nobody shares it yet");
        store.quota = Quota::new(bytes_max);
        self
    }

    fn execution_path(&self, execution: &ExecutionId) -> PathBuf {
        self.0.directory.join(execution.as_str())
    }

    /// Runs file system calls where they may block; `subject` is what an error names.
    async fn blocking<T: Send + 'static>(
        &self,
        subject: String,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ReportStoreError> {
        let store = self.clone();
        run_blocking(subject, move || work(&store)).await
    }

    fn removed(&self) -> MutexGuard<'_, BTreeSet<ExecutionId>> {
        self.0
            .removed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the execution's directory, which from now on no report makes again.
    fn remove(&self, execution: &ExecutionId) -> io::Result<()> {
        {
            let mut removed = self.removed();
            removed.insert(execution.clone());
            if removed.len() > REMOVED_MAX {
                removed.pop_first();
            }
        }
        let path = self.execution_path(execution);
        // A link of that name is not ours; inside, links are removed as links.
        if Directory::open(&path)?.is_none() {
            return Ok(());
        }
        let removed = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        self.0.quota.forget(execution);
        removed
    }

    /// The execution's directory, made where there is none.
    fn made_execution(&self, execution: &ExecutionId) -> io::Result<Directory> {
        let path = self.execution_path(execution);
        if let Some(directory) = Directory::open(&path)? {
            return Ok(directory);
        }
        {
            // Held until it is made: a removal comes before, and shows, or after, and removes it.
            let removed = self.removed();
            if removed.contains(execution) {
                return Err(io::ErrorKind::NotFound.into());
            }
            fs::create_dir_all(&self.0.directory)?;
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        if self.0.durability == ReportDurability::Fsync {
            self.root()?.sync()?;
        }
        // What else may have that name is not ours.
        Directory::open(&path)?.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// The execution's directory, if it is a real one.
    fn existing_execution(&self, execution: &ExecutionId) -> io::Result<Directory> {
        let directory = Directory::open(&self.execution_path(execution))?;
        directory.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The report directory itself, which may be reached by a link.
    fn root(&self) -> io::Result<Directory> {
        let directory = Directory::open(&fs::canonicalize(&self.0.directory)?)?;
        directory.ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// A new temporary file, which is charged for. Its number is free by the exclusive creation.
    fn new_temporary(&self, directory: &Directory, charge: Charge) -> io::Result<Temporary> {
        self.new_temporary_named(directory, charge, Holder::temporary_name)
    }

    fn new_temporary_named(
        &self,
        directory: &Directory,
        mut charge: Charge,
        name: fn(&Holder, u64) -> String,
    ) -> io::Result<Temporary> {
        loop {
            let name = name(&self.0.holder, self.next_temporary());
            match Temporary::create(directory, name, charge)? {
                Ok(temporary) => return Ok(temporary),
                Err(taken) => charge = taken,
            }
        }
    }

    fn next_temporary(&self) -> u64 {
        self.0.next_temporary.fetch_add(1, Ordering::Relaxed)
    }

    fn replace_latest(&self, execution: &ExecutionId) -> io::Result<()> {
        fs::create_dir_all(&self.0.directory)?;
        let root = self.root()?;
        let temporary = loop {
            let name = self.0.holder.temporary_name(self.next_temporary());
            if root.link(&name, execution.as_str())?.is_some() {
                break name;
            }
        };
        root.rename(&temporary, LATEST).inspect_err(|_| {
            // What matters is the error above.
            let _ = root.remove(&temporary);
        })?;
        if self.0.durability == ReportDurability::Fsync {
            root.sync()?;
        }
        Ok(())
    }

    fn read_latest(&self) -> io::Result<Option<ExecutionId>> {
        let target = match fs::read_link(self.0.directory.join(LATEST)) {
            Ok(target) => target,
            // A file or a directory of that name is somebody else's.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let execution = target
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(ExecutionId::parse);
        match execution {
            Some(execution) if Directory::open(&self.execution_path(&execution))?.is_some() => {
                Ok(Some(execution))
            }
            _ => Ok(None),
        }
    }

    fn execution_directories(&self) -> io::Result<Vec<ExecutionId>> {
        let entries = match fs::read_dir(&self.0.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut executions = Vec::new();
        for entry in entries {
            let entry = entry?;
            // `file_type` of an entry does not follow links.
            if let Some(execution) = entry.file_name().to_str().and_then(ExecutionId::parse)
                && entry.file_type()?.is_dir()
            {
                executions.push(execution);
            }
        }
        executions.sort_unstable();
        Ok(executions)
    }

    fn report_files(&self, execution: &ExecutionId) -> io::Result<Vec<ReportMetadata>> {
        let directory = self.existing_execution(execution)?;
        let mut reports = Vec::new();
        for name in directory.names()? {
            // None where it was removed between the two calls.
            if !is_temporary(&name)
                && let Some(stat) = directory.file_stat(&name)?
            {
                reports.push(report_metadata(name, &stat));
            }
        }
        reports.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(reports)
    }

    fn report_file(&self, execution: &ExecutionId, name: &str) -> io::Result<ReportMetadata> {
        check_report(name)?;
        let stat = self.existing_execution(execution)?.file_stat(name)?;
        let stat = stat.ok_or(io::ErrorKind::NotFound)?;
        Ok(report_metadata(name.to_owned(), &stat))
    }

    fn open_report(&self, execution: &ExecutionId, name: &str, offset: u64) -> io::Result<File> {
        check_report(name)?;
        let mut file = self.existing_execution(execution)?.read(name)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    /// Removes temporary files whose holder and time of the last write are such, in whichever execution.
    fn remove_temporaries(&self, is_left: impl Fn(&Holder, i64) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        let executions = (self.execution_directories()?.into_iter())
            .filter_map(|execution| self.existing_execution(&execution).ok());
        for directory in executions.chain([self.root()?]) {
            for name in directory.names()? {
                let Some(holder) = Holder::of(&name) else {
                    continue;
                };
                if let Some(stat) = directory.stat(&name)?
                    && is_left(&holder, stat.st_mtime)
                {
                    match directory.remove(&name) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => removed += 1,
                    }
                }
            }
        }
        Ok(removed)
    }

    /// Removes the temporary files that an earlier process of this holder left. Nothing may be under way.
    ///
    /// # Errors
    /// The file system's; some may be removed.
    pub async fn remove_own_temporaries(&self) -> Result<usize, ReportStoreError> {
        self.blocking("report directory".to_owned(), |store| {
            store.remove_temporaries(|holder, _| *holder == store.0.holder)
        })
        .await
    }
}

async fn run_blocking<T: Send + 'static>(
    subject: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ReportStoreError> {
    joined(spawn_blocking(work).await, || subject)
}

/// What a thread for files has to say of a subject.
fn joined<T>(
    ended: Result<io::Result<T>, JoinError>,
    subject: impl FnOnce() -> String,
) -> Result<T, ReportStoreError> {
    match ended {
        Ok(result) => result.map_err(|error| store_error(&subject(), &error)),
        Err(error) => Err(ReportStoreError {
            kind: ReportStoreErrorKind::Unavailable,
            message: format!("{}: {error}", subject()),
        }),
    }
}

fn store_error(subject: &str, error: &io::Error) -> ReportStoreError {
    let over_quota = (error.get_ref()).and_then(|error| error.downcast_ref::<OverQuota>());
    let kind = match (over_quota, error.kind()) {
        (Some(over), _) => ReportStoreErrorKind::OverQuota {
            bytes_max: over.bytes_max,
        },
        (None, io::ErrorKind::NotFound) => ReportStoreErrorKind::NotFound,
        (
            None,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge,
        ) => ReportStoreErrorKind::NoSpace,
        (None, _) => ReportStoreErrorKind::Unavailable,
    };
    ReportStoreError {
        kind,
        message: format!("{subject}: {error}"),
    }
}

/// One plain component of a path.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file name",
        ));
    }
    Ok(())
}

/// A name that a report may have.
fn check_report(name: &str) -> io::Result<()> {
    check_name(name)?;
    if is_temporary(name) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(())
}

fn report_metadata(name: String, stat: &Stat) -> ReportMetadata {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    ReportMetadata {
        name,
        length: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

/// An upload into a temporary file, which is made when the first block is full: a small report costs one system
/// thread's turn, at its end.
#[derive(Debug)]
pub struct FsUpload {
    store: FsReportStore,
    execution: ExecutionId,
    name: String,
    progress: Progress,
    block: Block,
    /// Where its blocks are wide: its place among those.
    wide: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Progress {
    Buffered,
    /// Its first block is written.
    Begun(Temporary),
    /// A further one is on its way to it, or was the last.
    Writing(JoinHandle<io::Result<Temporary>>),
    /// All of it is in the file, which is closed.
    Suspended(TemporaryPlace),
    Failed,
}

impl FsUpload {
    /// What has arrived and is to be written next, and where that goes: after what is being written is.
    async fn take(&mut self) -> Result<Pending, ReportStoreError> {
        let place = match std::mem::replace(&mut self.progress, Progress::Failed) {
            Progress::Buffered => Place::None,
            Progress::Suspended(place) => Place::Closed(place),
            Progress::Begun(temporary) => Place::Open(temporary),
            Progress::Writing(writing) => Place::Open(joined(writing.await, || self.subject())?),
            Progress::Failed => {
                return Err(ReportStoreError {
                    kind: ReportStoreErrorKind::Unavailable,
                    message: format!("{}: an earlier write failed", self.subject()),
                });
            }
        };
        Ok(Pending {
            store: self.store.clone(),
            execution: self.execution.clone(),
            name: self.name.clone(),
            place,
            content: self.block.take(),
            may_store: None,
        })
    }

    /// Writes what is left and names the report.
    async fn commit(mut self, may_store: Option<MayStore>) -> Result<(), ReportStoreError> {
        let mut pending = self.take().await?;
        pending.may_store = may_store;
        if !matches!(pending.place, Place::None) {
            // What takes its time is not done where others wait.
            let written = run_blocking(self.subject(), move || pending.write_and_sync());
            pending = written.await?;
        }
        let target = Target {
            execution: self.execution.clone(),
            name: self.name.clone(),
        };
        let write = move || pending.write_last();
        let committed = self.store.0.commits.replace(target, write).await;
        committed.map_err(|error| store_error(&self.subject(), &error))
    }

    fn subject(&self) -> String {
        subject(&self.execution, &self.name)
    }
}

/// Where an upload is.
enum Place {
    /// Nowhere yet.
    None,
    Open(Temporary),
    Closed(TemporaryPlace),
}

/// Whether a report may be stored.
type MayStore = Box<dyn Fn() -> bool + Send>;

/// The next part of an upload; its methods run on a thread for files.
struct Pending {
    store: FsReportStore,
    execution: ExecutionId,
    name: String,
    place: Place,
    content: Vec<Bytes>,
    /// Where only a leader may store it.
    may_store: Option<MayStore>,
}

impl Pending {
    fn begin(&self, directory: &Directory) -> io::Result<Temporary> {
        let charge = (self.store.0.quota).charge(&self.execution, directory, &self.name)?;
        let name = match self.may_store {
            Some(_) => Holder::leaders_name,
            None => Holder::temporary_name,
        };
        (self.store).new_temporary_named(directory, charge, name)
    }

    fn write(&mut self) -> io::Result<Temporary> {
        let mut temporary = match std::mem::replace(&mut self.place, Place::None) {
            Place::Open(temporary) => temporary,
            Place::Closed(place) => place.reopen()?,
            Place::None => {
                let directory = self.store.made_execution(&self.execution)?;
                self.begin(&directory)?
            }
        };
        let content = std::mem::take(&mut self.content);
        temporary
            .place
            .charge
            .grow(content.iter().map(Bytes::len).sum())?;
        for part in content {
            temporary.file.write_all(&part)?;
        }
        Ok(temporary)
    }

    /// Writes the end of a report that is in its file otherwise.
    fn write_and_sync(mut self) -> io::Result<Self> {
        let temporary = self.write()?;
        self.store.0.commits.sync(&temporary.file)?;
        self.place = Place::Open(temporary);
        Ok(self)
    }

    /// Writes the end of the report, unless it is all of it and there already.
    fn write_last(mut self) -> io::Result<Written> {
        if matches!(self.place, Place::None) {
            let directory = self.store.made_execution(&self.execution)?;
            if let Some(file) = self.same_report(&directory)? {
                return Ok(Written::Same(file));
            }
            self.place = Place::Open(self.begin(&directory)?);
        }
        let temporary = self.write()?;
        // Now that the file is there: who leads next removes it first, and the rename finds nothing.
        if self.may_store.is_some_and(|may_store| !may_store()) {
            return Err(io::Error::other("this process does not lead"));
        }
        Ok(Written::Temporary(temporary))
    }

    /// What has the report's name, if it is the same: it is read only where it is as long.
    fn same_report(&self, directory: &Directory) -> io::Result<Option<File>> {
        let name = &*self.name;
        if (self.store.0.fingerprints).replaces_another(&self.execution, name, &self.content) {
            return Ok(None);
        }
        let length = self.content.iter().map(Bytes::len).sum::<usize>();
        let known = directory.file_stat(name)?;
        if known.is_none_or(|stat| usize::try_from(stat.st_size) != Ok(length)) {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(length + 1);
        let file = match directory.read(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        (&file).take(length as u64 + 1).read_to_end(&mut found)?;
        let is_same = found.iter().eq(self.content.iter().flatten());
        Ok(is_same.then_some(file))
    }
}

impl Upload for FsUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.block.push(bytes);
        let block_bytes = match self.wide {
            Some(_) => WIDE_BLOCK_BYTES,
            None => BLOCK_BYTES,
        };
        if self.block.len() < block_bytes {
            return Ok(());
        }
        let is_first = matches!(self.progress, Progress::Buffered);
        if !is_first && self.wide.is_none() {
            let wide_uploads = Arc::clone(&self.store.0.wide_uploads);
            self.wide = wide_uploads.try_acquire_owned().ok();
        }
        let mut pending = self.take().await?;
        let written = spawn_blocking(move || pending.write());
        self.progress = if is_first {
            Progress::Begun(joined(written.await, || self.subject())?)
        } else {
            // The next block arrives meanwhile.
            Progress::Writing(written)
        };
        Ok(())
    }

    async fn suspend(&mut self) -> Result<(), ReportStoreError> {
        if !matches!(self.progress, Progress::Suspended(_)) || self.block.len() > 0 {
            let mut pending = self.take().await?;
            let closed = move || Ok(pending.write()?.suspend());
            self.progress = Progress::Suspended(run_blocking(self.subject(), closed).await?);
            self.wide = None;
        }
        Ok(())
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        self.commit(None).await
    }
}

/// What an error names: the report, not the path on the machine.
fn subject(execution: &ExecutionId, name: &str) -> String {
    format!("report {execution}/{}", name.escape_debug())
}

fn own_subject(name: &str) -> String {
    format!("file {}", name.escape_debug())
}

fn execution_subject(execution: &ExecutionId) -> String {
    format!("reports of {execution}")
}

impl ReportStore for FsReportStore {
    type Upload = FsUpload;
    type Content = BoxStream<'static, Result<Bytes, ReportStoreError>>;

    async fn create_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let execution = execution.clone();
        self.blocking(execution_subject(&execution), move |store| {
            store.removed().remove(&execution);
            store.made_execution(&execution).map(drop)
        })
        .await
    }

    async fn set_latest(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let execution = execution.clone();
        self.blocking(format!("link {LATEST}"), move |store| {
            store.replace_latest(&execution)
        })
        .await
    }

    async fn latest(&self) -> Result<Option<ExecutionId>, ReportStoreError> {
        self.blocking(format!("link {LATEST}"), Self::read_latest)
            .await
    }

    async fn list_executions(&self) -> Result<Vec<ExecutionId>, ReportStoreError> {
        self.blocking("report directory".to_owned(), Self::execution_directories)
            .await
    }

    async fn remove_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let execution = execution.clone();
        self.blocking(execution_subject(&execution), move |store| {
            store.remove(&execution)
        })
        .await
    }

    async fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<FsUpload, ReportStoreError> {
        check_name(name).map_err(|error| store_error(&subject(execution, name), &error))?;
        Ok(FsUpload {
            store: self.clone(),
            execution: execution.clone(),
            name: name.to_owned(),
            progress: Progress::Buffered,
            block: Block::default(),
            wide: None,
        })
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let mut upload = self.begin(execution, name).await?;
        upload.block = Block::of(bytes);
        upload.commit(None).await
    }

    async fn put_if(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
        may_store: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), ReportStoreError> {
        let mut upload = self.begin(execution, name).await?;
        upload.block = Block::of(bytes);
        // What is committed is committed though nobody waits any more.
        let (call, is_dropped) = {
            let call = Arc::new(());
            let weak = Arc::downgrade(&call);
            (call, move || weak.strong_count() == 0)
        };
        let may_store = Box::new(move || !is_dropped() && may_store());
        let stored = upload.commit(Some(may_store)).await;
        drop(call);
        stored
    }

    async fn end_puts(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let execution = execution.clone();
        self.blocking(execution_subject(&execution), move |store| {
            let Some(directory) = Directory::open(&store.execution_path(&execution))? else {
                return Ok(());
            };
            for name in directory.names()? {
                if is_leaders(&name) {
                    match directory.remove(&name) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let of_report = |error: io::Error| store_error(&subject(execution, name), &error);
        check_name(name).map_err(of_report)?;
        let target = Target {
            execution: execution.clone(),
            name: name.to_owned(),
        };
        let (store, of) = (self.clone(), execution.clone());
        let open = move || store.existing_execution(&of);
        let appended = self.0.commits.append(target, open, bytes).await;
        appended.map_err(of_report)
    }

    async fn list(&self, execution: &ExecutionId) -> Result<Vec<ReportMetadata>, ReportStoreError> {
        let execution = execution.clone();
        self.blocking(execution_subject(&execution), move |store| {
            store.report_files(&execution)
        })
        .await
    }

    async fn metadata(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<ReportMetadata, ReportStoreError> {
        let subject = subject(execution, name);
        let (execution, name) = (execution.clone(), name.to_owned());
        self.blocking(subject, move |store| store.report_file(&execution, &name))
            .await
    }

    async fn read(
        &self,
        execution: &ExecutionId,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Self::Content, ReportStoreError> {
        let subject = subject(execution, name);
        let (execution, name) = (execution.clone(), name.to_owned());
        let file = self
            .blocking(subject.clone(), move |store| {
                store.open_report(&execution, &name, offset)
            })
            .await?;
        let chunks = futures::stream::try_unfold((file, length), move |(file, left)| {
            let subject = subject.clone();
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let (file, chunk) = run_blocking(subject, move || read_block(file, left)).await?;
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (file, left))))
            }
        });
        Ok(chunks.boxed())
    }

    async fn put_own(&self, name: &str, bytes: Bytes) -> Result<(), ReportStoreError> {
        let name = name.to_owned();
        self.blocking(own_subject(&name), move |store| {
            check_name(&name)?;
            fs::create_dir_all(&store.0.directory)?;
            let mut temporary = store.new_temporary(&store.root()?, Charge::free())?;
            temporary.file.write_all(&bytes)?;
            if store.0.durability == ReportDurability::Fsync {
                temporary.file.sync_all()?;
            }
            let root = temporary.rename(&name)?;
            if store.0.durability == ReportDurability::Fsync {
                root.sync()?;
            }
            Ok(())
        })
        .await
    }

    async fn get_own(&self, name: &str) -> Result<Bytes, ReportStoreError> {
        let name = name.to_owned();
        self.blocking(own_subject(&name), move |store| {
            check_name(&name)?;
            let file = store.root()?.read(&name)?;
            let mut bytes = Vec::new();
            file.take(OWN_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        self.blocking("report directory".to_owned(), |store| {
            fs::create_dir_all(&store.0.directory)?;
            let mut probe = store.new_temporary(&store.root()?, Charge::free())?;
            probe.file.write_all(b"probe")
        })
        .await
    }

    async fn remove_abandoned(&self) -> Result<usize, ReportStoreError> {
        self.blocking("report directory".to_owned(), |store| {
            store.0.quota.recount();
            fs::create_dir_all(&store.0.directory)?;
            // By the clock of whoever keeps the volume.
            let probe = store.new_temporary(&store.root()?, Charge::free())?;
            let now = rustix::fs::fstat(&probe.file)?.st_mtime;
            store.remove_temporaries(|holder, modified| {
                *holder != store.0.holder && now - modified > ABANDONED_SECONDS
            })
        })
        .await
    }
}

/// The next block of a file. One that ends early is an error: its length has been promised.
fn read_block(mut file: File, left: u64) -> io::Result<(File, Bytes)> {
    let wanted = usize::try_from(left)
        .unwrap_or(BLOCK_BYTES)
        .min(BLOCK_BYTES);
    let mut block = vec![0; wanted];
    let length = file.read(&mut block)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    block.truncate(length);
    Ok((file, block.into()))
}
