//! The cluster port over the real Kubernetes client, which may also speak to the simulated API server.
//!
//! Writes end within [`WRITE_TIMEOUT`], reads within [`GET_TIMEOUT`] or [`READ_TIMEOUT`]; the client's own retries are
//! switched off, because the core decides what a failure means. Deliberately not here: backoff, caps on calls in
//! flight, decisions.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
    WatchEvent as KubeWatchEvent, WatchParams,
};
use kube::client::ClientBuilder;
use kube::core::Request;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::io::ReaderStream;
use tower::util::MapResponseLayer;

use super::kube_error::{from_client, from_status, from_watcher};
use super::retry_after;
use super::slim::{SlimNode, SlimPod};
use crate::core::ids::ExecutionId;
use crate::core::names::{LABEL_EXECUTION_ID, LABEL_OWNER};
use crate::core::views::PodView;
use crate::ports::cluster::{
    Cluster, ConfigMapView, LIST_PAGE_SIZE, LeaseRecord, LeaseView, NodeList, NodeWatchEvent,
    PodWatchEvent, STATE_KEY, SecretData, ServiceAddress, StateDocument, WatchEvent,
};
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// A write that is not answered in this time has an unknown outcome. Below leaseDuration − renewDeadline by default (5
/// s), so that no write of a former leader is under way when another may lead.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// A list that is not answered in this time is given up. Kubernetes' own objective for it is 30 s at the 99th
/// percentile.
pub const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// A single object that is not answered in this time is given up. Kubernetes' own objective for it is 1 s at the 99th
/// percentile, and a job pod may be waiting: for its event its pod is read first.
pub const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// A watch of the API server's own making ends within 290 s (the client's default); one that goes on for longer is not
/// heard of.
const WATCH_LIFE: Duration = Duration::from_mins(5);

/// The cluster as one namespace and one owner see it.
#[derive(Clone)]
pub struct KubeCluster {
    client: Client,
    namespace: String,
    owner: String,
}

