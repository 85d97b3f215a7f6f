//! The cluster and the report store as one process has them: through its life, its network and its volume.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use controller::core::ids::ExecutionId;
use controller::core::views::PodView;
use controller::ports::cluster::{
    Cluster, ConfigMapView, LeaseRecord, LeaseView, NodeList, NodeWatchEvent, PodWatchEvent,
    SecretData, ServiceAddress, StateDocument,
};
use controller::ports::error::{ClusterError, ClusterErrorKind};
use controller::ports::forward::{Forward, ForwardBody, ForwardError};
use controller::ports::report_store::{ReportMetadata, ReportStore, ReportStoreError, Upload};
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::disturbance::{Disturbances, Sign};
use super::life::{Cut, Life, Who};
use super::record::Record;
use super::volume::{Access, Volume};
use crate::network::SimForward;
use crate::report_store::{MemoryReportStore, MemoryUpload};

/// The adapter's deadlines, of a write and of a read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Where the network to the API server can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutAt {
    /// At the port: below it there is no client.
    Port,
    /// In the [`Connection`](super::Connection) of the client below the port.
    Connection,
}

/// The cluster of one process, over any that it may have.
#[derive(Debug, Clone)]
pub(super) struct ProcessCluster<C> {
    pub(super) inner: C,
    pub(super) cut_at: CutAt,
    pub(super) life: Life,
    pub(super) who: Who,
    pub(super) record: Record,
    pub(super) disturbances: Disturbances,
    /// How long answers are on their way.
    pub(super) latency: Duration,
    /// Calls for pods that are in flight.
    pub(super) in_flight: Arc<AtomicUsize>,
}

/// A call in flight, until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C> ProcessCluster<C> {
    /// A call for a pod, which is one of those that are capped.
    async fn pod_call<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(&self.in_flight);
        self.record.calls(&self.who, before + 1);
        self.call(limit, work).await
    }

    async fn call<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        self.life.point().await;
        let cut = self.life.cut().filter(|_| self.cut_at == CutAt::Port);
        let result = match cut {
            None => {
                let result = work.await;
                if !self.latency.is_zero() {
                    sleep(self.latency).await;
                }
                self.disturbances.show(Sign::Call, Some(self.who.slot));
                result
            }
            Some(cut) => {
                self.disturbances.show(Sign::Cut, Some(self.who.slot));
                if cut == Cut::AnswersLost {
                    // Whatever it came to.
                    let _ = work.await;
                }
                if cut != Cut::Refused {
                    sleep(limit).await;
                }
                let message = "no connection to the API server";
                Err(ClusterError::new(ClusterErrorKind::Unavailable, message))
            }
        };
        self.life.answered().await;
        result
    }

    /// A call for the Lease.
    async fn lease_call<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let reached = async {
            if self.life.is_lease_cut() && self.cut_at == CutAt::Port {
                self.disturbances.show(Sign::Cut, Some(self.who.slot));
                let message = "etcdserver: request timed out";
                return Err(ClusterError::new(ClusterErrorKind::Unavailable, message));
            }
            work.await
        };
        self.call(limit, reached).await
    }

    /// What a watch tells, as it arrives.
    fn arriving<T: Send, S: Stream<Item = Result<T, ClusterError>> + Send>(
        &self,
        sign: Sign,
        events: S,
    ) -> impl Stream<Item = Result<T, ClusterError>> + Send + use<T, S, C> {
        let (life, disturbances) = (self.life.clone(), self.disturbances.clone());
        events.then(move |event| {
            let (life, disturbances) = (life.clone(), disturbances.clone());
            async move {
                life.hears().await;
                if event.is_ok() {
                    disturbances.show(sign, None);
                }
                event
            }
        })
    }
}

impl<C: Cluster> Cluster for ProcessCluster<C> {
    type LogStream = C::LogStream;

    async fn list_nodes(&self) -> Result<NodeList, ClusterError> {
        let nodes = self.call(READ_TIMEOUT, self.inner.list_nodes()).await;
        if nodes.is_ok() {
            self.disturbances.show(Sign::Nodes, None);
        }
        nodes
    }

    fn watch_nodes(
        &self,
        since: Option<String>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send {
        self.arriving(Sign::Nodes, self.inner.watch_nodes(since))
    }

    async fn create_pod(&self, pod: Pod) -> Result<PodView, ClusterError> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let create = async {
            self.record.creates(&self.who, &name);
            self.inner.create_pod(pod).await
        };
        // What carries a pod is large.
        self.pod_call(WRITE_TIMEOUT, Box::pin(create)).await
    }

