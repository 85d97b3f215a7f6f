//! `simulator run`: a cluster and the production controller in process, under virtual time, with every invariant
//! checked; then what a capacity planner wants to know of it.
//!
//! Options, progress and the end of the command. The figures are in `report`, how they look in `table`.

mod report;
mod table;

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use controller::config::PoolSize;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use self::report::{Cost, Report};
use crate::options::{FaultOption, PodOptions, parse_duration, parse_pool};
use crate::world::{Progress, Scenario, WorldOptions, simulate};

/// Where stderr is no terminal, a line says this often that it goes on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs the controller on a simulated cluster in this process, hours in seconds, and says what to expect of a real one
///
/// Answers how long an execution takes with a pool size, and what it costs: requests to the API server, reports on
/// disk, metric series. With --config and --pod-template it does so for your own configuration.
///
/// The controller is the one that ships; time is virtual. The API server answers at once and nodes do nothing but run
/// their pods, so give in --pod-seconds what a pod takes on your cluster, image pull included. After every event the
/// invariants are checked: the pool's bound, one pod a node, one execution at a time, reports stored before they are
/// acknowledged. The same options give the same run, event by event: compare the digests.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  5,000 nodes, pods of 40 s, an hour: is a pool of 100 enough, and which is?
    simulator run --nodes 5000 --pool 100 --pod-seconds 40 --window 3600
  With your own configuration, pods of 20 to 60 s, every twentieth failing, over a week of nightly executions:
    simulator run --nodes 5000 --config config.yaml --pod-template pod-template.yaml \\
      --pod-seconds 20..60 --failure-share 0.05 --executions 7")]
pub struct RunOptions {
    /// How many nodes there are; every one is eligible and carries the labels of jobNodeSelector
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,

    /// How many job pods run at once: a number, or a share of the nodes such as 10%. Instead of podPoolSize, which is a
    /// tenth of the nodes where no --config is given
    #[arg(long, value_name = "P", value_parser = parse_pool)]
    pool: Option<PoolSize>,

    /// How many executions to run, one each time that cronExpression says: hourly where no --config is given
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    executions: u32,

    /// The controller's config.yaml; one with three gauges where none is given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The controller's pod-template.yaml; a small pod where none is given. Its script is not run: every pod posts a
    /// sample of each gauge, a small file and an event
    #[arg(long, value_name = "FILE")]
    pod_template: Option<PathBuf>,

    #[command(flatten)]
    pods: PodOptions,

    /// Seconds that an execution may take, to be told how much of them it uses and which pool is enough; the time until
    /// the next one is due where none is given
    #[arg(long, value_name = "S", value_parser = parse_duration)]
    window: Option<Duration>,

    /// What breaks between the controller and the API server: a file, as in `rates: {conflict: 0.01}` and
    /// `placed: [{kind: ghost-write, nth: 3}]`, or `drawn` from the seed. What became
    /// of it is printed to stderr
    #[arg(long, value_name = "FILE|drawn")]
    faults: Option<FaultOption>,

    /// How to print the figures
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// How the figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs; a field is never taken away or given another meaning without a new schemaVersion
    Json,
}

