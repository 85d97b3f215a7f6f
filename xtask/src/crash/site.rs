//! A simulated cluster and replicas of the controller as processes, to be killed, paused and cut off.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::cable::Cable;
use super::watch::{Shown, Watch};
use crate::cargo::Binaries;
use crate::exposition::Scrape;
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::stack::{PortOptions, Ports, kubeconfig, localhost};
use crate::{http, sample};

/// How long a process may take to get ready, or to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where the replicas listen, each on its own address of this machine.
const ADDRESSES: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const NAMES: [&str; 2] = ["replica-1", "replica-2"];

/// The most replicas that there can be.
pub(super) const REPLICAS_MAX: usize = ADDRESSES.len();

const PODS: &str = "/api/v1/namespaces/default/pods?labelSelector=batch-job-controller.bakito.github.com%2Fowner%3Ddemo&";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases?fieldSelector=metadata.name%3Ddemo-leader-election&";

/// What a site is made of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub nodes: u32,
    pub pool: u32,
    /// From a job pod's creation to its end: the least and the most.
    pub pod_time: (Duration, Duration),
    pub lease: Duration,
    pub replicas: usize,
    /// Which replica the Service leads to first.
    pub first_endpoint: usize,
    pub seed: u64,
}

impl Plan {
    /// About how long the execution takes where nothing happens to it.
    pub(super) fn makespan(&self) -> Duration {
        let (least, most) = self.pod_time;
        (least + most) / 2 * self.nodes.div_ceil(self.pool)
    }
}

/// A job pod that was created.
#[derive(Debug, Clone)]
pub(super) struct CreatedPod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub execution: String,
}

/// One replica, which may not run at the moment.
#[derive(Debug)]
struct Replica {
    cable: Cable,
    process: Option<Process>,
}

/// The cluster and its replicas; dropped, all of it is gone.
#[derive(Debug)]
pub(super) struct Site {
    // Dropped in this order: replicas talk to the cluster, and all write into the folder.
    replicas: Vec<Replica>,
    _simulator: Process,
    directory: TempDir,
    controller: PathBuf,
    ports: Ports,
    created: Watch<CreatedPod>,
    holders: Watch<String>,
}

