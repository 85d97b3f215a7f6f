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

/// What a sweep over many seeds needs to be of use.
const WALL_SECONDS: f64 = 60.0;

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
            what: format!("wall time, {at}"),
            measured: wall_seconds,
            unit: "s",
            beside: format!("virtual time {:.0} s", first.virtual_seconds),
            target: Some(Target::AtMost(WALL_SECONDS)),
        },
        Row {
            what: format!("virtual time, {at}"),
            measured: first.virtual_seconds / wall_seconds,
            unit: "s per s",
            beside: "real time is 1".to_owned(),
            target: None,
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
