//! The callback API: `POST /report/{node}/{execution}/result|file|event`.
//!
//! Of several faults the first is answered: unknown path 404, method 405, pair 406, size 413, content 400, name taken 409, no
//! space 507. A 200 means that the report is on disk, whole, and counted. Bodies of files are streamed; results and events
//! are small and read whole. Answers are one line of text for the job's author.

mod file;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::LengthLimitError;
use tracing::{debug, info, warn};

use super::error::HttpError;
use crate::config::CallbackBodyLimit;
use crate::core::event_message::parse_event;
use crate::core::ids::ExecutionId;
use crate::core::report::parse_results;
use crate::core::report_name;
use crate::ports::entropy::Entropy;
use crate::ports::report_store::{ReportStore, ReportStoreError, ReportStoreErrorKind};
use crate::runtime::event::PostEventError;
use crate::runtime::handle::ControllerHandle;

/// What the handlers share.
#[derive(Debug, Clone)]
struct Callbacks<R, E> {
    handle: ControllerHandle,
    reports: R,
    entropy: E,
    limits: CallbackBodyLimit,
}

/// Who calls back, admitted.
#[derive(Debug, Clone)]
struct Caller {
    node: String,
    execution: ExecutionId,
}

/// The router of the callback port.
pub fn router<R: ReportStore, E: Entropy>(
    handle: ControllerHandle,
    reports: R,
    entropy: E,
    limits: CallbackBodyLimit,
) -> Router {
    let callbacks = Callbacks {
        handle,
        reports,
        entropy,
        limits,
    };
    let count = middleware::from_fn_with_state(callbacks.handle.clone(), count);
    let router = Router::new();
    let router = endpoint(router, "result", post(result::<R, E>));
    let router = endpoint(router, "file", post(file::file::<R, E>));
    let router = endpoint(router, "event", post(event::<R, E>));
    router
        .fallback(async || HttpError::new(StatusCode::NOT_FOUND, "404 page not found"))
        .layer(count)
        .layer(DefaultBodyLimit::disable())
        .with_state(callbacks)
}

/// A trailing slash is accepted.
fn endpoint<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    name: &str,
    methods: MethodRouter<S>,
) -> Router<S> {
    let path = format!("/report/{{node}}/{{execution}}/{name}");
    router
        .route(&format!("{path}/"), methods.clone())
        .route(&path, methods)
}

/// Counts answers by endpoint and code.
async fn count(State(handle): State<ControllerHandle>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = path
        .as_ref()
        .map_or("", |path| path.as_str().trim_end_matches('/'));
    let endpoint = match path.rsplit('/').next() {
        Some("result") => "result",
        Some("file") => "file",
        Some("event") => "event",
        _ => "other",
    };
    handle
        .metrics()
        .own()
        .callback_answered(endpoint, response.status().as_u16());
    response
}

type Pair = Result<Path<(String, String)>, PathRejection>;

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    /// The admitted caller of a path.
    fn admit(&self, pair: Pair) -> Result<Caller, HttpError> {
        // What decodes to a further path segment is another path.
        let not_found = || HttpError::new(StatusCode::NOT_FOUND, "404 page not found");
        let Path((node, execution)) = pair.map_err(|_| not_found())?;
        if node.contains('/') || execution.contains('/') {
            return Err(not_found());
        }
        match self.handle.admits(&node, &execution) {
            Some(execution) => Ok(Caller { node, execution }),
            None => Err(HttpError::new(
                StatusCode::NOT_ACCEPTABLE,
                "node / execution ID not allowed: no job pod was created for this pair in a kept execution",
            )),
        }
    }
}

async fn result<R: ReportStore, E: Entropy>(
    State(callbacks): State<Callbacks<R, E>>,
    pair: Pair,
    request: Request,
) -> Result<(), HttpError> {
    let caller = callbacks.admit(pair)?;
    let body = read_whole(request, callbacks.limits.result_bytes).await?;
    let results = parse_results(&body).map_err(|error| refused(&caller, error.to_string()))?;
    let name = report_name::result_name(&caller.node);
    let length = body.len() as u64;
    let stored = callbacks.reports.put(&caller.execution, &name, body).await;
    callbacks.note_stored(&caller, stored, length)?;
    debug!(execution_id = %caller.execution, node = caller.node, bytes = length, "result received");
    let told = callbacks
        .handle
        .result_stored(caller.execution, caller.node, name, results)
        .await;
    told.map_err(|error| not_taken(&error))
}

