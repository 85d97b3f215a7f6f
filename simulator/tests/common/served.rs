//! `simulator serve` as a process, killed where a test fails.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A served cluster.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) kubeconfig: PathBuf,
}

impl Served {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = simulator(arguments).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let rest = line
            .trim_end()
            .strip_prefix("ready ")
            .unwrap_or_else(|| panic!("{line:?}"));
        let (url, kubeconfig) = rest.split_once(" kubeconfig=").unwrap();
        Self {
            url: url.to_owned(),
            kubeconfig: kubeconfig.into(),
            child,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn simulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulator"));
    command.arg("serve").args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
