//! `cargo xtask seeds`: small simulations, each twice, that must not differ; and a sweep over replicas while everything
//! breaks.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::cargo::{BinaryOptions, Profile};
use crate::interrupt::Interrupt;
use crate::simulation::Simulation;
use crate::tool;

/// Run small simulations twice each: the same seed must give the same events
///
/// Simulates a few executions for each of some seeds, twice each, with every invariant checked after each event; the
/// two runs of a seed must have the same event log. Then `simulator sweep` runs fixed seeds of replicas with faults.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds of the sweep; from 300 on each kind of fault must have happened and been noticed
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    sweep: u64,
    #[command(flatten)]
    binaries: BinaryOptions,
}

/// Runs the seeds.
///
/// # Errors
/// If a run breaks an invariant, or two runs of a seed differ.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let binaries = arguments.binaries.binaries(Profile::Release, &interrupt)?;
    for seed in (arguments.first..)
        .zip(0..arguments.count)
        .map(|(seed, _)| seed)
    {
        let simulation = Simulation {
            nodes: 100,
            pool: 10,
            pod_seconds: 60,
            executions: 3,
            seed,
        };
        let first = simulation.run(&binaries, &interrupt)?;
        let second = simulation.run(&binaries, &interrupt)?;
        ensure!(
            first.digest == second.digest,
            "two runs of seed {seed} differ: digest {} and {}",
            first.digest,
            second.digest
        );
        println!(
            "seed {seed}: {} events, digest {}",
            first.events, first.digest
        );
    }
    let mut sweep = Command::new(&binaries.simulator);
    sweep.args(["sweep", "--seeds", &arguments.sweep.to_string()]);
    tool::run(sweep, &interrupt)
}
