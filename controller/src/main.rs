//! The binary: arguments, then `app`.

use std::process::ExitCode;

use clap::Parser as _;
use controller::app;
use controller::args::{Arguments, Environment};

fn main() -> ExitCode {
    app::main(Arguments::parse(), &Environment::read())
}
