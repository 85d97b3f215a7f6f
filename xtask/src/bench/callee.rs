//! What is posted to: the controller with a job pod created on every node, and its ceiling, the bare handler.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::cargo::Binaries;
use crate::http;
use crate::interrupt::Interrupt;
use crate::process::{Cost, Process};
use crate::sample;
use crate::stack::{PortOptions, Ports, Setup, Stack, localhost};

/// The name of the example.
pub(super) const CEILING: &str = "ceiling";

/// Pods are created in seconds.
const CREATED_WITHIN: Duration = Duration::from_mins(2);

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the controller takes in that time when nothing happens.
const AT_REST: Duration = Duration::from_millis(10);

/// The variables of a job pod that are posted to.
const RESULT_URL: &str = "CALLBACK_SERVICE_RESULT_URL";
const FILE_URL: &str = "CALLBACK_SERVICE_FILE_URL";

/// The controller in the middle of an execution whose job pods do nothing by themselves.
pub(super) struct Called {
    stack: Stack,
    /// Of the results of each node, with their tokens.
    pub(super) result_paths: Vec<String>,
    pub(super) file_paths: Vec<String>,
}

impl Called {
    /// Starts it with these keys of the configuration, and returns once every node has its pod.
    ///
    /// # Errors
    /// If a process does not get ready, or pods are not created in time; or when interrupted.
    pub(super) fn start(
        binaries: &Binaries,
        nodes: u32,
        config: &[(&'static str, &'static str)],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut config = config.to_vec();
        // Every series is there once.
        config.push(("latestMetricsLabel", "false"));
        let setup = Setup {
            nodes,
            pool: nodes,
            pod_seconds: 1.0,
            failure_share: 0.0,
            seed: 1,
            run_on_startup: true,
            dev_mode: false,
            runs_pods: false,
            config,
        };
        let ports = Ports::choose(&PortOptions::default())?;
        let mut stack = Stack::start(binaries, &setup, ports, interrupt)?;
        let begin = Instant::now();
        loop {
            stack.check_alive()?;
            let pods = stack.api(&format!("/api/v1/namespaces/{}/pods", sample::NAMESPACE))?;
            let result_paths = paths(&pods, RESULT_URL)?;
            let created = result_paths.len();
            if created == nodes as usize {
                let called = Self {
                    stack,
                    result_paths,
                    file_paths: paths(&pods, FILE_URL)?,
                };
                called.rest(interrupt)?;
                return Ok(called);
            }
            ensure!(
                begin.elapsed() < CREATED_WITHIN,
                "{created} of {nodes} pods are created within {} s{}",
                CREATED_WITHIN.as_secs(),
                stack.controller_log()
            );
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    /// Waits until the controller has told and written all that there is to say of its pods.
    fn rest(&self, interrupt: &Interrupt) -> Result<()> {
        let mut before = self.cost()?.cpu();
        loop {
            interrupt.sleep(LOOK_EVERY)?;
            let now = self.cost()?.cpu();
            if now.saturating_sub(before) <= AT_REST {
                return Ok(());
            }
            before = now;
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        localhost(self.stack.ports().callback)
    }

    pub(super) fn metrics(&self) -> SocketAddr {
        localhost(self.stack.ports().metrics)
    }

    pub(super) fn cost(&self) -> Result<Cost> {
        self.stack.controller_cost()
    }

    /// Where its reports are.
    ///
    /// # Errors
    /// If there is no execution.
    pub(super) fn reports(&self) -> Result<PathBuf> {
        Ok(self.stack.reports().join(self.stack.newest_execution()?))
    }
}

/// The paths of the URLs that the job pods among these have in their environment.
fn paths(pods: &Value, variable: &str) -> Result<Vec<String>> {
    let pods = pods["items"].as_array().context("no pods are listed")?;
    let urls = pods.iter().filter_map(|pod| {
        let variables = pod["spec"]["containers"][0]["env"].as_array()?;
        let found = variables.iter().find(|found| found["name"] == variable)?;
        found["value"].as_str()
    });
    urls.map(|url| {
        let path = url.find("/report/").map(|at| url[at..].to_owned());
        path.with_context(|| format!("{variable} is {url}"))
    })
    .collect()
}

/// The bare handler, running.
pub(super) struct Ceiling {
    process: Process,
    address: SocketAddr,
    _log: TempDir,
}

impl Ceiling {
    /// Starts it over a folder, and returns once it answers.
    ///
    /// # Errors
    /// If it does not, or when interrupted.
    pub(super) fn start(
        binary: &Path,
        folder: &Path,
        fsync: bool,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let address = localhost(Ports::choose(&PortOptions::default())?.callback);
        let mut command = Command::new(binary);
        command
            .args(["--port", &address.port().to_string()])
            .arg("--directory")
            .arg(folder);
        if fsync {
            command.arg("--fsync");
        }
        let log = TempDir::new()?;
        let mut process = Process::start_logged(CEILING, command, log.path())?;
        while http::get(address, "/").is_err() {
            process.check_alive()?;
            interrupt.sleep(Duration::from_millis(10))?;
        }
        Ok(Self {
            process,
            address,
            _log: log,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn cost(&self) -> Result<Cost> {
        self.process.cost()
    }
}
