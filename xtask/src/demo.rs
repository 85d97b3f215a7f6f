//! `cargo xtask demo`: one execution on a simulated cluster, from the ConfigMap to reports and metrics, to look at.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cargo::{BinaryOptions, Profile};
use crate::execution::{self, Progress};
use crate::exposition::Scrape;
use crate::interrupt::{Interrupt, Interrupted};
use crate::sample;
use crate::stack::{PortOptions, Ports, Setup, Stack};

/// Without a terminal a line is printed each time this share of the nodes has ended.
const LINES_FOR_ALL_NODES: u64 = 10;

/// Run the controller on a simulated cluster and look at what it does
///
/// Starts the release controller and a simulated cluster that speaks the Kubernetes API as two processes on 127.0.0.1,
/// applies a sample ConfigMap, runs its job on every node, shows the progress, sums up, and stays up for you to look
/// around until Ctrl-C. Nothing but cargo is needed, and nothing is left behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Nodes of the simulated cluster
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Job pods at a time (podPoolSize)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pool: u32,
    /// Seconds from a job pod's creation to its end
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = parse_pod_seconds)]
    pod_seconds: f64,
    /// Share of job pods that fail, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    failure_share: f64,
    /// Seed of everything that the simulated cluster draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit after the summary: with 0 if every node ended and its results, metrics and events are there, with 1 if not
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    binaries: BinaryOptions,
    #[command(flatten)]
    ports: PortOptions,
}

fn parse_pod_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if seconds > 0.0 && seconds.is_finite() {
        Ok(seconds)
    } else {
        Err("not a positive number".to_owned())
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("not between 0 and 1".to_owned())
    }
}

/// Shows one execution.
///
/// # Errors
/// If something does not start or stops, or with `--once` if anything is missing at the end.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let ports = Ports::choose(&arguments.ports)?;
    let setup = Setup {
        nodes: arguments.nodes,
        pool: arguments.pool,
        pod_seconds: arguments.pod_seconds,
        failure_share: arguments.failure_share,
        seed: arguments.seed,
        run_on_startup: true,
        dev_mode: false,
        runs_pods: true,
        config: Vec::new(),
    };
    let binaries = arguments.binaries.binaries(Profile::Release, &interrupt)?;
    say(&format!(
        "Starting a simulated cluster of {} nodes and the controller …",
        setup.nodes
    ))?;
    let mut stack = Stack::start(&binaries, &setup, ports, &interrupt)?;
    let scrape = follow(&mut stack, &setup, &interrupt)?;
    let outcome = Outcome::gather(&stack, &setup, &scrape)?;
    say(&outcome.summary(&setup))?;
    if arguments.once {
        let missing = outcome.missing(&setup);
        ensure!(
            missing.is_empty(),
            "the execution is not complete: {}{}",
            missing.join("; "),
            stack.controller_log()
        );
        return say("Everything is there.");
    }
    say(&places(&stack))?;
    stay_up(&mut stack, &interrupt)
}

/// A line on stdout. A reader that has gone is an error, so that everything is stopped.
fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn follow(stack: &mut Stack, setup: &Setup, interrupt: &Interrupt) -> Result<Scrape> {
    let bar = progress_bar(u64::from(setup.nodes));
    let is_terminal = stderr().is_terminal();
    let mut printed = 0;
    let scrape = execution::follow(
        stack,
        execution::LOOK_EVERY,
        interrupt,
        |progress: &Progress| {
            bar.set_position(progress.ended());
            bar.set_message(progress.by_state());
            let tenths = progress.ended() * LINES_FOR_ALL_NODES / u64::from(setup.nodes);
            if !is_terminal && tenths > printed {
                printed = tenths;
                say(&format!(
                    "{} of {} nodes ended: {}",
                    progress.ended(),
                    setup.nodes,
                    progress.by_state()
                ))?;
            }
            Ok(())
        },
    );
    bar.finish_and_clear();
    scrape
}