    async fn get_pod(&self, name: &str) -> Result<PodView, ClusterError> {
        self.pod_call(READ_TIMEOUT, self.inner.get_pod(name)).await
    }

    async fn list_pods(&self) -> Result<Vec<PodView>, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.list_pods()).await
    }

    fn watch_pods(&self) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send {
        self.arriving(Sign::Pods, self.inner.watch_pods())
    }

    async fn delete_pods(&self, execution: &ExecutionId) -> Result<(), ClusterError> {
        let delete = async {
            self.record.deletes_all(&self.who, execution);
            self.inner.delete_pods(execution).await
        };
        self.call(READ_TIMEOUT, delete).await
    }

    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        let delete = async {
            self.record.deletes(&self.who, name, uid);
            self.inner.delete_pod(name, uid).await
        };
        self.pod_call(WRITE_TIMEOUT, delete).await
    }

    async fn pod_log(&self, pod: &str, container: &str) -> Result<Self::LogStream, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.pod_log(pod, container))
            .await
    }

    async fn create_event(&self, event: Event) -> Result<(), ClusterError> {
        let refuses = event.reason.as_deref() == Some("ConfigurationRefused");
        let created = (self.call(WRITE_TIMEOUT, self.inner.create_event(event))).await;
        if refuses {
            self.disturbances.show(Sign::ConfigMapRefused, None);
        }
        created
    }

    async fn config_map(&self, name: &str) -> Result<ConfigMapView, ClusterError> {
        let map = self.call(READ_TIMEOUT, self.inner.config_map(name)).await;
        if map.is_ok() {
            self.disturbances.show(Sign::ConfigMap, None);
        }
        map
    }

    fn watch_config_map(&self, name: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send {
        self.arriving(Sign::Call, self.inner.watch_config_map(name))
    }

    async fn secret(&self, name: &str) -> Result<SecretData, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.secret(name)).await
    }

    async fn create_secret(&self, name: &str, data: SecretData) -> Result<(), ClusterError> {
        self.call(WRITE_TIMEOUT, self.inner.create_secret(name, data))
            .await
    }

    async fn read_state(&self, name: &str) -> Result<Option<StateDocument>, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.read_state(name)).await
    }

    async fn write_state(
        &self,
        name: &str,
        version: Option<&str>,
        text: &str,
    ) -> Result<String, ClusterError> {
        self.call(WRITE_TIMEOUT, self.inner.write_state(name, version, text))
            .await
    }

    async fn service_address(&self, name: &str) -> Result<ServiceAddress, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.service_address(name))
            .await
    }

    async fn top_owner(&self, pod: &str) -> Result<Option<OwnerReference>, ClusterError> {
        self.call(READ_TIMEOUT, self.inner.top_owner(pod)).await
    }

    async fn get_lease(&self, name: &str) -> Result<LeaseView, ClusterError> {
        self.lease_call(READ_TIMEOUT, self.inner.get_lease(name))
            .await
    }

    async fn create_lease(
        &self,
        name: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        self.lease_call(WRITE_TIMEOUT, self.inner.create_lease(name, record))
            .await
    }

    async fn update_lease(
        &self,
        name: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        self.lease_call(
            WRITE_TIMEOUT,
            self.inner.update_lease(name, version, record),
        )
        .await
    }

    fn watch_lease(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send {
        self.arriving(Sign::Lease, self.inner.watch_lease(name))
    }
}

/// The way from one process to the others.
#[derive(Debug, Clone)]
pub(super) struct ProcessForward {
    pub(super) inner: SimForward,
    pub(super) life: Life,
    pub(super) disturbances: Disturbances,
}

impl Forward for ProcessForward {
    async fn forward(
        &self,
        host: &str,
        port: u16,
        request: Request<ForwardBody>,
    ) -> Result<Response<ForwardBody>, ForwardError> {
        self.life.runs().await;
        let answered = self.inner.forward(host, port, request).await;
        self.life.runs().await;
        if answered.is_err() {
            self.disturbances.show(Sign::Peers, None);
        }
        answered
    }
}

/// The report store of one process.
#[derive(Debug, Clone)]
pub(super) struct ProcessReports {
    pub(super) volume: Volume,
    pub(super) life: Life,
    pub(super) who: Who,
    pub(super) record: Record,
    /// Appends are done in the order in which they are asked for.
    pub(super) appending: Arc<Mutex<()>>,
}

impl ProcessReports {
    fn store(&self) -> &MemoryReportStore {
        self.volume.store()
    }

