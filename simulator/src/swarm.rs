//! The swarm: replicas of the production controller as processes on a simulated cluster, in virtual time, while
//! everything breaks; then everything heals, and they must come right within a computed time.
//!
//! A seed draws sizes and faults (`options`). While faults happen every invariant is checked after every event
//! (`record`). Then all of them end: what is in progress must end, one of the next executions that are due must begin
//! and end as its pods do, and nothing may be left (`ending`). Everything that decides comes from the seed: two runs of
//! it have the same event log, line by line.
//!
//! `soak` runs the same replicas for long or on many nodes, where nothing breaks but the leader, at set points.

mod connection;
mod disturbance;
mod ending;
mod happening;
mod life;
mod options;
mod ports;
mod record;
mod site;
mod soak;
mod standing;
mod summaries;
mod volume;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use controller::ports::clock::Clock as _;
use controller::ports::cluster::Cluster;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::connection::Connection;
use self::disturbance::Disturbances;
pub use self::disturbance::{Disturbance, Timeline};
use self::life::{Life, Who};
pub use self::options::{AnyKind, MaxFailures, Overrides, SwarmOptions};
use self::options::{OWNER, PERIOD};
use self::ports::CutAt;
use self::record::{Observed, Record};
use self::site::{Ground, Replicas, Service, Site, new_volume};
pub use self::soak::{LeaderStop, SoakOptions, SoakOutcome, Stop, TakeOver, soak};
use crate::apiserver::{ApiServer, expire_events};
use crate::callback::Persistence;
use crate::checker::{Peaks, Violation};
use crate::clock::SimClock;
use crate::cluster::SimCluster;
use crate::controllers::{self, PodGc, Rule};
use crate::event_log::EventLog;
use crate::faults::{Count, Faults, Kind};
use crate::faulty_cluster::{FaultyCluster, LatePods};
use crate::fleet::{Fleet, FleetOptions, Irregularities, create_nodes};
use crate::node::NodeShape;
use crate::rng::Seed;
use crate::state::{self, State};
use crate::traffic::Traffic;
use crate::world::{Failure, NAMESPACE, Scenario};

/// What a run of the swarm came to.
#[derive(Debug, Clone)]
pub struct SwarmOutcome {
    /// What became of each kind of fault.
    pub counts: BTreeMap<AnyKind, Count>,
    /// Lines of the event log.
    pub events: u64,
    /// Its digest.
    pub digest: String,
    /// The most job pods at once.
    pub peaks: Peaks,
    /// How often the leader changed.
    pub epochs: u64,
    /// Virtual time.
    pub virtual_time: Duration,
}

/// Runs a seed to its end. Each line of the event log goes to `echo` as well.
///
/// # Errors
/// The first invariant that does not hold, or what did not come right in time.
///
/// # Panics
/// Where the runtime cannot be built.
pub fn simulate(
    options: &SwarmOptions,
    echo: Option<Box<dyn Write + Send>>,
) -> Result<SwarmOutcome, Failure> {
    run_over(options, echo, |api, faults, _| {
        let (replicas, late_pods, _) = at_the_port(api, faults);
        (replicas, late_pods)
    })
}

/// Replicas whose port leads straight to the cluster, and what is counted there of what they ask.
fn at_the_port(api: &ApiServer, faults: &Faults) -> (Replicas, LatePods, Traffic) {
    let cluster = SimCluster::new(api.clone(), NAMESPACE, OWNER);
    let traffic = cluster.traffic();
    let cluster = FaultyCluster::new(cluster, faults.clone());
    let late_pods = cluster.late_pods();
    let of_process = move |who: &Who, _: &Life| cluster.for_client(&site::client(who.slot));
    (Replicas::over(CutAt::Port, of_process), late_pods, traffic)
}

/// As [`simulate`], with a client below the cluster port of each process: `client` makes it of the process's
/// connection, the namespace and the owner. Faults and cuts lie in the connection.
///
/// # Errors
/// As [`simulate`].
///
/// # Panics
/// As [`simulate`], and where the faults have writes that are done after their client has given them up: whose pods
/// these are is known at the port only.
pub fn simulate_over<C: Cluster>(
    options: &SwarmOptions,
    echo: Option<Box<dyn Write + Send>>,
    client: impl Fn(Connection, &str, &str) -> C + Send + Sync + 'static,
) -> Result<SwarmOutcome, Failure> {
    assert!(!options.faults.enables(Kind::GhostWrite), "{options}");
    run_over(options, echo, |api, faults, disturbances| {
        let (api, faults) = (api.clone(), faults.clone());
        let disturbances = disturbances.clone();
        let of_process = move |who: &Who, life: &Life| {
            let connection = Connection::new(&api, &faults, &disturbances, who, life);
            client(connection, NAMESPACE, OWNER)
        };
        let replicas = Replicas::over(CutAt::Connection, of_process);
        (replicas, LatePods::default())
    })
}

fn run_over(
    options: &SwarmOptions,
    echo: Option<Box<dyn Write + Send>>,
    replicas: impl FnOnce(&ApiServer, &Faults, &Disturbances) -> (Replicas, LatePods),
) -> Result<SwarmOutcome, Failure> {
    let log = echo.map_or_else(EventLog::default, EventLog::echoing);
    in_virtual_time(async {
        let swarm = Swarm::new(options.clone(), options.scenario(0), log, replicas);
        let record = swarm.site.record.clone();
        swarm.run().await.map_err(|violation| Failure {
            violation,
            timeline: record.timeline(),
        })
    })
}

