//! A world: an API server, a fleet and the production controller, on one thread under virtual time.
//!
//! Everything that decides comes from the options: two runs of them give the same event log, line by line. The
//! controller is the one that ships, over its ports; its callback Router is called without sockets. Every change of a
//! pod and every answer of the callback is logged and checked before the run goes on to the next.

mod record;
mod scenario;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use controller::core::ids::ExecutionId;
use controller::core::job_pod::ExtensionVariables;
use controller::core::state::{NodeState, Reason};
use controller::core::summary::{self, ExecutionSummary};
use controller::http;
use controller::metrics::Metrics;
use controller::ports::clock::{Clock as _, Monotonic};
use controller::runtime::controller::Controller;
use controller::runtime::{PortSet, Settings};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use self::record::Answers;
use self::record::{Observed, Record, Recorded};
pub use self::scenario::Scenario;
use self::scenario::{FAULTY_TIME, POD_IP};
pub(crate) use self::scenario::{HEALING_TIME, NAMESPACE, POD_TEMPLATE_KEY, between};
use crate::apiserver::{ApiServer, expire_events};
use crate::callback::{InProcess, Persistence};
use crate::checker::{Peaks, Violation};
use crate::clock::SimClock;
use crate::cluster::SimCluster;
use crate::faults::{self, Faults, Plan, Tally};
use crate::faulty_cluster::{self, FaultyCluster};
use crate::fleet::{Fleet, FleetOptions, Irregularities, create_nodes};
use crate::kubelet::Lifecycle;
use crate::node::NodeShape;
use crate::report_store::{MemoryReportStore, Usage};
use crate::rng::{Seed, SimEntropy};
use crate::state::{self, State};
use crate::traffic::{Counts, Traffic};

/// How often the end of an execution is looked for, in virtual time.
const LOOK: Duration = Duration::from_millis(250);

/// What may come on top of an execution's pods: posts that are repeated for a minute, calls that wait.
const GRACE: Duration = Duration::from_mins(10);

/// After the last execution, so that what follows an end (logs, the last summary) is counted too.
const SETTLE: Duration = Duration::from_secs(5);

/// What a world is made of. The same options give the same run.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// How many nodes there are. All are eligible.
    pub nodes: u32,
    /// What the controller is told.
    pub scenario: Scenario,
    /// Executions to run, one each time that the configuration's schedule says; fewer where it has no more.
    pub executions: u32,
    /// How the pods live.
    pub lifecycle: Lifecycle,
    /// What breaks between the controller and the API server, as far as the port can show it.
    pub faults: Plan,
    /// Where everything random comes from.
    pub seed: u64,
}

/// How one execution went.
#[derive(Debug, Clone)]
pub struct ExecutionOutcome {
    /// Its id.
    pub id: ExecutionId,
    /// From its begin to its end.
    pub makespan: Duration,
    /// Pods that ended well.
    pub succeeded: usize,
    /// Pods that did not.
    pub failed: usize,
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Each execution, in order.
    pub executions: Vec<ExecutionOutcome>,
    /// Virtual time from the start to the end of the last execution.
    pub virtual_time: Duration,
    /// Lines of the event log.
    pub events: u64,
    /// Its digest.
    pub digest: String,
    /// The most job pods at once.
    pub peaks: Peaks,
    /// What the controller asked of the API server.
    pub traffic: Counts,
    /// What the controller's callback answered, by the kind of the post.
    pub answers: BTreeMap<&'static str, Answers>,
    /// What the reports of the last execution take.
    pub reports: Usage,
    /// What a scrape gets at the end.
    pub scrape: Scrape,
    /// What became of the faults.
    pub faults: Tally,
}

/// The controller's metrics as Prometheus reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrape {
    /// Series, the controller's own included.
    pub series: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// The same series once as many executions have run as are exported.
    pub series_in_time: u64,
}

/// Why a run ended early.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The invariant that was broken, or what did not happen.
    pub violation: Violation,
    /// What led to it: the last lines of the event log.
    pub timeline: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to see the cause, little enough to read.
        const LINES: usize = 30;
        writeln!(f, "{}", self.violation)?;
        let from = self.timeline.len().saturating_sub(LINES);
        self.timeline[from..]
            .iter()
            .try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Failure {}

/// What a run has come to: nodes that have ended, of all executions.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Pods that have ended.
    pub ended: u64,
    /// Virtual time since the start.
    pub virtual_time: Duration,
}

/// Runs a world to its end. `progress` is told now and then.
///
/// # Errors
/// The first invariant that does not hold, or an execution that does not end in time.
///
/// # Panics
/// Where the runtime cannot be built.
pub fn simulate(
    options: &WorldOptions,
    progress: impl FnMut(Progress),
) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(async { World::new(options).run(progress).await })
}

struct World {
    nodes: u32,
    executions: u32,
    scenario: Scenario,
    /// Within this time every pod has ended that a pool full of the slowest can bring to its end.
    bound: Duration,
    clock: SimClock,
    store: MemoryReportStore,
    metrics: Arc<Metrics>,
    traffic: Traffic,
    record: Record,
    faults: Faults,
    running: JoinSet<()>,
}

