//! The controller's cluster port with faults: the same plan as `layer`, as the controller sees it through its adapter.
//!
//! Calls fail, are late, are done and not answered, or are done later; the watch is interrupted, silent, repeats
//! itself. Deadlines are those of the adapter for a real cluster: a write that takes longer has an unknown outcome.
//! Deliberately not here: faults that the adapter hides from the port ([`Kind::is_in_process`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller::core::ids::ExecutionId;
use controller::core::views::{NodeView, PodView};
use controller::ports::cluster::{
    Cluster, ConfigMapView, LeaseRecord, LeaseView, NodeList, NodeWatchEvent, PodWatchEvent,
    SecretData, ServiceAddress, StateDocument, WatchEvent,
};
use controller::ports::error::{ClusterError, ClusterErrorKind};
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::{SimCluster, error_of};
use crate::faults::{Call, EventKind, Fault, Faults, Kind, Verb, status};

/// Who calls, in the counts.
pub const CLIENT: &str = "controller";

/// The adapter's deadlines: of a write, of a read or a deletecollection, of a watch that says nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_mins(1);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(295);

/// Objects a page. The adapter's are larger; a small cluster shall have several.
const PAGE_SIZE: usize = 10;

/// [`SimCluster`] behind faults. Clones share them.
#[derive(Debug, Clone)]
pub struct FaultyCluster {
    inner: SimCluster,
    faults: Faults,
    client: Arc<str>,
    late_pods: LatePods,
    /// Lists that have had a second page: its token.
    pages: Arc<AtomicU64>,
}

/// Names of pods whose create was given up, and may be done all the same.
#[derive(Debug, Clone, Default)]
pub struct LatePods(Arc<Mutex<BTreeSet<String>>>);

impl LatePods {
    /// Whether the pod is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(message: &str) -> ClusterError {
    ClusterError::new(ClusterErrorKind::Unavailable, message)
}

/// What a fault is answered with, as the adapter translates it.
fn refusal(fault: &Fault, call: &Call) -> ClusterError {
    match status(fault, call) {
        Some(status) => error_of(&status),
        None if fault.kind == Kind::ConnectionRefused => unavailable("connection refused"),
        None => unavailable("connection reset by peer"),
    }
}

