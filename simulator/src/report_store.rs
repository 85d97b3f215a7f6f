//! The controller's report store in memory: a report is whole or absent, as on a disk that never fails.
//!
//! A name that would leave its execution's directory is refused and remembered as a violation, which the checker reads:
//! whoever names reports is expected never to ask for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use controller::core::ids::ExecutionId;
use controller::ports::clock::Clock as _;
use controller::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind, Upload,
};
use futures::stream::{self, Iter};
use jiff::Timestamp;

use crate::clock::SimClock;

/// The store. Clones are the same store, as processes that mount one volume.
#[derive(Debug, Clone)]
pub struct MemoryReportStore {
    shelves: Arc<Mutex<Shelves>>,
    clock: SimClock,
}

/// File systems give a file whole blocks of this size, by default of ext4 and xfs.
const BLOCK_BYTES: u64 = 4096;

/// What reports take on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many files.
    pub files: u64,
    /// Their lengths together.
    pub bytes: u64,
    /// The same in whole blocks of 4 KiB a file.
    pub allocated_bytes: u64,
}

#[derive(Debug, Default)]
struct Shelves {
    executions: BTreeMap<ExecutionId, BTreeMap<String, Report>>,
    /// Executions that were removed and not made again: no report brings them back.
    removed: BTreeSet<ExecutionId>,
    latest: Option<ExecutionId>,
    /// Files beside the executions.
    own: BTreeMap<String, Bytes>,
    violations: Vec<String>,
}

#[derive(Debug, Clone)]
struct Report {
    bytes: Bytes,
    modified: Timestamp,
}

impl MemoryReportStore {
    /// An empty store that dates its reports by `clock`.
    #[must_use]
    pub fn new(clock: SimClock) -> Self {
        Self {
            shelves: Arc::default(),
            clock,
        }
    }

    /// A report's bytes, where it is stored.
    #[must_use]
    pub fn get(&self, execution: &ExecutionId, name: &str) -> Option<Bytes> {
        let shelves = self.shelves();
        let report = shelves.executions.get(execution)?.get(name)?;
        Some(report.bytes.clone())
    }

    /// What the reports of an execution take.
    #[must_use]
    pub fn usage(&self, execution: &ExecutionId) -> Usage {
        let shelves = self.shelves();
        let kept = shelves.executions.get(execution);
        let mut usage = Usage::default();
        for report in kept.into_iter().flat_map(BTreeMap::values) {
            let bytes = report.bytes.len() as u64;
            usage.files += 1;
            usage.bytes += bytes;
            usage.allocated_bytes += bytes.next_multiple_of(BLOCK_BYTES);
        }
        usage
    }

    /// How many executions have a directory.
    #[must_use]
    pub fn execution_count(&self) -> usize {
        self.shelves().executions.len()
    }

    /// The executions that have a directory.
    #[must_use]
    pub fn execution_ids(&self) -> Vec<ExecutionId> {
        self.shelves().executions.keys().cloned().collect()
    }

    /// How many executions have a directory and a later id.
    #[must_use]
    pub fn executions_after(&self, execution: &ExecutionId) -> usize {
        let shelves = self.shelves();
        let later = shelves.executions.keys();
        later.filter(|id| *id > execution).count()
    }

    /// What was asked for that leads out of an execution's directory, one at a call.
    #[must_use]
    pub fn take_violation(&self) -> Option<String> {
        self.shelves().violations.pop()
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let modified = self.clock.wall();
        let mut shelves = self.shelves();
        if shelves.removed.contains(execution) {
            return Err(not_found(execution.as_str()));
        }
        let report = Report { bytes, modified };
        match shelves.executions.get_mut(execution) {
            Some(kept) => kept.insert(name.to_owned(), report),
            None => shelves
                .executions
                .entry(execution.clone())
                .or_default()
                .insert(name.to_owned(), report),
        };
        Ok(())
    }

    fn find(&self, execution: &ExecutionId, name: &str) -> Result<Report, ReportStoreError> {
        let shelves = self.shelves();
        let kept = shelves.executions.get(execution);
        let report = kept.and_then(|kept| kept.get(name)).cloned();
        report.ok_or_else(|| not_found(format!("{execution}/{name}")))
    }

    /// Refuses what would not stay in the execution's directory.
    fn check_name(&self, execution: &ExecutionId, name: &str) -> Result<(), ReportStoreError> {
        if !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']) {
            return Ok(());
        }
        let message = format!("{execution}: {name:?} is no name of a report");
        self.shelves().violations.push(message.clone());
        Err(ReportStoreError {
            kind: ReportStoreErrorKind::Unavailable,
            message,
        })
    }
}

fn not_found(what: impl Into<String>) -> ReportStoreError {
    ReportStoreError {
        kind: ReportStoreErrorKind::NotFound,
        message: what.into(),
    }
}

/// A report that is being written; nobody sees it before it is finished.
#[derive(Debug)]
pub struct MemoryUpload {
    store: MemoryReportStore,
    execution: ExecutionId,
    name: String,
    bytes: BytesMut,
}

impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        self.store
            .keep(&self.execution, &self.name, self.bytes.freeze())
    }
}

impl ReportStore for MemoryReportStore {
    type Upload = MemoryUpload;
    type Content = Iter<std::option::IntoIter<Result<Bytes, ReportStoreError>>>;

