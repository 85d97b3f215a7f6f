//! Pods that have not ended, as the cluster shows them, and when their slot may be used again all the same: never
//! before the node has been away for `nodeLostTimeout`, or the pod was past a deadline and did not go in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller::config::Config;
use controller::core::ids::ExecutionId;
use serde_json::Value;
use tokio::time::Instant;

use super::disturbance::Disturbance;
use crate::checker::JobPod;
use crate::state::{Object, Stored};

/// What a kubelet gets to stop a pod, at least.
const STOP_MIN: Duration = Duration::from_secs(30);

/// What passes of that time before the fastest clock of a replica shows that all of it has.
pub(super) fn at_the_least(time: Duration) -> Duration {
    time.mul_f64(0.98)
}

/// The nodes there are.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_name: BTreeMap<Arc<str>, Node>,
    /// Whether one was ever deleted, replaced or not Ready.
    have_suffered: bool,
}

#[derive(Debug)]
struct Node {
    uid: Arc<str>,
    /// When it got that uid.
    since: Instant,
    not_ready_since: Option<Instant>,
    /// When it was last seen not to be.
    last_not_ready: Option<Instant>,
    /// Since when it is NotReady or cordoned.
    ineligible_since: Option<Instant>,
}

impl Nodes {
    pub(super) fn stored(&mut self, node: &Stored) {
        let is_ready =
            |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let is_ready = node.list("/status/conditions").iter().any(is_ready);
        let metadata = &node.metadata;
        let known = (self.by_name)
            .entry(Arc::clone(&metadata.name))
            .or_insert_with(|| Node {
                uid: Arc::clone(&metadata.uid),
                since: Instant::now(),
                not_ready_since: None,
                last_not_ready: None,
                ineligible_since: None,
            });
        if known.uid != metadata.uid {
            known.uid = Arc::clone(&metadata.uid);
            known.since = Instant::now();
            self.have_suffered = true;
        }
        let was_ready = known.not_ready_since.is_none();
        if !(is_ready && was_ready) {
            known.last_not_ready = Some(Instant::now());
            self.have_suffered = true;
        }
        known.not_ready_since = if is_ready {
            None
        } else {
            Some(known.not_ready_since.unwrap_or_else(Instant::now))
        };
        let is_cordoned = node.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
        known.ineligible_since = if is_ready && !is_cordoned {
            None
        } else {
            Some(known.ineligible_since.unwrap_or_else(Instant::now))
        };
    }

    pub(super) fn deleted(&mut self, name: &str) {
        self.by_name.remove(name);
        self.have_suffered = true;
    }

    /// The uid that the node had at that time, where it is the same node still.
    pub(super) fn uid_at(&self, name: &str, then: Instant) -> Option<Arc<str>> {
        let node = (self.by_name.get(name)).filter(|node| node.since <= then)?;
        Some(Arc::clone(&node.uid))
    }

    /// Whether no list of nodes that was made after that time can have it as an eligible one.
    pub(super) fn is_ineligible_since(&self, name: &str, then: Instant) -> bool {
        let since = (self.by_name.get(name)).and_then(|node| node.ineligible_since);
        since.is_some_and(|since| since < then)
    }

    pub(super) fn is_eligible(&self, name: &str) -> bool {
        (self.by_name.get(name)).is_some_and(|node| node.ineligible_since.is_none())
    }

    pub(super) fn is_ready(&self, name: &str) -> bool {
        (self.by_name.get(name)).is_some_and(|node| node.not_ready_since.is_none())
    }
}

/// A pod that exists.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) node: Box<str>,
    pub(super) execution: Option<ExecutionId>,
    pub(super) has_ended: bool,
    is_odd: bool,
    /// Of the node when the execution was claimed, where that has not been replaced.
    node_uid: Option<Arc<str>>,
    created: Instant,
    running_since: Option<Instant>,
    hopeless_since: Option<Instant>,
    terminating_since: Option<Instant>,
    grace: Duration,
}

