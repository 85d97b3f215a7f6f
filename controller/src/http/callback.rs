//! The callback API: `POST /report/{node}/{execution}/result|file|event`, with a token before the endpoint where the
//! pod got one.
//!
//! Of several faults the first is answered: unknown path 404, method 405, token 401, not the leader 503, pair 406, size
//! 413, pace 408, content 400, name taken or older attempt 409, no space 507. A 200 means that the report is on disk,
//! whole, and counted. Bodies of files are streamed; results and events are small and read whole. Answers are one line
//! of text for the job's author. `GET /openapi.json` says all of this to programs.

mod authentication;
mod bounds;
mod contract;
mod faults;
mod file;
mod incoming;
mod target;

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::handler::Handler as _;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{Instrument as _, debug, info, warn};

pub use self::authentication::Authentication;
use self::authentication::{Claim, Shown, unauthorized};
pub use self::bounds::bounded;
use self::target::Endpoint;
use super::Answering;
use super::body_memory::{BodyMemory, Share};
use super::error::HttpError;
use super::server::TooSlow;
use crate::config::CallbackBodyLimit;
use crate::core::event_message::parse_event;
use crate::core::ids::ExecutionId;
use crate::core::report::{Results, parse_results};
use crate::core::report_name;
use crate::ports::entropy::Entropy;
use crate::ports::report_store::{ReportStore, ReportStoreError, ReportStoreErrorKind};
use crate::runtime::admission::{EVENT_PAUSE, EVENTS_AT_ONCE_MAX};
use crate::runtime::event::PostEventError;
use crate::runtime::handle::ControllerHandle;
use crate::runtime::replica::ReplicaHandle;

/// What requests are held to.
#[derive(Debug, Clone)]
pub struct CallbackRules {
    /// The largest bodies.
    pub body_limit: CallbackBodyLimit,
    /// Who is let in.
    pub authentication: Authentication,
}

/// Everybody is let in.
impl From<CallbackBodyLimit> for CallbackRules {
    fn from(body_limit: CallbackBodyLimit) -> Self {
        Self {
            body_limit,
            authentication: Authentication::off(),
        }
    }
}

/// The bytes of results that are read at a time. A document in memory takes up to thirty times what it takes on the
/// wire; the others wait.
const READ_BYTES_MAX: u32 = 8 << 20;

/// What requests share.
#[derive(Debug)]
struct Api<R, E> {
    replica: ReplicaHandle,
    reports: R,
    entropy: E,
    limits: CallbackBodyLimit,
    memory: Memory,
    authentication: Authentication,
    /// The document at [`contract::PATH`].
    openapi: Bytes,
    /// The newest execution of which it was logged that somebody calls back without a token.
    told: Mutex<Option<ExecutionId>>,
}

/// What a request has while this replica leads.
#[derive(Debug, Clone)]
struct Callbacks<R, E> {
    handle: ControllerHandle,
    reports: R,
    entropy: E,
    limits: CallbackBodyLimit,
    memory: Memory,
}

/// What bodies that are read whole may take together.
#[derive(Debug, Clone)]
struct Memory {
    /// As they arrive.
    bodies: BodyMemory,
    /// As documents: a permit a byte.
    documents: Arc<Semaphore>,
}

impl Memory {
    /// A turn for a body of that length; more than there is in all have it alone.
    async fn document(&self, body: &Bytes) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let turn = self.documents.acquire_many(bytes.min(READ_BYTES_MAX));
        // It is never closed.
        turn.await.ok()
    }
}

/// Who calls back, admitted.
#[derive(Debug, Clone)]
struct Caller {
    node: String,
    execution: ExecutionId,
    /// That of its token, where it showed one.
    attempt: Option<u32>,
}

/// The callback API.
pub fn service<R: ReportStore, E: Entropy>(
    replica: impl Into<ReplicaHandle>,
    reports: R,
    entropy: E,
    rules: impl Into<CallbackRules>,
) -> Answering {
    let rules = rules.into();
    let openapi = Bytes::from(contract::openapi(&rules));
    let CallbackRules {
        body_limit,
        authentication,
    } = rules;
    let api = Api {
        replica: replica.into(),
        reports,
        entropy,
        limits: body_limit,
        memory: Memory {
            bodies: BodyMemory::new(),
            documents: Arc::new(Semaphore::new(READ_BYTES_MAX as usize)),
        },
        authentication,
        openapi,
        told: Mutex::default(),
    };
    Answering::new(dispatch::<R, E>.with_state(Arc::new(api)))
}

