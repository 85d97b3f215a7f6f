//! `batch-job-controller run`: the real adapters, the listeners, the signals.
//!
//! Exit policy: a wrong configuration, a taken port, a dead core task or server is exit status 1 with a line that says
//! so; SIGTERM and Ctrl-C hand over (the schedule stops, creates in flight are settled, the Lease is released), drain
//! requests, all within [`SHUTDOWN_TIMEOUT`], and exit with 0.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::configuration;
use super::{Extend, Failure};
use crate::adapter::fs_report_store::FsReportStore;
use crate::adapter::http_forward::HttpForward;
use crate::adapter::kube_cluster::KubeCluster;
use crate::adapter::os_entropy::OsEntropy;
use crate::adapter::system_clock::SystemClock;
use crate::args::{ConfigMapReference, Environment};
use crate::config::{CallbackAuth, Config, ReportDurability, report_directory};
use crate::core::callback_key::{CallbackKey, Purpose};
use crate::core::callback_token::CallbackTokens;
use crate::core::leadership::Identity;
use crate::core::lease::ReplicaAddress;
use crate::extension::{self, Extension};
use crate::http;
use crate::http::callback::{Authentication, CallbackRules};
use crate::http::relay::{self, Relay};
use crate::http::server::{ServerLimits, serve};
use crate::metrics::Metrics;
use crate::ports::cluster::Cluster as _;
use crate::ports::entropy::Entropy as _;
use crate::ports::error::ClusterError;
use crate::ports::report_store::ReportStore as _;
use crate::runtime::configuration::{ConfigMapSource, Configuration};
use crate::runtime::replica::{Replica, ReplicaHandle};
use crate::runtime::{PortSet, Settings, callback_address, callback_key};
use crate::telemetry;

/// How long handing over and requests under way may take after a signal: below Kubernetes' default grace period of 30
/// s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// How often a start asks an API server that does not answer, with pauses of 2, 4, 8 and 16 s.
const START_TRIES: u32 = 6;

/// Runs the controller until a signal.
pub(super) async fn run(environment: &Environment, extend: &Arc<Extend>) -> Result<(), Failure> {
    telemetry::init(environment.log_filter.as_deref()).map_err(|error| vec![error.to_string()])?;
    // As the first process of a container nothing else would end it while it waits for the API server.
    let signals =
        signals().map_err(|error| vec![format!("signals cannot be received: {error}")])?;
    let mut signals = pin!(signals);
    let started = tokio::select! {
        biased;
        () = &mut signals => {
            info!("stopped before the start was complete");
            return Ok(());
        }
        started = start(environment, extend) => started?,
    };
    supervise(started, signals).await
}

/// Everything before the election: configuration, owner, report directory, listeners.
async fn start(environment: &Environment, extend: &Arc<Extend>) -> Result<Started, Failure> {
    let (reference, listen) = match (environment.config_map(), environment.listen_address()) {
        (Ok(reference), Ok(listen)) => (reference, listen),
        (reference, listen) => {
            let mut failure = reference.err().unwrap_or_default();
            failure.extend(listen.err());
            return Err(failure);
        }
    };
    let client = KubeCluster::connect()
        .await
        .map_err(|error| vec![configuration::no_cluster(&error)])?;
    let unowned = KubeCluster::new(client.clone(), &reference.namespace, "");
    let (configuration, extension) = load(&unowned, &reference, environment, &**extend).await?;
    let Configuration {
        config,
        template,
        variables,
    } = configuration;
    let cluster = KubeCluster::new(client, &reference.namespace, &config.name);
    let pod_ip = environment.pod_ip.as_deref();
    persist("the callback Service", || {
        callback_address::resolve(&cluster, &config, pod_ip)
    })
    .await
    .map_err(|error| vec![error.to_string()])?;
    // Said at the start, not at the first request that needs it.
    let key = persist("the Secret of the replicas", || {
        callback_key::obtain(&cluster, &OsEntropy, &config.name)
    })
    .await
    .map_err(|error| vec![error.to_string()])?;
    let identity = identity(environment, listen, &config);
    let reports = open_reports(&config, &identity).await?;
    let listeners = Listeners::bind(listen, &config).await?;
    let settings = Settings {
        owner: top_owner(&cluster, environment.pod_name.as_deref()).await,
        instance: environment
            .pod_name
            .clone()
            .unwrap_or_else(|| config.name.clone()),
        namespace: reference.namespace.clone(),
        pod_ip: environment.pod_ip.clone(),
        dev_mode: environment.dev_mode,
        config_map: Some(source(reference, environment, extend)),
        tokens: (config.callback_auth != CallbackAuth::Off)
            .then(|| CallbackTokens::new(key.for_purpose(Purpose::Callback))),
        variables,
        template,
        config,
    };
    let ports = PortSet {
        cluster,
        reports,
        clock: SystemClock::new(),
        entropy: OsEntropy,
    };
    Ok(Started {
        settings,
        identity,
        key,
        ports,
        listeners,
        extension,
    })
}

