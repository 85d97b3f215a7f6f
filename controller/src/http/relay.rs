//! What a replica does with requests that are the leader's: it passes them on, and holds callbacks while nobody leads.
//!
//! A callback waits for a leader for `callbackHoldTimeout` in all, then it is answered 503. What has arrived of its
//! body is kept up to `KEPT_BYTES_MAX` and sent again where a leader is lost before it has answered, so that an event
//! may appear twice; a larger one that is cut is 503. A report page is passed on where that works, and read from the
//! shared volume where not.
//!
//! A request that was passed on bears a mark (`core::forward_mark`) and goes no further. The answers 421 and 403 go
//! only between replicas: not the leader, and not one of us.

mod kept_body;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::handler::Handler as _;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::Stream;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use self::kept_body::{KeptBody, KeptBodyError};
use super::Answering;
use super::body_memory::BodyMemory;
use super::callback::{self, Authentication, Reading};
use super::error::{Elsewhere, HttpError};
use crate::core::callback_key::SigningKey;
use crate::core::forward_mark::{HEADER, Passage};
use crate::metrics::own::{Forwarded, RelayedPort};
use crate::ports::forward::{Forward, ForwardBody, ForwardError};
use crate::runtime::ordered_watch as watch;
use crate::runtime::replica::{Leader, ReplicaHandle, Standing};

/// As much of a body is kept to be sent again: all of every result and event by default. All bodies together have a
/// bound of their own (`body_memory`).
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Between two tries at the same replica. Another leader is tried at once.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Once this replica has handed over: a successor leads within a second, or there is none before this process has
/// ended.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(3);

/// A page that the leader does not begin to answer within this time is read from the volume.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Of what a replica passes on, so much is read although it is answered before its end, and for so long: a connection
/// that is closed over unread bytes may lose the answer on its way, and it is not the job pod that would notice.
const DRAINED_BYTES_MAX: usize = 16 << 20;
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Headers of one connection, not of the message (RFC 9110, 7.6.1), and what the next one sets itself.
const CONNECTION_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::UPGRADE,
    header::HOST,
    header::EXPECT,
];

/// How requests get from this replica to the leader.
#[derive(Debug, Clone)]
pub struct Relay<F> {
    /// This replica.
    pub replica: ReplicaHandle,
    /// Its holder identity.
    pub identity: String,
    /// The key of marks, which all replicas share.
    pub key: SigningKey,
    /// The way to the others.
    pub forward: F,
    /// Who is let in, before anything is kept of a request.
    pub authentication: Authentication,
    /// How long a callback waits for a leader: `callbackHoldTimeout`.
    pub hold: Duration,
}

/// What answers in this process, behind its relay.
#[derive(Debug)]
struct Relayed<F> {
    inner: Answering,
    relay: Relay<F>,
    /// For what is kept of bodies.
    memory: BodyMemory,
}

impl<F> Relayed<F> {
    fn new(inner: Answering, relay: Relay<F>) -> Arc<Self> {
        let memory = BodyMemory::new();
        Arc::new(Self {
            inner,
            relay,
            memory,
        })
    }
}

/// The callback API, whichever replica leads.
pub fn callbacks<F: Forward>(inner: Answering, relay: Relay<F>) -> Answering {
    Answering::new(callback::<F>.with_state(Relayed::new(inner, relay)))
}

/// The file server, whichever replica leads.
pub fn reports<F: Forward>(router: Router, relay: Relay<F>) -> Router {
    Router::new()
        .fallback(page::<F>)
        .with_state(Relayed::new(Answering::new(router), relay))
}

