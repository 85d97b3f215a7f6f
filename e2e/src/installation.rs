//! The chart, installed in a namespace of its own for as long as a test takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, Subject};
use crate::site::Site;
use crate::stand_in::StandIn;

/// The label of everything that a run of the tests creates in a cluster.
const RUN_LABEL: &str = "batch-job-controller-e2e";

/// How long an installation may take to get ready: a volume is made, an image may be pulled.
const READY_WITHIN: Duration = Duration::from_mins(5);

/// An installed release.
#[derive(Debug)]
pub struct Installation {
    /// Where it is.
    pub cluster: Cluster,
    /// Its namespace, which is also the release's name.
    pub namespace: String,
    stand_in: Option<StandIn>,
}

impl Installation {
    /// Installs the chart with the values of `file`, lets `test` look at it, and removes everything. What there was to
    /// see is printed where the test fails.
    ///
    /// # Errors
    /// Those of the installation and of the test.
    pub async fn with(
        cluster: &Cluster,
        name: &str,
        file: &Path,
        test: impl AsyncFnOnce(&Installation) -> Result<()>,
    ) -> Result<()> {
        let mut installation = Self {
            cluster: cluster.clone(),
            namespace: format!("e2e-{name}-{}", cluster.run),
            stand_in: None,
        };
        let result = async {
            installation.install(file).await?;
            test(&installation).await
        }
        .await;
        if result.is_err() {
            installation.dump().await;
        }
        let removed = installation.remove().await;
        result.and(removed)
    }

    async fn install(&mut self, values: &Path) -> Result<()> {
        self.create_namespace().await?;
        let chart = chart();
        let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
        let label = format!("global.commonLabels.{RUN_LABEL}={}", self.cluster.run);
        let mut options = vec![
            self.namespace.as_str(),
            &chart,
            "--namespace",
            &self.namespace,
            "--values",
            &values,
            "--set-string",
            &label,
        ];
        match self.cluster.subject.clone() {
            Subject::Image(image) => {
                let (repository, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
                let image =
                    format!("image.registry=,image.repository={repository},image.tag={tag}");
                let timeout = format!("{}s", READY_WITHIN.as_secs());
                options.extend(["--set-string", &image, "--wait", "--timeout", &timeout]);
                let arguments = [&["install"], options.as_slice()].concat();
                self.cluster.helm(&arguments).await?;
            }
            Subject::Process(binary) => {
                let arguments = [&["template"], options.as_slice()].concat();
                let manifests = self.cluster.helm(&arguments).await?;
                let apply = ["apply", "--namespace", &self.namespace, "--filename", "-"];
                self.cluster.kubectl(&apply, &manifests).await?;
                self.stand_in =
                    Some(StandIn::start(&self.cluster, &self.namespace, &binary).await?);
            }
        }
        Ok(())
    }

    /// A namespace that refuses what is not restricted, the job pods included.
    async fn create_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        let namespace = json!({"metadata": {
            "name": self.namespace,
            "labels": {RUN_LABEL: self.cluster.run, "pod-security.kubernetes.io/enforce": "restricted"},
        }});
        let namespace = serde_json::from_value(namespace)?;
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        created.with_context(|| format!("namespace {}", self.namespace))?;
        Ok(())
    }

    /// What answers at the port of this name: `reports` or `metrics`.
    ///
    /// # Errors
    /// If the chart has no Service for it.
    pub async fn site(&self, port: &str) -> Result<Site> {
        if let Some(stand_in) = &self.stand_in {
            return stand_in.site(port);
        }
        let services: Api<Service> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let of_port = ListParams::default().labels(&format!("app.kubernetes.io/component={port}"));
        let services = services.list(&of_port).await?;
        let service = services
            .iter()
            .next()
            .and_then(|service| service.metadata.name.as_deref());
        let service = service.with_context(|| format!("no Service for {port}"))?;
        let client = self.cluster.client.clone();
        Ok(Site::behind(client, &self.namespace, service, port))
    }

    /// What the controller has logged.
    ///
    /// # Errors
    /// If that cannot be read.
    pub async fn controller_log(&self) -> Result<String> {
        if let Some(stand_in) = &self.stand_in {
            return stand_in.log();
        }
        let selector = "--selector=app.kubernetes.io/component=controller";
        let arguments = [
            "logs",
            "--namespace",
            &self.namespace,
            "--tail=-1",
            selector,
        ];
        self.cluster.kubectl(&arguments, "").await
    }

    /// Prints what helps to find out why a test failed.
    async fn dump(&self) {
        let looks: &[&[&str]] = &[
            &["get", "nodes", "--output=wide"],
            &[
                "get",
                "pods,deployments,replicasets,services,persistentvolumeclaims",
                "--output=wide",
            ],
            &["describe", "pods"],
            &["get", "events"],
            &["get", "configmaps", "--output=yaml"],
        ];
        for look in looks {
            let arguments = [&["--namespace", &self.namespace], *look].concat();
            let found = self.cluster.kubectl(&arguments, "").await;
            let found = found.unwrap_or_else(|error| format!("{error:#}\n"));
            eprintln!("--- kubectl {}\n{found}", look.join(" "));
        }
        let log = self.controller_log().await;
        let log = log.unwrap_or_else(|error| format!("{error:#}\n"));
        eprintln!("--- the controller's log\n{log}");
    }

    async fn remove(&mut self) -> Result<()> {
        // Its process first: it may still talk to the cluster.
        if let Some(stand_in) = self.stand_in.take() {
            stand_in.stop().await?;
        }
        let selector = format!("--selector={RUN_LABEL}={}", self.cluster.run);
        let kinds = "clusterrolebindings,clusterroles,namespaces";
        let arguments = ["delete", kinds, &selector, "--ignore-not-found"];
        self.cluster.kubectl(&arguments, "").await.map(drop)
    }
}

/// The chart of this checkout.
fn chart() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("../charts/batch-job-controller")
}