/// What is ready to run.
struct Started {
    settings: Settings,
    identity: Identity,
    key: CallbackKey,
    ports: RealPorts,
    listeners: Listeners,
    extension: Extension,
}

/// The pod's name, so that a container that is restarted in its pod takes its own Lease back at once. A process that
/// knows no name must not take another one's.
fn identity(environment: &Environment, listen: Option<IpAddr>, config: &Config) -> Identity {
    let listen = listen.filter(|address| !address.is_unspecified());
    let host = (listen.map(|address| address.to_string())).or_else(|| environment.pod_ip.clone());
    let nameless = || format!("{}-{}", config.name, OsEntropy.uuid());
    Identity {
        name: environment.pod_name.clone().unwrap_or_else(nameless),
        address: host.map(|host| ReplicaAddress {
            host,
            callback_port: config.callback_service_port,
            file_server_port: config.file_server_port,
        }),
    }
}

/// Repeats a read while its failure is transient, a few times.
async fn persist<T, F: Future<Output = Result<T, ClusterError>>>(
    subject: &str,
    read: impl Fn() -> F,
) -> Result<T, ClusterError> {
    let mut tries = 1;
    loop {
        match read().await {
            Err(error) if error.kind.is_transient() && tries < START_TRIES => {
                warn!(error = %error, tries, "{subject} cannot be read yet");
                tokio::time::sleep(Duration::from_secs(1 << tries.min(4))).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

async fn open_reports(config: &Config, identity: &Identity) -> Result<FsReportStore, Failure> {
    let directory = config.report_directory.clone();
    let reports = FsReportStore::new(directory, config.report_durability, &identity.name)
        .with_quota(config.report_quota_bytes);
    reports.probe().await.map_err(|error| {
        let directory = config.report_directory.display();
        vec![format!(
            "reportDirectory: {directory} cannot be written: {error}; want a directory that this user may write to"
        )]
    })?;
    match reports.remove_own_temporaries().await {
        Ok(0) => {}
        Ok(files) => info!(files, "what an earlier process left unfinished is removed"),
        Err(error) => warn!(error = %error, "what an earlier process left unfinished stays"),
    }
    Ok(reports)
}

type RealPorts = PortSet<KubeCluster, FsReportStore, SystemClock, OsEntropy>;

/// What the ConfigMap says; where that cannot be used, what the last good one said.
async fn load(
    cluster: &KubeCluster,
    reference: &ConfigMapReference,
    environment: &Environment,
    extend: &Extend,
) -> Result<(Configuration, Extension), Failure> {
    let read = persist("the ConfigMap", || cluster.config_map(&reference.name)).await;
    let data = match read {
        Ok(read) => read.data,
        Err(error) => return Err(vec![configuration::not_read(reference, &error)]),
    };
    let config = data.get(configuration::CONFIG_KEY).cloned();
    let of_data = |data| configuration::of_data(reference, data, environment, extend);
    let failure = match of_data(data) {
        Ok(loaded) => return Ok(loaded),
        Err(failure) => failure,
    };
    let directory = report_directory(&config.unwrap_or_default(), &environment.defaults());
    let volume = FsReportStore::new(directory, ReportDurability::default(), "");
    let kept = crate::runtime::configuration::kept(&volume).await;
    let loaded = kept.and_then(|kept| of_data(kept).ok());
    if loaded.is_some() {
        for line in &failure {
            warn!("configuration refused, the last good one goes on: {line}");
        }
    }
    loaded.ok_or(failure)
}

/// Where a running controller is told what to do.
fn source(
    reference: ConfigMapReference,
    environment: &Environment,
    extend: &Arc<Extend>,
) -> ConfigMapSource {
    let (environment, extend) = (environment.clone(), Arc::clone(extend));
    ConfigMapSource::new(reference.name.clone(), move |data| {
        let read = configuration::of_data(&reference, data.clone(), &environment, &*extend);
        read.map(|(configuration, _)| configuration)
    })
}

async fn top_owner(cluster: &KubeCluster, pod: Option<&str>) -> Option<OwnerReference> {
    let pod = pod?;
    match persist("the controller's own pod", || cluster.top_owner(pod)).await {
        Ok(owner) => owner,
        Err(error) => {
            warn!(pod, error = %error, "job pods get no owner reference: the controller's own pod cannot be read");
            None
        }
    }
}

/// The four ports, bound before anything starts, so that a taken one is said at once.
struct Listeners {
    callback: TcpListener,
    reports: TcpListener,
    metrics: TcpListener,
    probes: TcpListener,
}

impl Listeners {
    async fn bind(address: Option<IpAddr>, config: &Config) -> Result<Self, Failure> {
        let callback = bind(address, "callbackServicePort", config.callback_service_port).await;
        let reports = bind(address, "fileServerPort", config.file_server_port).await;
        let metrics = bind(address, "metrics.port", config.metrics.port).await;
        let probes = bind(address, "healthProbePort", config.health_probe_port).await;
        match (callback, reports, metrics, probes) {
            (Ok(callback), Ok(reports), Ok(metrics), Ok(probes)) => Ok(Self {
                callback,
                reports,
                metrics,
                probes,
            }),
            (callback, reports, metrics, probes) => {
                let results = [callback, reports, metrics, probes];
                Err(results.into_iter().filter_map(Result::err).collect())
            }
        }
    }
}

async fn bind(address: Option<IpAddr>, key: &str, port: u16) -> Result<TcpListener, String> {
    let bound = match address {
        Some(address) => TcpListener::bind(SocketAddr::new(address, port)).await,
        None => bind_everywhere(port).await,
    };
    bound.map_err(|error| {
        let fix = match address {
            Some(address) => format!("want a port that is free on {address}"),
            None => "want a port that is free, or LISTEN_ADDRESS set to an address where it is"
                .to_owned(),
        };
        format!("{key}: port {port} cannot be listened on: {error}; {fix}")
    })
}

/// Every IPv6 and IPv4 address; IPv4 alone where the machine has no IPv6.
async fn bind_everywhere(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

/// Runs the replica and the servers until a signal, or until one of them ends by itself.
async fn supervise(
    started: Started,
    signals: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Failure> {
    let Started {
        settings,
        identity,
        key,
        ports,
        listeners,
        extension,
    } = started;
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::new(&settings.config));
    let (body_limit, hold) = (
        settings.config.callback_body_limit,
        settings.config.callback_hold_timeout,
    );
    let authentication = match settings.tokens.clone() {
        Some(tokens) => Authentication::new(settings.config.callback_auth, tokens),
        None => Authentication::off(),
    };
    let reports = ports.reports.clone();
    let (own_name, replica_metrics) = (identity.name.clone(), Arc::clone(&metrics));
    let (replica, handle) = Replica::new(settings, identity, ports, replica_metrics);
    let relay = Relay {
        replica: handle.clone(),
        identity: own_name,
        key: key.for_purpose(Purpose::Forwarding),
        forward: HttpForward::new(),
        authentication: authentication.clone(),
        hold,
    };
    let rules = CallbackRules {
        body_limit,
        authentication: authentication.clone(),
    };
    let callback = http::callback::service(handle.clone(), reports.clone(), OsEntropy, rules);
    let callback = relay::callbacks(callback, relay.clone());
    let callback = http::callback::bounded(callback, authentication, handle.clone());
    let pages = relay::reports(http::reports::router(reports.clone()), relay);
    let probes = http::probes::router(handle.clone(), reports);
    let routers = [
        (
            listeners.callback,
            extension.routes.fallback_service(callback),
        ),
        (listeners.reports, pages),
        (
            listeners.metrics,
            http::metrics::router(Arc::clone(&metrics)),
        ),
        (listeners.probes, probes),
    ];
    let limits = server_limits();
    let mut servers = JoinSet::new();
    for (listener, router) in routers {
        let router = http::catch_panics(router, Arc::clone(&metrics));
        servers.spawn(serve(listener, router, limits, shutdown.clone()));
    }
    let mut replica = tokio::spawn(replica.run());
    let mut background = pin!(while_leading(&handle, extension.tasks.into()));
    tokio::select! {
        () = signals => {}
        ended = &mut replica => {
            error!("the controller's loop has ended");
            return Err(vec![format!("the controller's loop has ended: {}", cause(&ended))]);
        }
        Some(ended) = servers.join_next() => {
            return Err(vec![format!("a server has ended: {}", cause(&ended))]);
        }
        failure = &mut background => {
            return Err(vec![failure]);
        }
    }
    shut_down(&handle, replica, &shutdown, &mut servers).await;
    Ok(())
}

/// Runs the tasks whenever this replica leads; ends with a line about the first that fails.
async fn while_leading(handle: &ReplicaHandle, tasks: Arc<[extension::Task]>) -> String {
    loop {
        handle.until_leading(true).await;
        tokio::select! {
            failure = extension::run_tasks(Arc::clone(&tasks)) => return failure,
            () = handle.until_leading(false) => {}
        }
    }
}

fn cause<T>(ended: &Result<T, tokio::task::JoinError>) -> String {
    match ended {
        Ok(_) => "without an error".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The lease first: another replica goes on while the requests under way here are answered, or passed on to it.
async fn shut_down(
    handle: &ReplicaHandle,
    mut replica: JoinHandle<()>,
    shutdown: &CancellationToken,
    servers: &mut JoinSet<()>,
) {
    info!("shutting down");
    let ended = async {
        handle.hand_over();
        tokio::select! {
            () = handle.handed_over() => {}
            ended = &mut replica => {
                error!("the controller's loop has ended: {}", cause(&ended));
            }
        }
        shutdown.cancel();
        while servers.join_next().await.is_some() {}
    };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
        warn!(
            timeout_s = SHUTDOWN_TIMEOUT.as_secs(),
            "requests under way were cut off"
        );
    }
    replica.abort();
}

/// What connections are held to, with as many descriptors as the system grants: each port may have a share of them, and
/// the rest is for files and the API server.
pub(super) fn server_limits() -> ServerLimits {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    // Where that is refused, there are as many as before.
    let _ = setrlimit(Resource::Nofile, files);
    let granted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = usize::try_from(granted / 8).unwrap_or(usize::MAX);
    let limits = ServerLimits::default();
    ServerLimits {
        connections: limits.connections.min(share.max(1)),
        ..limits
    }
}

/// Ends at the first SIGTERM or SIGINT.
pub(super) fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ports::error::ClusterErrorKind;

    /// How often it is tried where the first `failures` tries fail so, and whether it came right.
    async fn tries(kind: ClusterErrorKind, failures: u32) -> (u32, bool) {
        let tries = Cell::new(0);
        let result = persist("the test", async || {
            tries.set(tries.get() + 1);
            if tries.get() > failures {
                Ok(())
            } else {
                Err(ClusterError::new(kind, "no".to_owned()))
            }
        })
        .await;
        (tries.get(), result.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_may_pass_is_tried_again_up_to_a_limit_and_any_other_is_final() {
        assert_eq!(tries(ClusterErrorKind::Unavailable, 2).await, (3, true));
        assert_eq!(
            tries(ClusterErrorKind::Unavailable, u32::MAX).await,
            (START_TRIES, false)
        );
        assert_eq!(tries(ClusterErrorKind::NotFound, 2).await, (1, false));
    }
}
