//! A request's body as it arrives, counted against the limit of its endpoint.
//!
//! Its reader may give up half-way (a form that is none): the rest can still be read for what it shows of the size,
//! which is answered before anything that the content has wrong.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, Stream};

use super::{too_large, too_slow};
use crate::http::error::HttpError;
use crate::http::server::TooSlow;

/// Why a body is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum IncomingError {
    /// It is over the limit.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// It does not keep the pace.
    #[error("it comes too slowly")]
    TooSlow(#[source] TooSlow),
    /// The connection ended before it.
    #[error("it broke off before its end")]
    BrokeOff,
}

impl From<IncomingError> for HttpError {
    fn from(error: IncomingError) -> Self {
        match error {
            IncomingError::TooLarge(limit) => too_large(limit),
            IncomingError::TooSlow(slow) => too_slow(slow),
            IncomingError::BrokeOff => Self::bad_request(format!("body: {error}")),
        }
    }
}

/// A body that is read by one reader after the other; clones are the same body.
#[derive(Debug, Clone)]
pub(super) struct Incoming(Arc<Mutex<Counted>>);

#[derive(Debug)]
struct Counted {
    chunks: BodyDataStream,
    bytes: u64,
    limit: u64,
    end: Option<Result<(), IncomingError>>,
}

impl Incoming {
    /// A body of at most `limit` bytes.
    pub(super) fn new(body: Body, limit: u64) -> Self {
        Self(Arc::new(Mutex::new(Counted {
            chunks: body.into_data_stream(),
            bytes: 0,
            limit,
            end: None,
        })))
    }

    /// What has not been read yet; it ends with its error, if there is one.
    pub(super) fn chunks(
        &self,
    ) -> impl Stream<Item = Result<Bytes, IncomingError>> + Send + Unpin + 'static {
        let body = Arc::clone(&self.0);
        stream::poll_fn(move |context| {
            // Locked for one poll only: readers take turns.
            let mut counted = body.lock().unwrap_or_else(PoisonError::into_inner);
            counted.poll_next(context)
        })
    }

    /// Why it is not whole, as far as it has been read.
    pub(super) fn error(&self) -> Option<IncomingError> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.end.and_then(Result::err)
    }

    /// Reads what is left, and drops it.
    ///
    /// # Errors
    /// Where the body is not whole.
    pub(super) async fn drain(&self) -> Result<(), IncomingError> {
        let mut chunks = self.chunks();
        while let Some(chunk) = chunks.next().await {
            chunk?;
        }
        Ok(())
    }
}

impl Counted {
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, IncomingError>>> {
        if let Some(end) = self.end {
            return Poll::Ready(end.err().map(Err));
        }
        let end = match ready!(self.chunks.poll_next_unpin(context)) {
            Some(Ok(chunk)) => {
                self.bytes += chunk.len() as u64;
                if self.bytes <= self.limit {
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Err(IncomingError::TooLarge(self.limit))
            }
            Some(Err(error)) => {
                Err(TooSlow::of(&error).map_or(IncomingError::BrokeOff, IncomingError::TooSlow))
            }
            None => Ok(()),
        };
        self.end = Some(end);
        Poll::Ready(end.err().map(Err))
    }
}
