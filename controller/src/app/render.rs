//! `batch-job-controller render`.

use jiff::Timestamp;

use super::{Extend, Failure, configuration};
use crate::args::{DataFormat, Environment, RenderArguments};
use crate::config::Config;
use crate::config::pod_template::PodTemplate;
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{ExtensionVariables, JobPodInstance, JobPodSpec, job_pod};
use crate::core::names;

/// Prints the job pod of one node.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line's answer"
)]
pub(super) async fn render(
    arguments: &RenderArguments,
    environment: &Environment,
    extend: &Extend,
) -> Result<(), Failure> {
    let (config, template, extension) = load(arguments, environment, extend).await?;
    let id = execution_id(arguments)?;
    let node = &arguments.node;
    if !names::is_dns_subdomain(node) {
        return Err(vec![format!(
            "--node: found {node:?}, want a node's name such as node-a.example.com"
        )]);
    }
    let namespace = (arguments.namespace.clone())
        .or_else(|| environment.namespace.clone())
        .unwrap_or_else(|| "default".to_owned());
    let rendered = template
        .render(node, id.as_str(), &namespace)
        .map_err(|error| vec![format!("pod-template.yaml: {error}")])?;
    let spec = JobPodSpec {
        controller: config.name.clone(),
        namespace,
        service_account: config.job_service_account.clone(),
        image_pull_secrets: config.job_image_pull_secrets.clone(),
        callback_address: callback_address(arguments, environment, &config),
        callback_port: config.callback_service_port,
        owner: None,
    };
    let instance = JobPodInstance {
        pod_name: &names::plain_pod_name(&config.name, node, &id),
        node,
        execution_id: &id,
        token: None,
    };
    let pod =
        job_pod(rendered, &spec, instance, &extension).map_err(|error| vec![error.to_string()])?;
    let text = match arguments.output {
        DataFormat::Json => serde_json::to_string_pretty(&pod).map_err(|error| error.to_string()),
        DataFormat::Yaml => serde_saphyr::to_string(&pod).map_err(|error| error.to_string()),
    };
    println!("{}", text.map_err(|error| vec![error])?.trim_end());
    Ok(())
}

#[allow(clippy::print_stderr, reason = "a command line's answer")]
async fn load(
    arguments: &RenderArguments,
    environment: &Environment,
    extend: &Extend,
) -> Result<(Config, PodTemplate, ExtensionVariables), Failure> {
    let (mut texts, mut failure) = configuration::from_files(&arguments.files);
    if arguments.files.config.is_none() || arguments.files.pod_template.is_none() {
        match configuration::from_cluster(environment).await {
            Ok((from_cluster, missing)) => {
                texts.config = texts.config.or(from_cluster.config);
                texts.pod_template = texts.pod_template.or(from_cluster.pod_template);
                failure.extend(missing);
            }
            Err(lines) => failure.extend(lines),
        }
    }
    let checked = configuration::check_extended(&texts, environment, extend);
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    failure.extend(checked.errors);
    match (checked.config, checked.template, checked.extension) {
        (Some(config), Some(template), Some(extension)) if failure.is_empty() => {
            Ok((config, template, extension.variables))
        }
        _ => Err(failure),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the default of --execution-id is the current minute"
)]
fn execution_id(arguments: &RenderArguments) -> Result<ExecutionId, Failure> {
    match &arguments.execution_id {
        None => Ok(ExecutionId::of_minute(Timestamp::now())),
        Some(text) => ExecutionId::parse(text).ok_or_else(|| {
            vec![format!(
                "--execution-id: found {text:?}, want a time as yyyyMMddHHmm or yyyyMMddHHmmss"
            )]
        }),
    }
}

fn callback_address(
    arguments: &RenderArguments,
    environment: &Environment,
    config: &Config,
) -> String {
    (arguments.callback_address.clone())
        .or_else(|| config.callback_service_name.clone())
        .or_else(|| environment.pod_ip.clone())
        .unwrap_or_else(|| "127.0.0.1".to_owned())
}
