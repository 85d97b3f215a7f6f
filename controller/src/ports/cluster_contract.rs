//! What the controller relies on of every `Cluster`, as a suite that each implementation runs: the in-memory one, the
//! real client on the simulated API server, and a real cluster.
//!
//! Each behaviour is one function. It is given an implementation bound to [`NAMESPACE`] and [`OWNER`], in a cluster of
//! its own where no kubelet interferes, and a [`Control`] that does to the cluster what other people do. Fit for paused
//! time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};

use super::cluster::{
    Cluster, ConfigMapView, LeaseRecord, LeaseView, PodPhase, PodView, PodWatchEvent, STATE_KEY,
    SecretData, ServiceAddress, StateDocument, WatchEvent,
};
use super::error::{ClusterError, ClusterErrorKind};
use crate::core::ids::ExecutionId;
use crate::core::lease::ReplicaAddress;
use crate::core::views::Waiting;

/// The namespace that the implementation under test is bound to; it exists.
pub const NAMESPACE: &str = "contract";

/// The owner that the implementation under test is bound to.
pub const OWNER: &str = "contract-controller";

const OWNER_LABEL: &str = "batch-job-controller.bakito.github.com/owner";
const EXECUTION_LABEL: &str = "batch-job-controller.bakito.github.com/execution-id";
const EXECUTION: &str = "202601010342";
const OTHER_EXECUTION: &str = "202601010442";

/// Long beyond any answer: a behaviour that waits this long has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// What others do to the cluster, behind the port's back.
pub trait Control {
    /// Creates an object of any kind from its manifest, its status included.
    fn create(&mut self, manifest: Value) -> impl Future<Output = ()>;

    /// Replaces the status of a pod of [`NAMESPACE`], as its kubelet would.
    fn set_pod_status(&mut self, pod: &str, status: Value) -> impl Future<Output = ()>;

    /// Deletes a pod of [`NAMESPACE`] at once, without grace.
    fn delete_pod(&mut self, pod: &str) -> impl Future<Output = ()>;

    /// Replaces the status of a node, as its kubelet or the node controller would.
    fn set_node_status(&mut self, node: &str, status: Value) -> impl Future<Output = ()>;

    /// Deletes a node.
    fn delete_node(&mut self, node: &str) -> impl Future<Output = ()>;

    /// Deletes a Lease of [`NAMESPACE`].
    fn delete_lease(&mut self, lease: &str) -> impl Future<Output = ()>;

    /// A Lease of [`NAMESPACE`], whole.
    fn get_lease(&mut self, lease: &str) -> impl Future<Output = Value>;

    /// Lets a container of a pod of [`NAMESPACE`] print `text`.
    fn print(&mut self, pod: &str, container: &str, text: &str) -> impl Future<Output = ()>;

    /// The events of [`NAMESPACE`], in whichever API version.
    fn events(&mut self) -> impl Future<Output = Vec<Value>>;
}

fn manifest(name: &str, owner: &str, execution: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {OWNER_LABEL: owner, EXECUTION_LABEL: execution},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "initContainers": [{"name": "first", "image": "example.com/job:1"}],
            "containers": [{"name": "job", "image": "example.com/job:1"}],
        },
    })
}

async fn create(cluster: &impl Cluster, manifest: &Value) -> Result<PodView, ClusterError> {
    let pod = serde_json::from_value(manifest.clone()).expect("the suite's own manifest is a pod");
    cluster.create_pod(pod).await
}

/// Creates a pod of this owner and execution through the port.
async fn create_ours(cluster: &impl Cluster, name: &str, execution: &str) -> PodView {
    create(cluster, &manifest(name, OWNER, execution, "node-1"))
        .await
        .expect("the pod can be created")
}

fn kind<T: std::fmt::Debug>(result: Result<T, ClusterError>) -> ClusterErrorKind {
    result.expect_err("the call is expected to fail").kind
}

fn execution(id: &str) -> ExecutionId {
    ExecutionId::parse(id).expect("the suite's own id is one")
}

fn ended(phase: &str) -> Value {
    json!({"phase": phase, "startTime": "2026-01-01T03:42:00Z"})
}

