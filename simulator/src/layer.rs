//! A tower layer in front of the API server's Router that carries faults out on requests, answers and watches.
//!
//! It is what lies between a client and an API server: network, proxies, caches, admission. It changes no state by
//! itself: what it does to a write is to lose it, to delay it, or to lose its answer. Its error is a lost connection,
//! as a client's transport sees it. Which fault happens is decided in `faults`.

mod watch;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt as _};

use crate::apiserver::{ApiServer, status_response, text_response};
use crate::faults::{Call, Fault, Faults, Kind, Verb, status};
use crate::state::State;

/// When a real server gives up on a request that is not a watch.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// How many versions a cache lags behind at most.
const LAG_MAX: f64 = 30.0;

/// How many objects a deletecollection gets to at most before it leaves the rest.
const DELETED_MAX: f64 = 3.0;

/// The client's connection was lost: there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionLost {
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// It was there, and broke.
    #[error("connection reset by peer")]
    Reset,
}

/// Puts faults in front of a service.
#[derive(Debug, Clone)]
pub struct FaultLayer {
    faults: Faults,
    api: ApiServer,
}

impl FaultLayer {
    /// Carries out `faults` in front of the Router of `api`.
    #[must_use]
    pub fn new(faults: Faults, api: ApiServer) -> Self {
        Self { faults, api }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService {
            inner,
            faults: self.faults.clone(),
            api: self.api.clone(),
        }
    }
}

/// A service with faults in front of it.
#[derive(Debug, Clone)]
pub struct FaultService<S> {
    inner: S,
    faults: Faults,
    api: ApiServer,
}

type Answer = Result<Response<Body>, ConnectionLost>;

impl<S, B> Service<Request<B>> for FaultService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = ConnectionLost;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        // The inner service is asked for each request: a clone of it carries it out.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.answer(request.map(Body::new)).await })
    }
}

/// A request that can be sent again, and what it is about.
struct Incoming {
    parts: http::request::Parts,
    body: Bytes,
    call: Call,
}

impl Incoming {
    fn request(&self) -> Request<Body> {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }

    /// The same request with other parameters: without those in `without`, and with `with`.
    fn with_parameters(&self, without: &[&str], with: &str) -> Option<Request<Body>> {
        let uri = &self.parts.uri;
        let kept = uri.query().unwrap_or_default().split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !name.is_empty() && !without.contains(&name)
        });
        let query: Vec<&str> = kept.chain([with]).collect();
        let target = format!("{}?{}", uri.path(), query.join("&"));
        let mut request = self.request();
        *request.uri_mut() = target.parse().ok()?;
        Some(request)
    }
}

