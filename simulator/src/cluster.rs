//! The controller's cluster port directly over the API server's state: no HTTP, no client, no copies beyond the views.
//!
//! What it answers is what the real client on the same state would; the contract suite is run over both. Calls are
//! answered at once, in the order in which they are made. Deliberately not here: faults and delays.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use controller::core::ids::ExecutionId;
use controller::core::names::{LABEL_EXECUTION_ID, LABEL_OWNER};
use controller::core::taint::Taint;
use controller::core::views::{NodeView, PodPhase, PodView, Waiting};
use controller::ports::cluster::{
    Cluster, ConfigMapView, LeaseRecord, LeaseView, NodeList, NodeWatchEvent, PodWatchEvent,
    STATE_KEY, SecretData, ServiceAddress, StateDocument, WatchEvent as PortEvent,
};
use controller::ports::error::{ClusterError, ClusterErrorKind};
use futures::stream::{self, Iter};
use futures::{Stream, StreamExt as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Changes};
use crate::state::{
    DeleteOptions, ListOptions, Object, Part, Patch, Row, Selector, State, Status, Stored, Target,
    WatchCursor, WatchEvent, WatchFrom, WriteOptions, resource,
};
use crate::traffic::Traffic;

/// Events taken from the watch under one lock of the state.
const EVENTS_AT_ONCE: usize = 256;

/// The cluster as one namespace and one owner see it.
#[derive(Debug, Clone)]
pub struct SimCluster {
    api: ApiServer,
    namespace: Arc<str>,
    owner: Arc<str>,
    traffic: Traffic,
}

impl SimCluster {
    /// The cluster behind `api`; `owner` is the controller's name, the value of the owner label.
    #[must_use]
    pub fn new(api: ApiServer, namespace: &str, owner: &str) -> Self {
        Self {
            api,
            namespace: namespace.into(),
            owner: owner.into(),
            traffic: Traffic::default(),
        }
    }

    /// What is asked through this port and its clones.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    fn target<'a>(&'a self, row: &'static Row, name: &'a str) -> Target<'a> {
        Target::new(row, &self.namespace, name)
    }

    fn selector(&self) -> Selector {
        Selector::default().with_label(LABEL_OWNER, &self.owner)
    }

    fn get(&self, row: &'static Row, name: &str) -> Result<Arc<Stored>, ClusterError> {
        self.traffic.request("get", row.plural);
        let found = self.api.read(|state| state.get(self.target(row, name)));
        found.map_err(|status| error_of(&status))
    }

    fn create(&self, row: &'static Row, object: Value) -> Result<Arc<Stored>, ClusterError> {
        self.traffic.request("create", row.plural);
        let now = self.api.now();
        let target = self.target(row, "");
        let created = self
            .api
            .with_state(|state| state.create(now, target, object, WriteOptions::default()));
        created.map_err(|status| error_of(&status))
    }

    fn pods_of_owner(&self, state: &State) -> Result<Vec<PodView>, Status> {
        let options = ListOptions {
            namespace: Some(&self.namespace),
            selector: self.selector(),
            ..ListOptions::default()
        };
        let list = state.list(&resource::PODS, &options)?;
        self.traffic.list(resource::PODS.plural, list.items.len());
        Ok(list.items.iter().map(|pod| pod_view(pod)).collect())
    }
}

/// The kind of a refusal, as the real client's adapter sees it.
pub(crate) fn error_of(status: &Status) -> ClusterError {
    let kind = ClusterErrorKind::of_status(status.code, status.reason, retry_after(status));
    ClusterError::new(kind, status.message.replace('\n', " "))
}

fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds?;
    Some(Duration::from_secs(seconds.into()))
}

fn refused(error: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::new(ClusterErrorKind::Refused, error.to_string())
}

/// The API server has been dropped.
fn gone() -> ClusterError {
    ClusterError::new(ClusterErrorKind::Unavailable, "the API server is gone")
}

/// A node as the controller sees it.
#[must_use]
pub fn node_view(node: &Object) -> NodeView {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let taint = |taint: &Value| Taint {
        key: text(&taint["key"]),
        value: text(&taint["value"]),
        effect: text(&taint["effect"]),
    };
    NodeView {
        name: node.metadata.name.to_string(),
        uid: node.metadata.uid.to_string(),
        version: node.metadata.resource_version,
        labels: BTreeMap::clone(&node.metadata.labels),
        unschedulable: node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
        ready: node.list("/status/conditions").iter().any(ready),
        taints: node.list("/spec/taints").iter().map(taint).collect(),
    }
}