async fn callback<F: Forward>(
    State(relayed): State<Arc<Relayed<F>>>,
    mut request: Request,
) -> Response {
    let Some(reading) = callback::reading(&relayed.relay.authentication, &mut request) else {
        // No leader is needed to say what is wrong with it.
        return relayed.here(request).await;
    };
    let is_forwarded = match relayed.relay.is_forwarded(&request) {
        Ok(is_forwarded) => is_forwarded,
        Err(refusal) => return refusal.into_response(),
    };
    if reading == Reading::Streamed && !is_forwarded && relayed.relay.replica.leading().is_ok() {
        return relayed.here(request).await;
    }
    let (parts, body) = request.into_parts();
    let held = HeldCallback {
        relayed: &relayed,
        parts,
        body: KeptBody::new(body, &relayed.memory),
        reading,
        is_forwarded,
        left: relayed.relay.hold,
        has_waited: false,
    };
    held.answer().await
}

async fn page<F: Forward>(State(relayed): State<Arc<Relayed<F>>>, request: Request) -> Response {
    let relay = &relayed.relay;
    let leader = match (relay.is_forwarded(&request), relay.replica.standing()) {
        (Err(refusal), _) => return refusal.into_response(),
        (Ok(false), Standing::Standby(Some(leader)))
            if [Method::GET, Method::HEAD].contains(request.method()) =>
        {
            leader
        }
        _ => return relayed.here(request).await,
    };
    let (parts, body) = request.into_parts();
    let nothing = Body::empty().map_err(Into::into).boxed_unsync();
    let passed = relay.pass_on(RelayedPort::Reports, &leader, &parts, nothing);
    match timeout(PAGE_PATIENCE, passed).await {
        Ok(Ok(response)) => response,
        _ => relayed.here(Request::from_parts(parts, body)).await,
    }
}

impl<F> Relayed<F> {
    async fn here(&self, request: Request) -> Response {
        let answered = self.inner.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

/// Why a request that was passed on has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotAnswered {
    /// Nobody took it.
    Unreached,
    /// Its leader was lost over it.
    CutOff,
    /// The leader takes this replica for a stranger, and will as long as both run.
    Unknown,
}

impl<F: Forward> Relay<F> {
    /// Whether another replica passed the request on.
    fn is_forwarded(&self, request: &Request) -> Result<bool, HttpError> {
        let Some(mark) = request.headers().get(HEADER) else {
            return Ok(false);
        };
        let passage = Passage {
            method: request.method().as_str(),
            target: target(request.uri()),
            to: &self.identity,
        };
        if mark
            .to_str()
            .is_ok_and(|mark| passage.bears(mark, &self.key))
        {
            return Ok(true);
        }
        Err(HttpError::new(
            StatusCode::FORBIDDEN,
            format!("{HEADER}: not the mark of a replica of this controller"),
        ))
    }

    /// Passes a request on and returns the leader's answer.
    async fn pass_on(
        &self,
        port: RelayedPort,
        leader: &Leader,
        parts: &Parts,
        body: ForwardBody,
    ) -> Result<Response, NotAnswered> {
        let answered = self.send(port, leader, parts, body).await;
        let answered = match answered {
            Ok(response) if response.status() == StatusCode::MISDIRECTED_REQUEST => {
                Err(NotAnswered::Unreached)
            }
            answered => answered,
        };
        let outcome = match &answered {
            Ok(_) => Forwarded::Answered,
            Err(NotAnswered::Unreached | NotAnswered::Unknown) => Forwarded::Unreached,
            Err(NotAnswered::CutOff) => Forwarded::CutOff,
        };
        debug!(leader = leader.identity, ?outcome, "request passed on");
        self.replica.metrics().own().forwarded(port, outcome);
        answered
    }

