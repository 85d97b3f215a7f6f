//! Two clients behind the fault layer that do what is right: one follows pods and config maps with the real `watcher`,
//! one writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use http::HeaderValue;
use http::header::USER_AGENT;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Error, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use simulator::apiserver::ApiServer;
use simulator::faults::{Faults, Kind, RETRY_AFTER_MAX};
use simulator::layer::FaultLayer;
use simulator::rng::{Seed, Stream};
use simulator::state::{Row, resource};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{Layer as _, ServiceExt as _};

use super::Log;

pub(crate) const FOLLOWER: &str = "follower";
pub(crate) const WRITER: &str = "writer";

const NAMESPACE: &str = "default";

/// Names that are written, deleted and written again.
const NAMES: u64 = 8;

/// A write that is not answered in this time has an unknown outcome.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a write is tried: within the last pauses every fault that goes on for a while is over.
const TRIES: u32 = 30;

fn client(api: &ApiServer, faults: &Faults, name: &'static str) -> Client {
    let service = FaultLayer::new(faults.clone(), api.clone()).layer(api.router());
    let named = service.map_request(move |mut request: http::Request<kube::client::Body>| {
        let agent = HeaderValue::from_static(name);
        request.headers_mut().insert(USER_AGENT, agent);
        request
    });
    Client::new(named, NAMESPACE)
}

/// What both clients need of a resource.
trait Followed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    const ROW: &'static Row;

    fn of_name(name: &str) -> Self;
}

impl Followed for Pod {
    const ROW: &'static Row = &resource::PODS;

