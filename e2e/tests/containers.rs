//! The image in a container: with a read-only root, without capabilities, as its own user; by itself, and beside a
//! simulated cluster in another container.
//!
//! `cargo xtask image --test` builds the images and names them. Every test takes a network of its own, and leaves
//! nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Execution, Site, await_condition};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Config};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use testcontainers::core::wait::ExitWaitStrategy;
use testcontainers::core::{
    AccessMode, ContainerPort, Host, IntoContainerPort as _, Mount, WaitFor,
};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::server::TlsStream;

const CONFIG: &str = include_str!("../fixtures/config.yaml");
const POD_TEMPLATE: &str = include_str!("../fixtures/pod-template.yaml");

/// Far beyond what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

const NODES: usize = 8;
const API_PORT: u16 = 8001;
const CALLBACK_PORT: u16 = 8090;
const REPORTS_PORT: u16 = 8080;
const METRICS_PORT: u16 = 9153;

/// The images to test, where they are named.
struct Images {
    controller: String,
    simulator: String,
}

impl Images {
    fn given() -> Option<Self> {
        let image = |name: &str| std::env::var(name).ok();
        let images = image("E2E_CONTROLLER_IMAGE").zip(image("E2E_SIMULATOR_IMAGE"));
        let Some((controller, simulator)) = images else {
            println!(
                "skipped: no images are named; `cargo xtask image --test` builds and tests them"
            );
            return None;
        };
        Some(Self {
            controller,
            simulator,
        })
    }
}

fn image(name: &str) -> GenericImage {
    let (name, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    GenericImage::new(name, tag)
}

/// As the chart runs it.
fn restricted(image: impl Into<ContainerRequest<GenericImage>>) -> ContainerRequest<GenericImage> {
    image
        .into()
        .with_readonly_rootfs(true)
        .with_cap_drop("ALL")
        .with_security_opt("no-new-privileges")
        .with_startup_timeout(PATIENCE)
}

/// Files for a container, which runs as another user.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        Self(directory)
    }

    /// At `/files`.
    fn mount(&self) -> Mount {
        mount(self.0.path(), "/files")
    }
}

fn mount(host: &Path, container: &str) -> Mount {
    let host: PathBuf = host.canonicalize().unwrap();
    Mount::bind_mount(host.to_string_lossy(), container).with_access_mode(AccessMode::ReadOnly)
}

/// What a command in the controller's image exits with and prints: its status, stdout and stderr.
async fn ran(images: &Images, files: &Files, command: &[&str]) -> (i64, String, String) {
    let image = image(&images.controller).with_wait_for(WaitFor::exit(ExitWaitStrategy::new()));
    let container = restricted(image)
        .with_mount(files.mount())
        .with_cmd(command.iter().copied())
        .start()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let status = container.exit_code().await.unwrap().unwrap();
    let stdout = text(container.stdout_to_vec().await.unwrap());
    (
        status,
        stdout,
        text(container.stderr_to_vec().await.unwrap()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_says_whether_a_configuration_is_right() {
    let Some(images) = Images::given() else {
        return;
    };
    let wrong = CONFIG.replace("podPoolSize: 2", "podPoolSize: 0");
    let files = Files::new(&[
        ("config.yaml", CONFIG),
        ("wrong.yaml", &wrong),
        ("pod-template.yaml", POD_TEMPLATE),
    ]);
    let validate = |config| {
        [
            "validate",
            "--config",
            config,
            "--pod-template",
            "/files/pod-template.yaml",
        ]
    };
    let (status, stdout, stderr) = ran(&images, &files, &validate("/files/config.yaml")).await;
    assert_eq!(status, 0, "{stdout}{stderr}");
    let (status, _, stderr) = ran(&images, &files, &validate("/files/wrong.yaml")).await;
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("podPoolSize"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn render_shows_the_job_pod_of_a_node() {
    let Some(images) = Images::given() else {
        return;
    };
    let files = Files::new(&[("config.yaml", CONFIG), ("pod-template.yaml", POD_TEMPLATE)]);
    let command = [
        "render",
        "--config",
        "/files/config.yaml",
        "--pod-template",
        "/files/pod-template.yaml",
        "--node",
        "node-7",
        "--execution-id",
        "202601010342",
    ];
    let (status, stdout, stderr) = ran(&images, &files, &command).await;
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains("contained-job-node-7-202601010342"),
        "{stdout}"
    );
}

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_s_service_account_is_enough_to_read_the_configuration() {
    let Some(images) = Images::given() else {
        return;
    };
    let server = ApiServer::start("api.example", "the-token").await;
    let account = Files::new(&[
        ("token", "the-token"),
        ("ca.crt", &server.authority),
        ("namespace", "default"),
    ]);
    let image = image(&images.controller).with_wait_for(WaitFor::exit(ExitWaitStrategy::new()));
    let container = restricted(image)
        .with_mount(mount(account.0.path(), SERVICE_ACCOUNT))
        .with_host("api.example", Host::HostGateway)
        .with_env_var("KUBERNETES_SERVICE_HOST", "api.example")
        .with_env_var("KUBERNETES_SERVICE_PORT", server.port.to_string())
        .with_env_var("NAMESPACE", "default")
        .with_env_var("CONFIG_MAP_NAME", "contained")
        .with_cmd(["validate"])
        .start()
        .await
        .unwrap();
    let stderr = container.stderr_to_vec().await.unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(container.exit_code().await.unwrap(), Some(0), "{stderr}");
}

/// As much of an API server as a reader of one ConfigMap needs, over TLS with an authority of its own.
struct ApiServer {
    port: u16,
    authority: String,
}

impl ApiServer {
    async fn start(name: &str, token: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let authorization = format!("authorization: Bearer {token}\r\n");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = answer(stream, &authorization).await;
                }
            }
        });
        Self { port, authority }
    }
}