impl FaultyCluster {
    /// `inner` behind `faults`, of a plan that the port can show
    /// ([`Plan::in_process`](crate::faults::Plan::in_process)).
    #[must_use]
    pub fn new(inner: SimCluster, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            client: CLIENT.into(),
            late_pods: LatePods::default(),
            pages: Arc::default(),
        }
    }

    /// The same cluster as another client sees it: with faults of its own, of the same plan.
    #[must_use]
    pub fn for_client(&self, client: &str) -> Self {
        Self {
            client: client.into(),
            ..self.clone()
        }
    }

    /// Pods whose create was given up.
    #[must_use]
    pub fn late_pods(&self) -> LatePods {
        self.late_pods.clone()
    }

    fn call(&self, verb: Verb, resource: &'static str, name: &str) -> Call {
        Call::new(&self.client, verb, resource, name)
    }

    async fn read<T>(
        &self,
        call: Call,
        read: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let Some(fault) = self.befall(&call) else {
            return read.await;
        };
        if fault.kind != Kind::SlowAnswer {
            self.faults.fired(&fault, &call);
            return Err(refusal(&fault, &call));
        }
        if fault.delay >= READ_TIMEOUT {
            self.faults.fired(&fault, &call);
            sleep(READ_TIMEOUT).await;
            return Err(unavailable("no answer from the API server within 60 s"));
        }
        self.wait_out(&fault, &call, read).await
    }

    /// An answer that comes late, but before the deadline.
    async fn wait_out<T>(
        &self,
        fault: &Fault,
        call: &Call,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let late = self.faults.fired_late(fault, call);
        if fault.coin {
            sleep(fault.delay).await;
        }
        let result = work.await;
        if !fault.coin {
            sleep(fault.delay).await;
        }
        if let Some(id) = late {
            self.faults.waited_out(id);
        }
        result
    }

    async fn list<T>(
        &self,
        resource: &'static str,
        list: impl Future<Output = Result<T, ClusterError>>,
        count: impl Fn(&T) -> usize,
    ) -> Result<T, ClusterError> {
        let first = self.call(Verb::List, resource, "");
        let all = self.read(first.clone(), list).await?;
        if count(&all) > PAGE_SIZE {
            let token = self.pages.fetch_add(1, Ordering::Relaxed).to_string();
            let next = Call {
                continue_token: token,
                ..first
            };
            self.read(next, std::future::ready(Ok(()))).await?;
        }
        Ok(all)
    }

    async fn write<T: Send + 'static>(
        &self,
        call: Call,
        write: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let Some(fault) = self.befall(&call) else {
            return write.await;
        };
        self.suffer(fault, call, write).await
    }

    async fn suffer<T: Send + 'static>(
        &self,
        fault: Fault,
        call: Call,
        write: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let limit = if call.verb == Verb::DeleteCollection {
            READ_TIMEOUT
        } else {
            WRITE_TIMEOUT
        };
        match fault.kind {
            Kind::ResetAfterCommit | Kind::TimeoutAfterCommit => {
                // What was refused was not done: nothing is in doubt.
                write.await?;
                self.faults.fired(&fault, &call);
                if fault.kind == Kind::TimeoutAfterCommit {
                    sleep(limit).await;
                }
                Err(unavailable("no answer from the API server"))
            }
            Kind::GhostWrite => {
                self.faults.fired(&fault, &call);
                self.do_later(fault.delay, &call, write);
                Err(unavailable("connection reset by peer"))
            }
            Kind::SlowAnswer if fault.delay >= limit => {
                self.faults.fired(&fault, &call);
                if fault.coin {
                    self.do_later(fault.delay, &call, write);
                } else {
                    // Done in time; that is not answered.
                    let _ = write.await;
                }
                sleep(limit).await;
                Err(unavailable("no answer from the API server in time"))
            }
            Kind::SlowAnswer => self.wait_out(&fault, &call, write).await,
            _ => {
                self.faults.fired(&fault, &call);
                Err(refusal(&fault, &call))
            }
        }
    }

    fn watch<V: Viewed>(
        &self,
        begin: fn(&SimCluster) -> Events<V>,
        followed: Option<Events<V>>,
    ) -> impl Stream<Item = Result<WatchEvent<V>, ClusterError>> + Send + use<V> {
        let watch = Watch {
            cluster: self.clone(),
            begin,
            phase: if followed.is_some() {
                Phase::Watching
            } else {
                Phase::Listing
            },
            events: followed.unwrap_or_else(|| begin(&self.inner)),
            ready: VecDeque::new(),
            earlier: BTreeMap::new(),
            repeated: None,
        };
        stream::unfold(watch, |mut watch| async {
            let event = watch.next().await?;
            Some((event, watch))
        })
    }

    fn do_later<T: Send + 'static>(
        &self,
        delay: Duration,
        call: &Call,
        write: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
    ) {
        let pod = (call.resource == "pods" && call.verb == Verb::Create).then(|| call.name.clone());
        let late_pods = self.late_pods.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            if let Some(pod) = pod {
                let is_first = late_pods.names().insert(pod.clone());
                if write.await.is_err() && is_first {
                    // Another create was before it, and the pod is that one's.
                    late_pods.names().remove(&pod);
                }
            } else {
                // Nobody is there to be answered.
                let _ = write.await;
            }
        });
    }

    /// Without the right to list, or to write its record, an execution is not begun at all, and nothing would be left
    /// to check: these are never refused for good.
    fn befall(&self, call: &Call) -> Option<Fault> {
        let fault = self.faults.befall(call)?;
        let is_for_good = matches!(
            fault.kind,
            Kind::VerbLost | Kind::Forbidden | Kind::Invalid | Kind::WebhookDenied
        );
        let is_begin = is_for_good && (call.verb == Verb::List || call.resource == "configmaps");
        (!is_begin).then_some(fault)
    }
}

impl Cluster for FaultyCluster {
    type LogStream = <SimCluster as Cluster>::LogStream;

    async fn list_nodes(&self) -> Result<NodeList, ClusterError> {
        let count = |list: &NodeList| list.nodes.len();
        self.list("nodes", self.inner.list_nodes(), count).await
    }

