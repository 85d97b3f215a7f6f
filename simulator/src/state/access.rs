//! Roles and their bindings: defaults and rules. What they allow is nobody's affair here.

use serde_json::{Value, json};

use super::admission::Allocator;
use super::object::Object;
use super::status::Cause;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles show that they have no rules.
pub(super) fn prepare_role(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    if object.get("rules").is_none() {
        object.set("rules", Value::Null);
    }
}

/// Roles: what each rule is about, and at least one verb.
#[must_use]
pub(super) fn validate_role(object: &Object, _: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let is_namespaced = object.row.namespaced;
    for (i, rule) in object.list("/rules").iter().enumerate() {
        let path = |field: &str| format!("rules[{i}].{field}");
        let is_empty = |field: &str| rule[field].as_array().is_none_or(Vec::is_empty);
        if is_empty("verbs") {
            let why = "verbs must contain at least one value";
            causes.push(Cause::required(path("verbs"), why));
        }
        if !is_empty("nonResourceURLs") {
            if is_namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                causes.push(Cause::invalid(
                    path("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    why,
                ));
            }
            continue;
        }
        if is_empty("apiGroups") {
            let why = "resource rules must supply at least one api group";
            causes.push(Cause::required(path("apiGroups"), why));
        }
        if is_empty("resources") {
            let why = "resource rules must supply at least one resource";
            causes.push(Cause::required(path("resources"), why));
        }
    }
    causes
}

/// Bindings: the groups of the role and of the subjects.
pub(super) fn prepare_binding(object: &mut Object, _: Option<&Object>, _: &mut Allocator) {
    object
        .section_mut("roleRef")
        .entry("apiGroup")
        .or_insert(json!(GROUP));
    let Some(Value::Array(subjects)) = object.get("subjects").cloned() else {
        return;
    };
    let subjects = subjects.into_iter().map(|mut subject| {
        if matches!(subject["kind"].as_str(), Some("User" | "Group"))
            && let Some(fields) = subject.as_object_mut()
        {
            fields.entry("apiGroup").or_insert(json!(GROUP));
        }
        subject
    });
    let subjects = Value::Array(subjects.collect());
    object.set("subjects", subjects);
}

/// Bindings: a role that stays, and subjects that say who they are.
#[must_use]
pub(super) fn validate_binding(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let role = |field: &str| object.text(&format!("/roleRef/{field}"));
    if role("apiGroup") != GROUP {
        causes.push(Cause::not_supported(
            "roleRef.apiGroup",
            role("apiGroup"),
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if object.row.namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !kinds.contains(&role("kind")) {
        causes.push(Cause::not_supported("roleRef.kind", role("kind"), kinds));
    }
    if role("name").is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    for (i, subject) in object.list("/subjects").iter().enumerate() {
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        let path = |field: &str| format!("subjects[{i}].{field}");
        if text("name").is_empty() {
            causes.push(Cause::required(path("name"), ""));
        }
        match text("kind") {
            "ServiceAccount" if text("namespace").is_empty() => {
                causes.push(Cause::required(path("namespace"), ""));
            }
            "ServiceAccount" | "User" | "Group" => {}
            other => {
                let known = ["ServiceAccount", "User", "Group"];
                causes.push(Cause::not_supported(path("kind"), other, &known));
            }
        }
    }
    if old.is_some_and(|old| !object.same_section(old, "roleRef")) {
        let role = object.get("roleRef").cloned().unwrap_or_default();
        causes.push(Cause::invalid("roleRef", &role, "cannot change roleRef"));
    }
    causes
}
