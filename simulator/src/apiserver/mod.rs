//! The state served as a Kubernetes API: an axum [`Router`], the same over TCP and in process.
//!
//! [`ApiServer`] is the state behind a lock, a clock, and a signal that tells of every change. The lock is never held
//! over an await, and time that passes is tokio's only, so the Router works under paused time. Deliberately not here:
//! the rules of the API (`state`), sockets, faults.

mod accept;
mod changes;
mod compaction;
mod discovery;
mod event_expiry;
mod openapi;
mod options;
mod pod_log;
mod query;
mod resources;
mod respond;
mod route;
mod table;
mod watch_stream;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use changes::Announcer;
pub use changes::{Changes, Gone};
pub use compaction::compact_history;
pub use event_expiry::expire_events;
use http::{Method, Request, Response};
use jiff::Timestamp;

use crate::state::{State, Status};
pub(crate) use query::Query;
pub(crate) use respond::{status_response, text_response};
pub(crate) use route::{Place, Route, parse as parse_route};

use respond::not_found_page;

/// What time it is: the wall clock of the simulated cluster.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A simulated API server. Clones share one state.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Announcer,
    now: Clock,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("revision", &self.inner.changed.revision())
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Serves a state by a clock.
    #[must_use]
    pub fn new(state: State, now: Clock) -> Self {
        let changed = Announcer::new(state.revision());
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                changed,
                now,
            }),
        }
    }

    /// What the server's clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.inner.now)()
    }

    /// Works on the state and, where that changed it, wakes whoever watches. Never call it from within itself.
    pub fn with_state<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self
            .inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let revision = state.revision();
        drop(state);
        self.inner.changed.announce(revision);
        result
    }

    /// Reads the state.
    pub fn read<R>(&self, work: impl FnOnce(&State) -> R) -> R {
        work(
            &self
                .inner
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Is told of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        self.inner.changed.subscribe()
    }

    /// The API over HTTP.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }
}

async fn handle(
    axum::extract::State(server): axum::extract::State<ApiServer>,
    request: Request<Body>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let route = match route::parse(&path) {
        Ok(route) => route,
        Err(status) => return status_response(&status),
    };
    if matches!(route, Route::Resource(_)) {
        let Route::Resource(place) = route else {
            return not_found_page();
        };
        return resources::serve(&server, &place, request)
            .await
            .unwrap_or_else(|status| status_response(&status));
    }
    if route != Route::Unknown && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return status_response(&Status::method_not_allowed());
    }
    match route {
        Route::Health => respond::text("ok"),
        Route::Version => respond::json(&discovery::version()),
        Route::Root => respond::json(&discovery::paths()),
        Route::CoreVersions | Route::Groups | Route::Group(_) | Route::Resources(..) => {
            discovery::serve(&route, request.headers())
        }
        Route::OpenApiIndex => openapi::index(),
        Route::OpenApi(group_version) => openapi::document(
            &group_version,
            request.uri().query().unwrap_or_default(),
            &path,
        ),
        Route::Resource(_) | Route::Unknown => not_found_page(),
    }
}
