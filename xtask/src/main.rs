//! The project's own commands: `cargo xtask <command>`.
//!
//! Each command is a file. They start the product as processes and link none of its crates, so that they build in
//! seconds and run whatever state the product is in.

mod bench;
mod cargo;
mod chart;
mod ci;
mod crash;
mod demo;
mod e2e;
mod execution;
mod exposition;
mod http;
mod image;
mod interrupt;
mod kubectl;
mod layers;
mod process;
mod sample;
mod seeds;
mod simulation;
mod stack;
mod tool;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use interrupt::Interrupted;

/// What shells report of a command that Ctrl-C ended: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// The project's own commands. Start with `cargo xtask demo`.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Bench(bench::Arguments),
    Chart(chart::Arguments),
    Ci(ci::Arguments),
    Crash(crash::Arguments),
    E2e(e2e::Arguments),
    Image(image::Arguments),
    Kubectl(kubectl::Arguments),
    Layers(layers::Arguments),
    Seeds(seeds::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Chart(arguments) => chart::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Crash(arguments) => crash::run(&arguments),
        Command::E2e(arguments) => e2e::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Kubectl(arguments) => kubectl::run(&arguments),
        Command::Layers(arguments) => layers::run(&arguments),
        Command::Seeds(arguments) => seeds::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            if !is_reader_gone(&error) {
                // Not `eprintln!`, which panics where stderr is closed as well.
                let _ = writeln!(std::io::stderr(), "error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether whoever read our output has closed it: they know, and there is nobody to tell.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
