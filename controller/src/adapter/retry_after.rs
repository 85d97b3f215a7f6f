//! `Retry-After` of an answer that is no `Status`.
//!
//! An API server's priority and fairness refuses with 429 in plain text and says how long to wait in the header alone
//! (KEP-1040, `filters/priority-and-fairness.go`). The client drops headers, so it is told here in the form that it
//! reads.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use serde_json::json;

/// A 429 without a `Status` becomes one that says what its header says; every other answer stays as it is.
pub fn keep<B>(response: Response<B>) -> Response<Either<Full<Bytes>, B>> {
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_status = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let seconds = text(RETRY_AFTER).and_then(|seconds| seconds.parse::<u32>().ok());
    let (StatusCode::TOO_MANY_REQUESTS, false, Some(seconds)) =
        (response.status(), is_status, seconds)
    else {
        return response.map(Either::Right);
    };
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "the server has received too many requests and has asked us to try again later",
        "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": seconds},
        "code": StatusCode::TOO_MANY_REQUESTS.as_u16(),
    });
    let body = status.to_string();
    response.map(|_| Either::Left(Full::from(body)))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use kube::core::Status;

    use super::*;

    async fn kept(code: u16, content_type: &str, body: &str) -> String {
        let response = Response::builder()
            .status(code)
            .header(CONTENT_TYPE, content_type)
            .header(RETRY_AFTER, "7")
            .body(Full::<Bytes>::from(body.to_owned()))
            .unwrap();
        let body = keep(response).into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_a_refusal_in_plain_text_is_told_as_a_status() {
        let told = kept(429, "text/plain; charset=utf-8", "Too many requests").await;
        let status: Status = serde_json::from_str(&told).unwrap();
        assert_eq!(status.code, 429);
        assert_eq!(status.details.unwrap().retry_after_seconds, 7);
        assert_eq!(kept(429, "application/json", "{}").await, "{}");
        assert_eq!(kept(503, "text/plain", "later").await, "later");
    }
}
