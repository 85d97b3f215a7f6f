//! What every way to another replica must do, as behaviours between one replica and another; each implementation runs
//! [`every_behaviour`].

use std::future::Future;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::forward::{Forward, ForwardBody, ForwardError};

/// What the other replica does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Reads it, and answers 202 with `Retry-After: 5` and the text `METHOD URI CONTENT-LENGTH BYTES`, the last as many
    /// as were read.
    Echo,
    /// Never answers.
    Hang,
}

/// The other replica.
pub trait Other {
    /// Lets it listen and serve so; returns its host and port.
    fn serve(&mut self, serving: Serving) -> impl Future<Output = (String, u16)>;

    /// Kills it, once it has received what was sent.
    fn kill(&mut self) -> impl Future<Output = ()>;
}

/// A body that is far larger than any buffer on its way.
const BYTES: usize = 24 << 20;

/// Runs every behaviour, each between a fresh pair from `new_pair`.
///
/// # Panics
/// Where the implementation does otherwise, with the behaviour in the backtrace.
pub async fn every_behaviour<F: Forward, O: Other>(mut new_pair: impl FnMut() -> (F, O)) {
    let (forward, other) = new_pair();
    a_request_arrives_as_it_was_sent_and_so_does_its_answer(forward, other).await;
    let (forward, other) = new_pair();
    nobody_is_reached_where_nobody_listens(forward, other).await;
    let (forward, other) = new_pair();
    what_is_under_way_breaks_off_where_the_other_is_killed(forward, other).await;
}

/// A large post, its length announced.
fn request() -> Request<ForwardBody> {
    let body = Full::new(Bytes::from(vec![b'x'; BYTES]));
    Request::post("/path?a=b")
        .header(header::CONTENT_LENGTH, BYTES)
        .body(body.map_err(|never| match never {}).boxed_unsync())
        .expect("the request is one")
}

async fn send(
    forward: &impl Forward,
    (host, port): &(String, u16),
) -> Result<Response<Bytes>, ForwardError> {
    let response = forward.forward(host, *port, request()).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the answer is whole");
    Ok(Response::from_parts(parts, body.to_bytes()))
}

async fn a_request_arrives_as_it_was_sent_and_so_does_its_answer(
    forward: impl Forward,
    mut other: impl Other,
) {
    let place = other.serve(Serving::Echo).await;
    for _ in 0..2 {
        let answer = send(&forward, &place).await.expect("it is answered");
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
        assert_eq!(answer.body(), &format!("POST /path?a=b {BYTES} {BYTES}"));
    }
}

async fn nobody_is_reached_where_nobody_listens(forward: impl Forward, mut other: impl Other) {
    let place = other.serve(Serving::Echo).await;
    other.kill().await;
    assert_eq!(
        send(&forward, &place).await.err(),
        Some(ForwardError::Unreached)
    );
    let nowhere = ("no host".to_owned(), 1);
    assert_eq!(
        send(&forward, &nowhere).await.err(),
        Some(ForwardError::Unreached)
    );
}

async fn what_is_under_way_breaks_off_where_the_other_is_killed(
    forward: impl Forward,
    mut other: impl Other,
) {
    let place = other.serve(Serving::Hang).await;
    let (sent, ()) = tokio::join!(biased; send(&forward, &place), other.kill());
    assert_eq!(sent.err(), Some(ForwardError::BrokeOff));
}