fn taints(number: u32) -> Value {
    match number {
        9 => json!([
            {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
            {"key": "flaky", "effect": "NoExecute"},
        ]),
        _ => json!([]),
    }
}

/// Nodes come in the order of their names, all pages of them, with the fields that decide.
pub async fn nodes_are_listed_by_name_over_all_pages(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    // More than two pages of the usual 500.
    for number in 0..1_203 {
        let ready = if number == 7 { "False" } else { "True" };
        control
            .create(json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": format!("n{number:04}"), "labels": {"number": number.to_string()}},
                "spec": {"unschedulable": number == 8, "taints": taints(number)},
                "status": {"conditions": [
                    {"type": "DiskPressure", "status": "False"},
                    {"type": "Ready", "status": ready},
                ]},
            }))
            .await;
    }
    let listed = cluster.list_nodes().await;
    let nodes = listed.expect("the nodes are listed").nodes;
    assert_eq!(nodes.len(), 1_203);
    assert!(nodes.is_sorted_by(|a, b| a.name < b.name));
    assert!(nodes.iter().all(|node| !node.uid.is_empty()));
    assert_eq!(
        nodes[42].labels,
        BTreeMap::from([("number".into(), "42".into())])
    );
    let not_ready: Vec<_> = nodes
        .iter()
        .filter(|node| !node.ready)
        .map(|node| &*node.name)
        .collect();
    assert_eq!(not_ready, ["n0007"]);
    let taints: Vec<_> = nodes
        .iter()
        .flat_map(|node| &node.taints)
        .map(ToString::to_string)
        .collect();
    assert_eq!(taints, ["dedicated=db:NoSchedule", "flaky:NoExecute"]);
    let cordoned: Vec<_> = nodes
        .iter()
        .filter(|node| node.unschedulable)
        .map(|node| &*node.name)
        .collect();
    assert_eq!(cordoned, ["n0008"]);
}

