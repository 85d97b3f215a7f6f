//! When the next execution is due.

use jiff::Timestamp;

use crate::core::schedule::Schedule;
use crate::core::time::Monotonic;

#[derive(Debug)]
pub(super) struct ScheduleState {
    pub(super) stopped: bool,
    pub(super) next: Option<Timestamp>,
    pub(super) startup: Option<Monotonic>,
}

impl ScheduleState {
    /// The newest tick that is due, and moves on to the next one. Older ones that were missed are dropped.
    pub(super) fn take_due(&mut self, schedule: &Schedule, wall: Timestamp) -> Option<Timestamp> {
        let due = self.next.filter(|next| *next <= wall)?;
        let newest = schedule.newest_due(due, wall);
        self.next = schedule.next_after(newest);
        Some(newest)
    }
}
