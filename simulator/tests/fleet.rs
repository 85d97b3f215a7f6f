//! The fleet alone, under virtual time: pods live as long as they are told to, post what a job would, and can be
//! deleted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use controller::http::Answering;
use http::StatusCode;
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::callback::{InProcess, Persistence};
use simulator::clock::SimClock;
use simulator::fleet::{Fleet, FleetOptions, Irregularities, create_nodes};
use simulator::job::{EXECUTION_LABEL, OWNER_LABEL};
use simulator::kubelet::Lifecycle;
use simulator::node::NodeShape;
use simulator::rng::Seed;
use simulator::state::{DeleteOptions, Options, State, Target, WriteOptions, resource};
use tokio::time::{Instant, sleep};

/// A small cluster whose job pods live for two seconds.
struct Cluster {
    api: ApiServer,
    posted: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Cluster {
    /// Posts are answered with `status`.
    fn start(failure_share: f64, status: StatusCode) -> Self {
        Self::with_state(&Options::default(), failure_share, status)
    }

    fn with_state(options: &Options, failure_share: f64, status: StatusCode) -> Self {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let api = ApiServer::new(State::new(options), clock.of_api_server());
        create_nodes(&api, 3, &NodeShape::default()).unwrap();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&posted);
        let callback = Router::new().route(
            "/{kind}",
            axum::routing::post(async move |Path(kind): Path<String>, body: Bytes| {
                seen.lock().unwrap().push((kind, body));
                status
            }),
        );
        let fleet_options = FleetOptions {
            nodes: 2,
            lifecycle: Lifecycle::steady(Duration::from_secs(2), failure_share),
            irregularities: Irregularities::default(),
            persistence: Persistence::Repeat,
            seed: Seed::of_run(1),
        };
        let fleet = Fleet::new(
            api.clone(),
            InProcess(Answering::new(callback)),
            fleet_options,
        );
        tokio::spawn(fleet.run());
        Self { api, posted }
    }

    fn create(&self, row: &'static simulator::state::Row, object: Value) {
        let now = self.api.now();
        let target = Target::new(row, "default", "");
        let created = self
            .api
            .with_state(|state| state.create(now, target, object, WriteOptions::default()));
        created.unwrap();
    }

    fn create_pod(&self, name: &str, node: &str) {
        let env: Vec<Value> = ["RESULT", "FILE", "EVENT"]
            .iter()
            .map(|kind| json!({"name": format!("CALLBACK_SERVICE_{kind}_URL"), "value": format!("http://callback/{}", kind.to_lowercase())}))
            .collect();
        self.create(
            &resource::PODS,
            json!({
                "metadata": {"name": name, "labels": {OWNER_LABEL: "my-job", EXECUTION_LABEL: "202601010000"}},
                "spec": {
                    "nodeName": node,
                    "restartPolicy": "Never",
                    "containers": [{"name": "job", "image": "i", "env": env}],
                },
            }),
        );
    }

    fn phase(&self, name: &str) -> Option<String> {
        let target = Target::new(&resource::PODS, "default", name);
        self.api.with_state(|state| {
            state
                .find(target)
                .map(|pod| pod.text("/status/phase").to_owned())
        })
    }

    fn log(&self, name: &str) -> String {
        self.api.with_state(|state| {
            state
                .pod_log("default", name, None)
                .unwrap()
                .text
                .to_owned()
        })
    }

