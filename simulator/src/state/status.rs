//! `Status`: how the API server says no, with the code, reason, message and details of a real one.
//!
//! Constructors are named after the situation; texts are those of `k8s.io/apimachinery/pkg/api/errors` and
//! `k8s.io/apiserver`. Deliberately not here: HTTP. The layer above turns `code` into a status line.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::resource::Row;

/// One field that is wrong, as in `details.causes` of a 422.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong with the value, without the field.
    pub message: String,
    /// The path of the field, e.g. `spec.containers[0].name`; empty where there is none.
    pub field: String,
}

impl Cause {
    /// A value that must be there and is not.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            reason: "FieldValueRequired",
            message,
            field: field.into(),
        }
    }

    /// A value of the right type that breaks a rule; `value` is shown as JSON.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {detail}"),
            field: field.into(),
        }
    }

    /// A value that is none of a closed list.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!(
            "Unsupported value: {value:?}: supported values: {}",
            list.join(", ")
        );
        Self {
            reason: "FieldValueNotSupported",
            message,
            field: field.into(),
        }
    }

    /// A field that may not be set or changed.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
            field: field.into(),
        }
    }

    /// A value that is longer than allowed.
    #[must_use]
    pub fn too_long(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueTooLong",
            message: format!("Too long: {detail}"),
            field: field.into(),
        }
    }

    /// A value that occurs twice in a list that allows it once.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
            field: field.into(),
        }
    }
}

/// What the answer is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The plural resource for most reasons, the kind for `Invalid`.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: Option<u32>,
}

/// A Kubernetes `Status` object: every failure of [`State`](super::State), and the answer to some deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// `NotFound`, `Conflict`, …; empty where a real server gives none.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
}

