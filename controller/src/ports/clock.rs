//! The two faces of time: the wall clock, for schedules and ids, and a monotonic one, for everything that waits.

use std::future::Future;
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

/// Where the runtime gets time from.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The wall clock, to the microsecond at least. Cheap: no system call beyond the clock's own.
    fn wall(&self) -> Timestamp;

    /// The monotonic clock, to the millisecond at least.
    fn monotonic(&self) -> Monotonic;

    /// Returns at `deadline` or up to a few milliseconds later; at once where it has passed. Cancel safe.
    fn sleep_until(&self, deadline: Monotonic) -> impl Future<Output = ()> + Send;

    /// Both clocks at once.
    fn now(&self) -> Now {
        Now {
            wall: self.wall(),
            monotonic: self.monotonic(),
        }
    }
}
