//! The cluster as the controller sees it: nodes and its own job pods as slim views, and the few calls it makes.
//!
//! An implementation is bound to the controller's namespace and owner label when it is made. It does not retry: the
//! core decides what a failure means. Every call is cancel safe in the sense that a dropped future of a write leaves
//! the outcome unknown, never half done.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use futures::Stream;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::error::ClusterError;
use crate::core::ids::ExecutionId;
pub use crate::core::lease::{LeaseRecord, LeaseView};
pub use crate::core::views::{NodeView, PodPhase, PodView};

/// Objects a page of a list: 50 nodes are about 600 kB of JSON, so that a list of any size costs a few megabytes of
/// memory, and no page as many seats as an API server gives one list at most.
pub const LIST_PAGE_SIZE: u32 = 50;

/// One message of a watch. A view never goes back: an implementation that reconnects lists again and says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent<V> {
    /// Every object as it is now: at the start and after each relist. What is not in it is gone.
    Restarted(Vec<V>),
    /// An object was created or changed.
    Applied(V),
    /// An object is gone from the API server; the view is its last state.
    Deleted(V),
}

/// One message of the watch of this owner's job pods.
pub type PodWatchEvent = WatchEvent<PodView>;

/// One message of the watch of all nodes.
pub type NodeWatchEvent = WatchEvent<NodeView>;

/// All nodes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeList {
    /// In the order of their names.
    pub nodes: Vec<NodeView>,
    /// `metadata.resourceVersion` of the list, from which a watch can go on.
    pub version: String,
}

/// The address of the callback Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAddress {
    /// `spec.clusterIP`.
    ClusterIp(String),
    /// A headless Service: its DNS name within the cluster.
    DnsName(String),
}

/// The key of the state record in its ConfigMap.
pub const STATE_KEY: &str = "state.json";

/// What a Secret holds, decoded. Not to be logged.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// The state record as it was read: the text under [`STATE_KEY`] of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDocument {
    /// `metadata.resourceVersion`, to be handed back with the next write.
    pub version: String,
    /// The text; empty where the ConfigMap has none.
    pub text: String,
}

/// A ConfigMap, as far as the controller reads one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigMapView {
    /// `metadata.annotations`: what people ask for.
    pub annotations: BTreeMap<String, String>,
    /// `data`: the configuration.
    pub data: BTreeMap<String, String>,
}

