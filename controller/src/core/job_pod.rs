//! From the rendered template to the job pod: what the controller adds, and what it lets nobody override.
//!
//! Name, namespace, labels, node, restart policy and the variables of the callback are ours whatever the template says;
//! service account and pull secrets are the configuration's where it sets them, else the template's own. Rendering the
//! template is the business of `config::pod_template`, choosing the name that of `names`.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EnvVar, LocalObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::ids::ExecutionId;
use super::names::{LABEL_EXECUTION_ID, LABEL_OWNER};

/// The variable that carries the callback token.
pub const CALLBACK_SERVICE_TOKEN: &str = "CALLBACK_SERVICE_TOKEN";

/// Variables that only the controller sets: a template's own are removed.
pub const RESERVED_VARIABLES: [&str; 9] = [
    "NAMESPACE",
    "NODE_NAME",
    "EXECUTION_ID",
    "CALLBACK_SERVICE_NAME",
    "CALLBACK_SERVICE_PORT",
    "CALLBACK_SERVICE_RESULT_URL",
    "CALLBACK_SERVICE_FILE_URL",
    "CALLBACK_SERVICE_EVENT_URL",
    CALLBACK_SERVICE_TOKEN,
];

/// Bytes of a URL's path segment that stand for themselves (RFC 3986: unreserved).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What is the same in every job pod of this controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobPodSpec {
    /// The controller's name: the owner label.
    pub controller: String,
    /// Where the pods are created.
    pub namespace: String,
    /// Replaces the template's service account.
    pub service_account: Option<String>,
    /// Replace the template's pull secrets, unless empty.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Name or address of the callback service.
    pub callback_address: String,
    /// TCP port of the callback service.
    pub callback_port: u16,
    /// The controller's top owner, in whose name the pods are collected; an owner, not a controller.
    pub owner: Option<OwnerReference>,
}

impl JobPodSpec {
    /// Where the callback port is reached, `http://<address>:<port>`.
    #[must_use]
    pub fn callback_origin(&self) -> String {
        let address = bracketed(&self.callback_address);
        format!("http://{address}:{}", self.callback_port)
    }
}

/// What is the same in every container of one job pod.
#[derive(Debug, Clone, Copy)]
pub struct JobPodInstance<'a> {
    /// The pod's name.
    pub pod_name: &'a str,
    /// The node that it runs on.
    pub node: &'a str,
    /// Its execution.
    pub execution_id: &'a ExecutionId,
    /// What it shows when it calls back, if anything.
    pub token: Option<&'a str>,
}

type VariablesOf = dyn Fn(&JobPodSpec, JobPodInstance<'_>, &Container) -> Vec<EnvVar> + Send + Sync;

/// The variables that an extension adds to a container; the default adds none.
#[derive(Clone, Default)]
pub struct ExtensionVariables(Option<Arc<VariablesOf>>);

impl fmt::Debug for ExtensionVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtensionVariables")
            .field(&self.0.is_some())
            .finish()
    }
}