/// Answers every request, and counts the answers by endpoint and code.
async fn dispatch<R: ReportStore, E: Entropy>(
    State(api): State<Arc<Api<R, E>>>,
    mut request: Request,
) -> Response {
    let is_post = request.method() == Method::POST;
    let (endpoint, response) = match Claim::of(&mut request, &api.authentication) {
        Ok(claim) => {
            let answer = api.answer(&claim, request).await;
            (Some(claim.target.endpoint), answer.into_response())
        }
        Err(_) if request.uri().path() == contract::PATH => (None, api.document(request.method())),
        Err(refusal) => (refusal.endpoint, refusal.error.into_response()),
    };
    let label = endpoint.map_or("other", Endpoint::as_str);
    debug_assert!(
        !is_post
            || endpoint.is_none_or(|endpoint| contract::documents(endpoint, response.status())),
        "{} to {label} is not in http::callback::contract",
        response.status()
    );
    api.replica
        .metrics()
        .own()
        .callback_answered(label, response.status().as_u16());
    response
}

impl<R: ReportStore, E: Entropy> Api<R, E> {
    async fn answer(&self, claim: &Claim, request: Request) -> Result<(), HttpError> {
        // `http::relay` takes such an answer for its cue.
        let leading = self.replica.leading();
        let handle = leading.map_err(|why| HttpError::elsewhere(why.to_string()))?;
        let callbacks = Callbacks {
            handle,
            reports: self.reports.clone(),
            entropy: self.entropy.clone(),
            limits: self.limits,
            memory: self.memory.clone(),
        };
        let caller = callbacks.admit(claim)?;
        if claim.shown == Shown::Nothing {
            self.note_without_token(&caller);
        }
        let endpoint = claim.target.endpoint;
        callbacks.answer(caller, endpoint, request).await
    }

    fn document(&self, method: &Method) -> Response {
        // What is the body of a GET is left out by the server for a HEAD.
        if method == Method::GET || method == Method::HEAD {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            return (headers, self.openapi.clone()).into_response();
        }
        HttpError::method_not_allowed("GET, HEAD").into_response()
    }

