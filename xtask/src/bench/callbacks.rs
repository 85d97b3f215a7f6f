//! The callback API beside its ceiling, a bare handler that does only the kernel's part, in turns and in the same
//! directory: results that are new, results that replace others, and a million of them.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;

use super::callee::{Called, Ceiling};
use super::load::{Answered, CONNECTIONS, Load};
use super::{Row, Target, megabytes, middle};
use crate::cargo::Binaries;
use crate::interrupt::Interrupt;
use crate::process::Cost;

const NODES: u32 = 5_000;

/// As large as a usual result.
const RESULT_BYTES: usize = 150;

/// In so many turns every node has its first result.
const NEW_TURNS: usize = 2;

/// How often a controller is started for those.
const ROUNDS: usize = 5;

/// So often each result of the last one is replaced, a turn for all.
const REPEATS: usize = 8;

/// Of the ceiling's, what is allowed.
const RATE_SHARE: f64 = 0.85;
const COST_FACTOR: f64 = 1.3;

/// What the Go controller was measured at.
const ORIGINAL_RATE: f64 = 5_293.0;
const ORIGINAL_CPU_MICROSECONDS: f64 = 177.0;
const ORIGINAL_P99_MILLISECONDS: f64 = 27.0;

/// Posts of which the memory is looked at: after the first of them, nothing more is needed for the next.
const WARM_POSTS: usize = 50_000;
const POSTS: usize = 1_000_000;

/// A buffer more or less.
const GROWTH_TARGET_MEGABYTES: f64 = 1.0;

/// # Errors
/// If a post is not answered well, or a process does not get ready.
pub(super) fn measure(
    durability: &'static str,
    binaries: &Binaries,
    ceiling: &Path,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let bar = ProgressBar::new((ROUNDS * NEW_TURNS + REPEATS) as u64)
        .with_message(format!("results, reportDurability {durability}"));
    let compare =
        |(called, ceiling): &(Called, Ceiling), turns: &mut Turns, numbers: Range<usize>| {
            // Neither always finds the disk as the other left it.
            let is_even = bar.position().is_multiple_of(2);
            for is_ours in [is_even, !is_even] {
                interrupt.check()?;
                if is_ours {
                    let post = || post(called.address(), called, numbers.clone());
                    turns.ours.push(costing(|| called.cost(), post)?);
                } else {
                    let post = || post(ceiling.address(), called, numbers.clone());
                    turns.ceiling.push(costing(|| ceiling.cost(), post)?);
                }
            }
            bar.inc(1);
            anyhow::Ok(())
        };
    // All of the new ones first, and none of their folders is removed meanwhile: for minutes after a file is gone, ext4
    // looks at each inode that was its before it makes another.
    let mut new = Turns::default();
    let mut started = Vec::new();
    for _ in 0..ROUNDS {
        let config = [("reportDurability", durability)];
        let called = Called::start(binaries, NODES, &config, interrupt)?;
        let ceiling = Ceiling::start(
            ceiling,
            &called.reports()?,
            durability == "fsync",
            interrupt,
        )?;
        let both = (called, ceiling);
        let nodes = both.0.result_paths.len();
        for turn in 0..NEW_TURNS {
            let of_turn = nodes / NEW_TURNS;
            compare(&both, &mut new, turn * of_turn..(turn + 1) * of_turn)?;
        }
        started.push(both);
    }
    let mut repeated = Turns::default();
    let last = started.last().context("none was started")?;
    let nodes = last.0.result_paths.len();
    for turn in 1..=REPEATS {
        compare(last, &mut repeated, turn * nodes..(turn + 1) * nodes)?;
    }
    let stored = fs::read_dir(last.0.reports()?)?.count();
    ensure!(
        stored >= 2 * nodes,
        "{stored} of {} results are in the directory",
        2 * nodes
    );
    bar.finish_and_clear();
    let mut rows = new.rows(&format!("new results, {durability}"));
    rows.extend(repeated.rows(&format!("repeated results, {durability}")));
    Ok(rows)
}

