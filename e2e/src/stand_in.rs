//! The controller as a process beside a cluster that runs no pods: in place of the Deployment's pod, and of what a
//! cluster's own controllers would create for it.
//!
//! The process gets the environment that the Deployment gives its container, and an address of this machine of its own,
//! where it listens on the ports of its configuration. The Services lead there by EndpointSlices.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cluster::Cluster;
use crate::condition::await_condition;
use crate::site::Site;

/// It has nothing to load.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Longer than the controller lets requests drain.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// The process, killed where it has not been stopped.
#[derive(Debug)]
pub(crate) struct StandIn {
    process: Child,
    container: Container,
    address: Ipv4Addr,
    directory: TempDir,
}

impl StandIn {
    /// Starts `binary` as the controller's pod in `namespace`; returns once it is ready.
    ///
    /// # Errors
    /// If the chart has no Deployment there, or the process does not get ready.
    pub(crate) async fn start(cluster: &Cluster, namespace: &str, binary: &Path) -> Result<Self> {
        let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
        let deployments = deployments.list(&ListParams::default()).await?;
        let deployment = deployments
            .items
            .into_iter()
            .next()
            .context("no Deployment")?;
        let container = container(&deployment)?;
        let pod = format!("{namespace}-1-1");
        let address = loopback_address();
        let of_cluster = OfCluster { cluster, namespace };
        of_cluster.create_pod(&deployment, &pod).await?;
        of_cluster
            .create_endpoint_slices(&container, address)
            .await?;

        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster
            .kubectl(&["config", "view", "--minify", "--flatten"], "")
            .await?;
        let kubeconfig_file = directory.path().join("kubeconfig");
        fs::write(&kubeconfig_file, kubeconfig)?;
        let reports = directory.path().join("reports");
        fs::create_dir(&reports)?;
        let mut command = Command::new(binary);
        command
            .envs(environment(&container, namespace, &pod, address)?)
            .env("KUBECONFIG", kubeconfig_file)
            .env("LISTEN_ADDRESS", address.to_string())
            .env("REPORT_DIRECTORY", reports)
            .env_remove("TZ")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log_file(&directory))?)
            .kill_on_drop(true);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut stand_in = Self {
            process,
            container,
            address,
            directory,
        };
        stand_in.await_ready().await?;
        Ok(stand_in)
    }

    async fn await_ready(&mut self) -> Result<()> {
        let health = self.site("health")?;
        let ready = await_condition("the controller is ready", READY_WITHIN, async || {
            health.text("/readyz").await
        });
        let ready = ready.await;
        ready.with_context(|| self.log().unwrap_or_default())?;
        Ok(())
    }

    /// What answers at the container's port of this name.
    ///
    /// # Errors
    /// If it has none.
    pub(crate) fn site(&self, port: &str) -> Result<Site> {
        let number =
            port_number(&self.container, port).with_context(|| format!("no port {port}"))?;
        Site::at(&format!("http://{}:{number}", self.address))
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(log_file(&self.directory))?)
    }

    /// Asks it to end, as a kubelet does, and waits.
    ///
    /// # Errors
    /// If it ends badly, or not in time: then it is killed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let id = self
            .process
            .id()
            .context("the controller has ended by itself")?;
        let signal = Command::new("kill").arg(id.to_string()).status().await?;
        ensure!(signal.success(), "the controller cannot be signalled");
        let status = tokio::time::timeout(STOPPED_WITHIN, self.process.wait()).await;
        let status = status.context("the controller does not end")??;
        ensure!(status.success(), "the controller has ended with {status}");
        Ok(())
    }
}

fn log_file(directory: &TempDir) -> PathBuf {
    directory.path().join("controller.log")
}

/// An address of this machine that other tests are unlikely to use: the ports are those of the chart.
fn loopback_address() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 9, high, low.clamp(1, 254))
}

fn container(deployment: &Deployment) -> Result<Container> {
    let spec = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let container = spec.and_then(|spec| spec.containers.first());
    container
        .cloned()
        .context("the Deployment has no container")
}

fn port_number(container: &Container, name: &str) -> Option<i32> {
    let ports = container.ports.iter().flatten();
    let port = ports
        .into_iter()
        .find(|port| port.name.as_deref() == Some(name))?;
    Some(port.container_port)
}

/// The container's environment, fields of its pod filled in.
fn environment(
    container: &Container,
    namespace: &str,
    pod: &str,
    address: Ipv4Addr,
) -> Result<Vec<(String, String)>> {
    let value = |field: &str| match field {
        "metadata.namespace" => Ok(namespace.to_owned()),
        "metadata.name" => Ok(pod.to_owned()),
        "status.podIP" => Ok(address.to_string()),
        other => anyhow::bail!("the Deployment uses the field {other}"),
    };
    let variables = container.env.iter().flatten();
    variables
        .map(|variable| {
            let source = variable
                .value_from
                .as_ref()
                .and_then(|from| from.field_ref.as_ref());
            let value = match source {
                Some(source) => value(&source.field_path)?,
                None => variable.value.clone().unwrap_or_default(),
            };
            Ok((variable.name.clone(), value))
        })
        .collect()
}

/// What the cluster's own controllers would create.
struct OfCluster<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl OfCluster<'_> {
    async fn create_pod(&self, deployment: &Deployment, name: &str) -> Result<()> {
        let template = deployment
            .spec
            .as_ref()
            .map(|spec| serde_json::to_value(&spec.template));
        let template = template.context("the Deployment has no template")??;
        let replica_set = self
            .create::<ReplicaSet>(&json!({
                "metadata": {
                    "name": format!("{}-1", self.namespace),
                    "ownerReferences": [owner(deployment, "Deployment")],
                },
                "spec": {"replicas": 1, "selector": deployment.spec.as_ref().map(|spec| &spec.selector), "template": template},
            }))
            .await?;
        let mut pod = template;
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["ownerReferences"] = json!([owner(&replica_set, "ReplicaSet")]);
        self.create::<Pod>(&pod).await?;
        Ok(())
    }

    async fn create_endpoint_slices(&self, container: &Container, address: Ipv4Addr) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        for service in services.list(&ListParams::default()).await? {
            let name = service.metadata.name.unwrap_or_default();
            let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
            let ports: Vec<Value> = ports
                .iter()
                .filter_map(|port| port.name.as_deref())
                .map(|port| json!({"name": port, "port": port_number(container, port), "protocol": "TCP"}))
                .collect();
            self.create::<EndpointSlice>(&json!({
                "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
                "ports": ports,
            }))
            .await?;
        }
        Ok(())
    }

    async fn create<K>(&self, object: &Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let object = serde_json::from_value(object.clone())?;
        let created = api.create(&PostParams::default(), &object).await;
        created.with_context(|| format!("a {}", K::kind(&())))
    }
}

fn owner<K: Resource<DynamicType = ()>>(owner: &K, kind: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind, "controller": true,
        "name": owner.meta().name, "uid": owner.meta().uid,
    })
}
