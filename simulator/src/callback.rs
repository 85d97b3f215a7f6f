//! How a fake pod's posts reach the controller: over real HTTP, or straight into its callback service.
//!
//! A post is repeated on refusal, silence, 429 and 5xx for a bounded time, as a careful job script would; any other
//! answer but a 2xx is final.

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use controller::http::Answering;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use crate::job::Post;
use crate::routing::Route;

/// A pod that hears nothing for this long repeats its post.
const SILENCE: Duration = Duration::from_secs(5);

/// A pod gives up a post after this long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two attempts, where the answer names no other time.
const PAUSE: Duration = Duration::from_secs(1);

/// Posts under way at once: a fleet is one process, with one process' file descriptors (1,024 by default).
const POSTS_IN_FLIGHT: usize = 256;

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The callback answered.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Silent,
    /// The connection broke, or the address means nothing.
    Broken(String),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status, .. } => write!(f, "{}", status.as_u16()),
            Self::Refused => write!(f, "connection refused"),
            Self::Silent => write!(f, "no answer within {} s", SILENCE.as_secs()),
            Self::Broken(reason) => write!(f, "{reason}"),
        }
    }
}

impl Attempt {
    /// Whether the post has arrived.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        matches!(self, Self::Answered { status, .. } if status.is_success())
    }

    /// How long to wait before the next attempt; none where a repetition would get the same answer.
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Answered {
                status,
                retry_after,
            } if *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Some(retry_after.unwrap_or(PAUSE))
            }
            Self::Answered { .. } => None,
            Self::Refused | Self::Silent | Self::Broken(_) => Some(PAUSE),
        }
    }
}

/// How often a pod tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Once (`--post-once`).
    Once,
    /// Until answered, for up to 60 s.
    Repeat,
}

/// Posts until it has arrived, or a repetition is of no use, or patience ends. `heard` is told of each attempt.
/// Cancel safe in the sense that a dropped call leaves open whether the post arrived.
pub async fn post<T: Transport>(
    transport: &T,
    post: &Post,
    namespace: &str,
    persistence: Persistence,
    mut heard: impl FnMut(&Attempt),
) -> Attempt {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let attempt = timeout(SILENCE, transport.attempt(post, namespace))
            .await
            .unwrap_or(Attempt::Silent);
        heard(&attempt);
        let Some(pause) = attempt
            .pause()
            .filter(|_| persistence == Persistence::Repeat)
        else {
            return attempt;
        };
        if Instant::now() + pause >= give_up {
            return attempt;
        }
        sleep(pause).await;
    }
}

/// A way to the callback.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Makes one attempt at `post`, from a pod of `namespace`.
    fn attempt(&self, post: &Post, namespace: &str) -> impl Future<Output = Attempt> + Send;
}

fn request<B>(post: &Post, uri: Uri, body: B) -> Result<Request<B>, Attempt> {
    let mut request = Request::post(uri).header(CONTENT_TYPE, post.content_type);
    if let Some(name) = post.file_name {
        request = request.header(
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        );
    }
    request
        .body(body)
        .map_err(|error| Attempt::Broken(error.to_string()))
}

fn uri(post: &Post) -> Result<Uri, Attempt> {
    let broken = |reason: &dyn fmt::Display| Attempt::Broken(format!("{}: {reason}", post.url));
    post.url.parse().map_err(|error| broken(&error))
}

fn answered(status: StatusCode, headers: &HeaderMap) -> Attempt {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Attempt::Answered {
        status,
        retry_after: seconds.map(Duration::from_secs),
    }
}

/// Straight to what answers in this process: no sockets, so fit for paused time.
#[derive(Debug, Clone)]
pub struct InProcess(pub Answering);

impl Transport for InProcess {
    async fn attempt(&self, post: &Post, _namespace: &str) -> Attempt {
        let request =
            match uri(post).and_then(|uri| request(post, uri, Body::from(post.body.clone()))) {
                Ok(request) => request,
                Err(broken) => return broken,
            };
        match self.0.clone().oneshot(request).await {
            Ok(response) => answered(response.status(), response.headers()),
            Err(never) => match never {},
        }
    }
}

