//! The composition root: which command runs, with which adapters, and what the exit status says.

mod configuration;
mod mock;
mod render;
mod run;
mod schedule;
mod validate;

use std::process::ExitCode;

use crate::args::{Arguments, Command, Environment};

/// Why a command did not do what it was asked: one line each.
type Failure = Vec<String>;

/// Runs the command.
#[must_use]
pub fn main(arguments: Arguments, environment: &Environment) -> ExitCode {
    // One worker thread: the loop, its tasks and the requests hand each other small messages, and a second one spends a
    // fifth of the process's CPU time on waking the first. Files have one thread of their own: on one volume, further ones
    // mostly spin on the lock of the directory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(vec![format!("the runtime cannot start: {error}")])),
    };
    let command = arguments.command.unwrap_or(Command::Run);
    let result = runtime.block_on(async {
        match command {
            Command::Run => run::run(environment).await,
            Command::Validate(files) => validate::validate(&files, environment).await,
            Command::Render(arguments) => render::render(&arguments, environment).await,
            Command::Mock(arguments) => mock::mock(&arguments, environment).await,
            Command::Schedule(arguments) => schedule::schedule(&arguments, environment).await,
        }
    });
    exit(result)
}

#[allow(clippy::print_stderr, reason = "a command line's answer")]
fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            for line in lines {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
