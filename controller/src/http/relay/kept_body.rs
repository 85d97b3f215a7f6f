//! A request's body that can be sent again, as long as all that has arrived of it is kept.
//!
//! It is read as it arrives, by one reader after the other; what was read is kept up to a limit, and read again by the
//! next one. Beyond the limit, or where the memory for bodies is used up, nothing is kept, and the reader that is at it
//! is the last.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, Stream};

use crate::http::body_memory::{BodyMemory, Share};
use crate::http::server::TooSlow;

/// Why a reader gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeptBodyError {
    /// The client's connection ended before the body.
    #[error("the body broke off before its end")]
    BrokeOff,
    /// The client sends more slowly than is waited for.
    #[error("the body comes too slowly")]
    TooSlow(#[source] TooSlow),
    /// Another reader began.
    #[error("the body is read by another")]
    Superseded,
}

/// The body. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct KeptBody(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    source: BodyDataStream,
    chunks: Vec<Bytes>,
    bytes: usize,
    /// What the chunks take of the memory for bodies.
    share: Share,
    /// Some of it was read and is not kept.
    is_partial: bool,
    end: Option<Result<(), KeptBodyError>>,
    /// Readers that have begun: only the newest reads.
    readers: u64,
}

impl KeptBody {
    /// A body of which nothing has been read.
    pub(super) fn new(body: Body, memory: &BodyMemory) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            source: body.into_data_stream(),
            chunks: Vec::new(),
            bytes: 0,
            share: memory.share(),
            is_partial: false,
            end: None,
            readers: 0,
        })))
    }

    /// Whether another reader would get all of it.
    pub(super) fn can_repeat(&self) -> bool {
        !self.lock().is_partial
    }

    /// Why there is no more of it, where the client left it unfinished.
    pub(super) fn error(&self) -> Option<KeptBodyError> {
        self.lock().end.and_then(Result::err)
    }

    /// Reads it from the beginning, and keeps at most `keep_max` bytes of it; earlier readers get no more. None where
    /// it cannot be read again.
    pub(super) fn read(
        &self,
        keep_max: usize,
    ) -> Option<impl Stream<Item = Result<Bytes, KeptBodyError>> + Send + use<>> {
        let mut kept = self.lock();
        if kept.is_partial {
            return None;
        }
        kept.readers += 1;
        let mut reader = Reader {
            number: kept.readers,
            next: 0,
            keep_max,
        };
        let body = self.clone();
        Some(stream::poll_fn(move |context| {
            body.lock().poll_next(&mut reader, context)
        }))
    }

    /// Reads what is left of it, at most about so many bytes, and drops it; readers get no more.
    pub(super) async fn drain(&self, bytes_max: usize) {
        self.lock().readers += 1;
        let mut bytes = 0;
        while bytes < bytes_max {
            let next = poll_fn(|context| {
                let mut kept = self.lock();
                match kept.end {
                    Some(_) => Poll::Ready(None),
                    None => kept.source.poll_next_unpin(context),
                }
            });
            match next.await {
                Some(Ok(chunk)) => bytes += chunk.len(),
                Some(Err(_)) | None => return,
            }
        }
    }

    /// Locked for one poll only.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    number: u64,
    /// Of the chunks that are kept.
    next: usize,
    keep_max: usize,
}

