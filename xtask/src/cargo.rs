//! Cargo as a child process: asked questions, or told to build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder of the workspace's manifest, wherever the command was called from.
pub(crate) fn workspace_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that runs this command, else the one on the path.
pub(crate) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

/// What a question to cargo prints.
///
/// # Errors
/// If cargo does not start, or ends badly: then with what it said.
pub(crate) fn output(directory: &Path, arguments: &[&str]) -> Result<String> {
    let output = command(directory, arguments)
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "cargo {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs cargo with its own messages on the terminal.
///
/// # Errors
/// If cargo does not start, or ends badly.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Result<()> {
    let status = command(directory, arguments)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
