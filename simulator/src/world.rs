//! A world: an API server, a fleet and the production controller, on one thread under virtual time.
//!
//! Everything that decides comes from the options: two runs of them give the same event log, line by line. The controller is
//! the one that ships, over its ports; its callback Router is called without sockets. Every change of a pod and every answer
//! of the callback is logged and checked before the run goes on to the next.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller::config::pod_template::PodTemplate;
use controller::config::{self, EnvironmentDefaults};
use controller::core::ids::ExecutionId;
use controller::core::summary::{self, ExecutionSummary};
use controller::core::views::PodPhase;
use controller::http;
use controller::metrics::Metrics;
use controller::ports::clock::Clock as _;
use controller::runtime::controller::Controller;
use controller::runtime::{PortSet, Settings};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::apiserver::ApiServer;
use crate::callback::{Attempt, InProcess, Persistence, Transport};
use crate::checker::{Checker, JobPod, Violation};
use crate::clock::SimClock;
use crate::cluster::SimCluster;
use crate::event_log::EventLog;
use crate::fleet::{Fleet, FleetOptions, create_nodes};
use crate::job::{CONFIG_KEY, EXECUTION_LABEL, FILE_NAME, OWNER_LABEL, Post, PostKind};
use crate::kubelet::Lifecycle;
use crate::report_store::MemoryReportStore;
use crate::rng::{Seed, SimEntropy};
use crate::state::{
    self, Selector, State, Stored, Target, WatchEvent, WatchFrom, WriteOptions, resource,
};

/// The controller's namespace and name in every world.
const NAMESPACE: &str = "batch";
const NAME: &str = "sim";

/// Executions kept by the controller.
const REPORT_HISTORY: u32 = 3;

/// Gauges of the controller, each with one sample per node.
const GAUGES: usize = 3;

/// Series of each node and execution: those of the gauges, `processing` and `duration`.
const SERIES_PER_NODE: usize = GAUGES + 2;

/// One execution an hour.
const PERIOD: Duration = Duration::from_secs(3600);

/// Events taken from the watch under one lock of the state.
const EVENTS_AT_ONCE: usize = 256;

/// The series are counted after this many events, and at the end of each execution: counting costs a look at every node.
const EVENTS_PER_SERIES_COUNT: u64 = 4096;

const POD_TEMPLATE: &str = "\
kind: Pod
apiVersion: v1
spec:
  restartPolicy: Never
  containers:
    - name: job
      image: registry.example.com/job:1.0.0
      command: [/opt/job/run.sh]
      resources:
        requests: {cpu: 50m, memory: 32Mi}
        limits: {memory: 64Mi}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
";

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
    /// Its summary, without the nodes.
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

/// Log and checker: whoever sees an event tells both.
#[derive(Debug)]
struct Record {
    clock: SimClock,
    log: EventLog,
    checker: Checker,
    store: MemoryReportStore,
    metrics: Arc<Metrics>,
    series_bound: usize,
    ended: u64,
    violation: Option<Violation>,
}

impl Record {
    fn append(&mut self, what: fmt::Arguments<'_>) {
        self.log.append(self.clock.monotonic().0, what);
    }

