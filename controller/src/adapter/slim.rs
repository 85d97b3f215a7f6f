//! Nodes and pods decoded into just the fields that the core uses: a real node is 12 kB of JSON, a view some hundred
//! bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use crate::core::ids::ExecutionId;
use crate::core::names::{LABEL_EXECUTION_ID, LABEL_OWNER};
use crate::core::taint::Taint;
use crate::core::views::{NodeView, PodPhase, PodView, Waiting};

/// The part of a node that [`NodeView`] needs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SlimNode {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct NodeSpec {
    #[serde(default)]
    unschedulable: bool,
    #[serde(default)]
    taints: Vec<NodeTaint>,
}

#[derive(Debug, Clone, Deserialize)]
struct NodeTaint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// The part of a pod that [`PodView`] needs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SlimPod {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    init_containers: Vec<Named>,
    #[serde(default)]
    containers: Vec<Named>,
}

#[derive(Debug, Clone, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Deserialize)]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ContainerState {
    terminated: Option<Terminated>,
    waiting: Option<WaitingState>,
}

#[derive(Debug, Clone, Deserialize)]
struct WaitingState {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The metadata without `managedFields` and annotations, which are the larger part of it.
fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        deletion_grace_period_seconds: Option<i64>,
        labels: Option<BTreeMap<String, String>>,
    }
    let slim = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        uid: slim.uid,
        resource_version: slim.resource_version,
        deletion_timestamp: slim.deletion_timestamp,
        deletion_grace_period_seconds: slim.deletion_grace_period_seconds,
        labels: slim.labels,
        ..ObjectMeta::default()
    })
}

impl From<SlimNode> for NodeView {
    fn from(node: SlimNode) -> Self {
        Self {
            name: node.metadata.name.unwrap_or_default(),
            uid: node.metadata.uid.unwrap_or_default(),
            version: (node.metadata.resource_version)
                .and_then(|version| version.parse().ok())
                .unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            unschedulable: node.spec.unschedulable,
            taints: (node.spec.taints.into_iter())
                .map(|taint| Taint {
                    key: taint.key,
                    value: taint.value,
                    effect: taint.effect,
                })
                .collect(),
            ready: (node.status.conditions.iter())
                .any(|condition| condition.r#type == "Ready" && condition.status == "True"),
        }
    }
}

impl From<SlimPod> for PodView {
    fn from(pod: SlimPod) -> Self {
        let labels = pod.metadata.labels.unwrap_or_default();
        let (reason, message) = pod.status.reason_and_message();
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            node: pod.spec.node_name,
            owner: labels.get(LABEL_OWNER).cloned().unwrap_or_default(),
            execution: labels
                .get(LABEL_EXECUTION_ID)
                .and_then(|id| ExecutionId::parse(id)),
            phase: PodPhase::parse(pod.status.phase.as_deref()),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
            reason,
            message,
            waiting: pod.status.waiting(),
            containers: (pod.spec.init_containers.into_iter())
                .chain(pod.spec.containers)
                .map(|container| container.name)
                .collect(),
        }
    }
}

impl PodStatus {
    fn waiting(&self) -> Option<Waiting> {
        (self.init_container_statuses.iter())
            .chain(&self.container_statuses)
            .find_map(|container| {
                let waiting = container.state.waiting.as_ref()?;
                Waiting::is_trouble(&waiting.reason).then(|| Waiting {
                    container: container.name.clone(),
                    reason: waiting.reason.clone(),
                    message: waiting.message.clone(),
                })
            })
    }

    /// The pod's own words, else those of the first container that failed.
    fn reason_and_message(&self) -> (String, String) {
        if !self.reason.is_empty() || !self.message.is_empty() {
            return (self.reason.clone(), self.message.clone());
        }
        let failed = (self.init_container_statuses.iter())
            .chain(&self.container_statuses)
            .find_map(|container| {
                let terminated = container.state.terminated.as_ref()?;
                (terminated.exit_code != 0).then_some((container, terminated))
            });
        let Some((container, terminated)) = failed else {
            return Default::default();
        };
        let mut message = format!(
            "container {} exited with {}",
            container.name, terminated.exit_code
        );
        if !terminated.message.is_empty() {
            message = format!("{message}: {}", terminated.message.trim());
        }
        (terminated.reason.clone(), message)
    }
}

macro_rules! core_v1_resource {
    ($type:ty, $kind:literal, $plural:literal, $scope:ty) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

core_v1_resource!(SlimNode, "Node", "nodes", kube::core::ClusterResourceScope);
core_v1_resource!(SlimPod, "Pod", "pods", kube::core::NamespaceResourceScope);
