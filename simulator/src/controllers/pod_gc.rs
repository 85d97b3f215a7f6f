//! Pods that nobody else removes: ended ones above a threshold, those of nodes that are gone, and those that are to go
//! and have no kubelet. As `pkg/controller/podgc` does it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Rule;
use crate::kubelet::rfc3339;
use crate::state::{DeleteOptions, Part, State, Stored, Target, resource};

/// `--terminated-pod-gc-threshold` of a real cluster.
const ENDED_MAX: usize = 12_500;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(20);

/// How long a node must be missing before its pods go: it may only be late.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Set by people on a node that will not come back.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The pod garbage collector.
#[derive(Debug)]
pub struct PodGc {
    ended_max: usize,
    next: Option<Timestamp>,
    /// Nodes that have pods and are missing, and since when.
    missing: BTreeMap<Arc<str>, Timestamp>,
}

impl Default for PodGc {
    fn default() -> Self {
        Self::keeping(ENDED_MAX)
    }
}

impl PodGc {
    /// Keeps so many ended pods.
    #[must_use]
    pub fn keeping(ended_max: usize) -> Self {
        Self {
            ended_max,
            next: None,
            missing: BTreeMap::new(),
        }
    }

    fn collect(&mut self, state: &mut State, now: Timestamp) {
        for pod in surplus(state, self.ended_max) {
            remove(state, now, &pod, None);
        }
        for pod in stuck(state) {
            remove(state, now, &pod, None);
        }
        for pod in self.orphaned(state, now) {
            remove(state, now, &pod, Some("PodGC: node no longer exists"));
        }
    }

    /// The pods of nodes that have been missing for long enough.
    fn orphaned(&mut self, state: &State, now: Timestamp) -> Vec<Arc<Stored>> {
        let mut missing = BTreeMap::new();
        let mut orphaned = Vec::new();
        for pod in state.iter(&resource::PODS, None) {
            let node = pod.text("/spec/nodeName");
            if node.is_empty()
                || state
                    .find(Target::cluster(&resource::NODES, node))
                    .is_some()
            {
                continue;
            }
            let since = self.missing.get(node).copied().unwrap_or(now);
            missing.insert(Arc::from(node), since);
            if now >= since + QUARANTINE {
                orphaned.push(Arc::clone(pod));
            }
        }
        self.missing = missing;
        orphaned
    }
}

impl Rule for PodGc {
    fn sync(&mut self, state: &mut State, now: Timestamp) -> Option<Timestamp> {
        if self.next.is_none_or(|next| now >= next) {
            self.collect(state, now);
            self.next = Some(now + PERIOD);
        }
        self.next
    }

    fn follows_changes(&self) -> bool {
        false
    }
}

fn has_ended(pod: &Stored) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed")
}

/// The ended pods above the threshold: those first that a kubelet evicted, then the oldest.
fn surplus(state: &State, most: usize) -> Vec<Arc<Stored>> {
    let mut ended: Vec<_> = state
        .iter(&resource::PODS, None)
        .filter(|pod| has_ended(pod))
        .cloned()
        .collect();
    let Some(count) = ended.len().checked_sub(most).filter(|count| *count > 0) else {
        return Vec::new();
    };
    ended.sort_by_cached_key(|pod| {
        let is_evicted = pod.text("/status/reason") == "Evicted";
        let meta = &pod.metadata;
        (
            Reverse(is_evicted),
            meta.creation_timestamp,
            Arc::clone(&meta.name),
        )
    });
    ended.truncate(count);
    ended
}

/// Pods that are to go and that no kubelet ends: without a node, or on one that is out of service.
fn stuck(state: &State) -> Vec<Arc<Stored>> {
    let lost: BTreeSet<&str> = state
        .iter(&resource::NODES, None)
        .filter(|node| !is_ready(node) && is_out_of_service(node))
        .map(|node| &*node.metadata.name)
        .collect();
    let is_stuck = |pod: &&Arc<Stored>| {
        let node = pod.text("/spec/nodeName");
        pod.metadata.deletion_timestamp.is_some() && (node.is_empty() || lost.contains(node))
    };
    let pods = state.iter(&resource::PODS, None);
    pods.filter(is_stuck).cloned().collect()
}

fn is_ready(node: &Stored) -> bool {
    let conditions = node.list("/status/conditions");
    conditions
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn is_out_of_service(node: &Stored) -> bool {
    let taints = node.list("/spec/taints");
    taints.iter().any(|taint| taint["key"] == OUT_OF_SERVICE)
}

/// Ends the pod where it has not ended, saying why, and removes it at once.
fn remove(state: &mut State, now: Timestamp, pod: &Stored, why: Option<&str>) {
    let meta = &pod.metadata;
    let target = Target::new(&resource::PODS, &meta.namespace, &meta.name);
    if !has_ended(pod) {
        // A pod that has gone meanwhile is as good.
        let _ = state.modify(target, Part::Status, |pod| {
            let status = pod.section_mut("status");
            status.insert("phase".to_owned(), json!("Failed"));
            if let Some(why) = why {
                add_condition(status, now, "DeletionByPodGC", why);
            }
        });
    }
    let options = DeleteOptions {
        uid: Some(meta.uid.to_string()),
        ..DeleteOptions::now()
    };
    let _ = state.delete(now, target, &options);
}

/// Says in a pod's status that it is about to be disrupted, and why.
pub(super) fn add_condition(
    status: &mut serde_json::Map<String, Value>,
    now: Timestamp,
    reason: &str,
    message: &str,
) {
    let conditions = status.entry("conditions").or_insert(json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": rfc3339(now),
        }));
    }
}
