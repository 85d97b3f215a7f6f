//! The contract of the callback API, as data: which answers there are of which endpoint. The `OpenAPI` document at
//! `/openapi.json` is made of it, and debug builds hold every answer to a post to it.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::CallbackRules;
use super::target::Endpoint;
use crate::core::event_message::{NOTE_MAX_BYTES, REASON_MAX_BYTES};

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

/// A status, the endpoints that answer it to a post, and what it says.
type Answer = (StatusCode, &'static [Endpoint], &'static str);

const REPORTS: &[Endpoint] = &[Endpoint::Result, Endpoint::File];
const EVENTS: &[Endpoint] = &[Endpoint::Event];

/// Not in it: what has no endpoint (404), another method (405), and a defect of the controller (500 of an event).
#[rustfmt::skip]
const ANSWERS: &[Answer] = &[
    (StatusCode::OK, &Endpoint::ALL, "It is stored, whole; of an event: the cluster has it. The body is empty."),
    (StatusCode::BAD_REQUEST, &Endpoint::ALL, "What was posted is not understood; the line names the field. Do not send it again."),
    (StatusCode::UNAUTHORIZED, &Endpoint::ALL, "The token is wrong, has ended, or is missing where one is required."),
    (StatusCode::NOT_FOUND, EVENTS, "The pod that the event is about is gone."),
    (StatusCode::NOT_ACCEPTABLE, &Endpoint::ALL, "No job pod of this node was created in a kept execution of this id."),
    (StatusCode::REQUEST_TIMEOUT, &Endpoint::ALL, "The body comes too slowly."),
    (StatusCode::CONFLICT, REPORTS, "The name belongs to another node, or a newer attempt runs on this one."),
    (StatusCode::PAYLOAD_TOO_LARGE, &Endpoint::ALL, "The body is larger than the limit of the endpoint (callbackBodyLimit)."),
    (StatusCode::TOO_MANY_REQUESTS, &Endpoint::ALL, "This job pod posts too much; send it again, after as many seconds as Retry-After says."),
    (StatusCode::INTERNAL_SERVER_ERROR, REPORTS, "It cannot be stored."),
    (StatusCode::BAD_GATEWAY, EVENTS, "The cluster refuses the event."),
    (StatusCode::SERVICE_UNAVAILABLE, &Endpoint::ALL, "Send it again, after as many seconds as Retry-After says."),
    (StatusCode::INSUFFICIENT_STORAGE, REPORTS, "The disk is full, or the reports of the execution would take more than reportQuota, or the node has too many of them."),
];

/// Whether this status is documented as an answer to a post to this endpoint. 500 always is: it is what a defect gives.
pub(super) fn documents(endpoint: Endpoint, status: StatusCode) -> bool {
    let mut answers = ANSWERS.iter();
    status == StatusCode::INTERNAL_SERVER_ERROR
        || answers.any(|(known, of, _)| *known == status && of.contains(&endpoint))
}

/// The document, for a controller with these rules.
pub(super) fn openapi(rules: &CallbackRules) -> String {
    let mut paths = Map::new();
    for token in ["", "/{token}"] {
        for endpoint in Endpoint::ALL {
            let path = format!(
                "/report/{{node}}/{{execution}}{token}/{}",
                endpoint.as_str()
            );
            paths.insert(
                path,
                json!({"post": post(endpoint, !token.is_empty(), rules)}),
            );
        }
    }
    let description = "What job pods post. Their environment has the URLs, token included: CALLBACK_SERVICE_RESULT_URL, \
                       CALLBACK_SERVICE_FILE_URL, CALLBACK_SERVICE_EVENT_URL. Of several faults the first is answered: token, pair of \
                       node and execution, size, content, name, space; an error is one line of text.";
    paths.insert(
        PATH.to_owned(),
        json!({"get": {
            "operationId": "getOpenApi",
            "summary": "This document",
            "security": [],
            "responses": {"200": {"description": "It", "content": {"application/json": {"schema": {"type": "object"}}}}},
        }}),
    );
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Callback API of the batch-job-controller",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"result": result_schema(), "event": event_schema()},
            "securitySchemes": {"token": {
                "type": "http", "scheme": "bearer", "description": "CALLBACK_SERVICE_TOKEN of the job pod",
            }},
        },
    });
    document.to_string()
}