impl World {
    fn new(options: &WorldOptions) -> Self {
        let seed = Seed::of_run(options.seed);
        let scenario = options.scenario.clone();
        let config = &scenario.config;
        let clock = SimClock::starting_at(scenario.start);
        let state = State::new(&state::Options {
            seed: options.seed,
            now: clock.wall(),
            ..state::Options::default()
        });
        let api = ApiServer::new(state, clock.of_api_server());
        let shape = NodeShape {
            labels: config.job_node_selector.clone(),
            // Nothing in this process reads them.
            images: 0,
        };
        create_nodes(&api, options.nodes, &shape).expect("an empty cluster takes the nodes");
        scenario.create_objects(&api);

        let metrics = Arc::new(Metrics::new(config));
        let store = MemoryReportStore::new(clock.clone());
        let history = config.report_history.get() as usize;
        let faults = Faults::new(options.faults.clone().in_process(), seed);
        // They begin with the first execution: a controller that starts late has no record of it, and misses it
        // rightly.
        faults.heal();
        let cluster = SimCluster::new(api.clone(), NAMESPACE, &config.name);
        let traffic = cluster.traffic();
        let cluster = FaultyCluster::new(cluster, faults.clone());
        let observed = Observed {
            clock: clock.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            late_pods: cluster.late_pods(),
            series_bound: options.nodes as usize * scenario.series_per_node() * history,
        };
        let pool = scenario.pool(options.nodes);
        let record = Record::new(pool, observed);
        let ports = PortSet {
            cluster,
            reports: store.clone(),
            clock: clock.clone(),
            entropy: SimEntropy::new(seed.stream("controller")),
        };

        let mut running = JoinSet::new();
        // The record first: of what happens at one moment it hears before anybody acts on it.
        running.spawn(record.clone().follow_pods(api.clone()));
        let (callback, controller) = controller(&scenario, ports, Arc::clone(&metrics));
        let transport = Recorded {
            inner: callback,
            record: record.clone(),
        };
        let fleet_options = FleetOptions {
            nodes: options.nodes,
            lifecycle: options.lifecycle.clone(),
            irregularities: Irregularities::default(),
            persistence: Persistence::Repeat,
            seed,
        };
        running.spawn(expire_events(api.clone()));
        running.spawn(Fleet::new(api, transport, fleet_options).run());
        running.spawn(controller.run());
        let rounds = options.nodes.div_ceil(pool.get());
        let pods = options.lifecycle.longest().saturating_mul(rounds);
        let grace = if options.faults.is_none() {
            GRACE
        } else {
            GRACE + FAULTY_TIME + HEALING_TIME
        };
        Self {
            nodes: options.nodes,
            executions: options.executions,
            bound: pods.saturating_add(grace),
            scenario,
            clock,
            store,
            metrics,
            traffic,
            record,
            faults,
            running,
        }
    }

    async fn run(mut self, mut progress: impl FnMut(Progress)) -> Result<Outcome, Failure> {
        let count = self.executions as usize;
        let ticks: Vec<Timestamp> = self.scenario.ticks().take(count).collect();
        let mut executions = Vec::new();
        for (number, due) in ticks.iter().enumerate() {
            // One that is still in progress when the next is due would make that one be dropped.
            let next = ticks.get(number + 1);
            match self.run_execution(*due, next, &mut progress).await {
                Ok(outcome) => executions.push(outcome),
                Err(violation) => {
                    return Err(Failure {
                        violation,
                        timeline: self.record.timeline(),
                    });
                }
            }
        }
        let virtual_time = self.clock.monotonic().since(Monotonic::START);
        sleep(SETTLE).await;
        let (events, digest) = self.record.digest();
        let last = executions
            .last()
            .map(|execution| self.store.usage(&execution.id));
        Ok(Outcome {
            executions,
            virtual_time,
            events,
            digest,
            peaks: self.record.peaks(),
            traffic: self.traffic.counts(),
            answers: self.record.answers(),
            reports: last.unwrap_or_default(),
            scrape: self.scrape(),
            faults: self.faults.tally(),
        })
    }

    fn scrape(&self) -> Scrape {
        let text = self.metrics.render();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let own = |line: &&str| !line.contains("executionID=\"");
        let forecast = self.metrics.forecast(self.nodes as usize);
        Scrape {
            series: series.clone().count() as u64,
            bytes: text.len() as u64,
            series_in_time: series.filter(own).count() as u64 + forecast.series(),
        }
    }

