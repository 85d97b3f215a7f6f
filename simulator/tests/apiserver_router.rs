//! The API over its Router, without sockets: each request a `oneshot`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::state::{Options, State, Target, resource};
use tower::ServiceExt as _;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn server() -> ApiServer {
    ApiServer::new(
        State::new(&Options::default()),
        Arc::new(|| Timestamp::from_second(1_000).unwrap()),
    )
}

async fn send(server: &ApiServer, request: Request<Body>) -> Response<Body> {
    server.router().oneshot(request).await.unwrap()
}

async fn call(
    server: &ApiServer,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = send(server, request.body(Body::from(body.to_owned())).unwrap()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(server: &ApiServer, target: &str) -> (u16, Value) {
    let (code, body) = call(server, "GET", target, &[], "").await;
    (
        code,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    )
}

async fn post(server: &ApiServer, target: &str, value: &Value) -> (u16, Value) {
    let (code, body) = call(server, "POST", target, &[], &value.to_string()).await;
    (code, serde_json::from_str(&body).unwrap())
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "busybox"}]}})
}

/// Reads lines of a watch until it is quiet; under paused time that takes no time.
async fn lines(response: Response<Body>, count: usize) -> Vec<Value> {
    let mut stream = response.into_body().into_data_stream();
    let (mut buffer, mut seen) = (Vec::new(), 0);
    while seen < count {
        let chunk = stream.next().await.unwrap().unwrap();
        seen += chunk.split(|b| *b == b'\n').count() - 1;
        buffer.extend_from_slice(&chunk);
    }
    buffer
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

async fn watch(server: &ApiServer, target: &str) -> Response<Body> {
    let response = send(server, Request::get(target).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    response
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn object_is_created_read_listed_and_deleted() {
    let server = server();
    let (code, created) = post(&server, PODS, &pod("a")).await;
    assert_eq!(
        (
            code,
            &created["status"]["phase"],
            &created["metadata"]["creationTimestamp"]
        ),
        (201, &json!("Pending"), &json!("1970-01-01T00:16:40Z"))
    );
    assert_eq!(
        get(&server, &format!("{PODS}/a")).await,
        (200, created.clone())
    );
    let (_, list) = get(&server, "/api/v1/pods?&labelSelector=app%3Da").await;
    assert_eq!(
        (
            &list["kind"],
            list["items"].as_array().unwrap().len(),
            &list["items"][0]["kind"]
        ),
        (&json!("PodList"), 1, &Value::Null)
    );
    assert_eq!(list["items"][0]["metadata"], created["metadata"]);
    let (code, _) = call(
        &server,
        "DELETE",
        &format!("{PODS}/a?gracePeriodSeconds=0"),
        &[],
        "",
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(get(&server, &format!("{PODS}/a")).await.0, 404);
}

#[tokio::test]
async fn what_is_not_served_says_so_as_a_real_server_does() {
    let server = server();
    for (method, target, headers, code) in [
        ("GET", "/nope", vec![], 404),
        ("GET", "/api/v1/nopes", vec![], 404),
        ("PUT", PODS, vec![], 405),
        ("POST", "/api/v1/pods", vec![], 405),
        ("DELETE", "/api/v1/namespaces", vec![], 405),
        ("POST", "/version", vec![], 405),
        (
            "GET",
            PODS,
            vec![("accept", "application/vnd.kubernetes.protobuf")],
            406,
        ),
        (
            "POST",
            PODS,
            vec![("content-type", "application/vnd.kubernetes.protobuf")],
            415,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default/pods/a",
            vec![("content-type", "text/plain")],
            415,
        ),
        ("POST", PODS, vec![], 400),
        ("GET", "/api/v1/pods?limit=x", vec![], 400),
        (
            "GET",
            "/api/v1/pods?watch=1&resourceVersion=abc",
            vec![],
            500,
        ),
        (
            "GET",
            "/api/v1/pods?watch=1&sendInitialEvents=true",
            vec![],
            422,
        ),
        ("GET", "/api/v1/pods?resourceVersion=999", vec![], 504),
    ] {
        assert_eq!(
            call(&server, method, target, &headers, "").await.0,
            code,
            "{method} {target}"
        );
    }
}

#[tokio::test]
async fn large_body_is_refused() {
    let server = server();
    let huge = "x".repeat(4 * 1024 * 1024);
    assert_eq!(call(&server, "POST", PODS, &[], &huge).await.0, 413);
}

#[tokio::test]
async fn lists_are_tables_for_kubectl() {
    let server = server();
    post(&server, PODS, &pod("a")).await;
    let (_, body) = call(&server, "GET", PODS, &[(ACCEPT.as_str(), TABLE)], "").await;
    let table: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(
        table["columnDefinitions"][0],
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})
    );
    assert_eq!(
        table["rows"][0]["cells"],
        json!([
            "a", "0/1", "Pending", "0", "0s", "<none>", "node-1", "<none>", "<none>"
        ])
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test(start_paused = true)]
async fn watch_tells_what_exists_and_what_happens() {
    let server = server();
    post(&server, PODS, &pod("a")).await;
    let response = watch(&server, "/api/v1/pods?watch=1").await;
    post(&server, PODS, &pod("b")).await;
    let events = lines(response, 2).await;
    assert_eq!(types(&events), ["ADDED", "ADDED"]);
    assert_eq!(
        (
            &events[1]["object"]["kind"],
            &events[1]["object"]["metadata"]["name"]
        ),
        (&json!("Pod"), &json!("b"))
    );
}

#[tokio::test(start_paused = true)]
async fn watch_ends_at_its_timeout_with_bookmarks_before() {
    let server = server();
    let start = tokio::time::Instant::now();
    let response = watch(
        &server,
        "/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=90",
    )
    .await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let events: Vec<Value> = body
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(types(&events), ["BOOKMARK", "BOOKMARK"]);
    assert_eq!(
        events[0]["object"],
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "4"}})
    );
    assert_eq!(start.elapsed(), Duration::from_secs(90));
}

