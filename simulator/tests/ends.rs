//! Every way in which a pod, or a node, can end: the production controller on a cluster of two nodes and one slot shows
//! the state, the reason, the message, the event and the metric, and uses the slot again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller::config::pod_template::PodTemplate;
use controller::config::{self, EnvironmentDefaults};
use controller::core::by_hand::{ANNOTATION_CANCEL, ANNOTATION_TRIGGER};
use controller::core::ids::ExecutionId;
use controller::core::job_pod::ExtensionVariables;
use controller::core::state::{ExecutionState, NodeState, Reason};
use controller::core::summary::{self, ExecutionSummary, NodeSummary};
use controller::http::callback;
use controller::metrics::Metrics;
use controller::ports::clock::{Clock as _, Monotonic};
use controller::ports::report_store::ReportStore as _;
use controller::runtime::configuration::{ConfigMapSource, Configuration};
use controller::runtime::controller::Controller;
use controller::runtime::{PortSet, Settings};
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::callback::{InProcess, Persistence};
use simulator::clock::SimClock;
use simulator::cluster::SimCluster;
use simulator::fleet::{Fleet, FleetOptions, Irregularities, Outage, OutageKind, create_nodes};
use simulator::job::CONFIG_KEY;
use simulator::kubelet::{Lifecycle, Stage, Step};
use simulator::node::NodeShape;
use simulator::report_store::MemoryReportStore;
use simulator::rng::{Seed, SimEntropy};
use simulator::state::{self, DeleteOptions, Part, Patch, State, Target, WriteOptions, resource};
use tokio::task::JoinSet;
use tokio::time::sleep;

const NAMESPACE: &str = "batch";

/// The execution of a minute after the start.
const EXECUTION: &str = "202601010001";

const TEMPLATE: &str =
    "{kind: Pod, spec: {containers: [{name: job, image: registry.example.com/job:1.0.0}]}}";

/// How long an ordinary pod lives.
const LIFETIME: Duration = Duration::from_secs(10);

/// A controller and its cluster.
struct Cluster {
    api: ApiServer,
    clock: SimClock,
    store: MemoryReportStore,
    metrics: Arc<Metrics>,
    _running: JoinSet<()>,
}

/// What differs between cases.
struct Case {
    nodes: u32,
    config: Vec<(&'static str, Value)>,
    template: &'static str,
    irregularities: Irregularities,
}

impl Case {
    /// Two nodes and one slot: the second has its turn when the first has given up its own.
    fn new() -> Self {
        Self {
            nodes: 2,
            config: vec![("podPoolSize", json!(1))],
            template: TEMPLATE,
            irregularities: Irregularities::default(),
        }
    }

    fn set(mut self, key: &'static str, value: Value) -> Self {
        self.config.push((key, value));
        self
    }

    /// The pods of node 1 enter this step 3 s after their creation.
    fn leads_to(self, step: Step) -> Self {
        self.lives(vec![
            stage(Step::Accepted, 0, Step::Creating),
            stage(Step::Creating, 1_000, Step::Running),
            stage(Step::Running, 3_000, step),
        ])
    }

    /// The pods of node 1 run for ever.
    fn never_ends(self) -> Self {
        self.lives(vec![
            stage(Step::Accepted, 0, Step::Creating),
            stage(Step::Creating, 1_000, Step::Running),
        ])
    }

    /// The pods of node 1 enter this step at once.
    fn begins_with(self, step: Step) -> Self {
        self.lives(vec![stage(Step::Accepted, 100, step)])
    }

    fn lives(mut self, stages: Vec<Stage>) -> Self {
        let lifecycle = Lifecycle::new(stages);
        self.irregularities.lifecycles.insert(1, lifecycle);
        self
    }

    /// Something happens to a node, so many seconds after the execution was due.
    fn outage(mut self, node: u32, second: u64, kind: OutageKind) -> Self {
        let begin = Duration::from_secs(60 + second);
        self.irregularities
            .outages
            .push(Outage { node, begin, kind });
        self
    }

