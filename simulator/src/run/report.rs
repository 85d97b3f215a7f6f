//! The figures of a run, for people and programs alike. Everything but [`Cost`] follows from the options.

use std::time::Duration;

use serde::Serialize;

use super::{RunOptions, smallest_pool};
use crate::report_store::Usage;
use crate::world::{ExecutionOutcome, Outcome, Scenario};

/// The version of this document's shape: raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// What is printed of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) schema_version: u32,
    /// The command that repeats the run.
    pub(super) command: String,
    pub(super) nodes: u32,
    pub(super) pool: u32,
    pub(super) pod_seconds_min: f64,
    pub(super) pod_seconds_max: f64,
    pub(super) seed: u64,
    pub(super) executions: Vec<ExecutionFigures>,
    pub(super) makespan: Makespan,
    pub(super) window: Window,
    pub(super) job_pods: JobPods,
    pub(super) api_requests: Vec<ApiRequests>,
    /// Changes of pods that the controller's watch was told.
    pub(super) watch_events: u64,
    pub(super) callbacks: Vec<Callbacks>,
    pub(super) reports: Reports,
    pub(super) metrics: Metrics,
    pub(super) virtual_seconds: f64,
    /// Lines of the event log.
    pub(super) events: u64,
    /// Of the event log: the same for the same options.
    pub(super) digest: String,
    /// What the run itself cost: differs from run to run.
    pub(super) cost: Cost,
}

/// One execution.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecutionFigures {
    id: String,
    makespan_seconds: f64,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
}

/// How long executions took.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "units come last")]
pub(super) struct Makespan {
    /// What no controller can beat: the rounds of the pool, each as long as a pod. An estimate by the mean where pods
    /// differ.
    pub(super) ideal_seconds: f64,
    pub(super) mean_seconds: f64,
    pub(super) longest_seconds: f64,
}

/// The time that an execution has.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Window {
    /// `--window`, else from one execution to the next.
    pub(super) seconds: f64,
    /// The smallest pool whose ideal makespan is below it; none where no pool can.
    pub(super) smallest_pool: Option<u32>,
}

/// Job pods at once.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobPods {
    /// Not ended, at most.
    pub(super) peak: usize,
    /// In the API server, ended ones included, at most.
    pub(super) stored_peak: usize,
}

/// Requests of the controller to the API server, of one kind.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiRequests {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) requests: u64,
}

/// Requests of job pods to the controller's callback, of one kind.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Callbacks {
    pub(super) kind: &'static str,
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

/// What is on disk.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reports {
    /// Of the last execution.
    pub(super) execution: DiskUsage,
    /// `reportHistory`: executions kept.
    pub(super) history: u32,
    /// Of as many executions like the last.
    pub(super) all: DiskUsage,
}

/// What files take.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiskUsage {
    pub(super) files: u64,
    /// Their lengths together.
    pub(super) bytes: u64,
    /// In blocks of 4 KiB, as on most file systems.
    pub(super) allocated_bytes: u64,
}

/// What Prometheus reads.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metrics {
    /// Series at the end of the run.
    pub(super) series: u64,
    /// Bytes of a scrape at the end of the run.
    pub(super) scrape_bytes: u64,
    /// Series once as many executions have run as are exported.
    pub(super) series_in_time: u64,
    /// Bytes of a scrape then, estimated from those at the end of the run.
    pub(super) scrape_bytes_in_time: u64,
}

/// What the run cost.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cost {
    pub(super) wall_seconds: f64,
    /// The most memory that the process had; none where the system does not tell.
    pub(super) memory_peak_bytes: Option<u64>,
}

impl Cost {
    pub(super) fn of_this_process(wall: Duration) -> Self {
        let status = std::fs::read_to_string("/proc/self/status");
        Self {
            wall_seconds: wall.as_secs_f64(),
            memory_peak_bytes: status.ok().and_then(|status| peak_memory(&status)),
        }
    }
}

