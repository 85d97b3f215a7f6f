//! What the newest execution has left behind, as its users find it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Site, await_condition};

/// A log is stored after its pod has ended.
const STORED_WITHIN: Duration = Duration::from_mins(1);

/// An execution by its record, `_execution.json`.
#[derive(Debug, Clone)]
pub struct Execution {
    record: Value,
}

impl Execution {
    /// The newest one, as it is.
    ///
    /// # Errors
    /// If there is none, or it is not served.
    pub async fn newest(reports: &Site) -> Result<Self> {
        let record = reports.json("/latest/_execution.json").await?;
        Ok(Self { record })
    }

    /// The newest one, once it has ended.
    ///
    /// # Errors
    /// If it has not in time.
    pub async fn ended(reports: &Site, within: Duration) -> Result<Self> {
        await_condition("an execution has ended", within, async || {
            let execution = Self::newest(reports).await?;
            ensure!(execution.state() != "running", "{}", execution.record);
            Ok(execution)
        })
        .await
    }

    /// Its id, the directory of its reports.
    #[must_use]
    pub fn id(&self) -> &str {
        self.record["id"].as_str().unwrap_or_default()
    }

    /// Its state, `succeeded` where all is well.
    #[must_use]
    pub fn state(&self) -> &str {
        self.record["state"].as_str().unwrap_or_default()
    }

    /// The nodes in `state`.
    #[must_use]
    pub fn nodes_in(&self, state: &str) -> Vec<&str> {
        let nodes = self.record["nodes"].as_array().into_iter().flatten();
        nodes
            .filter(|node| node["state"] == state)
            .filter_map(|node| node["node"].as_str())
            .collect()
    }

    /// Checks that each of so many nodes has succeeded.
    ///
    /// # Errors
    /// If not: with the record.
    pub fn check_all_succeeded(&self, nodes: usize) -> Result<()> {
        ensure!(
            self.state() == "succeeded" && self.nodes_in("succeeded").len() == nodes,
            "not all {nodes} nodes have succeeded: {}",
            self.record
        );
        Ok(())
    }

    /// Checks that the reports of each node that succeeded are served: its result, and what else its record lists.
    ///
    /// # Errors
    /// If one is missing or empty, or is no JSON where it must be.
    pub async fn check_reports(&self, reports: &Site) -> Result<()> {
        let nodes = self.record["nodes"].as_array().into_iter().flatten();
        for node in nodes.filter(|node| node["state"] == "succeeded") {
            let name = node["node"].as_str().context("a node without a name")?;
            let files: Vec<&str> = node["reports"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let result = format!("{name}.json");
            ensure!(
                files.contains(&result.as_str()) && files.len() > 1,
                "{name} has left a result and a file: {node}"
            );
            for file in files {
                let path = format!("/{}/{file}", self.id());
                ensure!(!reports.text(&path).await?.is_empty(), "{path} is empty");
            }
            let result = reports.json(&format!("/{}/{result}", self.id())).await?;
            ensure!(result.is_object(), "the result of {name}: {result}");
        }
        Ok(())
    }

    /// Checks that the log of `container` is stored for each node that succeeded.
    ///
    /// # Errors
    /// If one is missing or empty.
    pub async fn check_logs(&self, reports: &Site, container: &str) -> Result<()> {
        for node in self.nodes_in("succeeded") {
            let path = format!("/{}/{node}-container-{container}.log", self.id());
            let log = await_condition("the log is stored", STORED_WITHIN, async || {
                reports.text(&path).await
            });
            ensure!(!log.await?.is_empty(), "{path} is empty");
        }
        Ok(())
    }

    /// Checks that the metrics have the outcome and each of `gauges` for every node that succeeded.
    ///
    /// # Errors
    /// If a series is missing.
    pub async fn check_metrics(&self, metrics: &Site, prefix: &str, gauges: &[&str]) -> Result<()> {
        let text = metrics.text("/metrics").await?;
        let has = |name: &str, node: &str| {
            text.lines().any(|line| {
                line.starts_with(&format!("{prefix}_{name}{{"))
                    && line.contains(&format!("node=\"{node}\""))
                    && line.contains(&format!("executionID=\"{}\"", self.id()))
            })
        };
        for node in self.nodes_in("succeeded") {
            for name in gauges.iter().chain(&["processing", "duration"]) {
                if !has(name, node) {
                    bail!("no series {prefix}_{name} of {node} among the metrics:\n{text}");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_node_that_did_not_succeed_is_told_with_the_record() {
        let mut record = json!({"id": "202601010342", "state": "succeeded", "nodes": [
            {"node": "a", "state": "succeeded"}, {"node": "b", "state": "succeeded"}]});
        let of = |record: &Value| Execution {
            record: record.clone(),
        };
        of(&record).check_all_succeeded(2).unwrap();
        assert!(of(&record).check_all_succeeded(3).is_err());
        record["nodes"][1]["state"] = "failed".into();
        let error = of(&record).check_all_succeeded(2).unwrap_err();
        assert!(error.to_string().contains(r#""failed""#), "{error}");
    }
}
