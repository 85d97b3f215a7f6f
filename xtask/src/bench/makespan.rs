//! How close one execution over real HTTP comes to the ideal, and what it costs the controller.

use std::time::Duration;

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Row, Target, megabytes};
use crate::cargo::Binaries;
use crate::execution;
use crate::interrupt::Interrupt;
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
        // What costs is the execution itself: the Go controller was measured without these.
        config: vec![("savePodLog", "false"), ("latestMetricsLabel", "false")],
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
    Ok(rows(
        setting,
        &setup,
        seconds,
        cost.cpu.as_secs_f64(),
        megabytes(cost.peak_memory_bytes),
    ))
}

fn rows(
    setting: &Setting,
    setup: &Setup,
    seconds: f64,
    cpu_seconds: f64,
    memory_megabytes: f64,
) -> Vec<Row> {
    let at = format!(
        "{} nodes, pool {}, {POD_SECONDS} s",
        setting.nodes, setting.pool
    );
    let ideal = setup.ideal_makespan_seconds();
    let ratio = Row {
        what: format!("makespan, {at}"),
        measured: seconds / ideal,
        unit: "× ideal",
        beside: format!(
            "ideal {ideal:.0} s; the Go controller {}",
            setting.original_ratio
        ),
        target: Some(Target::AtMost(setting.target_ratio)),
    };
    let cost_row = |what: &str, measured: f64, unit: &'static str, original: Option<f64>| Row {
        what: format!("{what}, {at}"),
        measured,
        unit,
        beside: original.map_or_else(
            || "not measured".to_owned(),
            |value| format!("the Go controller {value} {unit}"),
        ),
        target: original.map(|value| Target::AtMost(value * SHARE_OF_ORIGINAL)),
    };
    vec![
        ratio,
        cost_row(
            "controller's CPU",
            cpu_seconds,
            "s",
            setting.original_cost.map(|(cpu, _)| cpu),
        ),
        cost_row(
            "controller's peak memory",
            memory_megabytes,
            "MB",
            setting.original_cost.map(|(_, memory)| memory),
        ),
    ]
}
