//! `/metrics`, for Prometheus: written as it is sent, so that it takes no memory and holds nobody up, however much
//! there is.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use futures::stream;
use http::header;
use tokio::task::yield_now;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// The router of the metrics port.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state(metrics)
}

async fn render(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let parts = stream::unfold(metrics.scrape(), async |mut parts| {
        // Others have their turn between two parts.
        yield_now().await;
        Some((Ok::<_, Infallible>(parts.next()?), parts))
    });
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        Body::from_stream(parts),
    )
}