    /// Waits for the end of the execution that is due then, and checks that it ended as it should have, before the next
    /// one.
    async fn run_execution(
        &mut self,
        due: Timestamp,
        next: Option<&Timestamp>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionOutcome, Violation> {
        let id = self.scenario.id(due);
        sleep(between(self.clock.wall(), due)).await;
        self.faults.resume();
        let bound = next.map_or(self.bound, |next| between(due, *next));
        match timeout(bound, self.await_end(&id, progress)).await {
            Ok(summary) => self.check_end(id, &summary?),
            Err(_) => Err(format!(
                "execution {id} has not ended within {} s",
                bound.as_secs_f64()
            )),
        }
    }

    async fn await_end(
        &mut self,
        id: &ExecutionId,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionSummary, Violation> {
        let healed = Instant::now() + FAULTY_TIME;
        loop {
            if Instant::now() >= healed {
                self.faults.heal();
            }
            tokio::select! {
                biased;
                () = self.record.alarm() => {}
                Some(ended) = self.running.join_next() => {
                    return Err(format!("a part of the world ended: {ended:?}"));
                }
                () = sleep(LOOK) => {}
            }
            if let Some(violation) = self.record.violation() {
                return Err(violation);
            }
            progress(Progress {
                ended: self.record.ended(),
                virtual_time: self.clock.monotonic().since(Monotonic::START),
            });
            // The document is as large as the cluster: it is read only when nothing runs, or nothing ever did.
            if self.record.seen(id, |seen| seen.running == 0) != Some(false)
                && let Some(bytes) = self.store.get(id, summary::FILE_NAME)
            {
                let summary: ExecutionSummary =
                    serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                if summary.end_time.is_some() {
                    return Ok(summary);
                }
            }
        }
    }

    /// What the controller says of the execution agrees with what the pods did, and what it keeps is bounded.
    fn check_end(
        &self,
        id: ExecutionId,
        summary: &ExecutionSummary,
    ) -> Result<ExecutionOutcome, Violation> {
        self.record.check_series()?;
        let kept = self.store.execution_count();
        let history = self.scenario.config.report_history;
        if kept > history.get() as usize {
            return Err(format!("{kept} executions are kept, of at most {history}"));
        }
        let refused = self.refused(summary)?;
        let count = |state| {
            summary
                .counts
                .get(&state)
                .map_or(0, |count| *count as usize)
        };
        let said = (count(NodeState::Succeeded), count(NodeState::Failed));
        let seen = self.record.seen(&id, |seen| (seen.succeeded, seen.failed));
        // None where every pod was refused.
        let seen = seen.unwrap_or_default();
        let nodes = summary.nodes.len();
        // The controller decides on a start that is too late by what its watch has told it, and a silent one told it
        // nothing.
        let unseen = summary.nodes.iter();
        let unseen = unseen.filter(|node| node.reason == Some(Reason::StartDeadline));
        let unseen = if self.faults.is_none() {
            0
        } else {
            unseen.count()
        };
        // A node that was refused has no pod; or some that came into being after they had been given up.
        let agrees = |seen: (usize, usize)| {
            let late = (seen.0 + seen.1 + refused).checked_sub(nodes);
            let more = seen.0.checked_sub(said.0);
            late.is_some_and(|late| late == 0 || refused > 0)
                && more.is_some_and(|more| more == 0 || refused + unseen > 0)
        };
        if !agrees(seen) || said.0 + said.1 != nodes {
            let failed = summary.nodes.iter().filter(|node| node.reason.is_some());
            let failed: Vec<_> = failed
                .map(|node| (&*node.node, node.reason, &*node.message))
                .collect();
            return Err(format!(
                "execution {id} of {nodes} nodes says {said:?} succeeded and failed, of its pods it was {seen:?}; failed: {failed:?}"
            ));
        }
        self.faults.converged(faulty_cluster::CLIENT);
        Ok(ExecutionOutcome {
            id,
            makespan: Duration::from_millis(summary.makespan_ms.unwrap_or_default()),
            succeeded: said.0,
            failed: said.1,
        })
    }
}

impl World {
    /// How many nodes failed because a fault refused their pods: the messages show that the controller took notice.
    fn refused(&self, summary: &ExecutionSummary) -> Result<usize, Violation> {
        let mut count = 0;
        for node in &summary.nodes {
            if node.reason != Some(Reason::Refused) {
                continue;
            }
            let Some(kind) = faults::refusal_in(&node.message) else {
                let (node, message) = (&node.node, &node.message);
                return Err(format!(
                    "the API server refuses the pod of {node}: {message}; change the pod template"
                ));
            };
            self.faults.told(faulty_cluster::CLIENT, kind);
            count += 1;
        }
        Ok(count)
    }
}

type WorldPorts = PortSet<FaultyCluster, MemoryReportStore, SimClock, SimEntropy>;

/// The production controller and the way to its callback.
fn controller(
    scenario: &Scenario,
    ports: WorldPorts,
    metrics: Arc<Metrics>,
) -> (InProcess, Controller<WorldPorts>) {
    let config = scenario.config.clone();
    let limits = config.callback_body_limit;
    let (reports, entropy) = (ports.reports.clone(), ports.entropy.clone());
    let settings = Settings {
        template: scenario.template.clone(),
        namespace: NAMESPACE.to_owned(),
        instance: format!("{}-0", config.name),
        pod_ip: Some(POD_IP.to_owned()),
        dev_mode: false,
        config_map: None,
        tokens: None,
        owner: None,
        variables: ExtensionVariables::default(),
        config,
    };
    let (controller, handle) = Controller::new(settings, ports, metrics);
    (
        InProcess(http::callback::service(handle, reports, entropy, limits)),
        controller,
    )
}
