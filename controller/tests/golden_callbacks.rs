//! Callbacks as the original answers them: each line of the recording is a case against a controller of its own, which
//! knows no tokens, and against one that does without them.
//!
//! Where we differ on purpose, the case is named below with what is wanted of it.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use k8s_openapi::api::events::v1::Event;
use serde::Deserialize;
use serde_json::json;
use support::world::{Setup, World, pod_name};

const RECORDING: &str = include_str!("fixtures/callbacks.jsonl");
const EXECUTION: &str = "202611232359";

/// One line of the recording.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    #[serde(rename = "case")]
    title: String,
    method: String,
    target: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: String,
    body_base64: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What a request leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Outcome {
    status: u16,
    files: BTreeMap<String, String>,
    events: Vec<PostedEvent>,
    gauges: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct PostedEvent {
    action: String,
    note: String,
    reason: String,
    regarding: String,
    #[serde(rename = "type")]
    kind: String,
}

/// What we want where the original is wrong.
enum Wanted {
    /// This status, and nothing stored, posted or exported.
    Refused(u16),
    /// What that case leads to.
    As(&'static str),
    /// The event with this note.
    Note(&'static str),
}

/// Where we differ on purpose, and how.
const DEVIATIONS: [(&str, Wanted); 12] = [
    ("result null", Wanted::Refused(400)),
    ("result trailing data", Wanted::Refused(400)),
    ("result GET", Wanted::Refused(405)),
    ("result PUT", Wanted::Refused(405)),
    ("result trailing slash", Wanted::As("result")),
    ("files multipart broken", Wanted::Refused(400)),
    ("multipart traversal", Wanted::Refused(400)),
    ("event percent without args", Wanted::Note("100% done")),
    (
        "UNSAFE in the original: file name with path traversal",
        Wanted::Refused(400),
    ),
    (
        "UNSAFE in the original: file name with a directory",
        Wanted::Refused(400),
    ),
    (
        "UNSAFE in the original: absolute file name",
        Wanted::Refused(400),
    ),
    (
        "UNSAFE in the original: header traversal",
        Wanted::Refused(400),
    ),
];

fn cases() -> Vec<Case> {
    RECORDING
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn case(title: &str) -> Case {
    let mut cases = cases().into_iter();
    cases
        .find(|case| case.title == title)
        .unwrap_or_else(|| panic!("no case {title}"))
}

/// What is wanted of a case.
fn wanted(case: &Case) -> Outcome {
    let deviation = DEVIATIONS.iter().find(|(title, _)| *title == case.title);
    let mut outcome = match deviation {
        None => case.outcome.clone(),
        Some((_, Wanted::As(other))) => self::case(other).outcome,
        Some((_, Wanted::Refused(status))) => Outcome {
            status: *status,
            ..Outcome::default()
        },
        Some((_, Wanted::Note(note))) => {
            let mut outcome = case.outcome.clone();
            (*note).clone_into(&mut outcome.events[0].note);
            outcome
        }
    };
    outcome.files = without_uuids(outcome.files);
    outcome
}

/// A controller as the recorded one: every node is known, the pod of `node-gone` was deleted.
async fn recorded_world(auth: &str) -> World {
    let setup = Setup::new(&["node-a", "node-gone"]).set("callbackAuth", json!(auth));
    let world = setup.run();
    world.cluster.until_created(2).await;
    let gone = pod_name("node-gone", EXECUTION);
    world
        .cluster
        .until("the pod of node-gone", |state| {
            state.pods.get(&gone).map(|_| ())
        })
        .await;
    world.cluster.remove(&gone);
    let failed = format!("audit_processing{{executionID=\"{EXECUTION}\",node=\"node-gone\"}} 1");
    world.until_metric(&failed).await;
    world
}

fn request(case: &Case) -> Request<Body> {
    let mut request = Request::builder()
        .method(case.method.as_str())
        .uri(&case.target);
    for (name, value) in &case.headers {
        request = request.header(name, value);
    }
    let body = match &case.body_base64 {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => case.body.clone().into_bytes(),
    };
    request.body(Body::from(body)).unwrap()
}

async fn outcome_of(case: &Case, auth: &str) -> Outcome {
    let world = recorded_world(auth).await;
    let answer = world.send(request(case)).await;
    let status = answer.status.as_u16();
    let lines = answer.text().lines().count();
    assert_eq!(
        lines,
        usize::from(status != 200),
        "{}: {}",
        case.title,
        answer.text()
    );
    let mut files = world.files();
    files.remove("latest");
    let files = files.into_iter().map(|(name, bytes)| (name, shown(bytes)));
    Outcome {
        status,
        files: without_uuids(files.collect()),
        events: world.cluster.look(|state| {
            state
                .events
                .iter()
                .map(posted)
                .filter(is_of_a_job)
                .collect()
        }),
        gauges: ["audit_test{", "audit_plain{", "audit_processing{"]
            .iter()
            .flat_map(|family| world.metric_lines(family))
            .filter(|line| !line.contains("node=\"node-gone\""))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect(),
    }
}

/// Not what the controller itself has to tell, of the pod that is gone.
fn is_of_a_job(event: &PostedEvent) -> bool {
    event.action != "RunJobPod"
}

fn posted(event: &Event) -> PostedEvent {
    let regarding = event.regarding.clone().unwrap();
    assert_eq!(regarding.namespace.as_deref(), Some("batch"));
    PostedEvent {
        action: event.action.clone().unwrap(),
        note: event.note.clone().unwrap(),
        reason: event.reason.clone().unwrap(),
        regarding: regarding.name.unwrap(),
        kind: event.type_.clone().unwrap(),
    }
}

fn shown(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let unpadded = STANDARD.encode(error.into_bytes());
        format!("base64:{unpadded}")
    })
}

/// Generated names are compared by pattern.
fn without_uuids(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_uuid = |text: &str| {
        text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                14 => byte == b'4',
                _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
            })
    };
    let masked = files.into_iter().map(|(name, content)| {
        let at = name.find("/node-a-").map_or(0, |at| at + "/node-a-".len());
        let masked = match name.get(at..at + 36).filter(|part| is_uuid(part)) {
            Some(uuid) => name.replace(uuid, "<uuid>"),
            None => name,
        };
        (masked, content)
    });
    masked.collect()
}

#[tokio::test(start_paused = true)]
async fn every_recorded_callback_is_answered_as_recorded_or_as_we_want_it() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert_eq!(cases.len(), 66);
    for case in &cases {
        for auth in ["off", "permissive"] {
            let (got, wanted) = (outcome_of(case, auth).await, wanted(case));
            if got != wanted {
                wrong.push(format!(
                    "{} ({auth}):\n   got {got:?}\nwanted {wanted:?}",
                    case.title
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_deviation_is_one() {
    for (title, _) in &DEVIATIONS {
        let case = case(title);
        assert_ne!(wanted(&case), case.outcome, "{title}");
    }
}
