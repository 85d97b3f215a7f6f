//! `simulator sweep` and `simulator replay`: many seeds of the swarm over the cores, and one of them line by line.
//!
//! Options, progress, the table of what the faults came to, and the end of the commands. What a seed does is in
//! `swarm`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufWriter, IsTerminal as _, Write as _, stderr, stdout};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Args;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::faults::Count;
use crate::swarm::{AnyKind, Overrides, SwarmOptions, SwarmOutcome, simulate};
use crate::world::Failure;

/// One seed in so many runs twice, and both must have the same events.
const TWICE: u64 = 50;

/// With so many seeds each kind must have happened, been noticed and recovered from: the rarest happen in a few seeds
/// of a hundred.
const ENOUGH: u64 = 300;

/// Where stderr is no terminal, a line says this often that it goes on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs replicas of the controller on a cluster on which everything breaks, for many seeds, in virtual time
///
/// Each seed draws its sizes (1 to 3 replicas, 5 to 200 nodes) and which faults happen; each kind is off in half of the
/// seeds. After every event the invariants are checked. Then everything heals: what is in progress must end within a
/// computed time, and the next execution that is due must begin and end as its pods do. One seed in fifty runs twice
/// and must have the same events.
///
/// Ends with what became of each kind of fault, the emptiest first, and fails with the first seed that does; from 300
/// seeds on also where a kind never happened, was never noticed, or never recovered from.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  A thousand seeds on all cores:
    simulator sweep --seeds 1000
  The one that failed, event by event, with the logs of the replicas:
    simulator replay 4711 --logs")]
pub struct SweepOptions {
    /// How many seeds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,

    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u64,

    /// How many at once; as many as there are cores where nothing is said
    #[arg(long, value_name = "J")]
    jobs: Option<NonZeroUsize>,

    /// Run every seed twice, not one in fifty
    #[arg(long)]
    twice: bool,

    /// Go on after a seed that fails, and name all of them
    #[arg(long)]
    keep_going: bool,

    #[command(flatten)]
    overrides: Overrides,
}

/// Shows one seed of `simulator sweep` event by event, in virtual time
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// The seed
    #[arg(value_name = "SEED")]
    seed: u64,

    /// Show what the replicas log as well
    #[arg(long)]
    logs: bool,

    #[command(flatten)]
    overrides: Overrides,
}

/// What became of one seed.
struct Result {
    seed: u64,
    came_to: std::result::Result<SwarmOutcome, Failure>,
}

/// Runs the seeds and prints what became of the faults.
///
/// # Errors
/// The first seed that fails, with its options, what led to it and the command that shows it; a kind of fault that did
/// not happen.
pub fn sweep(options: &SweepOptions) -> anyhow::Result<()> {
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = options.jobs.unwrap_or_else(cores);
    eprintln!(
        "simulator sweep --seeds {} --from {} --jobs {jobs}{}",
        options.seeds, options.from, options.overrides
    );
    let next = AtomicU64::new(0);
    let has_failed = AtomicBool::new(false);
    let mut sums = Sums::default();
    let mut display = Display::new(options.seeds);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..jobs.get() {
            let (sender, next, has_failed) = (sender.clone(), &next, &has_failed);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = has_failed.load(Ordering::Relaxed) && !options.keep_going;
                    if number >= options.seeds || is_over {
                        return;
                    }
                    let seed = options.from + number;
                    let came_to = run_seed(seed, options);
                    has_failed.fetch_or(came_to.is_err(), Ordering::Relaxed);
                    if sender.send(Result { seed, came_to }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in results {
            if let Err(failure) = &result.came_to
                && options.keep_going
            {
                display.say(&format!("seed {}: {}", result.seed, failure.violation));
            }
            sums.add(result);
            display.update(&sums);
        }
    });
    display.finish();
    println!("{sums}");
    sums.check(options)
}

/// Runs a seed, or twice where it is its turn.
fn run_seed(seed: u64, options: &SweepOptions) -> std::result::Result<SwarmOutcome, Failure> {
    let swarm = SwarmOptions::drawn(seed, &options.overrides);
    let outcome = simulate(&swarm, None)?;
    if options.twice || seed.is_multiple_of(TWICE) {
        let again = simulate(&swarm, None)?;
        if again.digest != outcome.digest {
            return Err(Failure {
                violation: format!(
                    "two runs differ: {} events with digest {}, {} with {}",
                    outcome.events, outcome.digest, again.events, again.digest
                ),
                timeline: Vec::new(),
            });
        }
    }
    Ok(outcome)
}

/// Shows a seed.
///
/// # Errors
/// What is wrong with it.
pub fn replay(options: &ReplayOptions) -> anyhow::Result<()> {
    let swarm = SwarmOptions::drawn(options.seed, &options.overrides);
    if options.logs {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_timer(VirtualTime)
            .with_ansi(false)
            .with_target(false)
            .with_writer(std::io::stdout);
        subscriber.init();
    }
    let echo: Box<dyn std::io::Write + Send> = if options.logs {
        Box::new(stdout())
    } else {
        Box::new(BufWriter::new(stdout()))
    };
    match simulate(&swarm, Some(echo)) {
        Ok(outcome) => {
            println!(
                "{} events, digest {}, {} leaders, at most {} pods at once",
                outcome.events, outcome.digest, outcome.epochs, outcome.peaks.running
            );
            Ok(())
        }
        Err(failure) => bail!("seed {}: {}", options.seed, failure.violation),
    }
}

