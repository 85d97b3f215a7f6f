//! What the summary of an execution says, compared with what its pods did: no node is lost, none is said to have run
//! that did not, and none that did well is said to have failed but for a reason that explains it.

use std::collections::{BTreeMap, BTreeSet};

use controller::core::state::{ExecutionState, NodeState, Reason};
use controller::core::summary::{ExecutionSummary, NodeSummary};
use controller::core::views::PodPhase;
use tokio::time::Instant;

use jiff::Timestamp;
use serde::Deserialize;

use super::options::MaxFailures;
use crate::checker::{JobPod, Violation, attempt_of};

/// What is looked at in every summary.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Glance {
    pub(super) counts: BTreeMap<NodeState, u32>,
    pub(super) end_time: Option<Timestamp>,
}

/// Looks at a summary; none where it is none. Of the many of a running execution the nodes, which come last, are read
/// only where debug assertions are on: that would take as long as writing them.
pub(super) fn glance(bytes: &[u8]) -> Option<Glance> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, _) = text.split_once("\"nodes\":")?;
    let glance: Glance = serde_json::from_str(&format!("{head}\"nodes\":null}}")).ok()?;
    let is_read_whole = glance.end_time.is_some() || cfg!(debug_assertions);
    let is_one = !is_read_whole || serde_json::from_str::<ExecutionSummary>(text).is_ok();
    is_one.then_some(glance)
}

/// What the pods of an execution did.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    nodes: BTreeMap<Box<str>, NodeFacts>,
    /// The version of the template that its pods are made of.
    pub(super) version: Option<u32>,
    /// Whether the execution is no longer in progress.
    pub(super) is_closed: bool,
}

#[derive(Debug, Clone, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, in any combination"
)]
struct NodeFacts {
    pods: u32,
    has_succeeded: bool,
    /// A pod came into being after its create had been given up.
    has_late_pod: bool,
    /// Somebody deleted a pod.
    was_deleted: bool,
    /// A pod was deleted that was old enough to be past a deadline.
    was_overdue: bool,
    result_acknowledged: bool,
    /// By attempt, when the newest pod of it that ended did, or went.
    ended: BTreeMap<u32, Instant>,
}

impl Facts {
    pub(super) fn pod_seen(&mut self, pod: &JobPod<'_>, is_new: bool) {
        let facts = self.node(pod.node);
        facts.has_late_pod |= pod.is_late;
        facts.pods += u32::from(is_new);
        facts.has_succeeded |= pod.phase == PodPhase::Succeeded;
    }

    pub(super) fn removed_by_others(&mut self, node: &str) {
        self.node(node).was_deleted = true;
    }

    pub(super) fn deleted_overdue(&mut self, node: &str) {
        self.node(node).was_overdue = true;
    }

    pub(super) fn ended(&mut self, pod: &JobPod<'_>) {
        let ended = &mut self.node(pod.node).ended;
        ended.insert(attempt_of(pod), Instant::now());
    }

    /// When the newest pod of that attempt did, or went.
    pub(super) fn ended_at(&self, node: &str, attempt: u32) -> Option<Instant> {
        self.nodes.get(node)?.ended.get(&attempt).copied()
    }

    pub(super) fn result_acknowledged(&mut self, node: &str) {
        self.node(node).result_acknowledged = true;
    }

    /// Nodes whose pods succeeded.
    pub(super) fn succeeded(&self) -> usize {
        self.nodes
            .values()
            .filter(|node| node.has_succeeded)
            .count()
    }

    /// Nodes of which somebody else than a replica removed a pod.
    pub(super) fn removed_count(&self) -> usize {
        let nodes = self.nodes.values();
        nodes.filter(|node| node.was_deleted).count()
    }

    fn node(&mut self, name: &str) -> &mut NodeFacts {
        self.nodes.entry(name.into()).or_default()
    }
}

/// Checks the summary of an execution that has ended.
///
/// # Errors
/// The first node that is not as its pods were.
pub(super) fn check(summary: &ExecutionSummary, facts: &Facts) -> Result<(), Violation> {
    let id = &summary.id;
    let mut named = BTreeSet::new();
    let mut counts: BTreeMap<NodeState, u32> = BTreeMap::new();
    for node in &summary.nodes {
        *counts.entry(node.state).or_default() += 1;
        if !named.insert(&*node.node) {
            return Err(format!("execution {id} names node {} twice", node.node));
        }
        let unknown = NodeFacts::default();
        let facts = facts.nodes.get(&*node.node).unwrap_or(&unknown);
        let agrees = check_node(node, facts);
        agrees.map_err(|wrong| {
            let (state, reason, message) = (node.state, node.reason, &node.message);
            format!(
                "execution {id}: node {} is {state:?} for {reason:?} ({message}), {wrong}: {facts:?}",
                node.node
            )
        })?;
    }
    if counts != summary.counts {
        let said = &summary.counts;
        return Err(format!(
            "execution {id} counts {said:?}, and has {counts:?}"
        ));
    }
    match facts.nodes.keys().find(|node| !named.contains(&***node)) {
        Some(node) => Err(format!(
            "execution {id} does not name {node}, which had a pod"
        )),
        None => Ok(()),
    }
}

