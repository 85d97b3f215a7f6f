//! What a result becomes: the series that would be exported, and what of it would not be.
//!
//! The series are written by the controller's own metrics. Without a configuration the gauges are inferred from the
//! result, and said as what the configuration would need.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::config::{self, Config, EnvironmentDefaults};
use crate::core::ids::ExecutionId;
use crate::core::report::{Results, sample_count};
use crate::metrics::Metrics;

/// Labels that the controller adds itself.
const OWN_LABELS: [&str; 2] = ["node", "executionID"];

/// How results are turned into series.
#[derive(Debug)]
pub(super) struct Exporter {
    /// None: gauges are inferred.
    config: Option<Config>,
}

impl Exporter {
    /// By the gauges of a configuration.
    pub(super) fn configured(config: Config) -> Self {
        Self {
            config: Some(config),
        }
    }

    /// By gauges made up from each result.
    pub(super) fn inferring() -> Self {
        Self { config: None }
    }

    /// What to expect of it.
    pub(super) fn introduction(&self) -> Vec<String> {
        let Some(config) = &self.config else {
            return vec![
                "No gauges are configured (--config FILE does): each result says which it would need."
                    .to_owned(),
            ];
        };
        let gauges = config.metrics.gauges.iter();
        let gauges: Vec<String> = gauges
            .map(|(name, gauge)| format!("{name}{{{}}}", gauge.labels.join(", ")))
            .collect();
        vec![match gauges.as_slice() {
            [] => {
                "The configuration has no gauges (metrics.gauges): nothing of a result is exported."
                    .to_owned()
            }
            gauges => format!("Gauges: {}", gauges.join(", ")),
        }]
    }

    /// A result to try.
    pub(super) fn example(&self) -> String {
        let configured = self.config.as_ref();
        let gauge = configured.and_then(|config| config.metrics.gauges.first_key_value());
        let (name, labels) = match gauge {
            Some((name, gauge)) => (name.as_str(), gauge.labels.clone()),
            None => ("disk_used_ratio", vec!["mount".to_owned()]),
        };
        let labels: BTreeMap<_, _> = (labels.into_iter()).map(|label| (label, "x")).collect();
        json!({name: [{"value": 1, "labels": labels}]}).to_string()
    }

    /// The series of a result, and what its author may not expect.
    pub(super) fn details(
        &self,
        execution: &ExecutionId,
        node: &str,
        results: &Results,
    ) -> Vec<String> {
        match &self.config {
            Some(config) => {
                let mut lines = series(config, execution, node, results);
                lines.extend(surprises(config, results, lines.len()));
                lines
            }
            None => inferred(execution, node, results),
        }
    }
}

/// The lines of `/metrics` that this result alone is.
fn series(config: &Config, execution: &ExecutionId, node: &str, results: &Results) -> Vec<String> {
    let metrics = Metrics::new(config);
    metrics.result(execution, node, results);
    let of_execution = format!("executionID=\"{execution}\"");
    let prefix = &config.metrics.prefix;
    let processing = format!("{prefix}_processing{{");
    let text = metrics.render();
    text.lines()
        .filter(|line| line.contains(&of_execution) && !line.starts_with(&processing))
        .map(str::to_owned)
        .collect()
}

/// A note on each gauge that is not exported, or not as it was posted.
fn surprises(config: &Config, results: &Results, exported: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let mut known = 0;
    for (name, samples) in results {
        let Some(gauge) = config.metrics.gauges.get(name) else {
            notes.push(format!(
                "note: {name} is not exported: it is not among metrics.gauges"
            ));
            continue;
        };
        known += samples.len();
        let declared: BTreeSet<&str> = gauge.labels.iter().map(String::as_str).collect();
        let posted = labels_of(samples);
        for label in posted.difference(&declared) {
            notes.push(format!(
                "note: label {label} of {name} is left out: it is not among metrics.gauges.{name}.labels"
            ));
        }
        for label in declared.difference(&posted) {
            if !OWN_LABELS.contains(label) && !samples.is_empty() {
                notes.push(format!(
                    "note: label {label} of {name} is empty: no sample has it"
                ));
            }
        }
    }
    if known > exported {
        notes.push(format!(
            "note: {known} samples are {exported} series: of those with the same labels the last one counts"
        ));
    }
    notes
}

