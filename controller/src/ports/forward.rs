//! The way to another replica: one HTTP request there, one answer back, both streamed.

use std::error::Error;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

/// A body on its way.
pub type ForwardBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Nobody was reached: nothing of the request has left.
    #[error("not reached")]
    Unreached,
    /// It broke off, or its body did: the request may have been carried out.
    #[error("broke off before the answer")]
    BrokeOff,
}

/// Sends requests to other replicas. Clones share their connections.
pub trait Forward: Clone + Send + Sync + 'static {
    /// Sends the request, whose URI is path and query alone, to that port of that host; the answer's body comes as it
    /// is read. A dropped future leaves open what becomes of the request.
    ///
    /// # Errors
    /// [`ForwardError`]; nothing is repeated.
    fn forward(
        &self,
        host: &str,
        port: u16,
        request: Request<ForwardBody>,
    ) -> impl Future<Output = Result<Response<ForwardBody>, ForwardError>> + Send;
}