/// Draws on stderr, and only where that is a terminal.
fn progress_bar(nodes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} nodes  {msg}  {elapsed}");
    let bar = ProgressBar::new(nodes);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What an execution left behind, each from where a user would look.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    execution: String,
    progress: Progress,
    makespan_seconds: f64,
    /// Nodes whose `<node>.json` is on disk.
    results: BTreeSet<String>,
    /// All files of the execution.
    files: usize,
    /// For each configured gauge the nodes that have a sample.
    gauges: Vec<(&'static str, BTreeSet<String>)>,
    /// Kubernetes events about job pods of the execution.
    events: usize,
    /// Lines of the scrape that carry a value.
    samples: usize,
}

impl Outcome {
    fn gather(stack: &Stack, setup: &Setup, scrape: &Scrape) -> Result<Self> {
        let execution = stack.newest_execution()?;
        let folder = stack.reports().join(&execution);
        let files = file_names(&folder)?;
        let is_node = |name: &&str| (1..=setup.nodes).any(|node| *name == format!("node-{node}"));
        let results = files
            .iter()
            .filter_map(|file| file.strip_suffix(".json"))
            .filter(is_node);
        let gauges = sample::gauges()
            .into_iter()
            .map(|gauge| (gauge, nodes_with_gauge(scrape, gauge, &execution)));
        let events = stack.api(&format!("/api/v1/namespaces/{}/events", sample::NAMESPACE))?;
        let events = events["items"]
            .as_array()
            .context("the API server lists no events")?;
        let about_job_pods = |event: &&serde_json::Value| {
            let about = &event["involvedObject"];
            about["kind"] == "Pod"
                && about["name"]
                    .as_str()
                    .is_some_and(|name| name.contains(&execution))
        };
        Ok(Self {
            progress: Progress::of(scrape),
            makespan_seconds: execution::makespan_seconds(scrape),
            results: results.map(str::to_owned).collect(),
            files: files.len(),
            gauges: gauges.collect(),
            events: events.iter().filter(about_job_pods).count(),
            samples: scrape.len(),
            execution,
        })
    }

    /// One phrase for each thing that should be there and is not.
    fn missing(&self, setup: &Setup) -> Vec<String> {
        let nodes = u64::from(setup.nodes);
        let mut missing = Vec::new();
        if self.progress.ended() != nodes {
            missing.push(format!("{} of {nodes} nodes ended", self.progress.ended()));
        }
        let succeeded = self.progress.count("succeeded");
        let must_succeed = if setup.failure_share > 0.0 {
            succeeded
        } else {
            nodes
        };
        if succeeded < must_succeed {
            missing.push(format!("{succeeded} of {nodes} nodes succeeded"));
        }
        if (self.results.len() as u64) < must_succeed {
            missing.push(format!(
                "{} of {must_succeed} results are on disk",
                self.results.len()
            ));
        }
        for (gauge, nodes) in &self.gauges {
            let without: Vec<&str> = self.results.difference(nodes).map(String::as_str).collect();
            if !without.is_empty() {
                missing.push(format!(
                    "gauge {gauge} has no sample of {}",
                    without.join(", ")
                ));
            }
        }
        if self.events == 0 {
            missing.push("no event about a job pod is in the API server".to_owned());
        }
        missing
    }

    fn summary(&self, setup: &Setup) -> String {
        let ideal = setup.ideal_makespan_seconds();
        let mut lines = vec![
            String::new(),
            format!("Execution {}", self.execution),
            format!("  nodes      {}", self.progress.by_state()),
            format!(
                "  makespan   {:.2} s, {:.3} of the ideal {ideal:.2} s ({} nodes, {} at a time, {} s each)",
                self.makespan_seconds,
                self.makespan_seconds / ideal,
                setup.nodes,
                setup.pool,
                setup.pod_seconds,
            ),
            format!(
                "  results    {} nodes, {} files on disk",
                self.results.len(),
                self.files
            ),
        ];
        for (gauge, nodes) in &self.gauges {
            lines.push(format!(
                "  metric     {}_{gauge}: {} nodes",
                sample::METRICS_PREFIX,
                nodes.len()
            ));
        }
        lines.push(format!("  metrics    {} samples in all", self.samples));
        lines.push(format!(
            "  events     {} about job pods, in the API server",
            self.events
        ));
        lines.join("\n")
    }
}