/// A pod as the controller sees it.
#[must_use]
pub fn pod_view(pod: &Object) -> PodView {
    let labels = &pod.metadata.labels;
    let names = |list| pod.list(list).iter().filter_map(|c| c["name"].as_str());
    let (reason, message) = reason_and_message(pod);
    PodView {
        name: pod.metadata.name.to_string(),
        uid: pod.metadata.uid.to_string(),
        node: pod.text("/spec/nodeName").to_owned(),
        owner: labels.get(LABEL_OWNER).cloned().unwrap_or_default(),
        execution: labels
            .get(LABEL_EXECUTION_ID)
            .and_then(|id| ExecutionId::parse(id)),
        phase: PodPhase::parse(Some(pod.text("/status/phase"))),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        grace: Duration::from_secs(
            pod.metadata
                .deletion_grace_period_seconds
                .unwrap_or(0)
                .unsigned_abs(),
        ),
        reason,
        message,
        waiting: waiting(pod),
        containers: names("/spec/initContainers")
            .chain(names("/spec/containers"))
            .map(str::to_owned)
            .collect(),
    }
}

/// The first container that waits because something is wrong.
fn waiting(pod: &Object) -> Option<Waiting> {
    let init = pod.list("/status/initContainerStatuses");
    let mut all = init.iter().chain(pod.list("/status/containerStatuses"));
    all.find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reason = text(&waiting["reason"]);
        Waiting::is_trouble(&reason).then(|| Waiting {
            container: text(&container["name"]),
            reason,
            message: text(&waiting["message"]),
        })
    })
}

/// The pod's own words, else those of the first container that failed.
fn reason_and_message(pod: &Object) -> (String, String) {
    let (reason, message) = (pod.text("/status/reason"), pod.text("/status/message"));
    if !reason.is_empty() || !message.is_empty() {
        return (reason.to_owned(), message.to_owned());
    }
    let init = pod.list("/status/initContainerStatuses");
    let all = init.iter().chain(pod.list("/status/containerStatuses"));
    let failed = all.into_iter().find_map(|container| {
        let terminated = &container["state"]["terminated"];
        let code = terminated["exitCode"].as_i64().filter(|code| *code != 0)?;
        Some((container, terminated, code))
    });
    let Some((container, terminated, code)) = failed else {
        return Default::default();
    };
    let name = container["name"].as_str().unwrap_or_default();
    let mut message = format!("container {name} exited with {code}");
    if let Some(words) = terminated["message"]
        .as_str()
        .filter(|words| !words.is_empty())
    {
        message = format!("{message}: {}", words.trim());
    }
    let reason = terminated["reason"].as_str().unwrap_or_default();
    (reason.to_owned(), message)
}

/// What is watched: all objects of a resource that are selected, each as a view.
struct Watched<V> {
    row: &'static Row,
    namespace: Option<Arc<str>>,
    selector: Selector,
    view: fn(&Object) -> V,
}

/// A watch in progress.
struct Watch<V> {
    cluster: SimCluster,
    watched: Watched<V>,
    changes: Changes,
    cursor: Option<WatchCursor>,
    ready: VecDeque<PortEvent<V>>,
}

impl<V> Watch<V> {
    async fn next(&mut self) -> Result<PortEvent<V>, ClusterError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(cursor) = &mut self.cursor else {
                return self.begin();
            };
            let events = self
                .cluster
                .api
                .read(|state| state.poll(cursor, EVENTS_AT_ONCE));
            if events.is_empty() && self.changes.changed().await.is_err() {
                return Err(gone());
            }
            self.cluster.traffic.watch_events(events.len());
            let view = self.watched.view;
            for event in events {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        self.ready.push_back(PortEvent::Applied(view(&object)));
                    }
                    WatchEvent::Deleted(object) => {
                        self.ready.push_back(PortEvent::Deleted(view(&object)));
                    }
                    WatchEvent::Bookmark { .. } => {}
                    WatchEvent::Error(_) => self.cursor = None,
                }
            }
        }
    }

    /// Lists, and watches from the version of the list on.
    fn begin(&mut self) -> Result<PortEvent<V>, ClusterError> {
        let (traffic, watched) = (&self.cluster.traffic, &self.watched);
        let namespace = watched.namespace.as_deref();
        let begun = self.cluster.api.read(|state| {
            let options = ListOptions {
                namespace,
                selector: watched.selector.clone(),
                ..ListOptions::default()
            };
            let list = state.list(watched.row, &options)?;
            traffic.list(watched.row.plural, list.items.len());
            traffic.request("watch", watched.row.plural);
            let from = WatchFrom::Version(state.version());
            let selector = watched.selector.clone();
            let cursor = state.watch(watched.row, namespace, selector, from);
            let views = list.items.iter().map(|object| (watched.view)(object));
            Ok((views.collect(), cursor))
        });
        let (views, cursor) = begun.map_err(|status: Status| error_of(&status))?;
        self.cursor = Some(cursor);
        Ok(PortEvent::Restarted(views))
    }
}

