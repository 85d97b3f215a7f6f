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
}
