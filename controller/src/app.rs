//! The composition root: which command runs, with which adapters, and what the exit status says.

mod by_hand;
mod configuration;
mod mock;
mod render;
mod run;
mod schedule;
mod validate;

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::args::{Arguments, Command, Environment};
use crate::config::Config;
use crate::extension::Extension;

/// Why a command did not do what it was asked: one line each.
type Failure = Vec<String>;

/// What an implementor makes of a configuration; an error is a line that names the key.
type Extend = dyn Fn(&Config) -> Result<Extension, String> + Send + Sync;

/// The whole of a binary: reads arguments and environment, and runs the command with what `extend` makes of the
/// configuration. An error of it is said as one about the configuration: it should name the key, what it found and what
/// it wants. It is asked again whenever the configuration changes: variables then are the new ones, routes and tasks
/// those of the start.
#[must_use]
pub fn main<E: Display>(
    extend: impl Fn(&Config) -> Result<Extension, E> + Send + Sync + 'static,
) -> ExitCode {
    let extend = move |config: &Config| extend(config).map_err(|error| error.to_string());
    match Arguments::try_parse() {
        Ok(arguments) => run_command(arguments, &Environment::read(), &(Arc::new(extend) as _)),
        Err(usage) => {
            // Where its own output is closed there is nobody to tell.
            let _ = usage.print();
            // 2 says something else: that an execution ended with failures.
            ExitCode::from(u8::from(usage.use_stderr()))
        }
    }
}

/// As many as syncs are worth having at a time, and some that read and list meanwhile. Few are ever there where nothing
/// is synced.
const FILE_THREADS_MAX: usize = 20;

fn run_command(arguments: Arguments, environment: &Environment, extend: &Arc<Extend>) -> ExitCode {
    // One worker thread: the loop, its tasks and the requests hand each other small messages, and a second one spends a
    // fifth of the process's CPU time on waking the first. Files are named on one thread
    // (`fs_report_store/commits.rs`): on one volume, further ones mostly spin on the lock of the directory. Where they
    // are synced, they wait on more for the disk.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(FILE_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(vec![format!("the runtime cannot start: {error}")])),
    };
    let command = arguments.command.unwrap_or(Command::Run);
    let result = runtime.block_on(async {
        match command {
            Command::Run => run::run(environment, extend).await,
            Command::Validate(files) => validate::validate(&files, environment, &**extend).await,
            Command::Render(arguments) => render::render(&arguments, environment, &**extend).await,
            Command::Mock(arguments) => mock::mock(&arguments, environment, &**extend).await,
            Command::Schedule(arguments) => schedule::schedule(&arguments, environment).await,
            Command::Trigger(arguments) => by_hand::trigger(&arguments, environment).await,
            Command::Cancel(controller) => by_hand::cancel(&controller, environment).await,
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
