//! A fleet of fake nodes: one queue of due times for all of them, not a task a node.
//!
//! It watches the pods bound to its nodes, moves each through its `Lifecycle`, posts what a job script would, and
//! removes pods that are being deleted, as kubelets do. A pod's random draws come from a stream of its own name, so a
//! node's pod takes equally long whatever else happens. Deliberately not here: what a status says (`kubelet`), what is
//! posted (`job`), how it gets there (`callback`).

mod heartbeats;
mod job_configs;
mod outages;
mod queue;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::job_configs::JobConfigs;
use self::outages::{ORPHAN_QUARANTINE, Outages};
use self::queue::{DueQueue, Ticket};
use crate::apiserver::ApiServer;
use crate::callback::{Attempt, Persistence, Transport, post};
use crate::job::{self, Gauges, Post};
use crate::kubelet::{self, Exit, Lifecycle, Report, Sighting, Step};
use crate::node::{self, NodeShape};
use crate::rng::{Seed, Stream};
use crate::state::{
    DeleteOptions, Part, Selector, State, Stored, Target, WatchCursor, WatchEvent, WatchFrom,
    WriteOptions, resource,
};

pub use heartbeats::renew_leases;
pub use outages::{Outage, OutageKind};

/// From the request to delete a pod to its end: containers that heed SIGTERM at once, and a kubelet's own pace.
const TERMINATION: Duration = Duration::from_millis(100);

/// Events taken from the watch under one lock of the state.
const EVENTS_AT_ONCE: usize = 256;

/// How the pods of a fleet live.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// How many nodes, named `node-1` onwards.
    pub nodes: u32,
    /// The stages of their pods.
    pub lifecycle: Lifecycle,
    /// What is otherwise on single nodes.
    pub irregularities: Irregularities,
    /// How often a pod tries to post.
    pub persistence: Persistence,
    /// Where the pods' draws come from.
    pub seed: Seed,
}

/// What is otherwise on single nodes of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Irregularities {
    /// Nodes whose pods live by other stages, by number.
    pub lifecycles: BTreeMap<u32, Lifecycle>,
    /// Nodes that go wrong.
    pub outages: Vec<Outage>,
}

/// Creates the Node objects `node-1` to `node-<count>`, each of this shape.
///
/// # Errors
/// The API server's, where one of that name is there already.
pub fn create_nodes(
    api: &ApiServer,
    count: u32,
    shape: &NodeShape,
) -> Result<(), crate::state::Status> {
    (1..=count).try_for_each(|number| create_node(api, number, shape))
}

/// Creates the Node object of this number.
///
/// # Errors
/// The API server's, where it is there already.
pub fn create_node(
    api: &ApiServer,
    number: u32,
    shape: &NodeShape,
) -> Result<(), crate::state::Status> {
    let now = api.now();
    let object = node::object(number, now, shape);
    let target = Target::cluster(&resource::NODES, "");
    api.with_state(|state| state.create(now, target, object, WriteOptions::default()))
        .map(drop)
}

/// A pod that a node of this fleet runs.
#[derive(Debug)]
struct Pod {
    namespace: Arc<str>,
    name: Arc<str>,
    node: u32,
    host: String,
    address: String,
    container: String,
    created: Instant,
    seen: Timestamp,
    started: Timestamp,
    step: Step,
    stream: Stream,
    /// The entry of the queue that counts; any other for this pod is void.
    ticket: Option<Ticket>,
    posting: Posting,
    /// Whether it stays Running for ever: a pod that its node would restart.
    endless: bool,
    /// Whether it is being deleted.
    stopping: bool,
}

/// Where a pod's posts stand.
#[derive(Debug)]
enum Posting {
    NotBegun,
    UnderWay {
        task: AbortHandle,
        /// The step that was due meanwhile.
        overdue: Option<Step>,
    },
    Done,
}

#[derive(Debug)]
enum Due {
    Enter(Arc<str>, Step),
    Remove(Arc<str>),
    /// The pod's node is gone.
    Collect(Arc<str>),
    Outage(Outage),
    NodeBack(u32),
}

/// How the posts of a pod ended: its uid, and why it failed where it did.
type Posted = (Arc<str>, Result<(), String>);

