//! The report directory on a file system: `<directory>/<execution id>/<stored name>` and the link `latest`.
//!
//! A report is written to a temporary file in its own directory and renamed. Only real directories named like an
//! execution id and regular files in them exist for this store: links are neither followed nor listed, anything else in
//! the report directory is left alone. Uploads go to disk in blocks, so that their size does not show in memory, and
//! every system call runs on the runtime's threads for blocking work.

mod commits;
mod temporary;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;

use self::commits::Commits;
use self::temporary::{Temporary, TemporaryPath};
use crate::config::ReportDurability;
use crate::core::ids::ExecutionId;
use crate::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind, Upload,
};

/// The link to the newest execution.
const LATEST: &str = "latest";

/// How the names of temporary files begin; node names, and so reports, never do.
const TEMPORARY_PREFIX: &str = "_upload-";

/// What is written or read in one system call: large enough to keep a disk busy, small enough for a thousand uploads.
const BLOCK_BYTES: usize = 64 * 1024;

/// How many removed executions are remembered: far more than can have an upload under way.
const REMOVED_MAX: usize = 1024;

/// What is read of a file of our own: far more than a ConfigMap can hold.
const OWN_BYTES_MAX: u64 = 16 << 20;

/// How often a report is looked up again that is replaced just as it is opened.
const OPEN_ATTEMPTS: usize = 5;

/// Reports below one directory; clones share it.
#[derive(Debug, Clone)]
pub struct FsReportStore {
    directory: Arc<Path>,
    durability: ReportDurability,
    commits: Commits,
    next_temporary: Arc<AtomicU64>,
    /// The newest executions that this process removed and did not make again.
    removed: Arc<Mutex<BTreeSet<ExecutionId>>>,
}