/// # Errors
/// As [`measure`].
pub(super) fn measure_memory(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let bar = ProgressBar::new(POSTS as u64).with_message("a million results");
    let called = Called::start(binaries, NODES, &[("reportDurability", "none")], interrupt)?;
    post(called.address(), &called, 0..WARM_POSTS)?;
    let before = called.cost()?.peak_memory_bytes;
    let mut done = 0;
    while done < POSTS {
        interrupt.check()?;
        post(called.address(), &called, done..done + WARM_POSTS)?;
        done += WARM_POSTS;
        bar.set_position(done as u64);
    }
    let after = called.cost()?.peak_memory_bytes;
    bar.finish_and_clear();
    Ok(vec![Row {
        what: format!("growth of the controller's memory over {POSTS} results"),
        measured: megabytes(after - before),
        unit: "MB",
        beside: format!(
            "of {:.1} MB after {WARM_POSTS}; that of the Go controller grows with every post",
            megabytes(before)
        ),
        target: Some(Target::AtMost(GROWTH_TARGET_MEGABYTES)),
    }])
}

/// Posts the results of these numbers.
pub(super) fn post(server: SocketAddr, called: &Called, numbers: Range<usize>) -> Result<Answered> {
    let load = Load {
        server,
        paths: &called.result_paths,
        body: &write_result,
    };
    load.post(numbers)
}

/// A result of [`RESULT_BYTES`] that no other number has.
pub(super) fn write_result(number: usize, body: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = write!(
        body,
        r#"{{"disk_used_ratio":[{{"value":0.{number:09},"labels":{{"mount":"/"}}}}],"clock_offset_seconds":[{{"value":0.{number:09},"labels":{{}}}}]"#
    );
    body.resize(RESULT_BYTES - 1, b' ');
    body.push(b'}');
}

/// One turn of one of the two.
#[derive(Debug, Clone, Copy)]
struct Turn {
    answered: Answered,
    user: Duration,
    system: Duration,
}

fn costing(
    cost: impl Fn() -> Result<Cost>,
    post: impl FnOnce() -> Result<Answered>,
) -> Result<Turn> {
    let before = cost()?;
    let answered = post()?;
    let after = cost()?;
    Ok(Turn {
        answered,
        user: after.user.saturating_sub(before.user),
        system: after.system.saturating_sub(before.system),
    })
}

#[derive(Debug, Default)]
struct Turns {
    ours: Vec<Turn>,
    ceiling: Vec<Turn>,
}

impl Turns {
    fn rows(&self, what: &str) -> Vec<Row> {
        let rate = |turn: &Turn| turn.answered.rate();
        let user = |turn: &Turn| per_post(turn.user, &turn.answered);
        let cpu = |turn: &Turn| per_post(turn.user + turn.system, &turn.answered);
        let client = |turn: &Turn| per_post(turn.answered.client, &turn.answered);
        let p99 = |turn: &Turn| turn.answered.p99.as_secs_f64() * 1e3;
        let both = |figure: &dyn Fn(&Turn) -> f64| {
            let of = |turns: &[Turn]| middle(turns.iter().map(figure).collect());
            (of(&self.ours), of(&self.ceiling))
        };
        let ((our_rate, its_rate), (our_cpu, its_cpu)) = (both(&rate), both(&cpu));
        let ((our_user, its_user), (our_client, _)) = (both(&user), both(&client));
        let (our_p99, its_p99) = both(&p99);
        vec![
            Row {
                what: format!("{what}, {CONNECTIONS} connections"),
                measured: our_rate,
                unit: "per s",
                beside: format!(
                    "a bare handler {its_rate:.0}; the Go controller {ORIGINAL_RATE:.0}"
                ),
                target: Some(Target::AtLeast(its_rate * RATE_SHARE)),
            },
            Row {
                what: format!("CPU of each, {what}"),
                measured: our_cpu,
                unit: "µs",
                beside: format!(
                    "own code {our_user:.0} µs; a bare handler {its_cpu:.0}, own code {its_user:.0}; the Go controller {ORIGINAL_CPU_MICROSECONDS:.0}; the client {our_client:.0}"
                ),
                target: Some(Target::AtMost(its_cpu * COST_FACTOR)),
            },
            Row {
                what: format!("99 of 100 are answered within, {what}"),
                measured: our_p99,
                unit: "ms",
                beside: format!(
                    "a bare handler {its_p99:.1} ms; the Go controller {ORIGINAL_P99_MILLISECONDS:.0}"
                ),
                target: Some(Target::AtMost(its_p99 * COST_FACTOR)),
            },
        ]
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_post(time: Duration, answered: &Answered) -> f64 {
    time.as_secs_f64() * 1e6 / answered.posts as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_documents_of_one_length_that_differ() {
        let result = |number| {
            let mut body = Vec::new();
            write_result(number, &mut body);
            body
        };
        for number in [0, 1, POSTS] {
            let body = result(number);
            assert_eq!(body.len(), RESULT_BYTES);
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
            assert_ne!(body, result(number + 1));
        }
    }
}
