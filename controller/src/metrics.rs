//! What is exported: the job pods' gauges as compact state of our own, everything else through a `prometheus` registry.
//!
//! Per-node series are not registry objects: 5,000 nodes × 10 gauges × 30 executions are 1.5 million of them. They are
//! kept by execution and node, and written out as text (format 0.0.4) when scraped. Series of the executions in the
//! history are kept in memory; the newest `metrics.history` of them are exported. `executionID="latest"` is derived:
//! each node's newest kept execution that has series of it. Pruning an old one leaves it alone while a kept execution
//! has the node in its list.

pub mod own;
mod series;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::own::OwnMetrics;
use self::series::{Exposition, Scrape, SeriesStore, write_family_header, write_value};
use crate::config::Config;
use crate::core::ids::ExecutionId;
use crate::core::metric_families::VERSION;
use crate::core::report::{Results, SampleError};
use crate::core::series_forecast::SeriesForecast;
use crate::core::state::NodeState;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that this process exports. Cheap calls: a short lock, no I/O.
#[derive(Debug)]
pub struct Metrics {
    own: OwnMetrics,
    exported: Mutex<Exported>,
}

#[derive(Debug)]
struct Exported {
    info: String,
    series: SeriesStore,
}

impl Metrics {
    /// Metrics of a controller with this configuration; no series yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            own: OwnMetrics::new(),
            exported: Mutex::new(Exported {
                info: info_family(config),
                series: SeriesStore::new(Exposition::new(config)),
            }),
        }
    }

    /// Exports as this configuration says from now on. What results said of a gauge goes with it, or with its labels.
    pub fn configure(&self, config: &Config) {
        let mut exported = self.lock();
        exported.info = info_family(config);
        exported.series.configure(Exposition::new(config));
    }

    /// The controller's own metrics, `batch_job_controller_*`.
    #[must_use]
    pub fn own(&self) -> &OwnMetrics {
        &self.own
    }

    /// This process does not lead any more: only the leader exports series of nodes and says how an execution stands.
    pub fn stop_leading(&self) {
        self.lock().series.clear();
        self.own.stop_leading();
    }

    /// An execution began with these nodes in its list: `<prefix>_current_execution_id` and `<prefix>_pods`.
    pub fn execution_started<'a>(
        &self,
        id: &ExecutionId,
        nodes: impl IntoIterator<Item = &'a str>,
    ) {
        self.lock().series.execution_started(id, nodes);
    }

    /// The newest execution was found on the volume after a start: how it stands is said until the next one begins.
    pub fn newest_found(&self, id: &ExecutionId, counts: &BTreeMap<NodeState, u32>) {
        let of = |state: NodeState| counts.get(&state).copied().unwrap_or(0);
        let all: u32 = counts.values().sum();
        let nodes = usize::try_from(all - of(NodeState::Excluded)).unwrap_or(usize::MAX);
        if self.lock().series.newest_found(id, nodes) {
            for state in NodeState::ALL {
                self.own.nodes(state, of(state));
            }
        }
    }

    /// Whether all of a node's result can be exported, beside what there is of the node already.
    ///
    /// # Errors
    /// The first fault of a configured gauge; others are never exported.
    pub fn check_result(
        &self,
        id: &ExecutionId,
        node: &str,
        results: &Results,
    ) -> Result<(), SampleError> {
        self.lock().series.check(id, node, results)
    }

    /// A result of a node arrived: its samples are exported, and `<prefix>_processing` says that there is no error.
    pub fn result(&self, id: &ExecutionId, node: &str, results: &Results) {
        self.lock().series.result(id, node, results);
    }

    /// A result of a node was found on the volume after a start; one that arrived since counts more, and so does what
    /// is known of the node's end.
    pub fn result_restored(&self, id: &ExecutionId, node: &str, results: &Results) {
        self.lock().series.result_restored(id, node, results);
    }

    /// `<prefix>_processing` of a node: whether it ended with an error.
    pub fn processing(&self, id: &ExecutionId, node: &str, error: bool) {
        self.lock().series.processing(id, node, error);
    }

    /// `<prefix>_duration` of a node: from its pod's creation to its end.
    pub fn duration(&self, id: &ExecutionId, node: &str, duration: Duration) {
        self.lock().series.duration(id, node, duration);
    }

    /// Forgets the series of an execution that left the history.
    pub fn prune(&self, id: &ExecutionId) {
        self.lock().series.prune(id);
    }

    /// The series to expect of an execution over so many nodes: each as the widest node in memory, at least a sample of
    /// every gauge, in every execution that is exported.
    #[must_use]
    pub fn forecast(&self, nodes: usize) -> SeriesForecast {
        self.lock().series.forecast(nodes)
    }

    /// How many series the job pods' gauges have in memory.
    #[must_use]
    pub fn series_count(&self) -> usize {
        self.lock().series.series_count()
    }

    /// Everything in Prometheus' text format, to be served as [`CONTENT_TYPE`], in parts of some ten kilobytes: of very
    /// many series nobody has to wait for all.
    pub fn scrape(self: &Arc<Self>) -> impl Iterator<Item = String> + Send + use<> {
        let metrics = Arc::clone(self);
        let mut scrape = None;
        let mut has_more = true;
        std::iter::from_fn(move || {
            has_more.then(|| {
                let mut text = String::new();
                has_more = metrics.write_part(&mut scrape, &mut text);
                text
            })
        })
    }

    /// As [`Self::scrape`], at once.
    #[must_use]
    pub fn render(&self) -> String {
        let (mut text, mut scrape) = (String::new(), None);
        loop {
            let mut part = String::new();
            let has_more = self.write_part(&mut scrape, &mut part);
            text.push_str(&part);
            if !has_more {
                return text;
            }
        }
    }

    /// Writes the beginning, or goes on; whether there is more.
    fn write_part(&self, scrape: &mut Option<Scrape>, text: &mut String) -> bool {
        if scrape.is_none() {
            text.push_str(&self.own.render());
        }
        let exported = self.lock();
        let scrape = scrape.get_or_insert_with(|| {
            text.push_str(&exported.info);
            exported.series.begin_scrape(text)
        });
        exported.series.write_part(scrape, text)
    }

    fn lock(&self) -> MutexGuard<'_, Exported> {
        // A panic while it was held left at most one node's samples half written.
        self.exported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The original's information metric: dashboards join on it.
fn info_family(config: &Config) -> String {
    let mut text = String::new();
    write_family_header(
        &mut text,
        VERSION,
        "information about the batch-job-controller",
    );
    let labels = [
        ("cron", config.cron_expression.clone()),
        ("name", config.name.clone()),
        ("poolSize", config.pod_pool_size.to_string()),
        ("prefix", config.metrics.prefix.clone()),
        ("reportHistory", config.report_history.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    text.push_str(VERSION);
    for (index, (name, value)) in labels.iter().enumerate() {
        let _ = write!(text, "{}{name}=\"", if index == 0 { '{' } else { ',' });
        series::write_escaped(&mut text, value);
        text.push('"');
    }
    text.push_str("} ");
    write_value(&mut text, 1.0);
    text.push('\n');
    text
}
