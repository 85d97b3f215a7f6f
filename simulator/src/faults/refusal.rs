//! How an API server words what it refuses: the Status of each kind of fault that is answered with one.

use super::{Call, Fault, Kind, Verb};
use crate::state::{Details, Status};

/// What a service account that lost a right is called in the answer.
const USER: &str = "system:serviceaccount:default:default";

/// The Status that a fault is answered with; none for those that are no answer.
#[must_use]
pub(crate) fn status(fault: &Fault, call: &Call) -> Option<Status> {
    let quoted = if call.name.is_empty() {
        call.qualified()
    } else {
        format!("{} {:?}", call.qualified(), call.name)
    };
    let (code, reason, message) = match fault.kind {
        Kind::TooManyRequests => (
            429,
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later"
                .to_owned(),
        ),
        Kind::InternalError | Kind::PageFailed => (
            500,
            "InternalError",
            "Internal error occurred: etcdserver: leader changed".to_owned(),
        ),
        Kind::BadGateway => (502, "", "502 Bad Gateway".to_owned()),
        Kind::ServiceUnavailable => (
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request".to_owned(),
        ),
        Kind::GatewayTimeout | Kind::TimeoutAfterCommit => (
            504,
            "Timeout",
            "Timeout: request did not complete within the allotted timeout".to_owned(),
        ),
        Kind::Unauthorized => (401, "Unauthorized", "Unauthorized".to_owned()),
        Kind::Conflict => (
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {quoted}: the object has been modified; please apply your changes to the latest version and try again"
            ),
        ),
        Kind::Forbidden => (
            403,
            "Forbidden",
            format!(
                "{quoted} is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1"
            ),
        ),
        Kind::Invalid => (
            422,
            "Invalid",
            format!(
                "{quoted} is invalid: metadata.annotations: Invalid value: \"\": not by this server"
            ),
        ),
        Kind::WebhookDenied => (
            400,
            "",
            "admission webhook \"policy.example.com\" denied the request: not by this policy"
                .to_owned(),
        ),
        Kind::VerbLost => (403, "Forbidden", lost(call, &quoted)),
        Kind::GoneAtStart | Kind::GoneInStream | Kind::MissedState | Kind::SameNameNewUid => {
            let version = call.version;
            return Some(Status::too_old(version, version + 1));
        }
        Kind::ContinueExpired => {
            return Some(Status::expired(
                "The provided continue parameter is too old to display a consistent list result.",
            ));
        }
        _ => return None,
    };
    let retry_after_seconds = (fault.kind == Kind::TooManyRequests)
        .then(|| u32::try_from(fault.delay.as_secs()).unwrap_or(u32::MAX));
    Some(Status {
        code,
        reason,
        message,
        details: Some(Box::new(Details {
            name: call.name.clone(),
            group: call.group.to_owned(),
            kind: call.resource.to_owned(),
            retry_after_seconds,
            ..Details::default()
        })),
    })
}

/// The kind of permanent refusal that a message of these is about.
#[must_use]
pub(crate) fn refusal_in(message: &str) -> Option<Kind> {
    let marks = [
        ("exceeded quota", Kind::Forbidden),
        ("not by this server", Kind::Invalid),
        ("admission webhook", Kind::WebhookDenied),
        (USER, Kind::VerbLost),
    ];
    let found = marks.iter().find(|(mark, _)| message.contains(mark));
    found.map(|(_, kind)| *kind)
}

fn lost(call: &Call, quoted: &str) -> String {
    let verb = call.verb.name();
    let place = if call.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", call.namespace)
    };
    // A create names no object here: authorization does not read bodies.
    let subject = if call.verb == Verb::Create {
        call.qualified()
    } else {
        quoted.to_owned()
    };
    format!(
        "{subject} is forbidden: User {USER:?} cannot {verb} resource {:?} in API group {:?} {place}",
        call.resource, call.group
    )
}