    async fn create_pod(&self, pod: Pod) -> Result<PodView, ClusterError> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let inner = self.inner.clone();
        // A pod is large, and so is what carries one.
        let create = Box::pin(async move { inner.create_pod(pod).await });
        self.write(self.call(Verb::Create, "pods", &name), create)
            .await
    }

    async fn get_pod(&self, name: &str) -> Result<PodView, ClusterError> {
        let call = self.call(Verb::Get, "pods", name);
        self.read(call, self.inner.get_pod(name)).await
    }

    async fn list_pods(&self) -> Result<Vec<PodView>, ClusterError> {
        self.list("pods", self.inner.list_pods(), Vec::len).await
    }

    fn watch_pods(&self) -> impl Stream<Item = Result<PodWatchEvent, ClusterError>> + Send {
        self.watch(|cluster| Box::pin(cluster.pods_watch()), None)
    }

    fn watch_nodes(
        &self,
        since: Option<String>,
    ) -> impl Stream<Item = Result<NodeWatchEvent, ClusterError>> + Send {
        let followed = since.map(|since| {
            let events: Events<_> = Box::pin(self.inner.nodes_watch(Some(&since)));
            events
        });
        self.watch(|cluster| Box::pin(cluster.nodes_watch(None)), followed)
    }

    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        let call = self.call(Verb::Delete, "pods", name);
        let (inner, name, uid) = (self.inner.clone(), name.to_owned(), uid.to_owned());
        let delete = async move { inner.delete_pod(&name, &uid).await };
        self.write(call, delete).await
    }

    async fn delete_pods(&self, execution: &ExecutionId) -> Result<(), ClusterError> {
        let call = self.call(Verb::DeleteCollection, "pods", "");
        let (inner, execution) = (self.inner.clone(), execution.clone());
        let Some(fault) = self.befall(&call) else {
            return self.inner.delete_some(&execution, None).map(drop);
        };
        if fault.kind != Kind::DeleteCollectionPartial {
            let delete = async move { inner.delete_some(&execution, None).map(drop) };
            return self.suffer(fault, call, delete).await;
        }
        if inner.delete_some(&execution, Some(1))? {
            self.faults.fired(&fault, &call);
        }
        Ok(())
    }

    async fn pod_log(&self, pod: &str, container: &str) -> Result<Self::LogStream, ClusterError> {
        self.inner.pod_log(pod, container).await
    }

    async fn create_event(&self, event: Event) -> Result<(), ClusterError> {
        let name = event.metadata.name.clone().unwrap_or_default();
        let inner = self.inner.clone();
        let create = Box::pin(async move { inner.create_event(event).await });
        self.write(self.call(Verb::Create, "events", &name), create)
            .await
    }

    async fn config_map(&self, name: &str) -> Result<ConfigMapView, ClusterError> {
        let call = self.call(Verb::Get, "configmaps", name);
        self.read(call, self.inner.config_map(name)).await
    }

    /// Without faults: what it shows is only a hint.
    fn watch_config_map(&self, name: &str) -> impl Stream<Item = Result<(), ClusterError>> + Send {
        self.inner.watch_config_map(name)
    }

    async fn read_state(&self, name: &str) -> Result<Option<StateDocument>, ClusterError> {
        let call = self.call(Verb::Get, "configmaps", name);
        self.read(call, self.inner.read_state(name)).await
    }

    async fn write_state(
        &self,
        name: &str,
        version: Option<&str>,
        text: &str,
    ) -> Result<String, ClusterError> {
        let verb = if version.is_some() {
            Verb::Update
        } else {
            Verb::Create
        };
        let call = self.call(verb, "configmaps", name);
        let (inner, name, text) = (self.inner.clone(), name.to_owned(), text.to_owned());
        let version = version.map(str::to_owned);
        let write = async move { inner.write_state(&name, version.as_deref(), &text).await };
        self.write(call, write).await
    }

    async fn secret(&self, name: &str) -> Result<SecretData, ClusterError> {
        let call = self.call(Verb::Get, "secrets", name);
        self.read(call, self.inner.secret(name)).await
    }

    async fn create_secret(&self, name: &str, data: SecretData) -> Result<(), ClusterError> {
        let call = self.call(Verb::Create, "secrets", name);
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let create = async move { inner.create_secret(&name, data).await };
        self.write(call, create).await
    }

    async fn service_address(&self, name: &str) -> Result<ServiceAddress, ClusterError> {
        let call = self.call(Verb::Get, "services", name);
        self.read(call, self.inner.service_address(name)).await
    }

    async fn top_owner(&self, pod: &str) -> Result<Option<OwnerReference>, ClusterError> {
        let call = self.call(Verb::Get, "pods", pod);
        self.read(call, self.inner.top_owner(pod)).await
    }

    async fn get_lease(&self, name: &str) -> Result<LeaseView, ClusterError> {
        let call = self.call(Verb::Get, "leases", name);
        self.read(call, self.inner.get_lease(name)).await
    }

    async fn create_lease(
        &self,
        name: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let call = self.call(Verb::Create, "leases", name);
        let (inner, name, record) = (self.inner.clone(), name.to_owned(), record.clone());
        let create = async move { inner.create_lease(&name, &record).await };
        self.write(call, create).await
    }

    async fn update_lease(
        &self,
        name: &str,
        version: &str,
        record: &LeaseRecord,
    ) -> Result<LeaseView, ClusterError> {
        let call = self.call(Verb::Patch, "leases", name);
        let (inner, name, record) = (self.inner.clone(), name.to_owned(), record.clone());
        let version = version.to_owned();
        let update = async move { inner.update_lease(&name, &version, &record).await };
        self.write(call, update).await
    }

    /// Without faults: what it shows is only a hint.
    fn watch_lease(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Send {
        self.inner.watch_lease(name)
    }
}

