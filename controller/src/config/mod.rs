//! The configuration, `config.yaml` of the ConfigMap: its types with units and defaults, parsed and validated.
//!
//! [`parse`] is the only way to one, so whoever holds a [`Config`] holds a valid one. All wrong keys are reported in
//! one go. `read.rs` goes through the keys, `values.rs` reads single values, `raw.rs` the text. No file, environment or
//! cluster is read here: what the environment has to say comes in as [`EnvironmentDefaults`].

pub mod pod_template;
mod raw;
mod read;
mod reload;
mod report;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::LocalObjectReference;

use crate::core::leadership::Timing;
use crate::core::schedule::Schedule;

pub use crate::core::eligibility::UntoleratedTaints;
pub use crate::core::node_expression::{NodeExpression, NodeOperator};

pub use raw::{ConfigError, ConfigErrors, Warning};
pub use read::{parse, report_directory};
pub use reload::take_over;
pub use report::{Report, check};

/// What the environment adds to the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentDefaults {
    /// `TZ`: the time zone where `timeZone` is not set.
    pub time_zone: Option<String>,
    /// `REPORT_DIRECTORY`: overrides `reportDirectory`. An empty path counts as not set.
    pub report_directory: Option<PathBuf>,
}

/// The whole configuration. The name in brackets is the key in `config.yaml` where it is not simply the camel case.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Config {
    /// The controller's name, a DNS label of at most 63 characters: prefix of job pods, value of the owner label.
    /// Required.
    pub name: String,
    /// Service account of job pods. None (the default, or an empty text): the template's own stays.
    pub job_service_account: Option<String>,
    /// Image pull secrets of job pods, also spelled `imagePullSecrets`. Empty (the default): the template's own stay.
    pub job_image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels that a node must have. Default: none.
    pub job_node_selector: BTreeMap<String, String>,
    /// Expressions on node labels, all of which must hold. Default: none.
    pub job_node_expressions: Vec<NodeExpression>,
    /// Whether nodes that are cordoned run job pods too. Default: false.
    pub run_on_unscheduled_nodes: bool,
    /// What becomes of nodes with a `NoSchedule` taint that the template does not tolerate. Default: run.
    pub untolerated_taints: UntoleratedTaints,
    /// The schedule as it was written. Required.
    pub cron_expression: String,
    /// The name of the zone that the schedule is evaluated in, unless it names its own. Default: `TZ`, else UTC.
    pub time_zone: String,
    /// `cron_expression` in `time_zone`, parsed.
    pub schedule: Schedule,
    /// Whether a start triggers an execution. Default: false.
    pub run_on_startup: bool,
    /// How long after a start that is. Default: 10 s.
    pub startup_delay: Duration,
    /// Job pods that have not ended, at most. Default: 10.
    pub pod_pool_size: PoolSize,
    /// Where reports are stored. Default: `/var/www`; `REPORT_DIRECTORY` overrides it.
    pub report_directory: PathBuf,
    /// Executions kept on disk and in metrics. Default: 30.
    pub report_history: NonZeroU32,
    /// The Service that job pods call back to. None (the default, or an empty text): this pod's address.
    pub callback_service_name: Option<String>,
    /// TCP port of the callback API, 1 to 65535. Default: 8090.
    pub callback_service_port: u16,
    /// TCP port of the probes, 1 to 65535. Default: 9152.
    pub health_probe_port: u16,
    /// TCP port of the report pages, 1 to 65535. Default: 8080.
    pub file_server_port: u16,
    /// What is exported, and where.
    pub metrics: Metrics,
    /// Whether every result is also exported with `executionID="latest"`. Default: false.
    pub latest_metrics_label: bool,
    /// Whether the logs of job pods are stored beside their reports. Default: false.
    pub save_pod_log: bool,
    /// A JSON object for extensions, handed to them as it is. Default: empty.
    pub custom: serde_json::Value,
    /// How the Lease is timed.
    pub leader_election: Timing,
    /// What a tick does that finds an execution in progress. Default: Forbid.
    pub concurrency_policy: ConcurrencyPolicy,
    /// Whether ticks are dropped. Default: false.
    pub suspend: bool,
    /// How late a missed tick is still run (`startingDeadlineSeconds`). None (the default): the newest one, however
    /// late.
    pub starting_deadline: Option<Duration>,
    /// From the creation of a job pod until it must run; more than zero. Default: 10 min.
    pub pod_start_deadline: Duration,
    /// From the start of a job pod until it must have ended; more than zero. Default: none.
    pub pod_run_deadline: Option<Duration>,
    /// How long a node may be away before its job pod counts as lost. Default: 5 min.
    pub node_lost_timeout: Duration,
    /// From the start of an execution until it must have ended; more than zero. Default: none.
    pub execution_deadline: Option<Duration>,
    /// Further attempts on a node whose job pod failed. Default: 0.
    pub retries: u32,
    /// How many nodes may fail before the execution has. Default: none, any number.
    pub max_failures: Option<MaxFailures>,
    /// What happens when `max_failures` is exceeded. Default: Continue.
    pub failure_policy: FailurePolicy,
    /// Ended job pods kept until the next execution. Default: 1000.
    pub ended_pods: u32,
    /// Whether callbacks need a token. Default: permissive.
    pub callback_auth: CallbackAuth,
    /// The largest bodies that the callback API takes.
    pub callback_body_limit: CallbackBodyLimit,
    /// What the reports of one execution may take on disk, in bytes (`reportQuota`), at least 1. Default: none, no
    /// limit.
    pub report_quota_bytes: Option<u64>,
    /// How long a callback waits for a leader. Default: 30 s.
    pub callback_hold_timeout: Duration,
    /// What a 200 promises about a report. Default: fsync.
    pub report_durability: ReportDurability,
}

