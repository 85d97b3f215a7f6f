//! The controller's adapter for a real cluster behind faults that the client alone does not get over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::pin::pin;
use std::time::Duration;

use controller::adapter::kube_cluster::KubeCluster;
use controller::adapter::retry_after;
use controller::ports::cluster::{Cluster as _, PodWatchEvent};
use controller::ports::error::ClusterErrorKind;
use futures::StreamExt as _;
use kube::Client;
use simulator::apiserver::ApiServer;
use simulator::clock::SimClock;
use simulator::faults::{Faults, Kind, Placed, Plan};
use simulator::layer::FaultLayer;
use simulator::rng::Seed;
use simulator::state::{Options, State};
use tokio::time::timeout;
use tower::Layer as _;
use tower::util::MapResponseLayer;

const NAMESPACE: &str = "default";

/// The adapter with the first call that a kind may befall befallen by it.
fn adapter(kind: Kind) -> (KubeCluster, Faults) {
    let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let api = ApiServer::new(State::new(&Options::default()), clock.of_api_server());
    let plan = Plan::placed(vec![Placed { kind, nth: 1 }]);
    let faults = Faults::new(plan, Seed::of_run(1));
    let service = FaultLayer::new(faults.clone(), api.clone()).layer(api.router());
    let service = MapResponseLayer::new(retry_after::keep).layer(service);
    let client = Client::new(service, NAMESPACE);
    (KubeCluster::new(client, NAMESPACE, "my"), faults)
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_is_told_once_and_then_listed_again() {
    let (cluster, faults) = adapter(Kind::GoneAtStart);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut events = pin!(cluster.watch_pods());
        while let Ok(Some(event)) = timeout(Duration::from_mins(5), events.next()).await {
            kinds.push(event.map_err(|error| error.kind));
        }
    }
    let restarted = || Ok(PodWatchEvent::Restarted(Vec::new()));
    let expected = [restarted(), Err(ClusterErrorKind::Gone), restarted()];
    assert_eq!(kinds, expected);
    assert_eq!(faults.tally().count(Kind::GoneAtStart).noticed, 1);
}

#[tokio::test(start_paused = true)]
async fn the_pause_that_a_server_asks_for_is_told_whatever_form_it_has() {
    let (cluster, _) = adapter(Kind::TooManyRequests);
    let error = cluster.list_nodes().await.unwrap_err();
    let ClusterErrorKind::Throttled {
        retry_after: Some(pause),
    } = error.kind
    else {
        panic!("{error:?}");
    };
    assert!(pause >= Duration::from_secs(1));
    assert_eq!(cluster.list_nodes().await.unwrap().nodes, []);
}
