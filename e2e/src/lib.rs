//! Tests of the installed controller: what a user of the image and of the chart sees, nothing inside it.
//!
//! `tests/containers.rs` runs the image beside a simulated cluster, `tests/cluster.rs` the chart on a cluster. Both are
//! told what to test by the environment, which `cargo xtask image --test` and `cargo xtask e2e` set; without it they
//! say that they are skipped. This library is what they share: waiting on conditions, HTTP, which cluster may be used,
//! installing the chart in a namespace of its own, and what an execution must have left behind. No crate of the product
//! is linked, and `cargo xtask layers` sees to it.

mod cluster;
mod condition;
mod execution;
mod installation;
mod program;
mod site;
mod stand_in;

pub use cluster::{Cluster, Subject};
pub use condition::await_condition;
pub use execution::Execution;
pub use installation::Installation;
pub use site::Site;
