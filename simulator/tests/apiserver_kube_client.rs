//! The real kube client on the Router, in process and under paused time: what the controller's adapter rests on.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::runtime::watcher;
use serde_json::json;
use simulator::apiserver::ApiServer;
use simulator::state::{Options, State, Target, resource};
use tokio::time::{Instant, sleep, timeout};

fn cluster() -> (ApiServer, kube::Client) {
    let start = Instant::now();
    let clock = move || Timestamp::from_second(1_000_000).unwrap() + start.elapsed();
    let server = ApiServer::new(State::new(&Options::default()), Arc::new(clock));
    let client = kube::Client::new(server.router(), "default");
    (server, client)
}

fn pod(name: &str) -> Pod {
    let value = json!({"metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "busybox"}]}});
    serde_json::from_value(value).unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn typed_calls_go_through() {
    let (server, client) = cluster();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let created = pods
        .create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    let again = pods
        .create(&PostParams::default(), &pod("a"))
        .await
        .unwrap_err();
    assert_eq!(code(&again), 409);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"k": "v"}}}));
    pods.patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
    server.with_state(|state| state.append_pod_log("default", "a", "main", "hello\n"));
    assert_eq!(
        pods.logs("a", &LogParams::default()).await.unwrap(),
        "hello\n"
    );
    let listed = pods
        .list(
            &ListParams::default()
                .labels("app=x")
                .fields("spec.nodeName=node-1"),
        )
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1);
    assert!(
        pods.delete("a", &DeleteParams::default())
            .await
            .unwrap()
            .is_left(),
        "the kubelet has not confirmed"
    );
    pods.delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(code(&pods.get("a").await.unwrap_err()), 404);
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    assert!(
        maps.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn stale_lease_update_conflicts() {
    let (_, client) = cluster();
    let leases: Api<Lease> = Api::default_namespaced(client);
    let value = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00.000000Z"}});
    let first = leases
        .create(
            &PostParams::default(),
            &serde_json::from_value(value).unwrap(),
        )
        .await
        .unwrap();
    let mut second = first.clone();
    second.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    leases
        .replace("l", &PostParams::default(), &second)
        .await
        .unwrap();
    let mut third = first;
    third.spec.as_mut().unwrap().holder_identity = Some("c".to_owned());
    assert_eq!(
        code(
            &leases
                .replace("l", &PostParams::default(), &third)
                .await
                .unwrap_err()
        ),
        409
    );
}

#[tokio::test(start_paused = true)]
async fn pages_follow_their_tokens() {
    let (_, client) = cluster();
    let nodes: Api<Node> = Api::all(client);
    for i in 0..5 {
        let node =
            serde_json::from_value(json!({"metadata": {"name": format!("node-{i}")}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }
    let mut params = ListParams::default().limit(2);
    let mut names = Vec::new();
    loop {
        let page = nodes.list(&params).await.unwrap();
        names.extend(page.items.into_iter().filter_map(|n| n.metadata.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["node-0", "node-1", "node-2", "node-3", "node-4"]);
}

#[tokio::test(start_paused = true)]
async fn watch_is_quiet_while_nothing_happens_and_prompt_when_it_does() {
    let (server, client) = cluster();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut events = pods
        .watch(&WatchParams::default().timeout(290), "4")
        .await
        .unwrap()
        .boxed();
    assert!(
        timeout(Duration::from_secs(30), events.try_next())
            .await
            .is_err()
    );
    let before = Instant::now();
    let value = serde_json::to_value(pod("a")).unwrap();
    server
        .with_state(|state| {
            state.create(
                server.now(),
                Target::new(&resource::PODS, "default", ""),
                value,
                simulator::state::WriteOptions::default(),
            )
        })
        .unwrap();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(pod) if pod.metadata.name.as_deref() == Some("a")));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn watcher_follows_for_hours_of_virtual_time() {
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (_, client) = cluster();
        let pods: Api<Pod> = Api::default_namespaced(client);
        let mut applied = watcher(pods.clone(), config).boxed();
        let writer = tokio::spawn(async move {
            for i in 0..20 {
                sleep(Duration::from_mins(10)).await;
                pods.create(&PostParams::default(), &pod(&format!("p{i}")))
                    .await
                    .unwrap();
            }
        });
        let mut seen = 0;
        while seen < 20 {
            match applied.try_next().await.unwrap().unwrap() {
                watcher::Event::Apply(_) => seen += 1,
                watcher::Event::InitApply(_) => panic!("the watch was begun again from a list"),
                watcher::Event::Delete(pod) => panic!("{pod:?}"),
                watcher::Event::Init | watcher::Event::InitDone => {}
            }
        }
        writer.await.unwrap();
    }
}