/// The fleet.
pub struct Fleet<T> {
    api: ApiServer,
    transport: T,
    options: FleetOptions,
    cursor: WatchCursor,
    pods: BTreeMap<Arc<str>, Pod>,
    pod_count: u32,
    queue: DueQueue<Due>,
    posts: JoinSet<Posted>,
    configs: JobConfigs,
    outages: Outages,
}

impl<T> fmt::Debug for Fleet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("options", &self.options)
            .field("pods", &self.pods.len())
            .finish_non_exhaustive()
    }
}

fn watch(state: &State) -> WatchCursor {
    state.watch(&resource::PODS, None, Selector::default(), WatchFrom::Now)
}

impl<T: Transport> Fleet<T> {
    /// A fleet for the nodes that [`create_nodes`] made.
    #[must_use]
    pub fn new(api: ApiServer, transport: T, options: FleetOptions) -> Self {
        let cursor = api.read(watch);
        Self {
            api,
            transport,
            options,
            cursor,
            pods: BTreeMap::new(),
            pod_count: 0,
            queue: DueQueue::new(),
            posts: JoinSet::new(),
            configs: JobConfigs::default(),
            outages: Outages::default(),
        }
    }

    /// Runs the nodes until dropped.
    pub async fn run(mut self) {
        let mut changes = self.api.subscribe_to(&resource::PODS);
        for outage in self.options.irregularities.outages.clone() {
            self.queue
                .push(Instant::now() + outage.begin, Due::Outage(outage));
        }
        loop {
            self.observe();
            self.act();
            let due = self.queue.next_due();
            tokio::select! {
                biased;
                Some(posted) = self.posts.join_next(), if !self.posts.is_empty() => {
                    // A task that was aborted belongs to a pod that is gone.
                    if let Ok((uid, result)) = posted {
                        self.posted(&uid, result);
                    }
                }
                Ok(()) = changes.changed() => {}
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            }
        }
    }