    /// Counts it, and says it once an execution.
    fn note_without_token(&self, caller: &Caller) {
        self.replica.metrics().own().callback_without_token();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&caller.execution) {
            *told = Some(caller.execution.clone());
            info!(
                execution_id = %caller.execution,
                node = caller.node,
                "callback without a token: its script does not use the URLs in its environment; callbackAuth: required would refuse it"
            );
        }
    }
}

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    async fn answer(
        &self,
        caller: Caller,
        endpoint: Endpoint,
        request: Request,
    ) -> Result<(), HttpError> {
        if self.handle.admits_every_pair() {
            // Here any execution may be posted to, also one that left the history. Where this fails, storing says so.
            let _ = self.reports.create_execution(&caller.execution).await;
        }
        match endpoint {
            Endpoint::Result => self.result(caller, request).await,
            // Boxed, so that what a result takes in memory is not as large as what an upload takes.
            Endpoint::File => Box::pin(self.file(caller, request)).await,
            Endpoint::Event => Box::pin(self.event(caller, request)).await,
        }
    }

    fn admit(&self, claim: &Claim) -> Result<Caller, HttpError> {
        let (node, execution) = (&*claim.target.node, &*claim.target.execution);
        // Asked first: what is read meanwhile is admitted by then.
        let is_unread = self.handle.is_unread(node, execution);
        let execution = match self.handle.admits(node, execution) {
            Some(execution) => execution,
            // `http::relay` holds it.
            None if is_unread => {
                return Err(HttpError::elsewhere(
                    "the leader still reads what kept executions left: try again",
                ));
            }
            None if self.handle.admits_every_pair() => {
                return Err(HttpError::new(
                    StatusCode::NOT_ACCEPTABLE,
                    "node / execution ID not allowed: want a node's name, and a time as yyyyMMddHHmm or yyyyMMddHHmmss",
                ));
            }
            None => return Err(not_admitted()),
        };
        let attempt = match claim.shown {
            Shown::Attempt(attempt) => Some(attempt),
            Shown::Nothing | Shown::Whatever => None,
        };
        if attempt.is_some() && self.handle.have_tokens_ended(&execution, node) {
            return Err(unauthorized(
                "token: it ended ten minutes after its job pod",
            ));
        }
        Ok(Caller {
            node: node.to_owned(),
            execution,
            attempt,
        })
    }

    /// Refuses what an older attempt has to report: it never replaces what a newer one reported.
    fn check_attempt(&self, caller: &Caller) -> Result<(), HttpError> {
        let is_superseded = caller.attempt.is_some_and(|attempt| {
            (self.handle).is_superseded(&caller.execution, &caller.node, attempt)
        });
        if is_superseded {
            return Err(HttpError::new(
                StatusCode::CONFLICT,
                "token: of an older attempt; a newer one runs on this node",
            ));
        }
        Ok(())
    }

    async fn result(&self, caller: Caller, request: Request) -> Result<(), HttpError> {
        let Whole { body, share } = self.read_whole(request, self.limits.result_bytes).await?;
        let turn = self.memory.document(&body).await;
        let results = parse_results(&body).map_err(|error| refused(&caller, error.to_string()))?;
        let checked =
            (self.handle.metrics()).check_result(&caller.execution, &caller.node, &results);
        checked.map_err(|error| refused(&caller, error.to_string()))?;
        self.check_attempt(&caller)?;
        let callbacks = self.clone();
        let stored = to_its_end(async move {
            let _share = share;
            callbacks.store_result(caller, body, results).await
        });
        let stored = stored.await;
        drop(turn);
        stored
    }

    async fn store_result(
        &self,
        caller: Caller,
        body: Bytes,
        results: Results,
    ) -> Result<(), HttpError> {
        let name = report_name::result_name(&caller.node);
        let length = body.len() as u64;
        let stored = self.reports.put(&caller.execution, &name, body).await;
        self.note_stored(&caller, stored, length)?;
        debug!(execution_id = %caller.execution, node = caller.node, bytes = length, "result received");
        let told = self
            .handle
            .result_stored(caller.execution, caller.node, name, results)
            .await;
        told.map_err(|error| not_taken(&error))
    }

    async fn event(&self, caller: Caller, request: Request) -> Result<(), HttpError> {
        let Whole { body, .. } = self.read_whole(request, self.limits.event_bytes).await?;
        let event = parse_event(&body).map_err(|error| refused(&caller, error.to_string()))?;
        let taken = self.handle.take_event(&caller.execution, &caller.node);
        taken.map_err(|wait| too_many_events(&caller, wait))?;
        debug!(execution_id = %caller.execution, node = caller.node, reason = event.reason, "event received");
        let posted = self
            .handle
            .post_event(caller.execution, caller.node, event)
            .await;
        posted.map_err(|error| not_taken(&error))
    }
}

/// How the leader reads the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Whole, into memory.
    Whole,
    /// On its way to the disk.
    Streamed,
}

/// How the body of a request is read; none where it gets its answer without a leader.
pub(super) fn reading(authentication: &Authentication, request: &mut Request) -> Option<Reading> {
    let claim = Claim::of(request, authentication).ok()?;
    Some(match claim.target.endpoint {
        Endpoint::Result | Endpoint::Event => Reading::Whole,
        Endpoint::File => Reading::Streamed,
    })
}

/// Does what must not stop half-way: storing a report and telling of it. A request is dropped as its connection ends;
/// this goes on, so that no report is on disk that nobody knows of. A panic is the request's own.
async fn to_its_end(
    work: impl Future<Output = Result<(), HttpError>> + Send + 'static,
) -> Result<(), HttpError> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        // Nobody aborts it but a runtime that ends.
        Err(_) => Err(not_taken(&PostEventError::NotLeading)),
    })
}

/// A body that has arrived.
struct Whole {
    body: Bytes,
    /// What it takes of the memory for bodies.
    share: Share,
}

/// Refuses by `Content-Length`, before the first byte of the body is read.
fn check_announced_length(request: &Request<Body>, limit: u64) -> Result<(), HttpError> {
    if announced_length(request).is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    Ok(())
}

