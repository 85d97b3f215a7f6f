//! The clocks of a simulation, both derived from tokio's instant: virtual under paused time, real while serving.
//!
//! The monotonic clock is the time since the clock was made. The wall clock is a start time, plus that, plus an offset
//! that a script may step either way; nothing else moves.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use controller::ports::clock::{Clock, Monotonic};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A wall clock with a scripted offset over tokio's monotonic one. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct SimClock {
    origin: Instant,
    start: Timestamp,
    offset_ms: Arc<AtomicI64>,
    /// How much faster than time its monotonic face goes, in parts per million. Something disciplines the wall clock.
    fast_ppm: i32,
}

impl SimClock {
    /// A clock that reads `start` now. To be called within a tokio runtime where its time is paused.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            origin: Instant::now(),
            start,
            offset_ms: Arc::default(),
            fast_ppm: 0,
        }
    }

    /// This clock as the API server takes it.
    #[must_use]
    pub fn of_api_server(&self) -> crate::apiserver::Clock {
        let clock = self.clone();
        Arc::new(move || clock.wall())
    }

    /// Steps the wall clock by `step_ms` milliseconds, either way, for all clones; the monotonic one goes on.
    pub fn step_wall_ms(&self, step_ms: i64) {
        self.offset_ms.fetch_add(step_ms, Ordering::Relaxed);
    }

    /// Sets the wall clock by another one.
    pub fn set_by(&self, other: &Self) {
        let offset_ms = other.offset_ms.load(Ordering::Relaxed);
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// A clock of its own that agrees with this one now: what a replica on another machine has.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self {
            origin: self.origin,
            start: self.start,
            offset_ms: Arc::new(AtomicI64::new(self.offset_ms.load(Ordering::Relaxed))),
            fast_ppm: self.fast_ppm,
        }
    }

    /// The same clock, whose monotonic face goes faster by so many parts per million; slower where they are negative.
    #[must_use]
    pub fn at_rate(mut self, fast_ppm: i32) -> Self {
        self.fast_ppm = fast_ppm;
        self
    }

    /// What the monotonic face will say after that time.
    #[must_use]
    pub fn monotonic_in(&self, ahead: Duration) -> Monotonic {
        let rate = 1.0 + f64::from(self.fast_ppm) * 1e-6;
        let elapsed = self.origin.elapsed() + ahead;
        let read = if self.fast_ppm == 0 {
            elapsed
        } else {
            elapsed.mul_f64(rate)
        };
        Monotonic::START.after(read)
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Timestamp {
        let elapsed =
            SignedDuration::try_from(self.origin.elapsed()).unwrap_or(SignedDuration::MAX);
        let offset = SignedDuration::from_millis(self.offset_ms.load(Ordering::Relaxed));
        self.start
            .saturating_add(elapsed.saturating_add(offset))
            .unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Monotonic {
        self.monotonic_in(Duration::ZERO)
    }

    fn sleep_until(&self, deadline: Monotonic) -> impl Future<Output = ()> + Send {
        // Beyond what an instant can hold is "never" for every purpose: a year on, the caller looks again.
        let far = Duration::from_hours(365 * 24);
        let since = deadline.since(Monotonic::START);
        let since = if self.fast_ppm == 0 || since > far {
            since
        } else {
            // Never before it reads the deadline: timers are no finer than a millisecond.
            since.div_f64(1.0 + f64::from(self.fast_ppm) * 1e-6) + Duration::from_millis(1)
        };
        let instant = self
            .origin
            .checked_add(since)
            .unwrap_or_else(|| Instant::now() + far);
        tokio::time::sleep_until(instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn both_faces_follow_virtual_time() {
        let clock = SimClock::starting_at(at("2026-01-01T00:00:00Z"));
        clock
            .sleep_until(clock.monotonic().after(Duration::from_hours(1)))
            .await;
        assert_eq!(clock.wall(), at("2026-01-01T01:00:00Z"));
        assert_eq!(
            clock.monotonic().since(Monotonic::START),
            Duration::from_hours(1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_moves_the_wall_clock_alone_and_of_every_clone() {
        let clock = SimClock::starting_at(at("2026-01-01T01:00:00Z"));
        let (clone, apart) = (clock.clone(), clock.separate());
        clock.step_wall_ms(-3_600_000);
        assert_eq!(clone.wall(), at("2026-01-01T00:00:00Z"));
        assert_eq!(apart.wall(), at("2026-01-01T01:00:00Z"));
        assert_eq!(clone.monotonic(), Monotonic::START);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_wrong_reaches_its_deadline_early_or_late_and_never_before_it_reads_it()
     {
        for (fast_ppm, real_ms) in [(10_000, 9_901..9_903), (-10_000, 10_101..10_104)] {
            let clock = SimClock::starting_at(at("2026-01-01T00:00:00Z")).at_rate(fast_ppm);
            let deadline = Monotonic::START.after(Duration::from_secs(10));
            let begun = Instant::now();
            clock.sleep_until(deadline).await;
            assert!(clock.monotonic() >= deadline);
            assert!(
                real_ms.contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_returns_at_once() {
        let clock = SimClock::starting_at(at("2026-01-01T00:00:00Z"));
        tokio::time::advance(Duration::from_secs(5)).await;
        let started = Monotonic::START;
        clock
            .sleep_until(started.after(Duration::from_secs(1)))
            .await;
        clock.sleep_until(Monotonic::default()).await;
        let now = started.after(Duration::from_secs(5));
        assert_eq!(clock.monotonic(), now);
    }
}
