//! The way to another replica over HTTP/1.1, on connections that are kept for a while.

use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::ports::forward::{Forward, ForwardBody, ForwardError};

/// A replica of the same cluster that cannot be reached within this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What was sent and not acknowledged for so long went to a machine that is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where nothing is on its way, the other machine is asked for a sign of life so often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A client for replicas. Clones share its connections.
#[derive(Debug, Clone)]
pub struct HttpForward(Client<HttpConnector, ForwardBody>);

impl HttpForward {
    /// A client without connections.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEP_ALIVE));
        connector.set_keepalive_interval(Some(KEEP_ALIVE));
        connector.set_keepalive_retries(Some(1));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(Some(SILENCE_MAX));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Self(client)
    }
}

impl Default for HttpForward {
    fn default() -> Self {
        Self::new()
    }
}

impl Forward for HttpForward {
    async fn forward(
        &self,
        host: &str,
        port: u16,
        mut request: Request<ForwardBody>,
    ) -> Result<Response<ForwardBody>, ForwardError> {
        *request.uri_mut() = absolute(host, port, request.uri()).ok_or(ForwardError::Unreached)?;
        match self.0.request(request).await {
            Ok(response) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(error) if error.is_connect() => Err(ForwardError::Unreached),
            Err(_) => Err(ForwardError::BrokeOff),
        }
    }
}

/// None where the host is none.
fn absolute(host: &str, port: u16, target: &Uri) -> Option<Uri> {
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut parts = target.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(authority).ok()?);
    Uri::from_parts(parts).ok()
}
