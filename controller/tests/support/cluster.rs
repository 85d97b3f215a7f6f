//! A cluster in memory: it remembers what was asked of it, and fails when it is told to.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use controller::core::ids::ExecutionId;
use controller::core::names::{LABEL_EXECUTION_ID, LABEL_OWNER};
use controller::ports::cluster::{
    Cluster, ConfigMapView, LeaseRecord, LeaseView, NodeList, NodeView, NodeWatchEvent, PodPhase,
    PodView, PodWatchEvent, SecretData, ServiceAddress, StateDocument,
};
use controller::ports::error::{ClusterError, ClusterErrorKind};
use controller::runtime::ordered_watch as watch;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::PATIENCE;

/// The owner that the controller under test is bound to.
pub const OWNER: &str = "audit";

/// What becomes of a create.
#[derive(Debug, Clone, Copy)]
pub enum CreateFault {
    /// It fails.
    Fails(ClusterErrorKind),
    /// The pod is created, but nobody says so.
    Unanswered,
}

/// A create that was asked for, answered well or not.
#[derive(Debug, Clone)]
pub struct Create {
    pub name: String,
    pub at: Instant,
    pub pod: Pod,
}

type WatchItem = Result<PodWatchEvent, ClusterError>;
type NodeWatchItem = Result<NodeWatchEvent, ClusterError>;

/// Everything that is known of the cluster.
#[derive(Debug, Default)]
pub struct State {
    pub nodes: Vec<NodeView>,
    /// By name; those of others are among them.
    pub pods: BTreeMap<String, PodView>,
    /// Every create, in the order of asking.
    pub creates: Vec<Create>,
    /// The execution of every `delete_pods`.
    pub deletions: Vec<ExecutionId>,
    pub events: Vec<Event>,
    pub services: BTreeMap<String, ServiceAddress>,
    /// By `<pod>/<container>`.
    pub logs: BTreeMap<String, String>,
    /// What becomes of the next creates, in their order; beyond that they go well.
    pub create_faults: VecDeque<CreateFault>,
    /// Failures of the next calls, by call; beyond them they go well.
    pub faults: BTreeMap<&'static str, VecDeque<ClusterErrorKind>>,
    /// Whether a pod that is deleted stays, terminating, until the test removes it.
    pub keeps_terminating: bool,
    /// Most job pods that had not ended at any time.
    pub peak: usize,
    /// The names of the pods that were created, as often as they were.
    pub created: Vec<String>,
    /// Calls that change the cluster, carried out or refused.
    pub calls: usize,
    /// The state record.
    pub record: Option<StateDocument>,
    pub lease: Option<LeaseView>,
    /// The controller's own, where it watches one.
    pub config_map: Option<ConfigMapView>,
    pub secrets: BTreeMap<String, SecretData>,
    watchers: Vec<mpsc::UnboundedSender<WatchItem>>,
    node_watchers: Vec<mpsc::UnboundedSender<NodeWatchItem>>,
    uids: u64,
}

/// A handle on the cluster.
#[derive(Debug, Clone)]
pub struct TestCluster {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<()>>,
}

fn error(kind: ClusterErrorKind) -> ClusterError {
    ClusterError::new(kind, format!("the test's {}", kind.category()))
}

/// A node that is ready.
pub fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        ready: true,
        ..NodeView::default()
    }
}

fn view(pod: &Pod, uid: u64) -> PodView {
    let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();
    let spec = pod.spec.as_ref().unwrap();
    let init = spec.init_containers.iter().flatten();
    PodView {
        name: pod.metadata.name.clone().unwrap(),
        uid: format!("uid-{uid}"),
        node: spec.node_name.clone().unwrap_or_default(),
        owner: label(LABEL_OWNER).unwrap_or_default(),
        execution: label(LABEL_EXECUTION_ID).and_then(|id| ExecutionId::parse(&id)),
        phase: PodPhase::Pending,
        terminating: false,
        grace: Duration::ZERO,
        reason: String::new(),
        message: String::new(),
        waiting: None,
        containers: init
            .chain(&spec.containers)
            .map(|container| container.name.clone())
            .collect(),
    }
}

impl State {
    fn owned(&self) -> Vec<PodView> {
        let owned = self.pods.values().filter(|pod| pod.owner == OWNER);
        owned.cloned().collect()
    }

    /// The names of the owner's pods that have not ended.
    pub fn running(&self) -> Vec<String> {
        let running = self.pods.values().filter(|pod| {
            pod.owner == OWNER && matches!(pod.phase, PodPhase::Pending | PodPhase::Running)
        });
        running.map(|pod| pod.name.clone()).collect()
    }

