//! Replicas of the production controller on one in-memory cluster and one volume, each with its routers; nothing but
//! sockets is left out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use controller::config::Config;
use controller::config::pod_template::PodTemplate;
use controller::core::callback_key::{CallbackKey, KEY_BYTES, Purpose, SigningKey};
use controller::core::job_pod::ExtensionVariables;
use controller::core::leadership::Identity;
use controller::core::lease::{LeaseRecord, ReplicaAddress};
use controller::http::callback::Authentication;
use controller::http::relay::{self, Relay};
use controller::http::{self as server, callback, probes};
use controller::metrics::Metrics;
use controller::runtime::replica::{Replica, ReplicaHandle, Standing};
use controller::runtime::{PortSet, Settings};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::cluster::TestCluster;
use super::network::TestNetwork;
use super::reports::TestReports;
use super::world::{Answer, Setup};
use super::{PATIENCE, TestClock, TestEntropy};

const TEMPLATE: &str = "{spec: {containers: [{name: job, image: job}]}}";

/// What the replicas share.
pub struct Site {
    pub config: Config,
    pub cluster: TestCluster,
    pub network: TestNetwork,
    clock: TestClock,
    directory: TempDir,
}

/// One replica; dropped, it is killed.
pub struct Process {
    pub handle: ReplicaHandle,
    pub metrics: Arc<Metrics>,
    pub callback: Router,
    pub pages: Router,
    pub probes: Router,
    pub reports: TestReports,
    host: String,
    network: TestNetwork,
    replica: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.replica.abort();
        self.network.close(&self.host);
    }
}

impl Site {
    pub fn new(setup: &Setup) -> Self {
        let nodes: Vec<&str> = setup.nodes.iter().map(String::as_str).collect();
        Self {
            config: setup.config(),
            cluster: TestCluster::new(&nodes),
            network: TestNetwork::default(),
            clock: TestClock::at(setup.start),
            directory: TempDir::new().unwrap(),
        }
    }

    /// The report directory that the replicas share.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a replica; its host is called as it is.
    pub fn start(&self, name: &str) -> Process {
        self.start_with(name, key())
    }

    /// Starts a replica that has that key.
    pub fn start_with(&self, name: &str, key: SigningKey) -> Process {
        let directory = self.directory.path().to_owned();
        let reports = TestReports::new(directory, self.config.report_quota_bytes);
        let metrics = Arc::new(Metrics::new(&self.config));
        let entropy = TestEntropy::default();
        let settings = Settings {
            config: self.config.clone(),
            template: PodTemplate::parse(TEMPLATE).unwrap(),
            namespace: "batch".to_owned(),
            instance: name.to_owned(),
            pod_ip: Some("10.1.2.3".to_owned()),
            dev_mode: false,
            config_map: None,
            tokens: None,
            owner: None,
            variables: ExtensionVariables::default(),
        };
        let identity = Identity {
            name: name.to_owned(),
            address: Some(ReplicaAddress {
                host: name.to_owned(),
                callback_port: 8090,
                file_server_port: 8080,
            }),
        };
        let ports = PortSet {
            cluster: self.cluster.clone(),
            reports: reports.clone(),
            clock: self.clock,
            entropy: entropy.clone(),
        };
        let (replica, handle) = Replica::new(settings, identity, ports, Arc::clone(&metrics));
        let limits = self.config.callback_body_limit;
        let relay = Relay {
            authentication: Authentication::off(),
            replica: handle.clone(),
            identity: name.to_owned(),
            key,
            forward: self.network.clone(),
            hold: self.config.callback_hold_timeout,
        };
        let callback = callback::service(handle.clone(), reports.clone(), entropy, limits);
        let callback = relay::callbacks(callback, relay.clone());
        let callback = callback::bounded(callback, Authentication::off(), handle.clone());
        let callback = Router::new().fallback_service(callback);
        let pages = relay::reports(server::reports::router(reports.clone()), relay);
        self.network.listen(name, 8090, callback.clone());
        self.network.listen(name, 8080, pages.clone());
        Process {
            callback,
            pages,
            probes: probes::router(handle.clone(), reports.clone()),
            reports,
            handle,
            metrics,
            host: name.to_owned(),
            network: self.network.clone(),
            replica: tokio::spawn(replica.run()),
        }
    }

    /// A replica that leads.
    pub async fn start_leader(&self, name: &str) -> Process {
        let process = self.start(name);
        process.until_it_leads().await;
        process
    }

    pub fn lease(&self) -> LeaseRecord {
        self.cluster
            .look(|state| state.lease.clone())
            .unwrap()
            .record
    }
}

pub async fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

impl Process {
    pub fn leads(&self) -> bool {
        self.handle.leading().is_ok()
    }

    /// How long that took.
    pub async fn until_it_leads(&self) -> Duration {
        until("it leads", || self.leads()).await
    }

    pub async fn until_it_stands_by(&self, leader: Option<&str>) -> Duration {
        let stands_by = || match self.handle.standing() {
            Standing::Standby(found) => found.as_ref().map(|found| &*found.identity) == leader,
            _ => false,
        };
        until("it stands by", stands_by).await
    }

    pub fn has_metric(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }

    pub async fn probe(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = send(&self.probes, request).await;
        (answer.status, answer.text().to_owned())
    }

    /// Posts to `/report/<path>`.
    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(format!("/report/{path}"));
        send(&self.callback, request.body(body.into()).unwrap()).await
    }
}

/// Sends a request straight into a Router.
pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// The key that the replicas share.
pub fn key() -> SigningKey {
    let key = CallbackKey::new(vec![7; KEY_BYTES]).unwrap();
    key.for_purpose(Purpose::Forwarding)
}