impl Kept {
    fn poll_next(
        &mut self,
        reader: &mut Reader,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, KeptBodyError>>> {
        if reader.number != self.readers {
            return Poll::Ready(Some(Err(KeptBodyError::Superseded)));
        }
        if let Some(chunk) = self.chunks.get(reader.next) {
            reader.next += 1;
            return Poll::Ready(Some(Ok(chunk.clone())));
        }
        if let Some(end) = self.end {
            return Poll::Ready(end.err().map(Err));
        }
        let end = match ready!(self.source.poll_next_unpin(context)) {
            Some(Ok(chunk)) => {
                self.keep(&chunk, reader);
                return Poll::Ready(Some(Ok(chunk)));
            }
            Some(Err(error)) => {
                Err(TooSlow::of(&error).map_or(KeptBodyError::BrokeOff, KeptBodyError::TooSlow))
            }
            None => Ok(()),
        };
        self.end = Some(end);
        Poll::Ready(end.err().map(Err))
    }

    fn keep(&mut self, chunk: &Bytes, reader: &mut Reader) {
        if self.is_partial || chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        if self.bytes <= reader.keep_max && self.share.grow(chunk.len()) {
            self.chunks.push(chunk.clone());
            reader.next = self.chunks.len();
        } else {
            self.is_partial = true;
            self.chunks = Vec::new();
            self.share.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::FutureExt as _;

    use super::*;

    fn body(chunks: &[&'static str], is_whole: bool) -> KeptBody {
        let mut items: Vec<io::Result<Bytes>> = (chunks.iter())
            .map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())))
            .collect();
        if !is_whole {
            items.push(Err(io::Error::other("reset")));
        }
        KeptBody::new(Body::from_stream(stream::iter(items)), &BodyMemory::new())
    }

    type Read = Result<String, KeptBodyError>;

    /// What the stream gives without waiting, at most so many chunks.
    fn take(
        stream: &mut (impl Stream<Item = Result<Bytes, KeptBodyError>> + Unpin),
        count: usize,
    ) -> Read {
        let mut text = String::new();
        for _ in 0..count {
            let Some(Some(chunk)) = stream.next().now_or_never() else {
                break;
            };
            text.push_str(std::str::from_utf8(&chunk?).unwrap());
        }
        Ok(text)
    }

    #[test]
    fn a_small_body_is_read_again_from_its_beginning_wherever_the_last_reader_stood() {
        for stood in 0..4 {
            let body = body(&["ab", "cd", "ef"], true);
            let mut first = body.read(6).unwrap();
            take(&mut first, stood).unwrap();
            assert!(body.can_repeat());
            let mut second = body.read(6).unwrap();
            assert_eq!(take(&mut first, 9), Err(KeptBodyError::Superseded));
            assert_eq!(take(&mut second, 9).unwrap(), "abcdef", "{stood}");
        }
    }

    #[test]
    fn a_body_beyond_the_limit_is_read_whole_once_and_may_begin_again_only_before_that_shows() {
        let body = body(&["ab", "cd", "ef"], true);
        let mut first = body.read(3).unwrap();
        assert_eq!(take(&mut first, 1).unwrap(), "ab");
        let mut second = body.read(3).unwrap();
        assert_eq!(take(&mut second, 2).unwrap(), "abcd");
        assert!(!body.can_repeat());
        assert!(body.read(3).is_none());
        assert_eq!(take(&mut second, 9).unwrap(), "ef");
    }

    #[test]
    fn what_is_left_of_a_body_is_dropped_up_to_a_limit() {
        for (bytes_max, left) in [(1, "ef"), (3, ""), (9, "")] {
            let body = body(&["ab", "cd", "ef"], true);
            let mut reader = body.read(0).unwrap();
            take(&mut reader, 1).unwrap();
            body.drain(bytes_max).now_or_never().unwrap();
            assert_eq!(take(&mut reader, 9), Err(KeptBodyError::Superseded));
            let rest = body.lock().source.next().now_or_never().unwrap();
            let rest = rest.map_or(Bytes::new(), Result::unwrap);
            assert_eq!(rest, left, "{bytes_max}");
        }
    }

    #[test]
    fn where_memory_is_used_up_a_body_is_read_once() {
        let memory = BodyMemory::new();
        let mut others = memory.share();
        while others.grow(1 << 20) {}
        while others.grow(1) {}
        let items = [
            Ok::<_, io::Error>(Bytes::from_static(b"ab")),
            Ok(Bytes::from_static(b"cd")),
        ];
        let body = KeptBody::new(Body::from_stream(stream::iter(items)), &memory);
        let mut only = body.read(3).unwrap();
        assert_eq!(take(&mut only, 1).unwrap(), "ab");
        assert!(!body.can_repeat());
        assert_eq!(take(&mut only, 9).unwrap(), "cd");
    }

    #[test]
    fn a_body_that_breaks_off_does_so_for_every_reader() {
        let body = body(&["ab"], false);
        for _ in 0..2 {
            let mut reader = body.read(3).unwrap();
            assert_eq!(take(&mut reader, 9), Err(KeptBodyError::BrokeOff));
        }
        assert_eq!(body.error(), Some(KeptBodyError::BrokeOff));
    }
}
