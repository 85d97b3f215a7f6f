//! The document at `/openapi.json` says what the callback API does: each answer in it can be had, each that can be had
//! is in it, and its schemas are those of the parsers.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use axum::body::Body;
use controller::ports::cluster::PodPhase;
use controller::ports::error::ClusterErrorKind;
use controller::ports::report_store::ReportStoreErrorKind;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use support::reports::StoreFault;
use support::tokens;
use support::world::{Answer, RESULT, Setup, World, pod_name};

const EXECUTION: &str = "202611232359";
const EVENT: &str = r#"{"reason":"Checked","message":"all good"}"#;
const LIMIT_BYTES: usize = 200;

/// What can be posted, with a body that is taken.
const ENDPOINTS: [(&str, &str); 3] = [("result", RESULT), ("file?name=x", "x"), ("event", EVENT)];

fn setup(auth: &str) -> Setup {
    Setup::new(&["node-a"])
        .set("callbackAuth", json!(auth))
        .set("retries", json!(1))
        .set(
            "callbackBodyLimit",
            json!({"file": LIMIT_BYTES, "result": LIMIT_BYTES, "event": LIMIT_BYTES}),
        )
}

async fn document(world: &World) -> Value {
    let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
    let answer = world.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&answer.body).unwrap()
}

/// Posts with a token in the path, and notes the answer.
struct Poster<'a> {
    world: &'a World,
    answers: BTreeSet<(String, String)>,
}

impl Poster<'_> {
    async fn post(
        &mut self,
        endpoint: &str,
        node: &str,
        token: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let path = format!("{node}/{EXECUTION}/{token}/{endpoint}");
        let answer = self.world.post(&path, body).await;
        let name = endpoint.split('?').next().unwrap();
        self.answers
            .insert((name.to_owned(), answer.status.as_str().to_owned()));
        answer
    }
}

fn token(node: &str, attempt: u32) -> String {
    tokens().token(node, EXECUTION, attempt)
}

#[tokio::test(start_paused = true)]
async fn each_answer_in_it_can_be_had_and_no_other() {
    let world = setup("required").run_to_pods().await;
    let own = token("node-a", 1);
    let mut poster = Poster {
        world: &world,
        answers: BTreeSet::new(),
    };
    for (endpoint, body) in ENDPOINTS {
        poster.post(endpoint, "node-a", &own, body).await;
        poster.post(endpoint, "node-a", "wrong", body).await;
        poster
            .post(endpoint, "node-x", &token("node-x", 1), body)
            .await;
        poster
            .post(endpoint, "node-a", &own, "x".repeat(LIMIT_BYTES + 1))
            .await;
    }
    for (endpoint, body) in [
        ("result", "no JSON"),
        ("file?name=a/b", "x"),
        ("event", "{}"),
    ] {
        poster.post(endpoint, "node-a", &own, body).await;
    }
    for kind in [
        ReportStoreErrorKind::NoSpace,
        ReportStoreErrorKind::Unavailable,
    ] {
        world.reports.set_fault(Some(StoreFault::Writes(kind)));
        for (endpoint, body) in &ENDPOINTS[..2] {
            poster.post(endpoint, "node-a", &own, *body).await;
        }
    }
    world.reports.set_fault(None);
    for kind in [ClusterErrorKind::Unavailable, ClusterErrorKind::Refused] {
        world.cluster.change(|state| {
            state
                .faults
                .entry("create_event")
                .or_default()
                .push_back(kind);
        });
        let answer = poster.post("event", "node-a", &own, EVENT).await;
        assert_eq!(
            answer.headers.contains_key(header::RETRY_AFTER),
            answer.status == 503
        );
    }
    world
        .cluster
        .set_phase(&pod_name("node-a", EXECUTION), PodPhase::Failed);
    let second = world.cluster.until("the second attempt", |state| {
        (state.pods.len() == 2).then_some(())
    });
    second.await;
    for (endpoint, body) in &ENDPOINTS[..2] {
        poster.post(endpoint, "node-a", &own, *body).await;
    }
    let mut answers = std::mem::take(&mut poster.answers);

    let documented = documented(&document(&world).await);
    let world = setup("required").run_to_pods().await;
    let pod = pod_name("node-a", EXECUTION);
    world.cluster.remove(&pod);
    world
        .until("the end of the pod", |world| {
            world
                .has_metric("audit_processing{executionID=\"202611232359\",node=\"node-a\"} 1")
                .then_some(())
        })
        .await;
    let mut poster = Poster {
        world: &world,
        answers,
    };
    poster.post("event", "node-a", &own, EVENT).await;
    answers = poster.answers;

    // Of every endpoint, where nobody leads, and with slow clients and many posts at a time (`relay.rs`,
    // `callback_attacks.rs`).
    for (endpoint, _) in ENDPOINTS {
        let name = endpoint.split('?').next().unwrap();
        for status in ["408", "429", "503"] {
            answers.insert((name.to_owned(), status.to_owned()));
        }
    }
    assert_eq!(documented, answers);
}

