//! Programs of others that these commands use, such as docker: looked for, asked, or run on the terminal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::process::Process;

/// A program, by its path or by a name on the search path.
#[derive(Debug, Clone)]
pub(crate) struct Tool(PathBuf);

impl Tool {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }

    /// Where it is; none where it is not on this machine.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        if self.0.components().count() > 1 {
            return self.0.is_file().then(|| self.0.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(&self.0))
            .find(|program| program.is_file())
    }

    /// A call of it, without a terminal to read from.
    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// What it prints.
    ///
    /// # Errors
    /// If it does not start, or ends badly: then with what it said.
    pub(crate) fn output<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.command(arguments);
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", self.0.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", line_of(&command), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Runs a command with both outputs on the terminal, after a line that says what is run.
///
/// # Errors
/// If it does not start or ends badly, or when interrupted: then it is stopped.
pub(crate) fn run(command: Command, interrupt: &Interrupt) -> Result<()> {
    let line = line_of(&command);
    eprintln!("$ {line}");
    let status = Process::start_on_terminal("program", command)?.wait(interrupt)?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// The command as one would type it, but for quotes.
fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words: Vec<_> = std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_name_or_its_path() {
        let by_name = Tool::new("sh").path().unwrap();
        assert_eq!(Tool::new(&by_name).path(), Some(by_name));
        assert_eq!(Tool::new("no-such-program-here").path(), None);
        assert_eq!(Tool::new("/no/such/program").path(), None);
    }

    #[test]
    fn a_bad_end_is_told_with_the_call_and_its_last_words() {
        let error = Tool::new("sh").output(["-c", "echo because >&2; exit 3"]);
        let message = error.unwrap_err().to_string();
        assert!(
            message.starts_with("sh -c") && message.ends_with("because"),
            "{message}"
        );
    }
}