/// Checks what an execution that has ended is said to have come to. At some time `failed_max` of its nodes had failed.
///
/// # Errors
/// Where its nodes say otherwise.
pub(super) fn check_state(
    summary: &ExecutionSummary,
    limit: Option<MaxFailures>,
    failed_max: usize,
) -> Result<(), Violation> {
    let count = |states: &[NodeState]| {
        let is_one = |node: &&NodeSummary| states.contains(&node.state);
        summary.nodes.iter().filter(is_one).count()
    };
    let failed = count(&[NodeState::Failed, NodeState::Lost]);
    let (succeeded, excluded) = (
        count(&[NodeState::Succeeded]),
        count(&[NodeState::Excluded]),
    );
    let eligible = summary.nodes.len() - excluded;
    let exceeds = |failed: usize| limit.is_some_and(|limit| failed > limit.nodes as usize);
    let is_fail_fast = limit.is_some_and(|limit| limit.is_fail_fast);
    let was_stopped = is_fail_fast && exceeds(failed.max(failed_max));
    let expected = match succeeded {
        _ if eligible == 0 => ExecutionState::Empty,
        _ if summary.state == ExecutionState::Cancelled => ExecutionState::Cancelled,
        _ if exceeds(failed) => ExecutionState::Failed,
        0 => ExecutionState::Failed,
        all if all == eligible => ExecutionState::Succeeded,
        _ => ExecutionState::Degraded,
    };
    let (id, state) = (&summary.id, summary.state);
    // What it was stopped for may be less in the end.
    if state != expected && !(was_stopped && state == ExecutionState::Failed) {
        return Err(format!(
            "execution {id} is {state:?}, and {succeeded} of {eligible} nodes succeeded, {failed} failed, of {limit:?}"
        ));
    }
    let given_up = (summary.nodes.iter()).find(|node| node.reason == Some(Reason::MaxFailures));
    match given_up {
        Some(node) if !was_stopped => Err(format!(
            "execution {id} has given {} up for {failed} nodes that failed, of {limit:?}",
            node.node
        )),
        _ => Ok(()),
    }
}

fn check_node(node: &NodeSummary, facts: &NodeFacts) -> Result<(), &'static str> {
    if facts.has_late_pod {
        return Ok(());
    }
    match node.state {
        NodeState::Waiting | NodeState::Running => Err("and its execution has ended"),
        NodeState::Excluded | NodeState::NotStarted if facts.pods > 0 => Err("and had a pod"),
        NodeState::Succeeded if !facts.has_succeeded => Err("and no pod of it succeeded"),
        NodeState::Failed if facts.has_succeeded && !is_explained(node, facts) => {
            Err("and its pod succeeded")
        }
        NodeState::Failed if facts.pods == 0 && !is_without_pod(node.reason) => {
            Err("and had no pod")
        }
        NodeState::Failed if is_of_deadline(node.reason) && !facts.was_overdue => {
            Err("and no pod of it was old enough")
        }
        _ => Ok(()),
    }
}

/// Whether a node may have failed though a pod of it succeeded: it was deleted before anybody could know, or its result
/// was not accepted, and another attempt failed, or it was to be stopped when it did.
fn is_explained(node: &NodeSummary, facts: &NodeFacts) -> bool {
    let is_cancelled = node.reason == Some(Reason::Cancelled);
    is_cancelled || facts.was_deleted || facts.was_overdue || !facts.result_acknowledged
}

fn is_of_deadline(reason: Option<Reason>) -> bool {
    matches!(reason, Some(Reason::StartDeadline | Reason::RunDeadline))
}

/// Whether a node may have failed without ever having had a pod.
fn is_without_pod(reason: Option<Reason>) -> bool {
    matches!(
        reason,
        Some(
            Reason::Refused
                | Reason::Cancelled
                | Reason::Template
                | Reason::PreviousPod
                | Reason::ExecutionDeadline
                | Reason::MaxFailures
        )
    )
}