fn node_manifest(name: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// A watch of nodes begins with every node there is, then tells of each change and of nodes that go.
pub async fn nodes_are_watched_from_what_is_there(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    control.create(node_manifest("a", "True")).await;
    let mut watch = pin!(cluster.watch_nodes(None));
    let WatchEvent::Restarted(nodes) = next(&mut watch).await else {
        panic!("the watch begins with what is there")
    };
    let listed = cluster.list_nodes().await;
    assert_eq!(listed.expect("the nodes are listed").nodes, nodes);

    let status = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
    control.set_node_status("a", status).await;
    let WatchEvent::Applied(node) = next(&mut watch).await else {
        panic!("a change of status is told as applied")
    };
    assert_eq!((&*node.name, node.ready), ("a", false));
    assert!(0 < nodes[0].version && nodes[0].version < node.version);
    control.delete_node("a").await;
    let WatchEvent::Deleted(gone) = next(&mut watch).await else {
        panic!("a node that goes is told")
    };
    assert_eq!((gone.name, gone.uid), (node.name, node.uid));
}

/// A watch of nodes that goes on from a list tells what changed since, and nothing else.
pub async fn nodes_are_watched_from_a_list(cluster: impl Cluster, mut control: impl Control) {
    for name in ["a", "b"] {
        control.create(node_manifest(name, "True")).await;
    }
    let listed = cluster.list_nodes().await;
    let version = listed.expect("the nodes are listed").version;
    control.delete_node("a").await;
    let mut watch = pin!(cluster.watch_nodes(Some(version)));
    let WatchEvent::Deleted(gone) = next(&mut watch).await else {
        panic!("a node that went after the list is told")
    };
    assert_eq!(gone.name, "a");
    control.create(node_manifest("c", "True")).await;
    let WatchEvent::Applied(new) = next(&mut watch).await else {
        panic!("a node that came is told as applied")
    };
    assert_eq!(new.name, "c");
}

/// A created pod is answered as it stands, and is there when read.
pub async fn a_created_pod_is_answered_as_it_stands(cluster: impl Cluster) {
    let created = create_ours(&cluster, "a", EXECUTION).await;
    assert!(!created.uid.is_empty());
    assert_eq!(created.name, "a");
    assert_eq!(created.node, "node-1");
    assert_eq!(created.owner, OWNER);
    assert_eq!(created.execution, Some(execution(EXECUTION)));
    assert_eq!(created.phase, PodPhase::Pending);
    assert!(!created.terminating);
    assert_eq!(created.containers, ["first", "job"]);
    assert_eq!(cluster.get_pod("a").await, Ok(created));
}

/// A name that is taken is `AlreadyExists`, whoever holds it; the holder can be read.
pub async fn a_taken_name_is_already_exists(cluster: impl Cluster, mut control: impl Control) {
    control
        .create(manifest("a", "somebody-else", EXECUTION, "node-2"))
        .await;
    let refused = create(&cluster, &manifest("a", OWNER, EXECUTION, "node-1")).await;
    assert_eq!(kind(refused), ClusterErrorKind::AlreadyExists);
    let holder = cluster.get_pod("a").await.expect("the holder is read");
    assert_eq!((&*holder.owner, &*holder.node), ("somebody-else", "node-2"));
}

/// A pod that the API server does not accept is `Refused`, with its message.
pub async fn an_invalid_pod_is_refused(cluster: impl Cluster) {
    let mut invalid = manifest("a", OWNER, EXECUTION, "node-1");
    invalid["spec"]["containers"] = json!([]);
    let error = create(&cluster, &invalid)
        .await
        .expect_err("a pod needs a container");
    assert_eq!(error.kind, ClusterErrorKind::Refused);
    assert!(error.message.contains("containers"), "{}", error.message);
}

/// What does not exist is `NotFound`.
pub async fn what_does_not_exist_is_not_found(cluster: impl Cluster) {
    assert_eq!(
        kind(cluster.get_pod("none").await),
        ClusterErrorKind::NotFound
    );
    assert_eq!(
        kind(cluster.config_map("none").await),
        ClusterErrorKind::NotFound
    );
    assert_eq!(
        kind(cluster.secret("none").await),
        ClusterErrorKind::NotFound
    );
    assert_eq!(
        kind(cluster.service_address("none").await),
        ClusterErrorKind::NotFound
    );
    assert_eq!(
        kind(cluster.top_owner("none").await),
        ClusterErrorKind::NotFound
    );
    let log = cluster.pod_log("none", "job").await;
    assert_eq!(
        log.err().map(|error| error.kind),
        Some(ClusterErrorKind::NotFound)
    );
}

/// Listing shows every pod of this owner and nobody else's.
pub async fn only_pods_of_this_owner_are_listed(cluster: impl Cluster, mut control: impl Control) {
    create_ours(&cluster, "a", EXECUTION).await;
    create_ours(&cluster, "b", OTHER_EXECUTION).await;
    control
        .create(manifest("foreign", "somebody-else", EXECUTION, "node-1"))
        .await;
    let pods = cluster.list_pods().await.expect("the pods are listed");
    let mut names: Vec<_> = pods.iter().map(|pod| &*pod.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
}

/// An execution label that is no execution id is none, and no reason to hide the pod.
pub async fn a_label_that_is_no_execution_id_is_none(cluster: impl Cluster) {
    let pod = create_ours(&cluster, "a", "not-an-id").await;
    assert_eq!(pod.execution, None);
}

async fn next<V>(
    watch: &mut (impl Stream<Item = Result<WatchEvent<V>, ClusterError>> + Unpin),
) -> WatchEvent<V> {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("the watch says something")
        .expect("the watch does not end")
        .expect("the watch does not break")
}

/// A watch begins with every pod of this owner there is, then tells of each change, and of nobody else's pods.
pub async fn a_watch_begins_with_what_is_there_and_tells_every_change(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    let before = create_ours(&cluster, "before", EXECUTION).await;
    control
        .create(manifest("foreign", "somebody-else", EXECUTION, "node-1"))
        .await;
    let mut watch = pin!(cluster.watch_pods());
    assert_eq!(
        next(&mut watch).await,
        PodWatchEvent::Restarted(vec![before])
    );

    let created = create_ours(&cluster, "created", EXECUTION).await;
    assert_eq!(next(&mut watch).await, PodWatchEvent::Applied(created));

    control.set_pod_status("foreign", ended("Succeeded")).await;
    for (phase, expected) in [
        ("Running", PodPhase::Running),
        ("Succeeded", PodPhase::Succeeded),
    ] {
        control.set_pod_status("created", ended(phase)).await;
        let PodWatchEvent::Applied(pod) = next(&mut watch).await else {
            panic!("a change of status is told as applied")
        };
        assert_eq!((&*pod.name, pod.phase), ("created", expected));
    }
}

/// The watch of a cluster without pods of this owner begins all the same.
pub async fn a_watch_of_nothing_begins_too(cluster: impl Cluster) {
    let mut watch = pin!(cluster.watch_pods());
    assert_eq!(next(&mut watch).await, PodWatchEvent::Restarted(Vec::new()));
}

/// A pod that is gone is told, as it was last.
pub async fn a_deleted_pod_is_told(cluster: impl Cluster, mut control: impl Control) {
    let pod = create_ours(&cluster, "a", EXECUTION).await;
    let mut watch = pin!(cluster.watch_pods());
    next(&mut watch).await;
    control.delete_pod("a").await;
    loop {
        match next(&mut watch).await {
            // Whether the deletion is announced before it is done depends on the grace period.
            PodWatchEvent::Applied(pod) => assert!(pod.terminating),
            PodWatchEvent::Deleted(gone) => {
                assert_eq!((gone.name, gone.uid), (pod.name, pod.uid));
                return;
            }
            PodWatchEvent::Restarted(pods) => panic!("nothing interrupted the watch: {pods:?}"),
        }
    }
}

/// A pod that is deleted while nobody watches is not in what the next watch begins with.
pub async fn a_watch_that_begins_again_leaves_out_what_is_gone(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    create_ours(&cluster, "gone", EXECUTION).await;
    let stays = create_ours(&cluster, "stays", EXECUTION).await;
    {
        let mut watch = pin!(cluster.watch_pods());
        next(&mut watch).await;
    }
    control.delete_pod("gone").await;
    let mut watch = pin!(cluster.watch_pods());
    assert_eq!(
        next(&mut watch).await,
        PodWatchEvent::Restarted(vec![stays])
    );
}

/// The reason of a failure is the pod's own where it has one, else that of the container that failed.
pub async fn a_failed_pod_says_why(cluster: impl Cluster, mut control: impl Control) {
    create_ours(&cluster, "evicted", EXECUTION).await;
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "out of memory"});
    control.set_pod_status("evicted", evicted).await;
    let pod = cluster.get_pod("evicted").await.expect("the pod is read");
    assert_eq!(
        (pod.phase, &*pod.reason, &*pod.message),
        (PodPhase::Failed, "Evicted", "out of memory")
    );

    create_ours(&cluster, "crashed", EXECUTION).await;
    let terminated = json!({"exitCode": 3, "reason": "Error", "message": "disk is missing"});
    let crashed = json!({
        "phase": "Failed",
        "containerStatuses": [{
            "name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated},
        }],
    });
    control.set_pod_status("crashed", crashed).await;
    let pod = cluster.get_pod("crashed").await.expect("the pod is read");
    assert_eq!((pod.phase, &*pod.reason), (PodPhase::Failed, "Error"));
    assert!(pod.message.contains("disk is missing"), "{}", pod.message);
}

