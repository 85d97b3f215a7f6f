//! The report store on a file system, with faults.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controller::adapter::fs_report_store::FsReportStore;
use controller::config::ReportDurability;
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
    /// A defect: whatever writes panics.
    Panics,
    /// Writing a report and removing an execution are answered that much later than they are done.
    Slow(Duration),
}

/// How many uploads hold memory or a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenUploads {
    pub now: usize,
    pub most: usize,
}

/// Reports in a directory; clones share it and the fault.
#[derive(Debug, Clone)]
pub struct TestReports {
    store: FsReportStore,
    fault: Arc<Mutex<Option<StoreFault>>>,
    open_uploads: Arc<Mutex<OpenUploads>>,
}

/// An upload of [`TestReports`].
#[derive(Debug)]
pub struct TestUpload {
    /// None once it is finished.
    upload: Option<<FsReportStore as ReportStore>::Upload>,
    reports: TestReports,
    is_open: bool,
}

impl TestUpload {
    fn note_open(&mut self, is_open: bool) {
        let mut open = self.reports.open_uploads.lock().unwrap();
        match (self.is_open, is_open) {
            (false, true) => open.now += 1,
            (true, false) => open.now -= 1,
            _ => {}
        }
        open.most = open.most.max(open.now);
        self.is_open = is_open;
    }
}

impl Drop for TestUpload {
    fn drop(&mut self) {
        self.note_open(false);
    }
}

impl TestReports {
    /// `quota`: what an execution may store, in bytes.
    pub fn new(directory: PathBuf, quota: Option<u64>) -> Self {
        let store = FsReportStore::new(directory, ReportDurability::None, "c-0");
        Self {
            store: store.with_quota(quota),
            fault: Arc::default(),
            open_uploads: Arc::default(),
        }
    }

    /// Sets or clears the fault.
    pub fn set_fault(&self, fault: Option<StoreFault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The uploads that were begun and neither suspended nor ended.
    pub fn open_uploads(&self) -> OpenUploads {
        *self.open_uploads.lock().unwrap()
    }

    async fn answer_late(&self) {
        let fault = *self.fault.lock().unwrap();
        if let Some(StoreFault::Slow(delay)) = fault {
            tokio::time::sleep(delay).await;
        }
    }

    fn write(&self, is_chunk: bool) -> Result<(), ReportStoreError> {
        let fault = *self.fault.lock().unwrap();
        let kind = match fault {
            None | Some(StoreFault::Slow(_)) => return Ok(()),
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
        self.note_open(true);
        self.upload.as_mut().unwrap().write(bytes).await
    }

    async fn suspend(&mut self) -> Result<(), ReportStoreError> {
        self.reports.write(true)?;
        self.upload.as_mut().unwrap().suspend().await?;
        self.note_open(false);
        Ok(())
    }

    async fn finish(mut self) -> Result<(), ReportStoreError> {
        self.reports.write(false)?;
        let upload = self.upload.take().unwrap();
        upload.finish().await?;
        self.reports.answer_late().await;
        Ok(())
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
        self.store.remove_execution(execution).await?;
        self.answer_late().await;
        Ok(())
    }

    async fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<TestUpload, ReportStoreError> {
        self.write(false)?;
        let mut upload = TestUpload {
            upload: Some(self.store.begin(execution, name).await?),
            reports: self.clone(),
            is_open: false,
        };
        upload.note_open(true);
        Ok(upload)
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.put(execution, name, bytes).await?;
        self.answer_late().await;
        Ok(())
    }

    async fn put_if(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
        may_store: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), ReportStoreError> {
        self.write(false)?;
        (self.store)
            .put_if(execution, name, bytes, may_store)
            .await?;
        self.answer_late().await;
        Ok(())
    }

    async fn end_puts(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.end_puts(execution).await
    }

    async fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.append(execution, name, bytes).await
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

    async fn put_own(&self, name: &str, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.put_own(name, bytes).await
    }

    async fn get_own(&self, name: &str) -> Result<Bytes, ReportStoreError> {
        self.store.get_own(name).await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        self.write(false)?;
        self.store.probe().await
    }
}
