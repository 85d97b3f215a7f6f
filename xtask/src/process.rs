//! Child processes that do not outlive the command, and what they cost.
//!
//! Each is in a process group of its own, so that Ctrl-C on the terminal reaches only the command, which then stops
//! them in order: asked first, killed where that does not help.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt::Interrupt;

/// How long a process has to end after SIGTERM: its own drain takes a second or two when nothing hangs.
const GRACE: Duration = Duration::from_secs(5);

/// How often its end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many lines of a log tell why a process ended.
const LAST_LINES: usize = 20;

/// A child in its own process group; dropping it stops the group.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Where stderr goes, and stdout unless it has a file of its own; `None` where both are the terminal's.
    log: Option<PathBuf>,
}

impl Process {
    /// Starts `command` with both outputs in files of `directory`: `<name>.out` and `<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_logged(
        name: &'static str,
        mut command: Command,
        directory: &Path,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        command.stdout(File::create(directory.join(format!("{name}.out")))?);
        // One that is started again goes on where its predecessor stopped.
        let appended = OpenOptions::new().create(true).append(true).open(&log)?;
        command.stderr(appended);
        Self::start(name, command, Some(log))
    }

    /// Starts `command` with its stderr on the terminal and its stdout in `output`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_visible(
        name: &'static str,
        mut command: Command,
        output: &Path,
    ) -> Result<Self> {
        command.stdout(File::create(output)?);
        Self::start(name, command, None)
    }

    /// Starts `command` with both outputs on the terminal.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_on_terminal(name: &'static str, command: Command) -> Result<Self> {
        Self::start(name, command, None)
    }

    fn start(name: &'static str, mut command: Command, log: Option<PathBuf>) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name, child, log })
    }

    /// How it ended, where it has.
    ///
    /// # Errors
    /// If the system does not know the child.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If the system does not know the child, or when interrupted.
    pub(crate) fn wait(&mut self, interrupt: &Interrupt) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    /// # Errors
    /// If it has ended: with its status and the last lines of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has ended with {status}{}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// The end of its log, as the end of a message; empty where there is no log.
    pub(crate) fn last_lines(&self) -> String {
        let text = self
            .log
            .as_ref()
            .and_then(|log| fs::read(log).ok())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            return String::new();
        }
        format!("; its last lines:\n  {}", last.join("\n  "))
    }

    /// Asks it to end, waits, kills what is left of its group.
    pub(crate) fn stop(&mut self) {
        let group = Pid::from_child(&self.child);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(group, Signal::TERM);
            let end = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
        }
        // Its own children may outlive it; an empty group is an error that says so, and is what is wanted.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }

    /// Kills it without asking, and returns once it is gone.
    ///
    /// # Errors
    /// If the system does not know the child.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// If it has ended, or the system does not tell (only Linux does).
    pub(crate) fn cost(&self) -> Result<Cost> {
        Cost::of(&self.child.id().to_string()).with_context(|| format!("what {} costs", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a process has cost since it started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// Time of all its threads in its own code.
    pub user: Duration,
    /// Time of all its threads in the kernel: sockets, files, changes of context.
    pub system: Duration,
    /// The most memory it ever had resident.
    pub peak_memory_bytes: u64,
}

impl Cost {
    /// What this process has cost.
    ///
    /// # Errors
    /// If the system does not tell (only Linux does).
    pub(crate) fn of_this_process() -> Result<Self> {
        Self::of("self")
    }

    fn of(process: &str) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path)
                .with_context(|| format!("cannot read {path}, which only Linux has"))
        };
        Self::parse(&read("stat")?, &read("status")?).context("cannot understand /proc")
    }

    /// In its own code and in the kernel.
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold blanks; user and system time are the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let time = |field: usize| -> Option<Duration> {
            let ticks: u64 = fields.get(field)?.parse().ok()?;
            Some(Duration::from_millis(ticks * 1000 / ticks_per_second))
        };
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let peak_kib: u64 = peak.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            user: time(11)?,
            system: time(12)?,
            peak_memory_bytes: peak_kib * 1024,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_read_from_proc() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1 1 1";
        let ticks = rustix::param::clock_ticks_per_second();
        let cost = Cost::parse(stat, "Name:\tx\nVmHWM:\t    2048 kB\n").unwrap();
        assert_eq!(cost.user, Duration::from_millis(150 * 1000 / ticks));
        assert_eq!(cost.cpu(), Duration::from_millis(200 * 1000 / ticks));
        assert_eq!(cost.peak_memory_bytes, 2 << 20);
        assert_eq!(Cost::parse(stat, "no peak"), None);
    }

    #[test]
    fn a_stopped_process_leaves_no_child_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "(trap '' TERM; exec sleep 1000) & echo $! >&2; wait"]);
        let process = Process::start_logged("shell", command, directory.path()).unwrap();
        let log = directory.path().join("shell.log");
        let grandchild = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.to_owned();
            }
            thread::yield_now();
        };
        let stat = PathBuf::from(format!("/proc/{grandchild}/stat"));
        drop(process);
        // Killed at once; whoever inherits it may take a moment to collect it.
        let is_dead =
            || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z")) || !stat.exists();
        while !is_dead() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_ends_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo last words >&2; exit 7"]);
        let mut process = Process::start_logged("shell", command, directory.path()).unwrap();
        let message = loop {
            if let Err(error) = process.check_alive() {
                break error.to_string();
            }
            thread::yield_now();
        };
        assert!(
            message.contains("exit status: 7") && message.contains("last words"),
            "{message}"
        );
    }
}