/// A container that cannot start says why; one that has not been asked to says nothing.
pub async fn a_pod_that_does_not_start_says_why(cluster: impl Cluster, mut control: impl Control) {
    let waiting = |reason: &str, message: &str| {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({
            "phase": "Pending",
            "containerStatuses": [{
                "name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }],
        })
    };
    create_ours(&cluster, "a", EXECUTION).await;
    control
        .set_pod_status("a", waiting("ContainerCreating", ""))
        .await;
    let pod = cluster.get_pod("a").await.expect("the pod is read");
    assert_eq!(pod.waiting, None);
    let status = waiting("ImagePullBackOff", "no such image");
    control.set_pod_status("a", status).await;
    let pod = cluster.get_pod("a").await.expect("the pod is read");
    assert_eq!(
        pod.waiting,
        Some(Waiting {
            container: "job".to_owned(),
            reason: "ImagePullBackOff".to_owned(),
            message: "no such image".to_owned(),
        })
    );
}

/// Deleting is by this owner and one execution: nothing else goes. It can be repeated.
pub async fn only_pods_of_one_execution_are_deleted(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    for (name, id) in [
        ("a", EXECUTION),
        ("b", EXECUTION),
        ("newer", OTHER_EXECUTION),
    ] {
        create_ours(&cluster, name, id).await;
        control.set_pod_status(name, ended("Succeeded")).await;
    }
    control
        .create(manifest("foreign", "somebody-else", EXECUTION, "node-1"))
        .await;
    for _ in 0..2 {
        cluster
            .delete_pods(&execution(EXECUTION))
            .await
            .expect("the pods are deleted");
        let pods = cluster.list_pods().await.expect("the pods are listed");
        let names: Vec<_> = pods.iter().map(|pod| &*pod.name).collect();
        assert_eq!(names, ["newer"]);
    }
    assert!(cluster.get_pod("foreign").await.is_ok());
}

/// A pod that runs is given its grace: it terminates, and is there until its kubelet has removed it.
pub async fn a_running_pod_is_deleted_with_grace(cluster: impl Cluster, mut control: impl Control) {
    create_ours(&cluster, "a", EXECUTION).await;
    control.set_pod_status("a", ended("Running")).await;
    cluster
        .delete_pods(&execution(EXECUTION))
        .await
        .expect("the pods are deleted");
    let pod = cluster.get_pod("a").await.expect("the pod is still there");
    assert!(pod.terminating);
    assert_eq!(pod.phase, PodPhase::Running);
}

/// One pod is deleted by name and uid, so that another of its name is safe; what has ended goes at once.
pub async fn one_pod_is_deleted_if_it_is_that_one(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    let ended_pod = create_ours(&cluster, "ended", EXECUTION).await;
    control.set_pod_status("ended", ended("Succeeded")).await;
    let another = cluster.delete_pod("ended", "another-uid").await;
    assert_eq!(kind(another), ClusterErrorKind::Conflict);
    assert!(cluster.get_pod("ended").await.is_ok());
    assert_eq!(cluster.delete_pod("ended", &ended_pod.uid).await, Ok(()));
    let again = cluster.delete_pod("ended", &ended_pod.uid).await;
    assert_eq!(kind(again), ClusterErrorKind::NotFound);

    let running = create_ours(&cluster, "running", EXECUTION).await;
    control.set_pod_status("running", ended("Running")).await;
    for _ in 0..2 {
        assert_eq!(cluster.delete_pod("running", &running.uid).await, Ok(()));
    }
    let pod = cluster.get_pod("running").await.expect("the pod is read");
    assert!(pod.terminating);
    assert_eq!(pod.grace, Duration::from_secs(30));
}

/// A log comes whole and in order.
pub async fn a_log_is_streamed_whole(cluster: impl Cluster, mut control: impl Control) {
    create_ours(&cluster, "a", EXECUTION).await;
    control.set_pod_status("a", ended("Succeeded")).await;
    let mut expected = String::new();
    for line in 0..1_000 {
        let line = format!("line {line} of the job\n");
        control.print("a", "job", &line).await;
        expected.push_str(&line);
    }
    let mut log = cluster
        .pod_log("a", "job")
        .await
        .expect("the log is opened");
    let mut read = Vec::new();
    while let Some(chunk) = log.next().await {
        read.extend_from_slice(&chunk.expect("the log does not break"));
    }
    assert_eq!(String::from_utf8_lossy(&read), expected);
}

/// An event that is created can be seen by others.
pub async fn a_created_event_can_be_seen(cluster: impl Cluster, mut control: impl Control) {
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "a.1", "namespace": NAMESPACE},
        "eventTime": "2026-01-01T03:42:00.000001Z",
        "action": "Report",
        "reason": "TestReason",
        "note": "all is well",
        "type": "Normal",
        "reportingController": "batch-job-controller",
        "reportingInstance": "batch-job-controller-0",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "a", "namespace": NAMESPACE, "uid": "u"},
    });
    let event = serde_json::from_value(event).expect("the suite's own event is one");
    cluster
        .create_event(event)
        .await
        .expect("the event is created");
    let events = control.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["reason"], "TestReason");
}

