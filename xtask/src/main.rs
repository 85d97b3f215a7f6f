//! The project's own commands: `cargo xtask <command>`.
//!
//! Each command is a file. They start the product as processes and link none of its crates, so that they build in
//! seconds and run whatever state the product is in.

mod cargo;
mod layers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Check that no package and no layer knows what it must not know.
    Layers(layers::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Layers(arguments) => layers::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
