//! The signal that the state has changed. Whoever waits is woken in the order in which they began to: tokio's `watch`
//! shuffles them, and two runs of a seed would differ.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Signal {
    version: AtomicU64,
    is_over: AtomicBool,
    changed: Notify,
}

/// Gives the signal. Dropped, it ends it.
#[derive(Debug)]
pub(super) struct Announcer(Arc<Signal>);

impl Announcer {
    pub(super) fn new(version: u64) -> Self {
        let signal = Signal {
            version: AtomicU64::new(version),
            ..Signal::default()
        };
        Self(Arc::new(signal))
    }

    /// The state, or what is told of it, is of this version now.
    pub(super) fn announce(&self, version: u64) {
        if self.0.version.fetch_max(version, Ordering::AcqRel) < version {
            self.0.changed.notify_waiters();
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    pub(super) fn subscribe(&self) -> Changes {
        Changes {
            seen: self.version(),
            signal: Arc::clone(&self.0),
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

/// The API server is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Is told of every change of the state.
#[derive(Debug)]
pub struct Changes {
    signal: Arc<Signal>,
    seen: u64,
}

impl Changes {
    /// What has changed so far counts as told.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.signal.version.load(Ordering::Acquire);
    }

    /// Returns when the state has changed since the last time. Cancel safe.
    ///
    /// # Errors
    /// Once the API server is gone.
    pub async fn changed(&mut self) -> Result<(), Gone> {
        loop {
            let mut notified = pin!(self.signal.changed.notified());
            // Before the look, so that nothing is missed in between.
            notified.as_mut().enable();
            let version = self.signal.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.signal.is_over.load(Ordering::Acquire) {
                return Err(Gone);
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_their_order() {
        let announcer = Announcer::new(0);
        let woken: Arc<Mutex<Vec<u32>>> = Arc::default();
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut changes, woken) = (announcer.subscribe(), Arc::clone(&woken));
            waiting.spawn(async move {
                changes.changed().await.unwrap();
                woken.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        announcer.announce(1);
        while waiting.join_next().await.is_some() {}
        assert!(woken.lock().unwrap().is_sorted());
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_told_and_then_the_end() {
        let announcer = Announcer::new(3);
        let mut changes = announcer.subscribe();
        announcer.announce(4);
        announcer.announce(2);
        assert_eq!((announcer.version(), changes.changed().await), (4, Ok(())));
        drop(announcer);
        assert_eq!(changes.changed().await, Err(Gone));
    }
}
