//! `batch-job-controller mock` as a process, and what it prints.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::lines::Lines;

/// A running mock; dropped, it is killed.
#[derive(Debug)]
pub struct Mock {
    child: Child,
    pub lines: Lines,
    pub introduction: Vec<String>,
}

impl Mock {
    /// Starts it and reads what it says first.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_batch-job-controller"))
            .env_clear()
            .arg("mock")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        let introduction = lines.until("CALLBACK_SERVICE_EVENT_URL");
        lines.until("");
        Self {
            child,
            lines,
            introduction,
        }
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The environment of a job pod, as it is printed.
    pub fn variables(&self) -> Vec<(String, String)> {
        let exports = (self.introduction.iter())
            .filter_map(|line| line.trim().strip_prefix("export ")?.split_once('='));
        exports
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect()
    }

    pub fn variable(&self, name: &str) -> String {
        let mut variables = self.variables().into_iter();
        variables.find(|(known, _)| known == name).unwrap().1
    }

    /// Where reports are stored, as it is printed.
    pub fn directory(&self) -> PathBuf {
        let line = self.introduction.iter();
        let mut line = line.filter_map(|line| line.strip_prefix("Reports are stored below "));
        PathBuf::from(line.next().unwrap())
    }

    /// Where the reports of the printed execution are.
    pub fn stored(&self, name: &str) -> Vec<u8> {
        let path = self.directory().join(self.variable("EXECUTION_ID"));
        let path = path.join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Ends it as Ctrl-C does; its exit status and the rest of what it printed.
    pub fn interrupt(mut self) -> (Option<i32>, Vec<String>) {
        let status = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
        let mut rest = Vec::new();
        while let Some(line) = self.lines.next() {
            rest.push(line);
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // Already gone where it was interrupted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a path.
pub fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}