/// A ConfigMap is read as it stands.
pub async fn a_config_map_is_read_as_it_stands(cluster: impl Cluster, mut control: impl Control) {
    let data = json!({"config.yaml": "name: a\n", "other": ""});
    let map = |name: &str, annotations: Value, data: Value| {
        let metadata = json!({"name": name, "namespace": NAMESPACE, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    };
    let asked = json!({"example.com/asked": "now"});
    control.create(map("full", asked, data)).await;
    control.create(map("empty", Value::Null, Value::Null)).await;
    let full = ConfigMapView {
        annotations: BTreeMap::from([("example.com/asked".into(), "now".into())]),
        data: BTreeMap::from([
            ("config.yaml".into(), "name: a\n".into()),
            ("other".into(), String::new()),
        ]),
    };
    assert_eq!(cluster.config_map("full").await, Ok(full));
    assert_eq!(
        cluster.config_map("empty").await,
        Ok(ConfigMapView::default())
    );
}

/// Whoever watches a ConfigMap is told of it as it is, and of each change of it, but not of others.
pub async fn a_watched_config_map_is_told_as_it_is_then_with_every_change(cluster: impl Cluster) {
    let write = async |name: &str, version: Option<String>, text: &str| {
        let written = cluster.write_state(name, version.as_deref(), text).await;
        Some(written.expect("it is written"))
    };
    let other = write("other", None, "1").await;
    let mut version = write("watched", None, "1").await;
    let mut changes = pin!(cluster.watch_config_map("watched"));
    for text in ["1", "2", "3"] {
        if text != "1" {
            version = write("watched", version, text).await;
        }
        let told = tokio::time::timeout(PATIENCE, changes.next()).await;
        assert_eq!(told.expect("a change is told"), Some(Ok(())), "{text}");
        let read = cluster.config_map("watched").await.expect("it is read");
        assert_eq!(read.data[STATE_KEY], text);
    }
    write("other", other, "2").await;
    let told = tokio::time::timeout(PATIENCE, changes.next()).await;
    assert!(told.is_err(), "another ConfigMap changed: {told:?}");
}

/// A Secret is created once and read as it was made, any byte of it; what others made is read as well, with data or
/// without.
pub async fn a_secret_is_created_once_and_read_as_it_was_made(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    let data = SecretData::from([("key".to_owned(), (0..=255).collect())]);
    let created = cluster.create_secret("a", data.clone()).await;
    assert_eq!(created, Ok(()));
    assert_eq!(cluster.secret("a").await, Ok(data.clone()));
    let other = SecretData::from([("key".to_owned(), vec![1])]);
    let again = cluster.create_secret("a", other).await;
    assert_eq!(kind(again), ClusterErrorKind::AlreadyExists);
    assert_eq!(cluster.secret("a").await, Ok(data));

    let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data});
    control
        .create(secret("theirs", json!({"key": "AAE="})))
        .await;
    control.create(secret("empty", Value::Null)).await;
    let theirs = SecretData::from([("key".to_owned(), vec![0, 1])]);
    assert_eq!(cluster.secret("theirs").await, Ok(theirs));
    assert_eq!(cluster.secret("empty").await, Ok(SecretData::new()));
}

