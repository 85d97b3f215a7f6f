//! How close one execution over real HTTP comes to the ideal, and what it costs the controller.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Row, Target, megabytes};
use crate::cargo::Binaries;
use crate::execution;
use crate::interrupt::Interrupt;
use crate::process::Cost;
use crate::stack::{PortOptions, Ports, Setup, Stack};

/// A setting, and what the Go controller was measured at with it.
#[derive(Debug)]
pub(super) struct Setting {
    nodes: u32,
    pool: u32,
    target_ratio: f64,
    original_ratio: f64,
    /// CPU seconds and peak memory in MB, where they were measured.
    original_cost: Option<(f64, f64)>,
}

pub(super) const AT_200_NODES: Setting = Setting {
    nodes: 200,
    pool: 20,
    target_ratio: 1.03,
    original_ratio: 1.46,
    original_cost: None,
};

pub(super) const AT_1000_NODES: Setting = Setting {
    nodes: 1000,
    pool: 100,
    target_ratio: 1.05,
    original_ratio: 1.48,
    original_cost: Some((1.8, 69.0)),
};

/// From a job pod's creation to its end.
const POD_SECONDS: f64 = 2.0;

/// Scraping costs the controller, too, and the makespan is by its own clock: so seldom, as Prometheus would.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A usual result or file of a job.
const REPORT_BYTES: usize = 512;

/// The share of the original's cost that we allow ourselves.
const SHARE_OF_ORIGINAL: f64 = 1.0 / 3.0;

/// # Errors
/// If the execution does not come to its end, or not every node succeeds: then its time says nothing.
pub(super) fn measure(
    setting: &Setting,
    binaries: &Binaries,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let setup = Setup {
        nodes: setting.nodes,
        pool: setting.pool,
        pod_seconds: POD_SECONDS,
        failure_share: 0.0,
        seed: 1,
        run_on_startup: true,
        dev_mode: false,
        runs_pods: true,
        // What costs is the execution itself: the Go controller was measured without these.
        config: vec![
            ("savePodLog", "false"),
            ("latestMetricsLabel", "false"),
            ("reportDurability", "none"),
        ],
    };
    let bar =
        ProgressBar::new(setting.nodes.into()).with_message(format!("{} nodes", setting.nodes));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} nodes  {elapsed}") {
        bar.set_style(style);
    }
    let mut stack = Stack::start(
        binaries,
        &setup,
        Ports::choose(&PortOptions::default())?,
        interrupt,
    )?;
    let mut succeeded = 0;
    let scrape = execution::follow(&mut stack, LOOK_EVERY, interrupt, |progress| {
        succeeded = progress.count("succeeded");
        bar.set_position(progress.ended());
        Ok(())
    })?;
    bar.finish_and_clear();
    ensure!(
        succeeded == u64::from(setting.nodes),
        "only {succeeded} of {} nodes succeeded{}",
        setting.nodes,
        stack.controller_log()
    );
    let cost = stack.controller_cost()?;
    let seconds = execution::makespan_seconds(&scrape);
    let files = fs::read_dir(stack.reports().join(stack.newest_execution()?))?.count();
    let plainly = write_plainly(stack.directory(), files)?;
    let costs = Costs {
        controller: cost,
        files,
        plainly,
    };
    Ok(rows(setting, &setup, seconds, &costs))
}

/// What an execution cost, and what of it nobody could save.
#[derive(Debug)]
struct Costs {
    controller: Cost,
    files: usize,
    /// As many files written by this process alone.
    plainly: Duration,
}

/// Writes small files as reports are written, whole or absent; returns the CPU time it takes.
///
/// On some file systems most of an execution's cost is this, depending on what was deleted there recently.
fn write_plainly(directory: &Path, files: usize) -> Result<Duration> {
    let directory = directory.join("plainly");
    fs::create_dir(&directory)?;
    let before = Cost::of_this_process()?.cpu();
    for number in 0..files {
        let temporary = directory.join(format!("{number}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(&[b'x'; REPORT_BYTES])?;
        fs::rename(&temporary, directory.join(number.to_string()))?;
    }
    Ok(Cost::of_this_process()?.cpu().saturating_sub(before))
}

fn rows(setting: &Setting, setup: &Setup, seconds: f64, costs: &Costs) -> Vec<Row> {
    let at = format!(
        "{} nodes, pool {}, {POD_SECONDS} s",
        setting.nodes, setting.pool
    );
    let ideal = setup.ideal_makespan_seconds();
    let original = setting.original_cost;
    let anchor = |figure: Option<String>| {
        figure.map_or_else(String::new, |figure| {
            format!("the Go controller {figure}; ")
        })
    };
    let user = costs.controller.user.as_secs_f64();
    let system = costs.controller.system.as_secs_f64();
    let plainly = costs.plainly.as_secs_f64();
    vec![
        Row {
            what: format!("makespan, {at}"),
            measured: seconds / ideal,
            unit: "× ideal",
            beside: format!(
                "{}ideal {ideal:.0} s",
                anchor(Some(setting.original_ratio.to_string()))
            ),
            target: Some(Target::AtMost(setting.target_ratio)),
        },
        Row {
            what: format!("controller's CPU, {at}"),
            measured: user + system,
            unit: "s",
            beside: format!(
                "{}own code {user:.2}, kernel {system:.2}; writing {} such files plainly {plainly:.2}",
                anchor(original.map(|(cpu, _)| format!("{cpu} s"))),
                costs.files
            ),
            target: original.map(|(cpu, _)| Target::AtMost(cpu * SHARE_OF_ORIGINAL)),
        },
        Row {
            what: format!("controller's peak memory, {at}"),
            measured: megabytes(costs.controller.peak_memory_bytes),
            unit: "MB",
            beside: anchor(original.map(|(_, memory)| format!("{memory} MB")))
                .trim_end_matches("; ")
                .to_owned(),
            target: original.map(|(_, memory)| Target::AtMost(memory * SHARE_OF_ORIGINAL)),
        },
    ]
}
