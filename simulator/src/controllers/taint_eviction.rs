//! Pods leave a node whose NoExecute taints they do not tolerate, or no longer. As `pkg/controller/tainteviction` does
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Rule;
use super::pod_gc::add_condition;
use crate::state::{DeleteOptions, Part, State, Stored, Target, resource};

/// How often it looks: a deadline is kept to within this time.
const PERIOD: Duration = Duration::from_secs(1);

/// The taint eviction controller.
#[derive(Debug, Default)]
pub struct TaintEviction {
    next: Option<Timestamp>,
    /// The NoExecute taints of each node that has some, and since when.
    tainted: BTreeMap<Arc<str>, (Vec<Value>, Timestamp)>,
}

impl Rule for TaintEviction {
    fn sync(&mut self, state: &mut State, now: Timestamp) -> Option<Timestamp> {
        if self.next.is_some_and(|next| now < next) {
            return self.next;
        }
        self.next = Some(now + PERIOD);
        self.look(state, now);
        if self.tainted.is_empty() {
            return self.next;
        }
        let is_due = |pod: &&Arc<Stored>| {
            let tainted = self.tainted.get(pod.text("/spec/nodeName"));
            let deadline = tainted.and_then(|(taints, since)| {
                deadline(taints, pod.list("/spec/tolerations"), *since)
            });
            pod.metadata.deletion_timestamp.is_none() && deadline.is_some_and(|due| now >= due)
        };
        let pods = state.iter(&resource::PODS, None);
        let due: Vec<Arc<Stored>> = pods.filter(is_due).cloned().collect();
        for pod in due {
            evict(state, now, &pod);
        }
        self.next
    }

    fn follows_changes(&self) -> bool {
        false
    }
}

impl TaintEviction {
    fn look(&mut self, state: &State, now: Timestamp) {
        let mut tainted = BTreeMap::new();
        for node in state.iter(&resource::NODES, None) {
            let taints = node.list("/spec/taints").iter();
            let taints: Vec<Value> = taints
                .filter(|taint| taint["effect"] == "NoExecute")
                .cloned()
                .collect();
            if !taints.is_empty() {
                let name = &node.metadata.name;
                let before = self.tainted.get(name);
                let since = before.filter(|(before, _)| *before == taints);
                let since = since.map_or(now, |(_, since)| *since);
                tainted.insert(Arc::clone(name), (taints, since));
            }
        }
        self.tainted = tainted;
    }
}

/// When a pod with these tolerations must leave a node that has had these taints since then; never where it tolerates
/// all of them for ever. The shortest of the tolerations that are needed counts.
fn deadline(taints: &[Value], tolerations: &[Value], since: Timestamp) -> Option<Timestamp> {
    let mut shortest = None;
    for taint in taints {
        let Some(tolerating) = tolerations.iter().find(|one| tolerates(one, taint)) else {
            return Some(since);
        };
        if let Some(seconds) = tolerating["tolerationSeconds"].as_i64() {
            let seconds = seconds.max(0);
            shortest = Some(shortest.map_or(seconds, |before: i64| before.min(seconds)));
        }
    }
    let seconds = SignedDuration::from_secs(shortest?);
    since.checked_add(seconds).ok()
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
    if !effect.is_empty() && effect != text(taint, "effect") {
        return false;
    }
    if !key.is_empty() && key != text(taint, "key") {
        return false;
    }
    match &*text(toleration, "operator") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(toleration, "value") == text(taint, "value"),
        _ => false,
    }
}

fn evict(state: &mut State, now: Timestamp, pod: &Stored) {
    let meta = &pod.metadata;
    let target = Target::new(&resource::PODS, &meta.namespace, &meta.name);
    // A pod that has gone meanwhile is as good.
    let _ = state.modify(target, Part::Status, |pod| {
        let message = "Taint manager: deleting due to NoExecute taint";
        let status = pod.section_mut("status");
        add_condition(status, now, "DeletionByTaintManager", message);
    });
    let options = DeleteOptions {
        uid: Some(meta.uid.to_string()),
        ..DeleteOptions::default()
    };
    let _ = state.delete(now, target, &options);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(tolerations: &Value, expected_seconds: Option<i64>) {
        let since = Timestamp::UNIX_EPOCH;
        let taints = [
            json!({"key": "a", "value": "1", "effect": "NoExecute"}),
            json!({"key": "b", "effect": "NoExecute"}),
        ];
        let deadline = deadline(&taints, tolerations.as_array().unwrap(), since);
        assert_eq!(
            deadline.map(Timestamp::as_second),
            expected_seconds,
            "{tolerations}"
        );
    }

    #[test]
    fn a_pod_stays_as_long_as_the_shortest_toleration_it_needs() {
        check(&json!([]), Some(0));
        check(&json!([{"operator": "Exists"}]), None);
        check(&json!([{"key": "a", "operator": "Exists"}]), Some(0));
        let b = json!({"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        check(
            &json!([{"key": "a", "value": "1", "tolerationSeconds": 20}, b]),
            Some(20),
        );
        check(&json!([{"key": "a", "value": "2"}, b]), Some(0));
        check(&json!([{"key": "a", "value": "1"}, b]), Some(300));
        check(
            &json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}, b]),
            Some(0),
        );
        check(
            &json!([{"operator": "Exists", "tolerationSeconds": -1}]),
            Some(0),
        );
    }
}
