//! Discovery: which groups, versions and resources are served, as separate documents and as one.

use axum::body::Body;
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::accept::{self, Form};
use super::respond::{json as json_response, line, not_found_page, respond, status_response};
use super::route::Route;
use crate::state::{Row, Subresource, resource};

const AGGREGATED: HeaderValue = HeaderValue::from_static(
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
);

/// `/version`: the release whose behaviour is copied.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "35", "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": "v1.35.0", "gitCommit": "simulated", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64"
    })
}

/// `/`: the paths that are served.
pub(super) fn paths() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups().filter(|g| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/v1"));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({ "paths": paths })
}

/// Answers the discovery routes.
pub(super) fn serve(route: &Route, headers: &HeaderMap) -> Response<Body> {
    let form = match accept::form(headers) {
        Ok(form) => form,
        Err(status) => return status_response(&status),
    };
    match (route, form) {
        (Route::CoreVersions, Form::Discovery) => tagged(&aggregated(str::is_empty), headers),
        (Route::Groups, Form::Discovery) => tagged(&aggregated(|group| !group.is_empty()), headers),
        (Route::CoreVersions, _) => {
            json_response(&json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]}))
        }
        (Route::Groups, _) => {
            let groups: Vec<Value> = groups()
                .filter(|g| !g.is_empty())
                .map(group_document)
                .collect();
            json_response(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        (Route::Group(group), _) => {
            let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
            if let (Some(document), Value::Object(rest)) =
                (document.as_object_mut(), group_document(group))
            {
                document.extend(rest);
            }
            json_response(&document)
        }
        (Route::Resources(group, version), _) => json_response(&resource_list(group, version)),
        _ => not_found_page(),
    }
}

/// An aggregated document with its tag: 304 for a client that has it already.
fn tagged(document: &Value, headers: &HeaderMap) -> Response<Body> {
    let body = line(document);
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)));
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        respond(StatusCode::NOT_MODIFIED, AGGREGATED, Body::empty())
    } else {
        respond(StatusCode::OK, AGGREGATED, body)
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    if known {
        headers.remove(CONTENT_TYPE);
    }
    response
}

/// Upper-case hexadecimal, as a real server writes its hashes.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The groups in the order of the table, each once; the core group is the empty one.
pub(super) fn groups() -> impl Iterator<Item = &'static str> {
    let rows = resource::ROWS;
    rows.iter()
        .enumerate()
        .filter(move |(i, row)| rows[..*i].iter().all(|r| r.group != row.group))
        .map(|(_, row)| row.group)
}

/// The rows of a group.
pub(super) fn rows(group: &str) -> impl Iterator<Item = &'static Row> {
    resource::ROWS
        .iter()
        .copied()
        .filter(move |row| row.group == group)
}

fn group_document(group: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// (group, version, kind, verbs) of a subresource; empty group and version where they are those of the resource.
fn subresource(
    row: &Row,
    sub: Subresource,
) -> (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
) {
    match sub {
        Subresource::Status => ("", "", row.kind, &["get", "patch", "update"]),
        Subresource::Finalize => ("", "", row.kind, &["update"]),
        Subresource::Log => ("", "", row.kind, &["get"]),
        Subresource::Binding => ("", "", "Binding", &["create"]),
        Subresource::Eviction => ("policy", "v1", "Eviction", &["create"]),
    }
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for row in rows(group).filter(|row| row.version == version) {
        let mut entry = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind, "verbs": row.verbs});
        add_names(&mut entry, row);
        resources.push(entry);
        for sub in row.subresources {
            let (group, version, kind, verbs) = subresource(row, *sub);
            let name = format!("{}/{}", row.plural, sub.name());
            let mut entry = json!({"name": name, "singularName": "", "namespaced": row.namespaced, "kind": kind, "verbs": verbs});
            if !group.is_empty() {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn add_names(entry: &mut Value, row: &Row) {
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
}

fn aggregated(wanted: impl Fn(&str) -> bool) -> Value {
    let items: Vec<Value> = groups()
        .filter(|group| wanted(group))
        .map(aggregated_group)
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &str) -> Value {
    let resources: Vec<Value> = rows(group).map(aggregated_resource).collect();
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({ "name": group })
    };
    json!({"metadata": metadata, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]})
}

fn aggregated_resource(row: &Row) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({"resource": row.plural, "responseKind": kind("", "", row.kind),
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": row.singular, "verbs": row.verbs});
    add_names(&mut entry, row);
    let subresources = row.subresources.iter().map(|sub| {
        let (group, version, name, verbs) = subresource(row, *sub);
        json!({"subresource": sub.name(), "responseKind": kind(group, version, name), "verbs": verbs})
    });
    let subresources: Vec<Value> = subresources.collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}
