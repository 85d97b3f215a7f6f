//! How a leader is elected: `leaderElection` and the original's `leaderElectionResourceLock`.

use std::time::Duration;

use super::super::raw::{Findings, Section};
use super::super::values;
use super::POSITIVE_DURATION;
use crate::core::leadership::Timing;

const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// What must be left for a write that the leader begins as it gives up: four fifths of it are a write's time.
const WRITE_TIME_MIN: Duration = Duration::from_secs(1);
/// How much longer than a retry period two tries may be apart, as in client-go.
const RETRY_JITTER: f64 = 1.2;

/// The original's choice of a lock. It is always a Lease now.
pub(super) fn read_resource_lock(root: &mut Section<'_>, findings: &Findings) {
    const OLDER: [&str; 4] = [
        "configmapsleases",
        "configmaps",
        "endpoints",
        "endpointsleases",
    ];
    let key = "leaderElectionResourceLock";
    let wanted =
        "leases (or one of the older configmapsleases, configmaps, endpoints, endpointsleases)";
    let is_older = |lock: &String| OLDER.contains(&lock.as_str());
    let lock = root.optional(key, wanted, |value| {
        values::text(value).filter(|lock| is_older(lock) || matches!(lock.as_str(), "" | "leases"))
    });
    if let Some(lock) = lock.filter(is_older) {
        findings.warn(
            key,
            format!("{lock} is no longer supported, a Lease is used instead"),
        );
    }
}

pub(super) fn read_timing(root: &mut Section<'_>, findings: &Findings) -> Timing {
    let mut section = root.section("leaderElection");
    let whole_seconds = "a duration of whole seconds, at least 1s";
    let lease_duration = section
        .optional("leaseDuration", whole_seconds, values::whole_seconds)
        .unwrap_or(LEASE_DURATION);
    let mut read = |name: &str, default| {
        section
            .optional(name, POSITIVE_DURATION, values::positive_duration)
            .unwrap_or(default)
    };
    let timing = Timing {
        lease_duration,
        renew_deadline: read("renewDeadline", RENEW_DEADLINE),
        retry_period: read("retryPeriod", RETRY_PERIOD),
    };
    check_order(timing, findings);
    timing
}

/// The leader must have given up before others take over, and have had time for more than one try.
fn check_order(timing: Timing, findings: &Findings) {
    let lease = "leaderElection.leaseDuration";
    let renew = "leaderElection.renewDeadline";
    let retry = "leaderElection.retryPeriod";
    let latest = timing.lease_duration.saturating_sub(WRITE_TIME_MIN);
    if latest < timing.renew_deadline && !findings.any_wrong(&[lease, renew]) {
        let wanted = format!(
            "at least 1s less than leaseDuration, which is {:?}",
            timing.lease_duration
        );
        findings.error(renew, format!("{:?}", timing.renew_deadline), wanted);
    }
    let longest_wait = timing.retry_period.mul_f64(RETRY_JITTER);
    if timing.renew_deadline <= longest_wait && !findings.any_wrong(&[renew, retry]) {
        let limit = timing.renew_deadline.div_f64(RETRY_JITTER);
        let wanted = format!("less than renewDeadline / {RETRY_JITTER}, which is {limit:?}");
        findings.error(retry, format!("{:?}", timing.retry_period), wanted);
    }
}
