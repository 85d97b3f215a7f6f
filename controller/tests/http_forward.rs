//! The way to another replica over real sockets: the contract of the port, and what only sockets have.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use controller::adapter::http_forward::HttpForward;
use controller::ports::forward::{Forward as _, ForwardError};
use controller::ports::forward_contract::{self, Other, Serving};
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::Notify;

/// A server with a runtime of its own, so that it can be killed with all its connections.
#[derive(Default)]
struct Server {
    has_arrived: Arc<Notify>,
    running: Option<(Runtime, Serving)>,
}

impl Other for Server {
    async fn serve(&mut self, serving: Serving) -> (String, u16) {
        let has_arrived = Arc::clone(&self.has_arrived);
        let router = Router::new().fallback(move |request: Request| {
            has_arrived.notify_one();
            answer(serving, request)
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut runtime = runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await
        });
        self.running = Some((runtime, serving));
        ("127.0.0.1".to_owned(), port)
    }

    async fn kill(&mut self) {
        let (runtime, serving) = self.running.take().unwrap();
        if serving == Serving::Hang {
            self.has_arrived.notified().await;
        }
        let killed = thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(10)));
        killed.join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(serving: Serving, request: Request) -> Response {
    match serving {
        Serving::Echo => {
            let (parts, body) = request.into_parts();
            let length = parts.headers[header::CONTENT_LENGTH].to_str().unwrap();
            let read = body.collect().await.unwrap().to_bytes().len();
            let text = format!("{} {} {length} {read}", parts.method, parts.uri);
            (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "5")], text).into_response()
        }
        Serving::Hang => std::future::pending().await,
    }
}

#[tokio::test]
async fn the_client_does_what_the_port_asks_for() {
    forward_contract::every_behaviour(|| (HttpForward::new(), Server::default())).await;
}

#[tokio::test]
async fn who_closes_without_an_answer_breaks_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
    });
    let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::get("/").body(nothing).unwrap();
    let sent = HttpForward::new().forward("127.0.0.1", port, request).await;
    assert_eq!(sent.unwrap_err(), ForwardError::BrokeOff);
}
