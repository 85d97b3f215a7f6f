//! The controller's own metrics, `batch_job_controller_*`: base units, bounded label values.

mod relay;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::{AtomicU64, GenericCounter};
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use self::relay::RelayMetrics;
pub use self::relay::{Forwarded, RelayedPort};
use crate::core::failure::ClusterError;
use crate::core::metric_families::OWN_PREFIX;
use crate::core::state::{ExecutionState, NodeState, Reason};

/// Buckets from one second to a day: a run over one node, and one that misses its daily window.
const EXECUTION_SECONDS_BUCKETS: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0,
];

/// Why a tick did not lead to an execution, or an execution did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// An execution was in progress and the policy is Forbid.
    Forbid,
    /// `suspend` is set.
    Suspended,
    /// It was missed by more than `startingDeadlineSeconds`.
    Missed,
    /// The nodes or pods could not be listed, for good.
    Refused,
    /// The controller began to shut down before the execution did.
    Stopped,
}

impl Decision {
    const ALL: [Self; 5] = [
        Self::Forbid,
        Self::Suspended,
        Self::Missed,
        Self::Refused,
        Self::Stopped,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "Forbid",
            Self::Suspended => "Suspended",
            Self::Missed => "Missed",
            Self::Refused => "Refused",
            Self::Stopped => "Stopped",
        }
    }
}

/// The controller's own metrics. Every series of a closed list begins at zero, so that rates work from the first event.
#[derive(Debug)]
pub struct OwnMetrics {
    registry: Registry,
    leader: IntGauge,
    schedule: ScheduleGauges,
    configuration_usable: IntGauge,
    execution_in_progress: IntGauge,
    nodes: IntGaugeVec,
    node_failures: IntCounterVec,
    executions: IntCounterVec,
    execution_seconds: Histogram,
    callback_requests: IntCounterVec,
    relay: RelayMetrics,
    api_requests: IntCounterVec,
    callbacks_without_token: IntCounter,
    report_bytes: IntCounter,
    report_store_usable: IntGauge,
    dropped_ticks: IntCounterVec,
    panics: IntCounter,
}

/// What an operator asks of the schedule.
#[derive(Debug)]
struct ScheduleGauges {
    suspended: IntGauge,
    next: Gauge,
    last: Gauge,
    last_success: Gauge,
}

impl ScheduleGauges {
    fn new(registry: &Registry) -> Self {
        Self {
            suspended: int_gauge(
                registry,
                "suspended",
                "1 while the schedule is suspended, else 0.",
            ),
            next: gauge(
                registry,
                "next_schedule_timestamp_seconds",
                "When the next execution is due; 0 where there is none within five years.",
            ),
            last: gauge(
                registry,
                "last_schedule_timestamp_seconds",
                "When the newest execution was due; 0 before the first.",
            ),
            last_success: gauge(
                registry,
                "last_success_timestamp_seconds",
                "When an execution last ended succeeded; 0 before the first.",
            ),
        }
    }
}