/// Over TCP, with connections kept and Services resolved by `resolve`: (host, port, namespace of the pod).
#[derive(Clone)]
pub struct OverHttp<R> {
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    in_flight: Arc<Semaphore>,
    resolve: R,
}

impl<R> fmt::Debug for OverHttp<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverHttp").finish_non_exhaustive()
    }
}

impl<R> OverHttp<R> {
    /// A client whose connections are shared by all pods.
    #[must_use]
    pub fn new(resolve: R) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(SILENCE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self {
            client,
            in_flight: Arc::new(Semaphore::new(POSTS_IN_FLIGHT)),
            resolve,
        }
    }

    /// One attempt at one backend, with the `Host` that was asked for.
    async fn attempt_at(&self, post: &Post, asked: &Uri, backend: &str) -> Attempt {
        let path = asked.path_and_query().map_or("/", |path| path.as_str());
        let Ok(uri) = format!("http://{backend}{path}").parse::<Uri>() else {
            return Attempt::Broken(format!("{backend}: no address"));
        };
        let mut request = match request(post, uri, Full::new(post.body.clone())) {
            Ok(request) => request,
            Err(broken) => return broken,
        };
        let host = asked.authority().map_or("", |authority| authority.as_str());
        if let Ok(host) = host.parse() {
            request.headers_mut().insert(HOST, host);
        }
        match self.client.request(request).await {
            Ok(response) => {
                let attempt = answered(response.status(), response.headers());
                // The body is read to its end so that the connection can serve again.
                let _ = response.into_body().collect().await;
                attempt
            }
            Err(error) if is_refused(&error) => Attempt::Refused,
            Err(error) => Attempt::Broken(root_cause(&error)),
        }
    }
}

impl<R> Transport for OverHttp<R>
where
    R: Fn(&str, u16, &str) -> Route + Clone + Send + Sync + 'static,
{
    async fn attempt(&self, post: &Post, namespace: &str) -> Attempt {
        let asked = match uri(post) {
            Ok(uri) => uri,
            Err(broken) => return broken,
        };
        let Some(authority) = asked.authority() else {
            return Attempt::Broken(format!("{}: no host", post.url));
        };
        // Never closed, so never an error.
        let _permit = self.in_flight.acquire().await;
        let number = authority.port_u16().unwrap_or(80);
        let backends = match (self.resolve)(authority.host(), number, namespace) {
            Route::Direct => vec![authority.as_str().to_owned()],
            Route::Backends(backends) => backends,
        };
        for backend in backends {
            match self.attempt_at(post, &asked, &backend).await {
                Attempt::Refused => {}
                other => return other,
            }
        }
        Attempt::Refused
    }
}

/// What was accepted, in a file: a line of JSON each, written before the pod goes on. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct Notes(Arc<Mutex<File>>);

impl Notes {
    /// Begins with an empty file.
    ///
    /// # Errors
    /// Where it cannot be created.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(File::create(path)?))))
    }

    fn accepted(&self, post: &Post) {
        let line = json!({
            "kind": post.kind.name(),
            "url": post.url,
            "fileName": post.file_name,
            "body": String::from_utf8_lossy(&post.body),
        });
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::error!(%error, "accepted post not noted");
        }
    }
}

/// A way to the callback that may note what was accepted.
#[derive(Debug, Clone)]
pub struct Noted<T> {
    /// The way itself.
    pub inner: T,
    /// Where to.
    pub notes: Option<Notes>,
}

impl<T: Transport> Transport for Noted<T> {
    async fn attempt(&self, post: &Post, namespace: &str) -> Attempt {
        let attempt = self.inner.attempt(post, namespace).await;
        if let Some(notes) = self.notes.as_ref().filter(|_| attempt.succeeded()) {
            notes.accepted(post);
        }
        attempt
    }
}

fn is_refused(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}

