//! The connection of a process to the API server, for a client of its own that speaks HTTP: the faults of the run lie
//! in it, and it is cut where the port would be cut otherwise.
//!
//! It is as one over TCP: what is sent while nothing arrives is sent again until it does, unless the client has given
//! up.

use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream};
use axum::{BoxError, Router};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use tower::{Layer as _, Service, ServiceExt as _};

use super::disturbance::{Disturbances, Sign};
use super::life::{Cut, Life, Who};
use super::site;
use crate::apiserver::{ApiServer, Query, Route, parse_route, status_response};
use crate::faults::Faults;
use crate::layer::{ConnectionLost, FaultLayer, FaultService};
use crate::state::Status;
use crate::state::resource::LEASES;

/// The service that a client of the API server sends its requests to. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: FaultService<Router>,
    /// How the faults call the replica.
    client: HeaderValue,
    who: Who,
    life: Life,
    disturbances: Disturbances,
}

impl Connection {
    pub(super) fn new(
        api: &ApiServer,
        faults: &Faults,
        disturbances: &Disturbances,
        who: &Who,
        life: &Life,
    ) -> Self {
        let client = HeaderValue::try_from(site::client(who.slot));
        Self {
            inner: FaultLayer::new(faults.clone(), api.clone()).layer(api.router()),
            client: client.expect("the name of a replica is plain text"),
            who: who.clone(),
            life: life.clone(),
            disturbances: disturbances.clone(),
        }
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, ConnectionLost> {
        let cut = self.life.cut();
        if cut.is_some() {
            self.disturbances.show(Sign::Cut, Some(self.who.slot));
        }
        match cut {
            Some(Cut::Refused) => return Err(ConnectionLost::Refused),
            Some(Cut::Silent) => self.life.hears().await,
            Some(Cut::AnswersLost) | None => {}
        }
        let response = if self.life.is_lease_cut() && is_call_for_the_lease(&request) {
            self.disturbances.show(Sign::Cut, Some(self.who.slot));
            status_response(&Status::unclassified("etcdserver: request timed out"))
        } else {
            self.inner.oneshot(request).await?
        };
        self.life.hears().await;
        let life = self.life;
        Ok(response.map(|body| Body::from_stream(arriving(body.into_data_stream(), life))))
    }
}

/// Whether it reads or writes the Lease; its watch is another matter.
fn is_call_for_the_lease(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    let is_watch = Query::parse(request.uri().query().unwrap_or_default()).flag("watch");
    let is_lease = matches!(parse_route(path), Ok(Route::Resource(place)) if std::ptr::eq(place.row, &raw const LEASES));
    is_lease && !is_watch
}

/// What is read of a body, as it arrives.
fn arriving(
    body: BodyDataStream,
    life: Life,
) -> impl futures::Stream<Item = Result<Bytes, axum::Error>> {
    body.then(move |chunk| {
        let life = life.clone();
        async move {
            life.hears().await;
            chunk
        }
    })
}

impl<B> Service<Request<B>> for Connection
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = ConnectionLost;
    type Future = BoxFuture<'static, Result<Response<Body>, ConnectionLost>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        request
            .headers_mut()
            .insert(USER_AGENT, self.client.clone());
        Box::pin(self.clone().answer(request))
    }
}