/// The calls that the controller makes.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// The bytes of a container's log, in order.
    type LogStream: Stream<Item = Result<Bytes, ClusterError>> + Send + Unpin;

    /// All nodes, read page by page from one snapshot.
    ///
    /// # Errors
    /// Any kind; nothing is returned of a list that broke off.
    fn list_nodes(&self) -> impl Future<Output = Result<NodeList, ClusterError>> + Send;

    /// Watches all nodes. Begins with `Restarted`, and again after each interruption; given the version of a list, it
    /// may go on from there instead, which spares the cluster another list. Ends only with an error item or when
    /// dropped; the caller begins again after a pause.
    fn watch_nodes(
        &self,
        since: Option<String>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send;

    /// Creates a job pod.
    ///
    /// # Errors
    /// `AlreadyExists`, `Refused`, or transient: then it may exist all the same.
    fn create_pod(&self, pod: Pod) -> impl Future<Output = Result<PodView, ClusterError>> + Send;

    /// One pod by name, whoever owns it, as the API server has it now.
    ///
    /// # Errors
    /// `NotFound`, or transient.
    fn get_pod(&self, name: &str) -> impl Future<Output = Result<PodView, ClusterError>> + Send;

    /// Every pod that carries this owner's label, as the API server has it now (never from an old cache).
    ///
    /// # Errors
    /// Any kind; nothing is returned of a list that broke off.
    fn list_pods(&self) -> impl Future<Output = Result<Vec<PodView>, ClusterError>> + Send;

    /// Watches this owner's pods; begins with `Restarted`, and again after each interruption. Ends only with an error
    /// item or when dropped; the caller begins again after a pause.
    fn watch_pods(&self) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send;

    /// Deletes the job pods of one execution of this owner, selected by both labels, with their usual grace.
    ///
    /// # Errors
    /// Any kind; deleting none is no error. Can be repeated.
    fn delete_pods(
        &self,
        execution: &ExecutionId,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Deletes the pod of that name if it still has that uid, with its usual grace.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Conflict` where another has the name, or any other kind. Can be repeated.
    fn delete_pod(
        &self,
        name: &str,
        uid: &str,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Streams the log of one container of a pod that has started.
    ///
    /// # Errors
    /// `NotFound` once the pod is gone, or transient.
    fn pod_log(
        &self,
        pod: &str,
        container: &str,
    ) -> impl Future<Output = Result<Self::LogStream, ClusterError>> + Send;

    /// Creates a Kubernetes event.
    ///
    /// # Errors
    /// Any kind.
    fn create_event(&self, event: Event) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// A ConfigMap of this namespace, as the API server has it now (never from an old cache).
    ///
    /// # Errors
    /// `NotFound`, or transient.
    fn config_map(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<ConfigMapView, ClusterError>> + Send;

    /// Tells that a ConfigMap of this namespace may have changed: once where there is one, then with every change and
    /// its deletion. It ends now and then, or with an error item; the caller begins again after a pause.
    fn watch_config_map(&self, name: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send;

    /// The state record in the ConfigMap `name` of this namespace, as the API server has it now; none where there is no
    /// such ConfigMap.
    ///
    /// # Errors
    /// `Refused` (RBAC), or transient.
    fn read_state(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<StateDocument>, ClusterError>> + Send;

    /// Writes the state record if it is still at `version`, or creates its ConfigMap where that is none; answers with
    /// the new version. What else is in the ConfigMap stays.
    ///
    /// # Errors
    /// `Conflict` where it changed, `AlreadyExists` where it was created, `NotFound` where it was deleted since it was
    /// read; `Refused`, or transient: then it may be written all the same.
    fn write_state(
        &self,
        name: &str,
        version: Option<&str>,
        text: &str,
    ) -> impl Future<Output = Result<String, ClusterError>> + Send;

    /// The data of a Secret of this namespace.
    ///
    /// # Errors
    /// `NotFound`, `Refused` (RBAC), or transient.
    fn secret(&self, name: &str) -> impl Future<Output = Result<SecretData, ClusterError>> + Send;

    /// Creates a Secret with this data.
    ///
    /// # Errors
    /// `AlreadyExists`, `Refused` (RBAC), or transient: then it may exist all the same.
    fn create_secret(
        &self,
        name: &str,
        data: SecretData,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// The address of a Service of this namespace.
    ///
    /// # Errors
    /// `NotFound`, or transient.
    fn service_address(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<ServiceAddress, ClusterError>> + Send;

    /// The top owner of a pod of this namespace: its ReplicaSet's Deployment where there is one, else its own
    /// controller; none where nobody owns it.
    ///
    /// # Errors
    /// `NotFound`, `Refused` (RBAC), or transient.
    fn top_owner(
        &self,
        pod: &str,
    ) -> impl Future<Output = Result<Option<OwnerReference>, ClusterError>> + Send;

    /// A Lease of this namespace, as the API server has it now (never from an old cache).
    ///
    /// # Errors
    /// `NotFound`, or transient.
    fn get_lease(&self, name: &str)
    -> impl Future<Output = Result<LeaseView, ClusterError>> + Send;

    /// Creates a Lease; answers it as it then is.
    ///
    /// # Errors
    /// `AlreadyExists`, or any other kind; where transient it may exist all the same.
    fn create_lease(
        &self,
        name: &str,
        record: &LeaseRecord,
    ) -> impl Future<Output = Result<LeaseView, ClusterError>> + Send;

    /// Replaces what a Lease says, if it still is of that version; labels and annotations of others stay. Answers it as
    /// it then is.
    ///
    /// # Errors
    /// `Conflict` where it has changed since, `NotFound`, or transient: then it may have been done all the same.
    fn update_lease(
        &self,
        name: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> impl Future<Output = Result<LeaseView, ClusterError>> + Send;

    /// Watches one Lease: first as it is, where there is one, then every change; none when it is deleted. What it shows
    /// may be old, and it ends now and then, or with an error item; the caller begins again after a pause.
    fn watch_lease(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send;
}
