//! Answers: JSON with the newline a real server ends it with, Status objects, plain text.

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::state::{List, Row, Status, Stored};

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer of a code, a type and a body.
pub(super) fn respond(
    code: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Plain text under a code.
pub(crate) fn text_response(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    respond(code, TEXT, body)
}

/// 200 and plain text.
pub(super) fn text(body: impl Into<Body>) -> Response<Body> {
    respond(StatusCode::OK, TEXT, body)
}

/// What a path outside the API gets.
pub(super) fn not_found_page() -> Response<Body> {
    respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// One line of JSON.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

/// 200 and JSON.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    respond(StatusCode::OK, JSON, line(value))
}

/// A Status under its own code.
pub(crate) fn status_response(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(code, JSON, line(status));
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// One object as it is stored.
pub(super) fn object(row: &'static Row, stored: &Stored) -> Bytes {
    let encoded = stored.encoded(row);
    let mut body = BytesMut::with_capacity(encoded.len() + 1);
    body.extend_from_slice(&encoded);
    body.put_u8(b'\n');
    body.freeze()
}

/// A list, its objects copied as they are encoded.
pub(super) fn list(row: &'static Row, list: &List) -> Bytes {
    let items: Vec<Bytes> = list
        .items
        .iter()
        .map(|item| item.encoded_item(row))
        .collect();
    let mut body = BytesMut::with_capacity(256 + items.iter().map(|i| i.len() + 2).sum::<usize>());
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":"#,
        row.kind,
        row.api_version()
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(list_metadata(list).to_string().as_bytes());
    body.extend_from_slice(br#","items":["#);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            body.put_u8(b',');
        }
        body.put_u8(b'{');
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"]}\n");
    body.freeze()
}

/// `metadata` of a list: its version, the token of the next page, how many follow.
pub(super) fn list_metadata(list: &List) -> serde_json::Value {
    let mut metadata = serde_json::json!({"resourceVersion": list.resource_version.to_string()});
    if let Some(token) = &list.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}