    fn of_name(name: &str) -> Self {
        let object = json!({"metadata": {"name": name, "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "main", "image": "busybox"}]}});
        serde_json::from_value(object).unwrap()
    }
}

impl Followed for ConfigMap {
    const ROW: &'static Row = &resource::CONFIG_MAPS;

    fn of_name(name: &str) -> Self {
        let object =
            json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": {"k": "v"}});
        serde_json::from_value(object).unwrap()
    }
}

// The follower.

/// An object as it is known: its uid and its version.
type Known = (String, u64);

/// What the follower knows.
#[derive(Debug, Default)]
struct View {
    /// By resource and name.
    objects: BTreeMap<(&'static str, String), Known>,
    /// Uids of what has been deleted: these never come back.
    gone: BTreeSet<String>,
    /// The newest version of all that has been told.
    newest: u64,
}

/// A process that keeps a view of pods and config maps.
pub(crate) struct Follower {
    api: ApiServer,
    faults: Faults,
    log: Log,
    config: watcher::Config,
    view: Arc<Mutex<View>>,
    tasks: JoinSet<()>,
}

impl Follower {
    /// Begins to follow. The seed decides how it lists.
    pub(crate) fn start(api: &ApiServer, faults: &Faults, log: &Log, seed: Seed) -> Self {
        let config = watcher::Config::default().page_size(3);
        let config = match seed.stream("follower").between(0, 3) {
            0 => config,
            1 => config.streaming_lists(),
            // With a page size this client asks for the most recent list all the same.
            _ => watcher::Config {
                page_size: None,
                ..config.any_semantic()
            },
        };
        let mut follower = Self {
            api: api.clone(),
            faults: faults.clone(),
            log: log.clone(),
            config,
            view: Arc::default(),
            tasks: JoinSet::new(),
        };
        follower.restart();
        follower
    }

    /// The process dies with all it knows, and another one starts.
    pub(crate) fn restart(&mut self) {
        self.log.line("restart");
        self.tasks = JoinSet::new();
        self.view = Arc::default();
        self.faults.restarted(FOLLOWER);
        self.tasks.spawn(self.follow::<Pod>());
        self.tasks.spawn(self.follow::<ConfigMap>());
    }

    fn follow<K: Followed>(&self) -> impl Future<Output = ()> + Send + use<K> {
        let client = client(&self.api, &self.faults, FOLLOWER);
        let following = Following::<K> {
            api: Api::default_namespaced(client),
            config: self.config.clone(),
            view: Arc::clone(&self.view),
            faults: self.faults.clone(),
            log: self.log.clone(),
            listed: Vec::new(),
        };
        following.run()
    }

    fn truth(api: &ApiServer) -> BTreeMap<(&'static str, String), Known> {
        let mut truth = BTreeMap::new();
        for row in [&resource::PODS, &resource::CONFIG_MAPS] {
            api.read(|state| {
                for object in state.iter(row, Some(NAMESPACE)) {
                    let metadata = &object.metadata;
                    let known = (metadata.uid.to_string(), metadata.resource_version);
                    truth.insert((row.plural, metadata.name.to_string()), known);
                }
            });
        }
        truth
    }

    /// Whether the view is the server's state.
    pub(crate) fn agrees_with(&mut self, api: &ApiServer) -> bool {
        assert!(self.tasks.try_join_next().is_none(), "a follower has died");
        self.view.lock().unwrap().objects == Self::truth(api)
    }

    /// Both, for people.
    pub(crate) fn difference(&self, api: &ApiServer) -> String {
        let (seen, truth) = (&self.view.lock().unwrap().objects, Self::truth(api));
        format!(
            "the view is {seen:#?}, the state {truth:#?}, with {:?}",
            self.config
        )
    }
}

/// Following one resource.
struct Following<K> {
    api: Api<K>,
    config: watcher::Config,
    view: Arc<Mutex<View>>,
    faults: Faults,
    log: Log,
    listed: Vec<K>,
}

impl<K: Followed> Following<K> {
    async fn run(mut self) {
        loop {
            let mut events = Box::pin(watcher(self.api.clone(), self.config.clone()));
            let mut pause = PAUSE_MIN;
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        self.told(event);
                        pause = PAUSE_MIN;
                    }
                    Err(error) => {
                        self.log.line(format!("{}: {error}", K::ROW.plural));
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                        // The watcher would ask for the expired version for ever: begun anew, it lists.
                        if is_expired(&error) {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn told(&mut self, event: watcher::Event<K>) {
        self.log
            .line(format!("{} {}", K::ROW.plural, describe(&event)));
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(object) => self.listed.push(object),
            watcher::Event::InitDone => self.relisted(),
            watcher::Event::Apply(object) => self.stored(&object),
            watcher::Event::Delete(object) => self.deleted(&object),
        }
    }

    fn stored(&self, object: &K) {
        let mut view = self.view.lock().unwrap();
        let (key, (uid, version)) = (key_of(object), known(object));
        let before = view.objects.get(&key).filter(|(old, _)| *old == uid);
        match before {
            _ if view.gone.contains(&uid) => return self.note(Kind::LateEvent),
            Some((_, old)) if version < *old => return self.note(Kind::LateEvent),
            Some((_, old)) if version == *old => return self.note(Kind::DuplicateEvent),
            None if view.objects.contains_key(&key) => self.note(Kind::SameNameNewUid),
            Some(_) | None => {}
        }
        self.order(&mut view, version);
        view.objects.insert(key, (uid, version));
    }

    fn deleted(&self, object: &K) {
        let mut view = self.view.lock().unwrap();
        let (key, (uid, version)) = (key_of(object), known(object));
        if !view.gone.insert(uid.clone()) {
            return self.note(Kind::DuplicateEvent);
        }
        self.order(&mut view, version);
        if view.objects.get(&key).is_some_and(|(old, _)| *old == uid) {
            view.objects.remove(&key);
        }
    }

    /// What is not in the list is gone; what is known to be newer stays so, and what was deleted does not come back.
    fn relisted(&mut self) {
        let mut view = self.view.lock().unwrap();
        let mut objects = BTreeMap::new();
        for object in std::mem::take(&mut self.listed) {
            let (key, (uid, version)) = (key_of(&object), known(&object));
            if view.gone.contains(&uid) {
                continue;
            }
            let before = view.objects.get(&key);
            if before.is_some_and(|(old, _)| *old != uid) {
                self.note(Kind::SameNameNewUid);
            }
            let newest = before
                .filter(|(old, _)| *old == uid)
                .map_or(0, |(_, old)| *old);
            objects.insert(key, (uid, version.max(newest)));
        }
        view.objects
            .retain(|(plural, _), _| *plural != K::ROW.plural);
        view.objects.append(&mut objects);
    }

    fn order(&self, view: &mut View, version: u64) {
        if version < view.newest {
            self.note(Kind::KindsOutOfOrder);
        }
        view.newest = view.newest.max(version);
    }

    fn note(&self, kind: Kind) {
        self.faults.told(FOLLOWER, kind);
    }
}

fn key_of<K: Followed>(object: &K) -> (&'static str, String) {
    (K::ROW.plural, object.name_any())
}

fn known<K: Followed>(object: &K) -> Known {
    let version = object.resource_version().unwrap_or_default();
    (object.uid().unwrap_or_default(), version.parse().unwrap())
}

fn describe<K: Followed>(event: &watcher::Event<K>) -> String {
    let (what, object) = match event {
        watcher::Event::Init => return "init".into(),
        watcher::Event::InitDone => return "init done".into(),
        watcher::Event::InitApply(object) => ("listed", object),
        watcher::Event::Apply(object) => ("stored", object),
        watcher::Event::Delete(object) => ("deleted", object),
    };
    format!("{what} {} {:?}", object.name_any(), known(object))
}

fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(Error::Api(status)) if status.code == 410)
}

// The writer.

/// A process that creates, patches, replaces and deletes.
pub(crate) struct Writer {
    client: Client,
    faults: Faults,
    log: Log,
    stream: Stream,
}

/// What a write came to.
#[derive(Debug)]
enum Outcome {
    Done,
    /// The server says no, and will again.
    Refused,
    /// What it was about has changed or gone: to be looked at again.
    Changed,
}

impl Writer {
    pub(crate) fn new(api: &ApiServer, faults: &Faults, log: &Log, seed: Seed) -> Self {
        Self {
            client: client(api, faults, WRITER),
            faults: faults.clone(),
            log: log.clone(),
            stream: seed.stream("writer"),
        }
    }

    /// Whether the follower should die now.
    pub(crate) fn wants_restart(&mut self) -> bool {
        self.stream.between(0, 9) == 0
    }

    /// One write, until it is done or refused.
    pub(crate) async fn write(&mut self) {
        let pause = self.stream.between(0, 15_000);
        sleep(Duration::from_millis(pause)).await;
        if self.stream.between(0, 1) == 0 {
            self.write_one::<Pod>().await;
        } else {
            self.write_one::<ConfigMap>().await;
        }
    }

    async fn write_one<K: Followed>(&mut self) {
        let api: Api<K> = Api::default_namespaced(self.client.clone());
        let name = format!("n{}", self.stream.between(1, NAMES));
        let outcome = match self.stream.between(0, 19) {
            0..=7 => self.create(&api, &name).await,
            8..=11 => self.patch(&api, &name).await,
            12..=13 => self.replace(&api, &name).await,
            14..=16 => self.delete(&api, &name).await,
            17..=18 => self.recreate(&api, &name).await,
            _ => self.delete_all(&api).await,
        };
        self.log
            .line(format!("{} {name} {outcome:?}", K::ROW.plural));
    }

    async fn create<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Outcome {
        let object = K::of_name(name);
        let params = PostParams::default();
        // One that exists already may be ours: what was unanswered has been done.
        self.persist(|| api.create(&params, &object)).await
    }

    /// Again where somebody else has written and it is still there.
    async fn patch<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Outcome {
        let value = self.stream.uuid().to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"v": value}}}));
        let params = PatchParams::default();
        for _ in 0..TRIES {
            match self.persist(|| api.patch(name, &params, &patch)).await {
                Outcome::Changed if self.get(api, name).await.is_some() => {}
                outcome => return outcome,
            }
        }
        Outcome::Changed
    }

    /// Reads, and writes at the version read; again where somebody else has written.
    async fn replace<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Outcome {
        for _ in 0..TRIES {
            let Some(mut object) = self.get(api, name).await else {
                return Outcome::Changed;
            };
            let value = self.stream.uuid().to_string();
            object.annotations_mut().insert("v".into(), value);
            let params = PostParams::default();
            match self.persist(|| api.replace(name, &params, &object)).await {
                Outcome::Changed => {}
                outcome => return outcome,
            }
        }
        Outcome::Changed
    }

    /// Names the uid, so that a delete that lands late meets nobody else.
    async fn delete<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Outcome {
        let Some(object) = self.get(api, name).await else {
            return Outcome::Changed;
        };
        let preconditions = Preconditions {
            uid: object.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(preconditions);
        self.persist(|| api.delete(name, &params)).await
    }

    async fn recreate<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Outcome {
        self.delete(api, name).await;
        self.create(api, name).await
    }

    /// Again, until a list shows that nothing is left.
    async fn delete_all<K: Followed>(&mut self, api: &Api<K>) -> Outcome {
        let selected = ListParams::default().labels("app=x");
        for _ in 0..TRIES {
            let params = DeleteParams::default();
            self.persist(|| api.delete_collection(&params, &selected))
                .await;
            let left = timeout(WRITE_TIMEOUT, api.list(&selected)).await;
            if left.is_ok_and(|left| left.is_ok_and(|left| left.items.is_empty())) {
                return Outcome::Done;
            }
            sleep(PAUSE_MIN).await;
        }
        Outcome::Changed
    }

    async fn get<K: Followed>(&mut self, api: &Api<K>, name: &str) -> Option<K> {
        let mut pause = PAUSE_MIN;
        for _ in 0..TRIES {
            match timeout(WRITE_TIMEOUT, api.get_opt(name)).await {
                Ok(Ok(found)) => return found,
                Ok(Err(Error::Api(status))) if status.code == 429 => {
                    sleep(asked_to_wait(&status)).await;
                }
                Ok(Err(_)) | Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        None
    }

    /// Repeats a write until the server has decided.
    async fn persist<T, F>(&mut self, write: impl Fn() -> F) -> Outcome
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = PAUSE_MIN;
        for _ in 0..TRIES {
            let wait = match timeout(WRITE_TIMEOUT, write()).await {
                Ok(Ok(_)) => return Outcome::Done,
                Ok(Err(Error::Api(status))) => match self.decide(&status) {
                    Ok(outcome) => return outcome,
                    Err(wait) => wait.unwrap_or(pause),
                },
                Ok(Err(_)) | Err(_) => pause,
            };
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Outcome::Refused
    }

    /// What a Status means for the write, or how long to wait before it is repeated.
    fn decide(&self, status: &Status) -> Result<Outcome, Option<Duration>> {
        let refused = |kind| {
            self.faults.told(WRITER, kind);
            Ok(Outcome::Refused)
        };
        match status.code {
            404 | 409 => Ok(Outcome::Changed),
            422 => refused(Kind::Invalid),
            400 if status.message.contains("admission webhook") => refused(Kind::WebhookDenied),
            403 if status.message.contains("exceeded quota") => refused(Kind::Forbidden),
            429 => Err(Some(asked_to_wait(status))),
            _ => Err(None),
        }
    }

    /// Reads everything once more, and finds it as it is.
    pub(crate) async fn settle(&mut self, api: &ApiServer) -> Result<(), String> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let maps: Api<ConfigMap> = Api::default_namespaced(self.client.clone());
        let everything = ListParams::default();
        let (pods, maps) = (pods.list(&everything).await, maps.list(&everything).await);
        let (pods, maps) = (
            pods.map_err(|error| error.to_string())?,
            maps.map_err(|error| error.to_string())?,
        );
        let mut read: BTreeMap<_, _> = pods.iter().map(|o| (key_of(o), known(o))).collect();
        read.extend(maps.iter().map(|o| (key_of(o), known(o))));
        let truth = Follower::truth(api);
        if read == truth {
            Ok(())
        } else {
            Err(format!(
                "the writer reads {read:#?}, the state is {truth:#?}"
            ))
        }
    }
}

/// A plain text body hides the header from this client: then the longest that is asked for.
fn asked_to_wait(status: &Status) -> Duration {
    let details = status.details.as_ref();
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        Duration::from_secs(seconds.into())
    } else {
        RETRY_AFTER_MAX
    }
}
