//! The two faces of time: the wall clock, for schedules and ids, and a monotonic one, for everything that waits.

use std::future::Future;

use jiff::Timestamp;

pub use crate::core::time::{Monotonic, Now};

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
