//! The life of one simulated process: it runs, stands still, is cut off, or is dead. Its ports ask here before and
//! after every call, so that it can die between any two of its effects, and what it does while it stands still is what
//! it does on waking.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use controller::ports::clock::{Clock, Monotonic};
use controller::runtime::ordered_watch as watch;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};

use crate::clock::SimClock;

/// Who a process is.
#[derive(Debug, Clone)]
pub(super) struct Who {
    /// The place of the replica among the others.
    pub(super) slot: usize,
    /// How many processes there were before.
    pub(super) number: u64,
    /// Its holder identity.
    pub(super) identity: Arc<str>,
}

/// How the API server cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Connections are refused.
    Refused,
    /// Requests do not arrive.
    Silent,
    /// Requests arrive and are carried out; their answers do not.
    AnswersLost,
}

/// The life of one process. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    is_over: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// Calls and answers until it dies.
    points_left: Option<u32>,
    /// Polls of its main task until it dies.
    polls_left: Option<u32>,
    /// Answers until it stands still, and for how long then.
    rest: Option<(u32, Duration)>,
    stands_until: Instant,
    cut: (Option<Cut>, Instant),
    /// Until when it does not reach its Lease.
    lease_cut_until: Instant,
    /// Until when job pods do not reach it.
    deaf_until: Instant,
    /// Whether the volume lost its power with it: what was being written may be there in part.
    is_torn: bool,
}

