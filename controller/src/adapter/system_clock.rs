//! The machine's clocks.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::ports::clock::{Clock, Monotonic};

/// The wall clock and the monotonic clock of this machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// Clocks whose monotonic face begins now.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clocks"
    )]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clocks"
    )]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::START.after(self.origin.elapsed())
    }

    async fn sleep_until(&self, deadline: Monotonic) {
        let left = deadline.since(self.monotonic());
        if left > Duration::ZERO {
            tokio::time::sleep(left).await;
        }
    }
}
