//! The figures of a run as a table for people.

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{DecimalBytes, HumanCount, HumanFloatCount};

use super::report::{DiskUsage, Metrics, Report};

/// Beyond so many ended pods a cluster's garbage collector deletes them, whoever owns them
/// (`--terminated-pod-gc-threshold` of kube-controller-manager, by default).
const POD_GC_THRESHOLD: usize = 12_500;

/// One row: what, how much, and what it stands beside.
type Row = [String; 3];

/// A table of three columns; what differs from run to run, wall time and memory, comes last.
pub(super) fn of(report: &Report) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.add_rows(time(report));
    table.add_row(["", "", ""]);
    table.add_rows(cluster(report));
    table.add_row(["", "", ""]);
    table.add_rows(controller(report));
    table.add_row(["", "", ""]);
    table.add_rows(simulation(report));
    table
}

fn row(what: &str, figure: impl Into<String>, beside: impl Into<String>) -> Row {
    [what.to_owned(), figure.into(), beside.into()]
}

fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

fn bytes(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// Milliseconds matter in a makespan of seconds, not in one of hours.
fn seconds(seconds: f64) -> String {
    let decimals = if seconds < 100.0 { 3 } else { 1 };
    let rounded: f64 = format!("{seconds:.decimals$}").parse().unwrap_or(seconds);
    format!("{} s", HumanFloatCount(rounded))
}

fn time(report: &Report) -> Vec<Row> {
    let makespan = &report.makespan;
    let ideal = makespan.ideal_seconds;
    let (shortest, longest) = (report.pod_seconds_min, report.pod_seconds_max);
    let differ = shortest < longest;
    let basis = if differ { "estimate" } else { "ideal" };
    let of_ideal = |seconds: f64| format!("{:.4} of the {basis}", seconds / ideal);
    let pods = if differ {
        format!(
            "{} pods of {shortest} to {longest} s, {} at a time, by their mean",
            count(report.nodes.into()),
            count(report.pool.into())
        )
    } else {
        format!(
            "{} rounds of {} pods, {longest} s each",
            count(report.nodes.div_ceil(report.pool).into()),
            count(report.pool.min(report.nodes).into())
        )
    };
    let executions = report.executions.len() as u64;
    let sum = |part: fn(&super::report::ExecutionFigures) -> usize| {
        count(report.executions.iter().map(part).sum::<usize>() as u64)
    };
    let ended = format!(
        "{} succeeded, {} failed",
        sum(|execution| execution.succeeded),
        sum(|execution| execution.failed)
    );
    let mut rows = vec![
        row("executions", count(executions), ""),
        row(
            "job pods",
            count(executions * u64::from(report.nodes)),
            ended,
        ),
        row(&format!("makespan, {basis}"), seconds(ideal), pods),
    ];
    if executions > 1 {
        let mean = makespan.mean_seconds;
        rows.push(row("makespan, mean", seconds(mean), of_ideal(mean)));
        let longest = makespan.longest_seconds;
        rows.push(row(
            "makespan, longest",
            seconds(longest),
            of_ideal(longest),
        ));
    } else {
        let only = makespan.longest_seconds;
        rows.push(row("makespan", seconds(only), of_ideal(only)));
    }
    rows.push(window(report));
    rows
}

fn window(report: &Report) -> Row {
    let window = &report.window;
    let used = report.makespan.longest_seconds / window.seconds;
    let pool = match window.smallest_pool {
        // Where pods differ the smallest pool is an estimate.
        Some(pool) if pool <= report.pool && used >= 1.0 => "it takes a larger pool".to_owned(),
        Some(pool) => format!("it takes a pool of {} at least", count(pool.into())),
        None => "no pool is enough, a pod takes longer".to_owned(),
    };
    let verdict = if used < 1.0 {
        format!("{:.1} % used", used * 100.0)
    } else {
        "TOO SHORT".to_owned()
    };
    row(
        "window",
        seconds(window.seconds),
        format!("{verdict}; {pool}"),
    )
}

fn cluster(report: &Report) -> Vec<Row> {
    let pods = &report.job_pods;
    let collected = if pods.stored_peak > POD_GC_THRESHOLD {
        format!(
            "ended ones included; clusters delete ended pods beyond {}",
            count(POD_GC_THRESHOLD as u64)
        )
    } else {
        "ended ones included".to_owned()
    };
    let all: u64 = report.api_requests.iter().map(|kind| kind.requests).sum();
    let mut rows = vec![
        row(
            "job pods at once, peak",
            count(pods.peak as u64),
            format!("of a pool of {}", count(report.pool.into())),
        ),
        row(
            "job pods stored, peak",
            count(pods.stored_peak as u64),
            collected,
        ),
        row("API requests", count(all), "of the controller, by verb:"),
    ];
    rows.extend(report.api_requests.iter().map(|kind| {
        let name = format!("  {} {}", kind.verb, kind.resource);
        row(&name, count(kind.requests), "")
    }));
    let events = count(report.watch_events);
    rows.push(row(
        "watch events",
        events,
        "changes of job pods that it was told",
    ));
    rows
}

fn controller(report: &Report) -> Vec<Row> {
    let all: u64 = (report.callbacks.iter())
        .map(|kind| kind.accepted + kind.refused)
        .sum();
    let kinds = report.callbacks.iter().map(|kind| {
        let refused = match kind.refused {
            0 => String::new(),
            refused => format!(" ({} more refused)", count(refused)),
        };
        format!("{} {}s{refused}", count(kind.accepted), kind.kind)
    });
    let kinds: Vec<String> = kinds.collect();
    let reports = &report.reports;
    let disk = |usage: &DiskUsage| {
        let allocated = bytes(usage.allocated_bytes);
        format!(
            "{} files, {allocated} in blocks of 4 KiB",
            count(usage.files)
        )
    };
    let mut rows = vec![
        row("callbacks", count(all), kinds.join(", ")),
        row(
            "reports of an execution",
            bytes(reports.execution.bytes),
            disk(&reports.execution),
        ),
        row(
            &format!("reports of {} executions", count(reports.history.into())),
            bytes(reports.all.bytes),
            format!("{}; reportHistory", disk(&reports.all)),
        ),
    ];
    rows.extend(metrics(&report.metrics));
    rows
}

fn metrics(metrics: &Metrics) -> [Row; 2] {
    let scrape = |size| format!("{} a scrape", bytes(size));
    [
        row(
            "metric series",
            count(metrics.series),
            format!("{}, now", scrape(metrics.scrape_bytes)),
        ),
        row(
            "metric series, in time",
            count(metrics.series_in_time),
            format!(
                "about {}; metrics.history",
                scrape(metrics.scrape_bytes_in_time)
            ),
        ),
    ]
}

/// Of the digest, enough to see whether two runs are the same.
const DIGEST_DIGITS: usize = 16;

fn simulation(report: &Report) -> [Row; 4] {
    let cost = &report.cost;
    let speed = report.virtual_seconds / cost.wall_seconds.max(1e-9);
    let memory = cost
        .memory_peak_bytes
        .map_or_else(|| "unknown".to_owned(), bytes);
    let digest = report.digest.get(..DIGEST_DIGITS).unwrap_or_default();
    [
        row("virtual time", seconds(report.virtual_seconds), ""),
        row("events", count(report.events), format!("digest {digest}")),
        row(
            "wall time",
            format!("{:.2} s", cost.wall_seconds),
            format!(
                "{} virtual seconds a second",
                HumanFloatCount(speed.round())
            ),
        ),
        row(
            "memory, peak",
            memory,
            "of this process: cluster, nodes and controller",
        ),
    ]
}
