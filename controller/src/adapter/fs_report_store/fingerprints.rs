//! What reports were written last, as numbers: one that differs from its predecessor need not be compared with it on
//! the disk.
//!
//! Nothing is decided by them but that. A report that is known to differ is written, which is never wrong; any other is
//! compared.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::core::ids::ExecutionId;

/// As many as a large cluster has nodes; of two that share a place the later is remembered.
const PLACES: usize = 8192;

/// A fixed table.
#[derive(Debug)]
pub(super) struct Fingerprints(Mutex<Box<[Fingerprint]>>);

#[derive(Debug, Clone, Copy, Default)]
struct Fingerprint {
    report: u64,
    content: u64,
}

impl Default for Fingerprints {
    fn default() -> Self {
        let places = vec![Fingerprint::default(); PLACES];
        Self(Mutex::new(places.into()))
    }
}

impl Fingerprints {
    /// Whether what was written last as this report is known and is not this; from now on this is.
    pub(super) fn replaces_another(
        &self,
        execution: &ExecutionId,
        name: &str,
        content: &[Bytes],
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        (execution.as_str(), name).hash(&mut hasher);
        let report = hasher.finish();
        let mut hasher = DefaultHasher::new();
        for part in content {
            hasher.write(part);
        }
        let content = hasher.finish();
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(report % PLACES as u64).unwrap_or_default();
        let before = std::mem::replace(&mut places[place], Fingerprint { report, content });
        before.report == report && before.content != content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_content_of_a_known_report_replaces_one() {
        let fingerprints = Fingerprints::default();
        let execution = ExecutionId::parse("202601010342").unwrap();
        let replaces = |name, content: &str| {
            let content = Bytes::copy_from_slice(content.as_bytes());
            fingerprints.replaces_another(&execution, name, &[content])
        };
        assert!(!replaces("a", "one"));
        assert!(!replaces("a", "one"));
        assert!(replaces("a", "another"));
        assert!(!replaces("b", "another"));
        assert!(replaces("a", "one"));
    }
}
