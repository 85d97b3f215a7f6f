//! The way between replicas in one process: straight into each other's Routers, no sockets, so fit for paused time.
//!
//! Hosts are names: those of the Leases' addresses. A host that closes breaks off what it was asked; a cut between two
//! hosts breaks off what is on its way between them, in both directions, and nothing gets through until it is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use controller::ports::forward::{Forward, ForwardBody, ForwardError};
use controller::runtime::ordered_watch as watch;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::time::sleep;
use tower::ServiceExt as _;

/// How long it takes to find that a host is cut off, as in the adapter for real sockets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Hosts and what is between them. Clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct Network(Arc<watch::Sender<Hosts>>);

#[derive(Debug, Default)]
struct Hosts {
    listeners: BTreeMap<(Arc<str>, u16), Listener>,
    /// Listeners so far: one that listens again is another.
    listened: u64,
    cuts: BTreeSet<(Arc<str>, Arc<str>)>,
}

#[derive(Debug, Clone)]
struct Listener {
    number: u64,
    router: Router,
}

/// The network as one host sees it.
#[derive(Debug, Clone)]
pub struct SimForward {
    /// Not held: what is served in a network reaches others through it.
    network: Weak<watch::Sender<Hosts>>,
    host: Arc<str>,
}

impl Network {
    /// Serves `router` on that port of that host, in place of what was there.
    pub fn listen(&self, host: &str, port: u16, router: Router) {
        self.0.modify(|hosts| {
            hosts.listened += 1;
            let number = hosts.listened;
            let listener = Listener { number, router };
            hosts.listeners.insert((host.into(), port), listener);
        });
    }

    /// Nobody listens on that host any more, as if its process had been killed.
    pub fn close(&self, host: &str) {
        self.0.modify(|hosts| {
            hosts
                .listeners
                .retain(|(listener, _), _| **listener != *host);
        });
    }

    /// Cuts the way between two hosts.
    pub fn cut(&self, one: &str, other: &str) {
        self.0.modify(|hosts| {
            hosts.cuts.insert(pair(one, other));
        });
    }

    /// Mends it.
    pub fn mend(&self, one: &str, other: &str) {
        self.0.modify(|hosts| {
            hosts.cuts.remove(&pair(one, other));
        });
    }

    /// How that host reaches the others.
    #[must_use]
    pub fn from(&self, host: &str) -> SimForward {
        SimForward {
            network: Arc::downgrade(&self.0),
            host: host.into(),
        }
    }
}

fn pair(one: &str, other: &str) -> (Arc<str>, Arc<str>) {
    (one.min(other).into(), one.max(other).into())
}