impl Site {
    /// Starts the cluster, without a replica yet.
    ///
    /// # Errors
    /// If it does not get ready, or when interrupted.
    pub(super) fn begin(binaries: &Binaries, plan: &Plan, interrupt: &Interrupt) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("batch-job-controller-")
            .tempdir()?;
        fs::create_dir(directory.path().join("reports"))?;
        let ports = Ports::choose(&PortOptions::default())?;
        let api = localhost(ports.api);
        let mut simulator = start_simulator(binaries, plan, ports, directory.path())?;
        until("the simulated cluster is ready", interrupt, || {
            simulator.check_alive()?;
            let said = fs::read_to_string(directory.path().join("simulator.out"))?;
            Ok(said.lines().any(|line| line.starts_with("ready ")))
        })?;
        let mut addresses = ADDRESSES[..plan.replicas].to_vec();
        addresses.rotate_left(plan.first_endpoint);
        sample::apply(api, &ports, &config(plan, ports)?, &addresses)?;
        let mut replicas = Vec::new();
        for name in &NAMES[..plan.replicas] {
            let cable = Cable::to(api)?;
            let file = directory.path().join(format!("{name}.kubeconfig"));
            fs::write(file, kubeconfig(cable.address()).to_string())?;
            let process = None;
            replicas.push(Replica { cable, process });
        }
        Ok(Self {
            replicas,
            _simulator: simulator,
            directory,
            controller: binaries.controller.clone(),
            ports,
            created: Watch::begin(api, PODS, created_pod),
            holders: Watch::begin(api, LEASES, |_, lease| {
                Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
            }),
        })
    }

    /// Starts a replica, which does not run.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(&mut self, number: usize) -> Result<()> {
        let (address, folder) = (ADDRESSES[number], self.directory.path());
        let mut command = Command::new(&self.controller);
        command
            .env("NAMESPACE", sample::NAMESPACE)
            .env("CONFIG_MAP_NAME", sample::NAME)
            .env("POD_NAME", identity(number))
            .env("POD_IP", address)
            .env("LISTEN_ADDRESS", address)
            .env("REPORT_DIRECTORY", folder.join("reports"))
            .env(
                "KUBECONFIG",
                folder.join(format!("{}.kubeconfig", NAMES[number])),
            )
            .env_remove("DEV_MODE")
            .env_remove("TZ");
        let process = Process::start_logged(NAMES[number], command, folder)?;
        self.replicas[number].process = Some(process);
        Ok(())
    }

    /// Waits until that replica leads, or stands by while another one leads.
    ///
    /// # Errors
    /// If it does not, or ends.
    pub(super) fn until_settled(
        &mut self,
        number: usize,
        leads: bool,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let what = if leads {
            "this replica leads"
        } else {
            "standing by, batch"
        };
        until(&format!("{}: {what}", NAMES[number]), interrupt, || {
            self.process(number)?.check_alive()?;
            Ok(self.says(number).starts_with(what))
        })
    }

    /// Kills a replica without asking.
    ///
    /// # Errors
    /// If it does not run.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.process(number)?.kill()?;
        self.replicas[number].process = None;
        Ok(())
    }

    /// Stops a replica where it stands, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub(super) fn pause(&mut self, number: usize, is_paused: bool) -> Result<()> {
        let signal = if is_paused {
            Signal::STOP
        } else {
            Signal::CONT
        };
        self.process(number)?.signal(signal)
    }

    /// Asks a replica to end.
    ///
    /// # Errors
    /// If it does not run.
    pub(super) fn terminate(&mut self, number: usize) -> Result<()> {
        self.process(number)?.signal(Signal::TERM)
    }

    /// Waits for the end of a replica that was asked to.
    ///
    /// # Errors
    /// If it does not end in time, or badly.
    pub(super) fn until_terminated(&mut self, number: usize, interrupt: &Interrupt) -> Result<()> {
        until(&format!("{} has ended", NAMES[number]), interrupt, || {
            Ok(self.process(number)?.ended()?.is_some())
        })?;
        let status = self.process(number)?.ended()?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{} has ended with {status:?}{}",
            NAMES[number],
            self.process(number)?.last_lines()
        );
        self.replicas[number].process = None;
        Ok(())
    }

    /// Cuts a replica off from the API server.
    pub(super) fn cut_off(&self, number: usize) {
        self.replicas[number].cable.cut();
    }

    /// Lets it reach the API server again.
    pub(super) fn mend(&self, number: usize) {
        self.replicas[number].cable.mend();
    }

    /// The job pods that were created so far, in order.
    pub(super) fn created(&self) -> Vec<Shown<CreatedPod>> {
        self.created.shown()
    }

    /// Who held the Lease, in order: each time that it was written.
    pub(super) fn holders(&self) -> Vec<Shown<String>> {
        self.holders.shown()
    }

    /// Waits until so many job pods were created.
    ///
    /// # Errors
    /// If they are not within a while, or a replica has ended.
    pub(super) fn until_created(&mut self, count: usize, interrupt: &Interrupt) -> Result<()> {
        until(&format!("{count} job pods are created"), interrupt, || {
            self.check_alive()?;
            Ok(self.created().len() >= count)
        })
    }

    /// Waits for the end of the execution; returns its record.
    ///
    /// # Errors
    /// If it does not end within `patience`, or a replica does.
    pub(super) fn until_ended(
        &mut self,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Value> {
        let end = Instant::now() + patience;
        loop {
            self.check_alive()?;
            if let Some(record) = self.record().filter(|record| !record["endTime"].is_null()) {
                return Ok(record);
            }
            if Instant::now() > end {
                bail!(
                    "the execution has not ended within {} s: {} job pods were created",
                    patience.as_secs(),
                    self.created().len()
                );
            }
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    /// The metrics of the replica that leads.
    ///
    /// # Errors
    /// If none does, or they cannot be read.
    pub(super) fn scrape_of_leader(&self) -> Result<Scrape> {
        let leader = (0..self.replicas.len())
            .find(|number| self.says(*number).starts_with("this replica leads"));
        self.scrape(leader.context("no replica leads")?)
    }

    /// The metrics of a replica.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn scrape(&self, number: usize) -> Result<Scrape> {
        let server = server(number, self.ports.metrics)?;
        Ok(Scrape::parse(&http::get_text(server, "/metrics")?))
    }

    /// What the API server answers to `path`.
    ///
    /// # Errors
    /// If it does not, or not with JSON.
    pub(super) fn api(&self, path: &str) -> Result<Value> {
        let text = http::get_text(localhost(self.ports.api), path)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The folder of everything.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the folder behind, for people to look at.
    pub(super) fn keep_directory(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// What a replica says of who leads; nothing where it does not answer.
    fn says(&self, number: usize) -> String {
        server(number, self.ports.probes)
            .and_then(|server| http::get_text(server, "/readyz/leader"))
            .unwrap_or_default()
    }

    /// The record of the one execution, as it is on disk.
    fn record(&self) -> Option<Value> {
        let reports = fs::read_dir(self.directory.path().join("reports")).ok()?;
        let records = reports
            .flatten()
            .map(|entry| entry.path().join("_execution.json"));
        let text = records.filter(|path| path.is_file()).max().map(fs::read)?;
        serde_json::from_slice(&text.ok()?).ok()
    }

    fn check_alive(&mut self) -> Result<()> {
        for process in self
            .replicas
            .iter_mut()
            .filter_map(|replica| replica.process.as_mut())
        {
            process.check_alive()?;
        }
        Ok(())
    }

    fn process(&mut self, number: usize) -> Result<&mut Process> {
        let process = self.replicas[number].process.as_mut();
        process.with_context(|| format!("{} does not run", NAMES[number]))
    }
}

fn server(number: usize, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ADDRESSES[number].parse()?, port))
}

/// The holder identity of a replica.
pub(super) fn identity(number: usize) -> String {
    sample::pod_name(sample::NAME, number)
}

fn created_pod(event: &str, pod: &Value) -> Option<CreatedPod> {
    if event != "ADDED" {
        return None;
    }
    let (metadata, text) = (&pod["metadata"], |value: &Value| {
        value.as_str().unwrap_or_default().to_owned()
    });
    Some(CreatedPod {
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        node: text(&pod["spec"]["nodeName"]),
        execution: text(&metadata["labels"]["batch-job-controller.bakito.github.com/execution-id"]),
    })
}

fn start_simulator(
    binaries: &Binaries,
    plan: &Plan,
    ports: Ports,
    directory: &Path,
) -> Result<Process> {
    let (least, most) = plan.pod_time;
    let mut command = Command::new(&binaries.simulator);
    command
        .arg("serve")
        .args(["--nodes", &plan.nodes.to_string()])
        .args(["--port", &ports.api.to_string()])
        .args(["--seed", &plan.seed.to_string()])
        .args([
            "--pod-seconds",
            &format!("{}..{}", least.as_secs_f64(), most.as_secs_f64()),
        ])
        .arg("--kubeconfig")
        .arg(directory.join("kubeconfig"))
        .arg("--posts")
        .arg(directory.join("posts.jsonl"));
    Process::start_logged("simulator", command, directory)
}

/// The sample's config.yaml as the plan wants it.
fn config(plan: &Plan, ports: Ports) -> Result<String> {
    let sample = sample::config(&[
        ("podPoolSize", plan.pool.to_string()),
        ("callbackServicePort", ports.callback.to_string()),
        ("fileServerPort", ports.reports.to_string()),
        ("healthProbePort", ports.probes.to_string()),
        ("metrics.port", ports.metrics.to_string()),
    ])?;
    // In the proportions of the defaults.
    let (lease, millis) = (plan.lease.as_secs(), plan.lease.as_millis());
    let (renew, retry) = (millis * 2 / 3, millis * 2 / 15);
    Ok(format!(
        "{sample}leaderElection: {{leaseDuration: {lease}s, renewDeadline: {renew}ms, retryPeriod: {retry}ms}}\n"
    ))
}

/// Waits until it holds.
///
/// # Errors
/// If it does not within [`PATIENCE`], or when interrupted.
fn until(what: &str, interrupt: &Interrupt, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > end {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
    Ok(())
}
