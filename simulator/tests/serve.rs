//! `simulator serve` as a process: what it prints, how it ends, and that its pods post to a Service over real HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/served.rs"]
mod served;

use std::process::{Command, ExitStatus};
use std::time::Duration;

use axum::Router;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use served::{Served, simulator};

/// Far beyond what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn client(served: &Served) -> Client {
    let mut config = Config::new(served.url.parse().unwrap());
    config.default_namespace = "default".into();
    Client::try_from(config).unwrap()
}

/// Sends SIGTERM and waits.
fn terminate(served: &mut Served) -> ExitStatus {
    let id = served.child.id().to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status();
    assert!(kill.unwrap().success());
    served.child.wait().unwrap()
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn it_ends_well_when_told_and_takes_its_temporary_kubeconfig_with_it() {
    let mut served = Served::start(&["--nodes", "3"]);
    let text = std::fs::read_to_string(&served.kubeconfig).unwrap();
    assert!(text.contains(&served.url), "{text}");
    assert!(terminate(&mut served).success());
    assert!(!served.kubeconfig.exists());
}

#[test]
fn a_kubeconfig_that_was_asked_for_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let path = file.to_str().unwrap();
    let mut served = Served::start(&["--nodes", "0", "--kubeconfig", path]);
    assert_eq!(served.kubeconfig, file);
    assert!(terminate(&mut served).success());
    assert!(file.exists());
}

#[test]
fn a_port_in_use_is_one_clear_line_and_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = simulator(&["--nodes", "1", "--port", &port])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains(&format!("error: port {port} is in use")),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_pod_posts_to_the_endpoints_of_a_service_and_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (posted, mut posts) = mpsc::unbounded_channel();
    let callback = Router::new().fallback(move |uri: http::Uri, body: String| {
        posted.send((uri.path().to_owned(), body)).unwrap();
        async { "ok" }
    });
    tokio::spawn(async move { axum::serve(listener, callback).await });

    let served = Served::start(&["--nodes", "2", "--pod-seconds", "0.4"]);
    let client = client(&served);
    let create = PostParams::default();
    let service = json!({"metadata": {"name": "callback"}, "spec": {"clusterIP": "10.96.0.99", "ports": [{"port": 80}]}});
    let services: Api<Service> = Api::default_namespaced(client.clone());
    services.create(&create, &typed(service)).await.unwrap();
    let slice = json!({
        "metadata": {"name": "callback-1", "labels": {"kubernetes.io/service-name": "callback"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"]}],
    });
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    slices.create(&create, &typed(slice)).await.unwrap();
    let env =
        json!([{"name": "CALLBACK_SERVICE_FILE_URL", "value": "http://10.96.0.99:80/report/file"}]);
    let pod = json!({
        "metadata": {"name": "a"},
        "spec": {
            "nodeName": "node-2",
            "restartPolicy": "Never",
            "containers": [{"name": "job", "image": "i", "env": env}],
        },
    });
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&create, &typed(pod)).await.unwrap();

    let (path, body) = timeout(PATIENCE, posts.recv()).await.unwrap().unwrap();
    assert_eq!(path, "/report/file");
    assert!(body.contains("node-2"), "{body}");
    let ended = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        status.and_then(|status| status.phase.as_deref()) == Some("Succeeded")
    };
    timeout(PATIENCE, await_condition(pods, "a", ended))
        .await
        .unwrap()
        .unwrap();
}
