//! Where the configuration comes from, files or the cluster's ConfigMap, and whether it is right.

use std::collections::BTreeMap;
use std::path::Path;

use tracing::warn;

use super::{Extend, Failure};
use crate::adapter::kube_cluster::KubeCluster;
use crate::args::{ConfigMapReference, ConfigurationFiles, Environment};
use crate::config::pod_template::PodTemplate;
use crate::config::{self, Config};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{JobPodInstance, JobPodSpec, job_pod};
use crate::extension::Extension;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterErrorKind;
use crate::runtime::configuration::Configuration;

/// The ConfigMap's keys.
pub(super) const CONFIG_KEY: &str = "config.yaml";
const POD_TEMPLATE_KEY: &str = "pod-template.yaml";

/// A node that templates are tried with.
const SAMPLE_NODE: &str = "node-a.example.com";
const SAMPLE_EXECUTION: &str = "202601010342";

/// The configuration as text; what was not asked for, or cannot be read, is none.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) config: Option<String>,
    pub(super) pod_template: Option<String>,
}

/// The configuration, as far as it could be read, and everything there is to say about it.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) config: Option<Config>,
    pub(super) template: Option<PodTemplate>,
    pub(super) extension: Option<Extension>,
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Reads the files that are given; `validate` looks at nothing else then.
pub(super) fn from_files(files: &ConfigurationFiles) -> (Texts, Failure) {
    let mut failure = Vec::new();
    let mut read = |path: &Option<std::path::PathBuf>| {
        let text = read_file(path.as_deref()?);
        text.map_err(|line| failure.push(line)).ok()
    };
    let texts = Texts {
        config: read(&files.config),
        pod_template: read(&files.pod_template),
    };
    (texts, failure)
}

fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads the cluster's ConfigMap; a missing key is a line.
pub(super) async fn from_cluster(environment: &Environment) -> Result<(Texts, Failure), Failure> {
    let reference = environment.config_map()?;
    let client = KubeCluster::connect()
        .await
        .map_err(|error| vec![no_cluster(&error)])?;
    let cluster = KubeCluster::new(client, &reference.namespace, "");
    let read = cluster.config_map(&reference.name).await;
    let read = read.map_err(|error| vec![not_read(&reference, &error)])?;
    Ok(texts_of(&reference, read.data))
}

pub(super) fn no_cluster(error: &impl std::fmt::Display) -> String {
    // A broken file is quoted in the lines that follow the first.
    let error = error.to_string();
    let error = error.lines().next().unwrap_or_default();
    format!(
        "no usable access to a cluster: {error}; set KUBECONFIG, or run in a pod with a service account"
    )
}

pub(super) fn not_read(
    reference: &ConfigMapReference,
    error: &crate::ports::error::ClusterError,
) -> String {
    let ConfigMapReference { namespace, name } = reference;
    match error.kind {
        ClusterErrorKind::NotFound => format!(
            "ConfigMap {namespace}/{name}: not found; create it with the keys {CONFIG_KEY} and {POD_TEMPLATE_KEY}, or set \
             NAMESPACE and CONFIG_MAP_NAME to the one that exists"
        ),
        _ => format!("ConfigMap {namespace}/{name}: {error}"),
    }
}

pub(super) fn texts_of(
    reference: &ConfigMapReference,
    mut data: BTreeMap<String, String>,
) -> (Texts, Failure) {
    let texts = Texts {
        config: data.remove(CONFIG_KEY),
        pod_template: data.remove(POD_TEMPLATE_KEY),
    };
    let ConfigMapReference { namespace, name } = reference;
    let missing = [
        (CONFIG_KEY, &texts.config),
        (POD_TEMPLATE_KEY, &texts.pod_template),
    ];
    let failure = (missing.into_iter())
        .filter(|(_, text)| text.is_none())
        .map(|(key, _)| {
            format!("ConfigMap {namespace}/{name}: found no key {key}, want it in data")
        })
        .collect();
    (texts, failure)
}

/// What a ConfigMap's data says.
///
/// # Errors
/// Every line that is wrong.
pub(super) fn of_data(
    reference: &ConfigMapReference,
    data: BTreeMap<String, String>,
    environment: &Environment,
    extend: &Extend,
) -> Result<(Configuration, Extension), Failure> {
    let (texts, mut failure) = texts_of(reference, data);
    let checked = check_extended(&texts, environment, extend);
    for warning in &checked.warnings {
        warn!("{warning}");
    }
    failure.extend(checked.errors);
    match (checked.config, checked.template, checked.extension) {
        (Some(config), Some(template), Some(extension)) if failure.is_empty() => {
            let configuration = Configuration {
                config,
                template,
                variables: extension.variables.clone(),
            };
            Ok((configuration, extension))
        }
        _ => Err(failure),
    }
}

/// Checks what there is, each part for itself, so that every wrong key is said in one go.
pub(super) fn check(texts: &Texts, environment: &Environment) -> Checked {
    let mut checked = Checked::default();
    if let Some(text) = &texts.config {
        let report = config::check(text, &environment.defaults());
        checked
            .errors
            .extend(report.errors.iter().map(ToString::to_string));
        checked
            .warnings
            .extend(report.warnings.iter().map(ToString::to_string));
        checked.config = report.config;
    }
    if let Some(text) = &texts.pod_template {
        match check_template(text) {
            Ok(template) => checked.template = Some(template),
            Err(line) => checked.errors.push(format!("{POD_TEMPLATE_KEY}: {line}")),
        }
    }
    checked
}

/// The same with the implementor's part: what `custom` means to it, and the variables it gives to a sample job pod.
pub(super) fn check_extended(texts: &Texts, environment: &Environment, extend: &Extend) -> Checked {
    let mut checked = check(texts, environment);
    let Some(config) = &checked.config else {
        return checked;
    };
    match extend(config) {
        Ok(extension) => {
            let tried = (checked.template.as_ref()).map_or(Ok(()), |template| {
                try_variables(config, template, &extension)
            });
            checked.errors.extend(tried.err());
            checked.extension = Some(extension);
        }
        Err(line) => checked.errors.push(line),
    }
    checked
}

fn try_variables(
    config: &Config,
    template: &PodTemplate,
    extension: &Extension,
) -> Result<(), String> {
    let sample = template.render(SAMPLE_NODE, SAMPLE_EXECUTION, "default");
    let (Ok(sample), Some(id)) = (sample, ExecutionId::parse(SAMPLE_EXECUTION)) else {
        // The template is to blame, and has been.
        return Ok(());
    };
    let spec = JobPodSpec {
        controller: config.name.clone(),
        namespace: "default".to_owned(),
        service_account: None,
        image_pull_secrets: Vec::new(),
        callback_address: "127.0.0.1".to_owned(),
        callback_port: config.callback_service_port,
        owner: None,
    };
    let instance = JobPodInstance {
        pod_name: "sample",
        node: SAMPLE_NODE,
        execution_id: &id,
        token: None,
    };
    job_pod(sample, &spec, instance, &extension.variables)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Parses the template and tries it on a sample node, so that what fails on every node is said before the first
/// execution.
fn check_template(text: &str) -> Result<PodTemplate, String> {
    let template = PodTemplate::parse(text).map_err(|error| error.to_string())?;
    let pod = template
        .render(SAMPLE_NODE, SAMPLE_EXECUTION, "default")
        .map_err(|error| error.to_string())?;
    if pod.spec.is_none_or(|spec| spec.containers.is_empty()) {
        return Err("spec.containers: found none, want at least one container".to_owned());
    }
    Ok(template)
}
