//! A simulated Kubernetes cluster on the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simulator::run::{self, RunOptions};
use simulator::serve::{self, ServeOptions};
use simulator::sweep::{self, ReplayOptions, SweepOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A simulated Kubernetes cluster: an API server in memory and thousands of fake nodes whose job pods report as real
/// ones do
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeOptions),
    Run(RunOptions),
    Sweep(SweepOptions),
    Replay(ReplayOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Serve(options) => serve::run(options),
        Command::Run(options) => run::run(options),
        Command::Sweep(options) => sweep::sweep(options),
        Command::Replay(options) => sweep::replay(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