impl Status {
    fn failure(
        code: u16,
        reason: &'static str,
        message: impl Into<String>,
        details: Option<Details>,
    ) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: details.map(Box::new),
        }
    }

    fn about(row: &Row, name: &str) -> Details {
        Details {
            name: name.to_owned(),
            group: row.group.to_owned(),
            kind: row.plural.to_owned(),
            ..Details::default()
        }
    }

    /// The object is not there (404).
    #[must_use]
    pub fn not_found(row: &Row, name: &str) -> Self {
        let message = format!("{} {name:?} not found", row.qualified());
        Self::failure(404, "NotFound", message, Some(Self::about(row, name)))
    }

    /// The path names no resource that is served (404).
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
            Some(Details::default()),
        )
    }

    /// A create met an object of that name (409).
    #[must_use]
    pub fn already_exists(row: &Row, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", row.qualified());
        Self::failure(409, "AlreadyExists", message, Some(Self::about(row, name)))
    }

    /// A write was based on an older version (409).
    #[must_use]
    pub fn modified(row: &Row, name: &str) -> Self {
        Self::conflict(
            row,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A pod cannot be given to a node in its present state (409). The path counts as the resource here.
    #[must_use]
    pub fn binding_conflict(name: &str, why: &str) -> Self {
        let resource = "pods/binding";
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        let details = Details {
            name: name.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        };
        Self::failure(409, "Conflict", message, Some(details))
    }

    /// The node does not let the pod go yet (429).
    #[must_use]
    pub fn disruption_budget(why: &str, detail: &str) -> Self {
        let cause = Cause {
            reason: "DisruptionBudget",
            message: detail.to_owned(),
            field: String::new(),
        };
        let details = Details {
            causes: vec![cause],
            ..Details::default()
        };
        Self::failure(429, "TooManyRequests", why, Some(details))
    }

    /// A patch that makes an object which cannot be read (422).
    #[must_use]
    pub fn unreadable_patch(patched: &str, why: &str) -> Self {
        let cause = Cause::invalid("patch", &Value::from(patched), why);
        Self::invalid_kind("", "", "", vec![cause])
    }

    /// A write cannot be done in the present state (409).
    #[must_use]
    pub fn conflict(row: &Row, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            row.qualified()
        );
        Self::failure(409, "Conflict", message, Some(Self::about(row, name)))
    }

    /// An apply patch names fields that others own (409); each conflict is the manager as shown and the field.
    #[must_use]
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let cause = |(manager, field): &(String, String)| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {manager:?}"),
            field: field.clone(),
        };
        let count = conflicts.len();
        let mut message = format!(
            "Apply failed with {count} conflict{}: ",
            if count == 1 { "" } else { "s" }
        );
        match conflicts {
            [(manager, field)] => {
                let _ = write!(message, "conflict with {manager:?}: {field}");
            }
            many => {
                let mut last = "";
                for (i, (manager, field)) in many.iter().enumerate() {
                    if manager != last {
                        let _ = write!(
                            message,
                            "{}conflicts with {manager:?}:",
                            if i == 0 { "" } else { "\n" }
                        );
                        last = manager;
                    }
                    let _ = write!(message, "\n- {field}");
                }
            }
        }
        let details = Details {
            causes: conflicts.iter().map(cause).collect(),
            ..Details::default()
        };
        Self::failure(409, "Conflict", message, Some(details))
    }

    /// A delete's precondition does not hold (409). Real servers name the kind here, not the resource.
    #[must_use]
    pub fn precondition(row: &Row, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            row.qualified_kind()
        );
        let details = Details {
            name: name.to_owned(),
            group: row.group.to_owned(),
            kind: row.kind.to_owned(),
            ..Details::default()
        };
        Self::failure(409, "Conflict", message, Some(details))
    }

    /// The object breaks rules (422): one cause for each.
    #[must_use]
    pub fn invalid(row: &Row, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_kind(row.group, row.kind, name, causes)
    }

    /// As [`Status::invalid`] for things that are no resource, such as `ListOptions`.
    #[must_use]
    pub fn invalid_kind(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let shown = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut texts: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let text = if texts.len() == 1 {
            texts.remove(0)
        } else {
            format!("[{}]", texts.join(", "))
        };
        let message = format!("{shown} {name:?} is invalid: {text}");
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        };
        Self::failure(422, "Invalid", message, Some(details))
    }

    /// An update without the version it needs (422). Real servers name the resource here, not the kind.
    #[must_use]
    pub fn version_required(row: &Row, name: &str) -> Self {
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &Value::from(0),
            "must be specified for an update",
        );
        let mut status = Self::invalid_kind(row.group, row.plural, name, vec![cause]);
        status.message = status.message.replacen(
            &format!("{}.{}", row.plural, row.group),
            &row.qualified(),
            1,
        );
        status
    }

    /// A JSON patch that cannot be applied (422).
    #[must_use]
    pub fn patch_failed() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::failure(422, "Invalid", message, Some(Details::default()))
    }

    /// The request makes no sense (400).
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message, None)
    }

    /// The request is understood and refused (403).
    #[must_use]
    pub fn forbidden(row: &Row, name: &str, why: &str, causes: Vec<Cause>) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", row.qualified());
        Self::failure(
            403,
            "Forbidden",
            message,
            Some(Details {
                causes,
                ..Self::about(row, name)
            }),
        )
    }

    /// The path is served, the method is not (405).
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", message, Some(Details::default()))
    }

    /// The client accepts nothing that we speak (406).
    #[must_use]
    pub fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            supported.join(", ")
        );
        Self::failure(406, "NotAcceptable", message, None)
    }

    /// A body in a format that we do not speak (415).
    #[must_use]
    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message, None)
    }

    /// The version asked for is no longer kept (410).
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message, None)
    }

    /// A watch from a version that the history no longer reaches (410).
    #[must_use]
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// A read at a version of the future (504), which may come in so many seconds.
    #[must_use]
    pub fn too_large(asked: u64, current: u64, retry_after_seconds: Option<u32>) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let details = Details {
            causes: vec![cause],
            retry_after_seconds,
            ..Details::default()
        };
        Self::failure(504, "Timeout", message, Some(details))
    }

    /// An error a real server does not classify (500, no reason).
    #[must_use]
    pub fn unclassified(message: impl Into<String>) -> Self {
        Self::failure(500, "", message, None)
    }

    /// Whether this is the answer to something that was done.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// The answer to a delete that is done: `details` names what is gone.
    #[must_use]
    pub fn deleted(row: &Row, name: &str, uid: &str) -> Self {
        let details = Details {
            uid: uid.to_owned(),
            ..Self::about(row, name)
        };
        Self::failure(200, "", "", Some(details))
    }

    /// The answer to a create of something that is no object, such as a binding.
    #[must_use]
    pub fn created() -> Self {
        Self::failure(201, "", "", None)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Status {}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "Status")?;
        map.serialize_entry("apiVersion", "v1")?;
        map.serialize_entry("metadata", &Map::new())?;
        map.serialize_entry(
            "status",
            if self.is_success() {
                "Success"
            } else {
                "Failure"
            },
        )?;
        if !self.message.is_empty() {
            map.serialize_entry("message", &self.message)?;
        }
        if !self.reason.is_empty() {
            map.serialize_entry("reason", self.reason)?;
        }
        if let Some(details) = &self.details {
            map.serialize_entry("details", details)?;
        }
        if !self.is_success() || self.details.is_none() {
            map.serialize_entry("code", &self.code)?;
        }
        map.end()
    }
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !value.is_empty() {
                map.serialize_entry(key, value)?;
            }
        }
        if !self.causes.is_empty() {
            map.serialize_entry("causes", &self.causes)?;
        }
        if let Some(seconds) = self.retry_after_seconds {
            map.serialize_entry("retryAfterSeconds", &seconds)?;
        }
        map.end()
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("reason", self.reason)?;
        map.serialize_entry("message", &self.message)?;
        if !self.field.is_empty() {
            map.serialize_entry("field", &self.field)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::resource;
    use super::*;

    #[test]
    fn missing_object_is_worded_as_by_a_real_server() {
        let status = serde_json::to_value(Status::not_found(&resource::LEASES, "lock")).unwrap();
        assert_eq!(
            status,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "leases.coordination.k8s.io \"lock\" not found", "reason": "NotFound",
                "details": {"name": "lock", "group": "coordination.k8s.io", "kind": "leases"}, "code": 404})
        );
    }

    #[test]
    fn several_causes_are_listed_in_brackets() {
        let causes = vec![Cause::required("a", ""), Cause::forbidden("b", "no")];
        let status = Status::invalid(&resource::PODS, "p", causes);
        assert_eq!(
            status.message,
            "Pod \"p\" is invalid: [a: Required value, b: Forbidden: no]"
        );
    }
}
