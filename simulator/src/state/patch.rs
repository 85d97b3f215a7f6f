//! Patches: JSON merge (RFC 7396), JSON patch (RFC 6902) and Kubernetes' strategic merge, on shared sections.
//!
//! A strategic merge joins the lists that the API marks with a merge key and replaces all others, and knows the
//! directives `$patch`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…` and `$retainKeys`. Which list has which key
//! is [`merge_key`]. Deliberately not here: what may be changed (`admission`).

use serde_json::{Map, Value};

use super::object::{Metadata, Object};
use super::resource::Row;
use super::status::Status;

/// A change to an object, as a client sends it.
#[derive(Debug, Clone)]
pub enum Patch {
    /// `application/merge-patch+json`
    Merge(Value),
    /// `application/strategic-merge-patch+json`
    Strategic(Value),
    /// `application/json-patch+json`
    Json(Value),
    /// `application/apply-patch+yaml`: creates what is not there.
    Apply {
        value: Value,
        /// Who applies: what this manager applied before and no longer names is removed.
        manager: String,
        /// Takes fields over from other managers.
        force: bool,
    },
}

/// Applies a merge, strategic or JSON patch in the form of `row`.
///
/// # Errors
/// 400 for a patch that is none, 422 for a JSON patch that does not fit.
pub(super) fn apply(row: &'static Row, old: &Object, patch: &Patch) -> Result<Object, Status> {
    match patch {
        Patch::Json(operations) => json_patch(row, old, operations),
        Patch::Merge(value) => merge_sections(row, old, value, false),
        Patch::Strategic(value) | Patch::Apply { value, .. } => {
            merge_sections(row, old, value, true)
        }
    }
}

fn json_patch(row: &'static Row, old: &Object, operations: &Value) -> Result<Object, Status> {
    if !operations.is_array() {
        return Err(Status::bad_request(
            "error decoding patch: a JSON patch is a list of operations",
        ));
    }
    let operations: json_patch::Patch =
        serde_json::from_value(operations.clone()).map_err(|_| Status::patch_failed())?;
    let mut value = old.to_value(row);
    json_patch::patch(&mut value, &operations).map_err(|_| Status::patch_failed())?;
    Object::from_value(row, value)
}

fn merge_sections(
    row: &'static Row,
    old: &Object,
    patch: &Value,
    strategic: bool,
) -> Result<Object, Status> {
    let Value::Object(fields) = patch else {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
        ));
    };
    if row.group != old.row.group {
        // The other form of an event: its fields have other names than the sections that are kept.
        let mut value = old.to_value(row);
        merge(&mut value, patch);
        return Object::from_value(row, value);
    }
    let mut new = old.clone();
    for (key, change) in fields {
        match key.as_str() {
            "kind" | "apiVersion" => {}
            "metadata" => new.metadata = merge_metadata(&old.metadata, change, strategic)?,
            directive if strategic && directive.starts_with('$') => {}
            _ => merge_section(&mut new, key, change, strategic),
        }
    }
    Ok(new)
}

fn merge_metadata(old: &Metadata, change: &Value, strategic: bool) -> Result<Metadata, Status> {
    let mut value = serde_json::to_value(old).unwrap_or_default();
    if strategic {
        strategic_merge(&mut value, change, "metadata");
    } else {
        merge(&mut value, change);
    }
    Metadata::from_value(&value).map_err(|why| Status::unreadable_patch(&value.to_string(), &why))
}

fn merge_section(object: &mut Object, key: &str, change: &Value, strategic: bool) {
    match change {
        Value::Null => object.remove(key),
        Value::Object(fields) if fields.is_empty() && object.get(key).is_some() => {}
        _ => {
            let mut value = object.get(key).cloned().unwrap_or_default();
            if strategic {
                merge_field(&mut value, change, "", key);
            } else {
                merge(&mut value, change);
            }
            object.set(key, value);
        }
    }
}

/// JSON merge patch: objects are merged, null removes, everything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// The key by which the elements of a list are told apart; none for lists that are replaced as a whole.
///
/// From the `patchMergeKey` tags of `k8s.io/api`; `parent` is the field that holds the list's owner.
fn merge_key(parent: &str, field: &str) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims"
        | "schedulingGates" => "name",
        "ports"
            if matches!(
                parent,
                "containers" | "initContainers" | "ephemeralContainers"
            ) =>
        {
            "containerPort"
        }
        "ports" if parent == "spec" => "port",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// Lists of plain values that are merged as sets.
fn is_set(field: &str) -> bool {
    matches!(field, "finalizers")
}

fn strategic_merge(target: &mut Value, patch: &Value, own: &str) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(
                changes
                    .iter()
                    .filter(|(k, _)| !k.starts_with('$'))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            );
            return;
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return;
        }
        _ => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    if let Some(keep) = changes.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, change) in changes {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (fields.get_mut(list), change)
            {
                items.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // The order of elements is settled below, once all of them are there.
        } else if change.is_null() {
            fields.shift_remove(key);
        } else {
            merge_field(
                fields.entry(key.clone()).or_insert(Value::Null),
                change,
                own,
                key,
            );
        }
    }
    for (key, order) in changes {
        if let (Some(list), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), order)
            && let Some(Value::Array(items)) = fields.get_mut(list)
        {
            set_order(items, order, merge_key(own, list));
        }
    }
}

