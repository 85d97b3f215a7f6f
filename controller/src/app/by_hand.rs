//! `batch-job-controller trigger` and `cancel`: they ask the running controller, by an annotation of its ConfigMap.

use super::{Failure, configuration};
use crate::adapter::kube_cluster::KubeCluster;
use crate::adapter::os_entropy::OsEntropy;
use crate::args::{ConfigMapReference, ControllerArguments, Environment, TriggerArguments};
use crate::core::by_hand::{ANNOTATION_CANCEL, ANNOTATION_TRIGGER, Selection};
use crate::ports::cluster::Cluster as _;
use crate::ports::entropy::Entropy as _;
use crate::ports::error::ClusterErrorKind;

/// Asks for an execution.
pub(super) async fn trigger(
    arguments: &TriggerArguments,
    environment: &Environment,
) -> Result<(), Failure> {
    let selection = Selection {
        nodes: arguments.nodes.clone(),
        from: arguments.from.clone(),
        only: arguments.only.clone(),
        id: Some(OsEntropy.uuid().to_string()),
    };
    // Each field has an option of its name.
    let checked = selection.check();
    checked.map_err(|error| vec![format!("--{error}")])?;
    let controller = &arguments.controller;
    let asked = ask(
        controller,
        environment,
        ANNOTATION_TRIGGER,
        &selection.value(),
    )
    .await?;
    say("asked for an execution", &asked);
    Ok(())
}

/// Asks for the end of the execution in progress.
pub(super) async fn cancel(
    controller: &ControllerArguments,
    environment: &Environment,
) -> Result<(), Failure> {
    let value = OsEntropy.uuid().to_string();
    let asked = ask(controller, environment, ANNOTATION_CANCEL, &value).await?;
    say("asked for the end of the execution in progress", &asked);
    Ok(())
}

/// Sets the annotation, of a ConfigMap that is a controller's.
async fn ask(
    controller: &ControllerArguments,
    environment: &Environment,
    key: &str,
    value: &str,
) -> Result<ConfigMapReference, Failure> {
    let reference = environment
        .of(controller)
        .config_map()
        .map_err(with_options)?;
    let client = KubeCluster::connect()
        .await
        .map_err(|error| vec![configuration::no_cluster(&error)])?;
    let cluster = KubeCluster::new(client, &reference.namespace, "");
    let read = cluster.config_map(&reference.name).await;
    let read = read.map_err(|error| vec![configuration::not_read(&reference, &error)])?;
    let (_, missing) = configuration::texts_of(&reference, read.data);
    if !missing.is_empty() {
        return Err(missing);
    }
    let ConfigMapReference { namespace, name } = &reference;
    let set = cluster.annotate_config_map(name, key, value).await;
    set.map_err(|error| {
        let fix = match error.kind {
            ClusterErrorKind::Refused => {
                "; want the right to patch it: choose who asks with KUBECONFIG"
            }
            _ => "",
        };
        vec![format!("ConfigMap {namespace}/{name}: {error}{fix}")]
    })?;
    Ok(reference)
}

fn with_options(missing: Failure) -> Failure {
    let with_option = |line: String| {
        let option = if line.contains("NAMESPACE") {
            "--namespace"
        } else {
            "--config-map"
        };
        format!("{line}; or {option}")
    };
    missing.into_iter().map(with_option).collect()
}

#[allow(clippy::print_stdout, reason = "a command line's answer")]
fn say(what: &str, asked: &ConfigMapReference) {
    let ConfigMapReference { namespace, name } = asked;
    println!("{what}: annotated ConfigMap {namespace}/{name}");
    println!(
        "next: kubectl -n {namespace} get events --field-selector reportingComponent=batch-job-controller"
    );
}