    /// Takes what the watch has to tell.
    fn observe(&mut self) {
        loop {
            let cursor = &mut self.cursor;
            let events = self.api.read(|state| state.poll(cursor, EVENTS_AT_ONCE));
            if events.is_empty() {
                return;
            }
            for event in events {
                match event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.seen(&pod),
                    WatchEvent::Deleted(pod) => self.forget(&pod.metadata.uid),
                    WatchEvent::Bookmark { .. } => {}
                    WatchEvent::Error(_) => self.watch_again(),
                }
            }
        }
    }

    /// Begins the watch again: pods that went meanwhile are forgotten, those that came or changed are seen as they are
    /// now.
    fn watch_again(&mut self) {
        let (cursor, pods) = self.api.read(|state| {
            let pods: Vec<Arc<Stored>> = state.iter(&resource::PODS, None).cloned().collect();
            (watch(state), pods)
        });
        self.cursor = cursor;
        let uids: std::collections::BTreeSet<_> = pods
            .iter()
            .map(|pod| Arc::clone(&pod.metadata.uid))
            .collect();
        let known: Vec<_> = self.pods.keys().cloned().collect();
        for uid in known {
            if !uids.contains(&uid) {
                self.forget(&uid);
            }
        }
        for pod in &pods {
            self.seen(pod);
        }
    }

    fn seen(&mut self, stored: &Arc<Stored>) {
        let metadata = &stored.metadata;
        let deleted = metadata.deletion_timestamp.is_some();
        if self.pods.contains_key(&metadata.uid) || self.accept(stored) {
            if deleted {
                self.terminate(&metadata.uid);
            }
        } else if deleted && self.number(stored).is_some() {
            // It ended just before it was deleted.
            self.delete(&metadata.namespace, &metadata.name, &metadata.uid);
        }
    }

    /// The number of the node that the pod is bound to, where it is one of these.
    fn number(&self, pod: &Stored) -> Option<u32> {
        let number = node::number(pod.text("/spec/nodeName"));
        number.filter(|number| *number <= self.options.nodes)
    }

    /// Takes a pod that is bound to one of these nodes and has not ended. Says whether it did.
    fn accept(&mut self, stored: &Arc<Stored>) -> bool {
        let Some(number) = self.number(stored) else {
            return false;
        };
        let metadata = &stored.metadata;
        // What the watch shows may be of a moment before this fleet's last word on the pod.
        let target = Target::new(&resource::PODS, &metadata.namespace, &metadata.name);
        let is_over = self.api.read(|state| {
            let now = state.find(target);
            now.is_none_or(|now| {
                let has_ended = matches!(now.text("/status/phase"), "Succeeded" | "Failed");
                has_ended || now.metadata.uid != metadata.uid
            })
        });
        if is_over {
            return false;
        }
        self.pod_count = self.pod_count.wrapping_add(1);
        let now = self.api.now();
        let endless = stored.text("/spec/restartPolicy") == "Always";
        let container = stored.get("spec").map_or("", job::first_container);
        let name = format!("fleet/{}/{}", metadata.namespace, metadata.name);
        let pod = Pod {
            namespace: Arc::clone(&metadata.namespace),
            name: Arc::clone(&metadata.name),
            node: number,
            host: node::host_ip(number),
            address: node::pod_ip(self.pod_count),
            container: container.to_owned(),
            created: Instant::now(),
            seen: now,
            started: now,
            step: Step::Accepted,
            stream: self.options.seed.stream(&name),
            ticket: None,
            posting: Posting::NotBegun,
            endless,
            stopping: false,
        };
        let uid = Arc::clone(&metadata.uid);
        self.pods.insert(Arc::clone(&uid), pod);
        if self.outages.is_deleted(number) {
            self.collect_later(&uid);
        } else {
            self.schedule_next(&uid);
        }
        true
    }

    /// The pod is gone from the API server.
    fn forget(&mut self, uid: &Arc<str>) {
        if let Some(Pod {
            posting: Posting::UnderWay { task, .. },
            ..
        }) = self.pods.remove(uid)
        {
            task.abort();
        }
    }

    /// The pod is to be deleted: whatever else was due for it is void.
    fn terminate(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if !pod.stopping && !self.outages.is_deleted(pod.node) {
            pod.stopping = true;
            if pod.step == Step::Hanging {
                pod.ticket = None;
                return;
            }
            let due = Instant::now() + TERMINATION;
            pod.ticket = Some(self.queue.push(due, Due::Remove(Arc::clone(uid))));
        }
    }

    fn schedule_next(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if pod.stopping || (pod.endless && pod.step == Step::Running) {
            return;
        }
        let options = &self.options;
        let own = options.irregularities.lifecycles.get(&pod.node);
        let lifecycle = own.unwrap_or(&options.lifecycle);
        if let Some((delay, step)) = lifecycle.next(pod.step, &mut pod.stream) {
            let due = Due::Enter(Arc::clone(uid), step);
            pod.ticket = Some(self.queue.push(pod.created + delay, due));
        }
    }

    /// Does what is due.
    fn act(&mut self) {
        while let Some((ticket, due)) = self.queue.pop_due(Instant::now()) {
            let uid = match &due {
                Due::Enter(uid, _) | Due::Remove(uid) | Due::Collect(uid) => uid,
                Due::Outage(outage) => {
                    self.begin_outage(*outage);
                    continue;
                }
                Due::NodeBack(node) => {
                    self.end_outage(*node);
                    continue;
                }
            };
            let pod = self.pods.get(uid);
            let Some(node) = pod
                .filter(|pod| pod.ticket == Some(ticket))
                .map(|pod| pod.node)
            else {
                continue;
            };
            if let Due::Collect(uid) = due {
                self.collect(&uid);
            } else if let Some(due) = self.outages.hold(node, due) {
                self.do_now(due);
            }
        }
    }

    /// Does what a kubelet does to one of its pods.
    fn do_now(&mut self, due: Due) {
        match due {
            Due::Enter(uid, step) => self.enter(&uid, step),
            Due::Remove(uid) => self.remove(&uid),
            Due::Collect(_) | Due::Outage(_) | Due::NodeBack(_) => {}
        }
    }

    fn begin_outage(&mut self, outage: Outage) {
        let node = outage.node;
        let uids: Vec<Arc<str>> = (self.pods.iter())
            .filter(|(_, pod)| pod.node == node)
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        match outage.kind {
            OutageKind::NotReady { lasts } => {
                self.outages.not_ready(&self.api, node);
                if let Some(lasts) = lasts {
                    self.queue.push(Instant::now() + lasts, Due::NodeBack(node));
                }
            }
            OutageKind::Deleted => {
                self.outages.deleted(&self.api, node);
                for uid in &uids {
                    self.collect_later(uid);
                }
            }
            OutageKind::Recreated { after } => {
                self.outages.deleted(&self.api, node);
                for uid in &uids {
                    self.collect_later(uid);
                }
                self.queue.push(Instant::now() + after, Due::NodeBack(node));
            }
            OutageKind::Replaced => {
                outages::replace(&self.api, node);
                for uid in &uids {
                    self.end(uid, &Exit::failure("the node was replaced"));
                }
            }
        }
    }

    fn end_outage(&mut self, node: u32) {
        if self.outages.is_deleted(node) {
            self.outages.recreated(&self.api, node);
            let pods = self.pods.iter().filter(|(_, pod)| pod.node == node);
            for uid in pods.map(|(uid, _)| Arc::clone(uid)).collect::<Vec<_>>() {
                self.end(&uid, &Exit::failure("the node was created again"));
            }
            return;
        }
        for due in self.outages.back(&self.api, node) {
            // A pod that was told to stop meanwhile does nothing else any more.
            let is_void = match &due {
                Due::Enter(uid, _) => self.pods.get(uid).is_none_or(|pod| pod.stopping),
                _ => false,
            };
            if !is_void {
                self.do_now(due);
            }
        }
    }

    fn collect_later(&mut self, uid: &Arc<str>) {
        let due = Instant::now() + ORPHAN_QUARANTINE;
        let ticket = self.queue.push(due, Due::Collect(Arc::clone(uid)));
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.ticket = Some(ticket);
        }
    }

    /// The pod goes without its kubelet.
    fn collect(&mut self, uid: &Arc<str>) {
        if let Some(pod) = self.pods.get(uid) {
            self.delete(&pod.namespace, &pod.name, uid);
        }
        self.forget(uid);
    }

    fn enter(&mut self, uid: &Arc<str>, step: Step) {
        let now = self.api.now();
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        match step {
            Step::Accepted | Step::Hanging => {}
            Step::Creating => self.report(uid, &Report::Creating, ""),
            Step::Running => {
                pod.started = now;
                self.report(uid, &Report::Running, "started\n");
            }
            Step::Posting => self.begin_posts(uid),
            Step::ImagePullBackOff | Step::InvalidImageName | Step::CreateContainerConfigError => {
                if let Some((reason, message)) = step.waiting() {
                    self.report(uid, &Report::Waiting(reason, message), "");
                }
            }
            Step::OutOfPods | Step::OutOfCpu | Step::UnexpectedAdmissionError | Step::Evicted => {
                if let Some((reason, message)) = step.rejection() {
                    self.report(uid, &Report::Rejected(reason, message), "");
                }
                self.forget(uid);
                return;
            }
            Step::Succeeded | Step::Failed => {
                if let Posting::UnderWay { overdue, .. } = &mut pod.posting {
                    *overdue = Some(step);
                } else {
                    self.end(uid, &exit_of(step));
                }
                return;
            }
        }
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.step = step;
        }
        self.schedule_next(uid);
    }

    fn begin_posts(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let target = Target::new(&resource::PODS, &pod.namespace, &pod.name);
        let (configs, stream) = (&mut self.configs, &mut pod.stream);
        let posts = self.api.read(|state| {
            let stored = state
                .find(target)
                .filter(|stored| stored.metadata.uid == *uid)?;
            let owner = stored.metadata.labels.get(job::OWNER_LABEL);
            let gauges = owner.map_or_else(Gauges::new, |owner| {
                configs.gauges(state, target.namespace, owner)
            });
            Some(job::posts(stored.get("spec")?, &gauges, stream))
        });
        let posts = posts.unwrap_or_default();
        pod.posting = if posts.is_empty() {
            Posting::Done
        } else {
            let script = Script {
                api: self.api.clone(),
                transport: self.transport.clone(),
                persistence: self.options.persistence,
                namespace: Arc::clone(&pod.namespace),
                pod: Arc::clone(&pod.name),
                container: pod.container.clone(),
            };
            let uid = Arc::clone(uid);
            let task = self
                .posts
                .spawn(async move { (uid, script.post_all(posts).await) });
            Posting::UnderWay {
                task,
                overdue: None,
            }
        };
    }

    /// The posts of a pod are done: what they held up is done now. A script whose post fails ends at once.
    fn posted(&mut self, uid: &Arc<str>, result: Result<(), String>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let before = std::mem::replace(&mut pod.posting, Posting::Done);
        if pod.stopping {
            return;
        }
        match (result, before) {
            (Err(why), _) => self.end(uid, &Exit::failure(why)),
            (
                Ok(()),
                Posting::UnderWay {
                    overdue: Some(step),
                    ..
                },
            ) => self.end(uid, &exit_of(step)),
            (Ok(()), _) => {}
        }
    }

    fn end(&mut self, uid: &Arc<str>, exit: &Exit) {
        let line = match &*exit.message {
            "" => format!("exit code {}\n", exit.code),
            message => format!("{message}\nexit code {}\n", exit.code),
        };
        self.report(uid, &Report::Ended(exit.clone()), &line);
        self.forget(uid);
    }

    /// The pod's containers stop, then it goes.
    fn remove(&mut self, uid: &Arc<str>) {
        self.report(uid, &Report::Ended(Exit::terminated()), "terminated\n");
        if let Some(pod) = self.pods.get(uid) {
            self.delete(&pod.namespace, &pod.name, uid);
        }
        self.forget(uid);
    }

    fn delete(&self, namespace: &str, name: &str, uid: &str) {
        let now = self.api.now();
        let options = DeleteOptions {
            uid: Some(uid.to_owned()),
            ..DeleteOptions::now()
        };
        let target = Target::new(&resource::PODS, namespace, name);
        // Gone already is as good.
        let _ = self
            .api
            .with_state(|state| state.delete(now, target, &options));
    }

    /// Writes the pod's status, and a line into its log.
    fn report(&self, uid: &Arc<str>, report: &Report, line: &str) {
        let Some(pod) = self.pods.get(uid) else {
            return;
        };
        let sighting = Sighting {
            host_ip: pod.host.clone(),
            pod_ip: pod.address.clone(),
            seen: pod.seen,
            started: pod.started,
            now: self.api.now(),
        };
        let target = Target::new(&resource::PODS, &pod.namespace, &pod.name);
        self.api.with_state(|state| {
            if state
                .find(target)
                .is_none_or(|stored| stored.metadata.uid != *uid)
            {
                return;
            }
            if !line.is_empty() {
                state.append_pod_log(&pod.namespace, &pod.name, &pod.container, line);
            }
            let written = state.modify(target, Part::Status, |object| {
                let null = serde_json::Value::Null;
                let spec = object.get("spec").unwrap_or(&null);
                let before = object.get("status").unwrap_or(&null);
                let status = kubelet::status(uid, spec, before, report, &sighting);
                object.set("status", status);
            });
            debug_assert!(written.is_ok(), "a kubelet's status is valid: {written:?}");
        });
    }
}

fn exit_of(step: Step) -> Exit {
    match step {
        Step::Failed => Exit::failure("the check has failed"),
        _ => Exit::success(),
    }
}

/// What runs in the first container of a job pod.
struct Script<T> {
    api: ApiServer,
    transport: T,
    persistence: Persistence,
    namespace: Arc<str>,
    pod: Arc<str>,
    container: String,
}

impl<T: Transport> Script<T> {
    /// Makes the posts in order; stops at the first that does not arrive, and says why.
    async fn post_all(self, posts: Vec<Post>) -> Result<(), String> {
        for one in posts {
            let kind = one.kind.name();
            let heard = |attempt: &Attempt| self.print(&format!("posted {kind}: {attempt}\n"));
            let last = post(
                &self.transport,
                &one,
                &self.namespace,
                self.persistence,
                heard,
            )
            .await;
            if !last.succeeded() {
                return Err(format!("the {kind} was not accepted: {last}"));
            }
        }
        Ok(())
    }

    fn print(&self, line: &str) {
        self.api.with_state(|state| {
            state.append_pod_log(&self.namespace, &self.pod, &self.container, line);
        });
    }
}