fn root_cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    source.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::PostKind;
    use axum::Router;
    use axum::response::IntoResponse as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn a_post(url: &str) -> Post {
        Post {
            kind: PostKind::Result,
            url: url.to_owned(),
            content_type: "application/json",
            file_name: None,
            body: "{}".into(),
        }
    }

    /// A callback that answers with `status` the first `times` times, and 200 from then on.
    fn faulty(status: StatusCode, times: u32, seen: &Arc<AtomicU32>) -> InProcess {
        let seen = Arc::clone(seen);
        InProcess(Answering::new(Router::new().fallback(move || {
            let count = seen.fetch_add(1, Ordering::Relaxed);
            async move {
                if count < times {
                    (status, [(RETRY_AFTER, "7")]).into_response()
                } else {
                    StatusCode::OK.into_response()
                }
            }
        })))
    }

    async fn run(transport: &impl Transport, persistence: Persistence) -> (Attempt, Duration) {
        let begun = Instant::now();
        let attempt = post(
            transport,
            &a_post("http://h:1/x"),
            "default",
            persistence,
            |_| (),
        )
        .await;
        (attempt, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_callback_is_asked_again_when_it_says() {
        let seen = Arc::default();
        let (attempt, took) = run(
            &faulty(StatusCode::SERVICE_UNAVAILABLE, 2, &seen),
            Persistence::Repeat,
        )
        .await;
        assert!(attempt.succeeded());
        assert_eq!(took, Duration::from_secs(14));
        assert_eq!(seen.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_a_minute() {
        let seen = Arc::default();
        let (attempt, took) = run(
            &faulty(StatusCode::TOO_MANY_REQUESTS, 1_000, &seen),
            Persistence::Repeat,
        )
        .await;
        assert!(!attempt.succeeded());
        assert!(took < PATIENCE, "{took:?}");
        assert_eq!(seen.load(Ordering::Relaxed), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_error_is_final_and_so_is_everything_where_posts_are_made_once() {
        let seen = Arc::default();
        let (attempt, _) = run(
            &faulty(StatusCode::NOT_ACCEPTABLE, 1, &seen),
            Persistence::Repeat,
        )
        .await;
        assert!(!attempt.succeeded());
        let (attempt, _) = run(
            &faulty(StatusCode::BAD_GATEWAY, 1_000, &seen),
            Persistence::Once,
        )
        .await;
        assert!(!attempt.succeeded());
        assert_eq!(seen.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_accepted_is_noted_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let transport = Noted {
            inner: faulty(StatusCode::SERVICE_UNAVAILABLE, 2, &Arc::default()),
            notes: Some(Notes::create(file.path()).unwrap()),
        };
        run(&transport, Persistence::Repeat).await;
        let noted = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> = (noted.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected =
            json!({"kind": "result", "url": "http://h:1/x", "fileName": null, "body": "{}"});
        assert_eq!(lines, [expected]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_an_attempt() {
        let pending = Router::new().fallback(std::future::pending::<StatusCode>);
        let silent = InProcess(Answering::new(pending));
        let (attempt, took) = run(&silent, Persistence::Once).await;
        assert_eq!(attempt, Attempt::Silent);
        assert_eq!(took, SILENCE);
    }

    #[tokio::test]
    async fn a_refused_backend_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap().to_string();
        // Bound and closed again: nobody listens there.
        let dead = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let echo = Router::new().fallback(|headers: HeaderMap| async move {
            if headers[HOST] == "10.96.0.1:80" {
                StatusCode::OK
            } else {
                StatusCode::BAD_REQUEST
            }
        });
        tokio::spawn(async move { axum::serve(listener, echo).await });
        let backends = vec![dead.clone(), alive];
        let transport =
            OverHttp::new(move |_: &str, _: u16, _: &str| Route::Backends(backends.clone()));
        let attempt = transport
            .attempt(&a_post("http://10.96.0.1:80/x"), "default")
            .await;
        assert!(attempt.succeeded(), "{attempt}");
        let nobody = OverHttp::new(|_: &str, _: u16, _: &str| Route::Direct);
        let attempt = nobody
            .attempt(&a_post(&format!("http://{dead}/x")), "default")
            .await;
        assert_eq!(attempt, Attempt::Refused);
    }
}
