//! The way between replicas of one test: straight into each other's Routers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use controller::ports::forward::{Forward, ForwardBody, ForwardError};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

/// Who listens where. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct TestNetwork(Arc<Mutex<Listeners>>);

#[derive(Debug, Default)]
struct Listeners {
    routers: BTreeMap<(String, u16), Router>,
    silent: BTreeSet<String>,
}

impl TestNetwork {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap()
    }

    /// Serves there.
    pub fn listen(&self, host: &str, port: u16, router: Router) {
        self.lock().routers.insert((host.to_owned(), port), router);
    }

    /// Nobody listens on that host any more.
    pub fn close(&self, host: &str) {
        self.lock()
            .routers
            .retain(|(listener, _), _| listener != host);
    }

    /// Whether the host reads its requests and answers none.
    pub fn silence(&self, host: &str, is_silent: bool) {
        let mut listeners = self.lock();
        if is_silent {
            listeners.silent.insert(host.to_owned());
        } else {
            listeners.silent.remove(host);
        }
    }
}

impl Forward for TestNetwork {
    async fn forward(
        &self,
        host: &str,
        port: u16,
        request: Request<ForwardBody>,
    ) -> Result<Response<ForwardBody>, ForwardError> {
        let (router, is_silent) = {
            let listeners = self.lock();
            let router = listeners.routers.get(&(host.to_owned(), port)).cloned();
            (router, listeners.silent.contains(host))
        };
        let router = router.ok_or(ForwardError::Unreached)?;
        if is_silent {
            let _ = request.into_body().collect().await;
            return std::future::pending().await;
        }
        let response = router.oneshot(request.map(Body::new)).await.unwrap();
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}
