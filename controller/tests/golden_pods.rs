//! Job pods as the original renders them: each line of the recording is a case, compared as JSON without empty fields.
//!
//! Where we differ on purpose, the case is named below with the difference, and a test of its own says what is wanted.

#![allow(clippy::unwrap_used)]

use controller::config::pod_template::PodTemplate;
use controller::config::{self, EnvironmentDefaults};
use controller::core::ids::ExecutionId;
use controller::core::job_pod::{ExtensionVariables, JobPodInstance, JobPodSpec, job_pod};
use controller::core::names::pod_names;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

const RECORDING: &str = include_str!("fixtures/pods.jsonl");

/// One line of the recording.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    #[serde(rename = "case")]
    title: String,
    #[serde(rename = "config.yaml")]
    config: String,
    #[serde(rename = "pod-template.yaml")]
    pod_template: String,
    namespace: String,
    node: String,
    #[serde(rename = "executionID")]
    execution_id: String,
    callback_address: String,
    owner: Option<OwnerReference>,
    pod: Option<Value>,
    error: Option<String>,
}

fn cases() -> Vec<Case> {
    RECORDING
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Everything that the controller does from ConfigMap to pod.
fn render(case: &Case) -> Result<Pod, String> {
    let (config, _) = config::parse(&case.config, &EnvironmentDefaults::default())
        .map_err(|error| error.to_string())?;
    let template = PodTemplate::parse(&case.pod_template).map_err(|error| error.to_string())?;
    let rendered = template
        .render(&case.node, &case.execution_id, &case.namespace)
        .map_err(|error| error.to_string())?;
    let spec = JobPodSpec {
        controller: config.name.clone(),
        namespace: case.namespace.clone(),
        service_account: config.job_service_account.clone(),
        image_pull_secrets: config.job_image_pull_secrets.clone(),
        callback_address: case.callback_address.clone(),
        callback_port: config.callback_service_port,
        owner: case.owner.clone(),
    };
    let id = ExecutionId::parse(&case.execution_id).unwrap();
    let names = pod_names(&config.name, &id, [case.node.as_str()]).remove(0);
    let instance = JobPodInstance {
        pod_name: &names.name,
        node: &case.node,
        execution_id: &id,
        token: None,
    };
    job_pod(rendered, &spec, instance, &ExtensionVariables::default())
        .map_err(|error| error.to_string())
}

fn render_json(case: &Case) -> Value {
    let pod = render(case).unwrap_or_else(|error| panic!("{}: {error}", case.title));
    without_empty_fields(serde_json::to_value(pod).unwrap())
}

fn without_empty_fields(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    match value {
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, without_empty_fields(value)))
            .filter(|(_, value)| !is_empty(value))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_empty_fields).collect(),
        other => other,
    }
}

/// What we want of a recorded pod in place of what the original made.
fn with_deviations(case: &Case, mut recorded: Value) -> Value {
    match case.title.as_str() {
        // The original was recorded without its owner in place.
        "owner reference" => recorded["metadata"]["ownerReferences"] = json!([case.owner]),
        // The original reads `imagePullSecrets` alone.
        "image pull secrets (the key the README documents)" => {
            recorded["spec"]["imagePullSecrets"] = json!([{"name": "regcred"}]);
        }
        // The original removes the template's own where the configuration sets none.
        "template overrides are replaced" => {
            recorded["spec"]["imagePullSecrets"] = json!([{"name": "wrong"}]);
        }
        _ => {}
    }
    recorded
}

#[test]
fn every_recorded_pod_is_rendered_alike() {
    let cases = cases();
    assert_eq!(cases.len(), 21);
    for case in cases {
        match (&case.pod, &case.error) {
            (Some(recorded), None) => {
                let expected = without_empty_fields(with_deviations(&case, recorded.clone()));
                assert_eq!(render_json(&case), expected, "{}", case.title);
            }
            (None, Some(error)) => {
                let ours = render(&case);
                assert!(
                    ours.is_err(),
                    "{}: the original says {error:?}, we render {ours:?}",
                    case.title
                );
            }
            _ => panic!("{}: neither pod nor error", case.title),
        }
    }
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.title == name).unwrap()
}

fn plain(pod_template: &str) -> Case {
    Case {
        pod_template: pod_template.to_owned(),
        ..case("plain")
    }
}

#[test]
fn the_owner_is_set_and_is_not_a_controller() {
    let pod = render(&case("owner reference")).unwrap();
    let owners = pod.metadata.owner_references.unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!(
        (owners[0].kind.as_str(), owners[0].name.as_str()),
        ("Deployment", "bjc")
    );
    assert_eq!(
        (owners[0].controller, owners[0].block_owner_deletion),
        (None, None)
    );
}

#[test]
fn both_spellings_of_the_pull_secrets_are_honoured() {
    for name in [
        "image pull secrets (the key the original reads)",
        "image pull secrets (the key the README documents)",
    ] {
        let pod = render_json(&case(name));
        assert_eq!(
            pod["spec"]["imagePullSecrets"][0]["name"], "regcred",
            "{name}"
        );
    }
}

#[test]
fn the_templates_own_account_and_secrets_stay_where_the_configuration_sets_none() {
    let pod = render_json(&plain(
        "spec: {serviceAccountName: own, imagePullSecrets: [{name: own}], containers: [{name: m, image: i}]}",
    ));
    assert_eq!(pod["spec"]["serviceAccountName"], "own");
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
}

#[test]
fn the_callback_urls_are_reserved_too() {
    let pod = render_json(&plain(
        "spec: {containers: [{name: m, image: i, env: [{name: CALLBACK_SERVICE_RESULT_URL, value: spoofed}, {name: CALLBACK_SERVICE_FILE_URL, value: spoofed}, {name: CALLBACK_SERVICE_EVENT_URL, value: spoofed}, {name: CALLBACK_SERVICE_TOKEN, value: spoofed}]}]}",
    ));
    assert!(!pod.to_string().contains("spoofed"), "{pod}");
}

#[test]
fn null_labels_are_no_crash() {
    let pod = render_json(&plain(
        "metadata: {labels: null, annotations: null}\nspec: {containers: [{name: m, image: i}]}",
    ));
    assert_eq!(
        pod["metadata"]["labels"]["batch-job-controller.bakito.github.com/owner"],
        "audit"
    );
}