/// The state record is created once and changed only from the version that was read; the rest of its ConfigMap stays.
pub async fn the_state_record_changes_only_from_the_version_read(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    assert_eq!(cluster.read_state("a-state").await, Ok(None));
    let write = |version: Option<String>, text: &'static str| {
        let cluster = cluster.clone();
        async move {
            let version = version.as_deref();
            cluster.write_state("a-state", version, text).await
        }
    };
    let read = || async {
        let read = cluster.read_state("a-state").await;
        read.expect("the record is read").expect("there is one")
    };
    let lost = write(Some("1".to_owned()), "never").await;
    assert_eq!(kind(lost), ClusterErrorKind::NotFound);
    let first = write(None, "one").await.expect("it is created");
    let document = |version: &str, text: &str| StateDocument {
        version: version.to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(read().await, document(&first, "one"));
    assert_eq!(
        kind(write(None, "again").await),
        ClusterErrorKind::AlreadyExists
    );
    let second = write(Some(first.clone()), "two").await;
    let second = second.expect("it is changed");
    assert_ne!(second, first);
    assert_eq!(
        kind(write(Some(first), "stale").await),
        ClusterErrorKind::Conflict
    );
    assert_eq!(read().await, document(&second, "two"));

    control
        .create(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "b-state", "namespace": NAMESPACE},
            "data": {"other": "kept"},
        }))
        .await;
    let found = cluster.read_state("b-state").await.expect("it is read");
    let found = found.expect("there is one");
    assert_eq!(found.text, "");
    let written = cluster.write_state("b-state", Some(&found.version), "three");
    written.await.expect("it is changed");
    let kept = BTreeMap::from([
        ("other".into(), "kept".into()),
        (STATE_KEY.into(), "three".into()),
    ]);
    let read = cluster.config_map("b-state").await;
    assert_eq!(read.expect("it is read").data, kept);
}