async fn event<R: ReportStore, E: Entropy>(
    State(callbacks): State<Callbacks<R, E>>,
    pair: Pair,
    request: Request,
) -> Result<(), HttpError> {
    let caller = callbacks.admit(pair)?;
    let body = read_whole(request, callbacks.limits.event_bytes).await?;
    let event = parse_event(&body).map_err(|error| refused(&caller, error.to_string()))?;
    debug!(execution_id = %caller.execution, node = caller.node, reason = event.reason, "event received");
    let posted = callbacks
        .handle
        .post_event(caller.execution, caller.node, event)
        .await;
    posted.map_err(|error| not_taken(&error))
}

/// Reads a body up to `limit` bytes; it is never larger in memory.
async fn read_whole(request: Request, limit: u64) -> Result<Bytes, HttpError> {
    check_announced_length(&request, limit)?;
    let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    to_bytes(request.into_body(), bytes)
        .await
        .map_err(|error| body_error(&error, limit))
}

/// Refuses by `Content-Length`, before the first byte of the body is read.
fn check_announced_length(request: &Request<Body>, limit: u64) -> Result<(), HttpError> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    Ok(())
}

fn body_error(error: &(dyn std::error::Error + 'static), limit: u64) -> HttpError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return too_large(limit);
        }
        cause = error.source();
    }
    HttpError::bad_request("body: it broke off before its end")
}

fn too_large(limit: u64) -> HttpError {
    let message =
        format!("body: larger than {limit} bytes, the limit of this endpoint (callbackBodyLimit)");
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn refused(caller: &Caller, message: String) -> HttpError {
    info!(execution_id = %caller.execution, node = caller.node, reason = message, "callback refused");
    HttpError::bad_request(message)
}

fn not_taken(error: &PostEventError) -> HttpError {
    let status = match error {
        PostEventError::PodGone(_) => StatusCode::NOT_FOUND,
        PostEventError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        PostEventError::Cluster(error) if error.kind.is_transient() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        PostEventError::Cluster(_) => StatusCode::BAD_GATEWAY,
    };
    HttpError::new(status, error.to_string())
}

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    /// Passes on whether a report was stored, counted.
    fn note_stored(
        &self,
        caller: &Caller,
        stored: Result<(), ReportStoreError>,
        bytes: u64,
    ) -> Result<(), HttpError> {
        self.note_written(caller, stored)?;
        let own = self.handle.metrics().own();
        own.report_store_usable(true);
        own.report_stored(bytes);
        Ok(())
    }

    /// Passes on whether a part of a report was written; metric, log and answer where it was not.
    fn note_written<T>(
        &self,
        caller: &Caller,
        written: Result<T, ReportStoreError>,
    ) -> Result<T, HttpError> {
        written.map_err(|error| {
            self.handle.metrics().own().report_store_usable(false);
            warn!(execution_id = %caller.execution, node = caller.node, error = %error, "report not stored");
            match error.kind {
                ReportStoreErrorKind::NoSpace => {
                    HttpError::new(StatusCode::INSUFFICIENT_STORAGE, "the report directory is full")
                }
                ReportStoreErrorKind::NotFound | ReportStoreErrorKind::Unavailable => {
                    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the report cannot be stored")
                }
            }
        })
    }

    /// Refuses a name that belongs to another node of the list.
    fn check_owner(&self, caller: &Caller, name: &str) -> Result<(), HttpError> {
        match self
            .handle
            .owner_of_name(&caller.execution, &caller.node, name)
        {
            None => Ok(()),
            Some(other) => Err(HttpError::new(
                StatusCode::CONFLICT,
                format!("name: {name:?} would be a report of node {other:?}; choose another name"),
            )),
        }
    }
}
