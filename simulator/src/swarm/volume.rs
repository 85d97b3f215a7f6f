//! A report volume that fills up, breaks, stalls and loses its power.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller::ports::report_store::{ReportStoreError, ReportStoreErrorKind};
use tokio::time::{Instant, sleep, sleep_until};

use super::disturbance::{Disturbances, Sign};
use crate::report_store::MemoryReportStore;
use crate::rng::Stream;

/// What is done to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Needs no space.
    Remove,
}

/// A volume. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    number: u64,
    store: MemoryReportStore,
    state: Arc<Mutex<State>>,
    /// What each access takes.
    latency: Duration,
    disturbances: Disturbances,
}

#[derive(Debug)]
struct State {
    full_until: Instant,
    broken_until: Instant,
    stalled_until: Instant,
    stream: Stream,
}

impl Volume {
    pub(super) fn new(
        number: u64,
        store: MemoryReportStore,
        latency: Duration,
        stream: Stream,
        disturbances: Disturbances,
    ) -> Self {
        let now = Instant::now();
        let state = State {
            full_until: now,
            broken_until: now,
            stalled_until: now,
            stream,
        };
        Self {
            number,
            store,
            state: Arc::new(Mutex::new(state)),
            latency,
            disturbances,
        }
    }

    /// Which of the volumes it is.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn store(&self) -> &MemoryReportStore {
        &self.store
    }

    pub(super) fn fill_up(&self, until: Instant) {
        self.state().full_until = until;
    }

    pub(super) fn break_down(&self, until: Instant) {
        self.state().broken_until = until;
    }

    pub(super) fn stall(&self, until: Instant) {
        self.state().stalled_until = until;
    }

    pub(super) fn heal(&self) {
        let now = Instant::now();
        let mut state = self.state();
        (state.full_until, state.broken_until, state.stalled_until) = (now, now, now);
    }

    /// How much of so many bytes is there after the power was lost: anything from nothing to all.
    pub(super) fn tear(&self, length: usize) -> usize {
        let most = u64::try_from(length).unwrap_or(u64::MAX);
        let part = self.state().stream.between(0, most);
        usize::try_from(part).unwrap_or(length)
    }

    /// Returns when it answers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn admit(&self, access: Access) -> Result<(), ReportStoreError> {
        let (stalled_until, now) = (self.state().stalled_until, Instant::now());
        if stalled_until > now {
            self.disturbances.show(Sign::DiskStalled, None);
            sleep_until(stalled_until).await;
        } else if !self.latency.is_zero() {
            sleep(self.latency).await;
        }
        let now = Instant::now();
        let (is_broken, is_full) = {
            let state = self.state();
            (state.broken_until > now, state.full_until > now)
        };
        if is_broken {
            self.disturbances.show(Sign::DiskBroken, None);
            return Err(ReportStoreError {
                kind: ReportStoreErrorKind::Unavailable,
                message: "input/output error (os error 5)".to_owned(),
            });
        }
        if is_full && access == Access::Write {
            self.disturbances.show(Sign::DiskFull, None);
            return Err(ReportStoreError {
                kind: ReportStoreErrorKind::NoSpace,
                message: "no space left on device (os error 28)".to_owned(),
            });
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
