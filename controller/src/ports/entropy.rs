//! Randomness, so that a simulation can decide it.

use uuid::Uuid;

/// Where the runtime gets randomness from.
pub trait Entropy: Clone + Send + Sync + 'static {
    /// A version 4 UUID, for the names of nameless uploads and of Kubernetes events.
    fn uuid(&self) -> Uuid;

    /// Bytes that nobody can guess, for a key.
    fn key(&self) -> [u8; 32];
}
