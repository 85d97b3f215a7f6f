//! What kept executions left on the volume, exported again after a start: newest first, in the background. Summaries
//! come before results: callbacks wait for them.
//!
//! It tells the loop, which knows what has left the history meanwhile and what has arrived since.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::event::Event;
use super::stored_result::{self, patiently};
use crate::core::ids::ExecutionId;
use crate::core::summary::{self, ExecutionSummary};
use crate::ports::clock::Clock;
use crate::ports::report_store::{ReportStore, ReportStoreErrorKind};

/// Reads the executions, newest first, and tells of each summary and each result.
pub(super) async fn restore<R: ReportStore>(
    reports: R,
    clock: impl Clock,
    kept: Vec<ExecutionId>,
    result_bytes_max: u64,
    events: mpsc::Sender<Event>,
) {
    let mut executions = Vec::with_capacity(kept.len());
    for execution in kept.into_iter().rev() {
        let summary = read_summary(&reports, &clock, &execution).await;
        // Without a summary any name may be a node's: the Go original wrote none.
        let nodes: Option<BTreeSet<String>> = summary
            .as_ref()
            .map(|summary| summary.nodes.iter().map(|node| node.node.clone()).collect());
        let read = Event::HistoryRead(execution.clone(), summary.map(Box::new));
        if events.send(read).await.is_err() {
            return;
        }
        executions.push((execution, nodes));
    }
    for (execution, nodes) in executions {
        let files = match patiently(&clock, || reports.list(&execution)).await {
            Ok(files) => files,
            Err(error) => {
                debug!(execution_id = %execution, error = %error, "execution cannot be listed");
                continue;
            }
        };
        for file in files {
            let is_node = |name: &str| {
                (nodes.as_ref()).map_or(!name.starts_with('_'), |nodes| nodes.contains(name))
            };
            let node = file.name.strip_suffix(".json");
            let Some(node) = node.filter(|node| is_node(node)) else {
                continue;
            };
            let found =
                stored_result::find(&reports, &clock, &execution, node, result_bytes_max).await;
            let Some(results) = found else { continue };
            let found = Event::ResultFound {
                execution: execution.clone(),
                node: node.to_owned(),
                results,
            };
            if events.send(found).await.is_err() {
                return;
            }
        }
    }
}

/// None where there is none: the Go original wrote none.
pub(super) async fn read_summary<R: ReportStore>(
    reports: &R,
    clock: &impl Clock,
    execution: &ExecutionId,
) -> Option<ExecutionSummary> {
    let read = || stored_result::read_whole(reports, execution, summary::FILE_NAME, u64::MAX);
    match patiently(clock, read).await {
        Ok(document) => serde_json::from_slice(&document)
            .inspect_err(|error| {
                warn!(execution_id = %execution, error = %error, "execution summary cannot be read");
            })
            .ok(),
        Err(error) => {
            if error.kind != ReportStoreErrorKind::NotFound {
                warn!(execution_id = %execution, error = %error, "execution summary cannot be read");
            }
            None
        }
    }
}
