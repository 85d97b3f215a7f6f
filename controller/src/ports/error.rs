//! Why a call to the cluster did not succeed. The core owns the kinds, because it decides on them.

pub use crate::core::failure::{ClusterError, ClusterErrorKind};
