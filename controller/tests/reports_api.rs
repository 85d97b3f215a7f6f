//! The file server over the router, without a socket.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use controller::adapter::fs_report_store::FsReportStore;
use controller::config::ReportDurability;
use controller::core::ids::ExecutionId;
use controller::http::reports;
use controller::ports::report_store::ReportStore;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tempfile::TempDir;
use tower::ServiceExt;

struct Server {
    directory: TempDir,
    router: Router,
}

impl Server {
    /// Two executions, the second one the latest.
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = FsReportStore::new(directory.path().to_owned(), ReportDurability::None, "c-0");
        let latest = ExecutionId::parse("202601020342").unwrap();
        for execution in [ExecutionId::parse("202601010342").unwrap(), latest.clone()] {
            for (name, content) in [
                ("node-a.json", "{\"a\":1}"),
                ("node-a-my <réport> & \"x\".txt", "0123456789"),
                ("node-a-page.html", "<script>alert(1)</script>"),
                ("_execution.json", "{}"),
                ("_journal-1.jsonl", "secret"),
                (".hidden", "secret"),
            ] {
                store
                    .put(&execution, name, Bytes::from(content))
                    .await
                    .unwrap();
            }
        }
        store.set_latest(&latest).await.unwrap();
        std::fs::write(directory.path().join("foreign.txt"), "secret").unwrap();
        std::fs::create_dir(directory.path().join("foreign")).unwrap();
        let router = reports::router(store);
        Self { directory, router }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> (Response<()>, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            Response::from_parts(parts, ()),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn get(&self, path: &str) -> (Response<()>, String) {
        self.send("GET", path, &[]).await
    }
}

fn header_of(response: &Response<()>, name: header::HeaderName) -> &str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_front_page_lists_executions_and_nothing_foreign() {
    let server = Server::new().await;
    let (response, page) = server.get("/").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        header_of(&response, header::CONTENT_TYPE),
        "text/html; charset=utf-8"
    );
    let positions: Vec<usize> = [
        "href=\"./202601010342/\"",
        "href=\"./202601020342/\"",
        "href=\"./latest/\"",
    ]
    .map(|link| {
        page.find(link)
            .unwrap_or_else(|| panic!("{link} in {page}"))
    })
    .to_vec();
    assert!(positions.is_sorted());
    assert!(
        !page.contains("foreign") && !page.contains("<script"),
        "{page}"
    );
}

#[tokio::test]
async fn an_execution_lists_its_reports_escaped_and_sorted() {
    let server = Server::new().await;
    let (response, page) = server.get("/202601010342/").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        page.contains("node-a-my &lt;réport&gt; &amp; &quot;x&quot;.txt"),
        "{page}"
    );
    assert!(
        page.contains("href=\"./node-a-my%20%3Cr%C3%A9port%3E%20%26%20%22x%22.txt\""),
        "{page}"
    );
    assert!(page.contains("_execution.json"));
    assert!(
        !page.contains("_journal") && !page.contains("hidden"),
        "{page}"
    );
    assert!(page.find("node-a-page.html").unwrap() < page.find("node-a.json").unwrap());
    let (response, _) = server.get("/202601010342").await;
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(header_of(&response, header::LOCATION), "202601010342/");
}

#[tokio::test]
async fn latest_shows_the_execution_it_points_to() {
    let server = Server::new().await;
    assert_eq!(server.get("/latest/node-a.json").await.1, "{\"a\":1}");
    assert!(server.get("/latest/").await.1.contains("node-a.json"));
    assert_eq!(
        header_of(&server.get("/latest").await.0, header::LOCATION),
        "latest/"
    );
    std::fs::remove_dir_all(server.directory.path().join("202601020342")).unwrap();
    assert_eq!(
        server.get("/latest/").await.0.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_browser_runs_nothing_of_an_upload() {
    let server = Server::new().await;
    for path in [
        "/latest/node-a-page.html",
        "/latest/node-a.json",
        "/",
        "/latest/",
        "/nope",
        "/latest/nope",
    ] {
        let (response, _) = server.get(path).await;
        assert!(
            header_of(&response, header::CONTENT_SECURITY_POLICY).contains("sandbox"),
            "{path}"
        );
        assert!(
            !header_of(&response, header::CONTENT_SECURITY_POLICY).contains("allow-scripts"),
            "{path}"
        );
        assert_eq!(
            header_of(&response, header::X_CONTENT_TYPE_OPTIONS),
            "nosniff",
            "{path}"
        );
    }
    let (response, _) = server.get("/latest/node-a-page.html").await;
    assert_eq!(
        header_of(&response, header::CONTENT_SECURITY_POLICY),
        "sandbox"
    );
}

#[tokio::test]
async fn only_reports_are_served() {
    let server = Server::new().await;
    for path in [
        "/foreign.txt",
        "/foreign/",
        "/foreign",
        "/202601010342/_journal-1.jsonl",
        "/202601010342/.hidden",
        "/202601010342/..%2Fforeign.txt",
        "/202601010342/%2E%2E",
        "/202601010342/node-b.json",
        "/202601030342/",
        "/202601030342",
        "/202601030342/node-a.json",
        "/..%2F..%2Fetc/passwd",
        "/latest/node-a.json/",
        "/a/b/c",
    ] {
        let (response, body) = server.get(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(!body.contains("secret"), "{path}");
    }
    assert_eq!(server.get("/latest/_execution.json").await.1, "{}");
}

#[tokio::test]
async fn a_file_has_its_type_length_and_validators() {
    let server = Server::new().await;
    let path = "/latest/node-a-my%20%3Cr%C3%A9port%3E%20%26%20%22x%22.txt";
    for method in ["GET", "HEAD"] {
        let (response, body) = server.send(method, path, &[]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            header_of(&response, header::CONTENT_TYPE),
            "text/plain; charset=utf-8"
        );
        assert_eq!(header_of(&response, header::CONTENT_LENGTH), "10");
        assert_eq!(header_of(&response, header::ACCEPT_RANGES), "bytes");
        assert!(!header_of(&response, header::ETAG).is_empty());
        assert!(header_of(&response, header::LAST_MODIFIED).ends_with("GMT"));
        assert_eq!(body, if method == "GET" { "0123456789" } else { "" });
    }
    let (response, _) = server.send("POST", path, &[]).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header_of(&response, header::ALLOW), "GET,HEAD");
}

#[tokio::test]
async fn ranges_and_conditions_are_answered() {
    let server = Server::new().await;
    let path = "/202601010342/node-a-my%20%3Cr%C3%A9port%3E%20%26%20%22x%22.txt";
    let (response, body) = server
        .send("GET", path, &[(header::RANGE, "bytes=2-4")])
        .await;
    assert_eq!(
        (response.status(), body.as_str()),
        (StatusCode::PARTIAL_CONTENT, "234")
    );
    assert_eq!(header_of(&response, header::CONTENT_RANGE), "bytes 2-4/10");
    assert_eq!(header_of(&response, header::CONTENT_LENGTH), "3");
    let (response, body) = server
        .send("GET", path, &[(header::RANGE, "bytes=10-")])
        .await;
    assert_eq!(
        (response.status(), body.as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "")
    );
    assert_eq!(header_of(&response, header::CONTENT_RANGE), "bytes */10");
    let tag = header_of(&server.get(path).await.0, header::ETAG).to_owned();
    let (response, body) = server
        .send("GET", path, &[(header::IF_NONE_MATCH, &tag)])
        .await;
    assert_eq!(
        (response.status(), body.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    assert_eq!(header_of(&response, header::ETAG), tag);
}