/// What the adapter's watcher does next.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Listing,
    Watching,
    Following,
}

type Events<V> = Pin<Box<dyn Stream<Item = Result<WatchEvent<V>, ClusterError>> + Send>>;

/// What is watched, as far as faults care.
trait Viewed: Clone + Send + 'static {
    const RESOURCE: &'static str;

    fn name(&self) -> &str;

    fn uid(&self) -> &str;
}

impl Viewed for PodView {
    const RESOURCE: &'static str = "pods";

    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }
}

impl Viewed for NodeView {
    const RESOURCE: &'static str = "nodes";

    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }
}

/// A watch with faults.
struct Watch<V> {
    cluster: FaultyCluster,
    events: Events<V>,
    begin: fn(&SimCluster) -> Events<V>,
    phase: Phase,
    ready: VecDeque<Result<WatchEvent<V>, ClusterError>>,
    /// The last state told of each object that exists, by uid.
    earlier: BTreeMap<String, V>,
    /// An event that came twice or late was told.
    repeated: Option<Kind>,
}

impl<V: Viewed> Watch<V> {
    async fn next(&mut self) -> Option<Result<WatchEvent<V>, ClusterError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // Whoever asks for more has taken what was told twice or late.
            if let Some(kind) = self.repeated.take() {
                self.cluster.faults.told(&self.cluster.client, kind);
            }
            match self.phase {
                Phase::Listing => self.ask(Verb::List, Phase::Watching).await,
                Phase::Watching => self.ask(Verb::Watch, Phase::Following).await,
                Phase::Following => {
                    let event = self.events.next().await?;
                    self.tell(event).await;
                }
            }
        }
    }

    /// Asks the API server for the list, or for the watch.
    async fn ask(&mut self, verb: Verb, then: Phase) {
        let cluster = &self.cluster;
        let call = cluster.call(verb, V::RESOURCE, "");
        match cluster.read(call, std::future::ready(Ok(()))).await {
            Ok(()) => self.phase = then,
            Err(error) => self.ready.push_back(Err(error)),
        }
    }

    async fn tell(&mut self, event: Result<WatchEvent<V>, ClusterError>) {
        if self.cluster.faults.is_none() {
            return self.ready.push_back(event);
        }
        let client = Arc::clone(&self.cluster.client);
        let shown = |object: &V| (self.cluster.faults).shown(&client, V::RESOURCE, object.name());
        let (object, kind) = match &event {
            Ok(WatchEvent::Applied(object)) => (object.clone(), EventKind::Stored),
            Ok(WatchEvent::Deleted(object)) => (object.clone(), EventKind::Deleted),
            Ok(WatchEvent::Restarted(objects)) => {
                objects.iter().for_each(shown);
                return self.ready.push_back(event);
            }
            Err(_) => return self.ready.push_back(event),
        };
        shown(&object);
        let earlier = match kind {
            EventKind::Stored => self.earlier.insert(object.uid().to_owned(), object),
            _ => self.earlier.remove(object.uid()),
        };
        let faults = self.cluster.faults.clone();
        let Some(fault) = faults.befall_event(kind, earlier.is_some()) else {
            return self.ready.push_back(event);
        };
        let call = self.cluster.call(Verb::Watch, V::RESOURCE, "");
        faults.fired(&fault, &call);
        match fault.kind {
            Kind::DuplicateEvent => {
                self.ready.extend([event.clone(), event]);
                self.repeated = Some(fault.kind);
            }
            Kind::LateEvent => {
                let earlier = earlier.map(|object| Ok(WatchEvent::Applied(object)));
                self.ready.extend([event].into_iter().chain(earlier));
                self.repeated = Some(fault.kind);
            }
            Kind::MissedState => {
                let until = Instant::now() + fault.delay;
                while let Ok(Some(_)) = timeout_at(until, self.events.next()).await {}
                self.begin_again(&fault, &call);
            }
            Kind::GoneInStream => self.begin_again(&fault, &call),
            Kind::SilentWatch => {
                sleep(SILENCE_TIMEOUT).await;
                self.ready.push_back(event);
                self.phase = Phase::Watching;
            }
            Kind::KindsOutOfOrder => {
                sleep(fault.delay).await;
                self.ready.push_back(event);
                self.repeated = Some(fault.kind);
            }
            // The one that is left: garbled, and read again from the version before.
            _ => {
                let broken = unavailable("the watch sent what is no event");
                self.ready.extend([Err(broken), event]);
                self.phase = Phase::Watching;
            }
        }
    }

    fn begin_again(&mut self, fault: &Fault, call: &Call) {
        self.ready.push_back(Err(refusal(fault, call)));
        self.events = (self.begin)(&self.cluster.inner);
        self.earlier.clear();
        self.phase = Phase::Listing;
    }
}