impl OwnMetrics {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        build_info(&registry);
        let own = Self {
            leader: int_gauge(
                &registry,
                "leader",
                "1 while this process leads, 0 while it stands by.",
            ),
            schedule: ScheduleGauges::new(&registry),
            configuration_usable: int_gauge(
                &registry,
                "configuration_usable",
                "1 while the ConfigMap can be used, 0 while the last good one is used instead.",
            ),
            execution_in_progress: int_gauge(
                &registry,
                "execution_in_progress",
                "1 while an execution is in progress, else 0.",
            ),
            nodes: int_gauge_vec(
                &registry,
                "nodes",
                "Nodes of the newest execution in each state.",
                &["state"],
            ),
            node_failures: counter_vec(
                &registry,
                "node_failures_total",
                "Nodes that ended failed or lost, by reason.",
                &["reason"],
            ),
            executions: counter_vec(
                &registry,
                "executions_total",
                "Executions that ended, by state.",
                &["state"],
            ),
            execution_seconds: registered(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        name("execution_duration_seconds"),
                        "From an execution's begin to its end.",
                    )
                    .buckets(EXECUTION_SECONDS_BUCKETS.to_vec()),
                ),
            ),
            callback_requests: counter_vec(
                &registry,
                "callback_requests_total",
                "Requests to the callback API that were answered.",
                &["endpoint", "code"],
            ),
            relay: RelayMetrics::new(&registry),
            api_requests: counter_vec(
                &registry,
                "api_requests_total",
                "Calls to the Kubernetes API, by verb and outcome (ok, or the kind of failure).",
                &["verb", "code"],
            ),
            callbacks_without_token: counter(
                &registry,
                "callbacks_without_token_total",
                "Callbacks that were let in without a token (callbackAuth: permissive).",
            ),
            report_bytes: counter(
                &registry,
                "report_bytes_total",
                "Bytes of reports that were stored.",
            ),
            report_store_usable: int_gauge(
                &registry,
                "report_store_usable",
                "1 while the report directory can be written, else 0.",
            ),
            dropped_ticks: counter_vec(
                &registry,
                "decisions_total",
                "Decisions not to act, by decision and reason.",
                &["decision", "reason"],
            ),
            panics: counter(
                &registry,
                "request_panics_total",
                "Requests whose handler panicked: each is a defect.",
            ),
            registry,
        };
        own.report_store_usable.set(1);
        own.configuration_usable.set(1);
        own.zero();
        own
    }

    fn zero(&self) {
        for state in NodeState::ALL {
            self.nodes.with_label_values(&[state.as_str()]).set(0);
        }
        for state in ExecutionState::FINAL {
            self.executions
                .with_label_values(&[state.as_str()])
                .inc_by(0);
        }
        for reason in Reason::ALL {
            self.node_failures
                .with_label_values(&[reason.as_str()])
                .inc_by(0);
        }
        for decision in Decision::ALL {
            self.dropped_ticks
                .with_label_values(&["drop", decision.as_str()])
                .inc_by(0);
        }
    }

    /// Whether this process leads.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub(super) fn stop_leading(&self) {
        self.leader(false);
        self.execution_in_progress.set(0);
        self.next_schedule(None);
        for state in NodeState::ALL {
            self.nodes(state, 0);
        }
    }

    /// Whether the schedule is suspended.
    pub fn suspended(&self, suspended: bool) {
        self.schedule.suspended.set(i64::from(suspended));
    }

    /// Whether the ConfigMap can be used as it is.
    pub fn configuration_usable(&self, usable: bool) {
        self.configuration_usable.set(i64::from(usable));
    }

    /// An execution that was due at `scheduled` begins.
    pub fn execution_started(&self, scheduled: Timestamp) {
        self.execution_in_progress.set(1);
        self.schedule.last.set(seconds(scheduled));
    }

    /// An execution that was due does not begin after all.
    pub fn execution_not_started(&self, decision: Decision) {
        self.execution_in_progress.set(0);
        self.tick_dropped(decision);
    }

    /// An execution ended.
    pub fn execution_ended(&self, state: ExecutionState, makespan: Duration, now: Timestamp) {
        self.execution_in_progress.set(0);
        self.executions.with_label_values(&[state.as_str()]).inc();
        self.execution_seconds.observe(makespan.as_secs_f64());
        if state == ExecutionState::Succeeded {
            self.schedule.last_success.set(seconds(now));
        }
    }

    /// An execution was found on the volume after a start, which succeeded at that time, or did not.
    pub fn execution_found(&self, scheduled: Timestamp, succeeded: Option<Timestamp>) {
        let at_least = |gauge: &Gauge, time| gauge.set(gauge.get().max(seconds(time)));
        at_least(&self.schedule.last, scheduled);
        if let Some(succeeded) = succeeded {
            at_least(&self.schedule.last_success, succeeded);
        }
    }

    /// Nodes of the newest execution: `count` of them are in `state`.
    pub fn nodes(&self, state: NodeState, count: u32) {
        self.nodes
            .with_label_values(&[state.as_str()])
            .set(count.into());
    }

    /// A node ended failed or lost.
    pub fn node_failed(&self, reason: Reason) {
        self.node_failures
            .with_label_values(&[reason.as_str()])
            .inc();
    }

    /// When the next execution is due.
    pub fn next_schedule(&self, due: Option<Timestamp>) {
        self.schedule.next.set(due.map_or(0.0, seconds));
    }

    /// So many ticks passed while nobody led, or the process stood still.
    pub fn ticks_missed(&self, count: usize) {
        self.dropped_ticks
            .with_label_values(&["drop", Decision::Missed.as_str()])
            .inc_by(count as u64);
    }

    /// A due execution does not begin.
    pub fn tick_dropped(&self, decision: Decision) {
        self.dropped_ticks
            .with_label_values(&["drop", decision.as_str()])
            .inc();
    }

    /// A request to the callback API was answered. `endpoint` is `result`, `file`, `event` or `other`.
    pub fn callback_answered(&self, endpoint: &'static str, code: u16) {
        self.callback_requests
            .with_label_values(&[endpoint, &code.to_string()])
            .inc();
    }

    /// A callback was let in that showed no token.
    pub fn callback_without_token(&self) {
        self.callbacks_without_token.inc();
    }

    /// A call to the Kubernetes API ended.
    pub fn api_request<T>(&self, verb: &'static str, result: &Result<T, ClusterError>) {
        let code = result
            .as_ref()
            .err()
            .map_or("ok", |error| error.kind.category());
        self.api_requests.with_label_values(&[verb, code]).inc();
    }

    /// Bytes of a report are on disk.
    pub fn report_stored(&self, bytes: u64) {
        self.report_bytes.inc_by(bytes);
    }

    /// Whether the last use of the report directory went well.
    pub fn report_store_usable(&self, usable: bool) {
        self.report_store_usable.set(i64::from(usable));
    }

    /// A request's handler panicked.
    pub fn request_panicked(&self) {
        self.panics.inc();
    }

    pub(super) fn render(&self) -> String {
        let mut text = Vec::new();
        // Encoding into memory fails only for a family without metrics, and those are left out by `gather`.
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        String::from_utf8(text).unwrap_or_default()
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 stay below 2^53"
)]
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn name(suffix: &str) -> String {
    format!("{OWN_PREFIX}_{suffix}")
}

