//! What a real API server says beyond the recorded conversations: options, preconditions, fields, subresources.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http::header::{CONTENT_TYPE, WARNING};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::state::{Options, Part, State, Target, resource};
use tower::ServiceExt as _;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// An API server alone: nothing ends by itself.
fn server() -> ApiServer {
    let state = State::new(&Options {
        namespace_lifecycle: false,
        ..Options::default()
    });
    ApiServer::new(state, Arc::new(|| Timestamp::UNIX_EPOCH))
}

/// The answer, and what it warns of.
async fn call(
    server: &ApiServer,
    method: &str,
    target: &str,
    content_type: &str,
    body: &Value,
) -> (u16, Value, Vec<String>) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut request = Request::builder().method(method).uri(target);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = server.router().oneshot(request).await.unwrap();
    let warnings = response.headers().get_all(WARNING).iter();
    let warnings = warnings
        .map(|value| value.to_str().unwrap().to_owned())
        .collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&bytes).unwrap_or_default(),
        warnings,
    )
}

async fn json(server: &ApiServer, method: &str, target: &str, body: Value) -> (u16, Value) {
    let (code, answer, _) = call(server, method, target, "application/json", &body).await;
    (code, answer)
}

async fn patch(server: &ApiServer, kind: &str, target: &str, body: Value) -> (u16, Value) {
    let kind = format!("application/{kind}");
    let (code, answer, _) = call(server, "PATCH", target, &kind, &body).await;
    (code, answer)
}

/// (reason, field) of each cause.
fn causes(status: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = status["details"]["causes"].as_array().unwrap();
    causes
        .iter()
        .map(|cause| (text(&cause["reason"]), text(&cause["field"])))
        .collect()
}

fn cause(reason: &str, field: &str) -> Vec<(String, String)> {
    vec![(format!("FieldValue{reason}"), field.to_owned())]
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn options_are_named_by_the_verb_that_has_them() {
    let server = server();
    json(&server, "POST", MAPS, map("a")).await;
    let a = format!("{MAPS}/a");
    for (method, target, kind) in [
        ("POST", format!("{MAPS}?dryRun=Some"), "CreateOptions"),
        ("PUT", format!("{a}?dryRun=Some"), "UpdateOptions"),
        ("DELETE", format!("{a}?dryRun=Some"), "DeleteOptions"),
    ] {
        let body = if method == "DELETE" {
            Value::Null
        } else {
            map("a")
        };
        let (code, status) = json(&server, method, &target, body).await;
        assert_eq!((code, &status["details"]["kind"]), (422, &json!(kind)));
        assert_eq!(causes(&status), cause("NotSupported", "dryRun"));
    }
    for (query, expected) in [
        (
            "fieldValidation=Some",
            cause("NotSupported", "fieldValidation"),
        ),
        ("force=true", cause("Forbidden", "force")),
    ] {
        let target = format!("{a}?{query}");
        let (code, status) = patch(&server, "merge-patch+json", &target, json!({})).await;
        assert_eq!((code, causes(&status)), (422, expected));
        assert_eq!(status["details"]["kind"], "PatchOptions");
    }
}

#[tokio::test]
async fn a_delete_reads_its_options_from_the_body_or_from_the_query() {
    let server = server();
    json(&server, "POST", MAPS, map("a")).await;
    let a = format!("{MAPS}/a");
    for (query, body, expected) in [
        (
            "?propagationPolicy=Some",
            Value::Null,
            cause("NotSupported", "propagationPolicy"),
        ),
        (
            "",
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            cause("Invalid", "propagationPolicy"),
        ),
    ] {
        let (code, status) = json(&server, "DELETE", &format!("{a}{query}"), body).await;
        assert_eq!((code, causes(&status)), (422, expected));
    }
    let (code, _) = json(&server, "DELETE", &a, json!({"kind": "ConfigMap"})).await;
    assert_eq!(code, 400);
    let waits = format!("{a}?propagationPolicy=Foreground");
    let (code, waiting) = json(&server, "DELETE", &waits, Value::Null).await;
    assert_eq!(
        (code, &waiting["metadata"]["finalizers"]),
        (200, &json!(["foregroundDeletion"]))
    );
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 0);
    let (_, status) = json(
        &server,
        "DELETE",
        &a,
        json!({"propagationPolicy": "Background"}),
    )
    .await;
    assert_eq!(
        status["status"], "Success",
        "the finalizer goes with the policy that set it"
    );
}