impl std::fmt::Debug for KubeCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeCluster")
            .field("namespace", &self.namespace)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl KubeCluster {
    /// The cluster behind `client`; `owner` is the controller's name, the value of the owner label.
    #[must_use]
    pub fn new(client: Client, namespace: impl Into<String>, owner: impl Into<String>) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            owner: owner.into(),
        }
    }

    /// Connects as kube resolves it: `KUBECONFIG`, `~/.kube/config`, else the pod's service account.
    ///
    /// # Errors
    /// One line that says what was looked for, where neither is usable.
    pub async fn connect() -> Result<Client, ClusterError> {
        let config = kube::Config::infer().await;
        Self::client(config.map_err(|error| unusable(&error))?)
    }

    /// A client as the controller uses it: without retries of its own.
    ///
    /// # Errors
    /// Where the configuration cannot be used: a file that it names cannot be read, say.
    pub fn client(mut config: kube::Config) -> Result<Client, ClusterError> {
        config.default_retry = false;
        let client = ClientBuilder::try_from(config).map_err(|error| unusable(&error))?;
        let layer = MapResponseLayer::new(retry_after::keep);
        Ok(client.with_layer(&layer).build())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn owner_selector(&self) -> String {
        format!("{LABEL_OWNER}={}", self.owner)
    }

    /// Watches one object: first as some server knows it, then every change; none when it is deleted.
    fn watch_one<K>(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<K>, ClusterError>> + Send + use<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + 'static,
    {
        let objects = self.api::<K>();
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let begun = async move {
            // From any version: no list, and no right to one.
            let events = objects.watch(&params, "0").await;
            let events = events.map_err(|error| from_client(&error))?;
            Ok::<_, ClusterError>(events.filter_map(|event| std::future::ready(shown(event))))
        };
        stream::once(begun).try_flatten()
    }

    /// Sets an annotation of a ConfigMap, for whoever asks the controller for something.
    ///
    /// # Errors
    /// `NotFound`, `Refused` (RBAC), or transient.
    pub async fn annotate_config_map(
        &self,
        name: &str,
        key: &str,
        value: &str,
    ) -> Result<(), ClusterError> {
        let config_maps = self.api::<ConfigMap>();
        let patch = serde_json::json!({"metadata": {"annotations": {key: value}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        within(WRITE_TIMEOUT, config_maps.patch(name, &params, &patch))
            .await
            .map(drop)
    }

    /// Creates without decoding more of the answer than `T` asks for.
    async fn create<K, T>(&self, object: &K) -> Result<T, ClusterError>
    where
        K: Resource<DynamicType = ()> + Serialize,
        T: DeserializeOwned,
    {
        let body = serde_json::to_vec(object)
            .map_err(|error| ClusterError::new(ClusterErrorKind::Refused, error.to_string()))?;
        let request = Request::new(K::url_path(&(), Some(&self.namespace)))
            .create(&PostParams::default(), body)
            .map_err(|error| ClusterError::new(ClusterErrorKind::Refused, error.to_string()))?;
        within(WRITE_TIMEOUT, self.client.request(request)).await
    }

    async fn list_all<K, V>(
        &self,
        api: &Api<K>,
        selector: Option<&str>,
    ) -> Result<(Vec<V>, String), ClusterError>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
        V: From<K>,
    {
        let mut params = ListParams {
            label_selector: selector.map(str::to_owned),
            ..ListParams::default()
        }
        .limit(LIST_PAGE_SIZE);
        let mut views = Vec::new();
        let mut version = None;
        loop {
            let page = within(READ_TIMEOUT, api.list(&params)).await?;
            views.extend(page.items.into_iter().map(V::from));
            let version = version.get_or_insert(page.metadata.resource_version.unwrap_or_default());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok((views, std::mem::take(version))),
            }
        }
    }
}

/// Watches objects as their views, page by page where it lists.
fn watch<K, V>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<WatchEvent<V>, ClusterError>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: From<K> + Send,
{
    let mut listed = Vec::new();
    let events = Box::pin(watcher(api, config.page_size(LIST_PAGE_SIZE)));
    // A version that has expired stays so, but the watcher would ask for it for ever: begun again, it lists.
    let events = stream::unfold(Some(events), |events| async {
        let mut events = events?;
        let event = events.next().await?;
        let is_expired = matches!(
            &event,
            Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) if status.code == 410
        );
        Some((event, (!is_expired).then_some(events)))
    });
    events.filter_map(move |event| {
        let message = match event {
            Ok(watcher::Event::Init) => {
                listed = Vec::new();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.push(object.into());
                None
            }
            Ok(watcher::Event::InitDone) => {
                Some(Ok(WatchEvent::Restarted(std::mem::take(&mut listed))))
            }
            Ok(watcher::Event::Apply(object)) => Some(Ok(WatchEvent::Applied(object.into()))),
            Ok(watcher::Event::Delete(object)) => Some(Ok(WatchEvent::Deleted(object.into()))),
            Err(error) => Some(Err(from_watcher(&error))),
        };
        std::future::ready(message)
    })
}

/// Tells what changed since a version, for as long as one watch lasts.
fn watch_since<K, V>(
    api: Api<K>,
    version: String,
) -> impl Stream<Item = Result<WatchEvent<V>, ClusterError>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: From<K> + Send,
{
    let begun = async move {
        let params = WatchParams::default();
        within(READ_TIMEOUT, api.watch(&params, &version)).await
    };
    let events = stream::once(begun).map_ok(|events| {
        events.filter_map(|event| {
            std::future::ready(match event {
                Ok(KubeWatchEvent::Added(object) | KubeWatchEvent::Modified(object)) => {
                    Some(Ok(WatchEvent::Applied(object.into())))
                }
                Ok(KubeWatchEvent::Deleted(object)) => Some(Ok(WatchEvent::Deleted(object.into()))),
                Ok(KubeWatchEvent::Bookmark(_)) => None,
                Ok(KubeWatchEvent::Error(status)) => Some(Err(from_status(&status))),
                Err(error) => Some(Err(from_client(&error))),
            })
        })
    });
    // A connection that is dead may never say so.
    events
        .try_flatten()
        .take_until(tokio::time::sleep(WATCH_LIFE))
}

fn unusable(error: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::new(ClusterErrorKind::Refused, error.to_string())
}

/// Runs a call with a deadline; a missed one is `Unavailable`.
fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>> + Send,
) -> impl Future<Output = Result<T, ClusterError>> + Send {
    // The client's futures are tens of kilobytes, which every future around them would hold twice.
    let call = Box::pin(call);
    async move {
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result.map_err(|error| from_client(&error)),
            Err(_) => Err(ClusterError::new(
                ClusterErrorKind::Unavailable,
                format!("no answer from the API server within {} s", limit.as_secs()),
            )),
        }
    }
}