/// The statuses of each endpoint, with and without a token in the path alike.
fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let mut of_form = [false, true].map(|has_token| {
        let paths = document["paths"].as_object().unwrap().iter();
        let posts = paths.filter(|(path, item)| {
            item.get("post").is_some() && path.contains("{token}") == has_token
        });
        let pairs = posts.flat_map(|(path, item)| {
            let endpoint = path.rsplit('/').next().unwrap().to_owned();
            let statuses = item["post"]["responses"].as_object().unwrap().keys();
            statuses.map(move |status| (endpoint.clone(), status.clone()))
        });
        pairs.collect::<BTreeSet<_>>()
    });
    assert_eq!(of_form[0], of_form[1]);
    std::mem::take(&mut of_form[0])
}

#[tokio::test(start_paused = true)]
async fn its_paths_and_limits_are_those_of_the_server() {
    for (auth, security) in [
        ("required", json!([{"token": []}])),
        ("permissive", json!([{}, {"token": []}])),
        ("off", json!([])),
    ] {
        let world = setup(auth).run_to_pods().await;
        let document = document(&world).await;
        let own = token("node-a", 1);
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 7);
        for (path, item) in paths {
            let Some(post) = item.get("post") else {
                continue;
            };
            let real = path
                .replace("{node}", "node-a")
                .replace("{execution}", EXECUTION)
                .replace("{token}", &own);
            let endpoint = real.rsplit('/').next().unwrap();
            let (_, body) = ENDPOINTS
                .iter()
                .find(|(known, _)| known.starts_with(endpoint))
                .unwrap();
            let request =
                Request::post(&real).header(header::AUTHORIZATION, format!("Bearer {own}"));
            let answer = world.send(request.body(Body::from(*body)).unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK, "{real}");
            let limit = &post["requestBody"]["description"];
            assert_eq!(limit, &format!("At most {LIMIT_BYTES} bytes"));
            if !path.contains("{token}") {
                assert_eq!(post["security"], security, "{auth}");
                let nobody = world
                    .send(Request::post(&real).body(Body::from(*body)).unwrap())
                    .await;
                assert_eq!(
                    nobody.status == StatusCode::UNAUTHORIZED,
                    auth == "required"
                );
            }
        }
        let posted = Request::builder().method(Method::POST).uri("/openapi.json");
        let answer = world.send(posted.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers[header::ALLOW], "GET, HEAD");
    }
}

#[tokio::test(start_paused = true)]
async fn its_schemas_are_those_of_the_parsers() {
    let world = setup("off").run_to_pods().await;
    let schemas = document(&world).await["components"]["schemas"].take();
    let post = async |endpoint: &str, body: &Value| {
        let path = format!("node-a/{EXECUTION}/{endpoint}");
        world.post(&path, body.to_string()).await.status.as_u16()
    };
    for (name, schema) in schemas.as_object().unwrap() {
        let example = &schema["examples"][0];
        assert_eq!(post(name, example).await, 200, "{example}");
    }
    // An object beside what is wanted: neither schema has one where it has a type.
    let wrong = json!({"a": 1});
    let event = &schemas["event"];
    let example = &event["examples"][0];
    for (name, property) in event["properties"].as_object().unwrap() {
        let mut broken = example.clone();
        broken[name] = wrong.clone();
        assert_eq!(post("event", &broken).await, 400, "{broken}");
        let mut without = example.clone();
        without.as_object_mut().unwrap().remove(name);
        let is_required = event["required"].as_array().unwrap().contains(&json!(name));
        assert_eq!(
            post("event", &without).await == 400,
            is_required,
            "{without}"
        );
        if let Some(length_max) = property["maxLength"].as_u64() {
            for (length, expected) in [(length_max, 200), (length_max + 1, 400)] {
                let mut long = json!({"reason": "R", "message": "m"});
                long[name] = "R".repeat(usize::try_from(length).unwrap()).into();
                assert_eq!(post("event", &long).await, expected, "{name} {length}");
            }
        }
    }
    let sample = &schemas["result"]["additionalProperties"]["items"]["properties"];
    for (name, _) in sample.as_object().unwrap() {
        let broken = json!({"plain": [{name.clone(): [1]}]});
        assert_eq!(post("result", &broken).await, 400, "{broken}");
        assert_eq!(post("result", &json!({"plain": [{}]})).await, 200);
    }
    for body in [
        json!({}),
        json!([]),
        json!({"plain": {}}),
        json!({"plain": [[]]}),
    ] {
        assert_eq!(post("result", &body).await, 400, "{body}");
    }
}
