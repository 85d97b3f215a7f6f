//! One listener that serves one router: how many connections, what each may take, and for how long.
//!
//! Slow clients hold nobody up. A connection that waits for a request, or has sent half of one's head, ends where
//! others need its place, the longest waiting first, and after a while in any case. A body must come at a pace
//! (`pace.rs`), an answer must be taken. What a client may make the process keep is a head and a buffer; handlers have
//! limits of their own.

mod pace;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::serve::Listener;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use self::pace::Paced;
pub use self::pace::{Pace, TooSlow};

/// The longest head of a request: far above what job pods, browsers and Prometheus send.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What is read of a connection at once, at most.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// What connections are held to.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// How many there are at a time; further ones wait until they are accepted.
    pub connections: usize,
    /// How long a connection may wait for a request, until its head is whole.
    pub head_timeout: Duration,
    /// How fast a body must come.
    pub pace: Pace,
    /// How long an answer may be on its way of which the other side takes nothing.
    pub send_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            // Each job pod has one or two for a moment; a connection takes about 20 KiB.
            connections: 4096,
            // Above what connections between replicas are kept for.
            head_timeout: Duration::from_mins(1),
            pace: Pace::default(),
            send_timeout: Duration::from_mins(2),
        }
    }
}

/// Serves until `shutdown`, then answers what is under way.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Places::new(limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    loop {
        let accepted = async {
            // The trait's: it waits where the system has no descriptor left.
            let (stream, _) = Listener::accept(&mut listener).await;
            (stream, places.taken().await)
        };
        let (stream, place) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        prepare(&stream, &limits);
        let (router, taken) = (router.clone(), Arc::clone(&place));
        let service = service_fn(move |request: Request<Incoming>| {
            let served = Served::begin(&taken);
            let request = request.map(|body| Body::new(Paced::new(body, limits.pace)));
            let answer = router.clone().oneshot(request);
            async move {
                let answer = answer.await;
                Ok::<Response<_>, Infallible>(answer?.map(|body| Answer {
                    body,
                    _served: served,
                }))
            }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    debug!(error = %error, "connection broke off");
                },
                () = place.end.notified() => debug!("connection gave way to another"),
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// What the system does for a connection. Where it does not, the other limits hold.
fn prepare(stream: &TcpStream, limits: &ServerLimits) {
    // Answers are small: waiting for more to send would only delay the job pod.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(limits.send_timeout.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
    }
}

/// The connections of a listener.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// One more waits for a request.
    more: Notify,
}

/// The connections without a request, in the order in which they began to wait.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    ends: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            waiting: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// A place for a new connection: that of the one that waits longest, where no other is free.
    async fn taken(self: &Arc<Self>) -> Arc<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            let longest = self.waiting().ends.pop_first();
            if let Some((_, end)) = &longest {
                end.notify_one();
            }
            tokio::select! {
                biased;
                permit = Arc::clone(&self.free).acquire_owned() => {
                    break permit.expect("the semaphore is never closed");
                }
                // Where one gives way already, no other has to.
                () = self.more.notified(), if longest.is_none() => {}
            }
        };
        let place = Arc::new(Place {
            places: Arc::clone(self),
            end: Arc::default(),
            waits_as: Mutex::default(),
            _permit: permit,
        });
        place.wait();
        place
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection takes; it is free when this is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    end: Arc<Notify>,
    /// None while it has a request.
    waits_as: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// It has no request.
    fn wait(&self) {
        let mut waiting = self.places.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.ends.insert(number, Arc::clone(&self.end));
        drop(waiting);
        *self.waits_as() = Some(number);
        self.places.more.notify_one();
    }

    /// It waits no longer.
    fn stop_waiting(&self) {
        let number = self.waits_as().take();
        if let Some(number) = number {
            self.places.waiting().ends.remove(&number);
        }
    }

    fn waits_as(&self) -> MutexGuard<'_, Option<u64>> {
        self.waits_as.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

/// A request from its head to the end of its answer.
#[derive(Debug)]
struct Served(Arc<Place>);

impl Served {
    fn begin(place: &Arc<Place>) -> Self {
        place.stop_waiting();
        Self(Arc::clone(place))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _served: Served,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
