//! Parsed and validated configuration.

pub mod pod_template;
