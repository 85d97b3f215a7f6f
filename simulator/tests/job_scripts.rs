//! The example jobs against the controller as a process on a served cluster, in `callbackAuth: required`: with the
//! environment of a job pod that it has created, and through its end and its start while they post.
//!
//! This test runs itself as the controller: Cargo gives a package's tests only its own binaries.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../controller/tests/support/jobs.rs"]
mod jobs;
#[path = "../../controller/tests/support/lines.rs"]
mod lines;
#[path = "common/served.rs"]
mod served;

use std::convert::Infallible;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use controller::extension::Extension;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use self::jobs::{Job, jobs};
use self::lines::{Lines, PATIENCE};
use self::served::Served;

/// Where the controller listens.
const LISTENING: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Where job pods find it: a door that the test holds, as a Service stands before pods that come and go.
const DOOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const TEMPLATE: &str = "spec: {containers: [{name: job, image: job}]}";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return controller::app::main(|_| Ok::<_, Infallible>(Extension::new()));
    }
    let (jobs, _busybox) = jobs();
    thread::scope(|scope| {
        for job in &jobs {
            scope.spawn(|| {
                each_delivers_to_a_controller_that_requires_tokens(job);
                each_delivers_through_restarts_of_the_controller(job);
                println!("test {} ... ok", job.title);
            });
        }
    });
    ExitCode::SUCCESS
}

fn each_delivers_to_a_controller_that_requires_tokens(job: &Job) {
    block_on(async {
        let mut stage = Stage::set(LISTENING).await;
        let variables = stage.variables().await;
        let (ok, messages) = job.run(&variables);
        assert!(ok && messages.is_empty(), "{}: {messages:?}", job.title);
        stage.assert_delivered(job).await;
    });
}

fn each_delivers_through_restarts_of_the_controller(job: &Job) {
    block_on(async {
        let mut stage = Stage::set(DOOR).await;
        let variables = stage.variables().await;
        let mut door = stage.open().await;
        let (mut script, messages) = job.start(&variables);

        // Killed between two posts: nothing listens to the second.
        let (file, mut client) = accept(&door).await;
        let answer = stage.ask(&file).await;
        drop(door);
        stage.kill();
        client.write_all(&answer).await.unwrap();
        drop(client);
        messages.until("event: try 1");
        stage.start_controller();
        door = stage.open().await;
        let (event, mut client) = accept(&door).await;
        client.write_all(&stage.ask(&event).await).await.unwrap();
        drop(client);

        // Killed when it has the result, and nobody has heard so.
        let (result, client) = accept(&door).await;
        let unheard = stage.ask(&result).await;
        assert!(unheard.starts_with(b"HTTP/1.1 200"));
        stage.kill();
        drop(client);
        messages.until("result: try 1");
        stage.start_controller();
        let (again, mut client) = accept(&door).await;
        client.write_all(&stage.ask(&again).await).await.unwrap();
        drop(client);

        assert!(script.wait().unwrap().success(), "{}", job.title);
        assert_eq!(messages.next(), None, "{}", job.title);
        stage.assert_delivered(job).await;
    });
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.enable_all().build().unwrap().block_on(test);
}

/// A post, and who waits for its answer.
async fn accept(door: &TcpListener) -> (Vec<u8>, TcpStream) {
    let (mut client, _) = timeout(PATIENCE, door.accept()).await.unwrap().unwrap();
    let request = read_message(&mut client).await;
    (request, client)
}

/// A request or an answer, head and body.
async fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = Vec::new();
    while !message.ends_with(b"\r\n\r\n") {
        message.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        if message == b"HTTP/1.1 100 Continue\r\n\r\n" {
            message.clear();
        }
    }
    let head = String::from_utf8(message.clone()).unwrap();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.unwrap().1.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    message.extend(body);
    message
}

/// A cluster of one node, and the controller on it.
struct Stage {
    cluster: Served,
    client: Client,
    directory: TempDir,
    /// Where job pods find the controller.
    pod_ip: Ipv4Addr,
    callback_port: u16,
    metrics_port: u16,
    controller: Option<(Child, Lines)>,
}

