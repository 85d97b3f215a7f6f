//! `simulator run`, started as a process: executions in one process under virtual time, and what it says of them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cargo::Binaries;
use crate::interrupt::Interrupt;
use crate::process::Process;

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simulation {
    pub nodes: u32,
    pub pool: u32,
    pub pod_seconds: u32,
    /// Hourly executions.
    pub executions: u32,
    pub seed: u64,
}

/// What a run says at its end, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Of the event log: the same for the same options, or something outside the simulation decided.
    pub digest: String,
    pub events: u64,
    pub virtual_seconds: f64,
    pub makespan: Makespan,
    pub cost: Cost,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Makespan {
    pub ideal_seconds: f64,
    pub longest_seconds: f64,
}

/// What it cost.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    pub wall_seconds: f64,
    /// None where the system does not tell.
    pub memory_peak_bytes: Option<u64>,
}

impl Simulation {
    /// Runs it to its end, with every invariant checked after each event.
    ///
    /// # Errors
    /// If it fails, with its last words; or when interrupted.
    pub(crate) fn run(&self, binaries: &Binaries, interrupt: &Interrupt) -> Result<Report> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(&binaries.simulator);
        command
            .arg("run")
            .args(["--nodes", &self.nodes.to_string()])
            .args(["--pool", &self.pool.to_string()])
            .args(["--pod-seconds", &self.pod_seconds.to_string()])
            .args(["--executions", &self.executions.to_string()])
            .args(["--seed", &self.seed.to_string()])
            .args(["--output", "json"]);
        let mut process = Process::start_logged("simulator", command, directory.path())?;
        let status = loop {
            if let Some(status) = process.ended()? {
                break status;
            }
            interrupt.sleep(Duration::from_millis(50))?;
        };
        let said = fs::read_to_string(directory.path().join("simulator.out"))?;
        if !status.success() {
            bail!(
                "{self:?} ended with {status}; it said:\n{said}{}",
                process.last_lines()
            );
        }
        serde_json::from_str(&said)
            .with_context(|| format!("the simulator does not say what is wanted of it:\n{said}"))
    }
}
