//! A value that many watch, as tokio's `watch`, but whoever waits is woken in the order in which they began to. Tokio's
//! wakes in a random order, and two runs of one simulation would differ.

use std::fmt::{self, Debug};
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    is_over: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, work: impl FnOnce(&mut State<T>)) {
        work(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }
}

/// The value, locked while it is looked at: never to be held over an await.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// The sender is gone: the value stays what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Sets the value. Dropped, it ends the watch.
pub struct Sender<T>(Arc<Shared<T>>);

/// Watches the value. Each clone knows by itself what it has seen.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A value and who watches it; what it is now counts as seen.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Self {
        let state = RwLock::new(State {
            value,
            version: 0,
            is_over: false,
        });
        let changed = Notify::new();
        Self(Arc::new(Shared { state, changed }))
    }

    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            seen: self.0.read().0.version,
            shared: Arc::clone(&self.0),
        }
    }

    /// The value.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }

    /// Sets the value and wakes who waits.
    pub fn set(&self, value: T) {
        self.modify(|old| *old = value);
    }

    /// Changes the value and wakes who waits.
    pub fn modify(&self, change: impl FnOnce(&mut T)) {
        self.0.write(|state| {
            change(&mut state.value);
            state.version += 1;
        });
    }
}

impl<T> Receiver<T> {
    /// The value.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The value, which now counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = value.0.version;
        value
    }

    /// Whether the sender is gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.read().0.is_over
    }

    /// Returns once the value has changed since it was seen, which it then is. Cancel safe.
    ///
    /// # Errors
    /// Once the sender is gone and everything is seen.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let seen = self.seen;
        self.until(|state| state.version != seen).await
    }

    /// Returns once the value is such; never where the sender goes before. Cancel safe.
    pub async fn wait_for(&mut self, is_such: impl Fn(&T) -> bool) {
        if self.until(|state| is_such(&state.value)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn until(&mut self, is_reached: impl Fn(&State<T>) -> bool) -> Result<(), Closed> {
        loop {
            let mut notified = pin!(self.shared.changed.notified());
            // Before the look, so that nothing is missed in between.
            notified.as_mut().enable();
            {
                let state = self.shared.read();
                if is_reached(&state.0) {
                    self.seen = state.0.version;
                    return Ok(());
                }
                if state.0.is_over {
                    return Err(Closed);
                }
            }
            notified.await;
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.write(|state| state.is_over = true);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Debug> Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: Debug> Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_their_order() {
        let (sender, receiver) = channel(0);
        let woken: Arc<Mutex<Vec<u32>>> = Arc::default();
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            waiting.spawn(async move {
                receiver.wait_for(|value| *value == 2).await;
                woken.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        sender.set(1);
        sender.set(2);
        while waiting.join_next().await.is_some() {}
        assert!(woken.lock().unwrap().is_sorted());
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_seen_once_and_then_the_end() {
        let (sender, mut receiver) = channel("a");
        sender.set("b");
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow_and_update(), "b");
        sender.modify(|value| *value = "c");
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.changed().await, Err(Closed));
        assert!(receiver.is_over());
        let mut is_ever = |wanted| {
            receiver
                .wait_for(move |value| *value == wanted)
                .now_or_never()
        };
        assert_eq!((is_ever("c"), is_ever("d")), (Some(()), None));
    }
}
