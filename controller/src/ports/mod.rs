//! What the controller needs from the world, as traits and their data: Kubernetes API types, never a client.
//!
//! `adapter` implements them for a real cluster and machine, the simulator for its in-memory cluster and virtual time.
//! The futures are native (`impl Future + Send`), so an implementation costs no boxing.

pub mod clock;
pub mod cluster;
#[cfg(feature = "contract")]
pub mod cluster_contract;
pub mod entropy;
pub mod error;
pub mod forward;
#[cfg(feature = "contract")]
pub mod forward_contract;
pub mod report_store;
#[cfg(feature = "contract")]
pub mod report_store_contract;