impl Life {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                points_left: None,
                polls_left: None,
                rest: None,
                stands_until: now,
                cut: (None, now),
                lease_cut_until: now,
                deaf_until: now,
                is_torn: false,
            }),
            is_over: watch::Sender::new(false),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        (self.0.state.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// It dies at once.
    pub(super) fn kill(&self) {
        self.0.is_over.set(true);
    }

    /// It dies with the power of the volume.
    pub(super) fn kill_with_volume(&self) {
        self.state().is_torn = true;
        self.kill();
    }

    /// It dies at the begin or the end of a later call: after so many of these.
    pub(super) fn kill_after(&self, points: u32) {
        self.state().points_left = Some(points);
    }

    /// It dies as its main task is polled, after so many more of these: between any two of its steps.
    pub(super) fn kill_after_polls(&self, polls: u32) {
        self.state().polls_left = Some(polls);
    }

    /// The main task of the process.
    pub(super) async fn main<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let dies = {
                let mut state = self.state();
                let left = state.polls_left;
                state.polls_left = left.map(|left| left.saturating_sub(1));
                left == Some(0)
            };
            if dies {
                self.kill();
                return Poll::Pending;
            }
            work.as_mut().poll(context)
        })
        .await
    }

    pub(super) fn stand_still(&self, until: Instant) {
        self.state().stands_until = until;
    }

    /// It stands still at the end of a later call: after so many of these.
    pub(super) fn stand_still_after(&self, answers: u32, lasts: Duration) {
        self.state().rest = Some((answers, lasts));
    }

    pub(super) fn cut_off_lease(&self, until: Instant) {
        self.state().lease_cut_until = until;
    }

    pub(super) fn cut_off(&self, cut: Cut, until: Instant) {
        self.state().cut = (Some(cut), until);
    }

    pub(super) fn deafen(&self, until: Instant) {
        self.state().deaf_until = until;
    }

    /// Whatever is wrong with it ends.
    pub(super) fn heal(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.points_left = None;
        state.polls_left = None;
        state.rest = None;
        state.stands_until = now;
        state.cut = (None, now);
        state.lease_cut_until = now;
        state.deaf_until = now;
    }

    pub(super) fn is_over(&self) -> bool {
        *self.0.is_over.borrow()
    }

    pub(super) fn is_torn(&self) -> bool {
        self.state().is_torn
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.state().deaf_until > Instant::now()
    }

    /// How the API server cannot be reached now.
    pub(super) fn cut(&self) -> Option<Cut> {
        let (cut, until) = self.state().cut;
        cut.filter(|_| until > Instant::now())
    }

    pub(super) fn is_lease_cut(&self) -> bool {
        self.state().lease_cut_until > Instant::now()
    }

    /// How long it will go on standing still.
    pub(super) fn frozen(&self) -> Duration {
        let until = self.state().stands_until;
        until.saturating_duration_since(Instant::now())
    }

    /// Returns when it is dead. Cancel safe.
    pub(super) async fn over(&self) {
        self.0.is_over.subscribe().wait_for(|is| *is).await;
    }

    /// Returns while it runs: later where it stands still, never where it is dead. Cancel safe.
    pub(super) async fn runs(&self) {
        loop {
            if self.is_over() {
                pending::<()>().await;
            }
            let until = self.state().stands_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// The begin or the end of a call.
    pub(super) async fn point(&self) {
        self.runs().await;
        let dies = {
            let mut state = self.state();
            let left = state.points_left;
            state.points_left = left.map(|left| left.saturating_sub(1));
            left == Some(0)
        };
        if dies {
            self.kill();
            pending::<()>().await;
        }
    }

    /// The end of a call.
    pub(super) async fn answered(&self) {
        {
            let mut state = self.state();
            match state.rest {
                Some((0, lasts)) => {
                    state.stands_until = Instant::now() + lasts;
                    state.rest = None;
                }
                Some((left, lasts)) => state.rest = Some((left - 1, lasts)),
                None => {}
            }
        }
        self.point().await;
    }

    /// Returns once something arrives from the API server.
    pub(super) async fn hears(&self) {
        loop {
            self.runs().await;
            let (cut, until) = self.state().cut;
            if cut.is_none() || until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// The clock of a process. While that stands still it reads what it will read on waking.
#[derive(Debug, Clone)]
pub(super) struct ProcessClock {
    pub(super) clock: SimClock,
    pub(super) life: Life,
}

impl Clock for ProcessClock {
    fn wall(&self) -> Timestamp {
        let frozen = SignedDuration::try_from(self.life.frozen()).unwrap_or_default();
        let wall = self.clock.wall().saturating_add(frozen);
        wall.unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Monotonic {
        self.clock.monotonic_in(self.life.frozen())
    }

    async fn sleep_until(&self, deadline: Monotonic) {
        self.clock.sleep_until(deadline).await;
        self.life.runs().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stands_still_wakes_with_the_time_that_has_passed() {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let life = Life::new();
        let process = ProcessClock {
            clock: clock.clone(),
            life: life.clone(),
        };
        let before = process.monotonic();
        life.stand_still(Instant::now() + Duration::from_secs(30));
        assert_eq!(process.monotonic().since(before), Duration::from_secs(30));
        process
            .sleep_until(before.after(Duration::from_secs(1)))
            .await;
        assert_eq!(clock.monotonic().since(before), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_dies_at_the_point_that_was_drawn() {
        let life = Life::new();
        life.kill_after(1);
        life.point().await;
        assert!(!life.is_over());
        let second = timeout(Duration::from_secs(1), life.point()).await;
        assert!(second.is_err() && life.is_over());
        life.over().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_stands_still_at_the_answer_that_was_drawn() {
        let (life, lasts) = (Life::new(), Duration::from_secs(30));
        life.stand_still_after(1, lasts);
        let begun = Instant::now();
        life.answered().await;
        assert_eq!(
            (begun.elapsed(), life.frozen()),
            (Duration::ZERO, Duration::ZERO)
        );
        life.answered().await;
        assert_eq!(begun.elapsed(), lasts);
        life.answered().await;
        assert_eq!(begun.elapsed(), lasts);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_dies_at_the_poll_that_was_drawn() {
        let life = Life::new();
        life.kill_after_polls(2);
        let mut polls = 0;
        let work = life.clone().main(poll_fn(|context| {
            polls += 1;
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let ended = timeout(Duration::from_secs(1), work).await;
        assert!(ended.is_err() && life.is_over());
        assert_eq!(polls, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_cut_holds_back_arrives_when_it_ends() {
        let life = Life::new();
        life.cut_off(Cut::Silent, Instant::now() + Duration::from_secs(5));
        assert_eq!(life.cut(), Some(Cut::Silent));
        let begun = Instant::now();
        life.hears().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert_eq!(life.cut(), None);
        sleep(Duration::from_secs(1)).await;
    }
}