/// A share of an execution's nodes, or a number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSize {
    /// So many job pods.
    Count(NonZeroU32),
    /// Percent of the execution's nodes, 1 to 100.
    Percent(u8),
}

impl PoolSize {
    /// The pool size of an execution over so many nodes: a share is rounded up and is at least 1.
    #[must_use]
    pub fn of(self, nodes: usize) -> NonZeroU32 {
        match self {
            PoolSize::Count(count) => count,
            PoolSize::Percent(percent) => {
                let nodes = u128::try_from(nodes).unwrap_or(u128::MAX >> 8);
                let share = (nodes * u128::from(percent)).div_ceil(100);
                NonZeroU32::new(u32::try_from(share).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
            }
        }
    }
}

/// As it is written in the configuration.
impl fmt::Display for PoolSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolSize::Count(count) => write!(f, "{count}"),
            PoolSize::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// How many nodes may fail: a number, or a share of the execution's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxFailures {
    /// So many nodes.
    Count(u32),
    /// Percent of the execution's nodes, 0 to 100.
    Percent(u8),
}

impl MaxFailures {
    /// The most failed nodes that an execution over so many nodes may have. A share is rounded down: with one node more
    /// the share itself is exceeded.
    #[must_use]
    pub fn of(self, nodes: usize) -> usize {
        match self {
            MaxFailures::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            MaxFailures::Percent(percent) => {
                nodes / 100 * usize::from(percent) + nodes % 100 * usize::from(percent) / 100
            }
        }
    }
}

/// What a tick does that finds an execution in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConcurrencyPolicy {
    /// The tick is dropped.
    #[default]
    Forbid,
    /// The execution in progress is cancelled.
    Replace,
}

/// What happens when more nodes have failed than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// The execution goes on, and fails at its end.
    #[default]
    Continue,
    /// No more job pods are started.
    FailFast,
}

/// Whether callbacks need a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallbackAuth {
    /// With and without; a wrong one is refused.
    #[default]
    Permissive,
    /// Not without.
    Required,
    /// Tokens are ignored.
    Off,
}

/// What a 200 promises about a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportDurability {
    /// It survives a power loss.
    #[default]
    Fsync,
    /// It survives the end of the process.
    None,
}

/// What is exported, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// TCP port, 1 to 65535. Default: 9153.
    pub port: u16,
    /// First part of each metric's name. Default: the controller's name with `-` as `_`.
    pub prefix: String,
    /// Executions whose series are exported, newest first; at most `reportHistory`, which is the default. 0, only
    /// with `latestMetricsLabel`: none but `latest`.
    pub history: u32,
    /// The gauges that results fill, by name. Default: none.
    pub gauges: BTreeMap<String, Gauge>,
}

/// One gauge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauge {
    /// Its help text. Default: empty.
    pub help: String,
    /// Its labels as configured, each once. `node` and `executionID` are there only if the user named them; the
    /// exported series has them once in any case.
    pub labels: Vec<String>,
}

/// The largest bodies that the callback API takes, in bytes, each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallbackBodyLimit {
    /// An uploaded file. Default: 1 GiB.
    pub file_bytes: u64,
    /// A result document. Default: 1 MiB.
    pub result_bytes: u64,
    /// An event. Default: 16 KiB.
    pub event_bytes: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_size_in_percent_is_rounded_up_and_at_least_one() {
        let of = |percent, nodes| PoolSize::Percent(percent).of(nodes).get();
        assert_eq!(of(10, 0), 1);
        assert_eq!(of(10, 1), 1);
        assert_eq!(of(10, 10), 1);
        assert_eq!(of(10, 11), 2);
        assert_eq!(of(33, 100), 33);
        assert_eq!(of(100, 5000), 5000);
        assert_eq!(PoolSize::Count(NonZeroU32::new(7).unwrap()).of(1).get(), 7);
    }

    #[test]
    fn max_failures_in_percent_is_exceeded_by_the_first_node_above_the_share() {
        let of = |percent, nodes| MaxFailures::Percent(percent).of(nodes);
        assert_eq!(of(10, 15), 1);
        assert_eq!(of(10, 20), 2);
        assert_eq!(of(0, 20), 0);
        assert_eq!(of(100, 7), 7);
        assert_eq!(of(29, 100), 29);
    }
}
