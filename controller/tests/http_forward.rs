//! The way to another replica over real sockets.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request as Incoming;
use bytes::Bytes;
use controller::adapter::http_forward::HttpForward;
use controller::ports::forward::{Forward as _, ForwardBody, ForwardError};
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

const CHUNK: usize = 64 << 10;

/// A request with a body of so many chunks, its length announced.
fn request(chunks: usize) -> Request<ForwardBody> {
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let frames = vec![chunk; chunks]
        .into_iter()
        .map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let body = StreamBody::new(stream::iter(frames.collect::<Vec<_>>()));
    Request::post("/path?a=b")
        .header(header::CONTENT_LENGTH, chunks * CHUNK)
        .body(body.map_err(Into::into).boxed_unsync())
        .unwrap()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

async fn send(
    to: SocketAddr,
    request: Request<ForwardBody>,
) -> Result<Response<Bytes>, ForwardError> {
    let host = to.ip().to_string();
    let response = HttpForward::new()
        .forward(&host, to.port(), request)
        .await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok(Response::from_parts(parts, body))
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_and_so_does_its_answer() {
    let echo = Router::new().fallback(|request: Incoming| async move {
        let (parts, body) = request.into_parts();
        assert_eq!(
            parts.headers[header::CONTENT_LENGTH],
            (40 * CHUNK).to_string()
        );
        assert!(!parts.headers.contains_key(header::TRANSFER_ENCODING));
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = format!("{} {} {}", parts.method, parts.uri, bytes.len());
        (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "5")], text)
    });
    let answer = send(serve(echo).await, request(40)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
    assert_eq!(answer.body(), &format!("POST /path?a=b {}", 40 * CHUNK));
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_the_answer() {
    let refuse = Router::new().fallback(async || StatusCode::PAYLOAD_TOO_LARGE);
    let answer = send(serve(refuse).await, request(400)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn nobody_is_reached_where_nobody_listens_or_the_host_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = send(address, request(1)).await.unwrap_err();
    assert_eq!(error, ForwardError::Unreached);
    let sent = HttpForward::new().forward("no host", 1, request(1)).await;
    assert_eq!(sent.unwrap_err(), ForwardError::Unreached);
}

#[tokio::test]
async fn who_closes_without_an_answer_breaks_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
    });
    let error = send(address, request(1)).await.unwrap_err();
    assert_eq!(error, ForwardError::BrokeOff);
}
