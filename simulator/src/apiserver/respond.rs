//! Answers: JSON with the newline a real server ends it with, Status objects, plain text.

use std::convert::Infallible;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::state::{List, Row, Status, Stored};

/// About the size of an object.
const OBJECT_BYTES: usize = 4 * 1024;

/// What is written of a list at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A list of no more objects is written before it is sent.
const WHOLE_ITEMS_MAX: usize = 500;

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
    let mut body = BytesMut::with_capacity(OBJECT_BYTES);
    stored.encode(row, &mut body);
    body.put_u8(b'\n');
    body.freeze()
}

/// A list, written while it is sent.
pub(super) fn list(row: &'static Row, list: List) -> Body {
    let mut head = BytesMut::new();
    let api_version = row.api_version();
    let kind = format!(
        r#"{{"kind":"{}List","apiVersion":"{api_version}","#,
        row.kind
    );
    head.put_slice(kind.as_bytes());
    head.put_slice(format!(r#""metadata":{},"items":["#, list_metadata(&list)).as_bytes());
    let count = list.items.len();
    let mut items = list.items.into_iter().enumerate();
    let mut next = Some(head);
    let chunks = std::iter::from_fn(move || {
        let mut chunk = next.take()?;
        for (i, item) in items.by_ref() {
            chunk.put_slice(if i > 0 { b",{" } else { b"{" });
            item.encode_item(row, &mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        if items.len() > 0 {
            next = Some(BytesMut::with_capacity(CHUNK_BYTES + OBJECT_BYTES));
        } else {
            chunk.put_slice(b"]}\n");
        }
        Some(Ok::<_, Infallible>(chunk.freeze()))
    });
    if count <= WHOLE_ITEMS_MAX {
        // What is small is sent with its length.
        let whole: Vec<Bytes> = chunks.filter_map(Result::ok).collect();
        return Body::from(whole.concat());
    }
    Body::from_stream(futures::stream::iter(chunks))
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