impl SimCluster {
    fn watch<V: Send>(
        &self,
        watched: Watched<V>,
        since: Option<u64>,
    ) -> impl Stream<Item = Result<PortEvent<V>, ClusterError>> + Send + use<V> {
        let cursor = since.map(|version| {
            self.traffic.request("watch", watched.row.plural);
            let namespace = watched.namespace.as_deref();
            let (selector, from) = (watched.selector.clone(), WatchFrom::Version(version));
            (self.api).read(|state| state.watch(watched.row, namespace, selector, from))
        });
        let watch = Watch {
            cluster: self.clone(),
            changes: self.api.subscribe_to(watched.row),
            watched,
            cursor,
            ready: VecDeque::new(),
        };
        stream::unfold(watch, |mut watch| async {
            let event = watch.next().await;
            Some((event, watch))
        })
    }
}

impl Cluster for SimCluster {
    type LogStream = Iter<std::option::IntoIter<Result<Bytes, ClusterError>>>;

    async fn list_nodes(&self) -> Result<NodeList, ClusterError> {
        let list = self.api.read(|state| {
            let nodes = state.iter(&resource::NODES, None);
            NodeList {
                nodes: nodes.map(|node| node_view(node)).collect(),
                version: state.version().to_string(),
            }
        });
        self.traffic.list(resource::NODES.plural, list.nodes.len());
        Ok(list)
    }

    async fn create_pod(&self, pod: Pod) -> Result<PodView, ClusterError> {
        let object = serde_json::to_value(&pod).map_err(|error| refused(&error))?;
        Ok(pod_view(&*self.create(&resource::PODS, object)?))
    }

    async fn get_pod(&self, name: &str) -> Result<PodView, ClusterError> {
        Ok(pod_view(&*self.get(&resource::PODS, name)?))
    }

    async fn list_pods(&self) -> Result<Vec<PodView>, ClusterError> {
        let listed = self.api.read(|state| self.pods_of_owner(state));
        listed.map_err(|status| error_of(&status))
    }

    fn watch_pods(&self) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send {
        self.pods_watch()
    }

    fn watch_nodes(
        &self,
        since: Option<String>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send {
        self.nodes_watch(since.as_deref())
    }

    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        self.traffic.request("delete", resource::PODS.plural);
        let now = self.api.now();
        let options = DeleteOptions {
            uid: Some(uid.to_owned()),
            ..DeleteOptions::default()
        };
        let target = self.target(&resource::PODS, name);
        let deleted = self
            .api
            .with_state(|state| state.delete(now, target, &options));
        deleted.map(drop).map_err(|status| error_of(&status))
    }

    async fn delete_pods(&self, execution: &ExecutionId) -> Result<(), ClusterError> {
        self.delete_some(execution, None).map(drop)
    }

    async fn pod_log(&self, pod: &str, container: &str) -> Result<Self::LogStream, ClusterError> {
        self.traffic.request("get", "pods/log");
        let text = self.api.read(|state| {
            let log = state.pod_log(&self.namespace, pod, Some(container))?;
            Ok(Bytes::copy_from_slice(log.text.as_bytes()))
        });
        let text = text.map_err(|status: Status| error_of(&status))?;
        Ok(stream::iter(Some(Ok(text))))
    }

    async fn create_event(&self, event: Event) -> Result<(), ClusterError> {
        let object = serde_json::to_value(&event).map_err(|error| refused(&error))?;
        self.create(&resource::EVENTS_V1, object).map(drop)
    }

