//! What the bodies of requests may take in memory, all together.
//!
//! A result or an event is read whole, and a body that may have to be sent again is kept: small ones, but of as many
//! clients as there are. Beyond the budget nothing more is taken in; the client is told to come again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All bodies together, at one place.
const BYTES_MAX: usize = 64 << 20;

/// What a chunk takes beside its bytes: a client may send them one by one.
const CHUNK_BYTES: usize = 64;

/// A budget; clones share it.
#[derive(Debug, Clone)]
pub(super) struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX)))
    }

    /// For a body of which nothing has arrived.
    pub(super) fn share(&self) -> Share {
        Share {
            memory: self.clone(),
            taken: None,
        }
    }
}

/// What one body takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: BodyMemory,
    taken: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes as much more as a chunk of so many bytes needs; false where that is not there.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let Ok(wanted) = u32::try_from(bytes + CHUNK_BYTES) else {
            return false;
        };
        let free = Arc::clone(&self.memory.0);
        match (free.try_acquire_many_owned(wanted), &mut self.taken) {
            (Err(_), _) => return false,
            (Ok(more), Some(taken)) => taken.merge(more),
            (Ok(more), taken) => *taken = Some(more),
        }
        true
    }

    /// Gives all of it back.
    pub(super) fn clear(&mut self) {
        self.taken = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_what_there_is_and_give_it_back() {
        let memory = BodyMemory::new();
        let (mut one, mut other) = (memory.share(), memory.share());
        assert!(one.grow(BYTES_MAX / 2) && one.grow(0));
        assert!(!other.grow(BYTES_MAX / 2));
        assert!(other.grow(1000));
        one.clear();
        assert!(other.grow(BYTES_MAX / 2));
        drop(other);
        assert!(one.grow(BYTES_MAX - CHUNK_BYTES));
        assert!(!one.grow(0));
    }
}
