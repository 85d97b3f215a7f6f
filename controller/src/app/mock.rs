//! `batch-job-controller mock`: the callback API alone, for the author of a job.
//!
//! It is the controller's own: the same router, report store and limits. Only the loop behind it is another
//! (`runtime::mock`), and what it hears is printed for a person on stdout.

mod received;
mod samples;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::samples::Exporter;
use super::run::{server_limits, signals};
use super::{Extend, Failure, configuration};
use crate::adapter::fs_report_store::FsReportStore;
use crate::adapter::os_entropy::OsEntropy;
use crate::adapter::system_clock::SystemClock;
use crate::args::{ConfigurationFiles, Environment, MockArguments};
use crate::config::{self, Config, ReportDurability};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{JobPodInstance, JobPodSpec, ReservedVariable, callback_variables};
use crate::core::names;
use crate::extension::{self, Extension};
use crate::http;
use crate::http::callback::Authentication;
use crate::http::server::serve;
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::entropy::Entropy as _;
use crate::ports::report_store::ReportStore as _;
use crate::runtime::mock;
use crate::telemetry;

/// What counts as configured where no file says so.
const NO_CONFIG: &str = "{name: mock, cronExpression: '@daily'}";

/// The node of the examples that are printed.
const EXAMPLE_NODE: &str = "node-1";

/// An answer that refuses is one line; no more of it is printed.
const ANSWER_MAX_BYTES: usize = 4096;

/// Serves the callback API until a signal.
pub(super) async fn mock(
    arguments: &MockArguments,
    environment: &Environment,
    extend: &Extend,
) -> Result<(), Failure> {
    // What is refused is printed below; the log has what must not be: why the disk cannot be written.
    let filter = environment.log_filter.as_deref().unwrap_or("warn");
    telemetry::init(Some(filter)).map_err(|error| vec![error.to_string()])?;
    let signals =
        signals().map_err(|error| vec![format!("signals cannot be received: {error}")])?;
    let (config, extension) = load(arguments, environment, extend)?;
    let directory = report_directory(arguments, environment)?;
    let reports = FsReportStore::new(directory.clone(), ReportDurability::None, "mock")
        .with_quota(config.report_quota_bytes);
    (reports.probe().await).map_err(|error| vec![unwritable(&directory, &error)])?;
    let listener = bind(arguments, &config).await?;
    let address = (listener.local_addr()).map_err(|error| vec![error.to_string()])?;

    let exporter = if arguments.config.is_some() {
        Exporter::configured(config.clone())
    } else {
        Exporter::inferring()
    };
    let execution = ExecutionId::of_minute(SystemClock::new().wall());
    let variables = job_pod_variables(&config, &extension, environment, address, &execution)
        .map_err(|error| vec![error.to_string()])?;
    say(&introduction(&exporter, &variables, address, &directory));
    let metrics = Arc::new(Metrics::new(&config));
    let clock = SystemClock::new();
    let printed_directory = directory.clone();
    let (handle, received) = mock::start(Arc::clone(&metrics), move |received| {
        let time = time_of_day(clock.wall());
        say(&received::lines(
            &time,
            &received,
            &printed_directory,
            &exporter,
        ));
    });
    let body_limit = config.callback_body_limit;
    let callback = http::callback::service(handle.clone(), reports, OsEntropy, body_limit);
    let callback = http::callback::bounded(callback, Authentication::off(), handle);
    let router = extension.routes.fallback_service(callback);
    let router = http::catch_panics(router, metrics);
    let router = router.layer(middleware::from_fn(move |request, next| {
        print_refusal(clock, request, next)
    }));
    let limits = server_limits();
    let mut received = pin!(received);
    let mut server = pin!(serve(listener, router, limits, CancellationToken::new()));
    let mut signals = pin!(signals);
    let mut background = pin!(extension::run_tasks(extension.tasks.into()));
    tokio::select! {
        biased;
        () = &mut signals => {}
        () = &mut received => return Err(vec!["nobody listens to what arrives".to_owned()]),
        () = &mut server => return Err(vec!["the server has ended".to_owned()]),
        failure = &mut background => return Err(vec![failure]),
    }
    say(&[format!(
        "Ended; the reports stay in {}",
        directory.display()
    )]);
    Ok(())
}

#[allow(clippy::print_stderr, reason = "a command line's answer")]
fn load(
    arguments: &MockArguments,
    environment: &Environment,
    extend: &Extend,
) -> Result<(Config, Extension), Failure> {
    let Some(path) = &arguments.config else {
        // An extension would miss what it needs in `custom`.
        let parsed = config::parse(NO_CONFIG, &environment.defaults());
        return parsed
            .map(|(config, _)| (config, Extension::new()))
            .map_err(|error| vec![error.to_string()]);
    };
    let files = ConfigurationFiles {
        config: Some(path.clone()),
        pod_template: None,
    };
    let (texts, mut failure) = configuration::from_files(&files);
    let checked = configuration::check_extended(&texts, environment, extend);
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    failure.extend(checked.errors);
    match (checked.config, checked.extension) {
        (Some(config), Some(extension)) if failure.is_empty() => Ok((config, extension)),
        _ => Err(failure),
    }
}