/// A Service is reached by its cluster address, a headless one by its name.
pub async fn a_service_is_reached_by_address_or_by_name(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    for (name, address) in [("plain", "10.96.0.42"), ("headless", "None")] {
        control
            .create(json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"clusterIP": address, "ports": [{"port": 8090}]},
            }))
            .await;
    }
    let plain = cluster.service_address("plain").await;
    assert_eq!(plain, Ok(ServiceAddress::ClusterIp("10.96.0.42".into())));
    let Ok(ServiceAddress::DnsName(name)) = cluster.service_address("headless").await else {
        panic!("a headless Service has a name only")
    };
    assert!(
        name.starts_with(&format!("headless.{NAMESPACE}.svc")),
        "{name}"
    );
}

/// The top owner is the Deployment of the pod's ReplicaSet, else the pod's own controller, else nobody.
pub async fn the_top_owner_is_found_through_the_replica_set(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    let owned = |mut object: Value, kind: &str, name: &str| {
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-of-{name}"), "controller": true,
        }]);
        object
    };
    let replica_set = |name: &str| {
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        })
    };
    let pod = |name: &str| manifest(name, "somebody-else", EXECUTION, "node-1");
    control
        .create(owned(
            replica_set("of-deployment"),
            "Deployment",
            "deployment",
        ))
        .await;
    control.create(replica_set("alone")).await;
    control
        .create(owned(pod("in-deployment"), "ReplicaSet", "of-deployment"))
        .await;
    control
        .create(owned(pod("in-replica-set"), "ReplicaSet", "alone"))
        .await;
    control
        .create(owned(pod("in-stateful-set"), "StatefulSet", "stateful"))
        .await;
    control.create(pod("nobodys")).await;
    for (name, expected) in [
        ("in-deployment", Some(("Deployment", "deployment"))),
        ("in-replica-set", Some(("ReplicaSet", "alone"))),
        ("in-stateful-set", Some(("StatefulSet", "stateful"))),
        ("nobodys", None),
    ] {
        let top = cluster
            .top_owner(name)
            .await
            .expect("the owner can be read");
        let found = top.as_ref().map(|top| (&*top.kind, &*top.name));
        assert_eq!(found, expected, "{name}");
        if let Some(top) = &top {
            assert_eq!(top.uid, format!("uid-of-{}", top.name));
        }
    }
}

const LEASE: &str = "contract-leader-election";

fn lease_record(holder: &str) -> LeaseRecord {
    let time = |text: &str| text.parse().ok();
    LeaseRecord {
        holder: holder.to_owned(),
        lease_duration: Duration::from_secs(15),
        acquire_time: time("2026-01-01T03:42:00.000001Z"),
        renew_time: time("2026-01-01T03:43:00.5Z"),
        transitions: 3,
        address: Some(ReplicaAddress {
            host: "10.1.2.3".to_owned(),
            callback_port: 8090,
            file_server_port: 8080,
        }),
    }
}

