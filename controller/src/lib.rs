//! Runs a job pod on every matching node of a Kubernetes cluster, on a cron schedule, a bounded number at a time.
//!
//! The layers, and what each may know, are described in `ARCHITECTURE.md`; `cargo xtask layers` checks them.

#[cfg(feature = "kube")]
pub mod adapter;
#[cfg(feature = "kube")]
pub mod app;
#[cfg(feature = "kube")]
pub mod args;
pub mod config;
pub mod core;
#[cfg(feature = "kube")]
pub mod extension;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod runtime;
#[cfg(feature = "kube")]
pub mod telemetry;
