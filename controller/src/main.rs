//! The binary: `app`, with nothing added.

use std::convert::Infallible;
use std::process::ExitCode;

use controller::app;
use controller::extension::Extension;

fn main() -> ExitCode {
    app::main(|_| Ok::<_, Infallible>(Extension::new()))
}