fn in_virtual_time<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(run)
}

struct Swarm {
    site: Arc<Site>,
    begin: Instant,
    /// When everything heals.
    healing: Instant,
    running: JoinSet<()>,
}

impl Swarm {
    fn new(
        options: SwarmOptions,
        scenario: Scenario,
        log: EventLog,
        replicas: impl FnOnce(&ApiServer, &Faults, &Disturbances) -> (Replicas, LatePods),
    ) -> Self {
        let seed = Seed::of_run(options.seed);
        let begin = Instant::now();
        let clock = SimClock::starting_at(scenario.start);
        let state = State::new(&state::Options {
            seed: options.seed,
            now: clock.wall(),
            ..state::Options::default()
        });
        let api = ApiServer::new(state, clock.of_api_server());
        let shape = NodeShape {
            images: 0,
            ..NodeShape::default()
        };
        create_nodes(&api, options.nodes, &shape).expect("an empty cluster takes the nodes");
        scenario.create_objects(&api);
        let faults = Faults::new(options.faults.clone(), seed);
        let disturbances = Disturbances::of(&options.timeline);
        let volume = options
            .has_shared_volume
            .then(|| new_volume(0, &clock, &options, &disturbances));
        let (replicas, late_pods) = replicas(&api, &faults, &disturbances);
        let observed = Observed {
            api: api.clone(),
            clock: clock.clone(),
            config: scenario.config.clone(),
            options: options.clone(),
            volume: volume.clone(),
            late_pods,
            disturbances: disturbances.clone(),
            faults: faults.clone(),
            clients: (0..options.replicas as usize).map(site::client).collect(),
        };
        let record = Record::new(observed, log);
        // Faults end well before the last of the executions would be overtaken by the next.
        let window = PERIOD * options.executions;
        let due = options
            .timeline
            .within(seed, (Duration::from_secs(5), window));
        let fleet_options = FleetOptions {
            nodes: options.nodes_max(),
            lifecycle: options.lifecycle(),
            irregularities: Irregularities {
                outages: happening::outages(&due, options.nodes),
                ..Irregularities::default()
            },
            persistence: Persistence::Repeat,
            seed,
        };
        record.note(format_args!("{options}"));
        let site = Site::new(Ground {
            options,
            scenario,
            api: api.clone(),
            clock,
            replicas,
            faults,
            record: record.clone(),
            disturbances,
            volume,
        });
        site.skew_clocks();
        site.note_rates();
        let mut running = JoinSet::new();
        // The record first: of what happens at one moment it hears before anybody acts on it.
        running.spawn(record.follow(api.clone()));
        running.spawn(expire_events(api.clone()));
        if site.options.timeline.enables(Disturbance::PodGc) {
            let above = site.options.pod_gc_above as usize;
            let rules: Vec<Box<dyn Rule>> = vec![Box::new(PodGc::keeping(above))];
            running.spawn(controllers::run(api.clone(), rules));
        }
        running.spawn(Fleet::new(api, Service(Arc::clone(&site)), fleet_options).run());
        for slot in 0..site.place_count() {
            running.spawn(Arc::clone(&site).run_place(slot));
        }
        tokio::spawn(Arc::clone(&site).change_clocks(begin));
        let disturbing = Arc::clone(&site).disturb(begin, due);
        running.spawn(async move {
            disturbing.await;
            // Whatever ends among these is a defect, as a panic of it is.
            std::future::pending::<()>().await;
        });
        Self {
            site,
            begin,
            healing: begin + window + Duration::from_mins(3),
            running,
        }
    }

    async fn run(mut self) -> Result<SwarmOutcome, Violation> {
        self.wait_until(self.healing).await?;
        self.heal().await?;
        self.come_right().await?;
        let site = &self.site;
        site.disturbances.converged();
        for slot in 0..site.place_count() {
            site.faults.converged(&site::client(slot));
        }
        let (events, digest) = site.record.digest();
        Ok(SwarmOutcome {
            counts: self.counts(),
            events,
            digest,
            peaks: site.record.peaks(),
            epochs: site.record.state().epoch,
            virtual_time: self.begin.elapsed(),
        })
    }

    fn counts(&self) -> BTreeMap<AnyKind, Count> {
        let tally = self.site.faults.tally();
        let disturbances = self.site.disturbances.counts();
        let count = |kind: AnyKind| match kind {
            AnyKind::Fault(kind) => tally.count(kind),
            AnyKind::Disturbance(kind) => disturbances.get(&kind).copied().unwrap_or_default(),
        };
        // What the port does not show may happen below it.
        let below = (Kind::ALL.iter().copied())
            .filter(|kind| !kind.is_in_process() && self.site.options.faults.enables(*kind));
        (AnyKind::all().chain(below.map(AnyKind::Fault)))
            .map(|kind| (kind, count(kind)))
            .collect()
    }

    /// Lets the run go on until then, or until something is wrong.
    async fn wait_until(&mut self, then: Instant) -> Result<(), Violation> {
        self.wait_for(sleep_until(then)).await
    }

    /// Lets the run go on until that has happened, or until something is wrong.
    async fn wait_for(&mut self, event: impl Future<Output = ()>) -> Result<(), Violation> {
        tokio::select! {
            biased;
            () = self.site.record.alarm() => {}
            Some(ended) = self.running.join_next() => {
                return Err(format!("a part of the swarm ended: {ended:?}"));
            }
            () = event => {}
        }
        match self.site.record.violation() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }
}
