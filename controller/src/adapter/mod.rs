//! The ports on a real cluster and a real machine.

pub mod fs_report_store;