    fn tell(&mut self, event: &PodWatchEvent) {
        self.watchers
            .retain(|watcher| watcher.send(Ok(event.clone())).is_ok());
    }

    /// Tells every watch of a change of nodes.
    pub fn tell_of_nodes(&mut self, event: &NodeWatchEvent) {
        self.node_watchers
            .retain(|watcher| watcher.send(Ok(event.clone())).is_ok());
    }

    fn put(&mut self, pod: PodView) {
        let is_owned = pod.owner == OWNER;
        self.pods.insert(pod.name.clone(), pod.clone());
        self.peak = self.peak.max(self.running().len());
        if is_owned {
            self.tell(&PodWatchEvent::Applied(pod));
        }
    }

    /// Writes the Lease, whatever its version.
    pub fn put_lease(&mut self, record: LeaseRecord) -> LeaseView {
        self.uids += 1;
        let lease = LeaseView {
            version: self.uids.to_string(),
            record,
        };
        self.lease = Some(lease.clone());
        lease
    }

    fn take(&mut self, name: &str) {
        if let Some(pod) = self.pods.remove(name)
            && pod.owner == OWNER
        {
            self.tell(&PodWatchEvent::Deleted(pod));
        }
    }
}

impl TestCluster {
    /// A cluster of these nodes, all of them ready.
    pub fn new(nodes: &[&str]) -> Self {
        let state = State {
            nodes: nodes.iter().map(|name| node(name)).collect(),
            config_map: Some(ConfigMapView::default()),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changes: Arc::new(watch::Sender::new(())),
        }
    }

