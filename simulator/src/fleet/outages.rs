//! Nodes that go wrong while their fleet runs, as data: NotReady for a while or for good, deleted, replaced under their
//! name.
//!
//! While a node is away its kubelet reports nothing, starts nothing and stops nothing; what was due is done when it is
//! back. The pods of a deleted node are collected, as the pod garbage collector does it. Deliberately not here: the
//! eviction from nodes that are NotReady for long.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Due, create_node};
use crate::apiserver::ApiServer;
use crate::kubelet::rfc3339;
use crate::node::{self, NodeShape};
use crate::state::{DeleteOptions, Part, Target, WriteOptions, resource};

/// From the deletion of a node to that of its pods: the garbage collector's quarantine.
pub(super) const ORPHAN_QUARANTINE: Duration = Duration::from_secs(40);

/// One thing that happens to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The node's number.
    pub node: u32,
    /// When, counted from the fleet's begin.
    pub begin: Duration,
    /// What.
    pub kind: OutageKind,
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageKind {
    /// It cannot be reached, and is back after that time, if ever.
    NotReady {
        /// How long.
        lasts: Option<Duration>,
    },
    /// It is deleted.
    Deleted,
    /// It is deleted, and another one comes up under its name at once: what ran there has ended.
    Replaced,
    /// The same with time in between.
    Recreated {
        /// How much.
        after: Duration,
    },
}

/// Who is away, and what is due there.
#[derive(Debug, Default)]
pub(super) struct Outages {
    away: BTreeMap<u32, Away>,
}

#[derive(Debug, Default)]
struct Away {
    is_deleted: bool,
    held: Vec<Due>,
}

impl Outages {
    pub(super) fn is_deleted(&self, node: u32) -> bool {
        self.away.get(&node).is_some_and(|away| away.is_deleted)
    }

    /// Keeps what is due until the node is back; gives it back where the node is there.
    pub(super) fn hold(&mut self, node: u32, due: Due) -> Option<Due> {
        match self.away.get_mut(&node) {
            Some(away) => {
                away.held.push(due);
                None
            }
            None => Some(due),
        }
    }

    pub(super) fn not_ready(&mut self, api: &ApiServer, node: u32) {
        self.away.entry(node).or_default();
        set_ready(api, node, false);
    }

    pub(super) fn deleted(&mut self, api: &ApiServer, node: u32) {
        self.away.entry(node).or_default().is_deleted = true;
        let name = node::name(node);
        let target = Target::cluster(&resource::NODES, &name);
        let now = api.now();
        // Whoever deleted it before us is as good.
        let _ = api.with_state(|state| state.delete(now, target, &DeleteOptions::now()));
    }

    /// Another node comes up under the name of one that was deleted.
    pub(super) fn recreated(&mut self, api: &ApiServer, node: u32) {
        self.away.remove(&node);
        // Whoever made it before us is as good.
        let _ = create_node(api, node, &NodeShape::default());
    }

    /// The node is back; what was due meanwhile is to be done now.
    pub(super) fn back(&mut self, api: &ApiServer, node: u32) -> Vec<Due> {
        let Some(away) = self.away.remove(&node) else {
            return Vec::new();
        };
        set_ready(api, node, true);
        away.held
    }
}

/// Another node under the name of this one.
pub(super) fn replace(api: &ApiServer, node: u32) {
    let now = api.now();
    let name = node::name(node);
    let object = node::object(node, now, &NodeShape::default());
    api.with_state(|state| {
        let target = Target::cluster(&resource::NODES, &name);
        let _ = state.delete(now, target, &DeleteOptions::now());
        let target = Target::cluster(&resource::NODES, "");
        let created = state.create(now, target, object, WriteOptions::default());
        debug_assert!(created.is_ok(), "the name is free: {created:?}");
    });
}

/// As the node controller writes it when it has not heard of a kubelet, and the kubelet when it is back.
fn set_ready(api: &ApiServer, node: u32, ready: bool) {
    let name = node::name(node);
    let now = rfc3339(api.now());
    let (status, reason, message) = if ready {
        ("True", "KubeletReady", "kubelet is posting ready status")
    } else {
        (
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        )
    };
    api.with_state(|state| {
        let target = Target::cluster(&resource::NODES, &name);
        // A node that somebody deleted has no condition.
        let _ = state.modify(target, Part::Status, |object| {
            let conditions = object.list("/status/conditions").iter().map(|condition| {
                if condition["type"] != "Ready" {
                    return condition.clone();
                }
                json!({
                    "type": "Ready", "status": status, "reason": reason, "message": message,
                    "lastHeartbeatTime": now, "lastTransitionTime": now,
                })
            });
            let conditions: Vec<Value> = conditions.collect();
            object
                .section_mut("status")
                .insert("conditions".to_owned(), Value::Array(conditions));
        });
    });
}