    async fn config_map(&self, name: &str) -> Result<ConfigMapView, ClusterError> {
        let map = self.get(&resource::CONFIG_MAPS, name)?;
        let data = map.get("data").and_then(Value::as_object);
        let text = |(key, value): (&String, &Value)| {
            (key.clone(), value.as_str().unwrap_or_default().to_owned())
        };
        Ok(ConfigMapView {
            annotations: BTreeMap::clone(&map.metadata.annotations),
            data: data.into_iter().flatten().map(text).collect(),
        })
    }

    fn watch_config_map(&self, name: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send {
        self.watch_one(&resource::CONFIG_MAPS, name)
            .map(|shown| shown.map(drop))
    }

    async fn read_state(&self, name: &str) -> Result<Option<StateDocument>, ClusterError> {
        let map = match self.get(&resource::CONFIG_MAPS, name) {
            Err(error) if error.kind == ClusterErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let text = map.get("data").and_then(|data| data[STATE_KEY].as_str());
        Ok(Some(StateDocument {
            version: map.metadata.resource_version.to_string(),
            text: text.unwrap_or_default().to_owned(),
        }))
    }

    async fn write_state(
        &self,
        name: &str,
        version: Option<&str>,
        text: &str,
    ) -> Result<String, ClusterError> {
        let mut object = json!({"metadata": {"name": name}, "data": {STATE_KEY: text}});
        let Some(version) = version else {
            let created = self.create(&resource::CONFIG_MAPS, object)?;
            return Ok(created.metadata.resource_version.to_string());
        };
        object["metadata"]["resourceVersion"] = version.into();
        (self.traffic).request("patch", resource::CONFIG_MAPS.plural);
        let (now, target) = (self.api.now(), self.target(&resource::CONFIG_MAPS, name));
        let (patch, options) = (Patch::Merge(object), WriteOptions::default());
        let patched = self
            .api
            .with_state(|state| state.patch(now, target, Part::Whole, &patch, options));
        match patched {
            Ok(written) => Ok(written.object.metadata.resource_version.to_string()),
            Err(status) => Err(error_of(&status)),
        }
    }

    async fn secret(&self, name: &str) -> Result<SecretData, ClusterError> {
        let secret = self.get(&resource::SECRETS, name)?;
        let secret = secret.to_value(&resource::SECRETS);
        let secret: Secret = serde_json::from_value(secret).map_err(|error| refused(&error))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, ByteString(bytes))| (key, bytes)).collect())
    }

    async fn create_secret(&self, name: &str, data: SecretData) -> Result<(), ClusterError> {
        let data: BTreeMap<String, ByteString> = (data.into_iter())
            .map(|(key, bytes)| (key, ByteString(bytes)))
            .collect();
        let object = json!({"metadata": {"name": name}, "data": data});
        self.create(&resource::SECRETS, object).map(drop)
    }

    async fn service_address(&self, name: &str) -> Result<ServiceAddress, ClusterError> {
        let service = self.get(&resource::SERVICES, name)?;
        Ok(match service.text("/spec/clusterIP") {
            "" | "None" => ServiceAddress::DnsName(format!("{name}.{}.svc", self.namespace)),
            address => ServiceAddress::ClusterIp(address.to_owned()),
        })
    }

    fn top_owner(
        &self,
        pod: &str,
    ) -> impl Future<Output = Result<Option<OwnerReference>, ClusterError>> + Send {
        std::future::ready(self.find_top_owner(pod))
    }

    async fn get_lease(&self, name: &str) -> Result<LeaseView, ClusterError> {
        lease_view(&*self.get(&resource::LEASES, name)?)
    }

    async fn create_lease(
        &self,
        name: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let lease = record.to_lease(name, &self.namespace);
        let object = serde_json::to_value(&lease).map_err(|error| refused(&error))?;
        lease_view(&*self.create(&resource::LEASES, object)?)
    }

    async fn update_lease(
        &self,
        name: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let row = &resource::LEASES;
        self.traffic.request("patch", row.plural);
        let now = self.api.now();
        let target = self.target(row, name);
        let patch = Patch::Merge(record.to_merge_patch(version));
        let options = WriteOptions::default();
        let written = self
            .api
            .with_state(|state| state.patch(now, target, Part::Whole, &patch, options));
        lease_view(&written.map_err(|status| error_of(&status))?.object)
    }

    fn watch_lease(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send {
        self.watch_one(&resource::LEASES, name)
            .map(|shown| shown?.map(|lease| lease_view(&lease)).transpose())
    }
}