fn announced_length(request: &Request<Body>) -> Option<u64> {
    let announced = request.headers().get(header::CONTENT_LENGTH)?;
    announced.to_str().ok()?.parse().ok()
}

fn not_admitted() -> HttpError {
    HttpError::new(
        StatusCode::NOT_ACCEPTABLE,
        "node / execution ID not allowed: no job pod was created for this pair in a kept execution",
    )
}

fn body_error(error: &(dyn std::error::Error + 'static), limit: u64) -> HttpError {
    let mut cause = Some(error);
    while let Some(found) = cause {
        if found.is::<LengthLimitError>() {
            return too_large(limit);
        }
        cause = found.source();
    }
    match TooSlow::of(error) {
        Some(slow) => too_slow(slow),
        None => HttpError::bad_request("body: it broke off before its end"),
    }
}

pub(super) fn too_slow(slow: TooSlow) -> HttpError {
    HttpError::new(
        StatusCode::REQUEST_TIMEOUT,
        format!("body: {slow}, the limit"),
    )
}

fn too_large(limit: u64) -> HttpError {
    let message =
        format!("body: larger than {limit} bytes, the limit of this endpoint (callbackBodyLimit)");
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn too_many_events(caller: &Caller, wait: Duration) -> HttpError {
    let message = format!(
        "event: this job pod has had {EVENTS_AT_ONCE_MAX} at once, the limit, and gets one more every {} s",
        EVENT_PAUSE.as_secs()
    );
    note_refused(caller, &message);
    HttpError::too_many(message, wait)
}

fn over_quota(caller: &Caller, bytes_max: u64) -> HttpError {
    let message = format!(
        "reportQuota: the reports of this execution would take more than {bytes_max} bytes, the limit"
    );
    note_refused(caller, &message);
    HttpError::new(StatusCode::INSUFFICIENT_STORAGE, message)
}

fn refused(caller: &Caller, message: String) -> HttpError {
    note_refused(caller, &message);
    HttpError::bad_request(message)
}

fn note_refused(caller: &Caller, reason: &str) {
    info!(execution_id = %caller.execution, node = caller.node, reason, "callback refused");
}

fn not_taken(error: &PostEventError) -> HttpError {
    let status = match error {
        PostEventError::PodGone(_) => StatusCode::NOT_FOUND,
        PostEventError::NotLeading => return HttpError::elsewhere(error.to_string()),
        PostEventError::Cluster(error) if error.kind.is_transient() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        PostEventError::Cluster(_) => StatusCode::BAD_GATEWAY,
    };
    HttpError::new(status, error.to_string())
}

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    /// Reads a body up to `limit` bytes; it is never larger in memory, in however small pieces it comes.
    async fn read_whole(&self, request: Request, limit: u64) -> Result<Whole, HttpError> {
        check_announced_length(&request, limit)?;
        let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut body = Limited::new(request.into_body(), bytes);
        let mut share = self.memory.bodies.share();
        let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_error(&*error, limit))?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if !share.grow(chunk.len()) {
                return Err(HttpError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "body: too much is on its way at the same time: try again",
                ));
            }
            if first.is_empty() && rest.is_empty() {
                first = chunk;
            } else {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&chunk);
            }
        }
        // Most come in one piece, and are not copied.
        let body = if rest.is_empty() {
            first
        } else {
            rest.freeze()
        };
        Ok(Whole { body, share })
    }

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
            match error.kind {
                // The execution left the history after the pair was admitted.
                ReportStoreErrorKind::NotFound => return not_admitted(),
                ReportStoreErrorKind::OverQuota { bytes_max } => {
                    return over_quota(caller, bytes_max);
                }
                ReportStoreErrorKind::NoSpace | ReportStoreErrorKind::Unavailable => {}
            }
            self.handle.metrics().own().report_store_usable(false);
            warn!(execution_id = %caller.execution, node = caller.node, error = %error, "report not stored");
            if error.kind == ReportStoreErrorKind::NoSpace {
                HttpError::new(StatusCode::INSUFFICIENT_STORAGE, "the report directory is full")
            } else {
                HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the report cannot be stored")
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
