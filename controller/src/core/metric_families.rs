//! The names of the metric families that the controller exports itself, so that no gauge of a job pod takes one of
//! them.
//!
//! A controller called `batch-job-controller` has the prefix `batch_job_controller`, and its gauges then stand beside
//! ours.

/// The metric with the controller's version, for dashboards of the original.
pub const VERSION: &str = "com_github_bakito_batch_job_controller";

/// What the controller's own families begin with.
pub const OWN_PREFIX: &str = "batch_job_controller";

/// The controller's own families, behind [`OWN_PREFIX`] and an underscore.
pub const OWN: [&str; 21] = [
    "api_requests_total",
    "build_info",
    "callback_requests_total",
    "callbacks_without_token_total",
    "configuration_usable",
    "decisions_total",
    "execution_duration_seconds",
    "execution_in_progress",
    "executions_total",
    "forwarded_requests_total",
    "held_callbacks_total",
    "last_schedule_timestamp_seconds",
    "last_success_timestamp_seconds",
    "leader",
    "next_schedule_timestamp_seconds",
    "node_failures_total",
    "nodes",
    "report_bytes_total",
    "report_store_usable",
    "request_panics_total",
    "suspended",
];

/// What follows a histogram's family in the names of its series.
const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Whether the controller itself exports a family, or a series of a histogram, of that full name.
#[must_use]
pub fn is_own(full_name: &str) -> bool {
    let own = full_name
        .strip_prefix(OWN_PREFIX)
        .and_then(|rest| rest.strip_prefix('_'));
    let Some(own) = own else {
        return full_name == VERSION;
    };
    let of_histogram = HISTOGRAM_SUFFIXES
        .iter()
        .find_map(|suffix| own.strip_suffix(suffix));
    OWN.contains(&own) || of_histogram.is_some_and(|family| OWN.contains(&family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_families_and_the_series_of_our_histograms_are_taken() {
        for name in [
            VERSION,
            "batch_job_controller_nodes",
            "batch_job_controller_execution_duration_seconds",
            "batch_job_controller_execution_duration_seconds_bucket",
            "batch_job_controller_execution_duration_seconds_sum",
        ] {
            assert!(is_own(name), "{name}");
        }
        for name in [
            "audit_nodes",
            "batch_job_controller",
            "batch_job_controller_disk_free",
            "batch_job_controllernodes",
        ] {
            assert!(!is_own(name), "{name}");
        }
    }
}
