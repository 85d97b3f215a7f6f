//! `cargo xtask crash`: kills the controller in the middle of executions, and looks whether anything was lost or done
//! twice.
//!
//! Every round has a cluster and an execution of its own, and is drawn from its own seed. `alone.rs` has the rounds of
//! one controller, `pair.rs` those of two replicas; `evidence.rs` is what must hold at the end of each.

mod alone;
mod cable;
mod evidence;
mod pair;
mod site;
mod watch;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use self::evidence::Evidence;
use self::site::{Plan, REPLICAS_MAX, Site};
use crate::cargo::{Binaries, BinaryOptions, Profile};
use crate::interrupt::Interrupt;

/// Job pods repeat a post for up to 60 s: whatever happened, an execution goes on after that, or never.
const GRACE: Duration = Duration::from_secs(90);

/// Kill the controller in the middle of executions
///
/// Each round runs an execution on a simulated cluster, over real HTTP, and strikes at a moment that the seed decides.
/// With one controller it is killed and started again. With two replicas the leader is in turn killed, stopped for
/// longer than its lease, cut off from the API server, and asked to end. Afterwards every node must have been run
/// exactly once, and every report that was accepted be on disk and exported.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often to strike [default: 50, with replicas 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    kills: Option<u32>,
    /// Seed of the first round; the next ones count from there
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the simulated cluster
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// How many replicas run
    #[arg(long, default_value_t = 1, value_parser = parse_replicas)]
    replicas: usize,
    /// Seconds of leaderElection.leaseDuration; the other times keep their proportion to it
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..))]
    lease_seconds: u64,
    #[command(flatten)]
    binaries: BinaryOptions,
}

fn parse_replicas(text: &str) -> Result<usize, String> {
    let replicas = text.parse().ok();
    replicas
        .filter(|replicas| (1..=REPLICAS_MAX).contains(replicas))
        .ok_or_else(|| format!("want a number from 1 to {REPLICAS_MAX}"))
}

/// What a round needs.
struct Round<'a> {
    binaries: &'a Binaries,
    interrupt: &'a Interrupt,
    arguments: &'a Arguments,
    seed: u64,
}

/// Runs all rounds.
///
/// # Errors
/// At the first round in which something does not hold, with what repeats it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let binaries = arguments.binaries.binaries(Profile::Release, &interrupt)?;
    let kills = arguments
        .kills
        .unwrap_or(if arguments.replicas == 1 { 50 } else { 4 });
    say(&format!(
        "cargo xtask crash {}",
        options(arguments, kills, arguments.seed)
    ))?;
    let mut all = Evidence::default();
    let mut struck = 0;
    let mut number = 0;
    while struck < kills {
        let round = Round {
            binaries: &binaries,
            interrupt: &interrupt,
            arguments,
            seed: arguments.seed + number,
        };
        let ended = if arguments.replicas == 1 {
            alone::run(&round, kills - struck)
        } else {
            pair::run(&round)
        };
        let (strikes, line, evidence) = ended.with_context(|| {
            format!(
                "repeat it with: cargo xtask crash {}",
                options(arguments, 1, round.seed)
            )
        })?;
        struck += strikes;
        number += 1;
        all.pods += evidence.pods;
        all.reports += evidence.reports;
        all.samples += evidence.samples;
        say(&format!("{struck:>3}/{kills} {line}"))?;
    }
    say(&format!(
        "{struck} strikes, {number} executions: {} nodes, each run once; {} accepted reports on disk, {} samples exported",
        all.pods, all.reports, all.samples
    ))
}

/// What repeats a run from `seed` on.
fn options(arguments: &Arguments, kills: u32, seed: u64) -> String {
    let Arguments {
        nodes,
        replicas,
        lease_seconds,
        ..
    } = arguments;
    format!(
        "--kills {kills} --seed {seed} --nodes {nodes} --replicas {replicas} --lease-seconds {lease_seconds}"
    )
}

/// A line on stdout, at once.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Waits for the end of the execution and checks it; where anything is wrong, the logs are left behind.
fn finish(site: &mut Site, plan: &Plan, interrupt: &Interrupt) -> Result<Evidence> {
    let ended = site.until_ended(plan.makespan() * 3 + GRACE, interrupt);
    let checked = ended.and_then(|record| evidence::check(site, plan.nodes, &record, interrupt));
    checked
        .inspect_err(|_| site.keep_directory())
        .with_context(|| {
            format!(
                "logs and reports are left in {}",
                site.directory().display()
            )
        })
}

/// Numbers from a seed (`SplitMix64`: Steele, Lea, Flood 2014).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Less than `limit`, in microseconds.
    fn duration(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_within_its_limits() {
        let draw = |seed| {
            let mut draw = Draw(seed);
            [draw.below(10), draw.below(10), draw.below(1 << 40)]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut draw = Draw(3);
        let limit = Duration::from_millis(5);
        assert!((0..100).all(|_| draw.duration(limit) < limit));
    }
}
