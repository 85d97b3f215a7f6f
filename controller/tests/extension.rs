//! The example of an extension, `examples/baseline.rs`, as the process that it is: this test runs itself as that
//! controller, against a stand-in for an API server that knows a ConfigMap and a node.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "its own main")]
#[path = "../examples/baseline.rs"]
mod baseline;
#[path = "support/lines.rs"]
mod lines;
#[path = "support/mock.rs"]
mod mock;

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::lines::{Lines, PATIENCE};
use self::mock::shown;

const BASELINE: &str = r#"{"kernel": "6.12"}"#;

const TEMPLATE: &str = "
spec:
  initContainers: [{name: prepare, image: job}]
  containers: [{name: job, image: job}]
";

/// Commands of the controller; with another argument, or none, this is the test.
const COMMANDS: [&str; 4] = ["run", "validate", "render", "mock"];

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if first.is_some_and(|first| COMMANDS.contains(&first.as_str())) {
        return controller::app::main(baseline::extension);
    }
    let tests: [(&str, fn()); 6] = [
        (
            "a_job_pod_gets_the_variable_and_the_callback_port_the_route",
            a_job_pod_gets_the_variable_and_the_callback_port_the_route,
        ),
        (
            "a_background_task_that_fails_ends_the_process",
            a_background_task_that_fails_ends_the_process,
        ),
        (
            "a_start_with_a_wrong_config_map_goes_on_with_the_last_good_one",
            a_start_with_a_wrong_config_map_goes_on_with_the_last_good_one,
        ),
        (
            "validate_says_what_the_extension_misses",
            validate_says_what_the_extension_misses,
        ),
        (
            "render_shows_the_variable_in_every_container",
            render_shows_the_variable_in_every_container,
        ),
        (
            "mock_serves_the_route_and_prints_the_variable",
            mock_serves_the_route_and_prints_the_variable,
        ),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// A configuration with ports that are free, and files.
struct Setup {
    directory: TempDir,
    config: Value,
    callback_port: u16,
}

impl Setup {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("baseline.json"), BASELINE).unwrap();
        let free: Vec<TcpListener> = (0..4)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let port = |index: usize| free[index].local_addr().unwrap().port();
        let config = json!({
            "name": "audit",
            "cronExpression": "@daily",
            "runOnStartup": true,
            "startupDelay": "0s",
            "reportDirectory": directory.path().join("reports"),
            "callbackServicePort": port(0),
            "fileServerPort": port(1),
            "healthProbePort": port(2),
            "metrics": {"port": port(3), "gauges": {"plain": {}}},
            "custom": {"baselineFile": directory.path().join("baseline.json")},
        });
        Self {
            callback_port: port(0),
            directory,
            config,
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        shown(&path).to_owned()
    }

    /// Arguments for the configuration as a file.
    fn config_arguments(&self) -> [String; 2] {
        let config = self.write("config.yaml", &self.config.to_string());
        ["--config".to_owned(), config]
    }

    fn command(command: &str) -> Command {
        let mut this = Command::new(std::env::current_exe().unwrap());
        this.env_clear().arg(command);
        this
    }

    /// Starts `run` against an API server that hands on the pods that are to be created.
    fn run(&self) -> (Child, Lines, Receiver<Value>) {
        let (server, pods) = serve_api(&self.config);
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        });
        let mut child = Self::command("run")
            .env(
                "KUBECONFIG",
                self.write("kubeconfig", &kubeconfig.to_string()),
            )
            .env("NAMESPACE", "batch")
            .env("CONFIG_MAP_NAME", "audit")
            .env("POD_IP", "127.0.0.1")
            .env("LISTEN_ADDRESS", "127.0.0.1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        (child, log, pods)
    }
}

/// Serves a ConfigMap, a Secret, a Lease that whoever writes it holds, and a node that is ready; its address, and the
/// pods that are created.
fn serve_api(config: &Value) -> (String, Receiver<Value>) {
    let config_map = json!({
        "metadata": {"name": "audit", "namespace": "batch"},
        "data": {"config.yaml": config.to_string(), "pod-template.yaml": TEMPLATE},
    });
    let nodes = json!({
        "metadata": {},
        "items": [{
            "metadata": {"name": "node-1", "uid": "n1"},
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }],
    });
    let (sender, pods) = channel();
    let create = async move |Json(mut pod): Json<Value>| {
        sender.send(pod.clone()).unwrap();
        pod["metadata"]["uid"] = json!("p1");
        Json(pod)
    };
    let list = async |RawQuery(query): RawQuery| {
        if query.unwrap_or_default().contains("watch=") {
            // Nothing ever happens.
            return Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        }
        Body::from(json!({"metadata": {"resourceVersion": "1"}, "items": []}).to_string())
    };
    let written = async |Json(mut lease): Json<Value>| {
        lease["metadata"]["resourceVersion"] = json!("1");
        Json(lease)
    };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/batch/leases";
    let router = Router::new()
        .route(leases, get(list).post(written))
        .route(
            &format!("{leases}/audit-leader-election"),
            get(async || StatusCode::NOT_FOUND).patch(written),
        )
        .route(
            "/api/v1/namespaces/batch/configmaps/audit",
            get(async move || Json(config_map)),
        )
        .route(
            "/api/v1/namespaces/batch/configmaps",
            post(async |Json(created): Json<Value>| Json(created)),
        )
        .route(
            "/api/v1/namespaces/batch/configmaps/audit-state",
            get(async || {
                let none = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
                (StatusCode::NOT_FOUND, Json(none))
            })
            .patch(async |body: String| Body::from(body)),
        )
        .route(
            "/api/v1/namespaces/batch/secrets/audit-callback",
            get(async || Json(json!({"metadata": {}, "data": {"key": "A".repeat(43) + "="}}))),
        )
        .route("/api/v1/nodes", get(async move || Json(nodes)))
        .route("/api/v1/namespaces/batch/pods", get(list).post(create));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    (format!("http://{address}"), pods)
}

