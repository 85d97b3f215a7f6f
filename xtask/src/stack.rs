//! The simulated cluster and the release controller as two processes, with what they need around them.
//!
//! Everything lives as long as the value: dropping it stops both processes and removes their folder, in this order.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cargo::Binaries;
use crate::exposition::Scrape;
use crate::interrupt::Interrupt;
use crate::process::{Cost, Process};
use crate::{http, sample};

/// How long a process may take to get ready: it has nothing to load.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Ports on 127.0.0.1 to use; those not given are picked among the free ones.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PortOptions {
    /// Port of the simulated API server [default: a free one]
    #[arg(long = "api-port", value_name = "PORT", help_heading = "Ports")]
    api: Option<u16>,
    /// Port of the controller's callback API [default: a free one]
    #[arg(long = "callback-port", value_name = "PORT", help_heading = "Ports")]
    callback: Option<u16>,
    /// Port of the controller's reports [default: a free one]
    #[arg(long = "report-port", value_name = "PORT", help_heading = "Ports")]
    report: Option<u16>,
    /// Port of the controller's metrics [default: a free one]
    #[arg(long = "metrics-port", value_name = "PORT", help_heading = "Ports")]
    metrics: Option<u16>,
    /// Port of the controller's health probes [default: a free one]
    #[arg(long = "probe-port", value_name = "PORT", help_heading = "Ports")]
    probe: Option<u16>,
}

/// The ports in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub api: u16,
    pub callback: u16,
    pub reports: u16,
    pub metrics: u16,
    pub probes: u16,
}

impl Ports {
    /// # Errors
    /// If a given port is in use, or given twice: with the option that gave it.
    pub(crate) fn choose(options: &PortOptions) -> Result<Self> {
        // All are held until the last is chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut choose = |option: &str, port: Option<u16>| -> Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0)))
                .with_context(|| match port {
                    Some(port) => {
                        format!("cannot use port {port} on 127.0.0.1, which --{option} names")
                    }
                    None => format!("no free port on 127.0.0.1; name one with --{option}"),
                })?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        Ok(Self {
            api: choose("api-port", options.api)?,
            callback: choose("callback-port", options.callback)?,
            reports: choose("report-port", options.report)?,
            metrics: choose("metrics-port", options.metrics)?,
            probes: choose("probe-port", options.probe)?,
        })
    }
}

/// What the two processes are told.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub nodes: u32,
    pub pool: u32,
    /// From a job pod's creation to its end.
    pub pod_seconds: f64,
    /// The share of job pods that fail, from 0 to 1.
    pub failure_share: f64,
    pub seed: u64,
    /// Whether an execution begins at once; otherwise at the sample's nightly time.
    pub run_on_startup: bool,
    /// Whether the controller takes reports of any node and execution.
    pub dev_mode: bool,
    /// Whether anything runs on the nodes: otherwise pods stay as they are created.
    pub runs_pods: bool,
    /// Keys of the sample configuration with other values than there.
    pub config: Vec<(&'static str, &'static str)>,
}

impl Setup {
    /// The least time that an execution can take: whole rounds of the pool.
    pub(crate) fn ideal_makespan_seconds(&self) -> f64 {
        f64::from(self.nodes.div_ceil(self.pool)) * self.pod_seconds
    }
}

/// What the controller is told about the objects that it works on.
#[derive(Debug)]
pub(crate) struct Installed {
    pub namespace: String,
    pub config_map: String,
    /// The controller's own pod.
    pub pod: String,
    /// How the controller reaches the cluster.
    pub kubeconfig: PathBuf,
}

/// The kubeconfig of the simulated cluster, in the folder of everything.
const KUBECONFIG: &str = "kubeconfig";

/// The two processes, running.
#[derive(Debug)]
pub(crate) struct Stack {
    // Dropped in this order: the controller may still talk to its cluster, and both write into the folder.
    controller: Process,
    simulator: Process,
    directory: TempDir,
    ports: Ports,
}