    async fn access<T>(
        &self,
        access: Access,
        work: impl Future<Output = Result<T, ReportStoreError>>,
    ) -> Result<T, ReportStoreError> {
        self.life.point().await;
        self.volume.admit(access).await?;
        self.life.runs().await;
        let result = work.await;
        self.life.answered().await;
        result
    }
}

/// A report on its way to the volume of a process.
#[derive(Debug)]
pub(super) struct ProcessUpload {
    inner: MemoryUpload,
    reports: ProcessReports,
}

impl Upload for ProcessUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        let write = self.inner.write(bytes);
        self.reports.access(Access::Write, write).await
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        let finish = self.inner.finish();
        self.reports.access(Access::Write, finish).await
    }
}

/// An append under way: where it is dropped as the volume loses its power, a part of it may be there.
struct Append<'a> {
    reports: &'a ProcessReports,
    execution: &'a ExecutionId,
    name: &'a str,
    bytes: Bytes,
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        if self.reports.life.is_torn() && !self.bytes.is_empty() {
            let part = self
                .bytes
                .slice(..self.reports.volume.tear(self.bytes.len()));
            let append = (self.reports.store()).append(self.execution, self.name, part.clone());
            // In memory it never waits.
            if let Some(Ok(())) = append.now_or_never() {
                self.reports.record.appended(self.execution, &part);
            }
        }
    }
}

impl ReportStore for ProcessReports {
    type Upload = ProcessUpload;
    type Content = <MemoryReportStore as ReportStore>::Content;

    async fn create_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let create = self.store().create_execution(execution);
        self.access(Access::Write, create).await
    }

    async fn set_latest(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let set = self.store().set_latest(execution);
        self.access(Access::Write, set).await
    }

    async fn latest(&self) -> Result<Option<ExecutionId>, ReportStoreError> {
        self.access(Access::Read, self.store().latest()).await
    }

    async fn list_executions(&self) -> Result<Vec<ExecutionId>, ReportStoreError> {
        let list = self.store().list_executions();
        self.access(Access::Read, list).await
    }

    async fn remove_execution(&self, execution: &ExecutionId) -> Result<(), ReportStoreError> {
        let remove = async {
            self.record.removes(&self.volume, execution);
            self.store().remove_execution(execution).await
        };
        self.access(Access::Remove, remove).await
    }

    async fn begin(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<ProcessUpload, ReportStoreError> {
        let begin = self.store().begin(execution, name);
        let inner = self.access(Access::Write, begin).await?;
        Ok(ProcessUpload {
            inner,
            reports: self.clone(),
        })
    }

    async fn put(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let put = self.store().put(execution, name, bytes);
        self.access(Access::Write, put).await
    }

    async fn put_if(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
        may_store: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), ReportStoreError> {
        let put = async {
            let stored = (self.store()).put_if(execution, name, bytes.clone(), may_store);
            stored.await?;
            self.record.puts(&self.who, execution, name, &bytes);
            Ok(())
        };
        self.access(Access::Write, put).await
    }

    async fn append(
        &self,
        execution: &ExecutionId,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), ReportStoreError> {
        let _turn = self.appending.lock().await;
        let mut append = Append {
            reports: self,
            execution,
            name,
            bytes,
        };
        let append = async {
            let bytes = std::mem::take(&mut append.bytes);
            self.record.appends(&self.who, execution, name, &bytes);
            self.store().append(execution, name, bytes.clone()).await?;
            self.record.appended(execution, &bytes);
            Ok(())
        };
        self.access(Access::Write, append).await
    }

    async fn list(&self, execution: &ExecutionId) -> Result<Vec<ReportMetadata>, ReportStoreError> {
        self.access(Access::Read, self.store().list(execution))
            .await
    }

    async fn metadata(
        &self,
        execution: &ExecutionId,
        name: &str,
    ) -> Result<ReportMetadata, ReportStoreError> {
        let metadata = self.store().metadata(execution, name);
        self.access(Access::Read, metadata).await
    }

    async fn read(
        &self,
        execution: &ExecutionId,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Self::Content, ReportStoreError> {
        let read = self.store().read(execution, name, offset, length);
        self.access(Access::Read, read).await
    }

    async fn put_own(&self, name: &str, bytes: Bytes) -> Result<(), ReportStoreError> {
        let put = self.store().put_own(name, bytes);
        self.access(Access::Write, put).await
    }

    async fn get_own(&self, name: &str) -> Result<Bytes, ReportStoreError> {
        self.access(Access::Read, self.store().get_own(name)).await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        self.access(Access::Write, self.store().probe()).await
    }
}
