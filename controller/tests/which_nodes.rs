//! Which nodes get a job pod: the keys that choose, with a pod template whose tolerations depend on the node.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use controller::core::state::{NodeState, Reason};
use controller::core::taint::Taint;
use serde_json::json;
use support::world::{Setup, pod_name};
use tempfile::TempDir;

const EXECUTION: &str = "202611232359";

const TEMPLATE: &str = r#"
kind: Pod
spec:
  containers:
    - {name: job, image: job}
  tolerations:
    - {key: {{ if eq .NodeName "node-a" }}dedicated{{ else }}other{{ end }}, operator: Exists}
"#;

fn taint(effect: &str) -> Taint {
    Taint {
        key: "dedicated".to_owned(),
        value: String::new(),
        effect: effect.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn tolerations_are_those_of_the_pod_that_the_node_would_get() {
    let mut setup = Setup::new(&["node-a", "node-b", "node-c", "node-d"])
        .set("untoleratedTaints", json!("skip"))
        .set(
            "jobNodeExpressions",
            json!([{"key": "type", "operator": "NotIn", "values": ["virtual"]}]),
        );
    setup.template = TEMPLATE.to_owned();
    let world = setup.run_in(TempDir::new().unwrap(), |cluster| {
        cluster.change(|state| {
            state.nodes[0].taints = vec![taint("NoSchedule"), taint("NoExecute")];
            state.nodes[1].taints = vec![taint("NoSchedule")];
            state.nodes[2].taints = vec![taint("NoExecute")];
            let labels = &mut state.nodes[3].labels;
            labels.insert("type".to_owned(), "virtual".to_owned());
        });
    });
    let name = pod_name("node-a", EXECUTION);
    let is_there = |state: &support::cluster::State| state.pods.contains_key(&name).then_some(());
    world.cluster.until("the pod of node-a", is_there).await;
    world.finish("node-a", EXECUTION).await;
    let summary = world.until_ended(EXECUTION).await;
    let outcome: Vec<_> = (summary.nodes.iter())
        .map(|node| (node.node.as_str(), node.state, node.reason))
        .collect();
    assert_eq!(
        outcome,
        [
            ("node-a", NodeState::Succeeded, None),
            ("node-b", NodeState::Excluded, Some(Reason::Taint)),
            ("node-c", NodeState::Excluded, Some(Reason::Taint)),
            ("node-d", NodeState::Excluded, Some(Reason::NodeExpression)),
        ]
    );
    assert_eq!(
        summary.nodes[2].message,
        "the pod template does not tolerate the taint dedicated:NoExecute: it would evict the job pod at once"
    );
}