impl Stage {
    /// Starts both; the controller begins an execution at once.
    async fn set(pod_ip: Ipv4Addr) -> Self {
        // Its own pod does nothing for longer than this takes.
        let cluster = Served::start(&["--nodes", "1", "--pod-seconds", "3600"]);
        let config = Config::new(cluster.url.parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let free: Vec<std::net::TcpListener> = (0..4)
            .map(|_| std::net::TcpListener::bind((LISTENING, 0)).unwrap())
            .collect();
        let ports: Vec<u16> = (free.iter())
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        drop(free);
        let directory = TempDir::new().unwrap();
        let config = json!({
            "name": "audit",
            "cronExpression": "@yearly",
            "runOnStartup": true,
            "startupDelay": "0s",
            "reportDirectory": directory.path(),
            "callbackAuth": "required",
            "callbackServicePort": ports[0],
            "fileServerPort": ports[1],
            "healthProbePort": ports[2],
            "metrics": {"port": ports[3], "gauges": {"disk_used_ratio": {"labels": ["mount"]}}},
        });
        let config_map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": "audit"},
            "data": {"config.yaml": config.to_string(), "pod-template.yaml": TEMPLATE},
        }))
        .unwrap();
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        (config_maps
            .create(&PostParams::default(), &config_map)
            .await)
            .unwrap();
        let mut stage = Self {
            cluster,
            client,
            directory,
            pod_ip,
            callback_port: ports[0],
            metrics_port: ports[3],
            controller: None,
        };
        stage.start_controller();
        stage
    }

    /// Starts the controller as the same container of the same pod; returns once it leads.
    fn start_controller(&mut self) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("run")
            .env_clear()
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .env("NAMESPACE", "default")
            .env("CONFIG_MAP_NAME", "audit")
            .env("POD_NAME", "audit-0")
            .env("POD_IP", self.pod_ip.to_string())
            .env("LISTEN_ADDRESS", LISTENING.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        log.until("leading");
        self.controller = Some((child, log));
    }

    /// Kills the controller.
    fn kill(&mut self) {
        let (mut child, _) = self.controller.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Listens where job pods find the controller.
    async fn open(&self) -> TcpListener {
        TcpListener::bind((self.pod_ip, self.callback_port))
            .await
            .unwrap()
    }

    /// What the controller answers to a request.
    async fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect((LISTENING, self.callback_port))
            .await
            .unwrap();
        stream.write_all(request).await.unwrap();
        read_message(&mut stream).await
    }

    /// The environment of the job pod, once it is created.
    async fn variables(&self) -> Vec<(String, String)> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let created = async {
            let watch = pods.watch(&WatchParams::default(), "0").await.unwrap();
            let mut changes = std::pin::pin!(watch);
            loop {
                if let Some(WatchEvent::Added(pod)) = changes.try_next().await.unwrap() {
                    break pod;
                }
            }
        };
        let pod = timeout(PATIENCE, created).await.unwrap();
        let container = pod.spec.unwrap().containers.remove(0);
        let variables = container.env.unwrap().into_iter();
        variables
            .filter_map(|variable| Some((variable.name, variable.value?)))
            .collect()
    }

    /// The file and the result are stored, the result is exported, the event is there once.
    async fn assert_delivered(&mut self, job: &Job) {
        let title = job.title;
        let latest = self.directory.path().join("latest");
        let read = |name: &str| fs::read_to_string(latest.join(name)).unwrap();
        assert!(!read("node-1-df.txt").is_empty(), "{title}");
        assert!(
            read("node-1.json").starts_with("{\"disk_used_ratio\""),
            "{title}"
        );

        let mut stream = TcpStream::connect((LISTENING, self.metrics_port))
            .await
            .unwrap();
        let scrape = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(scrape).await.unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.unwrap();
        let series = metrics
            .lines()
            .find(|line| line.starts_with("audit_disk_used_ratio{"));
        assert!(
            series.is_some_and(|series| series.contains("mount=\"/\"")),
            "{title}: {series:?}"
        );

        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let checked = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("DiskChecked"));
        assert_eq!(checked.count(), 1, "{title}");
        self.kill();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Where a test fails.
        if let Some((child, _)) = &mut self.controller {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
