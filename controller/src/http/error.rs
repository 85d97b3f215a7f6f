//! Error answers: a status and one line of text for the job's author. Causes are logged, not sent.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// An answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError {
    /// The status.
    pub status: StatusCode,
    /// One line, naming the field and the limit where there is one.
    pub message: String,
    /// When the same request may come again.
    pub retry_after: Option<Duration>,
    /// With 405, the methods that there are.
    pub allow: Option<&'static str>,
    /// Whether it is only that this replica does not lead: another one may take the same request.
    pub is_elsewhere: bool,
}

/// After a 503: job scripts that honour it come back when a restart is over.
const RESTART: Duration = Duration::from_secs(5);

/// In the extensions of an answer: [`HttpError::is_elsewhere`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere;

impl HttpError {
    /// An answer with this status and line.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RESTART),
            allow: None,
            is_elsewhere: false,
        }
    }

    /// 503, because this replica does not lead.
    #[must_use]
    pub fn elsewhere(message: impl Into<String>) -> Self {
        Self {
            is_elsewhere: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// 405, with the methods of the path as `Allow` lists them.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("method: must be {allow}"),
            )
        }
    }

    /// 429.
    #[must_use]
    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, self.message.replace(['\r', '\n'], " ") + "\n").into_response();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_elsewhere {
            response.extensions_mut().insert(Elsewhere);
        }
        if let Some(allow) = self.allow {
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}
