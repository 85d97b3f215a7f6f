//! Events have two forms, core/v1 and `events.k8s.io/v1`, of the same objects. They are kept in the first and converted
//! at the edge, as `k8s.io/kubernetes/pkg/apis/events` does.

use serde_json::{Map, Value, json};

/// (core/v1 name, events.k8s.io/v1 name) of the fields that are the same under another name.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The fields that core/v1 always shows, whatever the client left out.
const ALWAYS: &[&str] = &[
    "involvedObject",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "eventTime",
    "reportingComponent",
    "reportingInstance",
];

/// Renames the fields of an `events.k8s.io/v1` event to those of core/v1.
pub(super) fn to_core(fields: &mut Map<String, Value>) {
    for (core, new) in RENAMED {
        if let Some(value) = fields.shift_remove(*new) {
            fields.insert((*core).to_owned(), value);
        }
    }
}

/// Renames the fields of a core/v1 event to those of `events.k8s.io/v1`.
pub(super) fn from_core(fields: &mut Map<String, Value>) {
    for (core, new) in RENAMED {
        if let Some(value) = fields.shift_remove(*core) {
            fields.insert((*new).to_owned(), value);
        }
    }
    for optional in ["reportingController", "reportingInstance"] {
        if fields.get(optional).and_then(Value::as_str) == Some("") {
            fields.shift_remove(optional);
        }
    }
}

/// What stands in core/v1 for a field of [`ALWAYS`] that is not set.
pub(super) fn absent(field: &str) -> Value {
    match field {
        "involvedObject" | "source" => json!({}),
        "reportingComponent" | "reportingInstance" => json!(""),
        _ => Value::Null,
    }
}

/// The fields that are always shown.
pub(super) fn always() -> impl Iterator<Item = &'static str> {
    ALWAYS.iter().copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_and_back_again_changes_nothing() {
        let event = json!({"regarding": {"kind": "Pod"}, "note": "hello", "reportingController": "c", "reportingInstance": "i",
            "action": "a", "deprecatedCount": 2, "type": "Normal"});
        let mut fields = event.as_object().unwrap().clone();
        to_core(&mut fields);
        assert_eq!(
            (&fields["message"], &fields["count"], fields.get("note")),
            (&json!("hello"), &json!(2), None)
        );
        from_core(&mut fields);
        assert_eq!(Value::Object(fields), event);
    }
}
