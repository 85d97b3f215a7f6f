//! How long to wait before a failed call is repeated.

use std::time::Duration;

use super::failure::ClusterErrorKind;

/// The first pause before a failed call is repeated; doubled each time up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// The longest pause between two tries: an API server that comes back is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The pause before try `tries + 1`: the server's Retry-After, else doubling, each spread over ±25 % by a hash of `key`
/// so that the nodes of a refused wave do not come back as one.
#[must_use]
pub fn backoff(kind: ClusterErrorKind, tries: u32, key: &str) -> Duration {
    let base = match kind {
        ClusterErrorKind::Throttled {
            retry_after: Some(pause),
        } => pause,
        _ => BACKOFF_MIN
            .saturating_mul(1 << tries.saturating_sub(1).min(10))
            .min(BACKOFF_MAX),
    };
    let hash = key.bytes().fold(tries, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    match kind {
        // Never earlier than the server asked for.
        ClusterErrorKind::Throttled {
            retry_after: Some(_),
        } => base + base.mul_f64(f64::from(hash % 256) / 1024.0),
        _ => base.mul_f64(0.75 + f64::from(hash % 256) / 512.0),
    }
}

/// The pause before the second attempt on a node; doubled each time, as Kubernetes' Job does it.
const ATTEMPT_BACKOFF_MIN: Duration = Duration::from_secs(10);

/// The longest pause between two attempts, as for a Job.
const ATTEMPT_BACKOFF_MAX: Duration = Duration::from_mins(6);

/// The pause after attempt `attempt`, counted from 1, has failed.
#[must_use]
pub fn attempt_backoff(attempt: u32) -> Duration {
    ATTEMPT_BACKOFF_MIN
        .saturating_mul(1 << attempt.saturating_sub(1).min(10))
        .min(ATTEMPT_BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_spaced_as_those_of_a_job() {
        let pauses: Vec<u64> = (1..=8)
            .map(|attempt| attempt_backoff(attempt).as_secs())
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 360, 360]);
    }
}
