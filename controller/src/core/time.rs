//! What the core is told of time: it has no clock of its own.

use std::time::Duration;

use jiff::Timestamp;

/// A point on the monotonic clock: time since an origin that only this process knows. Never steps, never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// What clocks read when their process starts: a year on, so that what happened before can be told.
    pub const START: Self = Self(Duration::from_hours(366 * 24));

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

impl Now {
    /// The moment at which the wall clock read `wall`, told by what both clocks read now: for what another process
    /// noted. A time still to come, by a clock that was stepped, is now; one more than a year before the start is that.
    #[must_use]
    pub fn at(self, wall: Timestamp) -> Self {
        let ago = Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default();
        Self {
            wall,
            monotonic: Monotonic(self.monotonic.0.saturating_sub(ago)),
        }
    }
}
