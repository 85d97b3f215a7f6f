//! `simulator run`, started as a process: executions in one process under virtual time, and what it says of them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

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

/// What a run says at its end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// Of the event log: the same for the same options, or something outside the simulation decided.
    pub digest: String,
    pub events: f64,
    pub virtual_seconds: f64,
    pub wall_seconds: f64,
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
            .args(["--seed", &self.seed.to_string()]);
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
        Report::parse(&said)
    }
}

impl Report {
    fn parse(text: &str) -> Result<Self> {
        let word = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.trim_start().strip_prefix(key));
            let word = line.and_then(|rest| {
                rest.trim_start_matches([':', '=', ' '])
                    .split_whitespace()
                    .next()
            });
            word.with_context(|| format!("the simulator does not say its {key}:\n{text}"))
        };
        let number = |key: &str| -> Result<f64> {
            word(key)?
                .parse()
                .with_context(|| format!("the simulator's {key} is no number:\n{text}"))
        };
        Ok(Self {
            digest: word("digest")?.to_owned(),
            events: number("events")?,
            virtual_seconds: number("virtual seconds")?,
            wall_seconds: number("wall seconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_from_its_lines() {
        let report = Report::parse(
            "seed 1\nevents: 120\nvirtual seconds: 86400\nwall seconds: 12.5\ndigest: 00ff\n",
        )
        .unwrap();
        let expected = Report {
            digest: "00ff".to_owned(),
            events: 120.0,
            virtual_seconds: 86400.0,
            wall_seconds: 12.5,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_report_without_digest_is_an_error() {
        let error = Report::parse("events: 1\nvirtual seconds: 1\nwall seconds: 1\n").unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
    }
}