/// Answers one request.
async fn answer(mut stream: TlsStream<TcpStream>, authorization: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let is_asked = head.starts_with("GET /api/v1/namespaces/default/configmaps/contained ");
    let (status, body) = if is_asked && head.contains(authorization) {
        ("200 OK", serde_json::to_string(&config_map())?)
    } else {
        ("401 Unauthorized", String::new())
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// A simulated cluster and the controller, each in a container, on a network of their own.
struct Contained {
    // Dropped in this order.
    controller: ContainerAsync<GenericImage>,
    cluster: ContainerAsync<GenericImage>,
    client: Client,
    reports: Site,
    metrics: Site,
    _files: Files,
}

impl Contained {
    /// Starts both; the controller begins an execution at once.
    async fn start(images: &Images, name: &str) -> Self {
        let network = format!("e2e-{name}-{}", std::process::id());
        let host = format!("{network}-cluster");
        let cluster = start_cluster(images, &network, &host).await;
        let client = client(&cluster).await;
        create(&client, &config_map()).await;
        create(&client, &service()).await;
        // By name, so that it must be resolved in an image that has no C library.
        let files = Files::new(&[("kubeconfig", &kubeconfig(&host))]);
        let ports = [CALLBACK_PORT, REPORTS_PORT, METRICS_PORT];
        let image = (ports.into_iter()).fold(image(&images.controller), |image, port| {
            image.with_exposed_port(port.tcp())
        });
        let controller = restricted(image)
            .with_network(&network)
            .with_mount(files.mount())
            // A volume without a name, gone with the container: it begins as the image's folder, its owner's.
            .with_mount(Mount::volume_mount("", "/var/www"))
            .with_env_var("KUBECONFIG", "/files/kubeconfig")
            .with_env_var("NAMESPACE", "default")
            .with_env_var("CONFIG_MAP_NAME", "contained")
            .start()
            .await
            .unwrap();
        let address = controller.get_bridge_ip_address().await.unwrap();
        create(&client, &endpoint_slice(&address.to_string())).await;
        Self {
            reports: site(&controller, REPORTS_PORT).await,
            metrics: site(&controller, METRICS_PORT).await,
            controller,
            cluster,
            client,
            _files: files,
        }
    }

    /// Checks everything that the execution must have left behind; on an error tells what the controller said.
    async fn check_execution(&self) {
        if let Err(error) = self.execution().await {
            let log = self.controller.stderr_to_vec().await.unwrap();
            panic!(
                "{error:#}\nthe controller's log:\n{}",
                String::from_utf8_lossy(&log)
            );
        }
    }

    async fn execution(&self) -> Result<()> {
        let execution = Execution::ended(&self.reports, PATIENCE).await?;
        execution.check_all_succeeded(NODES)?;
        execution.check_reports(&self.reports).await?;
        let gauges = ["disk_used_ratio"];
        execution
            .check_metrics(&self.metrics, "contained", &gauges)
            .await?;
        await_condition("each job pod has an event", PATIENCE, async || {
            let events: Api<Event> = Api::default_namespaced(self.client.clone());
            let events = events.list(&ListParams::default()).await?;
            let of_jobs = events
                .iter()
                .filter(|event| event.reason.as_deref() == Some("JobChecked"));
            let count = of_jobs.count();
            ensure!(count == NODES, "{count} events of {NODES} job pods");
            Ok(())
        })
        .await
    }
}

async fn start_cluster(images: &Images, network: &str, name: &str) -> ContainerAsync<GenericImage> {
    let image = image(&images.simulator)
        .with_exposed_port(API_PORT.tcp())
        .with_wait_for(WaitFor::message_on_stdout("ready "));
    let nodes = format!("--nodes={NODES}");
    let port = format!("--port={API_PORT}");
    let command = [
        "serve",
        &nodes,
        &port,
        "--address=0.0.0.0",
        "--pod-seconds=2",
        "--kubeconfig=/dev/null",
    ];
    restricted(image)
        .with_network(network)
        .with_container_name(name)
        .with_cmd(command)
        .start()
        .await
        .unwrap()
}

async fn host_port(container: &ContainerAsync<GenericImage>, port: u16) -> u16 {
    let port: ContainerPort = port.tcp();
    container.get_host_port_ipv4(port).await.unwrap()
}

async fn site(container: &ContainerAsync<GenericImage>, port: u16) -> Site {
    let port = host_port(container, port).await;
    Site::at(&format!("http://127.0.0.1:{port}")).unwrap()
}

async fn client(cluster: &ContainerAsync<GenericImage>) -> Client {
    let port = host_port(cluster, API_PORT).await;
    let mut config = Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
    config.default_namespace = "default".into();
    Client::try_from(config).unwrap()
}

async fn create<K>(client: &Client, object: &K)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), object).await.unwrap();
}

