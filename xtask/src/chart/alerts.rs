//! Alerts and dashboard: they ask for metrics that the controller exports, each alert says what to do, and does what
//! its unit test in `xtask/chart/alerts_test.yaml` says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::helm::{Helm, Rendered, of_kind, the};
use crate::cargo;
use crate::exposition::Scrape;
use crate::tool::Tool;

/// Beginnings of the names that the controller exports, whatever its configuration.
const PREFIXES: [&str; 2] = ["batch_job_controller_", "com_github_bakito_"];

/// Where the dashboard has the prefix of the job pods' metrics.
const DASHBOARD_PREFIX: &str = "${prefix}";

/// The alerts' unit tests, from the workspace root.
const TESTS: &str = "xtask/chart/alerts_test.yaml";

/// Whether alerts and dashboard of every value set ask for metrics of `scrape`, and alerts are documented.
///
/// # Errors
/// With the expression that asks for something else.
pub(super) fn check(chart: &Path, rendered: &[Rendered], scrape: &Scrape) -> Result<()> {
    let readme = fs::read_to_string(chart.join("README.md"))?;
    let mut expressions = BTreeSet::new();
    let mut alerts = BTreeSet::new();
    for set in rendered {
        for rule in of_kind(&set.documents, "PrometheusRule").flat_map(rules) {
            let name = text(&rule["alert"]).to_owned();
            check_alert(rule, &name, &readme)?;
            expressions.insert(text(&rule["expr"]).to_owned());
            alerts.insert(name);
        }
        expressions.extend(dashboard_expressions(&set.documents)?);
    }
    let headings = readme.lines().filter_map(|line| line.strip_prefix("### "));
    let documented: BTreeSet<String> = headings.map(str::to_owned).collect();
    ensure!(
        alerts == documented,
        "README.md explains the alerts {documented:?}, there are {alerts:?}"
    );
    let duration = scrape.names().find(|name| name.ends_with("_duration"));
    let prefix = duration
        .and_then(|name| name.strip_suffix("_duration"))
        .context("no job pod's duration was exported")?;
    let exported: BTreeSet<&str> = scrape.names().collect();
    for expression in &expressions {
        let metrics = metrics(expression, prefix);
        ensure!(
            !metrics.is_empty(),
            "{expression} asks for no metric of the controller"
        );
        for metric in metrics {
            ensure!(
                exported.contains(metric.as_str()),
                "{expression} asks for {metric}, which the controller does not export"
            );
        }
    }
    super::done(&format!(
        "{} alerts and the dashboard ask for metrics that the controller exports",
        alerts.len()
    ));
    Ok(())
}

fn rules(object: &Value) -> impl Iterator<Item = &Value> {
    object["spec"]["groups"][0]["rules"]
        .as_array()
        .into_iter()
        .flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn check_alert(rule: &Value, name: &str, readme: &str) -> Result<()> {
    for annotation in ["summary", "description"] {
        ensure!(
            !text(&rule["annotations"][annotation]).is_empty(),
            "{name} has no {annotation}"
        );
    }
    ensure!(
        !text(&rule["labels"]["severity"]).is_empty(),
        "{name} has no severity"
    );
    let (_, fragment) = text(&rule["annotations"]["runbook_url"])
        .split_once('#')
        .with_context(|| format!("the runbook of {name} is not a place on a page"))?;
    // As sites that show Markdown make a fragment of a heading.
    let is_heading = |line: &str| {
        line.strip_prefix("### ")
            .is_some_and(|heading| heading.to_lowercase() == fragment)
    };
    ensure!(
        readme.lines().any(is_heading),
        "README.md has no heading for the runbook of {name}"
    );
    Ok(())
}

fn dashboard_expressions(documents: &[Value]) -> Result<Vec<String>> {
    let mut expressions = Vec::new();
    for map in of_kind(documents, "ConfigMap") {
        for (name, json) in map["data"].as_object().into_iter().flatten() {
            if Path::new(name).extension().is_some_and(|end| end == "json") {
                let dashboard: Value =
                    serde_json::from_str(text(json)).with_context(|| name.clone())?;
                let panels = dashboard["panels"]
                    .as_array()
                    .context("the dashboard has no panels")?;
                for target in panels
                    .iter()
                    .filter_map(|panel| panel["targets"].as_array())
                    .flatten()
                {
                    expressions.push(text(&target["expr"]).to_owned());
                }
            }
        }
    }
    Ok(expressions)
}

/// The names of the controller's metrics in an expression of Prometheus' language.
fn metrics(expression: &str, prefix: &str) -> Vec<String> {
    let expression = expression.replace(DASHBOARD_PREFIX, prefix);
    let of_jobs = format!("{prefix}_");
    let is_ours = |word: &&str| {
        PREFIXES.iter().any(|known| word.starts_with(known)) || word.starts_with(&of_jobs)
    };
    let words = expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(is_ours).map(str::to_owned).collect()
}

/// `promtool check rules`, and the alerts' unit tests.
///
/// # Errors
/// With what promtool says, or an alert without a test.
pub(super) fn check_with_promtool(promtool: &Tool, helm: &Helm) -> Result<()> {
    let documents = helm.render(&[
        "--set",
        r#"prometheusRule.enabled=true,prometheusRule.selector=job="batch""#,
    ])?;
    let mut spec = the(&documents, "PrometheusRule")?["spec"].clone();
    let directory = tempfile::tempdir()?;
    let rules = directory.path().join("alerts.yaml");
    fs::write(&rules, spec.to_string())?;
    promtool.output(["check", "rules", &rules.display().to_string()])?;

    let source = cargo::workspace_root().join(TESTS);
    let tests = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    let mut count = 0;
    for rule in spec["groups"][0]["rules"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let expected = format!("alertname: {}\n", text(&rule["alert"]));
        ensure!(
            tests.matches(&expected).count() >= 2,
            "{TESTS} does not say when {} fires and when not",
            text(&rule["alert"])
        );
        // The tests are about when alerts fire; promtool has checked the templates of their texts.
        if let Value::Object(rule) = rule {
            rule.shift_remove("annotations");
        }
        count += 1;
    }
    fs::write(&rules, spec.to_string())?;
    let file = directory.path().join("alerts_test.yaml");
    fs::write(&file, tests)?;
    promtool.output(["test", "rules", &file.display().to_string()])?;
    super::done(&format!("promtool: {count} alerts, each tested"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_in_expressions() {
        let expression = r#"sum(rate(batch_job_controller_nodes_total{job="a/b-batch-job-controller"}[5m])) > 0 unless {__name__="${prefix}_pods"}"#;
        let found = ["batch_job_controller_nodes_total", "audit_pods"];
        assert_eq!(metrics(expression, "audit"), found);
        assert!(metrics("up == 0", "audit").is_empty());
    }

    #[test]
    fn an_alert_without_a_runbook_is_refused() {
        let rule = serde_json::json!({
            "labels": {"severity": "info"},
            "annotations": {"summary": "s", "description": "d", "runbook_url": "https://example.com/a.md#down"},
        });
        assert!(check_alert(&rule, "Down", "### Down\n").is_ok());
        assert!(check_alert(&rule, "Down", "### Up\n").is_err());
    }
}