impl Stack {
    /// Starts both with the sample's objects, and returns once the controller is ready.
    ///
    /// # Errors
    /// If one of them does not get ready, with the last lines of its log; or when interrupted.
    pub(crate) fn start(
        binaries: &Binaries,
        setup: &Setup,
        ports: Ports,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        Self::start_installed(binaries, setup, ports, interrupt, |api, directory| {
            sample::apply(api, &ports, &sample_config(setup, ports)?, &["127.0.0.1"])?;
            Ok(Installed {
                namespace: sample::NAMESPACE.to_owned(),
                config_map: sample::NAME.to_owned(),
                pod: sample::pod_name(sample::NAME, 0),
                kubeconfig: directory.join(KUBECONFIG),
            })
        })
    }

    /// Starts the cluster, lets `install` put objects into it, starts the controller on them, and returns once it is
    /// ready.
    ///
    /// # Errors
    /// If one of them does not get ready, with the last lines of its log; if `install` fails; or when interrupted.
    pub(crate) fn start_installed(
        binaries: &Binaries,
        setup: &Setup,
        ports: Ports,
        interrupt: &Interrupt,
        install: impl FnOnce(SocketAddr, &Path) -> Result<Installed>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("batch-job-controller-")
            .tempdir()?;
        fs::create_dir(directory.path().join("reports"))?;
        let mut simulator = start_simulator(binaries, setup, ports, directory.path())?;
        let ready = |simulator: &mut Process| {
            simulator.check_alive()?;
            let said = fs::read_to_string(directory.path().join("simulator.out"))?;
            Ok(said.lines().any(|line| line.starts_with("ready ")))
        };
        wait_until(
            "the simulated cluster is ready",
            &mut simulator,
            interrupt,
            ready,
        )?;

        let installed = install(localhost(ports.api), directory.path())?;
        let mut controller = start_controller(binaries, setup, &installed, directory.path())?;
        let ready = |controller: &mut Process| {
            controller.check_alive()?;
            Ok(http::get(localhost(ports.probes), "/readyz")
                .is_ok_and(|response| response.status == 200))
        };
        wait_until("the controller is ready", &mut controller, interrupt, ready)?;
        Ok(Self {
            controller,
            simulator,
            directory,
            ports,
        })
    }

    /// # Errors
    /// If one of them has ended, with the last lines of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.controller.check_alive()?;
        self.simulator.check_alive()
    }

    /// The end of the controller's log, as the end of a message.
    pub(crate) fn controller_log(&self) -> String {
        self.controller.last_lines()
    }

    /// What the controller has cost since it started.
    ///
    /// # Errors
    /// If the system does not tell.
    pub(crate) fn controller_cost(&self) -> Result<Cost> {
        self.controller.cost()
    }

    /// The controller's metrics, now.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn scrape(&self) -> Result<Scrape> {
        Ok(Scrape::parse(&http::get_text(
            localhost(self.ports.metrics),
            "/metrics",
        )?))
    }

    /// What the API server answers to `path`.
    ///
    /// # Errors
    /// If it does not, or not with JSON.
    pub(crate) fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&http::get_text(
            localhost(self.ports.api),
            path,
        )?)?)
    }

    /// The id of the newest execution: the last folder of reports that is named like one.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn newest_execution(&self) -> Result<String> {
        let is_execution = |name: &String| {
            matches!(name.len(), 12 | 14) && name.bytes().all(|b| b.is_ascii_digit())
        };
        let mut newest = None;
        for entry in fs::read_dir(self.reports())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            newest = newest.max(Some(name).filter(is_execution));
        }
        newest.context("no execution left a folder of reports")
    }

    /// The record of the newest execution, as the controller serves it.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn newest_record(&self) -> Result<Value> {
        let path = format!("/{}/_execution.json", self.newest_execution()?);
        Ok(serde_json::from_str(&http::get_text(
            localhost(self.ports.reports),
            &path,
        )?)?)
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// The folder of everything: logs, kubeconfig, reports.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn reports(&self) -> PathBuf {
        self.directory.path().join("reports")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join(KUBECONFIG)
    }
}

/// The address of a port on this machine.
pub(crate) fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A kubeconfig for a server without credentials.
pub(crate) fn kubeconfig(server: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "this",
        "contexts": [{"name": "this", "context": {"cluster": "this", "user": "this"}}],
        "clusters": [{"name": "this", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "this", "user": {}}],
    })
}

