//! `cargo xtask bench`: figures, each beside what it is to be compared with.
//!
//! A figure alone says little about a machine that is fast or busy. So each row names its ceiling or anchor: the ideal
//! that no scheduler beats, the same bytes written without us in the same run, or what the Go controller that this one
//! succeeds was measured at. A missed target is reported, not an error; only results that must not differ are.

mod apiserver;
mod callbacks;
mod callee;
mod load;
mod makespan;
mod scrape;
mod simulate;
mod upload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cargo::{Binaries, BinaryOptions, Profile};
use crate::interrupt::Interrupt;

/// Measure makespan, CPU, memory and speed, each beside its ceiling or anchor
///
/// Measures the release controller on simulated clusters and prints a table; a missed target is marked, not an error.
/// Takes about ten minutes. For figures worth comparing let nothing else run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure only this
    #[arg(long, value_name = "NAME")]
    only: Option<Name>,
    /// Write the figures to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    binaries: BinaryOptions,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// 200 nodes, pool 20, 2 s job pods: makespan, CPU, memory
    #[value(name = "makespan-200")]
    Makespan200,
    /// 1,000 nodes, pool 100, 2 s job pods: makespan, CPU, memory
    #[value(name = "makespan-1000")]
    Makespan1000,
    /// 5,000 nodes, 24 hourly executions in one process under virtual time
    Simulate,
    /// Results to the callback API as fast as they are taken: rate, CPU, slowest answers; accepted ones survive a kill
    #[value(name = "results-none")]
    ResultsNone,
    /// The same, where accepted ones survive a power cut
    #[value(name = "results-fsync")]
    ResultsFsync,
    /// A million results: memory; takes minutes
    Million,
    /// A scrape of 750,000 series: time, size, memory, and what callbacks notice of it
    Scrape,
    /// Reports of 1 GiB: memory and speed
    Upload,
    /// The simulated API server: writes, lists, watches, memory, start
    Apiserver,
}

impl Name {
    const ALL: [Self; 9] = [
        Self::Makespan200,
        Self::Makespan1000,
        Self::Simulate,
        Self::ResultsNone,
        Self::ResultsFsync,
        Self::Million,
        Self::Scrape,
        Self::Upload,
        Self::Apiserver,
    ];

    fn measure(
        self,
        binaries: &Binaries,
        ceiling: impl Fn() -> Result<PathBuf>,
        interrupt: &Interrupt,
    ) -> Result<Vec<Row>> {
        match self {
            Self::Makespan200 => makespan::measure(&makespan::AT_200_NODES, binaries, interrupt),
            Self::Makespan1000 => makespan::measure(&makespan::AT_1000_NODES, binaries, interrupt),
            Self::Simulate => simulate::measure(binaries, interrupt),
            Self::ResultsNone => callbacks::measure("none", binaries, &ceiling()?, interrupt),
            Self::ResultsFsync => callbacks::measure("fsync", binaries, &ceiling()?, interrupt),
            Self::Million => callbacks::measure_memory(binaries, interrupt),
            Self::Scrape => scrape::measure(binaries, interrupt),
            Self::Upload => upload::measure(binaries, &ceiling()?, interrupt),
            Self::Apiserver => apiserver::measure(binaries, interrupt),
        }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// What is measured, with its setting.
    what: String,
    measured: f64,
    unit: &'static str,
    /// The ceiling or anchor, in words and figures.
    beside: String,
    /// What we want; absent where the figure is only context.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
}

/// The bound that a figure is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtMost(bound) => self.measured <= bound,
            Target::AtLeast(bound) => self.measured >= bound,
        })
    }
}

/// Measures, prints, and writes the JSON file where one is wanted.
///
/// # Errors
/// If a measurement does not come to its end, or two runs differ that must not.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let binaries = arguments.binaries.binaries(Profile::Dist, &interrupt)?;
    let names = arguments
        .only
        .map_or_else(|| Name::ALL.to_vec(), |name| vec![name]);
    let ceiling = || (arguments.binaries).example(callee::CEILING, Profile::Dist, &interrupt);
    let mut rows = Vec::new();
    for name in names {
        rows.extend(name.measure(&binaries, ceiling, &interrupt)?);
    }
    println!("{}", table(&rows));
    let missed = rows
        .iter()
        .filter(|row| row.is_met() == Some(false))
        .count();
    println!("{} figures, {missed} targets missed", rows.len());
    if let Some(file) = &arguments.json {
        let json = serde_json::to_string_pretty(&rows)?;
        fs::write(file, json + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "measured", "beside it", "target", ""]);
    for row in rows {
        let target = match row.target {
            Some(Target::AtMost(bound)) => format!("≤ {} {}", figure(bound), row.unit),
            Some(Target::AtLeast(bound)) => format!("≥ {} {}", figure(bound), row.unit),
            None => String::new(),
        };
        let verdict = match row.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let measured = format!("{} {}", figure(row.measured), row.unit);
        table.add_row([&row.what, &measured, &row.beside, &target, verdict].map(Cell::new));
    }
    table
}

/// Three digits that tell something, whole from a hundred on with groups of thousands.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..10.0 => 3,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0
            && (whole.len() - at) % 3 == 0
            && digit.is_ascii_digit()
            && !grouped.ends_with('-')
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() {
        grouped
    } else {
        format!("{grouped}.{fraction}")
    }
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Bytes in MB, as `ps` and dashboards say it.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_tell_something() {
        let figures = [0.0, 1.0284, 22.46, 999.7, 1_234_567.0, -12_345.0].map(figure);
        assert_eq!(
            figures,
            ["0.000", "1.028", "22.5", "1,000", "1,234,567", "-12,345"]
        );
    }

    #[test]
    fn the_middle_figure_counts() {
        assert!((middle(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_target_is_met_up_to_its_bound() {
        let row = |measured, target| Row {
            what: String::new(),
            measured,
            unit: "s",
            beside: String::new(),
            target,
        };
        assert_eq!(row(1.0, Some(Target::AtMost(1.0))).is_met(), Some(true));
        assert_eq!(row(1.1, Some(Target::AtMost(1.0))).is_met(), Some(false));
        assert_eq!(row(1.1, Some(Target::AtLeast(1.0))).is_met(), Some(true));
        assert_eq!(row(0.9, Some(Target::AtLeast(1.0))).is_met(), Some(false));
        assert_eq!(row(1.0, None).is_met(), None);
    }

    #[test]
    fn the_table_says_which_target_is_missed() {
        let row = Row {
            what: "memory".to_owned(),
            measured: 40.0,
            unit: "MB",
            beside: "69 MB".to_owned(),
            target: Some(Target::AtMost(23.0)),
        };
        let text = table(&[row]).to_string();
        for part in ["memory", "40.0 MB", "69 MB", "≤ 23.0 MB", "MISSED"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}