    /// How long until the pod has that phase.
    async fn until(&self, name: &str, phase: Option<&str>) -> Duration {
        let begun = Instant::now();
        while self.phase(name).as_deref() != phase {
            assert!(
                begun.elapsed() < Duration::from_mins(10),
                "{name} never was {phase:?}"
            );
            sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_came_while_the_watch_had_expired_run_all_the_same() {
    let short = Options {
        history: 3,
        ..Options::default()
    };
    let cluster = Cluster::with_state(&short, 0.0, StatusCode::OK);
    sleep(Duration::from_secs(1)).await;
    let names: Vec<String> = (0..8).map(|number| format!("pod-{number}")).collect();
    for name in &names {
        cluster.create_pod(name, "node-1");
    }
    for name in &names {
        cluster.until(name, Some("Succeeded")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_exactly_its_lifetime_after_its_creation_having_posted() {
    let cluster = Cluster::start(0.0, StatusCode::OK);
    cluster.create(
        &resource::CONFIG_MAPS,
        json!({"metadata": {"name": "c"}, "data": {"config.yaml": "name: my-job\nmetrics:\n  gauges:\n    disk: {help: h, labels: [mount]}\n"}}),
    );
    cluster.create_pod("a", "node-1");
    let lived = cluster.until("a", Some("Succeeded")).await;
    assert!(
        lived.abs_diff(Duration::from_secs(2)) <= Duration::from_millis(1),
        "{lived:?}"
    );
    let posted = cluster.posted.lock().unwrap().clone();
    let kinds: Vec<&str> = posted.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, ["result", "file", "event"]);
    let result: Value = serde_json::from_slice(&posted[0].1).unwrap();
    assert_eq!(result["disk"][0]["labels"], json!({"mount": "mount-1"}));
    assert_eq!(
        cluster.log("a"),
        "started\nposted result: 200\nposted file: 200\nposted event: 200\nexit code 0\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_pods_fails_and_says_so() {
    let cluster = Cluster::start(1.0, StatusCode::OK);
    cluster.create_pod("a", "node-1");
    cluster.until("a", Some("Failed")).await;
    let target = Target::new(&resource::PODS, "default", "a");
    let pod = cluster.api.with_state(|state| state.get(target)).unwrap();
    let ended = pod
        .pointer("/status/containerStatuses/0/state/terminated")
        .unwrap();
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(1), &json!("Error"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_post_is_refused_for_good_fails_at_once() {
    let cluster = Cluster::start(0.0, StatusCode::NOT_ACCEPTABLE);
    cluster.create_pod("a", "node-1");
    assert!(cluster.until("a", Some("Failed")).await < Duration::from_secs(2));
    assert!(
        cluster
            .log("a")
            .contains("the result was not accepted: 406"),
        "{}",
        cluster.log("a")
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_post_stays_running_for_a_minute_then_fails() {
    let cluster = Cluster::start(0.0, StatusCode::SERVICE_UNAVAILABLE);
    cluster.create_pod("a", "node-1");
    cluster.until("a", Some("Running")).await;
    let lived = cluster.until("a", Some("Failed")).await;
    assert!((55..65).contains(&lived.as_secs()), "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_that_is_deleted_ends_and_goes() {
    let cluster = Cluster::start(0.0, StatusCode::OK);
    cluster.create_pod("a", "node-1");
    cluster.until("a", Some("Running")).await;
    let now = cluster.api.now();
    let target = Target::new(&resource::PODS, "default", "a");
    let deleted = cluster
        .api
        .with_state(|state| state.delete(now, target, &DeleteOptions::default()))
        .unwrap();
    assert!(!deleted.is_gone());
    assert!(cluster.until("a", None).await < Duration::from_secs(1));
    // Nothing of it comes back.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.phase("a"), None);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_vanished_leaves_its_successor_of_the_same_name_alone() {
    let cluster = Cluster::start(0.0, StatusCode::OK);
    cluster.create_pod("a", "node-1");
    cluster.until("a", Some("Running")).await;
    let now = cluster.api.now();
    let target = Target::new(&resource::PODS, "default", "a");
    cluster
        .api
        .with_state(|state| state.delete(now, target, &DeleteOptions::now()))
        .unwrap();
    cluster.create_pod("a", "node-2");
    let lived = cluster.until("a", Some("Succeeded")).await;
    assert!(
        lived.abs_diff(Duration::from_secs(2)) <= Duration::from_millis(1),
        "{lived:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_nodes_and_of_none_are_left_alone() {
    let cluster = Cluster::start(0.0, StatusCode::OK);
    cluster.create_pod("a", "node-3");
    cluster.create_pod("b", "");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.phase("a").as_deref(), Some("Pending"));
    assert_eq!(cluster.phase("b").as_deref(), Some("Pending"));
}
