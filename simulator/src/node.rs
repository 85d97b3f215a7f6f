//! Fake nodes: objects as large as real ones (about 12 kB, most of it images), their leases, and their addresses.
//!
//! Everything follows from the node's number, so that two runs have the same nodes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kubelet::rfc3339;

/// The namespace in which kubelets keep their leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// A kubelet renews its lease this often, in seconds (`nodeStatusUpdateFrequency` of a quarter of the lease).
pub const LEASE_RENEWAL_SECONDS: u64 = 10;

/// A kubelet's lease is good for this long.
const LEASE_SECONDS: u32 = 40;

/// Images on a node: a kubelet reports at most 50 (`nodeStatusMaxImages`).
const IMAGES: u32 = 50;

/// What the nodes of a cluster have in common beside what all fake nodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeShape {
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// How many images each reports. They are most of a node's size; nothing but a reader of whole nodes needs them.
    pub images: u32,
}

/// As large as a real node, without further labels.
impl Default for NodeShape {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            images: IMAGES,
        }
    }
}

const KUBELET_VERSION: &str = "v1.35.0";

/// The name of node `number`, counted from 1.
#[must_use]
pub fn name(number: u32) -> String {
    format!("node-{number}")
}

/// The number of the fake node called `name`; none where no fake node is called so.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("node-")?;
    let number = digits.parse().ok()?;
    (number > 0 && self::name(number) == name).then_some(number)
}

/// The `InternalIP` of node `number`, within 172.16.0.0/12.
#[must_use]
pub fn host_ip(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("172.{}.{middle}.{low}", 16 + high % 16)
}

/// The address of the `count`-th pod of the cluster, within 10.128.0.0/9; after eight million they come again.
#[must_use]
pub fn pod_ip(count: u32) -> String {
    let [_, high, middle, low] = count.to_be_bytes();
    format!("10.{}.{middle}.{low}", 128 + high % 128)
}

/// The Node object of node `number`, Ready since `now`.
#[must_use]
pub fn object(number: u32, now: Timestamp, shape: &NodeShape) -> Value {
    let name = name(number);
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node-role.kubernetes.io/worker": "",
                "node.kubernetes.io/instance-type": "m5.xlarge",
                "topology.kubernetes.io/region": "sim",
                "topology.kubernetes.io/zone": format!("sim-{}", ["a", "b", "c"][number as usize % 3]),
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {
            "podCIDR": format!("10.{}.{}.0/24", 128 + (number >> 8) % 128, number % 256),
            "podCIDRs": [format!("10.{}.{}.0/24", 128 + (number >> 8) % 128, number % 256)],
            "providerID": format!("sim:///{name}"),
        },
        "status": status(number, now, shape.images),
    });
    for (label, value) in &shape.labels {
        node["metadata"]["labels"][label] = value.as_str().into();
    }
    node
}

fn status(number: u32, now: Timestamp, image_count: u32) -> Value {
    json!({
        "capacity": {
            "cpu": "4", "ephemeral-storage": "83872748Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
            "memory": "15991024Ki", "pods": "110",
        },
        "allocatable": {
            "cpu": "3920m", "ephemeral-storage": "76224326324", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
            "memory": "14974192Ki", "pods": "110",
        },
        "conditions": conditions(now),
        "addresses": [
            {"type": "InternalIP", "address": host_ip(number)},
            {"type": "Hostname", "address": name(number)},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": format!("{number:032x}"),
            "systemUUID": format!("{number:08x}-0000-4000-8000-000000000000"),
            "bootID": format!("{number:08x}-0000-4000-8000-000000000001"),
            "kernelVersion": "6.12.0",
            "osImage": "Simulated Linux",
            "containerRuntimeVersion": "containerd://2.1.4",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
        "images": images(image_count),
    })
}

fn conditions(now: Timestamp) -> Value {
    let now = rfc3339(now);
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if holds { "True" } else { "False" },
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        })
    };
    Value::Array(vec![
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ])
}

/// The images of a node: each known by digest and by tag, as a kubelet lists them.
fn images(count: u32) -> Value {
    let image = |index: u32| {
        let digest = format!("{index:064x}");
        json!({
            "names": [
                format!("registry.example.com/platform/component-{index}@sha256:{digest}"),
                format!("registry.example.com/platform/component-{index}:v1.{index}.0"),
            ],
            "sizeBytes": 20_000_000 + u64::from(index) * 1_048_576,
        })
    };
    (0..count).map(image).collect()
}

/// The Lease by which the kubelet of node `number` says that it lives.
#[must_use]
pub fn lease(number: u32, now: Timestamp) -> Value {
    let name = name(number);
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": lease_spec(&name, now),
    })
}

/// The `spec` of the lease of the node called `name`, renewed at `now`.
#[must_use]
pub fn lease_spec(name: &str, now: Timestamp) -> Value {
    let mut spec = Map::new();
    spec.insert("holderIdentity".into(), name.into());
    spec.insert("leaseDurationSeconds".into(), LEASE_SECONDS.into());
    let renewed = now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    spec.insert("renewTime".into(), renewed.into());
    Value::Object(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_node_is_as_large_as_a_real_one_and_one_the_api_types_can_read() {
        let node = object(7, now(), &NodeShape::default());
        let bytes = serde_json::to_vec(&node).unwrap().len();
        assert!((11_000..=14_000).contains(&bytes), "{bytes}");
        let typed: k8s_openapi::api::core::v1::Node = serde_json::from_value(node).unwrap();
        let conditions = typed.status.unwrap().conditions.unwrap();
        assert!(
            conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        );
    }

    #[test]
    fn a_lease_is_one_the_api_types_can_read() {
        let lease: k8s_openapi::api::coordination::v1::Lease =
            serde_json::from_value(lease(7, now())).unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("node-7"));
        assert!(spec.renew_time.is_some());
    }

    #[test]
    fn numbers_and_names_go_both_ways_and_other_names_are_nobodys() {
        assert_eq!(number(&name(5_000)), Some(5_000));
        for foreign in ["node-0", "node-01", "node-", "node-x", "other-1", "node-+1"] {
            assert_eq!(number(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn addresses_differ_between_nodes() {
        assert_eq!(host_ip(1), "172.16.0.1");
        assert_eq!(host_ip(5_000), "172.16.19.136");
        assert_eq!(pod_ip(65_537), "10.129.0.1");
    }
}
