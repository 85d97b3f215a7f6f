//! The contract suite of the cluster port over the real Kubernetes client on the simulated API server's Router: no
//! sockets, virtual time.

mod common;

use controller::adapter::kube_cluster::KubeCluster;
use controller::ports::cluster_contract::{self, NAMESPACE, OWNER};

fn kube_cluster(cluster: &common::Cluster) -> KubeCluster {
    let client = kube::Client::new(cluster.api.router(), NAMESPACE);
    KubeCluster::new(client, NAMESPACE, OWNER)
}

contract!(kube_cluster);
