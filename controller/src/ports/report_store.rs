//! Where reports are kept: a directory an execution, named by its id, and `latest`.
//!
//! A report is whole or absent: it is written under a temporary name and renamed. Only directories named like an
//! execution id are ever listed or removed; links inside them are never followed.

use std::future::Future;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;

use crate::core::ids::ExecutionId;

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReportStoreError {
    /// What the callers decide on.
    pub kind: ReportStoreErrorKind,
    /// The system's words with the name concerned; one line.
    pub message: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportStoreErrorKind {
    /// There is no such execution or report.
    NotFound,
    /// The disk is full, or what it grants this process is used up.
    NoSpace,
    /// The reports of the execution would take more than they may (`reportQuota`): the store is well.
    OverQuota {
        /// What they may take, in bytes.
        bytes_max: u64,
    },
    /// Anything else: read-only, I/O error, a name that the store does not take.
    Unavailable,
}

/// A stored report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportMetadata {
    /// Its stored name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// A report that is being written. Dropping it leaves nothing behind.
pub trait Upload: Send {
    /// Appends to the report.
    ///
    /// # Errors
    /// `NoSpace`, `OverQuota` or `Unavailable`; the upload is then to be dropped.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// Gives back what the upload holds in the process, memory and descriptors, until it goes on. A store that has
    /// nothing to give back does nothing.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn suspend(&mut self) -> impl Future<Output = Result<(), ReportStoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Puts the report under its name, in place of one that was there. After `Ok` it survives a kill of the process.
    ///
    /// # Errors
    /// `NotFound` where the execution has been removed, `NoSpace`, `OverQuota` or `Unavailable`: nothing is stored.
    fn finish(self) -> impl Future<Output = Result<(), ReportStoreError>> + Send;
}

/// The store. No call blocks the runtime's threads.
pub trait ReportStore: Clone + Send + Sync + 'static {
    /// A report that is being written.
    type Upload: Upload + 'static;
    /// The bytes of a report.
    type Content: Stream<Item = Result<Bytes, ReportStoreError>> + Send + Unpin + 'static;

    /// Makes the execution's directory where there is none, also of one that was removed.
    fn create_execution(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// Makes `latest` a relative link to the execution, atomically.
    fn set_latest(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// The execution that `latest` points to, if it is one.
    fn latest(&self) -> impl Future<Output = Result<Option<ExecutionId>, ReportStoreError>> + Send;

    /// The executions that have a directory, in the order of their ids.
    fn list_executions(
        &self,
    ) -> impl Future<Output = Result<Vec<ExecutionId>, ReportStoreError>> + Send;

    /// Removes the execution's directory with everything in it. Removing none is no error. Reports do not bring it
    /// back, those that are being written neither: they are `NotFound` until [`Self::create_execution`].
    fn remove_execution(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// Begins a report; its directory is made where there never was one, at the latest when the report is finished.
    /// `name` has been checked by `core::report_name`.
    fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> impl Future<Output = Result<Self::Upload, ReportStoreError>> + Send;

    /// Stores a small report at once: `begin`, `write`, `finish`.
    fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// As [`Self::put`], for one who may store it only while it leads: `may_store` is asked after everything but giving
    /// it its name. Where the call is dropped before, the report does not get it.
    ///
    /// # Errors
    /// As [`Self::put`]; `Unavailable` where it may not, and `NotFound` where [`Self::end_puts`] came between.
    fn put_if(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
        may_store: impl Fn() -> bool + Send + 'static,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send {
        async move {
            if may_store() {
                return self.put(execution, name, bytes).await;
            }
            Err(not_leading(name))
        }
    }

    /// For a new leader: from now on no report gets its name of which [`Self::put_if`] was told before that it may, in
    /// whichever process that was. A store where nothing comes between the two has nothing to do, nor has one without a
    /// directory of the execution.
    ///
    /// # Errors
    /// `Unavailable`: it is to be repeated.
    fn end_puts(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send {
        let _ = execution;
        std::future::ready(Ok(()))
    }

    /// Appends to a file of our own, made where there is none in the execution's directory. After `Ok` it is there
    /// whole and survives what [`Upload::finish`] survives; appends are in the order in which they were asked for.
    /// After an error a part of it may be there.
    ///
    /// # Errors
    /// `NotFound` where the execution has no directory, `NoSpace` or `Unavailable`.
    fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// The reports of an execution in the order of their names, temporary ones left out.
    fn list(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<Vec<ReportMetadata>, ReportStoreError>> + Send;

    /// What is known of one report.
    fn metadata(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> impl Future<Output = Result<ReportMetadata, ReportStoreError>> + Send;

    /// Reads `length` bytes of a report from `offset` on, in chunks.
    fn read(
        &self,
        execution: &ExecutionId,
        name: &str,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<Self::Content, ReportStoreError>> + Send;

    /// Stores a small file of our own beside the executions, in place of one that was there; nobody but us reads it.
    ///
    /// # Errors
    /// `NoSpace` or `Unavailable`: what was there stays.
    fn put_own(
        &self,
        name: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), ReportStoreError>> + Send;

    /// Reads a file that was stored with [`Self::put_own`].
    ///
    /// # Errors
    /// `NotFound` where there is none, or `Unavailable`.
    fn get_own(&self, name: &str) -> impl Future<Output = Result<Bytes, ReportStoreError>> + Send;

    /// Removes what other processes began to store and have not gone on with for ten minutes: they are gone. Answers
    /// how many. For the leader alone, which from then on reckons with what others have stored. A store that keeps
    /// nothing unfinished has nothing to remove.
    fn remove_abandoned(&self) -> impl Future<Output = Result<usize, ReportStoreError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Whether a report could be written now: tries it.
    fn probe(&self) -> impl Future<Output = Result<(), ReportStoreError>> + Send;
}

/// What becomes of a report that only a leader may store.
pub(crate) fn not_leading(name: &str) -> ReportStoreError {
    ReportStoreError {
        kind: ReportStoreErrorKind::Unavailable,
        message: format!("{name}: this process does not lead"),
    }
}
