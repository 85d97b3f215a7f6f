//! The summary of an execution, `_execution.json`: one struct for files, pages, command line and later recovery.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{ExecutionState, NodeState, Reason, Trigger};

/// The version of this document's shape: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// The name of the document in its execution's directory. No node name begins with an underscore.
pub const FILE_NAME: &str = "_execution.json";

/// One execution, as it stands or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSummary {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The execution's id.
    pub id: String,
    /// What began it.
    pub trigger: Trigger,
    /// Where it stands.
    pub state: ExecutionState,
    /// The time it was due.
    pub scheduled_time: Timestamp,
    /// When it began, on the controller's clock.
    pub start_time: Timestamp,
    /// When its last node ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// From begin to end in milliseconds, measured on the monotonic clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub makespan_ms: Option<u64>,
    /// Nodes in each state; states without a node are left out.
    pub counts: BTreeMap<NodeState, u32>,
    /// Every node of the cluster when it began, in the order of the list, left-out ones last.
    pub nodes: Vec<NodeSummary>,
}

/// One node of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// The node's name.
    pub node: String,
    /// Where it stands.
    pub state: NodeState,
    /// Why, where the state alone does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Attempts begun: pods asked for.
    pub attempts: u32,
    /// When its newest pod was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When that was seen to have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// Stored names of its reports, in the order of arrival.
    pub reports: Vec<String>,
    /// Samples in its newest result.
    pub samples: u32,
}
