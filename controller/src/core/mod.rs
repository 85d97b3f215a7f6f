//! What the controller decides, without I/O: no runtime, cluster client, files, environment, clocks or randomness.

pub mod backoff;
pub mod cron_expression;
pub mod eligibility;
pub mod event_message;
pub mod execution;
pub mod failure;
pub mod go_duration;
pub mod go_format;
pub mod ids;
pub mod invariants;
pub mod job_pod;
pub mod media_type;
pub mod names;
pub mod node_run;
pub mod pod_phase;
pub mod pod_pool;
pub mod report;
pub mod report_name;
pub mod retention;
pub mod schedule;
pub mod schedule_listing;
pub mod state;
pub mod summary;
pub mod time;
pub mod views;
