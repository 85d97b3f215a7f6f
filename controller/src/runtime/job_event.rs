//! Kubernetes events that job pods ask for, about themselves.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use uuid::Uuid;

use super::api_calls::ApiCalls;
use super::event::PostEventError;
use super::{Ports, Settings};
use crate::core::event_message::EventReport;
use crate::core::ids::ExecutionId;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::entropy::Entropy as _;
use crate::ports::error::ClusterErrorKind;

/// The reporting controller of every event, as `kubectl describe` shows it.
pub(super) const REPORTING_CONTROLLER: &str = "batch-job-controller";

/// The pod that an event is about.
#[derive(Debug, Clone)]
pub(super) struct Regarding {
    /// The pod's name.
    pub(super) pod_name: String,
    /// Its uid where it is known to exist; else it is read first.
    pub(super) uid: Option<String>,
    /// The execution it must belong to.
    pub(super) execution: ExecutionId,
    /// The node it must run on.
    pub(super) node: String,
}

/// Creates the event; reads the pod first where its uid is not known.
pub(super) async fn post<P: Ports>(
    api: &ApiCalls<P>,
    settings: &Settings,
    regarding: Regarding,
    event: &EventReport,
) -> Result<(), PostEventError> {
    let uid = match regarding.uid.clone() {
        Some(uid) => uid,
        None => read_uid(api, &regarding).await?,
    };
    let event = kubernetes_event(
        settings,
        &regarding.pod_name,
        uid,
        event,
        api.ports.clock().wall(),
        api.ports.entropy().uuid(),
    );
    let created = api
        .write("create_event", api.cluster().create_event(event))
        .await;
    created.map_err(PostEventError::Cluster)
}

async fn read_uid<P: Ports>(
    api: &ApiCalls<P>,
    regarding: &Regarding,
) -> Result<String, PostEventError> {
    let name = &regarding.pod_name;
    let gone = || PostEventError::PodGone(name.clone());
    let read = api.call("get_pod", api.cluster().get_pod(name)).await;
    let pod = read.map_err(|error| match error.kind {
        ClusterErrorKind::NotFound => gone(),
        _ => PostEventError::Cluster(error),
    })?;
    let ours = pod.execution.as_ref() == Some(&regarding.execution) && pod.node == regarding.node;
    if ours { Ok(pod.uid) } else { Err(gone()) }
}

fn kubernetes_event(
    settings: &Settings,
    pod_name: &str,
    pod_uid: String,
    event: &EventReport,
    now: Timestamp,
    id: Uuid,
) -> Event {
    let pod = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod_name.to_owned()),
        namespace: Some(settings.namespace.clone()),
        uid: Some(pod_uid),
        ..ObjectReference::default()
    };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(pod_name, id)),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
        reporting_instance: Some(settings.instance.clone()),
        action: Some(event.action.clone()),
        reason: Some(event.reason.clone()),
        note: Some(event.note.clone()),
        type_: Some(event.event_type().to_owned()),
        related: Some(pod.clone()),
        regarding: Some(pod),
        ..Event::default()
    }
}

/// `<object>.<16 hex digits>`, the object's name cut so that it stays a valid one.
pub(super) fn event_name(pod_name: &str, id: Uuid) -> String {
    const MAX: usize = 253 - 17;
    let (high, _) = id.as_u64_pair();
    let pod_name = pod_name.get(..MAX).unwrap_or(pod_name);
    format!("{}.{high:016x}", pod_name.trim_end_matches(['.', '-']))
}
