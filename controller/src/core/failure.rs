//! Why a call to the cluster did not succeed, as the kinds that decisions are made on.

use std::time::Duration;

/// A failed call: the kind decides, the message is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClusterError {
    /// What the core decides on.
    pub kind: ClusterErrorKind,
    /// The API server's message, or the transport's; one line.
    pub message: String,
}

/// The kinds of a failed call. Names are those of Kubernetes' status reasons where one exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterErrorKind {
    /// 404: the object does not exist (any more).
    NotFound,
    /// 409 on a create: an object of that name exists.
    AlreadyExists,
    /// 409 on an update: the object changed since it was read.
    Conflict,
    /// 410: the version asked for is no longer kept; list again.
    Gone,
    /// 429: come again, after `retry_after` where the server named it.
    Throttled {
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// 400, 403, 413, 422, a webhook's denial: the same request will be refused again.
    Refused,
    /// 5xx, 401 while a token rotates, a refused or reset connection, no answer in time.
    /// Of a write the outcome is unknown: it may have happened.
    Unavailable,
}

impl ClusterErrorKind {
    /// The kind of a Kubernetes `Status` that is a failure: its code, its reason and its `retryAfterSeconds`.
    #[must_use]
    pub fn of_status(code: u16, reason: &str, retry_after: Option<Duration>) -> Self {
        match (code, reason) {
            (404, _) => Self::NotFound,
            (409, "AlreadyExists") => Self::AlreadyExists,
            (409, _) => Self::Conflict,
            (410, _) => Self::Gone,
            (429, _) => Self::Throttled { retry_after },
            // The token rotates under us: the client reads it again for the next try.
            (401, _) => Self::Unavailable,
            (400..=499, _) => Self::Refused,
            _ => Self::Unavailable,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Throttled { .. } | Self::Unavailable | Self::Conflict | Self::Gone
        )
    }

    /// The label value of metrics: bounded, stable.
    #[must_use]
    pub fn category(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Throttled { .. } => "throttled",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl ClusterError {
    /// An error of `kind` with a message for people.
    #[must_use]
    pub fn new(kind: ClusterErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
