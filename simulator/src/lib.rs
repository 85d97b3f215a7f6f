//! A simulated Kubernetes cluster: an API server in memory and thousands of fake nodes.
//!
//! `state` is the API server's state, pure; `apiserver` serves it over HTTP or in process.

pub mod apiserver;
pub mod callback;
pub mod clock;
pub mod event_log;
pub mod job;
pub mod kubelet;
pub mod node;
pub mod rng;
pub mod routing;
pub mod state;