    fn start(self) -> Cluster {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let state = State::new(&state::Options::default());
        let api = ApiServer::new(state, clock.of_api_server());
        create_nodes(&api, self.nodes, &NodeShape::default()).unwrap();
        let now = api.now();
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        let target = Target::cluster(&resource::NAMESPACES, "");
        api.with_state(|state| state.create(now, target, namespace, WriteOptions::default()))
            .unwrap();
        let mut running = JoinSet::new();
        let seed = Seed::of_run(1);
        let store = MemoryReportStore::new(clock.clone());
        let mut yaml = json!({
            "name": "ends",
            "cronExpression": "1 0 * * *",
            "metrics": {"gauges": {"checks": {"help": "Checks that were made."}}},
        });
        for (key, value) in self.config {
            yaml[key] = value;
        }
        // From it the fake job pods know what to report.
        let map = json!({"metadata": {"name": "ends"}, "data": {CONFIG_KEY: yaml.to_string()}});
        let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, "");
        api.with_state(|state| state.create(now, target, map, WriteOptions::default()))
            .unwrap();
        let config = config::parse(&yaml.to_string(), &EnvironmentDefaults::default());
        let config = config.unwrap().0;
        let metrics = Arc::new(Metrics::new(&config));
        let limits = config.callback_body_limit;
        let ports = PortSet {
            cluster: SimCluster::new(api.clone(), NAMESPACE, &config.name),
            reports: store.clone(),
            clock: clock.clone(),
            entropy: SimEntropy::new(seed.stream("controller")),
        };
        let (reports, entropy) = (ports.reports.clone(), ports.entropy.clone());
        let settings = Settings {
            template: PodTemplate::parse(self.template).unwrap(),
            namespace: NAMESPACE.to_owned(),
            instance: "ends-0".to_owned(),
            pod_ip: Some("10.128.0.1".to_owned()),
            dev_mode: false,
            config_map: Some(source(self.template)),
            tokens: None,
            owner: None,
            variables: ExtensionVariables::default(),
            config,
        };
        let (controller, handle) = Controller::new(settings, ports, Arc::clone(&metrics));
        let transport = InProcess(callback::service(handle, reports, entropy, limits));
        let options = FleetOptions {
            nodes: self.nodes,
            lifecycle: Lifecycle::steady(LIFETIME, 0.0),
            irregularities: self.irregularities,
            persistence: Persistence::Repeat,
            seed,
        };
        running.spawn(Fleet::new(api.clone(), transport, options).run());
        running.spawn(controller.run());
        Cluster {
            api,
            clock,
            store,
            metrics,
            _running: running,
        }
    }
}

fn stage(from: Step, delay_ms: u64, to: Step) -> Stage {
    Stage {
        from,
        delay_ms_min: delay_ms,
        delay_ms_max: delay_ms,
        weight: 1,
        to,
    }
}

/// Reads the ConfigMap, whose template never changes here.
fn source(template: &'static str) -> ConfigMapSource {
    ConfigMapSource::new("ends", move |data| {
        let config = config::parse(&data[CONFIG_KEY], &EnvironmentDefaults::default());
        Ok(Configuration {
            config: config.map_err(|error| vec![error.to_string()])?.0,
            template: PodTemplate::parse(template).unwrap(),
            variables: ExtensionVariables::default(),
        })
    })
}