impl SimCluster {
    /// Watches one object: first as it is, then every change; none when it is deleted.
    fn watch_one(
        &self,
        row: &'static Row,
        name: &str,
    ) -> impl Stream<Item = Result<Option<Arc<Stored>>, ClusterError>> + Send + use<> {
        let space = Some(&*self.namespace);
        let selector = Selector::name(name);
        self.traffic.request("watch", row.plural);
        let changes = self.api.subscribe_to(row);
        let cursor = self
            .api
            .read(|state| state.watch(row, space, selector, WatchFrom::Now));
        let watch = (self.api.clone(), changes, cursor);
        stream::unfold(watch, |(api, mut changes, mut cursor)| async {
            let event = loop {
                match api.read(|state| state.poll(&mut cursor, 1)).pop() {
                    Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        break Ok(Some(object));
                    }
                    Some(WatchEvent::Deleted(_)) => break Ok(None),
                    Some(WatchEvent::Error(status)) => break Err(error_of(&status)),
                    None if cursor.is_over() || changes.changed().await.is_err() => return None,
                    None | Some(WatchEvent::Bookmark { .. }) => {}
                }
            };
            Some((event, (api, changes, cursor)))
        })
    }
}

/// Of the metadata only what a view has: leases are read more often than anything else.
fn lease_view(lease: &Object) -> Result<LeaseView, ClusterError> {
    let spec = lease.get("spec").map(LeaseSpec::deserialize).transpose();
    let metadata = ObjectMeta {
        resource_version: Some(lease.metadata.resource_version.to_string()),
        annotations: Some(BTreeMap::clone(&lease.metadata.annotations)),
        ..ObjectMeta::default()
    };
    let spec = spec.map_err(|error| refused(&error))?;
    Ok(Lease { metadata, spec }.into())
}

impl SimCluster {
    /// As [`Cluster::watch_pods`], without a borrow.
    pub(crate) fn pods_watch(
        &self,
    ) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send + use<> {
        let watched = Watched {
            row: &resource::PODS,
            namespace: Some(Arc::clone(&self.namespace)),
            selector: self.selector(),
            view: pod_view,
        };
        self.watch(watched, None)
    }

    /// As [`Cluster::watch_nodes`], without a borrow.
    pub(crate) fn nodes_watch(
        &self,
        since: Option<&str>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send + use<> {
        let watched = Watched {
            row: &resource::NODES,
            namespace: None,
            selector: Selector::default(),
            view: node_view,
        };
        self.watch(watched, since.and_then(|version| version.parse().ok()))
    }

    /// As [`Cluster::delete_pods`], but at most `limit`; whether some are left.
    pub(crate) fn delete_some(
        &self,
        execution: &ExecutionId,
        limit: Option<usize>,
    ) -> Result<bool, ClusterError> {
        (self.traffic).request("deletecollection", resource::PODS.plural);
        let now = self.api.now();
        let selected = ListOptions {
            namespace: Some(&self.namespace),
            selector: self
                .selector()
                .with_label(LABEL_EXECUTION_ID, execution.as_str()),
            limit,
            ..ListOptions::default()
        };
        let options = DeleteOptions::default();
        let deleted = self
            .api
            .with_state(|state| state.delete_collection(now, &resource::PODS, &selected, &options));
        let deleted = deleted.map_err(|status| error_of(&status))?;
        Ok(deleted.continue_token.is_some())
    }

    fn find_top_owner(&self, pod: &str) -> Result<Option<OwnerReference>, ClusterError> {
        let pod = self.get(&resource::PODS, pod)?;
        let Some(owner) = controlling_owner(&pod)? else {
            return Ok(None);
        };
        if owner.kind != "ReplicaSet" {
            return Ok(Some(owner));
        }
        let replica_set = self.get(&resource::REPLICA_SETS, &owner.name)?;
        Ok(controlling_owner(&replica_set)?.or(Some(owner)))
    }
}

/// The owner that controls the object, else its first, as a plain reference: job pods are owned, not controlled, by it.
fn controlling_owner(object: &Object) -> Result<Option<OwnerReference>, ClusterError> {
    let owners = &object.metadata.owner_references;
    let controlling = owners.iter().find(|owner| owner["controller"] == true);
    let Some(owner) = controlling.or_else(|| owners.first()) else {
        return Ok(None);
    };
    let owner: OwnerReference =
        serde_json::from_value(owner.clone()).map_err(|error| refused(&error))?;
    Ok(Some(OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..owner
    }))
}
