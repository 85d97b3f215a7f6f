//! Kubernetes events that the controller itself has to tell: about a pod where there is one, else about what owns the
//! job pods.
//!
//! How often something is told is decided by `core::execution`; what job pods ask for is in `job_event`.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tracing::warn;

use super::api_calls::ApiCalls;
use super::job_event::{REPORTING_CONTROLLER, event_name};
use super::{Ports, Settings};
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::entropy::Entropy as _;

/// Longest `note` that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

/// What is told.
#[derive(Debug, Clone)]
pub(super) struct Announcement {
    /// Name and uid of the pod that it is about.
    pub(super) pod: Option<(String, String)>,
    /// `UpperCamelCase`.
    pub(super) reason: String,
    /// For people.
    pub(super) note: String,
    /// What was being done.
    pub(super) action: &'static str,
    /// Whether somebody should look at it.
    pub(super) is_warning: bool,
}

impl Announcement {
    /// About what the controller does, or does not, as it was told to.
    pub(super) fn normal(reason: &str, note: String) -> Self {
        Self {
            pod: None,
            reason: reason.to_owned(),
            note,
            action: "RunExecution",
            is_warning: false,
        }
    }

    /// About what somebody should look at.
    pub(super) fn warning(reason: &str, note: String) -> Self {
        Self {
            is_warning: true,
            ..Self::normal(reason, note)
        }
    }
}

/// Tells it. Whoever cannot be told is logged: an event is a courtesy.
pub(super) async fn tell<P: Ports>(
    api: ApiCalls<P>,
    settings: &Settings,
    announcement: Announcement,
) {
    let reason = announcement.reason.clone();
    let event = kubernetes_event(&api.ports, settings, announcement);
    let created = api
        .write("create_event", api.cluster().create_event(event))
        .await;
    if let Err(error) = created {
        warn!(reason, error = %error, "event not created");
    }
}

fn kubernetes_event<P: Ports>(ports: &P, settings: &Settings, announcement: Announcement) -> Event {
    let owner = owner_reference(settings);
    let pod = announcement.pod.map(|(name, uid)| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name),
        namespace: Some(settings.namespace.clone()),
        uid: Some(uid),
        ..ObjectReference::default()
    });
    let kind = if announcement.is_warning {
        "Warning"
    } else {
        "Normal"
    };
    let related = pod.is_some().then(|| owner.clone());
    let regarding = pod.unwrap_or(owner);
    let name = regarding.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&name, ports.entropy().uuid())),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(ports.clock().wall())),
        reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
        reporting_instance: Some(settings.instance.clone()),
        action: Some(announcement.action.to_owned()),
        reason: Some(announcement.reason),
        note: Some(cut(announcement.note)),
        type_: Some(kind.to_owned()),
        regarding: Some(regarding),
        related,
        ..Event::default()
    }
}

/// What owns the job pods (the controller's Deployment); where that is not known, the controller's own pod, without a
/// uid.
fn owner_reference(settings: &Settings) -> ObjectReference {
    let namespace = Some(settings.namespace.clone());
    match &settings.owner {
        Some(owner) => ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            namespace,
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(settings.instance.clone()),
            namespace,
            ..ObjectReference::default()
        },
    }
}

fn cut(mut note: String) -> String {
    const DOTS: &str = "…";
    if note.len() > NOTE_MAX {
        note.truncate(note.floor_char_boundary(NOTE_MAX - DOTS.len()));
        note.push_str(DOTS);
    }
    note
}
