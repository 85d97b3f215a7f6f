//! How fast the simulator runs the controller's own code under virtual time, that it does so twice alike, and what a
//! large cluster takes.

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use std::time::Duration;

use super::{Row, Target, megabytes};
use crate::cargo::Binaries;
use crate::interrupt::Interrupt;
use crate::simulation::{Report, Simulation};

const A_DAY: Simulation = Simulation {
    nodes: 5000,
    pool: 500,
    pod_seconds: 60,
    executions: 24,
    seed: 1,
};

const LARGE: Simulation = Simulation {
    nodes: 20_000,
    pool: 500,
    pod_seconds: 30,
    executions: 1,
    seed: 1,
};

/// What a sweep over many seeds needs to be of use.
const WALL_SECONDS: f64 = 60.0;

/// 2 GiB, what a small machine has to spare.
const MEMORY_MEGABYTES: f64 = 2147.0;

/// # Errors
/// If a run fails, or the two have different digests.
#[allow(clippy::cast_precision_loss, reason = "events are far fewer than 2^53")]
pub(super) fn measure(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let mut reports = Vec::new();
    for run in ["first", "second"] {
        let what = format!("simulating a day of 5,000 nodes, {run} run");
        reports.push(watched(A_DAY, what, binaries, interrupt)?);
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
    let wall_seconds = first.cost.wall_seconds.min(second.cost.wall_seconds);
    let mut rows = vec![
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
            measured: first.events as f64 / wall_seconds,
            unit: "per s",
            beside: format!(
                "run twice, same digest {}",
                first.digest.get(..16).unwrap_or(&first.digest)
            ),
            target: None,
        },
    ];
    let what = "simulating 20,000 nodes".to_owned();
    rows.extend(large(&watched(LARGE, what, binaries, interrupt)?));
    Ok(rows)
}

/// Runs it behind a spinner.
fn watched(
    simulation: Simulation,
    what: String,
    binaries: &Binaries,
    interrupt: &Interrupt,
) -> Result<Report> {
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = simulation.run(binaries, interrupt);
    bar.finish_and_clear();
    report
}

fn large(report: &Report) -> Vec<Row> {
    let at = format!("{} nodes, pool {}", LARGE.nodes, LARGE.pool);
    let makespan = &report.makespan;
    let mut rows = vec![Row {
        what: format!("wall time, {at}"),
        measured: report.cost.wall_seconds,
        unit: "s",
        beside: format!(
            "makespan {:.4} of the ideal",
            makespan.longest_seconds / makespan.ideal_seconds
        ),
        target: Some(Target::AtMost(WALL_SECONDS)),
    }];
    rows.extend(report.cost.memory_peak_bytes.map(|bytes| Row {
        what: format!("memory, {at}"),
        measured: megabytes(bytes),
        unit: "MB",
        beside: "cluster, nodes and controller in one process".to_owned(),
        target: Some(Target::AtMost(MEMORY_MEGABYTES)),
    }));
    rows
}