fn version_of(config_map: &ConfigMap) -> String {
    config_map.resource_version().unwrap_or_default()
}

impl Cluster for KubeCluster {
    type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, ClusterError>> + Send>>;

    async fn list_nodes(&self) -> Result<NodeList, ClusterError> {
        let api = Api::<SlimNode>::all(self.client.clone());
        let (nodes, version) = self.list_all(&api, None).await?;
        Ok(NodeList { nodes, version })
    }

    async fn create_pod(&self, pod: Pod) -> Result<PodView, ClusterError> {
        self.create::<_, SlimPod>(&pod).await.map(PodView::from)
    }

    async fn get_pod(&self, name: &str) -> Result<PodView, ClusterError> {
        let pods = self.api::<SlimPod>();
        within(GET_TIMEOUT, pods.get(name)).await.map(PodView::from)
    }

    async fn list_pods(&self) -> Result<Vec<PodView>, ClusterError> {
        let (api, selector) = (self.api::<SlimPod>(), self.owner_selector());
        let listed = self.list_all(&api, Some(&selector)).await;
        listed.map(|(pods, _)| pods)
    }

    fn watch_pods(&self) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send {
        let config = watcher::Config::default().labels(&self.owner_selector());
        watch(self.api::<SlimPod>(), config)
    }