impl FsReportStore {
    /// A store in `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: PathBuf, durability: ReportDurability) -> Self {
        Self {
            directory: directory.into(),
            durability,
            commits: Commits::new(durability),
            next_temporary: Arc::default(),
            removed: Arc::default(),
        }
    }

    fn execution_path(&self, execution: &ExecutionId) -> PathBuf {
        self.directory.join(execution.as_str())
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
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
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
        if !is_directory(&path)? {
            return Ok(());
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The execution's directory, made where there is none.
    fn made_execution(&self, execution: &ExecutionId) -> io::Result<PathBuf> {
        let path = self.execution_path(execution);
        if !is_directory(&path)? {
            // Held until it is made: a removal comes before, and shows, or after, and removes it.
            let removed = self.removed();
            if removed.contains(execution) {
                return Err(io::ErrorKind::NotFound.into());
            }
            fs::create_dir_all(&*self.directory)?;
            match fs::create_dir(&path) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path)? => {}
                other => other?,
            }
            if self.durability == ReportDurability::Fsync {
                sync_directory(&self.directory)?;
            }
        }
        Ok(path)
    }

    /// The execution's directory, if it is a real one.
    fn existing_execution(&self, execution: &ExecutionId) -> io::Result<PathBuf> {
        let path = self.execution_path(execution);
        if is_directory(&path)? {
            Ok(path)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// A new temporary file beside its target. Its number is free by the exclusive creation, whatever other processes on
    /// the same volume count.
    fn new_temporary(&self, directory: &Path, prefix: &str) -> io::Result<Temporary> {
        loop {
            let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{prefix}{number}"));
            if let Some(temporary) = Temporary::create(path)? {
                return Ok(temporary);
            }
        }
    }

    fn new_upload(&self, execution: &ExecutionId) -> io::Result<Temporary> {
        let directory = self.made_execution(execution)?;
        self.new_temporary(&directory, TEMPORARY_PREFIX)
    }

    fn replace_latest(&self, execution: &ExecutionId) -> io::Result<()> {
        fs::create_dir_all(&*self.directory)?;
        let temporary = loop {
            let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(format!("_{LATEST}-{number}"));
            match std::os::unix::fs::symlink(execution.as_str(), &path) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        fs::rename(&temporary, self.directory.join(LATEST)).inspect_err(|_| {
            // What matters is the error above.
            let _ = fs::remove_file(&temporary);
        })?;
        if self.durability == ReportDurability::Fsync {
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    fn read_latest(&self) -> io::Result<Option<ExecutionId>> {
        let target = match fs::read_link(self.directory.join(LATEST)) {
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
            Some(execution) if is_directory(&self.execution_path(&execution))? => {
                Ok(Some(execution))
            }
            _ => Ok(None),
        }
    }

    fn execution_directories(&self) -> io::Result<Vec<ExecutionId>> {
        let entries = match fs::read_dir(&*self.directory) {
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
        let mut reports = Vec::new();
        for entry in fs::read_dir(self.existing_execution(execution)?)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if name.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => {
                    reports.push(report_metadata(name, &metadata));
                }
                Ok(_) => {}
                // Replaced or removed between the two calls.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        reports.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(reports)
    }

    /// The path of a report and what is known of it, links not followed.
    fn report_file(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> io::Result<(PathBuf, fs::Metadata)> {
        check_name(name)?;
        let path = self.existing_execution(execution)?.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_file() && !name.starts_with(TEMPORARY_PREFIX) {
            Ok((path, metadata))
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn open_report(&self, execution: &ExecutionId, name: &str, offset: u64) -> io::Result<File> {
        for _ in 0..OPEN_ATTEMPTS {
            let (path, expected) = self.report_file(execution, name)?;
            if let Some(mut file) = open_same(&path, &expected)? {
                file.seek(SeekFrom::Start(offset))?;
                return Ok(file);
            }
            // Replaced in between: it is read as it is now, if it is a report still.
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Opens the regular file that `expected` describes; none where something else has taken its place. No link is followed,
/// and no pipe waited for.
fn open_same(path: &Path, expected: &fs::Metadata) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        // What the system says of a link.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        other => other?,
    };
    let found = file.metadata()?;
    let is_same = found.is_file() && found.dev() == expected.dev() && found.ino() == expected.ino();
    Ok(is_same.then_some(file))
}

async fn run_blocking<T: Send + 'static>(
    subject: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ReportStoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| store_error(&subject, &error)),
        Err(error) => Err(ReportStoreError {
            kind: ReportStoreErrorKind::Unavailable,
            message: format!("{subject}: {error}"),
        }),
    }
}

fn store_error(subject: &str, error: &io::Error) -> ReportStoreError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ReportStoreErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ReportStoreErrorKind::NoSpace
        }
        _ => ReportStoreErrorKind::Unavailable,
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

fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn report_metadata(name: String, metadata: &fs::Metadata) -> ReportMetadata {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok());
    ReportMetadata {
        name,
        length: metadata.len(),
        modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

/// An upload into a temporary file, which is made when the first block is full: a small report costs one system thread's
/// turn, at its end.
#[derive(Debug)]
pub struct FsUpload {
    store: FsReportStore,
    execution: ExecutionId,
    name: String,
    progress: Progress,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Progress {
    Buffered,
    Writing(Temporary),
    /// All of it is in the file, which is closed.
    Suspended(TemporaryPath),
    Failed,
}

impl FsUpload {
    /// What writes the buffer and `more` to the file; to be run on the thread for files.
    fn flush(
        &mut self,
        more: Bytes,
    ) -> Result<impl FnOnce() -> io::Result<Temporary> + Send + 'static, ReportStoreError> {
        let progress = std::mem::replace(&mut self.progress, Progress::Failed);
        if matches!(progress, Progress::Failed) {
            return Err(ReportStoreError {
                kind: ReportStoreErrorKind::Unavailable,
                message: format!("{}: an earlier write failed", self.subject()),
            });
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (store, execution) = (self.store.clone(), self.execution.clone());
        Ok(move || {
            let mut temporary = match progress {
                Progress::Writing(temporary) => temporary,
                Progress::Suspended(path) => path.reopen()?,
                Progress::Buffered | Progress::Failed => store.new_upload(&execution)?,
            };
            temporary.file.write_all(&buffer)?;
            temporary.file.write_all(&more)?;
            Ok(temporary)
        })
    }

    /// Writes what is left and names the report.
    async fn commit(mut self, rest: Bytes) -> Result<(), ReportStoreError> {
        let write = self.flush(rest)?;
        let target = self.store.execution_path(&self.execution).join(&self.name);
        let committed = self.store.commits.replace(target, write).await;
        committed.map_err(|error| store_error(&self.subject(), &error))
    }

    fn subject(&self) -> String {
        subject(&self.execution, &self.name)
    }
}

impl Upload for FsUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        if self.buffer.len() + bytes.len() < BLOCK_BYTES {
            self.buffer.extend_from_slice(&bytes);
            return Ok(());
        }
        let write = self.flush(bytes)?;
        self.progress = Progress::Writing(run_blocking(self.subject(), write).await?);
        Ok(())
    }

    async fn suspend(&mut self) -> Result<(), ReportStoreError> {
        if !matches!(self.progress, Progress::Suspended(_)) || !self.buffer.is_empty() {
            let write = self.flush(Bytes::new())?;
            let closed = move || Ok(write()?.path);
            self.progress = Progress::Suspended(run_blocking(self.subject(), closed).await?);
        }
        Ok(())
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        self.commit(Bytes::new()).await
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
            buffer: Vec::new(),
        })
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.begin(execution, name).await?.commit(bytes).await
    }

    async fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let of_report = |error: io::Error| store_error(&subject(execution, name), &error);
        check_name(name).map_err(of_report)?;
        let target = self.execution_path(execution).join(name);
        self.commits.append(target, bytes).await.map_err(of_report)
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
        self.blocking(subject, move |store| {
            let (_, metadata) = store.report_file(&execution, &name)?;
            Ok(report_metadata(name, &metadata))
        })
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
        let of_file = |error: io::Error| store_error(&own_subject(name), &error);
        check_name(name).map_err(of_file)?;
        let (store, target) = (self.clone(), self.directory.join(name));
        let write = move || {
            fs::create_dir_all(&*store.directory)?;
            let mut temporary = store.new_temporary(&store.directory, TEMPORARY_PREFIX)?;
            temporary.file.write_all(&bytes)?;
            Ok(temporary)
        };
        self.commits.replace(target, write).await.map_err(of_file)
    }

    async fn get_own(&self, name: &str) -> Result<Bytes, ReportStoreError> {
        let name = name.to_owned();
        self.blocking(own_subject(&name), move |store| {
            check_name(&name)?;
            let path = store.directory.join(&name);
            let opened = open_same(&path, &fs::symlink_metadata(&path)?)?;
            let mut bytes = Vec::new();
            opened
                .ok_or(io::ErrorKind::NotFound)?
                .take(OWN_BYTES_MAX)
                .read_to_end(&mut bytes)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        self.blocking("report directory".to_owned(), |store| {
            fs::create_dir_all(&*store.directory)?;
            let mut probe = store.new_temporary(&store.directory, "_probe-")?;
            probe.file.write_all(b"probe")
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_took_a_reports_place_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("n.json");
        let moved = directory.path().join("moved");
        fs::write(&report, "mine").unwrap();
        let expected = fs::symlink_metadata(&report).unwrap();
        assert!(open_same(&report, &expected).unwrap().is_some());

        fs::rename(&report, &moved).unwrap();
        // A link even to the very file.
        symlink(&moved, &report).unwrap();
        assert!(open_same(&report, &expected).unwrap().is_none());
        // A pipe that nobody writes to: opening it would wait for ever.
        fs::remove_file(&report).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&report).status();
        assert!(made.unwrap().success());
        assert!(open_same(&report, &expected).unwrap().is_none());
        fs::remove_file(&report).unwrap();
        fs::create_dir(&report).unwrap();
        assert!(open_same(&report, &expected).unwrap().is_none());
        fs::remove_dir(&report).unwrap();
        fs::write(&report, "another").unwrap();
        assert!(open_same(&report, &expected).unwrap().is_none());
    }
}
