//! How fast the simulator runs the controller's own code under virtual time, and that it does so twice alike.

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use std::time::Duration;

use super::{Row, Target};
use crate::cargo::Binaries;
use crate::interrupt::Interrupt;
use crate::simulation::Simulation;

const A_DAY: Simulation = Simulation {
    nodes: 5000,
    pool: 500,
    pod_seconds: 60,
    executions: 24,
    seed: 1,
};

/// A day in a minute: what a sweep over many seeds needs to be of use.
const LEAST_VIRTUAL_SECONDS_PER_SECOND: f64 = 24.0 * 60.0;

/// # Errors
/// If a run fails, or the two have different digests.
pub(super) fn measure(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let mut reports = Vec::new();
    for run in ["first", "second"] {
        let bar = ProgressBar::new_spinner()
            .with_message(format!("simulating a day of 5,000 nodes, {run} run"));
        bar.enable_steady_tick(Duration::from_millis(100));
        reports.push(A_DAY.run(binaries, interrupt)?);
        bar.finish_and_clear();
    }
    let [first, second] = reports.as_slice() else {
        return Ok(Vec::new());
    };
    ensure!(
        first.digest == second.digest,
        "two runs of seed {} differ: digest {} and {}",
        A_DAY.seed,
        first.digest,
        second.digest
    );
    let at = format!(
        "{} nodes, pool {}, {} hourly executions",
        A_DAY.nodes, A_DAY.pool, A_DAY.executions
    );
    // The faster one: the other was disturbed.
    let wall_seconds = first.wall_seconds.min(second.wall_seconds);
    Ok(vec![
        Row {
            what: format!("virtual time, {at}"),
            measured: first.virtual_seconds / wall_seconds,
            unit: "s per s",
            beside: format!(
                "a day in 60 s is {LEAST_VIRTUAL_SECONDS_PER_SECOND}; this took {wall_seconds:.1} s"
            ),
            target: Some(Target::AtLeast(LEAST_VIRTUAL_SECONDS_PER_SECOND)),
        },
        Row {
            what: format!("events, {at}"),
            measured: first.events / wall_seconds,
            unit: "per s",
            beside: format!(
                "run twice, same digest {}",
                first.digest.get(..16).unwrap_or(&first.digest)
            ),
            target: None,
        },
    ])
}