impl Forward for SimForward {
    async fn forward(
        &self,
        host: &str,
        port: u16,
        request: Request<ForwardBody>,
    ) -> Result<Response<ForwardBody>, ForwardError> {
        let (way, place) = (pair(&self.host, host), (Arc::<str>::from(host), port));
        let network = self.network.upgrade().ok_or(ForwardError::Unreached)?;
        let mut hosts = network.subscribe();
        let (is_cut, listener) = {
            let hosts = hosts.borrow();
            (
                hosts.cuts.contains(&way),
                hosts.listeners.get(&place).cloned(),
            )
        };
        if is_cut {
            sleep(CONNECT_TIMEOUT).await;
            return Err(ForwardError::Unreached);
        }
        let Listener { number, router } = listener.ok_or(ForwardError::Unreached)?;
        let is_lost = |hosts: &Hosts| {
            let listener = hosts.listeners.get(&place);
            hosts.cuts.contains(&way) || listener.is_none_or(|found| found.number != number)
        };
        tokio::select! {
            biased;
            () = hosts.wait_for(is_lost) => Err(ForwardError::BrokeOff),
            answered = router.oneshot(request.map(Body::new)) => {
                let response = answered.unwrap_or_else(|never| match never {});
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::Extension;
    use axum::response::IntoResponse as _;
    use bytes::Bytes;
    use controller::ports::forward_contract::{self, Other, Serving};
    use http::{StatusCode, header};
    use http_body_util::Full;
    use tokio::sync::Notify;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn request() -> Request<ForwardBody> {
        let body = Full::new(Bytes::from("body")).map_err(|never| match never {});
        Request::post("/path?a=b")
            .body(body.boxed_unsync())
            .unwrap()
    }

    fn accepting() -> Router {
        Router::new().fallback(async || StatusCode::ACCEPTED)
    }

    struct Host {
        network: Network,
        has_arrived: Arc<Notify>,
        serving: Option<Serving>,
    }

    impl Other for Host {
        async fn serve(&mut self, serving: Serving) -> (String, u16) {
            let has_arrived = Arc::clone(&self.has_arrived);
            let router = Router::new().fallback(move |request: axum::extract::Request| {
                has_arrived.notify_one();
                answer(serving, request)
            });
            self.network.listen("b", 8090, router);
            self.serving = Some(serving);
            ("b".to_owned(), 8090)
        }

        async fn kill(&mut self) {
            if self.serving == Some(Serving::Hang) {
                self.has_arrived.notified().await;
            }
            self.network.close("b");
        }
    }

    async fn answer(serving: Serving, request: axum::extract::Request) -> axum::response::Response {
        match serving {
            Serving::Echo => {
                let (parts, body) = request.into_parts();
                let length = parts.headers[header::CONTENT_LENGTH].to_str().unwrap();
                let read = body.collect().await.unwrap().to_bytes().len();
                let text = format!("{} {} {length} {read}", parts.method, parts.uri);
                (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "5")], text).into_response()
            }
            Serving::Hang => pending().await,
        }
    }

    async fn ask(from: &SimForward, to: &str) -> Result<StatusCode, ForwardError> {
        let response = from.forward(to, 8090, request()).await?;
        Ok(response.status())
    }

    #[tokio::test(start_paused = true)]
    async fn the_network_does_what_the_port_asks_for() {
        forward_contract::every_behaviour(|| {
            let network = Network::default();
            let other = Host {
                network: network.clone(),
                has_arrived: Arc::default(),
                serving: None,
            };
            (network.from("a"), other)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_reached_where_nobody_listens_or_the_way_is_cut() {
        let network = Network::default();
        let a = network.from("a");
        assert_eq!(ask(&a, "b").await, Err(ForwardError::Unreached));
        network.listen("b", 8090, accepting());
        network.cut("b", "a");
        let begun = Instant::now();
        assert_eq!(ask(&a, "b").await, Err(ForwardError::Unreached));
        assert_eq!(begun.elapsed(), CONNECT_TIMEOUT);
        assert_eq!(ask(&network.from("c"), "b").await, Ok(StatusCode::ACCEPTED));
        network.mend("a", "b");
        assert_eq!(ask(&a, "b").await, Ok(StatusCode::ACCEPTED));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_breaks_off_where_its_host_closes_or_is_cut_off() {
        let hangs = || Router::new().fallback(pending::<StatusCode>);
        for breaks in [
            |network: &Network| network.close("b"),
            |network: &Network| network.cut("a", "b"),
            |network: &Network| network.listen("b", 8090, accepting()),
        ] {
            let network = Network::default();
            network.listen("b", 8090, hangs());
            let a = network.from("a");
            let asked = tokio::spawn(async move { ask(&a, "b").await });
            sleep(Duration::from_secs(1)).await;
            breaks(&network);
            let answered = timeout(Duration::from_secs(1), asked).await;
            assert_eq!(answered.unwrap().unwrap(), Err(ForwardError::BrokeOff));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_is_dropped_with_who_made_it_also_where_a_host_serves_by_way_of_another() {
        let network = Network::default();
        let (served, onwards) = (Arc::new(()), network.from("b"));
        let answer = async move || ask(&onwards, "c").await.unwrap_or(StatusCode::BAD_GATEWAY);
        let router = Router::new().fallback(answer);
        let router = router.layer(Extension(Arc::clone(&served)));
        network.listen("b", 8090, router);
        let a = network.from("a");
        assert_eq!(ask(&a, "b").await, Ok(StatusCode::BAD_GATEWAY));
        drop(network);
        assert_eq!(Arc::strong_count(&served), 1);
        assert_eq!(ask(&a, "b").await, Err(ForwardError::Unreached));
    }
}
