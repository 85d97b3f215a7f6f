//! Tests of the installed controller on a real cluster: what a user of the chart sees, nothing inside it.
//!
//! Nothing stands here yet. The tests come with the chart and the image: each takes a temporary namespace, waits on
//! conditions instead of sleeping, dumps pods, events and logs when it fails, and refuses a cluster that it was not
//! given. They link no crate of the product, and `cargo xtask layers` sees to it.
