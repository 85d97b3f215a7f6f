//! What a cluster does by itself, in virtual time: pods, nodes and owners that go, and what goes with them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::clock::SimClock;
use simulator::controllers::{self, GarbageCollection, NodeLifecycle, PodGc, Rule, TaintEviction};
use simulator::node;
use simulator::state::{
    DeleteOptions, Options, Part, Propagation, Row, State, Stored, Target, WriteOptions, resource,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A cluster in which nothing happens but what the rules do.
struct Cluster {
    api: ApiServer,
    _running: JoinSet<()>,
}

impl Cluster {
    fn with(rule: impl Rule + 'static) -> Self {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let api = ApiServer::new(State::new(&Options::default()), clock.of_api_server());
        let mut running = JoinSet::new();
        running.spawn(controllers::run(api.clone(), vec![Box::new(rule)]));
        Self {
            api,
            _running: running,
        }
    }

    fn create(&self, row: &'static Row, object: Value) -> Arc<Stored> {
        let namespace = if row.namespaced { "default" } else { "" };
        let (now, target) = (self.api.now(), Target::new(row, namespace, ""));
        let create = |state: &mut State| state.create(now, target, object, WriteOptions::default());
        self.api.with_state(create).unwrap()
    }

    fn pod(&self, name: &str, node: &str, phase: &str) {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        self.create(
            &resource::PODS,
            json!({"metadata": {"name": name}, "spec": spec}),
        );
        self.api.with_state(|state| {
            let target = Target::new(&resource::PODS, "default", name);
            state.set_phase(target, phase, |_| {}).unwrap();
        });
    }

    fn node(&self, number: u32) {
        let shape = node::NodeShape {
            images: 0,
            ..node::NodeShape::default()
        };
        self.create(
            &resource::NODES,
            node::object(number, self.api.now(), &shape),
        );
    }

    fn taint(&self, node: &str, taints: &Value) {
        self.api.with_state(|state| {
            let target = Target::cluster(&resource::NODES, node);
            let tainted = state.modify(target, Part::Whole, |node| {
                node.section_mut("spec")
                    .insert("taints".to_owned(), taints.clone());
            });
            tainted.unwrap();
        });
    }

    fn delete(&self, row: &'static Row, name: &str, propagation: Option<Propagation>) {
        let namespace = if row.namespaced { "default" } else { "" };
        let options = DeleteOptions {
            propagation,
            ..DeleteOptions::default()
        };
        let (now, target) = (self.api.now(), Target::new(row, namespace, name));
        self.api
            .with_state(|state| state.delete(now, target, &options))
            .unwrap();
    }

    fn find(&self, row: &'static Row, name: &str) -> Option<Arc<Stored>> {
        let namespace = if row.namespaced { "default" } else { "" };
        self.api
            .read(|state| state.find(Target::new(row, namespace, name)).cloned())
    }

    fn names(&self, row: &'static Row) -> Vec<String> {
        self.api.read(|state| {
            let namespace = row.namespaced.then_some("default");
            let objects = state.iter(row, namespace);
            objects
                .map(|object| object.metadata.name.to_string())
                .collect()
        })
    }

    /// A config map owned by these, each by its kind and whether it blocks that owner's deletion.
    fn owned(&self, name: &str, owners: &[(&Stored, bool)]) -> Arc<Stored> {
        let references = owners.iter().map(|(owner, blocks)| {
            json!({"apiVersion": owner.row.api_version(), "kind": owner.row.kind, "name": *owner.metadata.name,
                "uid": *owner.metadata.uid, "blockOwnerDeletion": blocks})
        });
        let references: Vec<Value> = references.collect();
        let object = json!({"metadata": {"name": name, "ownerReferences": references}});
        self.create(&resource::CONFIG_MAPS, object)
    }

    fn map(&self, name: &str, finalizers: &[&str]) -> Arc<Stored> {
        let object = json!({"metadata": {"name": name, "finalizers": finalizers}});
        self.create(&resource::CONFIG_MAPS, object)
    }
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn ended_pods_above_the_threshold_go_the_evicted_and_the_oldest_first() {
    let cluster = Cluster::with(PodGc::keeping(2));
    cluster.node(1);
    for name in ["old", "middle", "new"] {
        cluster.pod(name, "node-1", "Succeeded");
        seconds(1).await;
    }
    cluster.pod("evicted", "node-1", "Failed");
    cluster.api.with_state(|state| {
        let target = Target::new(&resource::PODS, "default", "evicted");
        let reason = |status: &mut serde_json::Map<String, Value>| {
            status.insert("reason".to_owned(), json!("Evicted"));
        };
        state.set_phase(target, "Failed", reason).unwrap();
    });
    cluster.pod("running", "node-1", "Running");
    seconds(21).await;
    assert_eq!(cluster.names(&resource::PODS), ["middle", "new", "running"]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_stays_away_fail_and_go_after_the_quarantine() {
    let cluster = Cluster::with(PodGc::default());
    cluster.node(1);
    cluster.node(2);
    cluster.pod("a", "node-1", "Running");
    cluster.pod("b", "node-2", "Running");
    let mut changes = cluster.api.subscribe();
    seconds(30).await;
    cluster.delete(&resource::NODES, "node-1", None);
    cluster.delete(&resource::NODES, "node-2", None);
    seconds(30).await;
    cluster.node(2);
    assert_eq!(cluster.names(&resource::PODS), ["a", "b"]);
    changes.mark_unchanged();
    let deletion = async {
        changes.changed().await.unwrap();
        cluster.names(&resource::PODS)
    };
    assert_eq!(deletion.await, ["b"], "within one look");
    seconds(300).await;
    assert_eq!(cluster.names(&resource::PODS), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_to_go_and_has_no_kubelet_any_more_goes() {
    let cluster = Cluster::with(PodGc::default());
    cluster.node(1);
    cluster.pod("a", "node-1", "Running");
    cluster.delete(&resource::PODS, "a", None);
    seconds(60).await;
    assert_eq!(
        cluster.names(&resource::PODS),
        ["a"],
        "its kubelet may still end it"
    );
    let status = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
    cluster.api.with_state(|state| {
        let target = Target::cluster(&resource::NODES, "node-1");
        let lost = state.modify(target, Part::Status, |node| node.set("status", status));
        lost.unwrap();
    });
    let taint = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    cluster.taint("node-1", &taint);
    seconds(21).await;
    assert!(cluster.names(&resource::PODS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_becomes_unknown_and_tainted_until_it_is_ready_again() {
    let cluster = Cluster::with(NodeLifecycle::default());
    cluster.node(1);
    cluster.node(2);
    let lease = node::lease(1, cluster.api.now());
    let (now, target) = (
        cluster.api.now(),
        Target::new(&resource::LEASES, node::LEASE_NAMESPACE, ""),
    );
    cluster
        .api
        .with_state(|state| state.create(now, target, lease, WriteOptions::default()))
        .unwrap();
    let ready = |name: &str| {
        let node = cluster.find(&resource::NODES, name).unwrap();
        let conditions = node.list("/status/conditions").iter();
        let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
        let status = ready.next().unwrap()["status"].clone();
        let taints = node.list("/spec/taints").iter();
        let taints: Vec<String> = taints
            .map(|taint| {
                format!(
                    "{}:{}",
                    taint["key"].as_str().unwrap(),
                    taint["effect"].as_str().unwrap()
                )
            })
            .collect();
        (status.as_str().unwrap().to_owned(), taints)
    };
    seconds(45).await;
    assert_eq!(ready("node-1"), ("True".to_owned(), Vec::new()));
    seconds(15).await;
    let unreachable = ["NoExecute", "NoSchedule"]
        .map(|effect| format!("node.kubernetes.io/unreachable:{effect}"));
    assert_eq!(
        ready("node-1"),
        ("Unknown".to_owned(), unreachable.to_vec())
    );
    assert_eq!(
        ready("node-2").0,
        "True",
        "no kubelet was ever heard of there"
    );

    cluster.api.with_state(|state| {
        let target = Target::new(&resource::LEASES, node::LEASE_NAMESPACE, "node-1");
        let renewed = state.modify(target, Part::Whole, |lease| {
            lease.set(
                "spec",
                node::lease_spec("node-1", "2026-01-01T00:01:00Z".parse().unwrap()),
            );
        });
        renewed.unwrap();
        let target = Target::cluster(&resource::NODES, "node-1");
        let back = state.modify(target, Part::Status, |node| {
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            node.set("status", status);
        });
        back.unwrap();
    });
    seconds(6).await;
    assert_eq!(ready("node-1"), ("True".to_owned(), Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_cordon_is_a_taint_beside_those_of_others() {
    let cluster = Cluster::with(NodeLifecycle::default());
    cluster.node(1);
    cluster.taint("node-1", &json!([{"key": "mine", "effect": "NoSchedule"}]));
    let cordon = |on: bool| {
        cluster.api.with_state(|state| {
            let target = Target::cluster(&resource::NODES, "node-1");
            let cordoned = state.modify(target, Part::Whole, |node| {
                node.section_mut("spec")
                    .insert("unschedulable".to_owned(), json!(on));
            });
            cordoned.unwrap();
        });
    };
    let keys = || {
        let node = cluster.find(&resource::NODES, "node-1").unwrap();
        let taints = node.list("/spec/taints").iter();
        taints
            .map(|taint| taint["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    cordon(true);
    seconds(6).await;
    assert_eq!(keys(), ["mine", "node.kubernetes.io/unschedulable"]);
    cordon(false);
    seconds(6).await;
    assert_eq!(keys(), ["mine"]);
}

#[tokio::test(start_paused = true)]
async fn pods_leave_a_tainted_node_when_their_toleration_ends() {
    let cluster = Cluster::with(TaintEviction::default());
    cluster.node(1);
    // Both tolerate an outage of five minutes, as every pod does.
    cluster.pod("a", "node-1", "Running");
    cluster.pod("b", "node-2", "Running");
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    cluster.taint("node-1", &unreachable);
    let leaves = |name: &str| {
        let pod = cluster.find(&resource::PODS, name).unwrap();
        pod.metadata.deletion_timestamp.is_some()
    };
    seconds(295).await;
    assert!(!leaves("a"));
    seconds(10).await;
    assert!(leaves("a") && !leaves("b"));
    let pod = cluster.find(&resource::PODS, "a").unwrap();
    let reasons = pod.list("/status/conditions").iter();
    let mut reasons = reasons.map(|condition| &condition["reason"]);
    assert!(reasons.any(|reason| *reason == "DeletionByTaintManager"));

    cluster.pod("late", "node-1", "Running");
    cluster.taint("node-1", &json!([{"key": "other", "effect": "NoExecute"}]));
    seconds(2).await;
    assert!(leaves("late"), "nothing tolerates this one");
}

#[tokio::test(start_paused = true)]
async fn an_object_goes_in_the_background_with_the_last_of_its_owners() {
    let cluster = Cluster::with(GarbageCollection::default());
    let (one, two) = (cluster.map("one", &[]), cluster.map("two", &[]));
    let child = cluster.owned("child", &[(&one, false), (&two, false)]);
    cluster.owned("grandchild", &[(&child, false)]);
    cluster.delete(&resource::CONFIG_MAPS, "one", None);
    seconds(1).await;
    assert_eq!(
        cluster.names(&resource::CONFIG_MAPS),
        ["child", "grandchild", "two"]
    );
    let child = cluster.find(&resource::CONFIG_MAPS, "child").unwrap();
    assert_eq!(
        child.metadata.owner_references.len(),
        1,
        "it forgets the one that is gone"
    );
    cluster.delete(&resource::CONFIG_MAPS, "two", None);
    seconds(1).await;
    assert!(cluster.names(&resource::CONFIG_MAPS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_owner_was_replaced_under_its_name_goes() {
    let cluster = Cluster::with(GarbageCollection::default());
    let owner = cluster.map("owner", &[]);
    cluster.delete(&resource::CONFIG_MAPS, "owner", None);
    cluster.map("owner", &[]);
    cluster.owned("child", &[(&owner, false)]);
    seconds(1).await;
    assert_eq!(cluster.names(&resource::CONFIG_MAPS), ["owner"]);
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_an_owner_waits_for_the_dependents_that_block_it() {
    let cluster = Cluster::with(GarbageCollection::default());
    let owner = cluster.map("owner", &[]);
    let child = cluster.owned("held", &[(&owner, true)]);
    cluster.owned("beneath", &[(&child, true)]);
    let target = Target::new(&resource::CONFIG_MAPS, "default", "beneath");
    let hold = |finalizers: &[&str]| {
        let finalizers: Vec<String> = finalizers.iter().map(|name| (*name).to_owned()).collect();
        cluster.api.with_state(|state| {
            let held = state.modify(target, Part::Whole, |object| {
                object.metadata.finalizers = Arc::new(finalizers);
            });
            held.unwrap();
        });
    };
    hold(&["example.com/hold"]);
    cluster.delete(
        &resource::CONFIG_MAPS,
        "owner",
        Some(Propagation::Foreground),
    );
    seconds(1).await;
    assert_eq!(
        cluster.names(&resource::CONFIG_MAPS),
        ["beneath", "held", "owner"]
    );
    hold(&[]);
    seconds(1).await;
    assert!(cluster.names(&resource::CONFIG_MAPS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_orphaning_owner_leaves_its_dependents_without_it() {
    let cluster = Cluster::with(GarbageCollection::default());
    let owner = cluster.map("owner", &[]);
    cluster.owned("child", &[(&owner, true)]);
    cluster.delete(&resource::CONFIG_MAPS, "owner", Some(Propagation::Orphan));
    seconds(1).await;
    assert_eq!(cluster.names(&resource::CONFIG_MAPS), ["child"]);
    let child = cluster.find(&resource::CONFIG_MAPS, "child").unwrap();
    assert!(child.metadata.owner_references.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_a_kind_that_is_not_served_counts_as_there() {
    let cluster = Cluster::with(GarbageCollection::default());
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "u"});
    let object = json!({"metadata": {"name": "child", "ownerReferences": [owner]}});
    cluster.create(&resource::CONFIG_MAPS, object);
    seconds(60).await;
    assert_eq!(cluster.names(&resource::CONFIG_MAPS), ["child"]);
}