#[tokio::test]
async fn a_job_is_orphaned_unless_told_otherwise() {
    let server = server();
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    json(
        &server,
        "POST",
        jobs,
        json!({"metadata": {"name": "j"}, "spec": {"template": template}}),
    )
    .await;
    let (_, job) = json(&server, "DELETE", &format!("{jobs}/j"), Value::Null).await;
    assert_eq!(job["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn unknown_fields_are_dropped_and_told_of_or_refused() {
    let server = server();
    let mut object = map("a");
    object["extra"] = json!({"x": 1});
    let (code, created, warnings) = call(&server, "POST", MAPS, "application/json", &object).await;
    assert_eq!((code, created.get("extra")), (201, None));
    assert_eq!(warnings, [r#"299 - "unknown field \"extra\"""#]);
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, status) = json(&server, "POST", &strict, object.clone()).await;
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with(r#"strict decoding error: unknown field "extra""#),
        "{message}"
    );
    let silent = format!("{MAPS}/a?fieldValidation=Ignore");
    let (code, _, warnings) = call(&server, "PUT", &silent, "application/json", &object).await;
    assert_eq!((code, warnings.len()), (200, 0));

    let mut deep = pod("p");
    deep["spec"]["containers"][0]["imagee"] = json!("x");
    let (_, created, warnings) = call(&server, "POST", PODS, "application/json", &deep).await;
    assert_eq!(
        warnings,
        [r#"299 - "unknown field \"spec.containers[0].imagee\"""#]
    );
    assert!(created["spec"]["containers"][0].get("imagee").is_none());
    let applied =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "extra": 1});
    let target = format!("{MAPS}/b?fieldManager=me");
    let (code, status) = patch(&server, "apply-patch+yaml", &target, applied).await;
    assert_eq!((code, status.get("reason")), (500, None));
}

#[tokio::test]
async fn a_patch_that_makes_something_unreadable_is_invalid() {
    let server = server();
    json(&server, "POST", MAPS, map("a")).await;
    let a = format!("{MAPS}/a");
    for (kind, body) in [
        ("merge-patch+json", json!({"data": {"k": 1}})),
        ("strategic-merge-patch+json", json!({"data": {"k": 1}})),
        (
            "json-patch+json",
            json!([{"op": "replace", "path": "/data/k", "value": 1}]),
        ),
        (
            "merge-patch+json",
            json!({"metadata": {"labels": {"a": 1}}}),
        ),
    ] {
        let (code, status) = patch(&server, kind, &a, body).await;
        assert_eq!(
            (code, causes(&status)),
            (422, cause("Invalid", "patch")),
            "{kind}"
        );
        assert_eq!(status["details"].get("kind"), None);
    }
    let (code, _) = patch(
        &server,
        "merge-patch+json",
        &a,
        json!({"metadata": {"name": null}}),
    )
    .await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn metadata_that_never_changes_is_refused_and_generated_names_fit() {
    let server = server();
    json(&server, "POST", MAPS, map("a")).await;
    let a = format!("{MAPS}/a");
    for (metadata, expected) in [
        (
            json!({"creationTimestamp": "2001-01-01T00:00:00Z"}),
            cause("Invalid", "metadata.creationTimestamp"),
        ),
        (
            json!({"deletionTimestamp": "2001-01-01T00:00:00Z"}),
            cause("Invalid", "metadata.deletionTimestamp"),
        ),
        (
            json!({"finalizers": ["hold"]}),
            cause("Invalid", "metadata.finalizers[0]"),
        ),
        (
            json!({"annotations": {"a": "x".repeat(300_000)}}),
            cause("TooLong", "metadata.annotations"),
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}),
            cause("Invalid", "metadata.ownerReferences.uid"),
        ),
    ] {
        let (code, status) = patch(
            &server,
            "merge-patch+json",
            &a,
            json!({"metadata": metadata}),
        )
        .await;
        assert_eq!((code, causes(&status)), (422, expected));
    }
    let long = "x".repeat(70);
    let (code, created) = json(
        &server,
        "POST",
        MAPS,
        json!({"metadata": {"generateName": long}}),
    )
    .await;
    assert_eq!(
        (code, created["metadata"]["name"].as_str().unwrap().len()),
        (201, 63)
    );
    let (code, _) = json(&server, "PUT", &a, json!({"data": {}})).await;
    assert_eq!(code, 400, "the name must be in the body, too");
}

#[tokio::test]
async fn pages_are_of_a_version_and_any_version_comes_whole() {
    let server = server();
    for name in ["a", "b", "c"] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({"first": (name == "a").to_string()});
        json(&server, "POST", MAPS, object).await;
    }
    let get =
        async |query: &str| json(&server, "GET", &format!("{MAPS}?{query}"), Value::Null).await;
    let count = |list: &Value| list["items"].as_array().unwrap().len();
    let (_, any) = get("limit=1&resourceVersion=0").await;
    assert_eq!((count(&any), any["metadata"].get("continue")), (3, None));
    let (_, before) = get("limit=5&resourceVersion=5").await;
    assert_eq!(
        (count(&before), &before["metadata"]["resourceVersion"]),
        (1, &json!("5"))
    );
    let (_, page) = get("limit=1&labelSelector=first%3Dtrue").await;
    let token = page["metadata"]["continue"]
        .as_str()
        .expect("more objects follow, selected or not");
    let (_, last) = get(&format!(
        "limit=1&labelSelector=first%3Dtrue&continue={token}"
    ))
    .await;
    assert_eq!((count(&last), last["metadata"].get("continue")), (0, None));
    let (code, status) = get(&format!("resourceVersionMatch=Some&continue={token}")).await;
    assert_eq!(
        (code, causes(&status).len()),
        (422, 3),
        "each thing that is wrong is named: {status}"
    );
}