#[tokio::test(start_paused = true)]
async fn streaming_list_is_marked_where_it_ends() {
    let server = server();
    post(&server, PODS, &pod("a")).await;
    let target = "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events = lines(watch(&server, target).await, 2).await;
    assert_eq!(types(&events), ["ADDED", "BOOKMARK"]);
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"],
        json!({"k8s.io/initial-events-end": "true"})
    );
}

#[tokio::test(start_paused = true)]
async fn watch_from_a_version_no_longer_kept_ends_with_an_error_event() {
    let state = State::new(&Options {
        history: 1,
        ..Options::default()
    });
    let server = ApiServer::new(state, Arc::new(|| Timestamp::UNIX_EPOCH));
    for name in ["a", "b", "c"] {
        post(&server, PODS, &pod(name)).await;
    }
    let body = watch(&server, "/api/v1/pods?watch=1&resourceVersion=1")
        .await
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        event,
        json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 1 (6)", "reason": "Expired", "code": 410}})
    );
}

#[tokio::test(start_paused = true)]
async fn table_watch_defines_its_columns_once() {
    let server = server();
    post(&server, PODS, &pod("a")).await;
    let request = Request::get("/api/v1/pods?watch=1")
        .header(ACCEPT, TABLE)
        .body(Body::empty())
        .unwrap();
    let response = send(&server, request).await;
    post(&server, PODS, &pod("b")).await;
    let events = lines(response, 2).await;
    assert!(events[0]["object"]["columnDefinitions"].is_array());
    assert_eq!(
        (
            &events[1]["object"]["kind"],
            &events[1]["object"]["columnDefinitions"]
        ),
        (&json!("Table"), &Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn log_is_followed_until_the_pod_ends() {
    let server = server();
    post(&server, PODS, &pod("a")).await;
    let log = format!("{PODS}/a/log");
    assert_eq!(
        get(&server, &log).await.0,
        400,
        "the container waits to start"
    );
    server.with_state(|state| state.append_pod_log("default", "a", "main", "one\ntwo\n"));
    assert_eq!(
        call(&server, "GET", &format!("{log}?tailLines=1"), &[], "").await,
        (200, "two\n".to_owned())
    );
    assert_eq!(get(&server, &format!("{log}?container=nope")).await.0, 400);
    let response = watch(&server, &format!("{log}?follow=true")).await;
    let follow =
        tokio::spawn(async move { response.into_body().collect().await.unwrap().to_bytes() });
    tokio::task::yield_now().await;
    server.with_state(|state| {
        state.append_pod_log("default", "a", "main", "three\n");
        state
            .set_phase(
                Target::new(&resource::PODS, "default", "a"),
                "Succeeded",
                |_| (),
            )
            .unwrap();
    });
    assert_eq!(&follow.await.unwrap()[..], b"one\ntwo\nthree\n");
}

#[tokio::test]
async fn discovery_names_every_resource_in_both_forms() {
    let server = server();
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis")
        .header(ACCEPT, aggregated)
        .body(Body::empty())
        .unwrap();
    let response = send(&server, request).await;
    assert_eq!(response.headers()[CONTENT_TYPE], aggregated);
    let tag = response.headers()["etag"].clone();
    let document: Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let named = |g: &Value| g["metadata"]["name"] == "coordination.k8s.io";
    let group = document["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| named(g))
        .unwrap();
    assert_eq!(
        group["versions"][0]["resources"][0]["responseKind"],
        json!({"group": "", "version": "", "kind": "Lease"})
    );
    let again = Request::get("/apis")
        .header(ACCEPT, aggregated)
        .header("if-none-match", tag)
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&server, again).await.status(), 304);
    for row in resource::ROWS {
        let path = if row.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/{}", row.group, row.version)
        };
        let (_, list) = get(&server, &path).await;
        let entry = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == row.plural)
            .unwrap();
        assert_eq!(
            (&entry["kind"], &entry["verbs"]),
            (&json!(row.kind), &json!(row.verbs))
        );
    }
}

#[tokio::test]
async fn openapi_says_which_operations_validate_fields() {
    let server = server();
    let (_, index) = call(&server, "GET", "/openapi/v3", &[], "").await;
    let index: Value = serde_json::from_str(&index).unwrap();
    let url = index["paths"]["api/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let (_, document) = get(&server, url).await;
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
    assert_eq!(get(&server, "/openapi/v3/api/v1?hash=old").await.0, 301);
}
