//! The options of a request, from its query or its body, and what a real server finds wrong with them.

use serde_json::Value;

use super::query::Query;
use crate::state::{
    AtVersion, Cause, DeleteOptions, FieldValidation, Propagation, Status, WriteOptions,
};

/// A longer name of a field manager is refused.
const MANAGER_LENGTH_MAX: usize = 128;

fn refuse(kind: &str, causes: Vec<Cause>) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_kind("meta.k8s.io", kind, "", causes))
}

fn dry_run_causes<'a>(wishes: impl Iterator<Item = &'a str>) -> Option<Cause> {
    let mut unknown = wishes.filter(|wish| *wish != "All");
    unknown
        .next()
        .map(|wish| Cause::not_supported("dryRun", wish, &["All"]))
}

/// The options of a write; `kind` is how errors call them. `is_apply` tells patches apart.
///
/// # Errors
/// 422 for values that are none.
pub(super) fn of_write(
    query: &Query,
    kind: &str,
    is_apply: Option<bool>,
) -> Result<WriteOptions, Status> {
    let mut causes = Vec::new();
    let manager = query.get("fieldManager");
    match is_apply {
        Some(true) if manager.is_empty() => {
            causes.push(Cause::required(
                "fieldManager",
                "is required for apply patch",
            ));
        }
        Some(false) if query.has("force") => {
            let why = "may not be specified for non-apply patch";
            causes.push(Cause::forbidden("force", why));
        }
        _ => {}
    }
    if manager.len() > MANAGER_LENGTH_MAX {
        let why = format!("may not be longer than {MANAGER_LENGTH_MAX} bytes");
        causes.push(Cause::too_long("fieldManager", &why));
    }
    if manager.chars().any(char::is_control) {
        let why = "should only contain printable characters";
        causes.push(Cause::invalid("fieldManager", &manager.into(), why));
    }
    causes.extend(dry_run_causes(query.all("dryRun")));
    let validation = match query.get("fieldValidation") {
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        "Strict" => FieldValidation::Strict,
        other => {
            let known = ["Ignore", "Strict", "Warn"];
            causes.push(Cause::not_supported("fieldValidation", other, &known));
            FieldValidation::Strict
        }
    };
    refuse(kind, causes)?;
    Ok(WriteOptions {
        dry_run: query.has("dryRun"),
        validation,
    })
}

/// The options of a delete: those in the body, or in the query of a request without one.
///
/// # Errors
/// 400 for what is no `DeleteOptions`, 422 for values that are none.
pub(super) fn of_delete(query: &Query, body: Option<&Value>) -> Result<DeleteOptions, Status> {
    let from_query = || -> Result<Value, Status> {
        let mut options = serde_json::Map::new();
        if let Some(seconds) = query.number("gracePeriodSeconds")? {
            options.insert("gracePeriodSeconds".to_owned(), seconds.into());
        }
        for (name, value) in [
            ("propagationPolicy", query.get("propagationPolicy").into()),
            ("orphanDependents", query.flag("orphanDependents").into()),
            ("dryRun", query.all("dryRun").collect::<Value>()),
        ] {
            if query.has(name) {
                options.insert(name.to_owned(), value);
            }
        }
        Ok(Value::Object(options))
    };
    match body {
        Some(body) => parse_delete(body),
        None => parse_delete(&from_query()?),
    }
}

/// Reads `DeleteOptions`.
///
/// # Errors
/// As [`of_delete`].
pub(super) fn parse_delete(value: &Value) -> Result<DeleteOptions, Status> {
    let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
    if !value.is_object() && !value.is_null() || kind != "DeleteOptions" {
        return Err(Status::bad_request(
            "decoded object cannot be converted to DeleteOptions",
        ));
    }
    let preconditions = &value["preconditions"];
    let resource_version = match preconditions["resourceVersion"].as_str() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Status::bad_request(format!(
                "preconditions.resourceVersion: Invalid value: {text:?}"
            ))
        })?),
    };
    let mut causes = Vec::new();
    let orphan = value["orphanDependents"].as_bool();
    let policy = value["propagationPolicy"].as_str();
    let propagation = match (policy, orphan) {
        (Some(policy), Some(_)) => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            causes.push(Cause::invalid("propagationPolicy", &policy.into(), why));
            None
        }
        (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (None, None) => None,
        (Some(other), None) => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            causes.push(Cause::not_supported("propagationPolicy", other, &known));
            None
        }
    };
    let wishes = || value["dryRun"].as_array().into_iter().flatten();
    causes.extend(dry_run_causes(wishes().filter_map(Value::as_str)));
    refuse("DeleteOptions", causes)?;
    Ok(DeleteOptions {
        grace_period_seconds: value["gracePeriodSeconds"].as_i64(),
        uid: preconditions["uid"]
            .as_str()
            .filter(|uid| !uid.is_empty())
            .map(str::to_owned),
        resource_version,
        propagation,
        dry_run: wishes().next().is_some(),
    })
}

/// The version that a read of one object must not be older than.
///
/// # Errors
/// 500 for what is no number: a real server does not classify that here.
pub(super) fn of_get(query: &Query) -> Result<u64, Status> {
    let text = query.get("resourceVersion");
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        Status::unclassified(format!(
            "strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// What a list is asked for beside its selectors.
#[derive(Debug)]
pub(super) struct Paging<'a> {
    pub(super) limit: Option<usize>,
    pub(super) continue_token: &'a str,
    pub(super) at: AtVersion,
}

/// The paging and the version of a list.
///
/// # Errors
/// 400 for what is no number, 422 for parameters that contradict each other.
pub(super) fn of_list(query: &Query) -> Result<Paging<'_>, Status> {
    let text = query.get("resourceVersion");
    let matching = query.get("resourceVersionMatch");
    let continue_token = query.get("continue");
    refuse(
        "ListOptions",
        list_causes(query, text, matching, continue_token),
    )?;
    let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok());
    let limit = limit.filter(|n| *n > 0);
    let version: Option<u64> = match text {
        "" => None,
        text => {
            let broken = || {
                Status::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            };
            Some(text.parse().map_err(|_| broken())?)
        }
    };
    let at = match (version, matching) {
        (None | Some(0), _) => AtVersion::Newest,
        (Some(_), _) if !continue_token.is_empty() => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        (Some(version), "Exact") => AtVersion::Exact(version),
        // A page of a version was exact before there was a parameter to say so.
        (Some(version), "") if limit.is_some() => AtVersion::Exact(version),
        (Some(version), _) => AtVersion::NotOlderThan(version),
    };
    Ok(Paging {
        // What any version may answer comes whole from a real server's cache.
        limit: limit.filter(|_| version != Some(0)),
        continue_token,
        at,
    })
}

fn list_causes(query: &Query, version: &str, matching: &str, token: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut forbid = |field: &str, why: &str| causes.push(Cause::forbidden(field, why));
    let field = "resourceVersionMatch";
    if !matching.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            forbid(field, why);
        }
        if !token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            forbid(field, why);
        }
        if matching == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            forbid(field, why);
        }
    }
    if query.has("sendInitialEvents") {
        let why = "sendInitialEvents is forbidden for list";
        forbid("sendInitialEvents", why);
    }
    if !matches!(matching, "" | "Exact" | "NotOlderThan") {
        let known = ["Exact", "NotOlderThan", ""];
        causes.push(Cause::not_supported(field, matching, &known));
    }
    causes
}