/// Sorted.
fn file_names(folder: &std::path::Path) -> Result<BTreeSet<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn nodes_with_gauge(scrape: &Scrape, gauge: &str, execution: &str) -> BTreeSet<String> {
    scrape
        .of(&format!("{}_{gauge}", sample::METRICS_PREFIX))
        .filter(|sample| {
            sample
                .labels
                .get("executionID")
                .is_some_and(|id| id == execution)
        })
        .filter_map(|sample| sample.labels.get("node").cloned())
        .collect()
}

fn places(stack: &Stack) -> String {
    let Ports {
        api,
        callback,
        reports,
        metrics,
        probes,
    } = stack.ports();
    let kubeconfig = stack.kubeconfig();
    let log = stack.directory().join("controller.log");
    format!(
        "\nLook around:\n  \
         reports    http://127.0.0.1:{reports}/\n  \
         metrics    http://127.0.0.1:{metrics}/metrics\n  \
         callbacks  http://127.0.0.1:{callback}/report/NODE/EXECUTION/result\n  \
         health     http://127.0.0.1:{probes}/readyz\n  \
         cluster    http://127.0.0.1:{api}  KUBECONFIG={} kubectl get pods\n  \
         log        tail -f {}\n\nCtrl-C stops everything and removes it.",
        kubeconfig.display(),
        log.display(),
    )
}

fn stay_up(stack: &mut Stack, interrupt: &Interrupt) -> Result<()> {
    loop {
        stack.check_alive()?;
        match interrupt.sleep(Duration::from_millis(500)) {
            Ok(()) => {}
            Err(error) if error.is::<Interrupted>() => return say("\nStopping."),
            Err(error) => bail!(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(nodes: u32, failure_share: f64) -> Setup {
        Setup {
            nodes,
            pool: 1,
            pod_seconds: 1.0,
            failure_share,
            seed: 1,
            run_on_startup: true,
            dev_mode: false,
            runs_pods: true,
            config: Vec::new(),
        }
    }

    fn complete() -> Outcome {
        let nodes = BTreeSet::from(["node-1".to_owned(), "node-2".to_owned()]);
        Outcome {
            execution: "202601010342".to_owned(),
            progress: Progress {
                nodes: [("succeeded".to_owned(), 2)].into(),
                is_running: false,
                ended_executions: 1,
            },
            makespan_seconds: 2.5,
            results: nodes.clone(),
            files: 4,
            gauges: vec![("plain", nodes)],
            events: 1,
            samples: 9,
        }
    }

    #[test]
    fn nothing_is_missing_of_a_complete_execution() {
        assert_eq!(complete().missing(&setup(2, 0.0)), Vec::<String>::new());
    }

    #[test]
    fn each_missing_thing_is_named() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Outcome), expected: &str) {
            let mut outcome = complete();
            change(&mut outcome);
            let missing = outcome.missing(&setup(2, 0.0));
            assert!(
                missing.iter().any(|phrase| phrase.contains(expected)),
                "{missing:?} lacks {expected}"
            );
        }
        check(
            |outcome| drop(outcome.results.pop_first()),
            "1 of 2 results",
        );
        check(
            |outcome| drop(outcome.gauges[0].1.pop_first()),
            "no sample of node-1",
        );
        check(|outcome| outcome.events = 0, "no event");
        check(
            |outcome| {
                outcome.progress.nodes =
                    [("succeeded".to_owned(), 1), ("running".to_owned(), 1)].into();
            },
            "1 of 2 nodes ended",
        );
        check(
            |outcome| {
                outcome.progress.nodes =
                    [("succeeded".to_owned(), 1), ("failed".to_owned(), 1)].into();
            },
            "1 of 2 nodes succeeded",
        );
    }

    #[test]
    fn failed_nodes_may_lack_results_where_failures_are_wanted() {
        let mut outcome = complete();
        outcome.progress.nodes = [("succeeded".to_owned(), 1), ("failed".to_owned(), 1)].into();
        outcome.results.pop_first();
        assert_eq!(outcome.missing(&setup(2, 0.5)), Vec::<String>::new());
    }

    #[test]
    fn the_summary_compares_with_the_ideal() {
        let summary = complete().summary(&setup(2, 0.0));
        assert!(
            summary.contains("2.50 s, 1.250 of the ideal 2.00 s"),
            "{summary}"
        );
    }
}
