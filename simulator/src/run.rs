//! `simulator run`: a cluster and the production controller in process, under virtual time, with every invariant checked.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::PodOptions;
use crate::world::{END_BOUND, Outcome, WorldOptions, simulate};

/// Runs the controller on a simulated cluster in this process, hours in seconds, and says how it went
///
/// The controller is the one that ships; time is virtual. After every event the invariants are checked: the pool's bound,
/// one pod a node, one execution at a time, reports stored before they are acknowledged. The same options give the same
/// run, event by event: compare the digests.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// How many nodes there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,

    /// How many job pods run at once; a tenth of the nodes where none is given
    #[arg(long, value_name = "P")]
    pool: Option<NonZeroU32>,

    /// How many executions to run, one an hour
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    executions: u32,

    #[command(flatten)]
    pods: PodOptions,
}

impl RunOptions {
    fn pool(&self) -> NonZeroU32 {
        let tenth = NonZeroU32::new(self.nodes.div_ceil(10)).unwrap_or(NonZeroU32::MIN);
        self.pool.unwrap_or(tenth)
    }
}

impl fmt::Display for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, pool, executions) = (self.nodes, self.pool(), self.executions);
        let pods = &self.pods;
        write!(
            f,
            "simulator run --nodes {nodes} --pool {pool} --executions {executions} {pods}"
        )
    }
}

/// Runs it and prints a table.
///
/// # Errors
/// The first invariant that was broken, with what led to it.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    eprintln!("{options}");
    let ideal = ideal(options);
    anyhow::ensure!(
        ideal < END_BOUND,
        "an execution would take {} s at least, and one begins each hour: choose a larger --pool or less --pod-seconds",
        ideal.as_secs()
    );
    let world = WorldOptions {
        nodes: options.nodes,
        pool: options.pool(),
        executions: options.executions,
        lifecycle: options.pods.lifecycle(),
        seed: options.pods.seed,
    };
    let bar = progress_bar(u64::from(options.nodes) * u64::from(options.executions));
    #[allow(
        clippy::disallowed_methods,
        reason = "the wall clock is what is measured"
    )]
    let begun = Instant::now();
    let outcome = simulate(&world, |progress| bar.set_position(progress.ended));
    let wall = begun.elapsed();
    bar.finish_and_clear();
    match outcome {
        Ok(outcome) => {
            println!("{}", table(options, &outcome, wall));
            Ok(())
        }
        Err(failure) => anyhow::bail!("{failure}repeat it with: {options}"),
    }
}

/// Silent where stderr is no terminal.
fn progress_bar(pods: u64) -> ProgressBar {
    let template = "{elapsed_precise} {wide_bar} {pos}/{len} pods, {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(pods).with_style(style)
}

/// The least time in which the pool can run the nodes' pods.
fn ideal(options: &RunOptions) -> Duration {
    options.pods.pod_seconds.0 * options.nodes.div_ceil(options.pool().get())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "figures for people, of three digits"
)]
fn table(options: &RunOptions, outcome: &Outcome, wall: Duration) -> String {
    let ideal = ideal(options).as_secs_f64();
    let makespans: Vec<f64> = outcome
        .executions
        .iter()
        .map(|execution| execution.makespan.as_secs_f64())
        .collect();
    let longest = makespans.iter().copied().fold(0.0, f64::max);
    let mean = makespans.iter().sum::<f64>() / makespans.len().max(1) as f64;
    let sum = |part: fn(&crate::world::ExecutionOutcome) -> usize| {
        outcome.executions.iter().map(part).sum::<usize>()
    };
    let (succeeded, failed) = (
        sum(|execution| execution.succeeded),
        sum(|execution| execution.failed),
    );
    let wall_s = wall.as_secs_f64().max(1e-9);
    let virtual_s = outcome.virtual_time.as_secs_f64();
    let rows = [
        ("executions", outcome.executions.len().to_string()),
        ("pods", format!("{succeeded} succeeded, {failed} failed")),
        ("virtual time", format!("{virtual_s:.1} s")),
        ("wall time", format!("{wall_s:.2} s")),
        (
            "virtual seconds per wall second",
            format!("{:.0}", virtual_s / wall_s),
        ),
        ("events", outcome.events.to_string()),
        (
            "events per wall second",
            format!("{:.0}", outcome.events as f64 / wall_s),
        ),
        ("makespan, ideal", format!("{ideal:.3} s")),
        (
            "makespan, mean",
            format!("{mean:.3} s ({:.4} of the ideal)", mean / ideal),
        ),
        (
            "makespan, longest",
            format!("{longest:.3} s ({:.4} of the ideal)", longest / ideal),
        ),
        ("digest", outcome.digest.clone()),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.map(|(name, value)| format!("{name:width$}  {value}"));
    lines.join("\n")
}
