//! The contract suite of the cluster port over the in-memory cluster.

mod common;

use controller::ports::cluster_contract::{self, NAMESPACE, OWNER};
use simulator::cluster::SimCluster;

fn sim_cluster(cluster: &common::Cluster) -> SimCluster {
    SimCluster::new(cluster.api.clone(), NAMESPACE, OWNER)
}

contract!(sim_cluster);
