//! As much of `/openapi/v3` as `kubectl create`, `apply` and `diff` need: which operations validate fields.
//!
//! Deliberately not here: schemas. `kubectl explain` finds none.

use axum::body::Body;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::discovery::{groups, hex, rows};
use super::query::Query;
use super::respond::{JSON, TEXT, line, not_found_page, respond};
use crate::state::Row;

/// The path of a group's document below `/openapi/v3`.
fn group_path(group: &str) -> String {
    if group.is_empty() {
        "api/v1".to_owned()
    } else {
        format!("apis/{group}/v1")
    }
}

fn hash(group: &str) -> String {
    hex(&Sha256::digest(line(&build(group))))
}

/// `/openapi/v3`: the documents and their hashes.
pub(super) fn index() -> Response<Body> {
    let mut paths = Map::new();
    for group in groups() {
        let path = group_path(group);
        let url = format!("/openapi/v3/{path}?hash={}", hash(group));
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    respond(StatusCode::OK, TEXT, line(&json!({ "paths": paths })))
}

/// One group's document; a wrong hash is sent to the right one.
pub(super) fn document(path: &str, query: &str, asked: &str) -> Response<Body> {
    let Some(group) = groups().find(|group| group_path(group) == path) else {
        return not_found_page();
    };
    let query = Query::parse(query);
    let current = hash(group);
    if query.has("hash") && query.get("hash") != current {
        let mut response = respond(StatusCode::MOVED_PERMANENTLY, TEXT, Body::empty());
        if let Ok(location) = HeaderValue::from_str(&format!("{asked}?hash={current}")) {
            response.headers_mut().insert(LOCATION, location);
        }
        return response;
    }
    let mut response = respond(StatusCode::OK, JSON, line(&build(group)));
    if query.has("hash") {
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    response
}

fn build(group: &str) -> Value {
    let mut paths = Map::new();
    for row in rows(group) {
        let scope = if row.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let path = format!("/{}/{scope}{}", group_path(group), row.plural);
        paths.insert(
            format!("{path}/{{name}}"),
            json!({"put": operation(row, "put"), "patch": operation(row, "patch")}),
        );
        paths.insert(path, json!({"post": operation(row, "post")}));
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.35.0"}, "paths": paths, "components": {"schemas": {}}})
}

fn operation(row: &Row, action: &str) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    json!({
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": row.group, "version": row.version, "kind": row.kind}
    })
}
