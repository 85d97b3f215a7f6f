//! `cargo xtask ci`: the steps that must pass before a change lands, as data. `.ci/run` installs what they need and
//! runs them; nothing else decides what is checked.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// One step: a cargo command that anyone can repeat.
#[derive(Debug)]
struct Step {
    name: &'static str,
    /// What it is for, as the list shows it.
    purpose: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// Arguments of cargo.
    arguments: &'static [&'static str],
}

/// Cheap ones first: most mistakes are found within seconds. Those that share compiled code stand together.
const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        purpose: "the code is formatted",
        environment: &[],
        arguments: &["fmt", "--all", "--check"],
    },
    Step {
        name: "clippy",
        purpose: "no lint warns",
        environment: &[],
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    },
    Step {
        name: "layers",
        purpose: "no layer knows what it must not know",
        environment: &[],
        arguments: &["xtask", "layers"],
    },
    Step {
        name: "doc",
        purpose: "the documentation builds, every link leads somewhere",
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        arguments: &["doc", "--no-deps", "--workspace", "--locked"],
    },
    Step {
        name: "test",
        purpose: "every test passes",
        // Those that wait for a minute of real time as well.
        environment: &[("SLOW_TESTS", "1")],
        arguments: &["test", "--workspace", "--locked"],
    },
    Step {
        name: "demo",
        purpose: "the binaries run an execution from the ConfigMap to reports, metrics and events",
        environment: &[],
        arguments: &["xtask", "demo", "--once", "--dev"],
    },
    Step {
        name: "crash",
        purpose: "a controller that is killed goes on when it is started again: nothing is lost, no node run twice",
        environment: &[],
        arguments: &["xtask", "crash", "--dev", "--kills", "4"],
    },
    Step {
        name: "replicas",
        purpose: "a leader that is killed, stopped, cut off or asked to end is followed by the other replica",
        environment: &[],
        arguments: &[
            "xtask",
            "crash",
            "--dev",
            "--replicas",
            "2",
            "--nodes",
            "60",
            "--lease-seconds",
            "6",
        ],
    },
    Step {
        name: "seeds",
        purpose: "the same seed gives the same events, and replicas come right whatever breaks",
        environment: &[],
        arguments: &["xtask", "seeds", "--dev"],
    },
    Step {
        name: "kubectl",
        purpose: "a real kubectl works on the simulated cluster",
        environment: &[],
        arguments: &["xtask", "kubectl", "--dev"],
    },
    Step {
        name: "chart",
        purpose: "the chart does what its values say, with just the rights that the controller uses",
        environment: &[],
        arguments: &["xtask", "chart", "--dev"],
    },
    Step {
        name: "e2e",
        purpose: "the chart, installed on a simulated cluster, runs an execution",
        environment: &[],
        arguments: &[
            "xtask",
            "e2e",
            "--simulated",
            "--dev",
            "--skip-without-tools",
        ],
    },
    Step {
        name: "image",
        purpose: "the image runs in a container without rights, beside a simulated cluster",
        environment: &[],
        arguments: &["xtask", "image", "--dev", "--test", "--skip-without-docker"],
    },
];

impl Step {
    fn named(name: &str) -> Result<&'static Self, String> {
        let names = || {
            STEPS
                .iter()
                .map(|step| step.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        STEPS
            .iter()
            .find(|step| step.name == name)
            .ok_or_else(|| format!("no such step; there are {}", names()))
    }

    /// What to type to repeat it.
    fn command_line(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        for (name, value) in self.environment {
            words.push(format!("{name}='{value}'"));
        }
        words.push("cargo".to_owned());
        words.extend(self.arguments.iter().map(|argument| (*argument).to_owned()));
        words.join(" ")
    }

    fn run(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut command: Command = cargo::command(&cargo::workspace_root(), self.arguments);
        command
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null());
        let status = command.status().context("cannot start cargo")?;
        let took = start.elapsed();
        if !status.success() {
            let command = self.command_line();
            bail!(
                "step {} failed with {status} after {}; repeat it with: {command}",
                self.name,
                in_words(took)
            );
        }
        Ok(took)
    }
}

/// Run the steps that must pass before a change lands
///
/// Stops at the first that does not pass and says what to type to repeat it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only these steps
    #[arg(value_parser = Step::named)]
    steps: Vec<&'static Step>,
    /// Show the steps and their commands instead
    #[arg(long)]
    list: bool,
}

/// Runs the steps.
///
/// # Errors
/// If one fails, with the command that repeats it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let steps: Vec<&Step> = if arguments.steps.is_empty() {
        STEPS.iter().collect()
    } else {
        arguments.steps.clone()
    };
    if arguments.list {
        for step in steps {
            println!(
                "{:<8} {}\n         {}",
                step.name,
                step.purpose,
                step.command_line()
            );
        }
        return Ok(());
    }
    let mut took = Vec::new();
    for step in steps {
        println!(
            "\n=== {}: {}\n    {}",
            step.name,
            step.purpose,
            step.command_line()
        );
        io::stdout().flush()?;
        took.push((step.name, step.run()?));
        if let Some((name, duration)) = took.last() {
            println!("=== {name} took {}", in_words(*duration));
        }
    }
    println!("\n=== all passed");
    for (name, duration) in &took {
        println!("{name:<8} {}", in_words(*duration));
    }
    println!(
        "{:<8} {}",
        "total",
        in_words(took.iter().map(|(_, duration)| *duration).sum())
    );
    Ok(())
}

fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_what_to_type() {
        let step = Step::named("doc").unwrap();
        assert_eq!(
            step.command_line(),
            "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace --locked"
        );
        assert!(Step::named("docs").unwrap_err().contains("clippy"));
    }

    #[test]
    fn durations_are_told_in_words() {
        assert_eq!(in_words(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(in_words(Duration::from_secs(125)), "2 min 5 s");
    }
}
