//! Error answers: a status and one line of text for the job's author. Causes are logged, not sent.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// An answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError {
    /// The status.
    pub status: StatusCode,
    /// One line, naming the field and the limit where there is one.
    pub message: String,
    /// With 405, the methods that there are.
    pub allow: Option<&'static str>,
    /// Whether it is only that this replica does not lead: another one may take the same request.
    pub is_elsewhere: bool,
}

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
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            // Job scripts that honour it come back when a restart is over.
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
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
