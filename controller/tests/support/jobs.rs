//! The example jobs, `examples/jobs`, with what this machine can run them with.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::lines::Lines;

/// A script and what runs it.
#[derive(Debug)]
pub struct Job {
    pub title: &'static str,
    interpreter: &'static [&'static str],
    script: &'static str,
    /// Where its commands are.
    path: OsString,
    /// Whether its tool shows the header `Retry-After` of a refusal.
    pub sees_retry_after: bool,
    /// Whether its tool shows the answer of a refusal.
    pub sees_reasons: bool,
}

impl Job {
    pub fn start(&self, variables: &[(String, String)]) -> (Child, Lines) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../controller/examples/jobs")
            .join(self.script);
        let mut child = Command::new(find(self.interpreter[0], &self.path).unwrap())
            .args(&self.interpreter[1..])
            .arg(script)
            .env_clear()
            .env("PATH", &self.path)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(child.stderr.take().unwrap());
        (child, lines)
    }

    /// Runs it to its end: whether it says that all is well, and its messages.
    pub fn run(&self, variables: &[(String, String)]) -> (bool, Vec<String>) {
        let (mut child, lines) = self.start(variables);
        let messages = std::iter::from_fn(|| lines.next()).collect();
        (child.wait().unwrap().success(), messages)
    }
}

/// Where a command is found in a list of directories.
fn find(command: &str, path: &OsString) -> Option<std::path::PathBuf> {
    let mut candidates = std::env::split_paths(path).map(|directory| directory.join(command));
    candidates.find(|candidate| candidate.is_file())
}

/// What this machine can run of them; the directory is that of `busybox` and has to outlive them.
#[allow(
    clippy::disallowed_methods,
    reason = "what is installed is looked for as a shell does it"
)]
pub fn jobs() -> (Vec<Job>, TempDir) {
    let path = std::env::var_os("PATH").unwrap();
    let busybox_directory = TempDir::new().unwrap();
    let mut jobs = Vec::new();
    let mut add = |missing: Option<&str>, job: Job| match missing {
        None => jobs.push(job),
        Some(missing) => eprintln!("skipped {}: there is no {missing}", job.title),
    };
    let absent = |commands: &[&'static str]| {
        let mut commands = commands.iter().copied();
        commands.find(|command| find(command, &path).is_none())
    };
    add(
        absent(&["bash", "curl"]),
        Job {
            title: "job.bash",
            interpreter: &["bash"],
            script: "job.bash",
            path: path.clone(),
            sees_retry_after: true,
            sees_reasons: true,
        },
    );
    let is_gnu = || {
        let version = Command::new("wget").arg("--version").output().unwrap();
        String::from_utf8_lossy(&version.stdout).contains("GNU Wget")
    };
    add(
        absent(&["wget"]).or_else(|| (!is_gnu()).then_some("GNU wget")),
        Job {
            title: "job.sh with GNU wget",
            interpreter: &["sh"],
            script: "job.sh",
            path: path.clone(),
            sees_retry_after: true,
            sees_reasons: false,
        },
    );
    if let Some(busybox) = find("busybox", &path) {
        let install = |name| {
            std::os::unix::fs::symlink(&busybox, busybox_directory.path().join(name)).unwrap();
        };
        let applets = Command::new(&busybox)
            .arg("--list")
            .output()
            .unwrap()
            .stdout;
        String::from_utf8(applets)
            .unwrap()
            .lines()
            .for_each(install);
    }
    add(
        absent(&["busybox"]),
        Job {
            title: "job.sh with BusyBox",
            interpreter: &["sh"],
            script: "job.sh",
            path: busybox_directory.path().into(),
            sees_retry_after: false,
            sees_reasons: false,
        },
    );
    add(
        absent(&["python3"]),
        Job {
            title: "job.py",
            interpreter: &["python3"],
            script: "job.py",
            path: path.clone(),
            sees_retry_after: true,
            sees_reasons: true,
        },
    );
    (jobs, busybox_directory)
}
