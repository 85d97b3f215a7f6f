//! Recorded conversations with a real API server, replayed against the Router without sockets.
//!
//! A transcript (`fixtures/conformance`) is a list of steps: a request and its answer, or a watch and what it tells
//! while other steps run. Both sides are compared as JSON, but for values that differ from run to run and fields that a
//! small server need not fill in; of an error, the message counts only for some reasons. Time is virtual: a watch
//! settles at once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt as _;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use simulator::apiserver::ApiServer;
use simulator::clock::SimClock;
use simulator::state::{Options, State};
use tower::ServiceExt as _;

const TRANSCRIPTS: [(&str, &str); 4] = [
    ("objects", include_str!("fixtures/conformance/objects.json")),
    ("lists", include_str!("fixtures/conformance/lists.json")),
    ("leases", include_str!("fixtures/conformance/leases.json")),
    ("watches", include_str!("fixtures/conformance/watches.json")),
];

/// Replaced on both sides: only their presence counts.
const VOLATILE: [(&str, &str); 6] = [
    ("uid", "<uid>"),
    ("resourceVersion", "<rv>"),
    ("creationTimestamp", "<time>"),
    ("deletionTimestamp", "<time>"),
    ("continue", "<continue>"),
    ("clusterIP", "<ip>"),
];

/// Bookkeeping and defaults that do not count.
const DROPPED: [&str; 8] = [
    "managedFields",
    "remainingItemCount",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
    "sessionAffinity",
    "qosClass",
];

/// The reasons of errors whose message counts.
const EXACT_MESSAGE: [&str; 3] = ["NotFound", "AlreadyExists", "Conflict"];

/// What counts of `spec` or `status` of some kinds.
fn projection(kind: &str, section: &str) -> Option<&'static [&'static str]> {
    match (kind, section) {
        ("Pod", "spec") => Some(&["nodeName", "restartPolicy", "serviceAccountName"]),
        ("Pod", "status") => Some(&["phase", "podIP", "reason", "message"]),
        ("Node", "spec") => Some(&["unschedulable"]),
        ("Node", "status") => Some(&["conditions"]),
        _ => None,
    }
}

/// The answer in the form in which transcripts have it.
fn normalise(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(normalise).collect(),
        Value::Object(fields) => Value::Object(normalise_object(fields)),
        other => other.clone(),
    }
}

fn normalise_object(fields: &Map<String, Value>) -> Map<String, Value> {
    let kind = fields.get("kind").and_then(Value::as_str).unwrap_or("");
    let is_core = fields
        .get("apiVersion")
        .is_none_or(|version| version == "v1");
    let generated = fields.get("generateName").and_then(Value::as_str);
    let mut out = Map::new();
    for (key, value) in fields {
        if DROPPED.contains(&key.as_str()) {
            continue;
        }
        let mut value = value.clone();
        if is_core && let (Some(kept), Value::Object(section)) = (projection(kind, key), &mut value)
        {
            section.retain(|field, _| kept.contains(&field.as_str()));
            if section.is_empty() {
                continue;
            }
        }
        let placeholder = VOLATILE.iter().find(|(name, _)| name == key);
        let normal = match (value.as_str(), placeholder, generated) {
            (Some(text), Some((_, placeholder)), _) if !matches!(text, "None" | "") => {
                json!(placeholder)
            }
            (Some(name), _, Some(prefix)) if key == "name" && name.starts_with(prefix) => {
                json!(format!("{prefix}<generated>"))
            }
            _ => normalise(&value),
        };
        out.insert(key.clone(), normal);
    }
    if let (Some(item_kind), Some(Value::Array(items))) =
        (kind.strip_suffix("List"), fields.get("items"))
        && projection(item_kind, "spec").is_some()
    {
        out.insert("items".to_owned(), normalise_items(item_kind, items));
    }
    if kind == "Status" {
        normalise_status(&mut out);
    }
    out
}

/// The items of a typed list carry no kind of their own.
fn normalise_items(kind: &str, items: &[Value]) -> Value {
    let item = |item: &Value| {
        let mut fields = item.as_object().cloned().unwrap_or_default();
        fields.entry("kind").or_insert(json!(kind));
        let mut fields = normalise_object(&fields);
        fields.shift_remove("kind");
        Value::Object(fields)
    };
    items.iter().map(item).collect()
}

fn normalise_status(status: &mut Map<String, Value>) {
    if let Some(Value::Object(details)) = status.get_mut("details") {
        details.shift_remove("uid");
        for cause in details
            .get_mut("causes")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            cause.as_object_mut().unwrap().shift_remove("message");
        }
    }
    let reason = status.get("reason").and_then(Value::as_str).unwrap_or("");
    let is_exact = EXACT_MESSAGE.contains(&reason);
    if let Some(Value::String(message)) = status.get_mut("message") {
        *message = normalise_message(message);
        if !is_exact || message.contains("StorageError") {
            status.shift_remove("message");
        }
    }
}

