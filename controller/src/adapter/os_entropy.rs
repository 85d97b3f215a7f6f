//! The operating system's randomness.

use uuid::Uuid;

use crate::ports::entropy::Entropy;

/// Randomness from the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the operating system for randomness"
    )]
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    /// # Panics
    /// Where the operating system has no randomness to give.
    fn key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system has randomness");
        key
    }
}