    async fn create_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let mut shelves = self.shelves();
        shelves.removed.remove(execution);
        shelves.executions.entry(execution.clone()).or_default();
        Ok(())
    }

    async fn set_latest(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        self.shelves().latest = Some(execution.clone());
        Ok(())
    }

    async fn latest(&self) -> Result<Option<ExecutionId>, ReportStoreError> {
        Ok(self.shelves().latest.clone())
    }

    async fn list_executions(&self) -> Result<Vec<ExecutionId>, ReportStoreError> {
        Ok(self.shelves().executions.keys().cloned().collect())
    }

    async fn remove_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let mut shelves = self.shelves();
        shelves.executions.remove(execution);
        shelves.removed.insert(execution.clone());
        Ok(())
    }

    async fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<MemoryUpload, ReportStoreError> {
        self.check_name(execution, name)?;
        Ok(MemoryUpload {
            store: self.clone(),
            execution: execution.clone(),
            name: name.to_owned(),
            bytes: BytesMut::new(),
        })
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.check_name(execution, name)?;
        self.keep(execution, name, bytes)
    }

    async fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.check_name(execution, name)?;
        let modified = self.clock.wall();
        let mut shelves = self.shelves();
        let kept = shelves.executions.get_mut(execution);
        let kept = kept.ok_or_else(|| not_found(execution.as_str()))?;
        let report = kept.entry(name.to_owned()).or_insert_with(|| Report {
            bytes: Bytes::new(),
            modified,
        });
        let mut whole = BytesMut::from(std::mem::take(&mut report.bytes));
        whole.extend_from_slice(&bytes);
        (report.bytes, report.modified) = (whole.freeze(), modified);
        Ok(())
    }

    async fn list(&self, execution: &ExecutionId) -> Result<Vec<ReportMetadata>, ReportStoreError> {
        let shelves = self.shelves();
        let kept = shelves.executions.get(execution);
        let kept = kept.ok_or_else(|| not_found(execution.as_str()))?;
        let metadata = kept.iter().map(|(name, report)| metadata(name, report));
        Ok(metadata.collect())
    }

    async fn metadata(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<ReportMetadata, ReportStoreError> {
        Ok(metadata(name, &self.find(execution, name)?))
    }

    async fn read(
        &self,
        execution: &ExecutionId,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Self::Content, ReportStoreError> {
        let bytes = self.find(execution, name)?.bytes;
        let within = |position: u64| {
            usize::try_from(position).map_or(bytes.len(), |position| position.min(bytes.len()))
        };
        let part = bytes.slice(within(offset)..within(offset.saturating_add(length)));
        Ok(stream::iter(Some(Ok(part))))
    }

    async fn put_own(&self, name: &str, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.shelves().own.insert(name.to_owned(), bytes);
        Ok(())
    }

    async fn get_own(&self, name: &str) -> Result<Bytes, ReportStoreError> {
        let found = self.shelves().own.get(name).cloned();
        found.ok_or_else(|| not_found(name))
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        Ok(())
    }
}

fn metadata(name: &str, report: &Report) -> ReportMetadata {
    ReportMetadata {
        name: name.to_owned(),
        length: report.bytes.len() as u64,
        modified: report.modified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    fn store() -> MemoryReportStore {
        MemoryReportStore::new(SimClock::starting_at(
            "2026-01-01T00:00:00Z".parse().unwrap(),
        ))
    }

    fn execution() -> ExecutionId {
        ExecutionId::parse("202601010342").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_absent_until_it_is_finished() {
        let (store, id) = (store(), execution());
        let mut upload = store.begin(&id, "node-1.json").await.unwrap();
        upload.write("{".into()).await.unwrap();
        assert_eq!(store.get(&id, "node-1.json"), None);
        upload.write("}".into()).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(store.get(&id, "node-1.json"), Some("{}".into()));
        let dropped = store.begin(&id, "node-2.json").await.unwrap();
        drop(dropped);
        assert_eq!(store.list(&id).await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_a_report_can_be_read() {
        let (store, id) = (store(), execution());
        store.put(&id, "a", "0123456789".into()).await.unwrap();
        for (offset, length, expected) in [(0, 100, "0123456789"), (3, 4, "3456"), (20, 1, "")] {
            let mut content = store.read(&id, "a", offset, length).await.unwrap();
            assert_eq!(content.next().await, Some(Ok(expected.into())));
        }
        let missing = store.read(&id, "b", 0, 1).await.err().unwrap();
        assert_eq!(missing.kind, ReportStoreErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn usage_is_the_lengths_and_the_blocks_of_every_file() {
        let (store, id) = (store(), execution());
        store.put(&id, "a", vec![0; 4096].into()).await.unwrap();
        store.put(&id, "b", "x".into()).await.unwrap();
        let expected = Usage {
            files: 2,
            bytes: 4097,
            allocated_bytes: 8192,
        };
        assert_eq!(store.usage(&id), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_leaves_the_directory_is_refused_and_remembered() {
        let (store, id) = (store(), execution());
        assert!(store.put(&id, "../x", "".into()).await.is_err());
        assert!(store.begin(&id, "..").await.is_err());
        assert_eq!(
            [
                store.take_violation().is_some(),
                store.take_violation().is_some()
            ],
            [true; 2]
        );
        assert_eq!(store.take_violation(), None);
        assert_eq!(store.execution_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_execution_is_gone_with_its_reports() {
        let (store, id) = (store(), execution());
        store.put(&id, "a", "x".into()).await.unwrap();
        store.set_latest(&id).await.unwrap();
        store.remove_execution(&id).await.unwrap();
        store.remove_execution(&id).await.unwrap();
        let late = store.put(&id, "b", "x".into()).await.unwrap_err();
        assert_eq!(late.kind, ReportStoreErrorKind::NotFound);
        assert!(store.list_executions().await.unwrap().is_empty());
        assert_eq!(store.latest().await.unwrap(), Some(id.clone()));
        store.create_execution(&id).await.unwrap();
        store.put(&id, "b", "x".into()).await.unwrap();
        assert_eq!(store.list_executions().await.unwrap(), [id]);
    }
}
