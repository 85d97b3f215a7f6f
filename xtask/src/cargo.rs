//! Cargo as a child process: asked questions, or told to build.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::process::Process;

/// The folder of the workspace's manifest, wherever the command was called from.
///
/// Cargo says at run time where the package is that it runs; what was true when this was compiled may be another copy
/// of the project that shares a target directory.
pub(crate) fn workspace_root() -> PathBuf {
    let xtask =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let xtask = PathBuf::from(xtask);
    xtask.parent().map(Path::to_owned).unwrap_or(xtask)
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

/// The names of the executables.
pub(crate) const CONTROLLER: &str = "batch-job-controller";
pub(crate) const SIMULATOR: &str = "simulator";

/// Which binaries to run.
#[derive(Debug, clap::Args)]
pub(crate) struct BinaryOptions {
    /// Run the binaries in this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,

    /// Build as the tests do: sooner there, slower at work
    #[arg(long, conflicts_with = "binaries")]
    dev: bool,
}

impl BinaryOptions {
    /// The binaries to run, built where no folder is given.
    ///
    /// # Errors
    /// If they do not build or are not there, or when interrupted.
    pub(crate) fn binaries(&self, profile: Profile, interrupt: &Interrupt) -> Result<Binaries> {
        match &self.binaries {
            Some(folder) => Binaries::within(folder),
            None if self.dev => Binaries::build(Profile::Dev, interrupt),
            None => Binaries::build(profile, interrupt),
        }
    }

    /// An example of the controller's package, built as the binaries are: from the same folder where one is given.
    ///
    /// # Errors
    /// If it does not build or is not there, or when interrupted.
    pub(crate) fn example(
        &self,
        name: &str,
        profile: Profile,
        interrupt: &Interrupt,
    ) -> Result<PathBuf> {
        if let Some(folder) = &self.binaries {
            return found(folder, name);
        }
        let profile = if self.dev { Profile::Dev } else { profile };
        let arguments = [
            "build",
            profile.argument(),
            "--package=controller",
            "--example",
            name,
        ];
        let messages = build_messages(&arguments, &[], interrupt)?;
        executable(&messages, name)
    }
}

fn found(folder: &Path, name: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    (file.is_file().then_some(file))
        .with_context(|| format!("there is no {name} in {}", folder.display()))
}

/// How the binaries are built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// As the tests build them.
    Dev,
    /// Optimised, and quick to build.
    Release,
    /// As they ship: what is measured.
    Dist,
}

impl Profile {
    fn argument(self) -> &'static str {
        match self {
            Profile::Dev => "--profile=dev",
            Profile::Release => "--profile=release",
            Profile::Dist => "--profile=dist",
        }
    }
}

/// The binaries of the product.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub controller: PathBuf,
    pub simulator: PathBuf,
}

impl Binaries {
    fn within(folder: &Path) -> Result<Self> {
        Ok(Self {
            controller: found(folder, CONTROLLER)?,
            simulator: found(folder, SIMULATOR)?,
        })
    }

    /// Builds both, with cargo's own progress on the terminal.
    ///
    /// # Errors
    /// If they do not build, or when interrupted.
    pub(crate) fn build(profile: Profile, interrupt: &Interrupt) -> Result<Self> {
        let _ = writeln!(
            std::io::stderr(),
            "Building the controller and the simulated cluster …"
        );
        let arguments = [
            "build",
            profile.argument(),
            "--package=controller",
            "--package=simulator",
            "--bins",
        ];
        let messages = build_messages(&arguments, &[], interrupt)?;
        Ok(Self {
            controller: executable(&messages, CONTROLLER)?,
            simulator: executable(&messages, SIMULATOR)?,
        })
    }
}

/// Builds one binary that needs nothing of the machine it runs on: no C library, no loader. Its symbols are stripped.
///
/// Only the binary itself is compiled and linked differently: everything below is what other builds of the same profile
/// have compiled. A target feature for all of it would build it twice, procedural macros, which cannot be static,
/// included.
///
/// # Errors
/// If it does not build, or when interrupted.
pub(crate) fn build_static(
    package: &str,
    binary: &str,
    profile: Profile,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let arguments = [
        "rustc",
        profile.argument(),
        "--package",
        package,
        "--bin",
        binary,
    ];
    // The relocations of a program that may be loaded anywhere are a bitmap instead of half a megabyte.
    let of_rustc = [
        "-Ctarget-feature=+crt-static",
        "-Cstrip=symbols",
        "-Clink-arg=-Wl,-z,pack-relative-relocs",
    ];
    let messages = build_messages(&arguments, &of_rustc, interrupt)?;
    executable(&messages, binary)
}

/// Runs a build with cargo's own progress on the terminal; returns its messages, one JSON document a line.
fn build_messages(arguments: &[&str], of_rustc: &[&str], interrupt: &Interrupt) -> Result<String> {
    let messages = tempfile::NamedTempFile::new()?;
    let mut cargo = command(&workspace_root(), arguments);
    cargo.arg("--message-format=json-render-diagnostics");
    if !of_rustc.is_empty() {
        cargo.arg("--").args(of_rustc);
    }
    let status = Process::start_visible("cargo", cargo, messages.path())?.wait(interrupt)?;
    if !status.success() {
        bail!(
            "the binaries do not build: `cargo {}` ended with {status}",
            arguments.join(" ")
        );
    }
    Ok(fs::read_to_string(messages.path())?)
}

/// Finds an executable in cargo's messages, so that no target directory is assumed.
fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no executable {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_where_cargo_says() {
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"simulator"},"executable":null}"#;
        let simulator =
            r#"{"reason":"compiler-artifact","target":{"name":"simulator"},"executable":"/t/s"}"#;
        let controller = r#"{"reason":"compiler-artifact","target":{"name":"batch-job-controller"},"executable":"/t/c"}"#;
        let messages = [library, simulator, controller].join("\n");
        assert_eq!(executable(&messages, SIMULATOR).unwrap(), Path::new("/t/s"));
        assert_eq!(
            executable(&messages, CONTROLLER).unwrap(),
            Path::new("/t/c")
        );
        assert!(executable(library, SIMULATOR).is_err());
    }
}
