//! What the core is told of time: it has no clock of its own.

use std::time::Duration;

use jiff::Timestamp;

/// A point on the monotonic clock: time since an origin that only this process knows. Never steps, never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// The point `delay` later, saturating.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }

    /// The time since `earlier`, zero where that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Both clocks read at one moment: what the core is told with each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall clock: may step either way.
    pub wall: Timestamp,
    /// Monotonic clock: for deadlines and durations.
    pub monotonic: Monotonic,
}