/// A Lease says what was written, is created once, and is updated by whoever read its newest version.
pub async fn a_lease_is_created_once_and_updated_at_the_version_read(cluster: impl Cluster) {
    let first = lease_record("a");
    let created = cluster.create_lease(LEASE, &first).await;
    let created = created.expect("there is none yet");
    assert_eq!(created.record, first);
    assert_eq!(cluster.get_lease(LEASE).await, Ok(created.clone()));
    let again = cluster.create_lease(LEASE, &first).await;
    assert_eq!(kind(again), ClusterErrorKind::AlreadyExists);

    let second = first.released(jiff::Timestamp::UNIX_EPOCH);
    let version = &created.version;
    let updated = cluster.update_lease(LEASE, version, &second).await;
    let updated = updated.expect("the version is the newest");
    assert_eq!(updated.record, second);
    assert_ne!(updated.version, created.version);
    let late = cluster.update_lease(LEASE, version, &first).await;
    assert_eq!(kind(late), ClusterErrorKind::Conflict);
    assert_eq!(cluster.get_lease(LEASE).await, Ok(updated));
}

/// A Lease that is not there is not found, and no update creates it.
pub async fn a_lease_that_is_not_there_is_not_found(cluster: impl Cluster) {
    let not_found = ClusterErrorKind::NotFound;
    assert_eq!(kind(cluster.get_lease(LEASE).await), not_found);
    let update = cluster.update_lease(LEASE, "1", &lease_record("a")).await;
    assert_eq!(kind(update), not_found);
    assert_eq!(kind(cluster.get_lease(LEASE).await), not_found);
}

/// A watched Lease is shown as it is, then every change, then that it is gone; other Leases are not shown.
pub async fn a_watched_lease_is_shown_as_it_is_then_every_change_then_its_deletion(
    cluster: impl Cluster,
    mut control: impl Control,
) {
    let created = cluster.create_lease(LEASE, &lease_record("a")).await;
    let created = created.expect("there is none yet");
    let mut watch = pin!(cluster.watch_lease(LEASE));
    assert_eq!(shown(&mut watch).await, Some(created.clone()));
    let other = cluster.create_lease("another", &lease_record("x")).await;
    other.expect("there is none yet");
    let updated = cluster
        .update_lease(LEASE, &created.version, &lease_record("b"))
        .await;
    let updated = updated.expect("the version is the newest");
    assert_eq!(shown(&mut watch).await, Some(updated));
    control.delete_lease(LEASE).await;
    assert_eq!(shown(&mut watch).await, None);
    let again = cluster.create_lease(LEASE, &lease_record("c")).await;
    assert_eq!(shown(&mut watch).await, again.ok());
}

async fn shown(
    watch: &mut (impl Stream<Item = Result<Option<LeaseView>, ClusterError>> + Unpin),
) -> Option<LeaseView> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    let item = next.expect("the watch shows something");
    item.expect("the watch goes on").expect("the watch is well")
}

/// Labels and annotations that others put on a Lease stay when it is renewed.
pub async fn what_others_put_on_a_lease_stays(cluster: impl Cluster, mut control: impl Control) {
    control
        .create(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": LEASE, "namespace": NAMESPACE,
                "labels": {"theirs": "label"}, "annotations": {"theirs": "annotation"},
            },
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 15},
        }))
        .await;
    let read = cluster.get_lease(LEASE).await.expect("it exists");
    assert_eq!(read.record.holder, "");
    let record = lease_record("a");
    let updated = cluster.update_lease(LEASE, &read.version, &record).await;
    assert_eq!(updated.expect("the version is the newest").record, record);
    let metadata = &control.get_lease(LEASE).await["metadata"];
    assert_eq!(metadata["labels"], json!({"theirs": "label"}));
    assert_eq!(metadata["annotations"]["theirs"], "annotation");
}
