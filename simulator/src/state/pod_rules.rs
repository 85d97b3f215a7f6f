//! Pods: what is filled in beyond the defaults of their specs, and what is refused.

use serde_json::{Map, Value, json};

use super::admission::{Allocator, show_times};
use super::names;
use super::object::Object;
use super::pod_defaults::{default_pod_spec, quality_of_service};
use super::resource::NameRule;
use super::status::Cause;

/// Pods: the defaults of the spec, phase Pending, the quality of service.
pub(super) fn prepare(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator) {
    if !old.is_some_and(|old| object.shares(old, "spec")) {
        let spec = object.section_mut("spec");
        if allocator.default_service_account && spec.get("serviceAccountName").is_none() {
            spec.insert("serviceAccountName".to_owned(), json!("default"));
        }
        default_pod_spec(spec);
        tolerate_short_outages(spec);
        spec.entry("priority").or_insert(json!(0));
        spec.entry("preemptionPolicy")
            .or_insert(json!("PreemptLowerPriority"));
    }
    if object.get("status").is_none() || !old.is_some_and(|old| object.shares(old, "status")) {
        let class = object
            .pointer("/status/qosClass")
            .is_none()
            .then(|| quality_of_service(object));
        let status = object.section_mut("status");
        status.entry("phase").or_insert(json!("Pending"));
        show_times(status, &["lastProbeTime", "lastTransitionTime"]);
        if let Some(class) = class {
            status.insert("qosClass".to_owned(), json!(class));
        }
    }
}

/// What the admission plugin `DefaultTolerationSeconds` adds: five minutes on a node that is not ready or unreachable.
fn tolerate_short_outages(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert(json!([]));
    let Value::Array(tolerations) = tolerations else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let covers = |t: &Value| {
            (t["key"] == key || t["key"].as_str().is_none_or(str::is_empty))
                && matches!(t["effect"].as_str(), None | Some("" | "NoExecute"))
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// Pods: containers with a name and an image, a known restart policy; a stored spec stays as it is but for a few
/// fields.
#[must_use]
pub(super) fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    if let Some(old) = old {
        return if pod_spec_change_is_allowed(object, old) {
            Vec::new()
        } else {
            let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
            vec![Cause::forbidden("spec", detail)]
        };
    }
    let empty = Map::new();
    let spec = object
        .get("spec")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    pod_spec_causes(spec, "spec", &["Always", "OnFailure", "Never"])
}

pub(super) fn pod_spec_causes(
    spec: &Map<String, Value>,
    path: &str,
    policies: &[&str],
) -> Vec<Cause> {
    let mut causes = Vec::new();
    let containers = spec
        .get("containers")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let inits = spec
        .get("initContainers")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    container_causes(containers, &format!("{path}.containers"), &mut causes);
    container_causes(inits, &format!("{path}.initContainers"), &mut causes);
    if let Some(policy) = spec.get("restartPolicy").and_then(Value::as_str)
        && !policies.contains(&policy)
    {
        causes.push(Cause::not_supported(
            format!("{path}.restartPolicy"),
            policy,
            policies,
        ));
    }
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        let path = format!("{path}.activeDeadlineSeconds");
        causes.push(Cause::invalid(path, &json!(seconds), why));
    }
    if let Some(policy) = spec.get("dnsPolicy").and_then(Value::as_str) {
        let known = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        if !known.contains(&policy) {
            causes.push(Cause::not_supported(
                format!("{path}.dnsPolicy"),
                policy,
                &known,
            ));
        }
    }
    for (field, value) in [
        ("nodeName", spec.get("nodeName")),
        ("serviceAccountName", spec.get("serviceAccountName")),
    ] {
        if let Some(name) = value.and_then(Value::as_str).filter(|n| !n.is_empty())
            && let Some(why) = names::subdomain(name)
        {
            causes.push(Cause::invalid(
                format!("{path}.{field}"),
                &json!(name),
                &why,
            ));
        }
    }
    causes
}

fn container_causes(containers: &[Value], path: &str, causes: &mut Vec<Cause>) {
    for (i, container) in containers.iter().enumerate() {
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}[{i}].name"), ""));
        } else if let Some(why) = names::name(NameRule::Label, name) {
            causes.push(Cause::invalid(
                format!("{path}[{i}].name"),
                &json!(name),
                &why,
            ));
        } else if containers[..i].iter().any(|other| other["name"] == name) {
            causes.push(Cause::duplicate(format!("{path}[{i}].name"), &json!(name)));
        }
        if container["image"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{path}[{i}].image"), ""));
        }
        if let Some(policy) = container["imagePullPolicy"].as_str() {
            let known = ["Always", "IfNotPresent", "Never"];
            if !known.contains(&policy) {
                let path = format!("{path}[{i}].imagePullPolicy");
                causes.push(Cause::not_supported(path, policy, &known));
            }
        }
        let env = container["env"].as_array().map_or(&[][..], Vec::as_slice);
        for (j, variable) in env.iter().enumerate() {
            let name = variable["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}[{i}].env[{j}].name"), ""));
            } else if name.contains('=') {
                let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
                causes.push(Cause::invalid(
                    format!("{path}[{i}].env[{j}].name"),
                    &json!(name),
                    why,
                ));
            }
        }
    }
}

/// Whether the new spec differs only where a stored pod may change.
fn pod_spec_change_is_allowed(object: &Object, old: &Object) -> bool {
    if object.same_section(old, "spec") {
        return true;
    }
    let fixed = |object: &Object| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec["activeDeadlineSeconds"] = Value::Null;
        spec["tolerations"] = Value::Null;
        spec
    };
    let added = old
        .list("/spec/tolerations")
        .iter()
        .all(|t| object.list("/spec/tolerations").contains(t));
    added && fixed(object) == fixed(old)
}
