//! A world: an API server, a fleet and the production controller, on one thread under virtual time.
//!
//! Everything that decides comes from the options: two runs of them give the same event log, line by line. The controller is
//! the one that ships, over its ports; its callback Router is called without sockets. Every change of a pod and every answer
//! of the callback is logged and checked before the run goes on to the next.

mod record;
mod scenario;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use controller::config::pod_template::PodTemplate;
use controller::config::{self, EnvironmentDefaults};
use controller::core::ids::ExecutionId;
use controller::core::state::NodeState;
use controller::core::summary::{self, ExecutionSummary};
use controller::http;
use controller::metrics::Metrics;
use controller::ports::clock::Clock as _;
use controller::runtime::controller::Controller;
use controller::runtime::{PortSet, Settings};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::record::{Observed, Record, Recorded};
pub use self::scenario::END_BOUND;
use self::scenario::{NAME, NAMESPACE, POD_TEMPLATE, REPORT_HISTORY, SERIES_PER_NODE};
use crate::apiserver::{ApiServer, expire_events};
use crate::callback::{InProcess, Persistence};
use crate::checker::Violation;
use crate::clock::SimClock;
use crate::cluster::SimCluster;
use crate::fleet::{Fleet, FleetOptions, create_nodes};
use crate::kubelet::Lifecycle;
use crate::report_store::MemoryReportStore;
use crate::rng::{Seed, SimEntropy};
use crate::state::{self, State};

/// How often the end of an execution is looked for, in virtual time.
const LOOK: Duration = Duration::from_millis(250);

/// What a world is made of. The same options give the same run.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// How many nodes there are.
    pub nodes: u32,
    /// Slots of the controller's pool.
    pub pool: NonZeroU32,
    /// Hourly executions to run.
    pub executions: u32,
    /// How the pods live.
    pub lifecycle: Lifecycle,
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
/// Where the runtime cannot be built, or the world's own configuration is wrong.
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
    executions: u32,
    clock: SimClock,
    store: MemoryReportStore,
    record: Record,
    running: JoinSet<()>,
}

impl World {
    fn new(options: &WorldOptions) -> Self {
        let seed = Seed::of_run(options.seed);
        let clock = SimClock::starting_at(scenario::start());
        let state = State::new(&state::Options {
            seed: options.seed,
            now: clock.wall(),
            ..state::Options::default()
        });
        let api = ApiServer::new(state, clock.of_api_server());
        create_nodes(&api, options.nodes).expect("an empty cluster takes the nodes");
        let config_yaml = scenario::config_yaml(options);
        scenario::create_objects(&api, &config_yaml);

        let config = config::parse(&config_yaml, &EnvironmentDefaults::default());
        let (config, _warnings) = config.expect("the world's own configuration is valid");
        let metrics = Arc::new(Metrics::new(&config));
        let store = MemoryReportStore::new(clock.clone());
        let observed = Observed {
            clock: clock.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            series_bound: options.nodes as usize * SERIES_PER_NODE * REPORT_HISTORY as usize,
        };
        let record = Record::new(options.pool, observed);
        let ports = PortSet {
            cluster: SimCluster::new(api.clone(), NAMESPACE, NAME),
            reports: store.clone(),
            clock: clock.clone(),
            entropy: SimEntropy::new(seed.stream("controller")),
        };

        let mut running = JoinSet::new();
        // The record first: of what happens at one moment it hears before anybody acts on it.
        running.spawn(record.clone().follow_pods(api.clone()));
        let (callback, controller) = controller(config, ports, metrics);
        let transport = Recorded {
            inner: callback,
            record: record.clone(),
        };
        let fleet_options = FleetOptions {
            nodes: options.nodes,
            lifecycle: options.lifecycle.clone(),
            persistence: Persistence::Repeat,
            seed,
        };
        running.spawn(expire_events(api.clone()));
        running.spawn(Fleet::new(api, transport, fleet_options).run());
        running.spawn(controller.run());
        Self {
            executions: options.executions,
            clock,
            store,
            record,
            running,
        }
    }

    async fn run(mut self, mut progress: impl FnMut(Progress)) -> Result<Outcome, Failure> {
        let mut executions = Vec::new();
        for number in 0..self.executions {
            match self.run_execution(number, &mut progress).await {
                Ok(outcome) => executions.push(outcome),
                Err(violation) => {
                    return Err(Failure {
                        violation,
                        timeline: self.record.timeline(),
                    });
                }
            }
        }
        let (events, digest) = self.record.digest();
        Ok(Outcome {
            executions,
            virtual_time: self.clock.monotonic().0,
            events,
            digest,
        })
    }

    /// Waits for the end of an execution, and checks that it ended as it should have.
    async fn run_execution(
        &mut self,
        number: u32,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionOutcome, Violation> {
        let due = scenario::tick(number);
        let id = ExecutionId::of_minute(due);
        let wait = due.duration_since(self.clock.wall());
        sleep(wait.try_into().unwrap_or_default()).await;
        match timeout(END_BOUND, self.await_end(&id, progress)).await {
            Ok(summary) => self.check_end(id, &summary?),
            Err(_) => Err(format!(
                "execution {id} has not ended within {} s",
                END_BOUND.as_secs()
            )),
        }
    }

    async fn await_end(
        &mut self,
        id: &ExecutionId,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionSummary, Violation> {
        loop {
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
                virtual_time: self.clock.monotonic().0,
            });
            // The document is as large as the cluster: it is read only when nothing runs any more.
            if self.record.seen(id, |seen| seen.running == 0) == Some(true)
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
        if kept > REPORT_HISTORY as usize {
            return Err(format!(
                "{kept} executions are kept, of at most {REPORT_HISTORY}"
            ));
        }
        let count = |state| {
            summary
                .counts
                .get(&state)
                .map_or(0, |count| *count as usize)
        };
        let said = (count(NodeState::Succeeded), count(NodeState::Failed));
        let seen = self.record.seen(&id, |seen| (seen.succeeded, seen.failed));
        let nodes = summary.nodes.len();
        if seen != Some(said) || said.0 + said.1 != nodes {
            return Err(format!(
                "execution {id} of {nodes} nodes says {said:?} succeeded and failed, of its pods it was {seen:?}"
            ));
        }
        Ok(ExecutionOutcome {
            id,
            makespan: Duration::from_millis(summary.makespan_ms.unwrap_or_default()),
            succeeded: said.0,
            failed: said.1,
        })
    }
}

type WorldPorts = PortSet<SimCluster, MemoryReportStore, SimClock, SimEntropy>;

/// The production controller and the way to its callback.
fn controller(
    config: config::Config,
    ports: WorldPorts,
    metrics: Arc<Metrics>,
) -> (InProcess, Controller<WorldPorts>) {
    let limits = config.callback_body_limit;
    let (reports, entropy) = (ports.reports.clone(), ports.entropy.clone());
    let settings = Settings {
        template: PodTemplate::parse(POD_TEMPLATE).expect("the world's own template is valid"),
        namespace: NAMESPACE.to_owned(),
        instance: format!("{NAME}-0"),
        pod_ip: Some("10.128.0.1".to_owned()),
        dev_mode: false,
        owner: None,
        config,
    };
    let (controller, handle) = Controller::new(settings, ports, metrics);
    (
        InProcess(http::callback::router(handle, reports, entropy, limits)),
        controller,
    )
}