/// The command that repeats the run.
impl fmt::Display for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulator run --nodes {}", self.nodes)?;
        if let Some(pool) = self.pool {
            write!(f, " --pool {pool}")?;
        }
        for file in self.files() {
            write!(f, " {file}")?;
        }
        write!(f, " --executions {} {}", self.executions, self.pods)?;
        if let Some(faults) = &self.faults {
            write!(f, " --faults {faults}")?;
        }
        match self.window {
            Some(window) => write!(f, " --window {}", window.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// The path as a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs it and prints its figures.
///
/// # Errors
/// What is wrong with the options or the files they name, else the first invariant that was broken, with what led to it
/// and the command that repeats it.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    eprintln!("{options}");
    let scenario = options.scenario()?;
    check_window(options, &scenario)?;
    let world = WorldOptions {
        nodes: options.nodes,
        scenario,
        executions: options.executions,
        lifecycle: options.pods.lifecycle(),
        faults: FaultOption::plan(options.faults.as_ref(), options.pods.seed)?,
        seed: options.pods.seed,
    };
    let pods = u64::from(options.nodes) * u64::from(options.executions);
    let mut display = Display::new(pods);
    let outcome = simulate(&world, |progress| display.update(progress));
    let cost = Cost::of_this_process(display.elapsed());
    display.finish();
    let outcome =
        outcome.map_err(|failure| anyhow::anyhow!("{failure}repeat it with: {options}"))?;
    let report = Report::new(options, &world.scenario, &outcome, cost);
    match options.output {
        Output::Table => println!("{}", table::of(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if !world.faults.is_none() {
        eprintln!("{}", outcome.faults);
    }
    Ok(())
}

impl RunOptions {
    /// The options that name files, as they are given.
    fn files(&self) -> Vec<String> {
        let files = [
            ("config", &self.config),
            ("pod-template", &self.pod_template),
        ];
        let given = files.into_iter().filter_map(|(name, path)| {
            let path = path.as_deref()?;
            Some(format!("--{name} {}", shell_word(path)))
        });
        given.collect()
    }

    /// The time that an execution has.
    fn window(&self, scenario: &Scenario) -> Duration {
        self.window
            .unwrap_or_else(|| scenario.window(self.executions))
    }

    /// What the controller is told; its warnings are printed.
    fn scenario(&self) -> anyhow::Result<Scenario> {
        let read = |option: &str, path: &Option<PathBuf>| {
            let text = path.as_ref().map(|path| {
                let text = std::fs::read_to_string(path);
                text.map_err(|error| anyhow::anyhow!("--{option} {}: {error}", path.display()))
            });
            text.transpose()
        };
        let config = read("config", &self.config)?;
        let template = read("pod-template", &self.pod_template)?;
        let read = Scenario::new(config.as_deref(), template.as_deref());
        let (scenario, warnings) = read.map_err(|errors| {
            let (files, errors) = (self.files().join(" "), errors.join("\n       "));
            anyhow::anyhow!("{files} cannot be used:\n       {errors}")
        })?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        Ok(match self.pool {
            Some(pool) => scenario.with_pool(pool),
            None => scenario,
        })
    }
}

/// An execution that cannot end before the next is due is no use to simulate: the next would be dropped.
fn check_window(options: &RunOptions, scenario: &Scenario) -> anyhow::Result<()> {
    let pool = scenario.pool(options.nodes);
    let ideal = options.pods.pod_seconds.ideal(options.nodes, pool);
    let window = scenario.window(options.executions - 1);
    if options.executions == 1 || ideal < window {
        return Ok(());
    }
    let larger = match smallest_pool(options, window) {
        Some(pool) => format!("choose --pool {pool} or more, "),
        None => String::new(),
    };
    anyhow::bail!(
        "an execution would take {} s at least with a pool of {pool}, and cronExpression begins one every {} s: {larger}less \
         --pod-seconds, or --executions 1",
        ideal.as_secs_f64(),
        window.as_secs_f64()
    )
}

/// The smallest pool with which an execution can end within the window, if there is one.
fn smallest_pool(options: &RunOptions, window: Duration) -> Option<NonZeroU32> {
    let fits = |pool: u32| {
        let pool = NonZeroU32::new(pool)?;
        let ideal = options.pods.pod_seconds.ideal(options.nodes, pool);
        (ideal < window).then_some(pool)
    };
    fits(options.nodes)?;
    let (mut too_small, mut enough) = (0, options.nodes);
    while enough - too_small > 1 {
        let middle = too_small + (enough - too_small) / 2;
        match fits(middle) {
            Some(_) => enough = middle,
            None => too_small = middle,
        }
    }
    NonZeroU32::new(enough)
}

/// How far it has come: a bar on a terminal, else a line now and then.
struct Display {
    begun: Instant,
    bar: ProgressBar,
    next_line: Option<Duration>,
}

impl Display {
    fn new(pods: u64) -> Self {
        let template =
            "{elapsed_precise} {wide_bar} {human_pos}/{human_len} pods, {msg}, {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        #[allow(
            clippy::disallowed_methods,
            reason = "the wall clock is what is measured"
        )]
        let begun = Instant::now();
        // Silent where stderr is no terminal.
        let bar = ProgressBar::new(pods)
            .with_style(style)
            .with_message("creating the nodes");
        bar.tick();
        Self {
            begun,
            bar,
            next_line: (!stderr().is_terminal()).then_some(LINE_EVERY),
        }
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn update(&mut self, progress: Progress) {
        let virtual_time = HumanDuration(progress.virtual_time);
        self.bar.set_position(progress.ended);
        let elapsed = self.elapsed();
        match self.next_line {
            Some(due) if elapsed >= due => {
                self.next_line = Some(elapsed + LINE_EVERY);
                let all = HumanCount(self.bar.length().unwrap_or_default());
                let (ended, wall) = (HumanCount(progress.ended), elapsed.as_secs());
                eprintln!(
                    "{wall} s: {ended} of {all} pods have ended, {virtual_time} of virtual time"
                );
            }
            Some(_) => {}
            None => self
                .bar
                .set_message(format!("{virtual_time} of virtual time")),
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
