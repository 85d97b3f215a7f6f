//! The ports on a real cluster and a real machine.

pub mod fs_report_store;
pub mod http_forward;
pub mod kube_cluster;
mod kube_error;
pub mod os_entropy;
pub mod retry_after;
mod slim;
pub mod system_clock;
