//! A simulated Kubernetes cluster: an API server in memory and thousands of fake nodes.
//!
//! `state` is the API server's state, pure; `apiserver` serves it over HTTP or in process. `fleet` runs the nodes,
//! whose pods live as `kubelet` says and post what `job` says by way of `callback`. `cluster`, `clock`, `rng` and
//! `report_store` are the controller's ports; `world` puts them together under virtual time. `controllers` are what a
//! cluster does by itself. `faults` decides what breaks between a client and the API server; `layer` breaks it over
//! HTTP, `faulty_cluster` over the port. `swarm` runs replicas of the controller while everything breaks, and `sweep`
//! many seeds of it.

pub mod apiserver;
pub mod callback;
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod controllers;
pub mod event_log;
pub mod faults;
pub mod faulty_cluster;
pub mod fleet;
pub mod job;
pub mod kubelet;
pub mod layer;
pub mod network;
pub mod node;
pub mod options;
pub mod report_store;
pub mod rng;
pub mod routing;
pub mod run;
pub mod serve;
pub mod state;
pub mod swarm;
pub mod sweep;
pub mod traffic;
pub mod world;
