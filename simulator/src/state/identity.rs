//! Uids and the random ends of generated names, from a seed: the same calls give the same names.
//!
//! The generator is `SplitMix64` (Steele, Lea, Flood 2014): one state word, good enough for names, never for secrets.

use std::sync::Arc;

/// The letters a real server takes for generated names: no vowels, nothing that looks like another
/// (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Source of uids and name suffixes.
#[derive(Debug, Clone)]
pub(super) struct Identities {
    state: u64,
}

impl Identities {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A fresh version-4 uuid.
    pub(super) fn uid(&mut self) -> Arc<str> {
        let bytes = (u128::from(self.next()) << 64) | u128::from(self.next());
        let uuid = uuid::Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid();
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        Arc::from(&*uuid.as_hyphenated().encode_lower(&mut buffer))
    }

    /// Five letters to put after `generateName`.
    pub(super) fn suffix(&mut self) -> String {
        let mut bits = self.next();
        let mut suffix = String::with_capacity(5);
        for _ in 0..5 {
            let letter = usize::try_from(bits % 27).unwrap_or_default();
            suffix.push(char::from(ALPHABET[letter]));
            bits /= 27;
        }
        suffix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_uids_and_another_seed_others() {
        let (mut a, mut b, mut c) = (Identities::new(1), Identities::new(1), Identities::new(2));
        let uid = a.uid();
        assert_eq!(uid, b.uid());
        assert_ne!(uid, c.uid());
        assert_ne!(uid, a.uid());
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
    }
}