/// `VmHWM` of Linux's `/proc/self/status`, in bytes.
fn peak_memory(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

impl Report {
    pub(super) fn new(
        options: &RunOptions,
        scenario: &Scenario,
        outcome: &Outcome,
        cost: Cost,
    ) -> Self {
        let pods = options.pods.pod_seconds;
        let pool = scenario.pool(options.nodes);
        let window = options.window(scenario);
        Self {
            schema_version: SCHEMA_VERSION,
            command: options.to_string(),
            nodes: options.nodes,
            pool: pool.get(),
            pod_seconds_min: pods.least.as_secs_f64(),
            pod_seconds_max: pods.most.as_secs_f64(),
            seed: options.pods.seed,
            executions: outcome.executions.iter().map(execution).collect(),
            makespan: makespan(pods.ideal(options.nodes, pool), &outcome.executions),
            window: Window {
                seconds: window.as_secs_f64(),
                smallest_pool: smallest_pool(options, window).map(Into::into),
            },
            job_pods: JobPods {
                peak: outcome.peaks.running,
                stored_peak: outcome.peaks.stored,
            },
            api_requests: api_requests(outcome),
            watch_events: outcome.traffic.watch_events,
            callbacks: callbacks(outcome),
            reports: reports(scenario, outcome.reports),
            metrics: metrics(outcome),
            virtual_seconds: outcome.virtual_time.as_secs_f64(),
            events: outcome.events,
            digest: outcome.digest.clone(),
            cost,
        }
    }
}

fn execution(outcome: &ExecutionOutcome) -> ExecutionFigures {
    ExecutionFigures {
        id: outcome.id.to_string(),
        makespan_seconds: outcome.makespan.as_secs_f64(),
        succeeded: outcome.succeeded,
        failed: outcome.failed,
    }
}

fn makespan(ideal: Duration, executions: &[ExecutionOutcome]) -> Makespan {
    let all = executions.iter().map(|execution| execution.makespan);
    let count = u32::try_from(executions.len()).unwrap_or(u32::MAX).max(1);
    Makespan {
        ideal_seconds: ideal.as_secs_f64(),
        mean_seconds: all.clone().sum::<Duration>().as_secs_f64() / f64::from(count),
        longest_seconds: all.max().unwrap_or_default().as_secs_f64(),
    }
}

fn api_requests(outcome: &Outcome) -> Vec<ApiRequests> {
    let requests = outcome.traffic.requests.iter();
    let figures = requests.map(|(request, times)| ApiRequests {
        verb: request.verb,
        resource: request.resource,
        requests: *times,
    });
    figures.collect()
}

fn callbacks(outcome: &Outcome) -> Vec<Callbacks> {
    let answers = outcome.answers.iter();
    let figures = answers.map(|(kind, answers)| Callbacks {
        kind,
        accepted: answers.accepted,
        refused: answers.refused,
    });
    figures.collect()
}

fn reports(scenario: &Scenario, last: Usage) -> Reports {
    let history = scenario.config().report_history.get();
    let times = |times: u32| DiskUsage {
        files: last.files * u64::from(times),
        bytes: last.bytes * u64::from(times),
        allocated_bytes: last.allocated_bytes * u64::from(times),
    };
    Reports {
        execution: times(1),
        history,
        all: times(history),
    }
}

fn metrics(outcome: &Outcome) -> Metrics {
    let scrape = outcome.scrape;
    let bytes = u128::from(scrape.bytes) * u128::from(scrape.series_in_time);
    let in_time = bytes / u128::from(scrape.series.max(1));
    Metrics {
        series: scrape.series,
        scrape_bytes: scrape.bytes,
        series_in_time: scrape.series_in_time,
        scrape_bytes_in_time: u64::try_from(in_time).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_from_what_linux_says() {
        let status = "Name:\tsimulator\nVmPeak:\t  9 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(peak_memory(status), Some(1234 * 1024));
        assert_eq!(peak_memory("Name:\tsimulator\n"), None);
    }
}