/// Time in a log, as the event log has it: from the begin of the run.
struct VirtualTime;

thread_local! {
    static BEGIN: std::cell::OnceCell<tokio::time::Instant> = const { std::cell::OnceCell::new() };
}

impl FormatTime for VirtualTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        // A run begins with its first line, which is of its first moment.
        let begin = BEGIN.with(|begin| *begin.get_or_init(tokio::time::Instant::now));
        let since = begin.elapsed();
        write!(
            writer,
            "{:>11}.{:03} log",
            since.as_secs(),
            since.subsec_millis()
        )
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Sums {
    seeds: u64,
    events: u64,
    take_overs: u64,
    virtual_time: Duration,
    counts: BTreeMap<AnyKind, Count>,
    failures: BTreeMap<u64, Failure>,
}

impl Sums {
    fn add(&mut self, result: Result) {
        self.seeds += 1;
        let outcome = match result.came_to {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.failures.insert(result.seed, failure);
                return;
            }
        };
        self.events += outcome.events;
        self.take_overs += outcome.epochs;
        self.virtual_time += outcome.virtual_time;
        for (kind, count) in outcome.counts {
            self.counts.entry(kind).or_default().add(count);
        }
    }

    fn check(&self, options: &SweepOptions) -> anyhow::Result<()> {
        if let Some((seed, failure)) = self.failures.first_key_value() {
            let drawn = SwarmOptions::drawn(*seed, &options.overrides);
            let (failed, all) = (self.failures.len(), self.seeds);
            bail!(
                "{failed} of {all} seeds fail, the first of them:\n{drawn}\n{failure}show it with: simulator replay {seed}{}",
                options.overrides
            );
        }
        let is_cut = !options.overrides.only.is_empty() || !options.overrides.without.is_empty();
        if self.seeds < ENOUGH || is_cut {
            return Ok(());
        }
        let empty = |kind: &AnyKind| self.counts.get(kind).is_none_or(|count| count.has_gap());
        let empty: Vec<&str> = AnyKind::all().filter(empty).map(AnyKind::name).collect();
        ensure!(
            empty.is_empty(),
            "kinds with nothing in a cell: {}",
            empty.join(", ")
        );
        Ok(())
    }
}

/// The emptiest kinds first.
impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<(&AnyKind, &Count)> = self.counts.iter().collect();
        rows.sort_by_key(|(kind, count)| (count.least(), **kind));
        writeln!(
            f,
            "{:<26} row {:>8} {:>8} {:>8} {:>9}",
            "fault", "enabled", "fired", "noticed", "recovered"
        )?;
        for (kind, count) in rows {
            let Count {
                enabled,
                fired,
                noticed,
                recovered,
            } = count;
            let row = kind.row();
            writeln!(
                f,
                "{kind:<26} {row:>3} {enabled:>8} {fired:>8} {noticed:>8} {recovered:>9}"
            )?;
        }
        write!(
            f,
            "{} seeds, {} failed: {} events, {} leaders, {} of virtual time",
            HumanCount(self.seeds),
            self.failures.len(),
            HumanCount(self.events),
            HumanCount(self.take_overs),
            HumanDuration(self.virtual_time)
        )
    }
}

/// How far it has come: a bar on a terminal, else a line now and then.
struct Display {
    begun: Instant,
    bar: ProgressBar,
    next_line: Option<Duration>,
}

impl Display {
    fn new(seeds: u64) -> Self {
        let template =
            "{elapsed_precise} {wide_bar} {human_pos}/{human_len} seeds, {msg}, {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        #[allow(
            clippy::disallowed_methods,
            reason = "the wall clock is what is measured"
        )]
        let begun = Instant::now();
        // Silent where stderr is no terminal.
        let bar = ProgressBar::new(seeds)
            .with_style(style)
            .with_message("none failed");
        bar.tick();
        Self {
            begun,
            bar,
            next_line: (!stderr().is_terminal()).then_some(LINE_EVERY),
        }
    }

    fn say(&self, line: &str) {
        if self.next_line.is_some() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    fn update(&mut self, sums: &Sums) {
        self.bar.set_position(sums.seeds);
        let failed = match sums.failures.len() {
            0 => "none failed".to_owned(),
            count => format!("{count} failed"),
        };
        let elapsed = self.begun.elapsed();
        match self.next_line {
            Some(due) if elapsed >= due => {
                self.next_line = Some(elapsed + LINE_EVERY);
                let all = self.bar.length().unwrap_or_default();
                eprintln!(
                    "{} s: {} of {all} seeds, {failed}",
                    elapsed.as_secs(),
                    sums.seeds
                );
            }
            Some(_) => {}
            None => self.bar.set_message(failed),
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        let _ = stdout().flush();
    }
}
