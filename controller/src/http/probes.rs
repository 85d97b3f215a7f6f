//! `/healthz` and `/readyz`, each also `/<check>`.
//!
//! The report directory is a check of its own, but not part of the aggregate: an unready replica would refuse callbacks instead
//! of answering 507, and losing reports because the disk is full helps nobody.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;

use crate::ports::report_store::ReportStore;
use crate::runtime::handle::ControllerHandle;

#[derive(Debug, Clone)]
struct Probes<R> {
    handle: ControllerHandle,
    reports: R,
}

/// The router of the health port.
pub fn router(handle: ControllerHandle, reports: impl ReportStore) -> Router {
    Router::new()
        .route("/healthz", get(aggregate))
        .route("/readyz", get(aggregate))
        .route("/healthz/{check}", get(single))
        .route("/readyz/{check}", get(single))
        .with_state(Probes { handle, reports })
}

async fn aggregate<R: ReportStore>(State(probes): State<Probes<R>>) -> Response {
    answer(probes.controller())
}

async fn single<R: ReportStore>(
    State(probes): State<Probes<R>>,
    Path(check): Path<String>,
) -> Response {
    match check.as_str() {
        "ping" => answer(Ok(())),
        "controller" => answer(probes.controller()),
        "reports" => answer(probes.reports().await),
        _ => (
            StatusCode::NOT_FOUND,
            "unknown check, known are: ping, controller, reports\n",
        )
            .into_response(),
    }
}

impl<R: ReportStore> Probes<R> {
    fn controller(&self) -> Result<(), String> {
        if self.handle.is_alive() {
            Ok(())
        } else {
            Err("the controller's loop has ended".to_owned())
        }
    }

    async fn reports(&self) -> Result<(), String> {
        let probed = self.reports.probe().await;
        self.handle
            .metrics()
            .own()
            .report_store_usable(probed.is_ok());
        probed.map_err(|error| error.to_string())
    }
}

fn answer(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
