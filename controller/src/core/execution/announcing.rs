//! What people are told with Kubernetes events: the first failure of a kind at once, the others of its kind as a count
//! at the end. A cluster of thousands that fails in one way would otherwise write thousands of events.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Execution};
use crate::core::node_run::NodeRun;
use crate::core::state::Reason;

/// Kinds of failure announced in one execution; beyond that the summary tells.
const ANNOUNCEMENTS_MAX: usize = 20;

/// Nodes named as examples of a reason.
const EXAMPLES_MAX: usize = 3;

/// What failed in an execution so far.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    by_reason: BTreeMap<Reason, Tally>,
    /// Reason and message, without the names in which two of a kind differ.
    announced: BTreeSet<(Reason, String)>,
}

/// The failures of one reason.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many pods, or nodes without one.
    pub count: u32,
    /// The first nodes.
    pub examples: Vec<String>,
}

impl Failures {
    /// Each reason with its tally.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, &Tally)> {
        self.by_reason
            .iter()
            .map(|(reason, tally)| (*reason, tally))
    }

    /// `ImagePull 3 (node-1, node-2, node-7), NodeLost 1 (node-9)`; empty where nothing failed.
    #[must_use]
    pub fn text(&self) -> String {
        let one = |(reason, tally): (Reason, &Tally)| {
            let more = tally.count as usize > tally.examples.len();
            let dots = if more { ", …" } else { "" };
            let examples = tally.examples.join(", ");
            format!("{} {} ({examples}{dots})", reason.as_str(), tally.count)
        };
        self.by_reason().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Execution {
    /// Counts what the node says now, and announces it if it is the first of its kind.
    pub(super) fn count_failure(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        let Some(reason) = node.reason else { return };
        let tally = self.failures.by_reason.entry(reason).or_default();
        tally.count += 1;
        if tally.examples.len() < EXAMPLES_MAX && !tally.examples.contains(&node.names.node) {
            tally.examples.push(node.names.node.clone());
        }
        let announced = &mut self.failures.announced;
        if announced.len() < ANNOUNCEMENTS_MAX && announced.insert((reason, kind_of(node))) {
            effects.push(Effect::Announce { index });
        }
    }
}

/// The message without names: what is the same on every node.
fn kind_of(node: &NodeRun) -> String {
    node.message
        .replace(&node.pod_name, "<pod>")
        .replace(&node.names.node, "<node>")
}