impl ExtensionVariables {
    /// The variables of each container (the template's are there already) of each job pod.
    #[must_use]
    pub fn new(
        of: impl Fn(&JobPodSpec, JobPodInstance<'_>, &Container) -> Vec<EnvVar> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(of)))
    }

    /// Those of one container.
    ///
    /// # Errors
    /// The first that only the controller sets.
    pub fn of(
        &self,
        spec: &JobPodSpec,
        instance: JobPodInstance<'_>,
        container: &Container,
    ) -> Result<Vec<EnvVar>, ReservedVariable> {
        let Some(of) = &self.0 else {
            return Ok(Vec::new());
        };
        let variables = of(spec, instance, container);
        match variables.iter().find(|variable| is_reserved(variable)) {
            Some(reserved) => Err(ReservedVariable(reserved.name.clone())),
            None => Ok(variables),
        }
    }
}

/// An extension sets a variable that is the controller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the extension sets the variable {0}, which only the controller sets; want another name")]
pub struct ReservedVariable(pub String);

/// Completes a rendered template to the pod that is created. The variables of an extension come after the template's,
/// in place of those of the same name, and before ours.
///
/// # Errors
/// Where the extension sets one of ours.
pub fn job_pod(
    mut pod: Pod,
    spec: &JobPodSpec,
    instance: JobPodInstance<'_>,
    extension: &ExtensionVariables,
) -> Result<Pod, ReservedVariable> {
    pod.metadata.name = Some(instance.pod_name.to_owned());
    pod.metadata.namespace = Some(spec.namespace.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(
        LABEL_EXECUTION_ID.to_owned(),
        instance.execution_id.to_string(),
    );
    labels.insert(LABEL_OWNER.to_owned(), spec.controller.clone());
    if let Some(owner) = &spec.owner {
        set_owner(pod.metadata.owner_references.get_or_insert_default(), owner);
    }

    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.node_name = Some(instance.node.to_owned());
    pod_spec.restart_policy = Some("Never".to_owned());
    if let Some(account) = &spec.service_account {
        pod_spec.service_account_name = Some(account.clone());
    }
    if !spec.image_pull_secrets.is_empty() {
        pod_spec.image_pull_secrets = Some(spec.image_pull_secrets.clone());
    }
    let ours = callback_variables(spec, instance);
    let containers = pod_spec.containers.iter_mut();
    for container in containers.chain(pod_spec.init_containers.iter_mut().flatten()) {
        let added = extension.of(spec, instance, container)?;
        let is_added = |variable: &EnvVar| added.iter().any(|added| added.name == variable.name);
        let variables = container.env.get_or_insert_default();
        variables.retain(|variable| !is_reserved(variable) && !is_added(variable));
        variables.extend(added);
        variables.extend(ours.iter().cloned());
    }
    Ok(pod)
}

fn is_reserved(variable: &EnvVar) -> bool {
    RESERVED_VARIABLES.contains(&variable.name.as_str())
}

/// Adds the owner, or renews it where the template names it already.
fn set_owner(owners: &mut Vec<OwnerReference>, owner: &OwnerReference) {
    let is_same = |known: &OwnerReference| {
        known.kind == owner.kind
            && known.name == owner.name
            && api_group(&known.api_version) == api_group(&owner.api_version)
    };
    match owners.iter_mut().find(|known| is_same(known)) {
        Some(known) => *known = owner.clone(),
        None => owners.push(owner.clone()),
    }
}

fn api_group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The variables that tell a job pod where it runs and where it calls back.
#[must_use]
pub fn callback_variables(spec: &JobPodSpec, instance: JobPodInstance<'_>) -> Vec<EnvVar> {
    let url = |endpoint| callback_url(spec, instance, endpoint);
    let token = (instance.token).map(|token| (CALLBACK_SERVICE_TOKEN, token.to_owned()));
    [
        ("EXECUTION_ID", instance.execution_id.to_string()),
        ("NAMESPACE", spec.namespace.clone()),
        ("NODE_NAME", instance.node.to_owned()),
        ("CALLBACK_SERVICE_NAME", spec.callback_address.clone()),
        ("CALLBACK_SERVICE_PORT", spec.callback_port.to_string()),
        ("CALLBACK_SERVICE_RESULT_URL", url("result")),
        ("CALLBACK_SERVICE_FILE_URL", url("file")),
        ("CALLBACK_SERVICE_EVENT_URL", url("event")),
    ]
    .into_iter()
    .chain(token)
    .map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    })
    .collect()
}

fn callback_url(spec: &JobPodSpec, instance: JobPodInstance<'_>, endpoint: &str) -> String {
    let origin = spec.callback_origin();
    let node = utf8_percent_encode(instance.node, PATH_SEGMENT);
    let id = instance.execution_id;
    match instance.token {
        None => format!("{origin}/report/{node}/{id}/{endpoint}"),
        Some(token) => format!("{origin}/report/{node}/{id}/{token}/{endpoint}"),
    }
}

