//! `simulator serve`: the simulated cluster as a process, over plain HTTP, on 127.0.0.1 unless told otherwise, in real
//! time.

use std::future::Future;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use axum::Router;
use axum::serve::{Listener, ListenerExt as _};
use clap::Args;
use controller::ports::clock::Clock as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tower::Layer as _;

use crate::apiserver::{ApiServer, expire_events};
use crate::callback::{Noted, Notes, OverHttp, Persistence};
use crate::clock::SimClock;
use crate::controllers;
use crate::faults::Faults;
use crate::fleet::{Fleet, FleetOptions, Irregularities, create_nodes, renew_leases};
use crate::layer::{FaultLayer, FaultService};
use crate::node::NodeShape;
use crate::options::{FaultOption, PodOptions};
use crate::rng::Seed;
use crate::routing::{self, Route, SERVICE_NAME_LABEL};
use crate::state::{self, State, Stored, resource};

/// Serves a simulated Kubernetes cluster, over plain HTTP and without credentials
///
/// Prints one line, `ready http://ADDRESS:PORT kubeconfig=FILE`, once it serves, and ends on Ctrl-C or SIGTERM. Point
/// kubectl or the controller to it with KUBECONFIG=FILE.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    /// How many nodes there are, named node-1 onwards; 0 for an API server alone
    #[arg(long, value_name = "N")]
    nodes: u32,

    /// The address to listen on. Whoever reaches it may do anything, so another only on a network of its own, of
    /// containers say
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,

    /// The port to listen on; a free one where none is given
    #[arg(long, value_name = "P", default_value_t = 0, hide_default_value = true)]
    port: u16,

    /// Where to write the kubeconfig; a temporary file, removed at the end, where none is given
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    pods: PodOptions,

    /// Pods post once and fail where that is not answered well, instead of repeating for up to 60 s
    #[arg(long)]
    post_once: bool,

    /// Where to note each post that was accepted, a line of JSON with what was posted
    #[arg(long, value_name = "FILE")]
    posts: Option<PathBuf>,

    /// What breaks between clients and the API server: a file, as in `rates: {conflict: 0.01}` and
    /// `placed: [{kind: ghost-write, nth: 3}]`, or `drawn` from the seed
    #[arg(long, value_name = "FILE|drawn")]
    faults: Option<FaultOption>,

    /// The nodes exist, but nothing runs on them: pods stay as they are created
    #[arg(long)]
    no_fleet: bool,

    /// Whether the cluster does by itself what a real one's controllers do: namespaces end, garbage is collected,
    /// silent nodes become NotReady, pods leave tainted nodes; on where there are nodes
    #[arg(long, value_name = "on|off", value_parser = parse_switch)]
    controllers: Option<bool>,
}

impl ServeOptions {
    fn has_controllers(&self) -> bool {
        self.controllers.unwrap_or(self.nodes > 0)
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is either on or off".to_owned()),
    }
}

/// Serves until the process is told to end.
///
/// # Errors
/// Where the port is in use, the kubeconfig cannot be written, or a part of the simulation dies.
pub fn run(options: &ServeOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(options));
    // Watches are open for as long as their clients like: they are cut.
    runtime.shutdown_background();
    result
}

async fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    eprintln!("{options}");
    let plan = FaultOption::plan(options.faults.as_ref(), options.pods.seed)?;
    let faults = Faults::new(plan, Seed::of_run(options.pods.seed));
    let mut ended = std::pin::pin!(end_of_process()?);
    let listener = listen(options.address, options.port).await?;
    let address = listener.local_addr()?;

    #[allow(
        clippy::disallowed_methods,
        reason = "a served cluster lives in real time, which begins here"
    )]
    let clock = SimClock::starting_at(Timestamp::now());
    let state = State::new(&state::Options {
        seed: options.pods.seed,
        now: clock.wall(),
        namespace_lifecycle: options.has_controllers(),
        compact: true,
        ..state::Options::default()
    });
    let api = ApiServer::new(state, clock.of_api_server());
    create_nodes(&api, options.nodes, &NodeShape::default())
        .map_err(|status| anyhow::anyhow!(status.message))?;

    let mut parts = JoinSet::new();
    parts.spawn(expire_events(api.clone()));
    if options.has_controllers() {
        parts.spawn(controllers::run(api.clone(), controllers::every_rule()));
    }
    if !options.no_fleet && options.nodes > 0 {
        let fleet_options = FleetOptions {
            nodes: options.nodes,
            lifecycle: options.pods.lifecycle(),
            irregularities: Irregularities::default(),
            persistence: if options.post_once {
                Persistence::Once
            } else {
                Persistence::Repeat
            },
            seed: Seed::of_run(options.pods.seed),
        };
        let transport = Noted {
            inner: OverHttp::new(service_routes(api.clone())),
            notes: options.posts.as_deref().map(Notes::create).transpose()?,
        };
        let fleet = Fleet::new(api.clone(), transport, fleet_options);
        parts.spawn(fleet.run());
        parts.spawn(renew_leases(api.clone(), options.nodes));
    }
    // Answers are small and awaited: none is held back to be joined with the next.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let layer = FaultLayer::new(faults.clone(), api.clone());
    if options.faults.is_some() {
        parts.spawn(serve_broken(listener, layer.layer(api.router())));
    } else {
        let server = axum::serve(listener, api.router());
        parts.spawn(async {
            // It ends only when its task is dropped.
            let _ = server.await;
        });
    }

    let kubeconfig = Kubeconfig::write(address, options.kubeconfig.clone())?;
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "ready http://{address} kubeconfig={}",
        kubeconfig.path().display()
    )?;
    stdout.flush()?;
    drop(stdout);

    tokio::select! {
        biased;
        () = &mut ended => {
            if options.faults.is_some() {
                eprintln!("{}", faults.tally());
            }
            Ok(())
        }
        Some(part) = parts.join_next() => {
            part.context("a part of the simulation died")?;
            anyhow::bail!("a part of the simulation ended by itself")
        }
    }
}

