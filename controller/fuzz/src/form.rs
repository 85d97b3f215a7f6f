//! Uploads through the production service: the same request whole and in pieces, and what is stored of it.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use controller::config::{self, CallbackBodyLimit, EnvironmentDefaults};
use controller::core::ids::ExecutionId;
use controller::http::callback;
use controller::metrics::Metrics;
use controller::ports::entropy::Entropy;
use controller::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind, Upload,
};
use controller::runtime::mock;
use futures::stream::{self, Empty};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::{NODE, assert_is_answer, assert_is_safe};

const EXECUTION: &str = "202611232359";

/// Small, so that a fuzzer gets over it.
const FILE_MAX_BYTES: u64 = 2048;

/// The length of pieces, a byte, then `Content-Type` up to the end of its line, then the body. However it arrives, it
/// is answered alike; what is stored is a part of it, under safe names; and nothing is stored of what is refused.
pub fn multipart(request: &[u8]) {
    let Some((piece_bytes, request)) = request.split_first() else {
        return;
    };
    let Some(end) = request.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let Ok(content_type) = HeaderValue::from_bytes(&request[..end]) else {
        return;
    };
    let body = &request[end + 1..];
    let whole = post(&content_type, Body::from(body.to_vec()));
    let pieces: Vec<io::Result<Bytes>> = (body.chunks(usize::from(*piece_bytes).max(1)))
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let in_pieces = post(&content_type, Body::from_stream(stream::iter(pieces)));
    assert_eq!(
        (whole.status, &whole.stored),
        (in_pieces.status, &in_pieces.stored)
    );
    for answer in [whole, in_pieces] {
        let line = answer.text.strip_suffix('\n').unwrap_or(&answer.text);
        match answer.status {
            StatusCode::OK => assert_eq!(line, ""),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                assert_is_answer(line);
                assert!(answer.stored.is_empty(), "{line} {:?}", answer.stored);
            }
            other => panic!("{other}: {line}"),
        }
        for (name, content) in &answer.stored {
            assert_is_safe(name);
            let is_part =
                content.is_empty() || body.windows(content.len()).any(|part| part == content);
            assert!(is_part, "{name}: {content:?}");
        }
    }
}

struct Answer {
    status: StatusCode,
    text: String,
    stored: BTreeMap<String, Vec<u8>>,
}

fn post(content_type: &HeaderValue, body: Body) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let shelf = Shelf::default();
        let environment = EnvironmentDefaults::default();
        let config = config::parse("name: fuzz\ncronExpression: '@daily'", &environment);
        let metrics = Arc::new(Metrics::new(&config.expect("a configuration").0));
        let (handle, received) = mock::start(metrics, |_| {});
        let received = tokio::spawn(received);
        let limits = CallbackBodyLimit {
            file_bytes: FILE_MAX_BYTES,
            result_bytes: FILE_MAX_BYTES,
            event_bytes: FILE_MAX_BYTES,
        };
        let service = callback::service(handle, shelf.clone(), OneUuid, limits);
        let request = Request::post(format!("/report/{NODE}/{EXECUTION}/file"))
            .header(header::CONTENT_TYPE, content_type)
            .body(body)
            .expect("a request");
        let response = service.oneshot(request).await.expect("an answer");
        let status = response.status();
        let text = response
            .into_body()
            .collect()
            .await
            .expect("a text")
            .to_bytes();
        received.await.expect("nothing panics");
        let stored = shelf.0.lock().expect("nothing panicked").clone();
        Answer {
            status,
            text: String::from_utf8_lossy(&text).into_owned(),
            stored,
        }
    })
}

/// The same for every upload.
#[derive(Debug, Clone)]
struct OneUuid;

impl Entropy for OneUuid {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(1)
    }

    fn key(&self) -> [u8; 32] {
        [1; 32]
    }
}

/// Reports of one execution by their names, in memory; only what uploads need.
#[derive(Debug, Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

#[derive(Debug)]
struct Writing {
    shelf: Shelf,
    name: String,
    content: Vec<u8>,
}

impl Upload for Writing {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ReportStoreError> {
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self) -> Result<(), ReportStoreError> {
        let mut stored = self.shelf.0.lock().expect("nothing panicked");
        stored.insert(self.name, self.content);
        Ok(())
    }
}

fn unused<T>() -> Ready<Result<T, ReportStoreError>> {
    ready(Err(ReportStoreError {
        kind: ReportStoreErrorKind::Unavailable,
        message: "uploads need none of it".to_owned(),
    }))
}

impl ReportStore for Shelf {
    type Upload = Writing;
    type Content = Empty<Result<Bytes, ReportStoreError>>;

    async fn create_execution(&self, _: &ExecutionId) -> Result<(), ReportStoreError> {
        Ok(())
    }

    async fn set_latest(&self, _: &ExecutionId) -> Result<(), ReportStoreError> {
        unused().await
    }

    async fn latest(&self) -> Result<Option<ExecutionId>, ReportStoreError> {
        unused().await
    }

    async fn list_executions(&self) -> Result<Vec<ExecutionId>, ReportStoreError> {
        unused().await
    }

    async fn remove_execution(&self, _: &ExecutionId) -> Result<(), ReportStoreError> {
        unused().await
    }

    async fn begin(&self, _: &ExecutionId, name: &str) -> Result<Writing, ReportStoreError> {
        Ok(Writing {
            shelf: self.clone(),
            name: name.to_owned(),
            content: Vec::new(),
        })
    }

    async fn put(&self, _: &ExecutionId, _: &str, _: Bytes) -> Result<(), ReportStoreError> {
        unused().await
    }

    async fn append(&self, _: &ExecutionId, _: &str, _: Bytes) -> Result<(), ReportStoreError> {
        unused().await
    }

    async fn list(&self, _: &ExecutionId) -> Result<Vec<ReportMetadata>, ReportStoreError> {
        unused().await
    }

    async fn metadata(&self, _: &ExecutionId, _: &str) -> Result<ReportMetadata, ReportStoreError> {
        unused().await
    }

    async fn read(
        &self,
        _: &ExecutionId,
        _: &str,
        _: u64,
        _: u64,
    ) -> Result<Self::Content, ReportStoreError> {
        unused().await
    }

    async fn put_own(&self, _: &str, _: Bytes) -> Result<(), ReportStoreError> {
        unused().await
    }

    async fn get_own(&self, _: &str) -> Result<Bytes, ReportStoreError> {
        unused().await
    }

    async fn probe(&self) -> Result<(), ReportStoreError> {
        unused().await
    }
}
