//! What the server fills in and what it refuses, per kind: defaults (`prepare_*`) and rules (`validate_*`).
//!
//! `prepare` sees an object after decoding and after each patch, so it must be idempotent, and it leaves sections that it
//! shares with the old version alone. Rules that hold for every object are in [`common`]. Deliberately not here: what
//! depends on other objects, such as the namespace's existence (the verbs).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::event_form;
use super::names;
use super::object::{Metadata, Object};
use super::pod_defaults::{default_pod_spec, quality_of_service};
use super::status::Cause;

/// What defaults may draw from.
#[derive(Debug, Clone)]
pub struct Allocator {
    /// Hosts of 10.96.0.0/12 handed to Services so far; 10.96.0.1 is the API server's own.
    pub(super) service_addresses: u32,
    /// Whether pods without a service account get `default`, as the admission plugin of that name does.
    pub(super) default_service_account: bool,
}

/// Fills in defaults; `old` is the version before, if any.
pub(super) type Prepare = fn(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator);

/// Names every rule that is broken; `old` is the version before, if any.
pub(super) type Validate = fn(object: &Object, old: Option<&Object>) -> Vec<Cause>;

/// No defaults.
pub(super) fn nothing(_: &mut Object, _: Option<&Object>, _: &mut Allocator) {}

/// No rules.
#[must_use]
pub(super) fn anything(_: &Object, _: Option<&Object>) -> Vec<Cause> {
    Vec::new()
}

/// Removes what a client wrote as null: to a real server that is the same as absent.
pub(super) fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.values().any(Value::is_null) {
                map.retain(|_, v| !v.is_null());
            }
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// The rules for the metadata of every object.
pub(super) fn common(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let (row, meta) = (object.row, &object.metadata);
    let mut causes = Vec::new();
    if old.is_none() {
        if meta.name.is_empty() {
            causes.push(Cause::required(
                "metadata.name",
                "name or generateName is required",
            ));
        } else if let Some(why) = names::name(row.name_rule, &meta.name) {
            causes.push(Cause::invalid("metadata.name", &json!(*meta.name), &why));
        }
    }
    if old.is_some_and(|old| shares_metadata(meta, &old.metadata)) {
        return causes;
    }
    for (key, value) in &*meta.labels {
        if let Some(why) = names::label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), &why));
        }
        if let Some(why) = names::label_value(value) {
            causes.push(Cause::invalid("metadata.labels", &json!(value), &why));
        }
    }
    for key in meta.annotations.keys() {
        if let Some(why) = names::label_key(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &json!(key), &why));
        }
    }
    for (i, owner) in meta.owner_references.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let path = format!("metadata.ownerReferences[{i}].{field}");
                causes.push(Cause::invalid(path, &json!(""), "must not be empty"));
            }
        }
    }
    if let Some(old) = old.filter(|old| old.metadata.deletion_timestamp.is_some()) {
        let kept = &old.metadata.finalizers;
        let added: Vec<_> = meta
            .finalizers
            .iter()
            .filter(|f| !kept.contains(f))
            .collect();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
    for finalizer in &*meta.finalizers {
        if let Some(why) = names::label_key(finalizer) {
            causes.push(Cause::invalid(
                "metadata.finalizers",
                &json!(finalizer),
                &why,
            ));
        }
    }
    causes
}

/// Whether nothing that has rules can have changed, as in a write to a section only.
fn shares_metadata(new: &Metadata, old: &Metadata) -> bool {
    Arc::ptr_eq(&new.labels, &old.labels)
        && Arc::ptr_eq(&new.annotations, &old.annotations)
        && Arc::ptr_eq(&new.owner_references, &old.owner_references)
        && Arc::ptr_eq(&new.finalizers, &old.finalizers)
}

