//! The HTTP side: callbacks, the file server, metrics, probes. It knows the controller's handle and the report store,
//! never the cluster.

mod body_memory;
pub mod callback;
pub mod error;
pub mod metrics;
pub mod probes;
pub mod relay;
pub mod reports;
pub mod server;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tower::util::BoxCloneSyncService;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;

use crate::metrics::Metrics;

/// What answers every request of a port by itself: a Router looks up each path, which callbacks would pay for at every
/// layer.
pub type Answering = BoxCloneSyncService<Request, Response, Infallible>;

/// Turns a panic of a handler into a 500, counted: remote input must not reach one, and must not end the process if it
/// does.
pub fn catch_panics(router: Router, metrics: Arc<Metrics>) -> Router {
    let layer = CatchPanicLayer::custom(move |panic: Box<dyn std::any::Any + Send>| -> Response {
        metrics.own().request_panicked();
        let panic = (panic.downcast_ref::<String>().map(String::as_str))
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        error!(panic, "request handler panicked");
        (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
    });
    router.layer(layer)
}