/// The status and the body of an answer.
fn request(method: &str, url: &str, body: &str) -> (u16, String) {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A variable of each container, init containers last.
fn values(pod: &Value, name: &str) -> Vec<String> {
    let containers = ["containers", "initContainers"].map(|kind| pod["spec"][kind].as_array());
    let containers = containers.into_iter().flatten().flatten();
    let value = |container: &Value| {
        let variables = container["env"].as_array().unwrap();
        let variable = variables.iter().find(|variable| variable["name"] == name);
        variable.unwrap()["value"].as_str().unwrap().to_owned()
    };
    containers.map(value).collect()
}

fn a_job_pod_gets_the_variable_and_the_callback_port_the_route() {
    let setup = Setup::new();
    let (mut child, log, pods) = setup.run();
    let pod = pods.recv_timeout(PATIENCE).unwrap();
    let url = format!("http://127.0.0.1:{}/baseline", setup.callback_port);
    assert_eq!(values(&pod, "BASELINE_URL"), [url.as_str(), url.as_str()]);

    log.until("baseline read");
    assert_eq!(request("GET", &url, ""), (200, BASELINE.to_owned()));
    let result = values(&pod, "CALLBACK_SERVICE_RESULT_URL").remove(0);
    let (status, answer) = request("POST", &result, r#"{"plain": [{"value": 1}]}"#);
    assert_eq!((status, answer.as_str()), (200, ""));
    assert_eq!(request("GET", &format!("{url}/none"), "").0, 404);

    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn a_background_task_that_fails_ends_the_process() {
    let mut setup = Setup::new();
    setup.config["custom"]["baselineFile"] = json!("/nowhere/baseline.json");
    let (mut child, log, _pods) = setup.run();
    let lines = log.until("error: ");
    assert!(
        lines.last().unwrap().starts_with(
            "error: background task \"baseline\": /nowhere/baseline.json: No such file"
        ),
        "{lines:#?}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

fn a_start_with_a_wrong_config_map_goes_on_with_the_last_good_one() {
    let mut setup = Setup::new();
    let data = json!({"config.yaml": setup.config.to_string(), "pod-template.yaml": TEMPLATE});
    let reports = setup.directory.path().join("reports");
    std::fs::create_dir(&reports).unwrap();
    std::fs::write(reports.join("_configuration.json"), data.to_string()).unwrap();
    setup.config["podPoolSize"] = json!(0);
    let (mut child, log, pods) = setup.run();
    log.until("podPoolSize: found 0");
    pods.recv_timeout(PATIENCE).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

fn validate_says_what_the_extension_misses() {
    let mut setup = Setup::new();
    setup.config["custom"] = json!({});
    setup.config["podPoolSize"] = json!(0);
    let validate = |setup: &Setup| {
        let mut command = Setup::command("validate");
        let output = command.args(setup.config_arguments()).output().unwrap();
        let code = output.status.code();
        (code, String::from_utf8(output.stderr).unwrap())
    };
    // What is wrong in the configuration comes first: the extension is asked about a valid one.
    assert!(validate(&setup).1.starts_with("error: podPoolSize: "));
    setup.config["podPoolSize"] = json!(1);
    let missing =
        "error: custom.baselineFile: found no text, want the path of the baseline\n".to_owned();
    assert_eq!(validate(&setup), (Some(1), missing));
}

fn render_shows_the_variable_in_every_container() {
    let setup = Setup::new();
    let template = setup.write("pod-template.yaml", TEMPLATE);
    let output = Setup::command("render")
        .args(setup.config_arguments())
        .args(["--pod-template", &template, "--node", "node-1"])
        .args(["--output", "json"])
        .output()
        .unwrap();
    let pod: Value = serde_json::from_slice(&output.stdout).unwrap();
    let url = format!("http://127.0.0.1:{}/baseline", setup.callback_port);
    assert_eq!(values(&pod, "BASELINE_URL"), [url.as_str(), url.as_str()]);
}

fn mock_serves_the_route_and_prints_the_variable() {
    let setup = Setup::new();
    let mut child = Setup::command("mock")
        .args(setup.config_arguments())
        .args(["--report-directory", shown(setup.directory.path())])
        .env("RUST_LOG", "info")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = Lines::of(child.stdout.take().unwrap());
    let url = format!("http://127.0.0.1:{}/baseline", setup.callback_port);
    stdout.until(&format!("export BASELINE_URL='{url}'"));
    Lines::of(child.stderr.take().unwrap()).until("baseline read");
    assert_eq!(request("GET", &url, ""), (200, BASELINE.to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
}
