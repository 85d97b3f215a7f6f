//! A running controller with everything around it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use controller::config::pod_template::PodTemplate;
use controller::config::{self, CallbackAuth, Config, EnvironmentDefaults};
use controller::core::job_pod::ExtensionVariables;
use controller::core::summary::ExecutionSummary;
use controller::http::callback::{Authentication, CallbackRules};
use controller::http::{self as server, callback};
use controller::metrics::Metrics;
use controller::runtime::configuration::{ConfigMapSource, Configuration};
use controller::runtime::controller::Controller;
use controller::runtime::handle::ControllerHandle;
use controller::runtime::{PortSet, Settings};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use super::cluster::{State, TestCluster};
use super::reports::TestReports;
use super::{PATIENCE, TestClock, TestEntropy, instant, tokens};

const TEMPLATE: &str = "
kind: Pod
spec:
  initContainers:
    - {name: prepare, image: job}
  containers:
    - {name: job, image: job}
";

/// What a controller is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    config: Value,
    pub template: String,
    pub nodes: Vec<String>,
    pub start: Timestamp,
    pub dev_mode: bool,
    pub pod_ip: Option<String>,
    pub variables: ExtensionVariables,
}

impl Setup {
    /// The controller of the recordings: `audit` in `batch`, due at 23:59 a second after its start.
    pub fn new(nodes: &[&str]) -> Self {
        Self {
            config: json!({
                "name": "audit",
                "cronExpression": "59 23 * * *",
                "latestMetricsLabel": true,
                "metrics": {"gauges": {"test": {"labels": ["label_a", "label_b"]}, "plain": {}}},
            }),
            template: TEMPLATE.to_owned(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            start: instant("2026-11-23T23:58:59Z"),
            dev_mode: false,
            pod_ip: Some("10.1.2.3".to_owned()),
            variables: ExtensionVariables::default(),
        }
    }

    /// Sets a key of the configuration.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Starts at another time.
    pub fn at(mut self, start: &str) -> Self {
        self.start = instant(start);
        self
    }

    pub fn config(&self) -> Config {
        let parsed = config::parse(&self.config.to_string(), &EnvironmentDefaults::default());
        parsed.unwrap_or_else(|error| panic!("{error}")).0
    }

    /// Starts the controller in a new directory.
    pub fn run(self) -> World {
        self.run_in(TempDir::new().unwrap(), |_| {})
    }

    /// Starts the controller in a new directory, and waits until each node has its pod.
    pub async fn run_to_pods(self) -> World {
        let nodes = self.nodes.len();
        let world = self.run();
        let all = |state: &State| (state.pods.len() == nodes).then_some(());
        world.cluster.until("every pod", all).await;
        world
    }

    /// Starts the controller in that directory, after `prepare` has changed the cluster.
    pub fn run_in(self, directory: TempDir, prepare: impl FnOnce(&TestCluster)) -> World {
        let nodes: Vec<&str> = self.nodes.iter().map(String::as_str).collect();
        let cluster = TestCluster::new(&nodes);
        let data = self.data();
        cluster.change(|state| state.config_map.get_or_insert_default().data = data);
        prepare(&cluster);
        let clock = TestClock::at(self.start);
        self.start_process(cluster, clock, directory)
    }

    /// The data of the ConfigMap.
    pub fn data(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("config.yaml".to_owned(), self.config.to_string()),
            ("pod-template.yaml".to_owned(), self.template.clone()),
        ])
    }

    fn start_process(self, cluster: TestCluster, clock: TestClock, directory: TempDir) -> World {
        let setup = self.clone();
        let config = self.config();
        let reports = TestReports::new(directory.path().to_owned(), config.report_quota_bytes);
        let entropy = TestEntropy::default();
        let metrics = Arc::new(Metrics::new(&config));
        let rules = CallbackRules {
            body_limit: config.callback_body_limit,
            authentication: Authentication::new(config.callback_auth, tokens()),
        };
        let tokens = (config.callback_auth != CallbackAuth::Off).then(tokens);
        let settings = Settings {
            config,
            template: PodTemplate::parse(&self.template).unwrap(),
            namespace: "batch".to_owned(),
            instance: "audit-0".to_owned(),
            pod_ip: self.pod_ip,
            dev_mode: self.dev_mode,
            config_map: Some(source(self.variables.clone())),
            tokens,
            owner: None,
            variables: self.variables,
        };
        let ports = PortSet {
            cluster: cluster.clone(),
            reports: reports.clone(),
            clock,
            entropy: entropy.clone(),
        };
        let (controller, handle) = Controller::new(settings, ports, Arc::clone(&metrics));
        let authentication = rules.authentication.clone();
        let callback = callback::service(handle.clone(), reports.clone(), entropy, rules);
        let callback = callback::bounded(callback, authentication, handle.clone());
        let router = Router::new().fallback_service(callback);
        World {
            setup,
            cluster,
            reports,
            clock,
            callback: server::catch_panics(router, Arc::clone(&metrics)),
            metrics,
            handle,
            directory: Some(directory),
            controller: tokio::spawn(controller.run()),
        }
    }
}

