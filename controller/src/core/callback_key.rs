//! The key that replicas share, and what is signed with it: HMAC-SHA256 (RFC 2104).
//!
//! It is kept in the Secret `<name>-callback` and never shown: not in logs, not by `Debug`. Nothing is signed with the
//! key itself: each purpose has one derived from it, so that what is made for one is worth nothing for another.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::hex::lower_hex;

/// The shortest key, in bytes: as long as the hash, below which it would weaken it (RFC 2104, 3).
pub const KEY_BYTES: usize = 32;

/// The key of the Secret under which its bytes are.
pub const SECRET_KEY: &str = "key";

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Requests that one replica passes on to another.
    Forwarding,
    /// Tokens of job pods.
    Callback,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Forwarding => "batch-job-controller forwarding 1",
            Self::Callback => "batch-job-controller callback 1",
        }
    }
}

/// The key as it is in the Secret.
#[derive(Clone)]
pub struct CallbackKey(Vec<u8>);

/// The key of one purpose. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// A signature.
pub type Signature = [u8; 32];

/// A signature as lower-case hexadecimal digits.
#[must_use]
pub fn signature_text(signature: &Signature) -> String {
    lower_hex(signature)
}

/// The signature that [`signature_text`] wrote so, and no other way.
#[must_use]
pub fn parse_signature(digits: &str) -> Option<Signature> {
    let mut signature = Signature::default();
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * signature.len() || !digits.bytes().all(is_digit) {
        return None;
    }
    for (index, byte) in signature.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(signature)
}

impl CallbackKey {
    /// The key of these bytes; none where they are fewer than [`KEY_BYTES`].
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= KEY_BYTES).then_some(Self(bytes))
    }

    /// The key for signing what is of that purpose.
    #[must_use]
    pub fn for_purpose(&self, purpose: Purpose) -> SigningKey {
        let derived = keyed(&self.0).chain_update(purpose.label()).finalize();
        SigningKey(keyed(&derived.into_bytes()))
    }
}

impl SigningKey {
    /// Signs a message of these parts, none of which can pass for a piece of another.
    #[must_use]
    pub fn sign(&self, parts: &[&str]) -> Signature {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Whether the signature is of these parts, in a time that tells nothing of where it differs.
    #[must_use]
    pub fn verifies(&self, parts: &[&str], signature: &Signature) -> bool {
        self.over(parts).verify_slice(signature).is_ok()
    }

    fn over(&self, parts: &[&str]) -> Hmac<Sha256> {
        parts.iter().fold(self.0.clone(), |mac, part| {
            mac.chain_update((part.len() as u64).to_be_bytes())
                .chain_update(part)
        })
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl fmt::Debug for CallbackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackKey").finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        let key = CallbackKey::new(vec![byte; KEY_BYTES]).unwrap();
        key.for_purpose(Purpose::Forwarding)
    }

    #[test]
    fn a_signature_is_of_its_key_and_of_every_part_as_it_stands() {
        let signature = key(1).sign(&["ab", "c"]);
        assert!(key(1).verifies(&["ab", "c"], &signature));
        for other in [
            &["a", "bc"][..],
            &["ab", "c", ""],
            &["abc"],
            &["ab"],
            &["ab", "d"],
        ] {
            assert!(!key(1).verifies(other, &signature), "{other:?}");
        }
        assert!(!key(2).verifies(&["ab", "c"], &signature));
    }

    #[test]
    fn a_derived_key_is_not_the_key_of_the_secret() {
        let bytes = vec![1; KEY_BYTES];
        let direct = SigningKey(keyed(&bytes)).sign(&["a"]);
        assert_ne!(key(1).sign(&["a"]), direct);
    }

    #[test]
    fn a_key_that_is_too_short_is_none_and_no_key_is_shown() {
        assert!(CallbackKey::new(vec![1; KEY_BYTES - 1]).is_none());
        let key = CallbackKey::new(vec![200; KEY_BYTES]).unwrap();
        let shown = format!("{key:?} {:?}", key.for_purpose(Purpose::Forwarding));
        assert!(!shown.contains("200"), "{shown}");
    }
}
