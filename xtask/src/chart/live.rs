//! The chart's own objects on the simulated cluster, and the controller on them: it runs an execution, its requests
//! need just what the chart grants, and it exports what alerts and dashboard ask for.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::access::{self, Access};
use super::helm::{Helm, NAMESPACE, config_map, the};
use super::recorder::Recorder;
use crate::cargo::Binaries;
use crate::execution::{self, Progress};
use crate::exposition::Scrape;
use crate::interrupt::Interrupt;
use crate::stack::{self, Installed, PortOptions, Ports, Setup, Stack};
use crate::{http, sample};

const NODES: u32 = 4;

/// How long the controller may take for what follows an execution.
const PATIENCE: Duration = Duration::from_secs(20);

/// The execution of a pod that is left over: the controller deletes it.
const PREVIOUS: &str = "202001010000";

/// Runs it; returns what was exported at the end.
///
/// # Errors
/// If an object is refused, the execution ends badly, or rights and requests differ.
pub(super) fn check(binaries: &Binaries, helm: &Helm, interrupt: &Interrupt) -> Result<Scrape> {
    let ports = Ports::choose(&PortOptions::default())?;
    let documents = render(helm, &ports)?;
    let setup = Setup {
        nodes: NODES,
        pool: 2,
        pod_seconds: 1.0,
        failure_share: 0.0,
        seed: 1,
        run_on_startup: true,
        dev_mode: false,
        runs_pods: true,
        config: Vec::new(),
    };
    let mut recorder = None;
    let mut stack =
        Stack::start_installed(binaries, &setup, ports, interrupt, |api, directory| {
            let relay = recorder.insert(Recorder::start(api)?);
            let kubeconfig = directory.join("kubeconfig-of-the-controller");
            fs::write(&kubeconfig, stack::kubeconfig(relay.address()).to_string())?;
            let (config_map, pod) = install(api, &documents, ports.callback)?;
            Ok(Installed {
                namespace: NAMESPACE.to_owned(),
                config_map,
                pod,
                kubeconfig,
            })
        })?;
    let scrape = execution::follow(&mut stack, execution::LOOK_EVERY, interrupt, |_| Ok(()))?;
    let progress = Progress::of(&scrape);
    ensure!(
        progress.count("succeeded") == u64::from(NODES),
        "the execution of the chart's controller ended with {}{}",
        progress.by_state(),
        stack.controller_log()
    );

    let recorder = recorder.context("nothing was installed")?;
    let account = &the(&documents, "Deployment")?["spec"]["template"]["spec"]["serviceAccountName"];
    let granted = access::granted(&documents, account.as_str().unwrap_or_default())?;
    // The last pods are deleted after the execution has ended.
    let give_up = Instant::now() + PATIENCE;
    loop {
        let requests = recorder.requests();
        let needed = requests.iter().map(Access::needed);
        let checked = access::check(&granted, &needed.collect::<Result<BTreeSet<_>>>()?);
        if checked.is_ok() {
            break;
        }
        if Instant::now() >= give_up {
            return checked.map(|()| scrape);
        }
        interrupt.sleep(execution::LOOK_EVERY)?;
    }
    super::done(&format!(
        "an execution on {NODES} simulated nodes: {} rights granted, each of them used, none else",
        granted.len()
    ));
    Ok(scrape)
}

fn render(helm: &Helm, ports: &Ports) -> Result<Vec<Value>> {
    let values = [
        "config.runOnStartup=true".to_owned(),
        "config.startupDelay=0s".to_owned(),
        "config.savePodLog=true".to_owned(),
        // So that pods are deleted one by one, too.
        "config.endedPods=0".to_owned(),
        format!("config.callbackServicePort={}", ports.callback),
        format!("config.fileServerPort={}", ports.reports),
        format!("config.metrics.port={}", ports.metrics),
        format!("config.healthProbePort={}", ports.probes),
    ];
    helm.render(&["--set", &values.join(",")])
}

/// Applies the documents, and what the controllers of a cluster make of them; returns the names of the ConfigMap and of
/// the controller's pod.
fn install(
    api: std::net::SocketAddr,
    documents: &[Value],
    callback: u16,
) -> Result<(String, String)> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    http::post_json(api, "/api/v1/namespaces", &namespace)?;
    let mut deployment = Value::Null;
    for document in documents {
        let created = http::post_json(api, &collection(document)?, document)?;
        if document["kind"] == "Deployment" {
            deployment = created;
        }
    }
    let map = config_map(documents)?;
    let config: Value =
        serde_saphyr::from_str(map["data"]["config.yaml"].as_str().unwrap_or_default())?;
    let left_over = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "left-over", "labels": {
            "batch-job-controller.bakito.github.com/owner": config["name"],
            "batch-job-controller.bakito.github.com/execution-id": PREVIOUS,
        }},
        "spec": {"containers": [{"name": "job", "image": "none"}]},
    });
    http::post_json(
        api,
        &format!("/api/v1/namespaces/{NAMESPACE}/pods"),
        &left_over,
    )?;
    let service = config["callbackServiceName"].as_str().unwrap_or_default();
    sample::run_deployment(api, &deployment, service, callback, &["127.0.0.1"])?;
    let pod = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let pod = sample::pod_name(pod, 0);
    let name = map["metadata"]["name"].as_str().unwrap_or_default();
    Ok((name.to_owned(), pod))
}

/// Where objects of this kind are created.
fn collection(document: &Value) -> Result<String> {
    let version = document["apiVersion"].as_str().unwrap_or_default();
    let kind = document["kind"].as_str().unwrap_or_default();
    let root = if version.contains('/') {
        "/apis"
    } else {
        "/api"
    };
    // As the chart's kinds go, and most others.
    let plural = kind.to_lowercase() + "s";
    ensure!(
        !kind.is_empty() && !kind.ends_with('y'),
        "no path for the kind {kind:?}"
    );
    Ok(match document["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{version}/{plural}"),
    })
}