/// The sample's config.yaml as the setup wants it.
fn sample_config(setup: &Setup, ports: Ports) -> Result<String> {
    let mut values = vec![
        ("podPoolSize", setup.pool.to_string()),
        ("runOnStartup", setup.run_on_startup.to_string()),
        ("callbackServicePort", ports.callback.to_string()),
        ("fileServerPort", ports.reports.to_string()),
        ("healthProbePort", ports.probes.to_string()),
        ("metrics.port", ports.metrics.to_string()),
    ];
    values.extend(
        setup
            .config
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned())),
    );
    sample::config(&values)
}

fn start_simulator(
    binaries: &Binaries,
    setup: &Setup,
    ports: Ports,
    directory: &Path,
) -> Result<Process> {
    let mut command = Command::new(&binaries.simulator);
    command
        .arg("serve")
        .args(["--nodes", &setup.nodes.to_string()])
        .args(["--port", &ports.api.to_string()])
        .args(["--seed", &setup.seed.to_string()])
        .args(["--pod-seconds", &setup.pod_seconds.to_string()])
        .args(["--failure-share", &setup.failure_share.to_string()])
        .arg("--kubeconfig")
        .arg(directory.join(KUBECONFIG));
    if !setup.runs_pods {
        // Nobody renews the leases of nodes either.
        command.args(["--no-fleet", "--controllers", "off"]);
    }
    Process::start_logged("simulator", command, directory)
}

fn start_controller(
    binaries: &Binaries,
    setup: &Setup,
    installed: &Installed,
    directory: &Path,
) -> Result<Process> {
    let mut command = Command::new(&binaries.controller);
    command
        .env("NAMESPACE", &installed.namespace)
        .env("CONFIG_MAP_NAME", &installed.config_map)
        .env("POD_NAME", &installed.pod)
        .env("POD_IP", Ipv4Addr::LOCALHOST.to_string())
        .env("LISTEN_ADDRESS", Ipv4Addr::LOCALHOST.to_string())
        .env("REPORT_DIRECTORY", directory.join("reports"))
        .env("KUBECONFIG", &installed.kubeconfig)
        .env("DEV_MODE", setup.dev_mode.to_string())
        .env_remove("TZ");
    Process::start_logged("controller", command, directory)
}

fn wait_until(
    what: &str,
    process: &mut Process,
    interrupt: &Interrupt,
    mut holds: impl FnMut(&mut Process) -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + READY_WITHIN;
    while !holds(process)? {
        if Instant::now() > end {
            bail!(
                "not within {} s: {what}{}",
                READY_WITHIN.as_secs(),
                process.last_lines()
            );
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_differ_and_a_given_one_is_taken() {
        let given = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let options = PortOptions {
            metrics: Some(given),
            ..PortOptions::default()
        };
        let ports = Ports::choose(&options).unwrap();
        assert_eq!(ports.metrics, given);
        let all = std::collections::BTreeSet::from([
            ports.api,
            ports.callback,
            ports.reports,
            ports.metrics,
            ports.probes,
        ]);
        assert_eq!(all.len(), 5, "{ports:?}");
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_port_and_option() {
        let in_use = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = in_use.local_addr().unwrap().port();
        let options = PortOptions {
            report: Some(port),
            ..PortOptions::default()
        };
        let message = format!("{:#}", Ports::choose(&options).unwrap_err());
        assert!(
            message.contains(&port.to_string()) && message.contains("--report-port"),
            "{message}"
        );
        assert!(message.to_lowercase().contains("in use"), "{message}");
    }

    #[test]
    fn the_ideal_is_whole_rounds_of_the_pool() {
        let setup = Setup {
            nodes: 201,
            pool: 20,
            pod_seconds: 2.0,
            failure_share: 0.0,
            seed: 1,
            run_on_startup: true,
            dev_mode: false,
            runs_pods: true,
            config: Vec::new(),
        };
        assert!((setup.ideal_makespan_seconds() - 22.0).abs() < 1e-9);
    }
}