/// Registers a metric of a fixed, valid, unique name: a failure is a mistake in this file that every test shows.
fn registered<M>(registry: &Registry, metric: prometheus::Result<M>) -> M
where
    M: prometheus::core::Collector + Clone + 'static,
{
    let metric = metric.expect("names and labels of this file are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("names of this file are unique");
    metric
}

fn build_info(registry: &Registry) {
    let info = gauge_vec(
        registry,
        "build_info",
        "The version that runs; the value is always 1.",
        &["version"],
    );
    info.with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1.0);
}

fn opts(suffix: &str, help: &str) -> Opts {
    Opts::new(name(suffix), help)
}

fn gauge(registry: &Registry, suffix: &str, help: &str) -> Gauge {
    registered(registry, Gauge::with_opts(opts(suffix, help)))
}

fn gauge_vec(registry: &Registry, suffix: &str, help: &str, labels: &[&str]) -> GaugeVec {
    registered(registry, GaugeVec::new(opts(suffix, help), labels))
}

fn int_gauge(registry: &Registry, suffix: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::with_opts(opts(suffix, help)))
}

fn int_gauge_vec(registry: &Registry, suffix: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(opts(suffix, help), labels))
}

fn counter(registry: &Registry, suffix: &str, help: &str) -> GenericCounter<AtomicU64> {
    registered(registry, IntCounter::with_opts(opts(suffix, help)))
}

fn counter_vec(registry: &Registry, suffix: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(opts(suffix, help), labels))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::metric_families;

    #[test]
    fn every_family_of_the_registry_is_refused_as_a_gauge() {
        let own = OwnMetrics::new();
        own.callback_answered("result", 200);
        own.api_request("list_nodes", &Ok(()));
        let text = own.render();
        let families: BTreeSet<&str> = (text.lines())
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        let known: Vec<String> = metric_families::OWN
            .iter()
            .map(|suffix| name(suffix))
            .collect();
        assert_eq!(families, known.iter().map(String::as_str).collect());
    }
}