    fn blame(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.append(format_args!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    /// A pod was stored or removed.
    fn pod(&mut self, event: &WatchEvent, pod: &Stored) {
        let metadata = &pod.metadata;
        let phase = pod.text("/status/phase");
        self.append(format_args!(
            "pod {} {} {phase}",
            metadata.name,
            event.name()
        ));
        let Some(execution) = metadata.labels.get(EXECUTION_LABEL) else {
            return;
        };
        let job_pod = JobPod {
            uid: &metadata.uid,
            name: &metadata.name,
            node: pod.text("/spec/nodeName"),
            execution,
            phase: PodPhase::parse(Some(phase)),
        };
        let checked = if matches!(event, WatchEvent::Deleted(_)) {
            self.checker.pod_removed(&job_pod)
        } else {
            self.ended += u64::from(matches!(phase, "Succeeded" | "Failed"));
            self.checker.pod_stored(&job_pod)
        };
        self.blame(checked);
        self.check_directory_and_series();
    }

    /// The callback answered a post.
    fn answered(&mut self, post: &Post, attempt: &Attempt) {
        let path = post.url.split_once("/report/").map_or("", |(_, path)| path);
        self.append(format_args!("post {path} {attempt}"));
        if attempt.succeeded() {
            let stored = invariant_what_is_acknowledged_is_stored(&self.store, path, post);
            self.blame(stored);
        }
        self.check_directory_and_series();
    }

    fn check_directory_and_series(&mut self) {
        if let Some(violation) = self.store.take_violation() {
            self.blame(Err(format!(
                "a report would leave its directory: {violation}"
            )));
        }
        if self.log.lines().is_multiple_of(EVENTS_PER_SERIES_COUNT) {
            let bounded = self.invariant_series_are_bounded();
            self.blame(bounded);
        }
    }

    fn invariant_series_are_bounded(&self) -> Result<(), Violation> {
        let (count, bound) = (self.metrics.series_count(), self.series_bound);
        if count <= bound {
            Ok(())
        } else {
            Err(format!("{count} series, of at most {bound}"))
        }
    }
}

/// What a job pod was told is stored is in the store, as it was sent.
fn invariant_what_is_acknowledged_is_stored(
    store: &MemoryReportStore,
    path: &str,
    post: &Post,
) -> Result<(), Violation> {
    let mut segments = path.split('/');
    let (Some(node), Some(execution)) = (segments.next(), segments.next()) else {
        return Err(format!("a callback URL without a pair: {}", post.url));
    };
    let name = match post.kind {
        PostKind::Result => format!("{node}.json"),
        PostKind::File => format!("{node}-{FILE_NAME}"),
        PostKind::Event => return Ok(()),
    };
    let execution = ExecutionId::parse(execution);
    let stored = execution.and_then(|id| store.get(&id, &name));
    if stored.as_ref() == Some(&post.body) {
        Ok(())
    } else {
        Err(format!(
            "{path} was acknowledged, and {name} is not stored as it was sent"
        ))
    }
}

type Shared = Arc<Mutex<Record>>;

fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A way to the callback that records each answer.
#[derive(Debug, Clone)]
struct Recorded {
    inner: InProcess,
    record: Shared,
    alarm: Arc<Notify>,
}

impl Transport for Recorded {
    async fn attempt(&self, post: &Post, namespace: &str) -> Attempt {
        let attempt = self.inner.attempt(post, namespace).await;
        let mut record = lock(&self.record);
        record.answered(post, &attempt);
        if record.violation.is_some() {
            self.alarm.notify_one();
        }
        attempt
    }
}

/// Tells the record of every change of a pod, until dropped.
async fn record_pods(api: ApiServer, record: Shared, alarm: Arc<Notify>) {
    let mut changes = api.subscribe();
    let mut cursor =
        api.read(|state| state.watch(&resource::PODS, None, Selector::default(), WatchFrom::Now));
    loop {
        let events = api.read(|state| state.poll(&mut cursor, EVENTS_AT_ONCE));
        if events.is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let mut record = lock(&record);
        for event in &events {
            match event.object() {
                Some(pod) => record.pod(event, pod),
                None => record.blame(Err(format!("the watch of the record broke: {event:?}"))),
            }
        }
        if record.violation.is_some() {
            alarm.notify_one();
        }
    }
}

struct World {
    executions: u32,
    bound: Duration,
    clock: SimClock,
    store: MemoryReportStore,
    record: Shared,
    alarm: Arc<Notify>,
    parts: JoinSet<()>,
}

impl World {
    fn new(options: &WorldOptions) -> Self {
        let seed = Seed::of_run(options.seed);
        let clock = SimClock::starting_at(start());
        let state = State::new(&state::Options {
            seed: options.seed,
            now: clock.wall(),
            ..state::Options::default()
        });
        let api = ApiServer::new(state, clock.of_api_server());
        create_nodes(&api, options.nodes).expect("the nodes of an empty cluster can be created");
        let config_yaml = config_yaml(options);
        create_namespace_and_config(&api, &config_yaml);

        let store = MemoryReportStore::new(clock.clone());
        let config = config::parse(&config_yaml, &EnvironmentDefaults::default());
        let (config, _warnings) = config.expect("the world's own configuration is valid");
        let metrics = Arc::new(Metrics::new(&config));
        let nodes = options.nodes as usize;
        let record = Arc::new(Mutex::new(Record {
            clock: clock.clone(),
            log: EventLog::default(),
            checker: Checker::new(options.pool),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            series_bound: nodes * SERIES_PER_NODE * REPORT_HISTORY as usize,
            ended: 0,
            violation: None,
        }));
        let alarm = Arc::new(Notify::new());

        let ports = PortSet {
            cluster: SimCluster::new(api.clone(), NAMESPACE, NAME),
            reports: store.clone(),
            clock: clock.clone(),
            entropy: SimEntropy::new(seed.stream("controller")),
        };
        let settings = Settings {
            template: PodTemplate::parse(POD_TEMPLATE).expect("the world's own template is valid"),
            namespace: NAMESPACE.to_owned(),
            instance: format!("{NAME}-0"),
            pod_ip: Some("10.128.0.1".to_owned()),
            dev_mode: false,
            owner: None,
            config,
        };
        let limits = settings.config.callback_body_limit.clone();
        let entropy = ports.entropy.clone();
        let (controller, handle) = Controller::new(settings, ports, metrics);
        let router = http::callback::router(handle, store.clone(), entropy, limits);
        let transport = Recorded {
            inner: InProcess(router),
            record: Arc::clone(&record),
            alarm: Arc::clone(&alarm),
        };
        let fleet_options = FleetOptions {
            nodes: options.nodes,
            lifecycle: options.lifecycle.clone(),
            persistence: Persistence::Repeat,
            seed,
        };
        let fleet = Fleet::new(api.clone(), transport, fleet_options);
        let mut parts = JoinSet::new();
        // The record first: of what happens at one moment it hears before anybody acts on it.
        parts.spawn(record_pods(api, Arc::clone(&record), Arc::clone(&alarm)));
        parts.spawn(fleet.run());
        parts.spawn(controller.run());
        Self {
            executions: options.executions,
            bound: PERIOD - Duration::from_secs(60),
            clock,
            store,
            record,
            alarm,
            parts,
        }
    }

    async fn run(mut self, mut progress: impl FnMut(Progress)) -> Result<Outcome, Failure> {
        let mut outcomes = Vec::new();
        for number in 0..self.executions {
            let due = first_tick()
                + SignedDuration::try_from(PERIOD * number).unwrap_or(SignedDuration::ZERO);
            let outcome = self.run_execution(due, &mut progress).await;
            outcomes.push(outcome.map_err(|violation| self.failure(violation))?);
        }
        let record = lock(&self.record);
        Ok(Outcome {
            executions: outcomes,
            virtual_time: self.clock.monotonic().0,
            events: record.log.lines(),
            digest: record.log.digest(),
        })
    }

    /// Waits for the end of the execution that is due, and checks that it ended as it should have.
    async fn run_execution(
        &mut self,
        due: Timestamp,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionOutcome, Violation> {
        let id = ExecutionId::of_minute(due);
        let wait = due.duration_since(self.clock.wall());
        sleep(wait.try_into().unwrap_or_default()).await;
        let bound = self.bound;
        let summary = timeout(bound, self.await_end(&id, progress)).await;
        let summary = summary.unwrap_or_else(|_| {
            Err(format!(
                "execution {id} has not ended within {} s",
                bound.as_secs()
            ))
        })?;
        self.check_end(&id, &summary)
    }

    async fn await_end(
        &mut self,
        id: &ExecutionId,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ExecutionSummary, Violation> {
        loop {
            let look = Duration::from_millis(250);
            tokio::select! {
                biased;
                () = self.alarm.notified() => {}
                Some(part) = self.parts.join_next() => {
                    return Err(format!("a part of the world ended: {part:?}"));
                }
                () = sleep(look) => {}
            }
            let mut record = lock(&self.record);
            if let Some(violation) = record.violation.take() {
                return Err(violation);
            }
            progress(Progress {
                ended: record.ended,
                virtual_time: self.clock.monotonic().0,
            });
            // The document is as large as the cluster: it is read only when nothing runs any more.
            let nothing_runs = record
                .checker
                .seen(id)
                .is_some_and(|seen| seen.running == 0);
            if nothing_runs && let Some(bytes) = self.store.get(id, summary::FILE_NAME) {
                let summary: ExecutionSummary =
                    serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                if summary.end_time.is_some() {
                    return Ok(summary);
                }
            }
        }
    }

    /// What the controller says of the execution agrees with what the pods did.
    fn check_end(
        &self,
        id: &ExecutionId,
        summary: &ExecutionSummary,
    ) -> Result<ExecutionOutcome, Violation> {
        let record = lock(&self.record);
        record.invariant_series_are_bounded()?;
        let kept = self.store.execution_count();
        if kept > REPORT_HISTORY as usize {
            return Err(format!(
                "{kept} executions are kept, of at most {REPORT_HISTORY}"
            ));
        }
        let count = |state| summary.counts.get(&state).copied().unwrap_or(0) as usize;
        let succeeded = count(controller::core::state::NodeState::Succeeded);
        let failed = count(controller::core::state::NodeState::Failed);
        let seen = record.checker.seen(id);
        let (pods_succeeded, pods_failed) =
            seen.map_or((0, 0), |seen| (seen.succeeded, seen.failed));
        if (succeeded, failed) != (pods_succeeded, pods_failed)
            || succeeded + failed != summary.nodes.len()
        {
            let nodes = summary.nodes.len();
            return Err(format!(
                "execution {id} of {nodes} nodes says {succeeded} succeeded and {failed} failed, of the pods it was \
                 {pods_succeeded} and {pods_failed}"
            ));
        }
        Ok(ExecutionOutcome {
            id: id.clone(),
            makespan: Duration::from_millis(summary.makespan_ms.unwrap_or_default()),
            succeeded,
            failed,
        })
    }

    fn failure(&self, violation: Violation) -> Failure {
        let record = lock(&self.record);
        Failure {
            violation,
            timeline: record.log.tail().map(str::to_owned).collect(),
        }
    }
}

/// A little before the first tick, so that the first execution begins like all others.
fn start() -> Timestamp {
    first_tick() - SignedDuration::from_secs(10)
}

fn first_tick() -> Timestamp {
    const NEW_YEAR_2026: i64 = 1_767_225_600;
    Timestamp::from_second(NEW_YEAR_2026).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn config_yaml(options: &WorldOptions) -> String {
    json!({
        "name": NAME,
        "cronExpression": "0 * * * *",
        "podPoolSize": options.pool,
        "reportHistory": REPORT_HISTORY,
        "metrics": {
            "prefix": "sim",
            "gauges": {
                "checks": {"help": "Checks that were made.", "labels": []},
                "usage": {"help": "Share of a mount that is in use.", "labels": ["mount"]},
                "age": {"help": "Age of a certificate.", "labels": ["issuer", "subject"]},
            },
        },
    })
    .to_string()
}

fn create_namespace_and_config(api: &ApiServer, config_yaml: &str) {
    let now = api.now();
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let config = json!({
        "metadata": {"name": NAME, "labels": {OWNER_LABEL: NAME}},
        "data": {CONFIG_KEY: config_yaml, "pod-template.yaml": POD_TEMPLATE},
    });
    let objects = [
        (Target::cluster(&resource::NAMESPACES, ""), namespace),
        (Target::new(&resource::CONFIG_MAPS, NAMESPACE, ""), config),
    ];
    for (target, object) in objects {
        let created =
            api.with_state(|state| state.create(now, target, object, WriteOptions::default()));
        created.expect("an empty cluster takes a namespace and its ConfigMap");
    }
}