    fn watch_nodes(
        &self,
        since: Option<String>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send {
        let api = Api::<SlimNode>::all(self.client.clone());
        // However that ends, also because the version has expired: what it did not tell, a list does.
        let relisted = watch(api.clone(), watcher::Config::default());
        let changed = stream::iter(since).flat_map(move |since| watch_since(api.clone(), since));
        changed.chain(relisted)
    }

    async fn delete_pods(&self, execution: &ExecutionId) -> Result<(), ClusterError> {
        let selector = format!("{},{LABEL_EXECUTION_ID}={execution}", self.owner_selector());
        let request = Request::new(Pod::url_path(&(), Some(&self.namespace)))
            .delete_collection(
                &DeleteParams::background(),
                &ListParams::default().labels(&selector),
            )
            .map_err(|error| ClusterError::new(ClusterErrorKind::Refused, error.to_string()))?;
        // Deleting thousands takes an API server longer than one write.
        within(READ_TIMEOUT, self.client.request::<IgnoredAny>(request))
            .await
            .map(drop)
    }

    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteParams::background()
        };
        let request = Request::new(Pod::url_path(&(), Some(&self.namespace)))
            .delete(name, &params)
            .map_err(|error| ClusterError::new(ClusterErrorKind::Refused, error.to_string()))?;
        within(WRITE_TIMEOUT, self.client.request::<IgnoredAny>(request))
            .await
            .map(drop)
    }

    async fn pod_log(&self, pod: &str, container: &str) -> Result<Self::LogStream, ClusterError> {
        let params = LogParams {
            container: Some(container.to_owned()),
            ..LogParams::default()
        };
        let pods = self.api::<Pod>();
        let reader = within(READ_TIMEOUT, pods.log_stream(pod, &params)).await?;
        let bytes = ReaderStream::new(reader.compat())
            .map_err(|error| ClusterError::new(ClusterErrorKind::Unavailable, error.to_string()));
        Ok(Box::pin(bytes))
    }

    async fn create_event(&self, event: Event) -> Result<(), ClusterError> {
        self.create::<_, IgnoredAny>(&event).await.map(drop)
    }

    async fn config_map(&self, name: &str) -> Result<ConfigMapView, ClusterError> {
        let config_maps = self.api::<ConfigMap>();
        let config_map = within(GET_TIMEOUT, config_maps.get(name)).await?;
        Ok(ConfigMapView {
            annotations: config_map.metadata.annotations.unwrap_or_default(),
            data: config_map.data.unwrap_or_default(),
        })
    }

    fn watch_config_map(&self, name: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send {
        self.watch_one::<ConfigMap>(name).map_ok(drop)
    }

    async fn read_state(&self, name: &str) -> Result<Option<StateDocument>, ClusterError> {
        let config_maps = self.api::<ConfigMap>();
        match within(GET_TIMEOUT, config_maps.get(name)).await {
            Ok(config_map) => Ok(Some(StateDocument {
                version: version_of(&config_map),
                text: (config_map.data)
                    .and_then(|mut data| data.remove(STATE_KEY))
                    .unwrap_or_default(),
            })),
            Err(error) if error.kind == ClusterErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write_state(
        &self,
        name: &str,
        version: Option<&str>,
        text: &str,
    ) -> Result<String, ClusterError> {
        let config_maps = self.api::<ConfigMap>();
        let config_map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: version.map(str::to_owned),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(STATE_KEY.to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        };
        let written: ConfigMap = match version {
            // A merge with the version in it changes what was read, or nothing.
            Some(_) => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(&config_map));
                within(WRITE_TIMEOUT, config_maps.patch(name, &params, &patch)).await?
            }
            None => self.create(&config_map).await?,
        };
        Ok(version_of(&written))
    }

    async fn secret(&self, name: &str) -> Result<SecretData, ClusterError> {
        let secrets = self.api::<Secret>();
        let secret = within(GET_TIMEOUT, secrets.get(name)).await?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, ByteString(bytes))| (key, bytes)).collect())
    }

    async fn create_secret(&self, name: &str, data: SecretData) -> Result<(), ClusterError> {
        let data = data.into_iter();
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.map(|(key, bytes)| (key, ByteString(bytes))).collect()),
            ..Secret::default()
        };
        self.create::<_, IgnoredAny>(&secret).await.map(drop)
    }

    async fn service_address(&self, name: &str) -> Result<ServiceAddress, ClusterError> {
        let services = self.api::<Service>();
        let service = within(GET_TIMEOUT, services.get(name)).await?;
        let address = service
            .spec
            .and_then(|spec| spec.cluster_ip)
            .unwrap_or_default();
        Ok(match address.as_str() {
            "" | "None" => ServiceAddress::DnsName(format!("{name}.{}.svc", self.namespace)),
            _ => ServiceAddress::ClusterIp(address),
        })
    }

    async fn top_owner(&self, pod: &str) -> Result<Option<OwnerReference>, ClusterError> {
        // Their metadata is all that is looked at, and the code that reads a whole pod is 0.4 MB of the image.
        let pods = self.api::<Pod>();
        let pod = within(GET_TIMEOUT, pods.get_metadata(pod)).await?;
        let Some(owner) = controlling_owner(pod.owner_references()) else {
            return Ok(None);
        };
        if owner.kind != "ReplicaSet" {
            return Ok(Some(owner));
        }
        let replica_sets = self.api::<ReplicaSet>();
        let replica_set = within(GET_TIMEOUT, replica_sets.get_metadata(&owner.name)).await?;
        Ok(controlling_owner(replica_set.owner_references()).or(Some(owner)))
    }

    async fn get_lease(&self, name: &str) -> Result<LeaseView, ClusterError> {
        let leases = self.api::<Lease>();
        within(WRITE_TIMEOUT, leases.get(name))
            .await
            .map(LeaseView::from)
    }

    async fn create_lease(
        &self,
        name: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let lease = record.to_lease(name, &self.namespace);
        self.create::<_, Lease>(&lease).await.map(LeaseView::from)
    }

    async fn update_lease(
        &self,
        name: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let (leases, params) = (self.api::<Lease>(), PatchParams::default());
        let patch = Patch::Merge(record.to_merge_patch(version));
        within(WRITE_TIMEOUT, leases.patch(name, &params, &patch))
            .await
            .map(LeaseView::from)
    }

    fn watch_lease(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send {
        let shown = self.watch_one::<Lease>(name);
        shown.map_ok(|lease| lease.map(LeaseView::from))
    }
}

/// What a watch shows of the one object; nothing for a bookmark.
fn shown<K: Clone>(
    event: Result<KubeWatchEvent<K>, kube::Error>,
) -> Option<Result<Option<K>, ClusterError>> {
    match event {
        Ok(KubeWatchEvent::Added(object) | KubeWatchEvent::Modified(object)) => {
            Some(Ok(Some(object)))
        }
        Ok(KubeWatchEvent::Deleted(_)) => Some(Ok(None)),
        Ok(KubeWatchEvent::Bookmark(_)) => None,
        Ok(KubeWatchEvent::Error(status)) => Some(Err(from_status(&status))),
        Err(error) => Some(Err(from_client(&error))),
    }
}

/// The owner that controls the object, else its first, as a plain reference: job pods are owned, not controlled, by it.
fn controlling_owner(owners: &[OwnerReference]) -> Option<OwnerReference> {
    let owner = (owners.iter().find(|owner| owner.controller == Some(true))).or(owners.first())?;
    Some(OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..owner.clone()
    })
}
