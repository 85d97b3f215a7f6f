//! Ctrl-C and its like, as a flag that everything that waits looks at.
//!
//! Nothing ends the process from within a signal: a command sees the flag, returns an error, and what it started is
//! stopped and removed on the way out as on any other error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};

/// How long a wait may overlook the flag: short enough that nobody notices.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The reason why a command ended early: somebody asked it to.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Whether the process was asked to end. Clones share the flag.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over SIGINT, SIGTERM, SIGQUIT and SIGHUP; to be called before anything is started that must be stopped.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in TERM_SIGNALS.iter().copied().chain([SIGHUP]) {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("cannot take over signals")?;
        }
        Ok(Self(flag))
    }

    /// One that nobody sets.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Whether the process was asked to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`Interrupted`], if the process was asked to end.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Waits for `duration`.
    ///
    /// # Errors
    /// [`Interrupted`], as soon as the process is asked to end.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_process_is_asked_to_end() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(false)));
        interrupt.sleep(Duration::from_millis(1)).unwrap();
        interrupt.0.store(true, Ordering::SeqCst);
        let error = interrupt.sleep(Duration::from_hours(1)).unwrap_err();
        assert!(error.is::<Interrupted>());
    }
}