impl Cluster {
    /// What a person does with `kubectl annotate`.
    fn annotate(&self, key: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, "ends");
        let (now, options) = (self.api.now(), WriteOptions::default());
        let patched = self.api.with_state(|state| {
            state.patch(now, target, Part::Whole, &Patch::Merge(patch), options)
        });
        patched.unwrap();
    }

    fn summary(&self) -> Option<ExecutionSummary> {
        self.summary_of(EXECUTION)
    }

    fn summary_of(&self, execution: &str) -> Option<ExecutionSummary> {
        let id = ExecutionId::parse(execution).unwrap();
        let bytes = self.store.get(&id, summary::FILE_NAME)?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits for the end of the execution, and a little for what follows it.
    async fn ended(&self) -> ExecutionSummary {
        let summary = loop {
            sleep(Duration::from_millis(250)).await;
            let hours = self.clock.monotonic().since(Monotonic::START).as_secs() / 3600;
            assert!(
                hours < 2,
                "the execution does not end: {:?}",
                self.summary()
            );
            if let Some(summary) = self.summary().filter(|summary| summary.end_time.is_some()) {
                break summary;
            }
        };
        sleep(Duration::from_secs(1)).await;
        summary
    }

    /// Reason and note of the controller's events.
    fn events(&self) -> Vec<(String, String)> {
        self.api.read(|state| {
            let events = state.iter(&resource::EVENTS_V1, Some(NAMESPACE));
            events
                .map(|event| event.to_value(&resource::EVENTS_V1))
                .map(|event| {
                    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                    (text("reason"), text("note"))
                })
                .filter(|(reason, _)| reason != "JobChecked")
                .collect()
        })
    }

    /// What the event of that reason says; there is one.
    fn note(&self, reason: &str) -> String {
        let events = self.events();
        let told: Vec<_> = events.iter().filter(|(told, _)| told == reason).collect();
        assert_eq!(told.len(), 1, "{reason} in {events:?}");
        told[0].1.clone()
    }

    fn failures(&self, reason: Reason) -> u64 {
        let text = self.metrics.render();
        let series = format!(
            "batch_job_controller_node_failures_total{{reason=\"{}\"}} ",
            reason.as_str()
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap().parse().unwrap()
    }

    fn pods(&self) -> BTreeMap<String, String> {
        self.api.read(|state| {
            let pods = state.iter(&resource::PODS, Some(NAMESPACE));
            pods.map(|pod| {
                let name = pod.metadata.name.to_string();
                (name, pod.text("/status/phase").to_owned())
            })
            .collect()
        })
    }
}

fn node(summary: &ExecutionSummary, number: u32) -> &NodeSummary {
    let name = format!("node-{number}");
    let mut nodes = summary.nodes.iter();
    nodes.find(|node| node.node == name).unwrap()
}

/// Node 1 ends so, node 2 succeeds in the slot that node 1 had.
async fn check(case: Case, state: NodeState, reason: Reason, message: &str) {
    let cluster = case.start();
    let summary = cluster.ended().await;
    check_end(&cluster, &summary, state, reason, message);
}

fn check_end(
    cluster: &Cluster,
    summary: &ExecutionSummary,
    state: NodeState,
    reason: Reason,
    message: &str,
) {
    let ended = node(summary, 1);
    assert_eq!(
        (ended.state, ended.reason),
        (state, Some(reason)),
        "{ended:?}"
    );
    assert!(ended.message.contains(message), "{}", ended.message);
    assert_eq!(node(summary, 2).state, NodeState::Succeeded, "{summary:?}");
    assert!(node(summary, 2).start_time >= ended.end_time, "{summary:?}");
    assert_eq!(summary.state, ExecutionState::Degraded);
    assert_eq!(cluster.failures(reason), 1);
    let note = cluster.note(reason.as_str());
    assert!(note.contains("node-1") && note.contains(message), "{note}");
    let end = cluster.note("ExecutionDegraded");
    let counted = format!("{} 1 (node-1)", reason.as_str());
    assert!(end.contains(&counted), "{end}");
}

/// The seconds that node 1 held its slot.
fn held(summary: &ExecutionSummary) -> u64 {
    let node = node(summary, 1);
    let held = node
        .end_time
        .unwrap()
        .duration_since(node.start_time.unwrap());
    u64::try_from(held.as_secs()).unwrap()
}

use NodeState::{Failed, Lost};

#[tokio::test(start_paused = true)]
async fn a_pod_whose_container_fails_has_failed() {
    let case = Case::new().leads_to(Step::Failed);
    check(case, Failed, Reason::PodFailed, "the check has failed").await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_has_failed_with_the_kubelets_words() {
    let case = Case::new().leads_to(Step::Evicted);
    check(case, Failed, Reason::Evicted, "low on resource: memory").await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_has_failed() {
    let cluster = Case::new().never_ends().start();
    let name = format!("ends-job-node-1-{EXECUTION}");
    while cluster.pods().get(&name).map(String::as_str) != Some("Running") {
        sleep(Duration::from_millis(100)).await;
    }
    let now = cluster.api.now();
    let target = Target::new(&resource::PODS, NAMESPACE, &name);
    (cluster.api)
        .with_state(|state| state.delete(now, target, &DeleteOptions::default()))
        .unwrap();
    let summary = cluster.ended().await;
    check_end(&cluster, &summary, Failed, Reason::Deleted, "was deleted");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_the_reason_once_the_start_deadline_has_passed() {
    let case = Case::new()
        .set("podStartDeadline", json!("2m"))
        .begins_with(Step::ImagePullBackOff);
    let cluster = case.start();
    sleep(Duration::from_secs(90)).await;
    let running = cluster.summary().unwrap();
    assert_eq!(node(&running, 1).state, NodeState::Running);
    assert!(
        node(&running, 1).message.contains("ImagePullBackOff"),
        "shown while it waits"
    );
    let summary = cluster.ended().await;
    assert_eq!(held(&summary), 120);
    let words = "container job: ImagePullBackOff: Back-off pulling image";
    check_end(&cluster, &summary, Failed, Reason::ImagePull, words);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_no_image_fails_at_once() {
    let case = Case::new().begins_with(Step::InvalidImageName);
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert!(held(&summary) < 2);
    check_end(
        &cluster,
        &summary,
        Failed,
        Reason::ImagePull,
        "InvalidImageName",
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_created_says_why_once_the_start_deadline_has_passed() {
    let case = Case::new().begins_with(Step::CreateContainerConfigError);
    let words = "secret \"credentials\" not found";
    check(case, Failed, Reason::CreateContainer, words).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_runs_for_no_known_reason_passes_the_start_deadline() {
    let case = Case::new().begins_with(Step::Creating);
    let words = "not running after 600 s";
    check(case, Failed, Reason::StartDeadline, words).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kubelet_refuses_says_why() {
    for (step, reason, words) in [
        (Step::OutOfPods, Reason::OutOfPods, "OutOfpods"),
        (Step::OutOfCpu, Reason::OutOfResources, "OutOfcpu"),
        (
            Step::UnexpectedAdmissionError,
            Reason::KubeletRefused,
            "no healthy devices",
        ),
    ] {
        check(Case::new().begins_with(step), Failed, reason, words).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_refuses_says_why() {
    let mut case = Case::new();
    case.template = "{kind: Pod, spec: {containers: [{{ if ne .NodeName \"node-1\" }}{name: job, image: i}{{ end }}]}}";
    let cluster = case.start();
    let summary = cluster.ended().await;
    let refused = node(&summary, 1);
    assert_eq!(
        (refused.state, refused.reason),
        (Failed, Some(Reason::Refused))
    );
    assert!(
        refused.message.contains("spec.containers"),
        "{}",
        refused.message
    );
    assert_eq!(node(&summary, 2).state, NodeState::Succeeded);
    assert_eq!(cluster.failures(Reason::Refused), 1);
    let note = cluster.note("Refused");
    assert!(
        note.contains("node-1") && note.contains("spec.containers"),
        "{note}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_too_long_is_deleted_and_frees_its_slot_when_it_has_gone() {
    let case = Case::new().set("podRunDeadline", json!("1m")).never_ends();
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(held(&summary), 61);
    check_end(
        &cluster,
        &summary,
        Failed,
        Reason::RunDeadline,
        "still running after 60 s",
    );
    assert!(!cluster.pods().keys().any(|name| name.contains("node-1")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_stuck_terminating_is_given_up_with_its_node() {
    let case = Case::new()
        .set("podRunDeadline", json!("1m"))
        .set("nodeLostTimeout", json!("2m"))
        .leads_to(Step::Hanging);
    let cluster = case.start();
    let summary = cluster.ended().await;
    // Until the deadline, the grace period, and what a node is given.
    assert_eq!(held(&summary), 1 + 60 + 30 + 120);
    let words = "the kubelet did not stop the pod, which was deleted for RunDeadline";
    check_end(&cluster, &summary, Lost, Reason::NodeLost, words);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_for_too_long_is_lost() {
    let lasts = OutageKind::NotReady { lasts: None };
    let case = Case::new().outage(1, 2, lasts);
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(held(&summary), 302);
    check_end(
        &cluster,
        &summary,
        Lost,
        Reason::NodeLost,
        "NotReady for 300 s",
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_back_in_time_goes_on() {
    let lasts = OutageKind::NotReady {
        lasts: Some(Duration::from_secs(200)),
    };
    let cluster = Case::new().outage(1, 2, lasts).start();
    let summary = cluster.ended().await;
    assert_eq!(summary.state, ExecutionState::Succeeded, "{summary:?}");
    assert!(held(&summary) > 200);
    assert!(cluster.events().is_empty(), "{:?}", cluster.events());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_deleted_is_lost_at_once() {
    let case = Case::new().outage(1, 2, OutageKind::Deleted);
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(held(&summary), 2);
    check_end(
        &cluster,
        &summary,
        Lost,
        Reason::NodeLost,
        "the node was deleted",
    );
}

#[tokio::test(start_paused = true)]
async fn another_node_under_the_name_is_not_the_one_that_was_lost() {
    let case = Case::new().outage(1, 2, OutageKind::Replaced);
    check(case, Lost, Reason::NodeLost, "the node was deleted").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_while_its_node_is_not_ready_is_lost() {
    let lasts = OutageKind::NotReady { lasts: None };
    let cluster = Case::new().outage(1, 2, lasts).start();
    sleep(Duration::from_secs(100)).await;
    let now = cluster.api.now();
    let name = format!("ends-job-node-1-{EXECUTION}");
    let target = Target::new(&resource::PODS, NAMESPACE, &name);
    (cluster.api)
        .with_state(|state| state.delete(now, target, &DeleteOptions::now()))
        .unwrap();
    let summary = cluster.ended().await;
    let words = "the node was NotReady when its pod ended";
    check_end(&cluster, &summary, Lost, Reason::NodeLost, words);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_vanishes_before_its_turn_was_not_started() {
    let cluster = Case::new().outage(2, 2, OutageKind::Deleted).start();
    let summary = cluster.ended().await;
    assert_eq!(node(&summary, 1).state, NodeState::Succeeded);
    let vanished = node(&summary, 2);
    assert_eq!(
        (vanished.state, vanished.reason, vanished.attempts),
        (NodeState::NotStarted, Some(Reason::NodeLost), 0)
    );
    assert_eq!(summary.state, ExecutionState::Degraded);
}

#[tokio::test(start_paused = true)]
async fn an_execution_past_its_deadline_has_failed_and_starts_nothing_more() {
    let case = Case::new()
        .set("executionDeadline", json!("30s"))
        .leads_to(Step::Hanging)
        .set("nodeLostTimeout", json!("10s"));
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(summary.state, ExecutionState::Failed);
    let running = node(&summary, 1);
    assert_eq!(
        (running.state, running.reason),
        (Lost, Some(Reason::NodeLost))
    );
    let waiting = node(&summary, 2);
    assert_eq!(
        (waiting.state, waiting.reason),
        (NodeState::NotStarted, Some(Reason::ExecutionDeadline))
    );

    let case = Case::new()
        .set("executionDeadline", json!("30s"))
        .never_ends();
    let cluster = case.start();
    let summary = cluster.ended().await;
    let running = node(&summary, 1);
    assert_eq!(
        (running.state, running.reason),
        (Failed, Some(Reason::ExecutionDeadline))
    );
    assert_eq!(held(&summary), 30);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_execution_deletes_its_pod_and_the_slot_is_free_for_what_is_triggered() {
    let cluster = Case::new().never_ends().start();
    sleep(Duration::from_secs(70)).await;
    cluster.annotate(ANNOTATION_CANCEL, "stop");
    let summary = cluster.ended().await;
    assert_eq!(summary.state, ExecutionState::Cancelled);
    let (running, waiting) = (node(&summary, 1), node(&summary, 2));
    let cancelled = Some(Reason::Cancelled);
    assert_eq!((running.state, running.reason), (Failed, cancelled));
    assert_eq!(
        (waiting.state, waiting.reason),
        (NodeState::NotStarted, cancelled)
    );
    assert_eq!(cluster.failures(Reason::Cancelled), 1);
    assert!(cluster.note("Cancelled").contains("by hand"));
    assert!(
        cluster
            .note("ExecutionCancelled")
            .contains("Cancelled 1 (node-1)")
    );
    assert!(cluster.pods().is_empty(), "{:?}", cluster.pods());

    let value = r#"{"nodes": "kubernetes.io/hostname=node-2"}"#;
    cluster.annotate(ANNOTATION_TRIGGER, value);
    sleep(Duration::from_secs(30)).await;
    let executions = cluster.store.list_executions().await.unwrap();
    let summary = cluster.summary_of(executions[1].as_str()).unwrap();
    assert_eq!(summary.state, ExecutionState::Succeeded, "{summary:?}");
    assert_eq!(node(&summary, 1).reason, Some(Reason::NotSelected));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_tried_again_with_backoff_while_others_use_the_slot() {
    let case = Case::new().set("retries", json!(2)).leads_to(Step::Failed);
    let cluster = case.start();
    let summary = cluster.ended().await;
    let tried = node(&summary, 1);
    assert_eq!((tried.state, tried.attempts), (Failed, 3));
    assert_eq!(node(&summary, 2).state, NodeState::Succeeded);
    assert_eq!(cluster.failures(Reason::PodFailed), 1, "one node");
    let names: Vec<String> = cluster.pods().into_keys().collect();
    let first = format!("ends-job-node-1-{EXECUTION}");
    assert_eq!(
        names[..3],
        [first.clone(), format!("{first}-2"), format!("{first}-3")]
    );
    cluster.note("PodFailed");
    let end = cluster.note("ExecutionDegraded");
    assert!(end.contains("PodFailed 3 (node-1"), "{end}");
    // 3 s each, with 10 s and 20 s in between; node 2 took the slot in the first pause.
    let makespan = summary.makespan_ms.unwrap() / 1000;
    assert!((39..42).contains(&makespan), "{makespan}");
}

#[tokio::test(start_paused = true)]
async fn the_same_failure_of_many_nodes_is_said_once_with_a_count() {
    let mut case = Case::new().set("podPoolSize", json!(5));
    case.nodes = 20;
    for node in 1..=12 {
        let stages = vec![stage(Step::Accepted, 100, Step::OutOfPods)];
        (case.irregularities.lifecycles).insert(node, Lifecycle::new(stages));
    }
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(summary.counts.get(&Failed), Some(&12));
    cluster.note("OutOfPods");
    let end = cluster.note("ExecutionDegraded");
    assert!(end.contains("OutOfPods 12 (node-1, "), "{end}");
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_stop_the_execution_where_the_policy_is_fail_fast() {
    for (policy, state) in [
        ("FailFast", NodeState::NotStarted),
        ("Continue", NodeState::Succeeded),
    ] {
        let case = Case::new()
            .set("maxFailures", json!(0))
            .set("failurePolicy", json!(policy))
            .leads_to(Step::Failed);
        let cluster = case.start();
        let summary = cluster.ended().await;
        assert_eq!(summary.state, ExecutionState::Failed, "{policy}");
        assert_eq!(node(&summary, 2).state, state, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn ended_pods_beyond_the_limit_are_deleted_failed_ones_last() {
    let mut case = Case::new()
        .set("endedPods", json!(2))
        .leads_to(Step::Failed);
    case.nodes = 6;
    let cluster = case.start();
    let summary = cluster.ended().await;
    assert_eq!(summary.counts.get(&NodeState::Succeeded), Some(&5));
    let pods = cluster.pods();
    assert_eq!(pods.len(), 2, "{pods:?}");
    assert!(
        pods.contains_key(&format!("ends-job-node-1-{EXECUTION}")),
        "{pods:?}"
    );
}
