//! A controller of your own: its job pods compare their node with a baseline that it serves.
//!
//! It adds one of each: a variable of the job pods (`BASELINE_URL`), a route beside the callback API (`GET /baseline`),
//! and a background task (the file is read again once a minute: a mounted ConfigMap changes). The controller hands
//! `custom` of `config.yaml` on as it is:
//!
//! ```yaml
//! custom:
//!   baselineFile: /etc/baseline/baseline.json
//! ```
//!
//! `cargo run -p controller --example baseline -- render --config … --pod-template … --node node-1` shows the variable,
//! `… -- mock --config …` serves the route.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use controller::app;
use controller::config::Config;
use controller::extension::Extension;
use k8s_openapi::api::core::v1::EnvVar;

/// How long a change of the file may go unnoticed.
const READ_AGAIN: Duration = Duration::from_mins(1);

/// What is served; empty until it has been read.
type Baseline = Arc<RwLock<Option<String>>>;

fn main() -> ExitCode {
    app::main(extension)
}

/// What `custom` asks for.
pub(crate) fn extension(config: &Config) -> Result<Extension, String> {
    let file = config.custom["baselineFile"].as_str().map(PathBuf::from);
    let file = file.ok_or("custom.baselineFile: found no text, want the path of the baseline")?;
    let read: Baseline = Arc::default();
    let served = Arc::clone(&read);
    Ok(Extension::new()
        .variables(|spec, _instance, _container| {
            vec![EnvVar {
                name: "BASELINE_URL".to_owned(),
                value: Some(format!("{}/baseline", spec.callback_origin())),
                value_from: None,
            }]
        })
        .routes(Router::new().route("/baseline", get(async move || serve(&served))))
        .task("baseline", move || keep_up(file.clone(), Arc::clone(&read))))
}

fn serve(baseline: &Baseline) -> Result<String, StatusCode> {
    let baseline = baseline.read().expect("no writer panics");
    baseline.clone().ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Reads the file for ever. Its error ends the process: without a baseline no job pod can do its work.
async fn keep_up(file: PathBuf, baseline: Baseline) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("{}: {error}", file.display());
    loop {
        let text = tokio::fs::read_to_string(&file).await.map_err(unreadable)?;
        tracing::info!(bytes = text.len(), "baseline read");
        *baseline.write().expect("no reader panics") = Some(text);
        tokio::time::sleep(READ_AGAIN).await;
    }
}
