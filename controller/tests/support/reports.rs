//! The report store on a file system, with faults.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use controller::adapter::fs_report_store::{Durability, FsReportStore};
use controller::core::ids::ExecutionId;
use controller::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind, Upload,
};

/// What fails, while it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// Every call that writes.
    Writes(ReportStoreErrorKind),
    /// Only the chunks of an upload.
    Chunks(ReportStoreErrorKind),
    /// A defect: beginning an upload panics.
    Panics,
}

/// Reports in a directory; clones share it and the fault.
#[derive(Debug, Clone)]
pub struct TestReports {
    store: FsReportStore,
    fault: Arc<Mutex<Option<StoreFault>>>,
}

/// An upload of [`TestReports`].
#[derive(Debug)]
pub struct TestUpload {
    upload: <FsReportStore as ReportStore>::Upload,
    reports: TestReports,
}

impl TestReports {
    pub fn new(directory: PathBuf) -> Self {
        Self {
            store: FsReportStore::new(directory, Durability::None),
            fault: Arc::default(),
        }
    }

    /// Sets or clears the fault.
    pub fn set_fault(&self, fault: Option<StoreFault>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn write(&self, is_chunk: bool) -> Result<(), ReportStoreError> {
        let fault = *self.fault.lock().unwrap();
        let kind = match fault {
            None => return Ok(()),
            Some(StoreFault::Panics) => panic!("the test's panic"),
            Some(StoreFault::Chunks(_)) if !is_chunk => return Ok(()),
            Some(StoreFault::Writes(kind) | StoreFault::Chunks(kind)) => kind,
        };
        Err(ReportStoreError {
            kind,
            message: "the test's fault".to_owned(),
        })
    }
}

impl Upload for TestUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.reports.write(true)?;
        self.upload.write(bytes).await
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        self.reports.write(false)?;
        self.upload.finish().await
    }
}

impl ReportStore for TestReports {
    type Upload = TestUpload;
    type Content = <FsReportStore as ReportStore>::Content;

    async fn create_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.create_execution(execution).await
    }

    async fn set_latest(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.set_latest(execution).await
    }

    async fn latest(&self) -> Result<Option<ExecutionId>, ReportStoreError> {
        self.store.latest().await
    }

    async fn list_executions(&self) -> Result<Vec<ExecutionId>, ReportStoreError> {
        self.store.list_executions().await
    }

    async fn remove_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.remove_execution(execution).await
    }

    async fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<TestUpload, ReportStoreError> {
        self.write(false)?;
        Ok(TestUpload {
            upload: self.store.begin(execution, name).await?,
            reports: self.clone(),
        })
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.put(execution, name, bytes).await
    }

    async fn list(&self, execution: &ExecutionId) -> Result<Vec<ReportMetadata>, ReportStoreError> {
        self.store.list(execution).await
    }

    async fn metadata(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<ReportMetadata, ReportStoreError> {
        self.store.metadata(execution, name).await
    }

    async fn read(
        &self,
        execution: &ExecutionId,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Self::Content, ReportStoreError> {
        self.store.read(execution, name, offset, length).await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.probe().await
    }
}
