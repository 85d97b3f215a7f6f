//! Translates the Kubernetes client's errors into the kinds that the core decides on.

use std::fmt::Write as _;
use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;

use crate::ports::error::{ClusterError, ClusterErrorKind};

/// The kind of a client error, with one line for people.
#[must_use]
pub(super) fn from_client(error: &kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => from_status(status),
        // Refused and reset connections, time-outs, a body that broke off: the server may be well again in a moment.
        other => ClusterError::new(ClusterErrorKind::Unavailable, with_fix(with_sources(other))),
    }
}

/// The kind of an error that the watch reported.
#[must_use]
pub(super) fn from_watcher(error: &watcher::Error) -> ClusterError {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => from_client(error),
        watcher::Error::WatchError(status) => from_status(status),
        watcher::Error::NoResourceVersion => {
            ClusterError::new(ClusterErrorKind::Unavailable, with_sources(error))
        }
    }
}

/// The kind of a refusal, or of an ERROR event of a watch.
#[must_use]
pub(super) fn from_status(status: &Status) -> ClusterError {
    let kind = ClusterErrorKind::of_status(status.code, &status.reason, retry_after(status));
    ClusterError::new(kind, describe(status))
}

/// What rustls says of a certificate that no known authority has signed.
const FOREIGN_CERTIFICATES: [&str; 2] = [
    "invalid peer certificate: UnknownIssuer",
    "invalid peer certificate: BadSignature",
];

fn with_fix(message: String) -> String {
    if FOREIGN_CERTIFICATES
        .iter()
        .any(|said| message.contains(said))
    {
        return format!(
            "{message}: the certificate authority that the kubeconfig or the service account names has not signed the API \
             server's certificate; check certificate-authority-data, or who answers at the server's address"
        );
    }
    message
}

fn describe(status: &Status) -> String {
    if status.code == 401 {
        return "Unauthorized: the API server does not accept the credentials; check the token or the client certificate of \
                the kubeconfig, or the token of the service account"
            .to_owned();
    }
    match (status.message.trim(), status.reason.as_str()) {
        ("", "") => format!("the API server answered {}", status.code),
        ("", reason) => format!("the API server answered {} {reason}", status.code),
        (message, _) => message.replace('\n', " "),
    }
}

fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some layers repeat their source in their own words.
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: u16, reason: &str) -> ClusterErrorKind {
        let mut status = Status::failure("the message", reason);
        status.code = code;
        from_client(&kube::Error::Api(status.boxed())).kind
    }

    #[test]
    fn the_status_code_and_reason_decide_the_kind() {
        assert_eq!(kind(404, "NotFound"), ClusterErrorKind::NotFound);
        assert_eq!(kind(409, "AlreadyExists"), ClusterErrorKind::AlreadyExists);
        assert_eq!(kind(409, "Conflict"), ClusterErrorKind::Conflict);
        assert_eq!(kind(410, "Expired"), ClusterErrorKind::Gone);
        assert_eq!(
            kind(429, "TooManyRequests"),
            ClusterErrorKind::Throttled { retry_after: None }
        );
        assert_eq!(kind(401, "Unauthorized"), ClusterErrorKind::Unavailable);
        assert_eq!(kind(403, "Forbidden"), ClusterErrorKind::Refused);
        assert_eq!(kind(422, "Invalid"), ClusterErrorKind::Refused);
        assert_eq!(kind(500, "InternalError"), ClusterErrorKind::Unavailable);
        assert_eq!(kind(504, "Timeout"), ClusterErrorKind::Unavailable);
    }
}
