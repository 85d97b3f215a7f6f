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
    /// Reads lines of a name, at least two blanks, and a value with its unit.
    fn parse(text: &str) -> Result<Self> {
        let word = |key: &str| {
            let values = text
                .lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix("  "));
            let mut words = values.filter_map(|value| value.split_whitespace().next());
            words
                .next()
                .with_context(|| format!("the simulator does not say its {key}:\n{text}"))
        };
        let number = |key: &str| -> Result<f64> {
            word(key)?
                .parse()
                .with_context(|| format!("the simulator's {key} is no number:\n{text}"))
        };
        Ok(Self {
            digest: word("digest")?.to_owned(),
            events: number("events")?,
            virtual_seconds: number("virtual time")?,
            wall_seconds: number("wall time")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_from_its_lines() {
        let report = Report::parse(
            "virtual time                     86400.0 s\nwall time                        12.50 s\n\
             events per wall second           9\nevents                           120\n\
             digest                           00ff\n",
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
        let error = Report::parse("events  1\nvirtual time  1 s\nwall time  1 s\n").unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
    }
}