/// An IPv6 address stands in brackets before a port.
fn bracketed(address: &str) -> String {
    let without_zone = address
        .split_once('%')
        .map_or(address, |(address, _)| address);
    if without_zone.parse::<Ipv6Addr>().is_ok() {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn spec() -> JobPodSpec {
        JobPodSpec {
            controller: "audit".into(),
            namespace: "batch".into(),
            service_account: None,
            image_pull_secrets: Vec::new(),
            callback_address: "10.0.0.7".into(),
            callback_port: 8090,
            owner: None,
        }
    }

    fn template(variables: &[&str]) -> Pod {
        let env = variables
            .iter()
            .map(|name| EnvVar {
                name: (*name).into(),
                ..EnvVar::default()
            })
            .collect();
        let container = Container {
            name: "m".into(),
            env: Some(env),
            ..Container::default()
        };
        Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn build(template: Pod, spec: &JobPodSpec) -> Pod {
        let id = ExecutionId::parse("202611232359").unwrap();
        let instance = JobPodInstance {
            pod_name: "p",
            node: "node-a",
            execution_id: &id,
            token: None,
        };
        job_pod(template, spec, instance, &setting("FROM_EXTENSION")).unwrap()
    }

    /// An extension that sets this one, to the container's name.
    fn setting(name: &'static str) -> ExtensionVariables {
        ExtensionVariables::new(move |_, _, container| {
            vec![EnvVar {
                name: name.to_owned(),
                value: Some(container.name.clone()),
                value_from: None,
            }]
        })
    }

    fn variable_names(pod: &Pod) -> Vec<String> {
        let env = pod.spec.as_ref().unwrap().containers[0]
            .env
            .clone()
            .unwrap();
        env.into_iter().map(|variable| variable.name).collect()
    }

    #[test]
    fn every_reserved_variable_of_the_template_is_removed() {
        let mut given: Vec<&str> = RESERVED_VARIABLES.to_vec();
        given.push("OWN");
        assert_eq!(
            variable_names(&build(template(&given), &spec())),
            [
                "OWN",
                "FROM_EXTENSION",
                "EXECUTION_ID",
                "NAMESPACE",
                "NODE_NAME",
                "CALLBACK_SERVICE_NAME",
                "CALLBACK_SERVICE_PORT",
                "CALLBACK_SERVICE_RESULT_URL",
                "CALLBACK_SERVICE_FILE_URL",
                "CALLBACK_SERVICE_EVENT_URL"
            ]
        );
    }

    #[test]
    fn a_variable_of_an_extension_replaces_the_templates_own() {
        let pod = build(template(&["FROM_EXTENSION", "OWN"]), &spec());
        assert_eq!(variable_names(&pod)[..2], ["OWN", "FROM_EXTENSION"]);
        let env = pod.spec.unwrap().containers[0].env.clone().unwrap();
        assert_eq!(env[1].value.as_deref(), Some("m"));
    }

    #[test]
    fn an_extension_cannot_set_what_is_the_controllers() {
        let id = ExecutionId::parse("202611232359").unwrap();
        let instance = JobPodInstance {
            pod_name: "p",
            node: "node-a",
            execution_id: &id,
            token: None,
        };
        for name in RESERVED_VARIABLES {
            let error = job_pod(template(&[]), &spec(), instance, &setting(name)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn an_owner_that_the_template_names_is_renewed() {
        let owner = |api_version: &str, uid: &str| OwnerReference {
            api_version: api_version.into(),
            kind: "Deployment".into(),
            name: "bjc".into(),
            uid: uid.into(),
            ..OwnerReference::default()
        };
        let mut given = template(&[]);
        given.metadata.owner_references = Some(vec![
            owner("apps/v1beta1", "old"),
            owner("other/v1", "kept"),
        ]);
        let pod = build(
            given,
            &JobPodSpec {
                owner: Some(owner("apps/v1", "new")),
                ..spec()
            },
        );
        let owners = pod.metadata.owner_references.unwrap();
        assert_eq!(owners, [owner("apps/v1", "new"), owner("other/v1", "kept")]);
        assert_eq!(owners[0].controller, None);
    }

    #[test]
    fn only_an_ipv6_address_is_bracketed() {
        for (address, written) in [
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::7", "[fd00::7]"),
            ("fe80::1%eth0", "[fe80::1%eth0]"),
            ("bjc.batch.svc", "bjc.batch.svc"),
        ] {
            assert_eq!(bracketed(address), written);
        }
    }

    #[test]
    fn a_token_is_in_the_urls_and_in_its_variable() {
        let id = ExecutionId::parse("202611232359").unwrap();
        let instance = JobPodInstance {
            pod_name: "p",
            node: "node-a",
            execution_id: &id,
            token: Some("1-ab"),
        };
        let variables = callback_variables(&spec(), instance);
        let value = |name: &str| {
            let variable = variables.iter().find(|variable| variable.name == name);
            variable.unwrap().value.clone().unwrap()
        };
        assert_eq!(value(CALLBACK_SERVICE_TOKEN), "1-ab");
        for (name, endpoint) in [("RESULT", "result"), ("FILE", "file"), ("EVENT", "event")] {
            assert_eq!(
                value(&format!("CALLBACK_SERVICE_{name}_URL")),
                format!("http://10.0.0.7:8090/report/node-a/202611232359/1-ab/{endpoint}")
            );
        }
    }

    #[test]
    fn a_node_name_cannot_leave_its_place_in_the_url() {
        let id = ExecutionId::parse("202611232359").unwrap();
        let instance = JobPodInstance {
            pod_name: "p",
            node: "a/../b?c",
            execution_id: &id,
            token: None,
        };
        assert_eq!(
            callback_url(&spec(), instance, "file"),
            "http://10.0.0.7:8090/report/a%2F..%2Fb%3Fc/202611232359/file"
        );
    }
}