/// Namespaces: phase Active, the finalizer, the label that carries the name.
pub(super) fn prepare_namespace(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    let name = object.metadata.name.to_string();
    if !name.is_empty() && object.metadata.labels.get("kubernetes.io/metadata.name") != Some(&name)
    {
        let labels = Arc::make_mut(&mut object.metadata.labels);
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    if object.pointer("/spec/finalizers").is_none() && object.metadata.deletion_timestamp.is_none()
    {
        object
            .section_mut("spec")
            .insert("finalizers".to_owned(), json!(["kubernetes"]));
    }
    if object.pointer("/status/phase").is_none() {
        object
            .section_mut("status")
            .insert("phase".to_owned(), json!("Active"));
    }
}

/// Times that a real server shows as null where they are not set.
fn show_times(status: &mut Map<String, Value>, times: &[&str]) {
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else {
        return;
    };
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        for time in times {
            condition.entry(*time).or_insert(Value::Null);
        }
    }
}

/// Nodes: capacity is also allocatable; the times of conditions are always shown.
pub(super) fn prepare_node(object: &mut Object, old: Option<&Object>, _: &mut Allocator) {
    if object.get("spec").is_none() {
        object.set("spec", json!({}));
    }
    if object.get("status").is_none() || old.is_some_and(|old| object.shares(old, "status")) {
        return;
    }
    let status = object.section_mut("status");
    if let (Some(capacity), None) = (status.get("capacity").cloned(), status.get("allocatable")) {
        status.insert("allocatable".to_owned(), capacity);
    }
    show_times(status, &["lastHeartbeatTime", "lastTransitionTime"]);
}

/// Pods: the defaults of the spec, phase Pending, the quality of service.
pub(super) fn prepare_pod(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator) {
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

/// Pods: containers with a name and an image, a known restart policy; a stored spec stays as it is but for a few fields.
#[must_use]
pub(super) fn validate_pod(object: &Object, old: Option<&Object>) -> Vec<Cause> {
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

fn pod_spec_causes(spec: &Map<String, Value>, path: &str, policies: &[&str]) -> Vec<Cause> {
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
        } else if let Some(why) = names::name(super::resource::NameRule::Label, name) {
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

/// Config maps: an empty `data` is no `data`.
pub(super) fn prepare_data(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    for key in ["data", "binaryData"] {
        if object
            .get(key)
            .and_then(Value::as_object)
            .is_some_and(Map::is_empty)
        {
            object.remove(key);
        }
    }
}

/// Secrets: `stringData` moves to `data`, and the type is Opaque unless given.
pub(super) fn prepare_secret(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator) {
    if let Some(Value::Object(texts)) = object.get("stringData").cloned() {
        let data = object.section_mut("data");
        for (key, text) in texts {
            let encoded = base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD,
                text.as_str().unwrap_or_default(),
            );
            data.insert(key, Value::from(encoded));
        }
        object.remove("stringData");
    }
    if object.text("/type").is_empty() {
        object.set("type", json!("Opaque"));
    }
    prepare_data(object, old, allocator);
}

/// Config maps and Secrets: valid keys; an immutable one keeps its data.
#[must_use]
pub(super) fn validate_data(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    for section in ["data", "binaryData"] {
        for key in object
            .get(section)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys)
        {
            if let Some(why) = names::data_key(key) {
                causes.push(Cause::invalid(
                    format!("{section}[{key}]"),
                    &json!(key),
                    &why,
                ));
            }
        }
    }
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else {
        return causes;
    };
    for section in ["immutable", "data", "binaryData"] {
        if !object.same_section(old, section) {
            causes.push(Cause::forbidden(
                section,
                "field is immutable when `immutable` is set",
            ));
        }
    }
    causes
}

/// Services: an address of the cluster unless headless, and the defaults of the ports.
pub(super) fn prepare_service(
    object: &mut Object,
    old: Option<&Object>,
    allocator: &mut Allocator,
) {
    let kept = old
        .map(|old| old.text("/spec/clusterIP").to_owned())
        .filter(|ip| !ip.is_empty());
    let spec = object.section_mut("spec");
    spec.entry("type").or_insert(json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert(json!("None"));
    if spec["type"] != "ExternalName" {
        if spec
            .get("clusterIP")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            let address = kept.unwrap_or_else(|| next_service_address(allocator));
            spec.insert("clusterIP".to_owned(), Value::from(address));
        }
        let address = spec["clusterIP"].clone();
        spec.entry("clusterIPs").or_insert(json!([address]));
        spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
        spec.entry("internalTrafficPolicy")
            .or_insert(json!("Cluster"));
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        port.entry("protocol").or_insert(json!("TCP"));
        if let (Some(number), None) = (port.get("port").cloned(), port.get("targetPort")) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if object.get("status").is_none() {
        object.set("status", json!({"loadBalancer": {}}));
    }
}

fn next_service_address(allocator: &mut Allocator) -> String {
    allocator.service_addresses += 1;
    let [_, b, c, d] = (0x0060_0000 + 1 + allocator.service_addresses).to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

/// Services: ports in range and named when there are several.
#[must_use]
pub(super) fn validate_service(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ports = object.list("/spec/ports");
    if ports.is_empty()
        && object.text("/spec/clusterIP") != "None"
        && object.text("/spec/type") != "ExternalName"
    {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (i, port) in ports.iter().enumerate() {
        let number = port["port"].as_i64().unwrap_or_default();
        if !(1..=65535).contains(&number) {
            causes.push(Cause::invalid(
                format!("spec.ports[{i}].port"),
                &json!(number),
                "must be between 1 and 65535, inclusive",
            ));
        }
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("spec.ports[{i}].name"), ""));
        }
    }
    let address = object.text("/spec/clusterIP");
    if old
        .map(|old| old.text("/spec/clusterIP"))
        .is_some_and(|old| !old.is_empty() && old != address)
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &json!(address),
            "may not change once set",
        ));
    }
    causes
}

