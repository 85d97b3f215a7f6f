//! Whether a request shows the token of a job pod, and of which attempt.
//!
//! A token stands in the path, or in the header `Authorization: Bearer`. It says nothing of whether its pod still may
//! call back: that is the leader's to know, while every replica can tell a right token from a wrong one before it keeps
//! anything of a request.

use std::sync::Arc;

use axum::extract::Request;
use http::{HeaderMap, Method, StatusCode, header};

use super::target::{Endpoint, Target};
use crate::config::CallbackAuth;
use crate::core::callback_token::CallbackTokens;
use crate::http::error::HttpError;

/// Which requests are let in.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// None where nobody needs one and none is looked at.
    tokens: Option<CallbackTokens>,
    is_required: bool,
}

/// What a request that is let in has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The token of this attempt.
    Attempt(u32),
    /// None, where one would have been better.
    Nothing,
    /// Nothing that matters.
    Whatever,
}

/// A post that is let in: what it asks for, and what it has shown. It is looked at once, and goes with the request.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) target: Target,
    pub(super) shown: Shown,
}

/// Why a request is not let in.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Where its path names one.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) error: HttpError,
}

impl Claim {
    /// What an earlier layer found, or what there is to be found. All layers have the same rules.
    ///
    /// # Errors
    /// 400 or 404 for the path, 405, 401, the first that applies.
    pub(super) fn of(
        request: &mut Request,
        authentication: &Authentication,
    ) -> Result<Arc<Self>, Refusal> {
        if let Some(found) = request.extensions().get::<Arc<Self>>() {
            return Ok(Arc::clone(found));
        }
        let target = Target::parse(request.uri().path()).map_err(|error| Refusal {
            endpoint: None,
            error,
        })?;
        let refused = |error| Refusal {
            endpoint: Some(target.endpoint),
            error,
        };
        if request.method() != Method::POST {
            return Err(refused(HttpError::method_not_allowed("POST")));
        }
        let shown = (authentication.check(&target, request.headers())).map_err(refused)?;
        let claim = Arc::new(Self { target, shown });
        request.extensions_mut().insert(Arc::clone(&claim));
        Ok(claim)
    }
}

impl Authentication {
    /// Lets everybody in.
    #[must_use]
    pub fn off() -> Self {
        Self {
            tokens: None,
            is_required: false,
        }
    }

    /// Lets in whom `callbackAuth` says.
    #[must_use]
    pub fn new(mode: CallbackAuth, tokens: CallbackTokens) -> Self {
        Self {
            tokens: (mode != CallbackAuth::Off).then_some(tokens),
            is_required: mode == CallbackAuth::Required,
        }
    }

    /// Whether a token is looked at.
    pub(super) fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether nobody is let in without one.
    pub(super) fn is_required(&self) -> bool {
        self.is_required
    }

    /// # Errors
    /// 401 for a wrong token, and for none where one is required.
    fn check(&self, target: &Target, headers: &HeaderMap) -> Result<Shown, HttpError> {
        let Some(tokens) = &self.tokens else {
            return Ok(Shown::Whatever);
        };
        let token = (target.token.as_deref()).or_else(|| bearer(headers));
        match token {
            Some(token) => (tokens.attempt(token, &target.node, &target.execution))
                .map(Shown::Attempt)
                .ok_or_else(|| {
                    unauthorized("token: not that of a job pod of this node and execution")
                }),
            None if self.is_required => Err(unauthorized(
                "token: missing; post to the URLs in CALLBACK_SERVICE_RESULT_URL, _FILE_URL and _EVENT_URL as they are, or send CALLBACK_SERVICE_TOKEN as Authorization: Bearer",
            )),
            None => Ok(Shown::Nothing),
        }
    }
}

/// 401.
pub(super) fn unauthorized(message: &str) -> HttpError {
    HttpError::new(StatusCode::UNAUTHORIZED, message)
}

/// RFC 6750, 2.1; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}
