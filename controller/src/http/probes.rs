//! `/healthz` and `/readyz`, each also `/<check>`.
//!
//! The report directory is a check of its own, but not part of the aggregate: an unready replica would refuse callbacks
//! instead of answering 507, and losing reports because the disk is full helps nobody. A replica that stands by is as
//! ready as the one that leads; `leader` says which it is.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;

use crate::ports::report_store::ReportStore;
use crate::runtime::replica::{NotLeading, ReplicaHandle};

#[derive(Debug, Clone)]
struct Probes<R> {
    replica: ReplicaHandle,
    reports: R,
}

/// The router of the health port.
pub fn router(replica: impl Into<ReplicaHandle>, reports: impl ReportStore) -> Router {
    let replica = replica.into();
    Router::new()
        .route("/healthz", get(aggregate))
        .route("/readyz", get(aggregate))
        .route("/healthz/{check}", get(single))
        .route("/readyz/{check}", get(single))
        .with_state(Probes { replica, reports })
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
        "leader" => probes.leader(),
        "reports" => answer(probes.reports().await),
        _ => (
            StatusCode::NOT_FOUND,
            "unknown check, known are: ping, controller, leader, reports\n",
        )
            .into_response(),
    }
}

impl<R: ReportStore> Probes<R> {
    fn controller(&self) -> Result<(), String> {
        if self.replica.is_alive() {
            Ok(())
        } else {
            Err("the controller's loop has ended".to_owned())
        }
    }

    /// Who leads, for people: it is as well to stand by.
    fn leader(&self) -> Response {
        let text = match self.replica.leading() {
            Ok(_) => "this replica leads".to_owned(),
            Err(NotLeading::Recovering) => "this replica leads, and is taking over".to_owned(),
            Err(NotLeading::Standby(leader)) => format!("standing by, {} leads", leader.identity),
            Err(NotLeading::NoLeader) => "standing by, nobody leads".to_owned(),
        };
        (StatusCode::OK, text + "\n").into_response()
    }

    async fn reports(&self) -> Result<(), String> {
        let probed = self.reports.probe().await;
        self.replica
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
