//! Replicas of the production controller on the simulated cluster, in virtual time: killed, paused for longer than
//! their lease, with a lease that people delete and write. After every created pod the Lease must name the one that
//! created it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use controller::config::pod_template::PodTemplate;
use controller::config::{self, EnvironmentDefaults};
use controller::core::job_pod::ExtensionVariables;
use controller::core::leadership::Identity;
use controller::http::Answering;
use controller::metrics::Metrics;
use controller::runtime::replica::{Replica, ReplicaHandle};
use controller::runtime::{PortSet, Settings};
use http::StatusCode;
use serde_json::json;
use simulator::apiserver::ApiServer;
use simulator::callback::{InProcess, Persistence};
use simulator::clock::SimClock;
use simulator::cluster::SimCluster;
use simulator::fleet::{Fleet, FleetOptions, Irregularities, create_nodes};
use simulator::kubelet::Lifecycle;
use simulator::node::NodeShape;
use simulator::report_store::MemoryReportStore;
use simulator::rng::{Seed, SimEntropy};
use simulator::state::{
    DeleteOptions, Object, Options, Part, Selector, State, Target, WatchEvent, WatchFrom,
    WriteOptions, resource,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const NAMESPACE: &str = "batch";
const NAME: &str = "sim";
const LEASE: &str = "sim-leader-election";

/// An execution of three nodes every ten seconds, so that whoever leads creates pods all the time.
const CONFIG: &str = "{name: sim, cronExpression: '@every 10s', podPoolSize: 3}";

/// Who created the pods, in order.
type Creators = Arc<Mutex<Vec<String>>>;

struct World {
    api: ApiServer,
    clock: SimClock,
    store: MemoryReportStore,
    creators: Creators,
    watcher: JoinHandle<()>,
}

/// One replica, that can stand still as a process that gets no CPU; dropped, it is killed.
struct Process {
    handle: ReplicaHandle,
    pause: Arc<Pause>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Pause {
    is_on: AtomicBool,
    changed: Notify,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Process {
    fn pause(&self, is_on: bool) {
        self.pause.is_on.store(is_on, Ordering::Relaxed);
        self.pause.changed.notify_waiters();
    }

    fn leads(&self) -> bool {
        self.handle.leading().is_ok()
    }
}

/// Runs `future`, but polls it only while it is not paused.
async fn pausable(future: impl Future<Output = ()>, pause: Arc<Pause>) {
    let mut future = pin!(future);
    loop {
        let mut changed = pin!(pause.changed.notified());
        changed.as_mut().enable();
        let ended = poll_fn(|context| {
            if changed.as_mut().poll(context).is_ready() {
                return Poll::Ready(false);
            }
            if pause.is_on.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            future.as_mut().poll(context).map(|()| true)
        });
        if ended.await {
            return;
        }
    }
}

impl World {
    fn new() -> Self {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let api = ApiServer::new(State::new(&Options::default()), clock.of_api_server());
        create_nodes(&api, 3, &NodeShape::default()).unwrap();
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        let target = Target::cluster(&resource::NAMESPACES, "");
        let now = api.now();
        api.with_state(|state| state.create(now, target, namespace, WriteOptions::default()))
            .unwrap();
        let creators = Creators::default();
        let watcher = tokio::spawn(note_creators(api.clone(), Arc::clone(&creators)));
        let fleet_options = FleetOptions {
            nodes: 3,
            lifecycle: Lifecycle::steady(Duration::from_secs(2), 0.0),
            irregularities: Irregularities::default(),
            persistence: Persistence::Repeat,
            seed: Seed::of_run(1),
        };
        // What the job pods post is not what is looked at here.
        let callback = Answering::new(Router::new().fallback(async || StatusCode::OK));
        let callback = InProcess(callback);
        tokio::spawn(Fleet::new(api.clone(), callback, fleet_options).run());
        Self {
            store: MemoryReportStore::new(clock.clone()),
            api,
            clock,
            creators,
            watcher,
        }
    }

    /// Starts a replica; its number is in the address that its job pods call back to.
    fn start(&self, number: u32) -> Process {
        let config = config::parse(CONFIG, &EnvironmentDefaults::default());
        let config = config.unwrap().0;
        let metrics = Arc::new(Metrics::new(&config));
        let settings = Settings {
            template: PodTemplate::parse("{spec: {containers: [{name: job, image: i}]}}").unwrap(),
            namespace: NAMESPACE.to_owned(),
            instance: name(number),
            pod_ip: Some(name(number)),
            dev_mode: false,
            config_map: None,
            tokens: None,
            owner: None,
            variables: ExtensionVariables::default(),
            config,
        };
        let identity = Identity {
            name: name(number),
            address: None,
        };
        let ports = PortSet {
            cluster: SimCluster::new(self.api.clone(), NAMESPACE, NAME),
            reports: self.store.clone(),
            clock: self.clock.separate(),
            entropy: SimEntropy::new(Seed::of_run(number.into()).stream("controller")),
        };
        let (replica, handle) = Replica::new(settings, identity, ports, metrics);
        let pause = Arc::new(Pause::default());
        Process {
            task: tokio::spawn(pausable(replica.run(), Arc::clone(&pause))),
            handle,
            pause,
        }
    }

    /// Writes the Lease behind everybody's back, where there is one.
    fn tamper(&self, change: impl FnOnce(&mut Object)) {
        let target = Target::new(&resource::LEASES, NAMESPACE, LEASE);
        self.api.with_state(|state| {
            if state.find(target).is_some() {
                state.modify(target, Part::Whole, change).unwrap();
            }
        });
    }

    /// Deletes the Lease, where there is one.
    fn delete_lease(&self) {
        let target = Target::new(&resource::LEASES, NAMESPACE, LEASE);
        let now = self.api.now();
        self.api.with_state(|state| {
            if state.find(target).is_some() {
                state.delete(now, target, &DeleteOptions::now()).unwrap();
            }
        });
    }

    /// Who created pods since the last time.
    fn take_creators(&self) -> Vec<String> {
        assert!(
            !self.watcher.is_finished(),
            "a pod of who does not hold the lease"
        );
        let mut creators = std::mem::take(&mut *self.creators.lock().unwrap());
        creators.dedup();
        creators
    }
}

fn name(number: u32) -> String {
    format!("sim-{number}")
}

/// Notes who creates each job pod, which must be who holds the Lease at that moment.
async fn note_creators(api: ApiServer, creators: Creators) {
    let mut changes = api.subscribe();
    let pods = Some(NAMESPACE);
    let mut cursor =
        api.read(|state| state.watch(&resource::PODS, pods, Selector::default(), WatchFrom::Now));
    loop {
        let events = api.read(|state| state.poll(&mut cursor, 64));
        if events.is_empty() {
            changes.changed().await.unwrap();
            continue;
        }
        for event in events {
            let WatchEvent::Added(pod) = event else {
                continue;
            };
            let environment = pod.list("/spec/containers")[0]["env"].as_array().unwrap();
            let address = |entry: &&serde_json::Value| entry["name"] == "CALLBACK_SERVICE_NAME";
            let creator = environment.iter().find(address).unwrap()["value"]
                .as_str()
                .unwrap();
            let target = Target::new(&resource::LEASES, NAMESPACE, LEASE);
            let holder = api.read(|state| {
                let lease = state.find(target)?;
                Some(lease.text("/spec/holderIdentity").to_owned())
            });
            // A lease that was deleted is still that of who is about to write it again.
            if holder.is_some_and(|holder| holder != creator) {
                return;
            }
            creators.lock().unwrap().push(creator.to_owned());
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(5), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

async fn three(world: &World) -> [Process; 3] {
    let first = world.start(0);
    until("the first leads", || first.leads()).await;
    let processes = [first, world.start(1), world.start(2)];
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.take_creators(), ["sim-0"]);
    processes
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_dies_one_of_the_others_goes_on() {
    let world = World::new();
    let [first, second, third] = three(&world).await;
    drop(first);
    let taken = until("another leads", || second.leads() || third.leads()).await;
    assert!((13..=16).contains(&taken.as_secs()), "{taken:?}");
    sleep(Duration::from_mins(2)).await;
    assert!(second.leads() != third.leads());
    let creators = world.take_creators();
    assert!(creators.len() == 1 && creators != ["sim-0"], "{creators:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_beyond_its_lease_does_nothing_when_it_wakes() {
    let world = World::new();
    let [first, second, third] = three(&world).await;
    let processes = [first, second, third];
    for pause in [20, 40, 600] {
        let leader = processes.iter().position(Process::leads).unwrap();
        processes[leader].pause(true);
        sleep(Duration::from_secs(pause)).await;
        world.take_creators();
        processes[leader].pause(false);
        sleep(Duration::from_secs(30)).await;
        let successor = processes.iter().position(Process::leads).unwrap();
        assert!(successor != leader && !processes[leader].leads());
        assert_eq!(world.take_creators(), [format!("sim-{successor}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_stays_with_its_leader() {
    let world = World::new();
    let [first, second, third] = three(&world).await;
    for _ in 0..5 {
        world.delete_lease();
        sleep(Duration::from_secs(17)).await;
        assert!(first.leads() && !second.leads() && !third.leads());
    }
    assert_eq!(world.take_creators(), ["sim-0"]);
}

#[tokio::test(start_paused = true)]
async fn while_leadership_flaps_only_the_holder_of_the_lease_creates_pods() {
    let world = World::new();
    let processes = three(&world).await;
    // Beside the seconds in which ticks are due.
    sleep(Duration::from_millis(137)).await;
    for round in 0..60_u64 {
        let victim = &processes[usize::try_from(round % 3).unwrap()];
        match round % 4 {
            0 => victim.pause(true),
            1 => world.tamper(|lease| {
                let spec = lease.section_mut("spec");
                spec.insert("holderIdentity".to_owned(), json!("somebody"));
            }),
            2 => world.delete_lease(),
            _ => {
                for process in &processes {
                    process.pause(false);
                }
            }
        }
        sleep(Duration::from_secs(1 + round % 9)).await;
        world.take_creators();
    }
    for process in &processes {
        process.pause(false);
    }
    sleep(Duration::from_secs(20)).await;
    world.take_creators();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(
        processes.iter().filter(|process| process.leads()).count(),
        1
    );
    assert_eq!(world.take_creators().len(), 1);
}
