//! What is exported: `metrics` with its gauges. Names follow Prometheus' data model.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde_json::{Map, Value};

use super::super::raw::{Findings, Section, join, shown};
use super::super::values;
use super::super::{Gauge, Metrics};
use super::read_port;
use crate::core::metric_families;

/// Names of metrics behind the prefix that the controller exports itself.
const RESERVED_GAUGES: [&str; 4] = ["processing", "duration", "pods", "current_execution_id"];

/// Keys outside of `metrics` that say which executions are exported.
pub(super) struct Kept {
    pub(super) report_history: NonZeroU32,
    pub(super) latest_metrics_label: bool,
}

pub(super) fn read(
    root: &mut Section<'_>,
    name: Option<&str>,
    kept: &Kept,
    findings: &Findings,
) -> Metrics {
    let mut section = root.section("metrics");
    let port = read_port(&mut section, "port", 9153);
    let prefix = read_prefix(&mut section, name, findings);
    let history = read_history(&mut section, kept, findings);
    let gauges = read_gauges(&mut section, prefix.as_deref(), findings);
    Metrics {
        port,
        prefix: prefix.unwrap_or_else(|| "_".to_owned()),
        history,
        gauges,
    }
}

/// None where it would derive from a name that is wrong.
fn read_prefix(
    metrics: &mut Section<'_>,
    name: Option<&str>,
    findings: &Findings,
) -> Option<String> {
    let wanted =
        "the beginning of a Prometheus metric name: letters, digits, _ and :, no digit first";
    let configured = metrics.optional("prefix", wanted, |value| {
        values::text(value).filter(|prefix| values::is_metric_name(prefix))
    });
    if let Some(prefix) = configured {
        return Some(prefix);
    }
    let path = metrics.path_of("prefix");
    let derived = name?.replace('-', "_");
    if !values::is_metric_name(&derived) && !findings.any_wrong(&[&path]) {
        let found = format!("nothing, and {derived:?} derived from name");
        findings.error(path, found, wanted);
    }
    Some(derived)
}

/// More series than there are executions kept cannot be.
fn read_history(metrics: &mut Section<'_>, kept: &Kept, findings: &Findings) -> u32 {
    let wanted = "an integer of at least 1 (0 only where latestMetricsLabel is true)";
    // A wrong latestMetricsLabel must not make this one wrong as well.
    let zero_allowed = kept.latest_metrics_label || findings.any_wrong(&["latestMetricsLabel"]);
    let executions = kept.report_history.get();
    let history = metrics
        .optional("history", wanted, |value| {
            values::count(value).filter(|count| *count > 0 || zero_allowed)
        })
        .unwrap_or(executions);
    if history > executions && !findings.any_wrong(&["reportHistory"]) {
        let message = format!(
            "{history} is more than reportHistory, so {executions} executions are exported"
        );
        findings.warn(metrics.path_of("history"), message);
    }
    history.min(executions)
}

fn read_gauges(
    metrics: &mut Section<'_>,
    prefix: Option<&str>,
    findings: &Findings,
) -> BTreeMap<String, Gauge> {
    let path = metrics.path_of("gauges");
    let entries = metrics.mapping("gauges", "a mapping of gauge names to {help, labels}");
    let mut gauges = BTreeMap::new();
    for (name, value) in entries {
        let gauge_path = join(&path, &name);
        check_gauge_name(&gauge_path, &name, prefix, findings);
        if let Some(gauge) = read_gauge(&gauge_path, value, findings) {
            gauges.insert(name, gauge);
        }
    }
    gauges
}

/// The prefix is checked on its own, so that a wrong one is not said once for each gauge.
fn check_gauge_name(path: &str, name: &str, prefix: Option<&str>, findings: &Findings) {
    let found = || format!("the name {}", shown(&Value::String(name.to_owned())));
    let full_name = format!("{}_{name}", prefix.unwrap_or("<prefix>"));
    if RESERVED_GAUGES.contains(&name) || metric_families::is_own(&full_name) {
        let wanted = format!("another name: {full_name} is exported by the controller itself");
        findings.error(path, found(), wanted);
    } else if name.is_empty() || !values::is_metric_name(&format!("_{name}")) {
        let wanted = "the end of a Prometheus metric name: letters, digits, _ and :";
        findings.error(path, found(), wanted);
    }
}

fn read_gauge(path: &str, value: Value, findings: &Findings) -> Option<Gauge> {
    let entries = match value {
        Value::Object(entries) => entries,
        Value::Null => Map::new(),
        other => {
            findings.wrong_value(path, &other, "a mapping {help, labels}");
            return None;
        }
    };
    let mut section = Section::new(path, entries, findings);
    let help = section
        .optional("help", "a text", values::text)
        .unwrap_or_default();
    Some(Gauge {
        help,
        labels: read_labels(&mut section, findings),
    })
}

fn read_labels(gauge: &mut Section<'_>, findings: &Findings) -> Vec<String> {
    let wanted =
        "a Prometheus label name: letters, digits and _, no digit first, not beginning with __";
    let mut seen = BTreeSet::new();
    let mut labels = Vec::new();
    for (path, item) in gauge.list("labels", "a list of label names") {
        match values::text(&item).filter(|label| values::is_metric_label(label)) {
            Some(label) if seen.insert(label.clone()) => labels.push(label),
            Some(_) => findings.wrong_value(path, &item, "each label once"),
            None => findings.wrong_value(path, &item, wanted),
        }
    }
    labels
}