/// Where reports are stored. The configuration's is the cluster's: it is not written here.
fn report_directory(
    arguments: &MockArguments,
    environment: &Environment,
) -> Result<PathBuf, Failure> {
    let named =
        (arguments.report_directory.clone()).or_else(|| environment.report_directory.clone());
    let directory = named.unwrap_or_else(|| {
        let unique = OsEntropy.uuid().simple().to_string();
        std::env::temp_dir().join(format!("batch-job-controller-mock-{}", &unique[..12]))
    });
    let made = std::fs::create_dir_all(&directory).and_then(|()| directory.canonicalize());
    made.map_err(|error| vec![unwritable(&directory, &error)])
}

fn unwritable(directory: &Path, error: &impl std::fmt::Display) -> String {
    let directory = directory.display();
    format!(
        "--report-directory: {directory} cannot be written: {error}; want a directory that this user may write to"
    )
}

async fn bind(arguments: &MockArguments, config: &Config) -> Result<TcpListener, Failure> {
    let port = arguments.port.unwrap_or(config.callback_service_port);
    let bound = TcpListener::bind(SocketAddr::new(arguments.address, port)).await;
    bound.map_err(|error| {
        let address = arguments.address;
        vec![format!(
            "--port: port {port} cannot be listened on: {error}; want one that is free on {address}, or 0 for any"
        )]
    })
}

/// What to type: three requests, and the environment of a job pod.
fn introduction(
    exporter: &Exporter,
    variables: &[(String, String)],
    address: SocketAddr,
    directory: &Path,
) -> Vec<String> {
    let url = |name: &str| {
        let found = variables.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let mut lines = vec![
        format!("Callback API on http://{address}, for any node and execution; Ctrl-C ends it."),
        format!("Reports are stored below {}", directory.display()),
    ];
    lines.extend(exporter.introduction());
    lines.extend([
        String::new(),
        "Try it:".to_owned(),
        format!(
            "  curl -d '{}' '{}'",
            exporter.example(),
            url("CALLBACK_SERVICE_RESULT_URL")
        ),
        format!(
            "  curl --data-binary @/etc/hostname '{}?name=hostname.txt'",
            url("CALLBACK_SERVICE_FILE_URL")
        ),
        format!(
            "  curl -d '{{\"reason\": \"Tried\", \"message\": \"hello from %s\", \"args\": [\"curl\"]}}' '{}'",
            url("CALLBACK_SERVICE_EVENT_URL")
        ),
        String::new(),
        "The environment of a job pod, for a script:".to_owned(),
    ]);
    let exports = variables.iter();
    lines.extend(exports.map(|(name, value)| format!("  export {name}={}", quoted(value))));
    lines.push(String::new());
    lines
}

/// The variables that a job pod gets, by the code that gives them to it; those that only a cluster can resolve are left
/// out.
fn job_pod_variables(
    config: &Config,
    extension: &Extension,
    environment: &Environment,
    address: SocketAddr,
    execution: &ExecutionId,
) -> Result<Vec<(String, String)>, ReservedVariable> {
    let namespace = environment.namespace.clone();
    let spec = JobPodSpec {
        controller: config.name.clone(),
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        service_account: None,
        image_pull_secrets: Vec::new(),
        callback_address: reachable(address.ip()).to_string(),
        callback_port: address.port(),
        owner: None,
    };
    let instance = JobPodInstance {
        pod_name: &names::plain_pod_name(&config.name, EXAMPLE_NODE, execution),
        node: EXAMPLE_NODE,
        execution_id: execution,
        token: None,
    };
    let added = (extension.variables).of(&spec, instance, &Container::default())?;
    let variables = added.into_iter().chain(callback_variables(&spec, instance));
    Ok(variables
        .filter_map(|variable| Some((variable.name, variable.value?)))
        .collect())
}

/// As a shell takes it literally.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Where a listener is reached from this machine.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Prints what is not accepted, with the line that its sender gets.
async fn print_refusal(clock: SystemClock, request: Request, next: Next) -> Response {
    let subject = format!("{} {}", request.method(), request.uri());
    let response = next.run(request).await;
    if response.status().is_success() {
        return response;
    }
    let (parts, body) = response.into_parts();
    // It is ours, and short.
    let answer = to_bytes(body, ANSWER_MAX_BYTES).await.unwrap_or_default();
    let reason = String::from_utf8_lossy(&answer);
    let time = time_of_day(clock.wall());
    let status = parts.status.as_u16();
    say(&[received::printable(&format!(
        "{time} refused {status} {subject}: {}",
        reason.trim_end()
    ))]);
    Response::from_parts(parts, Body::from(answer))
}

fn time_of_day(time: Timestamp) -> String {
    time.strftime("%H:%M:%SZ").to_string()
}

/// Prints, and keeps serving where nobody reads.
fn say(lines: &[String]) {
    let mut text = lines.join("\n");
    text.push('\n');
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
