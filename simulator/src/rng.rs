//! Randomness from one parent seed: a named child stream per concern, so that a new draw in one does not move the
//! others.
//!
//! A stream is named like a path, `fleet/node-7/1`; its seed is a hash of the parent's and the name. Nothing here reads
//! the machine's randomness: two runs of one seed draw the same numbers.

use std::sync::{Arc, Mutex, PoisonError};

use controller::ports::entropy::Entropy;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The parent of every stream of a run, or of every stream below one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The parent seed of a run, from the number that `--seed` takes and that every run prints.
    #[must_use]
    pub fn of_run(seed: u64) -> Self {
        Self(Sha256::digest(seed.to_le_bytes()).into())
    }

    /// The seed of everything below `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(
            Sha256::new()
                .chain_update(self.0)
                .chain_update(name)
                .finalize()
                .into(),
        )
    }

    /// The stream called `name`. The same name gives the same stream again, from its beginning.
    #[must_use]
    pub fn stream(&self, name: &str) -> Stream {
        Stream(ChaCha8Rng::from_seed(self.child(name).0))
    }
}

/// One stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// A number of `low..=high`, all equally likely (to within 2⁻³² or better for ranges below 2³²).
    ///
    /// # Panics
    /// Where `low` is above `high`.
    #[must_use]
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low}..={high}");
        let Some(width) = (high - low).checked_add(1) else {
            return self.0.next_u64();
        };
        let scaled = (u128::from(self.0.next_u64()) * u128::from(width)) >> 64;
        low + u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// A number from 0 to below 1.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "53 bits are what an f64 holds, exactly"
    )]
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A version 4 UUID.
    #[must_use]
    pub fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// The controller's randomness in a simulation: one stream, shared by the clones.
#[derive(Debug, Clone)]
pub struct SimEntropy(Arc<Mutex<Stream>>);

impl SimEntropy {
    /// Draws from `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }
}

impl Entropy for SimEntropy {
    fn uuid(&self) -> Uuid {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).uuid()
    }

    fn key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(self.uuid().as_bytes());
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_and_name_give_the_same_numbers() {
        let draw = |seed, name: &str| Seed::of_run(seed).stream(name).between(0, u64::MAX);
        assert_eq!(draw(7, "fleet/node-1/1"), draw(7, "fleet/node-1/1"));
        assert_ne!(draw(7, "fleet/node-1/1"), draw(8, "fleet/node-1/1"));
        assert_ne!(draw(7, "fleet/node-1/1"), draw(7, "fleet/node-1/2"));
    }

    #[test]
    fn a_draw_in_one_stream_moves_no_other() {
        let seed = Seed::of_run(1);
        let mut untouched = seed.stream("b");
        let mut other = seed.stream("a");
        let _ = other.uuid();
        let mut after = seed.stream("b");
        assert_eq!(untouched.between(0, 1 << 40), after.between(0, 1 << 40));
    }

    #[test]
    fn between_stays_within_its_bounds_and_reaches_them() {
        let mut stream = Seed::of_run(3).stream("x");
        let drawn: Vec<u64> = (0..200).map(|_| stream.between(5, 7)).collect();
        assert!(drawn.iter().all(|n| (5..=7).contains(n)));
        assert!((5..=7).all(|n| drawn.contains(&n)));
        assert_eq!(stream.between(9, 9), 9);
    }

    #[test]
    fn uuids_are_of_version_four_and_differ() {
        let entropy = SimEntropy::new(Seed::of_run(3).stream("controller"));
        let (first, second) = (entropy.uuid(), entropy.uuid());
        assert_eq!(first.get_version_num(), 4);
        assert_ne!(first, second);
    }
}