fn kubeconfig(host: &str) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{host}:{API_PORT}")}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    config.to_string()
}

fn config_map() -> ConfigMap {
    let value = json!({
        "metadata": {"name": "contained"},
        "data": {"config.yaml": CONFIG, "pod-template.yaml": POD_TEMPLATE},
    });
    serde_json::from_value(value).unwrap()
}

fn service() -> Service {
    let value = json!({
        "metadata": {"name": "callback"},
        "spec": {"clusterIP": "10.96.0.90", "ports": [{"name": "callback", "port": CALLBACK_PORT}]},
    });
    serde_json::from_value(value).unwrap()
}

/// Where the Service leads: what a cluster's own controllers would say of the controller's pod.
fn endpoint_slice(address: &str) -> EndpointSlice {
    let value = json!({
        "metadata": {"name": "callback-1", "labels": {"kubernetes.io/service-name": "callback"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "callback", "port": CALLBACK_PORT, "protocol": "TCP"}],
    });
    serde_json::from_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_runs_and_its_results_files_events_and_metrics_are_there() {
    let Some(images) = Images::given() else {
        return;
    };
    let contained = Contained::start(&images, "run").await;
    contained.check_execution().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_goes_on_where_its_cluster_was_silent_for_a_while() {
    let Some(images) = Images::given() else {
        return;
    };
    let contained = Contained::start(&images, "silent").await;
    await_condition("a node has succeeded", PATIENCE, async || {
        let metrics = contained.metrics.text("/metrics").await?;
        let none = "batch_job_controller_nodes{state=\"succeeded\"} 0\n";
        ensure!(!metrics.contains(none), "none yet");
        Ok(())
    })
    .await
    .unwrap();
    let execution = Execution::newest(&contained.reports).await.unwrap();
    let path = format!("/report/node-1/{}/event", execution.id());
    contained.cluster.pause().await.unwrap();
    // A job pod posts an event meanwhile, which only the cluster can take.
    let callback = site(&contained.controller, CALLBACK_PORT).await;
    let event = r#"{"warning": true, "reason": "Unheard", "message": "nobody listens"}"#;
    let status = callback.post(&path, event).await.unwrap();
    assert!(status.is_server_error(), "{status}");
    await_condition("the controller misses an answer", PATIENCE, async || {
        let metrics = contained.metrics.text("/metrics").await?;
        let missed = metrics.lines().any(|line| {
            line.starts_with("batch_job_controller_api_requests_total")
                && line.contains("code=\"unavailable\"")
        });
        ensure!(missed, "no call has failed so: {metrics}");
        Ok(())
    })
    .await
    .unwrap();
    contained.cluster.unpause().await.unwrap();
    contained.check_execution().await;
}