impl<S> FaultService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    async fn answer(self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let Some(mut call) = Call::of_request(&parts) else {
            return self.send(Request::from_parts(parts, body)).await;
        };
        // A body that breaks off is the client's own failure: no request has arrived.
        let Ok(body) = to_bytes(body, usize::MAX).await else {
            return Err(ConnectionLost::Reset);
        };
        if call.verb == Verb::Create && call.name.is_empty() {
            call.name = name_in(&body);
        }
        let incoming = Incoming { parts, body, call };
        match self.faults.befall(&incoming.call) {
            None => self.pass(&incoming).await,
            Some(fault) => self.carry_out(&fault, incoming).await,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        match self.inner.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    /// Without a fault; but the events of a watch may meet some.
    async fn pass(&self, incoming: &Incoming) -> Answer {
        let response = self.send(incoming.request()).await?;
        if incoming.call.verb == Verb::Watch && response.status() == StatusCode::OK {
            let (faults, call) = (self.faults.clone(), incoming.call.clone());
            return Ok(response.map(|body| watch::with_faults(body, faults, call)));
        }
        Ok(response)
    }

    async fn carry_out(&self, fault: &Fault, incoming: Incoming) -> Answer {
        let call = &incoming.call;
        match fault.kind {
            Kind::StaleStart | Kind::TimeTravel => self.stale_list(fault, &incoming).await,
            Kind::BodyCut => self.cut_body(fault, &incoming).await,
            Kind::DeleteCollectionPartial => self.delete_some(fault, &incoming).await,
            Kind::WatchClosed => {
                let response = self.send(incoming.request()).await?;
                if response.status() == StatusCode::OK {
                    self.faults.fired(fault, call);
                }
                Ok(response.map(|_| Body::empty()))
            }
            Kind::ConnectionRefused => {
                self.faults.fired(fault, call);
                Err(ConnectionLost::Refused)
            }
            Kind::ResetAfterCommit | Kind::TimeoutAfterCommit => {
                let response = self.send(incoming.request()).await?;
                // What was refused was not done: nothing is in doubt.
                if !response.status().is_success() {
                    return Ok(response);
                }
                self.faults.fired(fault, call);
                if fault.kind == Kind::ResetAfterCommit {
                    return Err(ConnectionLost::Reset);
                }
                sleep(REQUEST_TIMEOUT).await;
                Ok(refuse(fault, call))
            }
            Kind::GhostWrite => {
                self.faults.fired(fault, call);
                let (service, delay) = (self.clone(), fault.delay);
                let request = incoming.request();
                tokio::spawn(async move {
                    sleep(delay).await;
                    // Nobody is there to be answered.
                    let _ = service.send(request).await;
                });
                Err(ConnectionLost::Reset)
            }
            Kind::SlowAnswer => {
                let late = self.faults.fired_late(fault, call);
                if fault.coin {
                    sleep(fault.delay).await;
                }
                let answer = self.pass(&incoming).await;
                if !fault.coin {
                    sleep(fault.delay).await;
                }
                if let Some(id) = late {
                    self.faults.waited_out(id);
                }
                answer
            }
            _ => {
                self.faults.fired(fault, call);
                Ok(refuse(fault, call))
            }
        }
    }

    /// An older version that a cache still holds, where it differs.
    async fn stale_list(&self, fault: &Fault, incoming: &Incoming) -> Answer {
        let current = self.send(incoming.request()).await?;
        let (head, body) = current.into_parts();
        let body = whole(body).await?;
        let version = self.api.read(State::version).saturating_sub(lag(fault));
        let parameters = format!("resourceVersion={version}&resourceVersionMatch=Exact");
        let old = ["resourceVersion", "resourceVersionMatch"];
        if let Some(request) = incoming
            .with_parameters(&old, &parameters)
            .filter(|_| version > 0)
        {
            let stale = self.send(request).await?;
            if stale.status() == StatusCode::OK {
                let (head, stale) = stale.into_parts();
                let stale = whole(stale).await?;
                if items(&stale) != items(&body) {
                    self.faults.fired_at(fault, &incoming.call, version);
                    return Ok(Response::from_parts(head, stale.into()));
                }
            }
        }
        Ok(Response::from_parts(head, body.into()))
    }

    async fn cut_body(&self, fault: &Fault, incoming: &Incoming) -> Answer {
        let (mut head, body) = self.send(incoming.request()).await?.into_parts();
        let body = whole(body).await?;
        if head.status != StatusCode::OK || body.is_empty() {
            return Ok(Response::from_parts(head, body.into()));
        }
        self.faults.fired(fault, &incoming.call);
        let part = body.slice(..part_of(body.len(), fault.share));
        let broken = stream::iter([Ok(part), Err(watch::reset())]);
        head.headers.remove(http::header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, Body::from_stream(broken)))
    }

    /// Deletes the first few, and says nothing of the rest.
    async fn delete_some(&self, fault: &Fault, incoming: &Incoming) -> Answer {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number that is not negative"
        )]
        let limit = 1 + (fault.share * DELETED_MAX) as u64;
        let Some(request) = incoming.with_parameters(&["limit"], &format!("limit={limit}")) else {
            return self.pass(incoming).await;
        };
        let (head, body) = self.send(request).await?.into_parts();
        let mut body = whole(body).await?;
        if let Ok(mut list) = serde_json::from_slice::<Value>(&body)
            && let Some(metadata) = list["metadata"].as_object_mut()
            && metadata.remove("continue").is_some()
        {
            metadata.remove("remainingItemCount");
            body = list.to_string().into();
            self.faults.fired(fault, &incoming.call);
        }
        Ok(Response::from_parts(head, body.into()))
    }
}

/// The answer of a server, or of something before it, that does nothing.
fn refuse(fault: &Fault, call: &Call) -> Response<Body> {
    let retry_after = HeaderValue::from(fault.delay.as_secs());
    match fault.kind {
        // Priority and fairness refuses in plain text, a registry with a Status.
        Kind::TooManyRequests if fault.coin => {
            let text = "Too many requests, please try again later.\n";
            let mut response = text_response(StatusCode::TOO_MANY_REQUESTS, text);
            response.headers_mut().insert(RETRY_AFTER, retry_after);
            response
        }
        Kind::BadGateway => {
            let page = "<html><body><h1>502 Bad Gateway</h1></body></html>\n";
            let mut response = text_response(StatusCode::BAD_GATEWAY, page);
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(CONTENT_TYPE, html);
            response
        }
        _ => match status(fault, call) {
            Some(status) => status_response(&status),
            None => text_response(StatusCode::INTERNAL_SERVER_ERROR, fault.kind.name()),
        },
    }
}

fn lag(fault: &Fault) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small number that is not negative"
    )]
    let versions = (fault.share * LAG_MAX) as u64;
    1 + versions
}

/// The length of a part that is neither nothing nor all, of more than one byte.
fn part_of(length: usize, share: f64) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place within a body, give or take"
    )]
    let part = (length as f64 * share) as usize;
    part.clamp(1, length.saturating_sub(2).max(1))
}

/// What follows the version in a list: whether two lists show the same objects.
fn items(list: &Bytes) -> &[u8] {
    let mark = br#","items":["#;
    let at = list.windows(mark.len()).position(|window| window == mark);
    at.map_or(&list[..], |at| &list[at..])
}

async fn whole(body: Body) -> Result<Bytes, ConnectionLost> {
    to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ConnectionLost::Reset)
}

/// `metadata.name` of a body in JSON; empty where there is none.
fn name_in(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        name: String,
    }
    serde_json::from_slice(body).map_or_else(|_| String::new(), |named: Named| named.metadata.name)
}