    /// What is known now.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes it behind the controller's back.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changes.set(());
        result
    }

    /// Waits until `look` finds something.
    ///
    /// # Panics
    /// Where it does not within [`PATIENCE`].
    pub async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                if let Some(found) = self.look(&look) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(elapsed) => panic!("{what}: {elapsed}; pods {:#?}", self.lock().pods),
        }
    }

    /// Waits until so many calls that change the cluster were made, in all.
    pub async fn until_calls(&self, count: usize) {
        let mut changes = self.changes.subscribe();
        while self.look(|state| state.calls < count) {
            changes.changed().await.unwrap();
        }
    }

    /// Waits until so many creates were asked for, in all.
    pub async fn until_created(&self, count: usize) {
        let enough = |state: &State| (state.creates.len() >= count).then_some(());
        self.until(&format!("{count} creates"), enough).await;
    }

    /// Sets an annotation of the controller's ConfigMap.
    pub fn annotate(&self, key: &str, value: &str) {
        self.change(|state| {
            let config_map = state.config_map.get_or_insert_default();
            config_map
                .annotations
                .insert(key.to_owned(), value.to_owned());
        });
    }

    /// The events with that reason: the notes.
    pub fn notes(&self, reason: &str) -> Vec<String> {
        self.look(|state| {
            let events = state.events.iter();
            let events = events.filter(|event| event.reason.as_deref() == Some(reason));
            events.filter_map(|event| event.note.clone()).collect()
        })
    }

    /// Waits for an event with that reason: its note.
    pub async fn until_told(&self, reason: &str) -> String {
        let told = |state: &State| {
            let mut events = state.events.iter();
            let event = events.find(|event| event.reason.as_deref() == Some(reason))?;
            event.note.clone()
        };
        self.until(reason, told).await
    }

    /// The pod of that name, as it is.
    pub fn pod(&self, name: &str) -> PodView {
        self.look(|state| state.pods.get(name).cloned())
            .unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Lets a pod reach a phase.
    pub fn set_phase(&self, name: &str, phase: PodPhase) {
        let mut pod = self.pod(name);
        pod.phase = phase;
        self.put(pod);
    }

    /// Lets a pod succeed.
    pub fn succeed(&self, name: &str) {
        self.set_phase(name, PodPhase::Succeeded);
    }

    /// Creates or replaces a pod.
    pub fn put(&self, pod: PodView) {
        self.change(|state| state.put(pod));
    }

    /// Removes a pod at once.
    pub fn remove(&self, name: &str) {
        self.change(|state| state.take(name));
    }

    /// Drops every watch without a word: whoever watched is gone.
    pub fn forget_watchers(&self) {
        self.change(|state| state.watchers.clear());
    }

    /// Breaks the watch, does `unseen`, and lets the watch list again.
    pub fn while_unseen(&self, unseen: impl FnOnce(&mut State)) {
        self.change(|state| {
            let watchers = std::mem::take(&mut state.watchers);
            unseen(state);
            let list = state.owned();
            for watcher in watchers {
                let broken = watcher.send(Err(error(ClusterErrorKind::Unavailable)));
                let again = watcher.send(Ok(PodWatchEvent::Restarted(list.clone())));
                if broken.is_ok() && again.is_ok() {
                    state.watchers.push(watcher);
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn fault(&self, call: &'static str) -> Result<(), ClusterError> {
        let fault = self.change(|state| state.faults.get_mut(call)?.pop_front());
        fault.map_or(Ok(()), |kind| Err(error(kind)))
    }
}

/// The time of a call's way to the API server and back.
const LATENCY: Duration = Duration::from_millis(5);

impl Cluster for TestCluster {
    type LogStream = BoxStream<'static, Result<Bytes, ClusterError>>;

    async fn list_nodes(&self) -> Result<NodeList, ClusterError> {
        self.fault("list_nodes")?;
        Ok(self.look(|state| NodeList {
            nodes: state.nodes.clone(),
            version: String::new(),
        }))
    }

    async fn create_pod(&self, pod: Pod) -> Result<PodView, ClusterError> {
        let name = pod.metadata.name.clone().unwrap();
        let fault = self.change(|state| {
            state.calls += 1;
            state.creates.push(Create {
                name: name.clone(),
                at: Instant::now(),
                pod: pod.clone(),
            });
            state.create_faults.pop_front()
        });
        tokio::time::sleep(LATENCY).await;
        if let Some(CreateFault::Fails(kind)) = fault {
            return Err(error(kind));
        }
        let created = self.change(|state| {
            if state.pods.contains_key(&name) {
                return Err(error(ClusterErrorKind::AlreadyExists));
            }
            state.uids += 1;
            let view = view(&pod, state.uids);
            state.created.push(name.clone());
            // A step of its own: it is done and not answered yet.
            state.calls += 1;
            state.put(view.clone());
            Ok(view)
        });
        match fault {
            Some(CreateFault::Unanswered) => Err(error(ClusterErrorKind::Unavailable)),
            _ => created,
        }
    }

    async fn get_pod(&self, name: &str) -> Result<PodView, ClusterError> {
        self.fault("get_pod")?;
        self.look(|state| state.pods.get(name).cloned())
            .ok_or_else(|| error(ClusterErrorKind::NotFound))
    }

    async fn list_pods(&self) -> Result<Vec<PodView>, ClusterError> {
        self.fault("list_pods")?;
        Ok(self.look(State::owned))
    }

    fn watch_pods(&self) -> impl Stream<Item = WatchItem> + Send {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|state| {
            let _ = sender.send(Ok(PodWatchEvent::Restarted(state.owned())));
            state.watchers.push(sender);
        });
        stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        })
    }

    fn watch_nodes(&self, _since: Option<String>) -> impl Stream<Item = NodeWatchItem> + Send {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|state| {
            let _ = sender.send(Ok(NodeWatchEvent::Restarted(state.nodes.clone())));
            state.node_watchers.push(sender);
        });
        stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        })
    }

    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        self.change(|state| state.calls += 1);
        self.fault("delete_pod")?;
        self.change(|state| {
            let pod = state.pods.get(name).cloned();
            let mut pod = pod.ok_or_else(|| error(ClusterErrorKind::NotFound))?;
            if pod.uid != uid {
                return Err(error(ClusterErrorKind::Conflict));
            }
            if state.keeps_terminating {
                pod.terminating = true;
                state.put(pod);
            } else {
                state.take(name);
            }
            Ok(())
        })
    }

    async fn delete_pods(&self, execution: &ExecutionId) -> Result<(), ClusterError> {
        self.change(|state| {
            state.calls += 1;
            state.deletions.push(execution.clone());
        });
        self.fault("delete_pods")?;
        self.change(|state| {
            let mut theirs = state.owned();
            theirs.retain(|pod| pod.execution.as_ref() == Some(execution));
            for mut pod in theirs {
                if state.keeps_terminating {
                    pod.terminating = true;
                    state.put(pod);
                } else {
                    state.take(&pod.name);
                }
            }
        });
        Ok(())
    }

    async fn pod_log(&self, pod: &str, container: &str) -> Result<Self::LogStream, ClusterError> {
        self.fault("pod_log")?;
        let log = self.look(|state| state.logs.get(&format!("{pod}/{container}")).cloned());
        let log = log.ok_or_else(|| error(ClusterErrorKind::NotFound))?;
        let chunks: Vec<_> = (log.into_bytes().chunks(3))
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        Ok(stream::iter(chunks).boxed())
    }

    async fn create_event(&self, event: Event) -> Result<(), ClusterError> {
        self.fault("create_event")?;
        self.change(|state| state.events.push(event));
        Ok(())
    }

    async fn config_map(&self, name: &str) -> Result<ConfigMapView, ClusterError> {
        self.fault("config_map")?;
        let found = self.look(|state| match (name, &state.record) {
            (OWNER, _) => state.config_map.clone(),
            (_, record) => record.as_ref().map(|_| ConfigMapView::default()),
        });
        found.ok_or_else(|| error(ClusterErrorKind::NotFound))
    }

    fn watch_config_map(&self, _: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send {
        let changes = self.changes.subscribe();
        let start = (self.clone(), changes, None);
        stream::unfold(start, |(cluster, mut changes, mut shown)| async move {
            loop {
                let config_map = cluster.look(|state| state.config_map.clone());
                if config_map != shown {
                    return Some((Ok(()), (cluster, changes, config_map)));
                }
                shown = config_map;
                changes.changed().await.ok()?;
            }
        })
    }

    async fn read_state(&self, _: &str) -> Result<Option<StateDocument>, ClusterError> {
        self.fault("read_state")?;
        Ok(self.look(|state| state.record.clone()))
    }

    async fn write_state(
        &self,
        _: &str,
        version: Option<&str>,
        text: &str,
    ) -> Result<String, ClusterError> {
        self.fault("write_state")?;
        self.change(|state| state.calls += 1);
        self.change(|state| match (&mut state.record, version) {
            (None, Some(_)) => Err(error(ClusterErrorKind::NotFound)),
            (Some(_), None) => Err(error(ClusterErrorKind::AlreadyExists)),
            (Some(record), Some(version)) if record.version != version => {
                Err(error(ClusterErrorKind::Conflict))
            }
            (record, _) => {
                state.uids += 1;
                let version = state.uids.to_string();
                *record = Some(StateDocument {
                    version: version.clone(),
                    text: text.to_owned(),
                });
                Ok(version)
            }
        })
    }

    async fn secret(&self, name: &str) -> Result<SecretData, ClusterError> {
        self.fault("secret")?;
        self.look(|state| state.secrets.get(name).cloned())
            .ok_or_else(|| error(ClusterErrorKind::NotFound))
    }

    async fn create_secret(&self, name: &str, data: SecretData) -> Result<(), ClusterError> {
        self.fault("create_secret")?;
        self.change(|state| match state.secrets.entry(name.to_owned()) {
            Entry::Occupied(_) => Err(error(ClusterErrorKind::AlreadyExists)),
            Entry::Vacant(entry) => {
                entry.insert(data);
                Ok(())
            }
        })
    }

    async fn service_address(&self, name: &str) -> Result<ServiceAddress, ClusterError> {
        self.fault("service_address")?;
        self.look(|state| state.services.get(name).cloned())
            .ok_or_else(|| error(ClusterErrorKind::NotFound))
    }

    async fn top_owner(&self, _: &str) -> Result<Option<OwnerReference>, ClusterError> {
        Ok(None)
    }

    async fn get_lease(&self, _: &str) -> Result<LeaseView, ClusterError> {
        self.fault("get_lease")?;
        self.look(|state| state.lease.clone())
            .ok_or_else(|| error(ClusterErrorKind::NotFound))
    }

    async fn create_lease(&self, _: &str, record: &LeaseRecord) -> Result<LeaseView, ClusterError> {
        self.fault("create_lease")?;
        self.change(|state| match &state.lease {
            Some(_) => Err(error(ClusterErrorKind::AlreadyExists)),
            None => Ok(state.put_lease(record.clone())),
        })
    }

    async fn update_lease(
        &self,
        _: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        self.fault("update_lease")?;
        self.change(|state| match &state.lease {
            None => Err(error(ClusterErrorKind::NotFound)),
            Some(lease) if lease.version == version => Ok(state.put_lease(record.clone())),
            Some(_) => Err(error(ClusterErrorKind::Conflict)),
        })
    }

    fn watch_lease(
        &self,
        _: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send {
        let changes = self.changes.subscribe();
        let start = (self.clone(), changes, None);
        stream::unfold(start, |(cluster, mut changes, mut shown)| async move {
            loop {
                let lease = cluster.look(|state| state.lease.clone());
                if lease != shown {
                    shown.clone_from(&lease);
                    return Some((Ok(lease), (cluster, changes, shown)));
                }
                changes.changed().await.ok()?;
            }
        })
    }
}
