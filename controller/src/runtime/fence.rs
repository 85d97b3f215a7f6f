//! Whether this process may act as the leader now. The election moves the point in time up to which it may with each
//! renewal; everything that acts asks the clock again right before it does, so that a process that was paused for
//! longer than its lease starts nothing when it wakes.
//!
//! Who may not act waits: either the lease is renewed after all, or the leadership ends and drops who waits here. So no
//! decision is ever taken from a call that was not made.

use super::ordered_watch as watch;
use crate::ports::clock::{Clock, Monotonic};

/// Held by what acts. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    acts_until: watch::Receiver<Option<Monotonic>>,
}

/// Held by the election.
#[derive(Debug)]
pub(super) struct FenceKeeper(watch::Sender<Option<Monotonic>>);

/// A closed fence.
pub(super) fn fence() -> (FenceKeeper, Fence) {
    let (sender, acts_until) = watch::channel(None);
    (FenceKeeper(sender), Fence { acts_until })
}

impl FenceKeeper {
    /// Sets until when the leader may act; none closes the fence.
    pub(super) fn set(&self, until: Option<Monotonic>) {
        self.0.set(until);
    }
}

impl Fence {
    /// A fence that is always open: nobody else can lead.
    pub(super) fn open() -> Self {
        let (keeper, fence) = fence();
        keeper.set(Some(Monotonic(std::time::Duration::MAX)));
        fence
    }

    /// Whether the leader may act at this moment.
    pub(super) fn is_open(&self, now: Monotonic) -> bool {
        self.acts_until.borrow().is_some_and(|until| now < until)
    }

    /// Returns once it may act, at once in the usual case. Cancel safe.
    pub(super) async fn pass(&self, clock: &impl Clock) {
        if self.is_open(clock.monotonic()) {
            return;
        }
        let mut acts_until = self.acts_until.clone();
        while acts_until.changed().await.is_ok() {
            if self.is_open(clock.monotonic()) {
                return;
            }
        }
        // The election is gone, and nobody leads any more.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A clock that stands still.
    #[derive(Clone)]
    struct At(u64);

    impl Clock for At {
        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic(Duration::from_secs(self.0))
        }

        async fn sleep_until(&self, _: Monotonic) {
            std::future::pending::<()>().await;
        }
    }

    async fn passes(fence: &Fence, at: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(1), fence.pass(&At(at)))
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_act_waits_until_the_lease_is_renewed() {
        let (keeper, fence) = fence();
        assert!(!passes(&fence, 0).await);
        keeper.set(Some(Monotonic(Duration::from_secs(10))));
        assert!(passes(&fence, 9).await);
        assert!(!passes(&fence, 10).await, "the lease ran out unnoticed");
        let later = At(11);
        let (passed, ()) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(1), fence.pass(&later)),
            async { keeper.set(Some(Monotonic(Duration::from_secs(20)))) },
        );
        assert!(passed.is_ok());
        keeper.set(None);
        assert!(!passes(&fence, 12).await);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_else_can_lead_everything_passes() {
        assert!(passes(&Fence::open(), u64::MAX / 2).await);
    }
}