/// Replaces uids, and versions in parentheses.
fn normalise_message(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let version = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        let version = version.filter(|(digits, _)| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if let Some((_, after)) = version {
            out.push_str("(<rv>)");
            rest = after;
        } else if rest.get(..36).is_some_and(is_uid) {
            out.push_str("<uid>");
            rest = &rest[36..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn is_uid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

/// Where the answers differ.
fn differences(want: &Value, got: &Value, path: &str, found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, value) in want {
                match got.get(key) {
                    Some(other) => differences(value, other, &format!("{path}/{key}"), found),
                    None => found.push(format!("{path}/{key}: missing, expected {value}")),
                }
            }
            let more = got.iter().filter(|(key, _)| !want.contains_key(*key));
            found.extend(more.map(|(key, value)| format!("{path}/{key}: unexpected {value}")));
        }
        (Value::Array(want), Value::Array(got)) => {
            if want.len() != got.len() {
                let (counted, expected) = (got.len(), want.len());
                found.push(format!("{path}: {counted} entries, expected {expected}"));
            }
            for (at, (want, got)) in want.iter().zip(got).enumerate() {
                differences(want, got, &format!("{path}/{at}"), found);
            }
        }
        _ if want == got => {}
        _ => found.push(format!("{path}: {got}, expected {want}")),
    }
}

/// A conversation in progress.
struct Replay {
    router: Router,
    /// Values captured from answers.
    variables: BTreeMap<String, String>,
}

impl Replay {
    /// Puts captured values in the place of `${name}`.
    fn substitute(&self, text: &str) -> String {
        let mut parts = text.split("${");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap();
            out.push_str(self.variables.get(name).map_or("<unset>", String::as_str));
            out.push_str(rest);
        }
        out
    }

    async fn send(&self, request: &Value) -> Response<Body> {
        let mut builder = Request::builder()
            .method(request["method"].as_str().unwrap_or("GET"))
            .uri(self.substitute(request["target"].as_str().unwrap()));
        let mut headers = BTreeMap::from([(ACCEPT.as_str(), "application/json")]);
        let body = match &request["body"] {
            Value::Null => None,
            Value::String(text) => Some(self.substitute(text)),
            value => Some(self.substitute(&value.to_string())),
        };
        if body.is_some() {
            headers.insert(CONTENT_TYPE.as_str(), "application/json");
        }
        let lower: BTreeMap<String, &str> = (request["headers"].as_object().into_iter().flatten())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap()))
            .collect();
        headers.extend(lower.iter().map(|(name, value)| (name.as_str(), *value)));
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        let request = builder.body(Body::from(body.unwrap_or_default())).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn step(&mut self, step: &Value) -> Value {
        if step.get("watch").is_some() {
            return Box::pin(self.watch(&step["watch"])).await;
        }
        let response = self.send(&step["request"]).await;
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .map_or("", |value| value.to_str().unwrap());
        let content_type = content_type.split(';').next().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        for (name, pointer) in step["capture"].as_object().into_iter().flatten() {
            let captured = body.pointer(pointer.as_str().unwrap());
            let captured = captured.map_or("<missing>".to_owned(), |value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            self.variables.insert(name.clone(), captured);
        }
        if let Some(seconds) = step["pause"].as_f64() {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        }
        json!({"status": status, "contentType": content_type, "body": normalise(&body)})
    }

    async fn watch(&mut self, watch: &Value) -> Value {
        let request = json!({"target": watch["target"]});
        let response = self.send(&request).await;
        let status = response.status().as_u16();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = tokio::spawn(async move {
            let mut stream = response.into_body().into_data_stream();
            while let Some(Ok(chunk)) = stream.next().await {
                sink.lock().unwrap().extend_from_slice(&chunk);
            }
        });
        let mut during = Vec::new();
        for step in watch["during"].as_array().into_iter().flatten() {
            during.push(self.step(step).await);
        }
        let settle = watch["settle"].as_f64().unwrap_or(1.0);
        tokio::time::sleep(Duration::from_secs_f64(settle)).await;
        reader.abort();
        let bytes = std::mem::take(&mut *lines.lock().unwrap());
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let events = lines.map(|line| {
            let event: Value = serde_json::from_slice(line).unwrap();
            json!({"type": event["type"], "object": normalise(&event["object"])})
        });
        let keeps_bookmarks = watch["bookmarks"] == "keep";
        let events: Vec<Value> = events
            .filter(|event| keeps_bookmarks || event["type"] != "BOOKMARK")
            .collect();
        json!({"status": status, "events": events, "during": during})
    }
}

#[tokio::test(start_paused = true)]
async fn every_step_is_answered_as_the_recorded_server_did() {
    let clock = SimClock::starting_at("2026-11-23T10:00:00Z".parse().unwrap());
    let options = Options {
        namespace_lifecycle: false,
        compact: true,
        ..Options::default()
    };
    let api = ApiServer::new(State::new(&options), clock.of_api_server());
    let (mut passed, mut failed) = (0, Vec::new());
    for (file, text) in TRANSCRIPTS {
        let mut replay = Replay {
            router: api.router(),
            variables: BTreeMap::new(),
        };
        let steps: Vec<Value> = serde_json::from_str(text).unwrap();
        for step in &steps {
            let got = replay.step(step).await;
            let mut found = Vec::new();
            differences(&step["response"], &got, "", &mut found);
            if found.is_empty() {
                passed += 1;
            } else {
                failed.push(format!(
                    "{file}: {}\n  {}",
                    step["name"],
                    found.join("\n  ")
                ));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{passed} passed, {} failed\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert_eq!(passed, 154);
}

#[test]
fn only_uids_and_versions_in_messages_are_replaced() {
    let uid = "00000000-0000-4000-8000-00000000000f";
    let message = format!("({uid}) is not (12), 3 or (x4)");
    assert_eq!(
        normalise_message(&message),
        "(<uid>) is not (<rv>), 3 or (x4)"
    );
}
