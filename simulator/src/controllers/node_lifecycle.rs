//! Nodes that are not heard of become NotReady, and what is wrong with a node is also said in its taints. As
//! `pkg/controller/nodelifecycle` does it.
//!
//! A kubelet is heard of when its lease changes. A node that never had one is left as it is: nothing runs there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Rule;
use crate::kubelet::rfc3339;
use crate::node::LEASE_NAMESPACE;
use crate::state::{Object, Part, State, Stored, Target, resource};

/// `--node-monitor-period` of a real cluster.
const PERIOD: Duration = Duration::from_secs(5);

/// `--node-monitor-grace-period` of a real cluster.
const GRACE: Duration = Duration::from_secs(50);

/// The conditions that a kubelet reports.
const REPORTED: &[&str] = &["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// (condition, status, key) of the taints that say the same, without `node.kubernetes.io/`.
const OF_CONDITIONS: &[(&str, &str, &str)] = &[
    ("Ready", "False", "not-ready"),
    ("Ready", "Unknown", "unreachable"),
    ("MemoryPressure", "True", "memory-pressure"),
    ("DiskPressure", "True", "disk-pressure"),
    ("PIDPressure", "True", "pid-pressure"),
    ("NetworkUnavailable", "True", "network-unavailable"),
];

const UNSCHEDULABLE: &str = "unschedulable";

/// The node lifecycle controller.
#[derive(Debug, Default)]
pub struct NodeLifecycle {
    next: Option<Timestamp>,
    /// The version of each node's lease, and when it was first seen.
    heard: BTreeMap<Arc<str>, (u64, Timestamp)>,
}

impl NodeLifecycle {
    /// Whether the node's kubelet has not been heard of for too long.
    fn is_silent(&mut self, state: &State, node: &Arc<str>, now: Timestamp) -> bool {
        let target = Target::new(&resource::LEASES, LEASE_NAMESPACE, node);
        let version = state
            .find(target)
            .map(|lease| lease.metadata.resource_version);
        match (version, self.heard.get(node)) {
            (Some(version), known) if known.is_none_or(|(before, _)| *before != version) => {
                self.heard.insert(Arc::clone(node), (version, now));
                false
            }
            (_, Some((_, since))) => now > *since + GRACE,
            (_, None) => false,
        }
    }
}

impl Rule for NodeLifecycle {
    fn sync(&mut self, state: &mut State, now: Timestamp) -> Option<Timestamp> {
        if self.next.is_some_and(|next| now < next) {
            return self.next;
        }
        self.next = Some(now + PERIOD);
        let nodes: Vec<Arc<Stored>> = state.iter(&resource::NODES, None).cloned().collect();
        self.heard.retain(|name, _| {
            let target = Target::cluster(&resource::NODES, name);
            state.find(target).is_some()
        });
        for node in nodes {
            let name = &node.metadata.name;
            let target = Target::cluster(&resource::NODES, name);
            let is_unknown = condition(&node, "Ready") == Some("Unknown");
            let mut current = Arc::clone(&node);
            if self.is_silent(state, name, now) && !is_unknown {
                let lost = state.modify(target, Part::Status, |node| lose(node, now));
                current = lost.unwrap_or(current);
            }
            if let Some(taints) = tainted(&current, now) {
                // A node that has gone meanwhile has no taints.
                let _ = state.modify(target, Part::Whole, |node| {
                    let spec = node.section_mut("spec");
                    if taints.is_empty() {
                        spec.shift_remove("taints");
                    } else {
                        spec.insert("taints".to_owned(), Value::Array(taints));
                    }
                });
            }
        }
        self.next
    }

    fn follows_changes(&self) -> bool {
        false
    }
}

fn condition<'a>(node: &'a Object, kind: &str) -> Option<&'a str> {
    let conditions = node.list("/status/conditions");
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == kind)?;
    condition["status"].as_str()
}

/// Nothing is known of the node any more.
fn lose(node: &mut Object, now: Timestamp) {
    let now = rfc3339(now);
    let mut conditions = node.list("/status/conditions").to_vec();
    for kind in REPORTED {
        let unknown = |heartbeat: &Value| {
            json!({
                "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastHeartbeatTime": heartbeat, "lastTransitionTime": now,
            })
        };
        match conditions
            .iter_mut()
            .find(|condition| condition["type"] == *kind)
        {
            Some(condition) if condition["status"] == "Unknown" => {}
            Some(condition) => *condition = unknown(&condition["lastHeartbeatTime"]),
            None => conditions.push(unknown(&Value::Null)),
        }
    }
    let status = node.section_mut("status");
    status.insert("conditions".to_owned(), Value::Array(conditions));
}

/// The taints that the node should have, where they differ from those it has. Others' stay as they are.
fn tainted(node: &Object, now: Timestamp) -> Option<Vec<Value>> {
    let is_ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        let key = key.strip_prefix("node.kubernetes.io/").unwrap_or_default();
        key == UNSCHEDULABLE || OF_CONDITIONS.iter().any(|(.., name)| *name == key)
    };
    let has = node.list("/spec/taints");
    let wanted = wanted_taints(node);
    let same = |taint: &Value, (key, effect): &(String, &str)| {
        taint["key"] == **key && taint["effect"] == *effect
    };
    let is_right = has
        .iter()
        .filter(|taint| is_ours(taint))
        .all(|taint| wanted.iter().any(|one| same(taint, one)))
        && wanted
            .iter()
            .all(|one| has.iter().any(|taint| same(taint, one)));
    if is_right {
        return None;
    }
    let mut taints: Vec<Value> = has
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|one| same(taint, one)))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !taints
            .iter()
            .any(|taint| same(taint, &(key.clone(), effect)))
        {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": rfc3339(now)}));
        }
    }
    Some(taints)
}

/// (key, effect) of the taints that the node's conditions and its cordon ask for.
fn wanted_taints(node: &Object) -> Vec<(String, &'static str)> {
    let mut wanted = Vec::new();
    for (kind, status, name) in OF_CONDITIONS {
        if condition(node, kind) == Some(status) {
            let key = format!("node.kubernetes.io/{name}");
            if *kind == "Ready" {
                wanted.push((key.clone(), "NoExecute"));
            }
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        let key = format!("node.kubernetes.io/{UNSCHEDULABLE}");
        wanted.push((key, "NoSchedule"));
    }
    wanted
}