fn labels_of(samples: &[crate::core::report::Sample]) -> BTreeSet<&str> {
    let labels = samples.iter().flat_map(|sample| sample.labels.keys());
    labels.map(String::as_str).collect()
}

/// The gauges that a result needs, and its series by them.
fn inferred(execution: &ExecutionId, node: &str, results: &Results) -> Vec<String> {
    let gauges: serde_json::Map<String, Value> = (results.iter())
        .map(|(name, samples)| {
            let mut labels = labels_of(samples);
            labels.retain(|label| !OWN_LABELS.contains(label));
            (name.clone(), json!({"labels": labels}))
        })
        .collect();
    let needed = format!(
        "config.yaml needs: metrics: {{gauges: {}}}",
        Value::Object(gauges.clone())
    );
    let document = json!({
        "name": "mock",
        "cronExpression": "@daily",
        "metrics": {"gauges": gauges},
    });
    match config::parse(&document.to_string(), &EnvironmentDefaults::default()) {
        Ok((config, _)) => {
            let mut lines = series(&config, execution, node, results);
            if lines.len() < sample_count(results) {
                lines.extend(surprises(&config, results, lines.len()));
            }
            lines.push(needed);
            lines
        }
        Err(errors) => {
            let errors = errors.0.iter();
            errors.map(|error| format!("note: {error}")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::report::parse_results;

    fn details(exporter: &Exporter, body: &str) -> Vec<String> {
        let results = parse_results(body.as_bytes()).unwrap();
        let execution = ExecutionId::parse("202611232359").unwrap();
        exporter.details(&execution, "node-1", &results)
    }

    fn configured() -> Exporter {
        let text = "{name: audit, cronExpression: '@daily', latestMetricsLabel: true, metrics: {gauges: {disk: {labels: [mount]}, plain: {}}}}";
        Exporter::configured(
            config::parse(text, &EnvironmentDefaults::default())
                .unwrap()
                .0,
        )
    }

    #[test]
    fn a_result_is_shown_as_its_series() {
        let body =
            r#"{"disk": [{"value": 0.5, "labels": {"mount": "/"}}], "plain": [{"value": 3}]}"#;
        assert_eq!(
            details(&configured(), body),
            [
                r#"audit_disk{executionID="202611232359",mount="/",node="node-1"} 0.5"#,
                r#"audit_plain{executionID="202611232359",node="node-1"} 3"#,
            ]
        );
    }

    #[test]
    fn what_is_not_exported_as_posted_is_noted() {
        let body = r#"{
            "disk": [{"value": 1, "labels": {"mont": "/"}}, {"value": 2}],
            "other": [{"value": 1}]
        }"#;
        assert_eq!(
            details(&configured(), body),
            [
                r#"audit_disk{executionID="202611232359",mount="",node="node-1"} 2"#,
                "note: label mont of disk is left out: it is not among metrics.gauges.disk.labels",
                "note: label mount of disk is empty: no sample has it",
                "note: other is not exported: it is not among metrics.gauges",
                "note: 2 samples are 1 series: of those with the same labels the last one counts",
            ]
        );
    }

    #[test]
    fn without_a_configuration_the_result_says_what_it_needs() {
        let body = r#"{"disk": [{"value": 1, "labels": {"mount": "/", "node": "x"}}]}"#;
        assert_eq!(
            details(&Exporter::inferring(), body),
            [
                r#"mock_disk{executionID="202611232359",mount="/",node="node-1"} 1"#,
                r#"config.yaml needs: metrics: {gauges: {"disk":{"labels":["mount"]}}}"#,
            ]
        );
        let impossible = details(&Exporter::inferring(), r#"{"disk-used": [{"value": 1}]}"#);
        assert!(
            impossible.len() == 1 && impossible[0].contains("metrics.gauges.disk-used"),
            "{impossible:?}"
        );
    }

    #[test]
    fn the_example_has_the_labels_of_a_configured_gauge() {
        assert_eq!(
            configured().example(),
            r#"{"disk":[{"value":1,"labels":{"mount":"x"}}]}"#
        );
    }
}