fn merge_field(target: &mut Value, change: &Value, parent: &str, field: &str) {
    match change {
        Value::Object(_) => strategic_merge(target, change, field),
        Value::Array(changes) => {
            let mut items = match target {
                Value::Array(items) => std::mem::take(items),
                _ => Vec::new(),
            };
            match merge_key(parent, field) {
                Some(key) if changes.iter().all(Value::is_object) => {
                    merge_list(&mut items, changes, key, field);
                }
                _ if is_set(field) => {
                    let new: Vec<Value> = changes
                        .iter()
                        .filter(|c| !items.contains(c))
                        .cloned()
                        .collect();
                    items.extend(new);
                }
                _ => items.clone_from(changes),
            }
            *target = Value::Array(items);
        }
        other => *target = other.clone(),
    }
}

fn merge_list(items: &mut Vec<Value>, changes: &[Value], key: &str, field: &str) {
    if changes.iter().any(|c| c["$patch"] == "replace") {
        items.clear();
    }
    for change in changes {
        let same = |item: &Value| item[key] == change[key];
        match (
            change["$patch"].as_str(),
            items.iter_mut().find(|item| same(item)),
        ) {
            (Some("delete"), _) => items.retain(|item| !same(item)),
            (Some("replace"), _) if change.get(key).is_none() => {}
            (_, Some(item)) => strategic_merge(item, change, field),
            (_, None) => {
                let mut item = Value::Object(Map::new());
                strategic_merge(&mut item, change, field);
                items.push(item);
            }
        }
    }
}

/// Puts the elements that `order` names into that order; others keep their place behind what they followed.
fn set_order(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| {
        let found = order.iter().position(|wanted| match key {
            Some(key) => wanted[key] == item[key],
            None => wanted == item,
        });
        found.unwrap_or(usize::MAX)
    };
    items.sort_by_key(rank);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::resource::PODS;
    use super::*;

    fn pod() -> Object {
        Object::from_value(
            &PODS,
            json!({"metadata": {"name": "p", "labels": {"a": "1"}, "finalizers": ["x/y"]},
                "spec": {"containers": [
                    {"name": "one", "image": "i1", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]},
                    {"name": "two", "image": "i2"}],
                    "tolerations": [{"key": "k"}]},
                "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        )
        .unwrap()
    }

    fn check(patch: &Patch, pointer: &str, wanted: &Value) {
        let new = apply(&PODS, &pod(), patch).unwrap().to_value(&PODS);
        assert_eq!(
            new.pointer(pointer).unwrap_or(&Value::Null),
            wanted,
            "{patch:?}"
        );
    }

    #[test]
    fn strategic_merge_joins_lists_by_their_key() {
        let change = json!({"spec": {"containers": [{"name": "one", "image": "new", "env": [{"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80, "name": "http"}]}]}});
        let one = json!({"name": "one", "image": "new", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80, "name": "http"}]});
        check(
            &Patch::Strategic(change.clone()),
            "/spec/containers",
            &json!([one, {"name": "two", "image": "i2"}]),
        );
        check(
            &Patch::Merge(change.clone()),
            "/spec/containers",
            &change["spec"]["containers"],
        );
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        check(
            &Patch::Strategic(ready),
            "/status/conditions/0/status",
            &json!("True"),
        );
        check(
            &Patch::Strategic(json!({"spec": {"tolerations": [{"key": "l"}]}})),
            "/spec/tolerations",
            &json!([{"key": "l"}]),
        );
    }

    #[test]
    fn strategic_directives_delete_replace_and_order() {
        let delete = json!({"spec": {"containers": [{"name": "one", "$patch": "delete"}]}});
        check(
            &Patch::Strategic(delete),
            "/spec/containers",
            &json!([{"name": "two", "image": "i2"}]),
        );
        let replace = json!({"spec": {"containers": [{"name": "three"}, {"$patch": "replace"}]}});
        check(
            &Patch::Strategic(replace),
            "/spec/containers",
            &json!([{"name": "three"}]),
        );
        let order =
            json!({"spec": {"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}]}});
        check(
            &Patch::Strategic(order),
            "/spec/containers/0/name",
            &json!("two"),
        );
        let finalizers = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/y"], "finalizers": ["z/z"]}});
        check(
            &Patch::Strategic(finalizers),
            "/metadata/finalizers",
            &json!(["z/z"]),
        );
    }

    #[test]
    fn null_removes_and_unpatched_sections_stay_shared() {
        check(
            &Patch::Merge(json!({"metadata": {"labels": {"a": null}}})),
            "/metadata/labels",
            &Value::Null,
        );
        let old = pod();
        let new = apply(
            &PODS,
            &old,
            &Patch::Strategic(json!({"status": {"phase": "Running"}})),
        )
        .unwrap();
        assert!(new.shares(&old, "spec") && !new.shares(&old, "status"));
    }

    #[test]
    fn json_patch_fails_as_a_whole() {
        let good = json!([{"op": "test", "path": "/metadata/name", "value": "p"}, {"op": "replace", "path": "/spec/containers/0/image", "value": "n"}]);
        check(&Patch::Json(good), "/spec/containers/0/image", &json!("n"));
        let bad = json!([{"op": "remove", "path": "/spec/nope"}]);
        assert_eq!(
            apply(&PODS, &pod(), &Patch::Json(bad)).unwrap_err().code,
            422
        );
        for (patch, code) in [
            (json!({"op": "add"}), 400),
            (json!([{"op": "add"}]), 422),
            (json!([{"op": "jump", "path": "/spec"}]), 422),
        ] {
            let refused = apply(&PODS, &pod(), &Patch::Json(patch)).unwrap_err();
            assert_eq!(refused.code, code);
        }
    }
}