/// Claims wait to be bound.
pub(super) fn prepare_claim(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    object
        .section_mut("spec")
        .entry("volumeMode")
        .or_insert(json!("Filesystem"));
    object
        .section_mut("status")
        .entry("phase")
        .or_insert(json!("Pending"));
}

/// Events show the fields that core/v1 always shows.
pub(super) fn prepare_event(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    for field in event_form::always() {
        if object.get(field).is_none() {
            object.set(field, event_form::absent(field));
        }
    }
}

/// Core events: in the namespace of what they are about; those with an `eventTime` follow the newer rules too.
#[must_use]
pub(super) fn validate_event(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    if object.get("eventTime").is_some_and(|time| !time.is_null()) {
        return validate_new_event(object, old);
    }
    event_namespace_causes(object)
}

fn event_namespace_causes(object: &Object) -> Vec<Cause> {
    let about = object.text("/involvedObject/namespace");
    let own = &*object.metadata.namespace;
    if about == own || (about.is_empty() && matches!(own, "default" | "")) {
        return Vec::new();
    }
    vec![Cause::invalid(
        "involvedObject.namespace",
        &json!(about),
        "does not match event.namespace",
    )]
}

/// Events of `events.k8s.io`: every field of the newer form, within its length.
#[must_use]
pub(super) fn validate_new_event(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = event_namespace_causes(object);
    if old.is_some() {
        return causes;
    }
    if object.get("eventTime").is_none_or(Value::is_null) {
        causes.push(Cause::required("eventTime", ""));
    }
    let controller = object.text("/reportingComponent");
    if controller.is_empty() {
        causes.push(Cause::required("reportingController", ""));
    } else if let Some(why) = names::label_key(controller) {
        causes.push(Cause::invalid(
            "reportingController",
            &json!(controller),
            &why,
        ));
    }
    for (field, pointer, most) in [
        ("reportingInstance", "/reportingInstance", 128),
        ("action", "/action", 128),
        ("reason", "/reason", 128),
    ] {
        let text = object.text(pointer);
        if text.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if text.len() > most {
            causes.push(Cause::invalid(
                field,
                &json!(text),
                &format!("can have at most {most} characters"),
            ));
        }
    }
    if object.text("/message").len() > 1024 {
        causes.push(Cause::invalid(
            "message",
            &json!(object.text("/message")),
            "can have at most 1024 characters",
        ));
    }
    let kind = object.text("/type");
    if !matches!(kind, "Normal" | "Warning") {
        causes.push(Cause::invalid(
            "type",
            &json!(kind),
            &format!("has invalid value: {kind}"),
        ));
    }
    causes
}