    async fn send(
        &self,
        port: RelayedPort,
        leader: &Leader,
        parts: &Parts,
        body: ForwardBody,
    ) -> Result<Response, NotAnswered> {
        let address = leader.address.as_ref().ok_or(NotAnswered::Unreached)?;
        let number = match port {
            RelayedPort::Callback => address.callback_port,
            RelayedPort::Reports => address.file_server_port,
        };
        let request = self.marked(leader, parts, body);
        let request = request.ok_or(NotAnswered::Unreached)?;
        let sent = self.forward.forward(&address.host, number, request).await;
        let mut response = sent.map_err(|error| match error {
            ForwardError::Unreached => NotAnswered::Unreached,
            ForwardError::BrokeOff => NotAnswered::CutOff,
        })?;
        if response.status() == StatusCode::FORBIDDEN {
            warn!(
                leader = leader.identity,
                "the leader does not know our mark: where the Secret with the key was replaced, restart every replica"
            );
            return Err(NotAnswered::Unknown);
        }
        remove_connection_headers(response.headers_mut());
        Ok(response.map(Body::new))
    }

    /// The request as it is sent to the leader; none where it cannot be written down.
    fn marked(
        &self,
        leader: &Leader,
        parts: &Parts,
        body: ForwardBody,
    ) -> Option<http::Request<ForwardBody>> {
        let passage = Passage {
            method: parts.method.as_str(),
            target: target(&parts.uri),
            to: &leader.identity,
        };
        let mark = HeaderValue::try_from(passage.mark(&self.identity, &self.key)).ok()?;
        let mut request = http::Request::new(body);
        request.method_mut().clone_from(&parts.method);
        *request.uri_mut() = target(&parts.uri).parse().ok()?;
        request.headers_mut().clone_from(&parts.headers);
        remove_connection_headers(request.headers_mut());
        request.headers_mut().insert(HEADER, mark);
        Some(request)
    }
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

fn remove_connection_headers(headers: &mut HeaderMap) {
    for name in CONNECTION_HEADERS {
        headers.remove(name);
    }
}

/// A callback on its way to an answer.
struct HeldCallback<'r, F> {
    relayed: &'r Relayed<F>,
    parts: Parts,
    body: KeptBody,
    reading: Reading,
    is_forwarded: bool,
    /// How much longer it may wait.
    left: Duration,
    has_waited: bool,
}

impl<F: Forward> HeldCallback<'_, F> {
    async fn answer(mut self) -> Response {
        let response = self.until_answered().await;
        if self.is_forwarded {
            // Where that takes too long, the answer may get through all the same.
            let drained = timeout(DRAIN_PATIENCE, self.body.drain(DRAINED_BYTES_MAX));
            let _ = Box::pin(drained).await;
        }
        if self.has_waited {
            let is_answered = response.extensions().get::<Elsewhere>().is_none();
            let own = self.relayed.relay.replica.metrics().own();
            own.callback_held(is_answered);
        }
        response
    }

    async fn until_answered(&mut self) -> Response {
        let mut standing = self.relayed.relay.replica.watch();
        loop {
            let begun = Instant::now();
            let found = standing.borrow_and_update().clone();
            let answered = match &found {
                Standing::Leading(_) => self.try_here().await,
                Standing::Standby(Some(leader)) if self.is_forwarded => {
                    return misdirected(leader);
                }
                // Boxed, as all that seldom happens: what is answered here takes less memory so.
                Standing::Standby(Some(leader)) => Box::pin(self.try_there(leader)).await,
                Standing::Recovering | Standing::Standby(None) => Err(NotAnswered::Unreached),
            };
            match answered {
                Ok(response) => return response,
                Err(_) if let Some(error) = self.body.error() => {
                    return unfinished(error).into_response();
                }
                Err(NotAnswered::Unknown) => return unknown(),
                Err(_) if !self.body.can_repeat() => return cut_off(),
                Err(NotAnswered::Unreached) => {
                    self.left = self.left.saturating_sub(begun.elapsed());
                }
                // What passed while somebody was at it is no waiting.
                Err(NotAnswered::CutOff) => {}
            }
            if !Box::pin(self.wait(&mut standing, &found)).await {
                return expired(&found);
            }
        }
    }