#[tokio::test]
async fn binding_and_eviction_say_what_is_in_their_way() {
    let server = server();
    json(&server, "POST", PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "m"}});
    let (code, status) = json(&server, "POST", &format!("{PODS}/p/binding"), binding).await;
    let message = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\"";
    assert_eq!((code, &status["message"]), (409, &json!(message)));
    assert_eq!(
        status["details"],
        json!({"name": "p", "kind": "pods/binding"})
    );
    let eviction = json!({"metadata": {"name": "q"}});
    assert_eq!(
        json(&server, "POST", &format!("{PODS}/p/eviction"), eviction)
            .await
            .0,
        400
    );

    server.with_state(|state| {
        state
            .set_phase(
                Target::new(&resource::PODS, "default", "p"),
                "Running",
                |_| {},
            )
            .unwrap();
    });
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    json(&server, "POST", budgets, budget).await;
    let evict = async || {
        json(
            &server,
            "POST",
            &format!("{PODS}/p/eviction"),
            json!({"metadata": {"name": "p"}}),
        )
        .await
    };
    let (code, status) = evict().await;
    assert_eq!(
        (code, &status["details"]["retryAfterSeconds"]),
        (429, &json!(10)),
        "nobody has looked at the budget yet"
    );
    let allow = |count: i64| {
        server.with_state(|state| {
            let target = Target::new(&resource::POD_DISRUPTION_BUDGETS, "default", "b");
            let status = json!({"observedGeneration": 1, "disruptionsAllowed": count});
            state
                .modify(target, Part::Status, |budget| budget.set("status", status))
                .unwrap();
        });
    };
    allow(0);
    assert_eq!(evict().await.0, 429);
    allow(1);
    assert_eq!(evict().await.0, 201);
    let (_, budget) = json(&server, "GET", &format!("{budgets}/b"), Value::Null).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn without_its_controller_a_namespace_ends_when_it_is_finalized() {
    let server = server();
    json(
        &server,
        "POST",
        "/api/v1/namespaces",
        json!({"metadata": {"name": "n"}}),
    )
    .await;
    let (code, ending) = json(&server, "DELETE", "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(
        (code, &ending["status"]["phase"]),
        (200, &json!("Terminating"))
    );
    let maps = "/api/v1/namespaces/n/configmaps";
    let (code, status) = json(&server, "POST", maps, map("a")).await;
    assert_eq!(
        (code, &status["details"]["causes"][0]["reason"]),
        (403, &json!("NamespaceTerminating"))
    );
    let (_, kept) = patch(
        &server,
        "merge-patch+json",
        "/api/v1/namespaces/n",
        json!({"spec": {"finalizers": []}}),
    )
    .await;
    assert_eq!(
        kept["spec"]["finalizers"],
        json!(["kubernetes"]),
        "only its own path finalizes it"
    );
    let finalize = "/api/v1/namespaces/n/finalize";
    let (code, _) = json(
        &server,
        "PUT",
        finalize,
        json!({"metadata": {"name": "n"}, "spec": {}}),
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(
        json(&server, "GET", "/api/v1/namespaces/n", Value::Null)
            .await
            .0,
        404
    );
}