/// Reads the ConfigMap as the binary does, without an environment.
fn source(variables: ExtensionVariables) -> ConfigMapSource {
    ConfigMapSource::new("audit", move |data| {
        let text = |key: &str| data.get(key).cloned().unwrap_or_default();
        let parsed = config::parse(&text("config.yaml"), &EnvironmentDefaults::default());
        let template = PodTemplate::parse(&text("pod-template.yaml"));
        Ok(Configuration {
            config: parsed.map_err(|error| vec![error.to_string()])?.0,
            template: template.map_err(|error| vec![error.to_string()])?,
            variables: variables.clone(),
        })
    })
}

/// A controller that runs until this is dropped.
#[derive(Debug)]
pub struct World {
    setup: Setup,
    pub cluster: TestCluster,
    pub reports: TestReports,
    pub clock: TestClock,
    pub metrics: Arc<Metrics>,
    pub handle: ControllerHandle,
    pub callback: Router,
    directory: Option<TempDir>,
    controller: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.controller.abort();
    }
}

/// An answer of the callback API.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A result with one sample.
pub const RESULT: &str = r#"{"plain":[{"value":1}]}"#;

impl World {
    /// The report directory.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    /// Kills the controller and starts another process a while later.
    pub async fn restart_after(self, pause: Duration) -> Self {
        self.controller.abort();
        tokio::time::sleep(pause).await;
        self.restart(|_, _| {})
    }

    /// Kills the controller and starts another process on the same cluster and volume; `meanwhile` happens in between.
    pub fn restart(mut self, meanwhile: impl FnOnce(&TestCluster, &Path)) -> Self {
        self.controller.abort();
        // Its watch is gone with it.
        self.cluster.forget_watchers();
        let directory = self.directory.take().unwrap();
        meanwhile(&self.cluster, directory.path());
        let setup = self.setup.clone();
        setup.start_process(self.cluster.clone(), self.clock, directory)
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.callback.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Posts to `/report/<path>`.
    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(format!("/report/{path}"));
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Posts a result that must be taken.
    pub async fn post_result(&self, node: &str, execution: &str) {
        let answer = self
            .post(&format!("{node}/{execution}/result"), RESULT)
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }

    /// Lets the pod of a node post a result and succeed.
    pub async fn finish(&self, node: &str, execution: &str) {
        self.post_result(node, execution).await;
        self.cluster.succeed(&pod_name(node, execution));
    }

    /// Waits until `look` finds something, looking every few milliseconds of virtual time: for what has no
    /// notification.
    ///
    /// # Panics
    /// Where it does not within [`PATIENCE`].
    pub async fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        let found = async {
            loop {
                looks.tick().await;
                if let Some(found) = look(self) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(elapsed) => panic!("{what}: {elapsed}; metrics:\n{}", self.metrics.render()),
        }
    }

    /// Waits until a line of the metrics is exactly this one.
    pub async fn until_metric(&self, line: &str) {
        let present = |world: &Self| world.has_metric(line).then_some(());
        self.until(line, present).await;
    }

    pub fn has_metric(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }

    /// The lines of the metrics that hold `part`.
    pub fn metric_lines(&self, part: &str) -> Vec<String> {
        let text = self.metrics.render();
        let lines = text.lines().filter(|line| line.contains(part));
        lines.map(str::to_owned).collect()
    }

    /// Waits for the summary of an execution that has ended.
    pub async fn until_ended(&self, execution: &str) -> ExecutionSummary {
        let path = self.directory().join(execution).join("_execution.json");
        self.until(&format!("the end of {execution}"), |_| {
            let summary = std::fs::read(&path).ok()?;
            let summary: ExecutionSummary = serde_json::from_slice(&summary).unwrap();
            summary.end_time.is_some().then_some(summary)
        })
        .await
    }

    /// Every file below the report directory, and every link with `-> target`; our own and temporary ones aside.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.directory(), "", &mut files);
        files.retain(|path, _| !path.split('/').any(|name| name.starts_with('_')));
        files
    }

    /// The names of [`Self::files`], the link `latest` aside.
    pub fn file_names(&self) -> Vec<String> {
        let mut files = self.files();
        files.remove("latest");
        files.into_keys().collect()
    }
}

/// The plain name of a job pod.
pub fn pod_name(node: &str, execution: &str) -> String {
    let host = node.split('.').next().unwrap();
    format!("audit-job-{host}-{execution}")
}

fn collect(directory: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            files.insert(path, format!("-> {}", target.display()).into_bytes());
        } else {
            files.insert(path, std::fs::read(entry.path()).unwrap());
        }
    }
}