fn post(endpoint: Endpoint, has_token: bool, rules: &CallbackRules) -> Value {
    let with = if has_token { "WithToken" } else { "" };
    let security = if has_token || !rules.authentication.takes_tokens() {
        json!([])
    } else if rules.authentication.is_required() {
        json!([{"token": []}])
    } else {
        json!([{}, {"token": []}])
    };
    json!({
        "operationId": format!("post{}{with}", name(endpoint)),
        "summary": summary(endpoint),
        "security": security,
        "parameters": parameters(endpoint, has_token),
        "requestBody": body(endpoint, rules),
        "responses": responses(endpoint),
    })
}

fn name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Result => "Result",
        Endpoint::File => "File",
        Endpoint::Event => "Event",
    }
}

fn summary(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Result => {
            "Stores the result of a node, in place of an earlier one, and exports its samples"
        }
        Endpoint::File => {
            "Stores a file of a node as <node>-<name>, in place of an earlier one of the name"
        }
        Endpoint::Event => "Creates a Kubernetes event about the job pod",
    }
}

fn parameters(endpoint: Endpoint, has_token: bool) -> Value {
    let path = |name: &str, description: &str| json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string"}});
    let mut parameters = vec![
        path("node", "The node of the job pod: NODE_NAME"),
        path("execution", "The id of its execution: EXECUTION_ID"),
    ];
    if has_token {
        parameters.push(path(
            "token",
            "The token of the job pod: CALLBACK_SERVICE_TOKEN",
        ));
    }
    if endpoint == Endpoint::File {
        for (name, place, description) in [
            (
                "name",
                "query",
                "The name of the file, a plain one. Without: that of Content-Disposition, else a generated one",
            ),
            (
                "Content-Disposition",
                "header",
                "attachment with a filename, where the query has no name",
            ),
        ] {
            let schema = json!({"type": "string"});
            parameters.push(
                json!({"name": name, "in": place, "description": description, "schema": schema}),
            );
        }
    }
    parameters.into()
}

fn body(endpoint: Endpoint, rules: &CallbackRules) -> Value {
    let limits = &rules.body_limit;
    let reference = |schema: &str| json!({"$ref": format!("#/components/schemas/{schema}")});
    let (bytes_max, content) = match endpoint {
        Endpoint::Result => (
            limits.result_bytes,
            json!({"application/json": {"schema": reference("result")}}),
        ),
        Endpoint::Event => (
            limits.event_bytes,
            json!({"application/json": {"schema": reference("event")}}),
        ),
        Endpoint::File => (
            limits.file_bytes,
            json!({
                "application/octet-stream": {},
                "multipart/form-data": {"schema": {
                    "description": "Any number of files, each stored under its filename",
                    "type": "object",
                    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
                }},
            }),
        ),
    };
    json!({"required": true, "description": format!("At most {bytes_max} bytes"), "content": content})
}

fn responses(endpoint: Endpoint) -> Value {
    let answers = ANSWERS.iter().filter(|(_, of, _)| of.contains(&endpoint));
    let responses: Map<String, Value> = answers
        .map(|(status, _, meaning)| {
            let mut response = json!({"description": meaning});
            if *status != StatusCode::OK {
                response["content"] = json!({"text/plain": {"schema": {"type": "string"}}});
            }
            if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(status) {
                response["headers"] = json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}});
            }
            (status.as_str().to_owned(), response)
        })
        .collect();
    responses.into()
}

fn result_schema() -> Value {
    json!({
        "description": "Samples by gauge. Gauges and labels that are not configured are stored, and not exported.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "value": {"type": "number", "default": 0},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        },
        "examples": [{"disk_used_ratio": [{"value": 0.41, "labels": {"mount": "/"}}]}],
    })
}

fn event_schema() -> Value {
    json!({
        "type": "object",
        "required": ["reason", "message"],
        "properties": {
            "warning": {"type": "boolean", "default": false, "description": "Whether its type is Warning rather than Normal"},
            "reason": {
                "type": "string", "minLength": 1, "maxLength": REASON_MAX_BYTES,
                "description": "A word that begins with a capital letter; the length is in bytes",
            },
            "action": {"type": "string", "maxLength": REASON_MAX_BYTES, "description": "What was done; the length is in bytes"},
            "message": {
                "type": "string", "minLength": 1,
                "description": format!("With %s and the like where there are arguments; cut at {NOTE_MAX_BYTES} bytes"),
            },
            "args": {"type": "array", "items": {"type": "string"}},
        },
        "examples": [{"warning": true, "reason": "DiskFull", "message": "disk %s is full", "args": ["/dev/sda1"]}],
    })
}