impl Standing {
    pub(super) fn new(pod: &JobPod<'_>, node_uid: Option<Arc<str>>) -> Self {
        Self {
            node: pod.node.into(),
            execution: ExecutionId::parse(pod.execution),
            has_ended: false,
            is_odd: false,
            node_uid,
            created: Instant::now(),
            running_since: None,
            hopeless_since: None,
            terminating_since: None,
            grace: Duration::ZERO,
        }
    }

    /// Answers in which odd way it ends, when it first does.
    pub(super) fn seen(&mut self, pod: &Object) -> Option<Disturbance> {
        let now = Instant::now();
        self.has_ended |= matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        if pod.text("/status/phase") == "Running" {
            self.running_since.get_or_insert(now);
        }
        if waiting_reason(pod) == Some("InvalidImageName") {
            self.hopeless_since.get_or_insert(now);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.terminating_since.get_or_insert(now);
            let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            self.grace = Duration::from_secs(seconds.unsigned_abs());
        }
        let odd = odd_end(pod).filter(|_| !self.is_odd);
        self.is_odd |= odd.is_some();
        odd
    }

    /// Whether it may be past a deadline, on the clock of some replica.
    pub(super) fn is_overdue(&self, config: &Config) -> bool {
        let passed = |since: Instant, limit: Duration| since.elapsed() >= at_the_least(limit);
        let runs_too_long = (self.running_since.zip(config.pod_run_deadline))
            .is_some_and(|(since, limit)| passed(since, limit));
        runs_too_long || passed(self.created, config.pod_start_deadline)
    }

    /// Whether its node has been there and ready for as long as the pod has.
    pub(super) fn has_stood_on_a_ready_node(&self, nodes: &Nodes) -> bool {
        let node = nodes.by_name.get(&*self.node);
        node.is_some_and(|node| {
            let is_same = Some(&node.uid) == self.node_uid.as_ref();
            is_same && node.last_not_ready.is_none_or(|last| last < self.created)
        })
    }

    /// Whether it has begun to run.
    pub(super) fn runs(&self) -> bool {
        self.running_since.is_some()
    }

    /// Whether its slot may be free though it has not ended.
    pub(super) fn is_given_up(&self, nodes: &Nodes, config: &Config) -> bool {
        let now = Instant::now();
        let passed = |since: Option<Instant>, limit: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= at_the_least(limit))
        };
        let Some(node_uid) = &self.node_uid else {
            return true;
        };
        // It is asked of every pod at every create: where all is well with the nodes, this one is not looked up.
        let away = if nodes.have_suffered {
            let node = nodes.by_name.get(&*self.node);
            let Some(node) = node.filter(|node| node.uid == *node_uid) else {
                return true;
            };
            node.not_ready_since
        } else {
            None
        };
        let lost = config.node_lost_timeout;
        let stop = lost.max(STOP_MIN);
        let runs_too_long =
            (config.pod_run_deadline).is_some_and(|limit| passed(self.running_since, limit + stop));
        passed(away, lost)
            || passed(self.terminating_since, self.grace + stop)
            || passed(self.hopeless_since, stop)
            || passed(Some(self.created), config.pod_start_deadline + stop)
            || runs_too_long
    }
}

fn waiting_reason(pod: &Object) -> Option<&str> {
    let container = pod.list("/status/containerStatuses").first()?;
    container["state"]["waiting"]["reason"].as_str()
}

/// In which odd way the pod ends, where it does.
fn odd_end(pod: &Object) -> Option<Disturbance> {
    match pod.text("/status/reason") {
        "" => {
            let waits = waiting_reason(pod).is_some_and(|reason| reason != "ContainerCreating");
            waits.then_some(Disturbance::PodNeverStarts)
        }
        "Evicted" => Some(Disturbance::PodEvicted),
        _ => Some(Disturbance::PodNeverStarts),
    }
}
