//! How fast the body of a request must come: a long one may take long, as long as it comes.
//!
//! Only the time counts in which the client is waited for. What the reader takes for itself, the disk's or a leader's
//! time, is no fault of the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Buf as _, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The slowest that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many bytes, or the end of the body,
    pub bytes: u64,
    /// within so much time that is waited for them.
    pub within: Duration,
}

impl Default for Pace {
    /// About 2 KiB/s: a hundredth of what the slowest network of a node brings, and the block that an upload is written
    /// in.
    fn default() -> Self {
        Self {
            bytes: 64 << 10,
            within: Duration::from_secs(30),
        }
    }
}

/// A body came more slowly than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fewer than {} bytes came within {} s", .0.bytes, .0.within.as_secs_f32())]
pub struct TooSlow(pub Pace);

impl TooSlow {
    /// That which a body's error is about, if it is one.
    pub(in crate::http) fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(too_slow) = error.downcast_ref::<Self>() {
                return Some(*too_slow);
            }
            cause = error.source();
        }
        None
    }
}

/// A body that ends with [`TooSlow`] where it does not keep its pace.
#[derive(Debug)]
pub(super) struct Paced<B> {
    body: B,
    pace: Pace,
    /// What came since it was last fast enough, and how long it was waited for.
    bytes: u64,
    waited: Duration,
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, pace: Pace) -> Self {
        Self {
            body,
            pace,
            bytes: 0,
            waited: Duration::ZERO,
            wait: None,
        }
    }

    fn note_arrived(&mut self, bytes: usize) {
        if let Some(wait) = self.wait.take() {
            self.waited += wait.since.elapsed();
        }
        self.bytes += bytes as u64;
        if self.bytes >= self.pace.bytes {
            (self.bytes, self.waited) = (0, Duration::ZERO);
        }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let paced = self.get_mut();
        match Pin::new(&mut paced.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let data = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                paced.note_arrived(data.map_or(0, Bytes::remaining));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let left = paced.pace.within.saturating_sub(paced.waited);
                let wait = paced.wait.get_or_insert_with(|| {
                    let since = Instant::now();
                    let end = Box::pin(sleep_until(since + left));
                    Wait { since, end }
                });
                ready!(wait.end.as_mut().poll(context));
                Poll::Ready(Some(Err(TooSlow(paced.pace).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use tokio::time::sleep;

    use super::*;

    const PACE: Pace = Pace {
        bytes: 100,
        within: Duration::from_secs(10),
    };

    /// Chunks of so many bytes, each so many seconds after the last.
    fn body(chunks: &[(usize, u64)]) -> Paced<Body> {
        let chunks = stream::iter(chunks.to_vec()).then(async |(bytes, after_s)| {
            sleep(Duration::from_secs(after_s)).await;
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes]))
        });
        Paced::new(Body::from_stream(Box::pin(chunks)), PACE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_as_long_as_it_likes_while_it_keeps_its_pace() {
        for (chunks, is_taken) in [
            (vec![(100, 9); 50], true),
            (vec![(50, 4); 50], true),
            (vec![(1, 1); 9], true),
            (vec![(100, 9), (1, 9)], true),
            (vec![(1, 1); 50], false),
            (vec![(99, 6), (0, 6)], false),
            (vec![(100, 1), (1, 11)], false),
        ] {
            let read = body(&chunks).collect().await;
            let error = read.err();
            assert_eq!(error.is_none(), is_taken, "{chunks:?}");
            if let Some(error) = error {
                assert_eq!(TooSlow::of(&*error), Some(TooSlow(PACE)));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_reader_may_take_its_time() {
        let mut body = body(&[(1, 4), (1, 4)]);
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().is_ok());
            sleep(Duration::from_mins(1)).await;
        }
        assert!(body.frame().await.is_none());
    }
}