/// Leases: a positive duration and no negative number of transitions.
#[must_use]
pub(super) fn validate_lease(object: &Object, _: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(seconds) = object
        .pointer("/spec/leaseDurationSeconds")
        .and_then(Value::as_i64)
        .filter(|s| *s <= 0)
    {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            &json!(seconds),
            "must be greater than 0",
        ));
    }
    if let Some(count) = object
        .pointer("/spec/leaseTransitions")
        .and_then(Value::as_i64)
        .filter(|s| *s < 0)
    {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            &json!(count),
            "must be greater than or equal to 0",
        ));
    }
    causes
}

/// Anything with `spec.template`: the pod defaults there.
pub(super) fn prepare_template(object: &mut Object, old: Option<&Object>, _: &mut Allocator) {
    if old.is_some_and(|old| object.shares(old, "spec")) {
        return;
    }
    if let Some(spec) = object
        .section_mut("spec")
        .get_mut("template")
        .and_then(|t| t.get_mut("spec"))
        .and_then(Value::as_object_mut)
    {
        default_pod_spec(spec);
    }
    if object.get("status").is_none() {
        object.set("status", json!({}));
    }
}

/// Replica sets and stateful sets: one replica unless told.
pub(super) fn prepare_scaled(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator) {
    if !old.is_some_and(|old| object.shares(old, "spec")) {
        object
            .section_mut("spec")
            .entry("replicas")
            .or_insert(json!(1));
    }
    prepare_template(object, old, allocator);
}

/// Deployments: a rolling update by quarters, ten old replica sets.
pub(super) fn prepare_deployment(
    object: &mut Object,
    old: Option<&Object>,
    allocator: &mut Allocator,
) {
    if !old.is_some_and(|old| object.shares(old, "spec")) {
        let spec = object.section_mut("spec");
        let strategy = spec
            .entry("strategy")
            .or_insert(json!({"type": "RollingUpdate"}));
        if strategy["type"] == "RollingUpdate" && strategy.get("rollingUpdate").is_none() {
            strategy["rollingUpdate"] = json!({"maxUnavailable": "25%", "maxSurge": "25%"});
        }
        spec.entry("revisionHistoryLimit").or_insert(json!(10));
        spec.entry("progressDeadlineSeconds").or_insert(json!(600));
    }
    prepare_scaled(object, old, allocator);
}

/// Cron jobs: concurrent runs are allowed, three good and one bad one are kept.
pub(super) fn prepare_cron_job(object: &mut Object, old: Option<&Object>, _: &mut Allocator) {
    if old.is_some_and(|old| object.shares(old, "spec")) {
        return;
    }
    let spec = object.section_mut("spec");
    spec.entry("concurrencyPolicy").or_insert(json!("Allow"));
    spec.entry("suspend").or_insert(json!(false));
    spec.entry("successfulJobsHistoryLimit").or_insert(json!(3));
    spec.entry("failedJobsHistoryLimit").or_insert(json!(1));
    let template = spec
        .get_mut("jobTemplate")
        .and_then(|t| t.pointer_mut("/spec/template/spec"))
        .and_then(Value::as_object_mut);
    template.map(default_pod_spec);
    if object.get("status").is_none() {
        object.set("status", json!({}));
    }
}

/// A selector, and a template with containers that the selector matches.
#[must_use]
pub(super) fn validate_pod_template(object: &Object, _: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .and_then(Value::as_object);
    match object
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object)
    {
        None if object.pointer("/spec/selector/matchExpressions").is_none() => {
            causes.push(Cause::required("spec.selector", ""));
        }
        Some(wanted)
            if !wanted
                .iter()
                .all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v))) =>
        {
            let shown = labels.map_or(Value::Null, |l| Value::Object(l.clone()));
            causes.push(Cause::invalid(
                "spec.template.metadata.labels",
                &shown,
                "`selector` does not match template `labels`",
            ));
        }
        _ => {}
    }
    let empty = Map::new();
    let spec = object
        .pointer("/spec/template/spec")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    causes.extend(pod_spec_causes(spec, "spec.template.spec", &["Always"]));
    causes
}