/// Serves with faults. Unlike with `axum::serve`, a connection can be lost instead of answered: the service's error
/// closes it.
async fn serve_broken(mut listener: impl Listener, service: FaultService<Router>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(service.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async {
            // A client that goes away, or one that was left without an answer.
            let _ = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn listen(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((address, port)).await.map_err(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            anyhow::anyhow!("port {port} is in use on {address}; choose another with --port, or none for a free one")
        } else {
            anyhow::Error::new(error).context(format!("cannot listen on {}", SocketAddr::new(address, port)))
        }
    })
}

/// Completes on Ctrl-C or SIGTERM; listens for them from now on.
fn end_of_process() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// How kube-proxy would route: by the Services and EndpointSlices as they are at each request.
fn service_routes(
    api: ApiServer,
) -> impl Fn(&str, u16, &str) -> Route + Clone + Send + Sync + 'static {
    move |host, port, namespace| {
        api.read(|state| {
            let services = state.iter(&resource::SERVICES, None);
            let slices = state.iter(&resource::ENDPOINT_SLICES, None);
            routing::route(
                host,
                port,
                namespace,
                services.filter_map(|service| service_of(service)),
                slices.filter_map(|slice| slice_of(slice)),
            )
        })
    }
}

fn service_of(service: &Stored) -> Option<routing::Service<'_>> {
    Some(routing::Service {
        name: &service.metadata.name,
        namespace: &service.metadata.namespace,
        spec: service.get("spec")?,
    })
}

fn slice_of(slice: &Stored) -> Option<routing::Slice<'_>> {
    Some(routing::Slice {
        namespace: &slice.metadata.namespace,
        service: slice.metadata.labels.get(SERVICE_NAME_LABEL)?,
        ports: slice.list("/ports"),
        endpoints: slice.list("/endpoints"),
    })
}

/// The kubeconfig of the served cluster; a temporary one is removed when this is dropped.
enum Kubeconfig {
    Given(PathBuf),
    Temporary(NamedTempFile),
}

impl Kubeconfig {
    fn write(server: SocketAddr, given: Option<PathBuf>) -> anyhow::Result<Self> {
        let text = kubeconfig(server);
        if let Some(path) = given {
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(Self::Given(path));
        }
        let mut file = tempfile::Builder::new()
            .prefix("simulator-")
            .suffix(".kubeconfig")
            .tempfile()?;
        file.write_all(text.as_bytes())?;
        Ok(Self::Temporary(file))
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(file) => file.path(),
        }
    }
}

fn kubeconfig(server: SocketAddr) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: simulator\n  cluster:\n    server: http://{server}\n\
         users:\n\
         - name: simulator\n  user: {{}}\n\
         contexts:\n\
         - name: simulator\n  context:\n    cluster: simulator\n    user: simulator\n\
         current-context: simulator\n"
    )
}

impl std::fmt::Display for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "simulator serve --nodes {} {}", self.nodes, self.pods)?;
        for (given, name) in [
            (self.post_once, "--post-once"),
            (self.no_fleet, "--no-fleet"),
        ] {
            if given {
                write!(f, " {name}")?;
            }
        }
        if let Some(faults) = &self.faults {
            write!(f, " --faults {faults}")?;
        }
        let controllers = if self.has_controllers() { "on" } else { "off" };
        write!(f, " --controllers {controllers}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_names_the_server_in_its_current_context() {
        let text = kubeconfig("127.0.0.1:4711".parse().unwrap());
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(value["current-context"], value["contexts"][0]["name"]);
        assert_eq!(
            value["contexts"][0]["context"]["cluster"],
            value["clusters"][0]["name"]
        );
        assert_eq!(
            value["clusters"][0]["cluster"]["server"],
            "http://127.0.0.1:4711"
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_plainly() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let localhost = Ipv4Addr::LOCALHOST.into();
        let error = listen(localhost, port).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
    }
}
