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

use crate::state::{Row, State, Status};
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
    /// Of all objects: whoever waits for these is woken before those who wait for one resource.
    changed: Announcer,
    /// Of each storage, in the order of [`State::newest`].
    changed_storages: Vec<(&'static str, Announcer)>,
    /// Of pod logs.
    logged: Announcer,
    now: Clock,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("version", &self.inner.changed.version())
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Serves a state by a clock.
    #[must_use]
    pub fn new(state: State, now: Clock) -> Self {
        let of_storage = |(storage, version)| (storage, Announcer::new(version));
        Self {
            inner: Arc::new(Inner {
                changed: Announcer::new(state.version()),
                changed_storages: state.newest().map(of_storage).collect(),
                logged: Announcer::new(state.log_version()),
                state: Mutex::new(state),
                now,
            }),
        }
    }

    /// What the server's clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.inner.now)()
    }

    /// Works on the state and, where that changed it, wakes whoever watches what has changed. Never call it from within
    /// itself.
    pub fn with_state<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self
            .inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let (version, log_version) = (state.version(), state.log_version());
        let mut changed = Vec::new();
        if version != self.inner.changed.version() {
            let newest = state.newest().map(|(_, version)| version);
            let storages = self.inner.changed_storages.iter().zip(newest);
            let storages = storages.map(|((_, storage), version)| (storage, version));
            changed.extend(storages.filter(|(storage, version)| storage.version() != *version));
        }
        drop(state);
        self.inner.changed.announce(version);
        for (storage, version) in changed {
            storage.announce(version);
        }
        self.inner.logged.announce(log_version);
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

    /// Is told of every change of an object from now on.
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        self.inner.changed.subscribe()
    }

    /// Is told of every change of an object of that resource from now on.
    #[must_use]
    pub fn subscribe_to(&self, row: &Row) -> Changes {
        let mut storages = self.inner.changed_storages.iter();
        let found = storages.find(|(storage, _)| *storage == row.storage);
        found
            .map_or(&self.inner.changed, |(_, changed)| changed)
            .subscribe()
    }

    /// Is told of whatever is added to a pod's log from now on.
    #[must_use]
    pub fn subscribe_to_logs(&self) -> Changes {
        self.inner.logged.subscribe()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Options, Target, WriteOptions, resource};
    use futures::FutureExt as _;
    use serde_json::json;

    #[test]
    fn a_change_is_told_to_those_who_wait_for_its_resource_and_a_line_to_those_who_read_logs() {
        let now = Arc::new(|| Timestamp::UNIX_EPOCH);
        let server = ApiServer::new(State::new(&Options::default()), now);
        let mut waiting = [
            server.subscribe(),
            server.subscribe_to(&resource::PODS),
            server.subscribe_to(&resource::CONFIG_MAPS),
            server.subscribe_to_logs(),
        ];
        let mut told =
            || (waiting.each_mut()).map(|changes| changes.changed().now_or_never().is_some());
        assert_eq!(told(), [false; 4]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "job", "image": "i"}]}});
        let target = Target::new(&resource::PODS, "default", "");
        let created = server.with_state(|state| {
            state.create(Timestamp::UNIX_EPOCH, target, pod, WriteOptions::default())
        });
        assert!(created.is_ok(), "{created:?}");
        assert_eq!(told(), [true, true, false, false]);
        server.with_state(|state| state.append_pod_log("default", "p", "job", "a line\n"));
        assert_eq!(told(), [false, false, false, true]);
    }
}