    async fn try_here(&self) -> Result<Response, NotAnswered> {
        let keep_max = match self.reading {
            Reading::Whole => KEPT_BYTES_MAX,
            Reading::Streamed => 0,
        };
        let body = self.body.read(keep_max).ok_or(NotAnswered::CutOff)?;
        let request = Request::from_parts(self.parts.clone(), Body::from_stream(body));
        let response = self.relayed.here(request).await;
        match response.extensions().get::<Elsewhere>() {
            None => Ok(response),
            Some(_) => Err(NotAnswered::Unreached),
        }
    }

    async fn try_there(&self, leader: &Leader) -> Result<Response, NotAnswered> {
        let relay = &self.relayed.relay;
        let body = self.body.read(KEPT_BYTES_MAX);
        let body = into_forward_body(body.ok_or(NotAnswered::CutOff)?);
        tokio::select! {
            biased;
            answered = relay.pass_on(RelayedPort::Callback, leader, &self.parts, body) => answered,
            () = self.lost(leader) => {
                (relay.replica.metrics().own()).forwarded(RelayedPort::Callback, Forwarded::CutOff);
                Err(NotAnswered::CutOff)
            }
        }
    }

    /// Returns once that replica does not lead any more, and what it still does with this request does not matter: one
    /// that cannot be sent again has as long as any to be answered.
    async fn lost(&self, leader: &Leader) {
        let mut standing = self.relayed.relay.replica.watch();
        let is_other =
            |found: &Standing| !matches!(found, Standing::Standby(Some(found)) if found == leader);
        standing.wait_for(is_other).await;
        if !self.body.can_repeat() {
            sleep(self.relayed.relay.hold).await;
        }
    }

    /// Waits for something to change; whether there is time left to try again.
    async fn wait(&mut self, standing: &mut watch::Receiver<Standing>, found: &Standing) -> bool {
        self.has_waited = true;
        if self.relayed.relay.replica.has_handed_over() {
            self.left = self.left.min(SUCCESSOR_PATIENCE);
        }
        let begun = Instant::now();
        let pause = match found {
            Standing::Standby(Some(_)) | Standing::Leading(_) => RETRY_PAUSE.min(self.left),
            Standing::Recovering | Standing::Standby(None) => self.left,
        };
        let changed = tokio::select! {
            biased;
            changed = standing.changed() => changed.is_ok(),
            () = sleep(pause) => true,
        };
        self.left = self.left.saturating_sub(begun.elapsed());
        changed && !self.left.is_zero()
    }
}

fn into_forward_body(
    body: impl Stream<Item = Result<Bytes, KeptBodyError>> + Send + 'static,
) -> ForwardBody {
    use futures::TryStreamExt as _;
    StreamBody::new(body.map_ok(Frame::data).map_err(Into::into)).boxed_unsync()
}

/// Between replicas only.
fn misdirected(leader: &Leader) -> Response {
    let message = format!("this replica stands by, {} leads", leader.identity);
    HttpError::new(StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

fn unfinished(error: KeptBodyError) -> HttpError {
    match error {
        KeptBodyError::TooSlow(slow) => callback::too_slow(slow),
        KeptBodyError::BrokeOff | KeptBodyError::Superseded => {
            HttpError::bad_request(format!("body: {error}"))
        }
    }
}

fn expired(found: &Standing) -> Response {
    let why = match found {
        Standing::Standby(Some(leader)) => format!(
            "{} leads and cannot be reached from this replica: try again",
            leader.identity
        ),
        _ => "no replica leads, and callbacks are held no longer (callbackHoldTimeout): try again"
            .to_owned(),
    };
    HttpError::elsewhere(why).into_response()
}

fn unknown() -> Response {
    HttpError::elsewhere("the leader and this replica have different keys: try again")
        .into_response()
}

fn cut_off() -> Response {
    HttpError::elsewhere("the leader was lost while it received the body, which is too large to be sent again from here: try again").into_response()
}
