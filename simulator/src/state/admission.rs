//! What the server fills in and what it refuses, per kind: defaults (`prepare_*`) and rules (`validate_*`).
//!
//! `prepare` sees an object after decoding and after each patch, so it must be idempotent, and it leaves sections that
//! it shares with the old version alone. Rules that hold for every object are in [`common`]. Deliberately not here:
//! what depends on other objects, such as the namespace's existence (the verbs).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::delete::{FOREGROUND, ORPHAN};
use super::event_form;
use super::names;
use super::object::{Metadata, Object};
use super::pod_defaults::default_pod_spec;
use super::pod_rules::pod_spec_causes;
use super::status::Cause;

/// What the data of a config map or a Secret may take together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

/// What all annotations of an object may take together (`TotalAnnotationSizeLimitB`).
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

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

/// What of the metadata an update may not change, where the client sends it.
pub(super) fn fixed(new: &Object, old: &Object) -> Vec<Cause> {
    let (meta, was) = (&new.metadata, &old.metadata);
    let mut causes = Vec::new();
    let mut refuse = |field: &str, value: Value| {
        let field = format!("metadata.{field}");
        causes.push(Cause::invalid(field, &value, "field is immutable"));
    };
    if let Some(created) = meta.creation_timestamp
        && was.creation_timestamp != Some(created)
    {
        refuse("creationTimestamp", json!(created));
    }
    if was.deletion_timestamp.is_none() {
        if let Some(deletion) = meta.deletion_timestamp {
            refuse("deletionTimestamp", json!(deletion));
        }
        if let Some(grace) = meta.deletion_grace_period_seconds {
            refuse("deletionGracePeriodSeconds", json!(grace));
        }
    }
    causes
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
    let bytes = meta
        .annotations
        .iter()
        .map(|(key, value)| key.len() + value.len());
    if bytes.sum::<usize>() > ANNOTATION_BYTES_MAX {
        let why = format!("may not be more than {ANNOTATION_BYTES_MAX} bytes");
        causes.push(Cause::too_long("metadata.annotations", &why));
    }
    owner_causes(&meta.owner_references, &mut causes);
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
    finalizer_causes(&meta.finalizers, &mut causes);
    causes
}

fn owner_causes(owners: &[Value], causes: &mut Vec<Cause>) {
    let path = "metadata.ownerReferences";
    let mut controllers = 0;
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let path = format!("{path}.{field}");
                causes.push(Cause::invalid(path, &json!(""), "must not be empty"));
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid(path, owner, why));
        }
        if owner["controller"] == true {
            controllers += 1;
            if controllers > 1 {
                let why = "Only one reference can have Controller set to true.";
                causes.push(Cause::invalid(path, &json!(owners), why));
            }
        }
    }
}

fn finalizer_causes(finalizers: &[String], causes: &mut Vec<Cause>) {
    let path = "metadata.finalizers";
    for finalizer in finalizers {
        if let Some(why) = names::label_key(finalizer) {
            causes.push(Cause::invalid(path, &json!(finalizer), &why));
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        causes.push(Cause::invalid(path, &json!(finalizers), &why));
    }
    for (i, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&&**finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(
                format!("{path}[{i}]"),
                &json!(finalizer),
                why,
            ));
        }
    }
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
pub(super) fn show_times(status: &mut Map<String, Value>, times: &[&str]) {
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else {
        return;
    };
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        for time in times {
            if !condition.contains_key(*time) {
                condition.insert((*time).to_owned(), Value::Null);
            }
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
    let sections = || {
        ["data", "binaryData"]
            .into_iter()
            .filter_map(|name| object.get(name)?.as_object())
    };
    let bytes = sections()
        .flatten()
        .filter_map(|(_, value)| value.as_str().map(str::len));
    if bytes.sum::<usize>() > DATA_BYTES_MAX {
        let why = format!("may not be more than {DATA_BYTES_MAX} bytes");
        causes.push(Cause::too_long("", &why));
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

/// Secrets: the keys that their type asks for, and a type that stays.
#[must_use]
pub(super) fn validate_secret(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = validate_data(object, old);
    let kind = object.text("/type");
    let wanted: &[&str] = match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in wanted {
        if object.get("data").and_then(|data| data.get(key)).is_none() {
            causes.push(Cause::required(format!("data[{key}]"), ""));
        }
    }
    if old.is_some_and(|old| old.text("/type") != kind) {
        causes.push(Cause::invalid("type", &json!(kind), "field is immutable"));
    }
    causes
}

/// Leases show that nobody holds them.
pub(super) fn prepare_lease(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    if object.get("spec").is_none() {
        object.set("spec", json!({}));
    }
}

/// Disruption budgets begin without a status to count on.
pub(super) fn prepare_budget(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    if object.get("status").is_none() {
        let status = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        object.set("status", status);
    }
}

/// Slices of endpoints: ports have a name and a protocol, and both lists are always shown.
pub(super) fn prepare_endpoint_slice(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    for list in ["endpoints", "ports"] {
        if object.get(list).is_none() {
            object.set(list, Value::Null);
        }
    }
    let mut ports = object.list("/ports").to_vec();
    let before = ports.clone();
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        port.entry("name").or_insert(json!(""));
        port.entry("protocol").or_insert(json!("TCP"));
    }
    if ports != before {
        object.set("ports", Value::Array(ports));
    }
}

/// Slices of endpoints: one kind of address, which stays.
#[must_use]
pub(super) fn validate_endpoint_slice(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let kind = object.text("/addressType");
    if let Some(old) = old {
        return if old.text("/addressType") == kind {
            Vec::new()
        } else {
            vec![Cause::invalid(
                "addressType",
                &json!(kind),
                "field is immutable",
            )]
        };
    }
    match kind {
        "" => vec![Cause::required("addressType", "")],
        "IPv4" | "IPv6" | "FQDN" => Vec::new(),
        other => vec![Cause::not_supported(
            "addressType",
            other,
            &["FQDN", "IPv4", "IPv6"],
        )],
    }
}

/// Nodes: taints with a key and a known effect, each once; a provider's id stays. A real server calls these taints'
/// place `metadata`.
#[must_use]
pub(super) fn validate_node(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let taints = object.list("/spec/taints");
    for (i, taint) in taints.iter().enumerate() {
        let path = |field: &str| format!("metadata.taints[{i}].{field}");
        let text = |field: &str| taint[field].as_str().unwrap_or_default();
        if let Some(why) = names::label_key(text("key")) {
            causes.push(Cause::invalid(path("key"), &json!(text("key")), &why));
        }
        if let Some(why) = names::label_value(text("value")) {
            causes.push(Cause::invalid(path("value"), &json!(text("value")), &why));
        }
        match text("effect") {
            "" => causes.push(Cause::required(path("effect"), "")),
            effect if !effects.contains(&effect) => {
                causes.push(Cause::not_supported(path("effect"), effect, &effects));
            }
            _ => {}
        }
        let same =
            |other: &Value| other["key"] == taint["key"] && other["effect"] == taint["effect"];
        if taints[..i].iter().any(same) {
            causes.push(Cause::duplicate(format!("metadata.taints[{i}]"), taint));
        }
    }
    let provider = old
        .map(|old| old.text("/spec/providerID"))
        .unwrap_or_default();
    if !provider.is_empty() && provider != object.text("/spec/providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        causes.push(Cause::forbidden("spec.providerID", why));
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
