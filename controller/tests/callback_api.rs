//! The callback API over the production loop and router: who may post what, in which order faults are answered, and that a
//! report is whole or absent.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::io;

use axum::body::Body;
use bytes::Bytes;
use controller::core::state::NodeState;
use controller::ports::report_store::ReportStoreErrorKind;
use futures::StreamExt as _;
use futures::stream;
use http::{Request, StatusCode, header};
use serde_json::json;
use support::reports::StoreFault;
use support::world::{RESULT, Setup, World, pod_name};
use tokio::sync::mpsc;

const EXECUTION: &str = "202611232359";
/// 70 bytes.
const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";
const EVENT: &str = r#"{"reason":"Checked","message":"all good"}"#;

/// A controller whose pods on these nodes were created.
async fn world(nodes: &[&str]) -> World {
    world_of(Setup::new(nodes)).await
}

async fn world_of(setup: Setup) -> World {
    let nodes = setup.nodes.len();
    let world = setup.run();
    world
        .cluster
        .until("every pod", |state| {
            (state.pods.len() == nodes).then_some(())
        })
        .await;
    world
}

/// A body that nobody may read.
fn unread() -> Body {
    Body::from_stream(stream::once(async {
        panic!("the body was read");
        #[allow(unreachable_code)]
        Ok::<Bytes, io::Error>(Bytes::new())
    }))
}

/// A body in chunks, without an announced length.
fn chunked(chunks: &'static [&'static str]) -> Body {
    Body::from_stream(
        stream::iter(chunks).map(|chunk| Ok::<_, io::Error>(Bytes::from_static(chunk.as_bytes()))),
    )
}

async fn status(world: &World, method: &str, path: &str, length: Option<u64>, body: Body) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(length) = length {
        request = request.header(header::CONTENT_LENGTH, length);
    }
    world
        .send(request.body(body).unwrap())
        .await
        .status
        .as_u16()
}

/// Waits until no temporary file is left.
async fn until_no_temporary(world: &World) {
    world
        .until("no temporary file", |world| {
            let entries = std::fs::read_dir(world.directory.path().join(EXECUTION)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let temporary: Vec<String> = names.filter(|name| name.starts_with("_upload")).collect();
            temporary.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn of_several_faults_the_first_is_answered() {
    let setup = Setup::new(&["node-a", "node-a-b"]).set(
        "callbackBodyLimit",
        json!({"file": 1000, "result": 100, "event": 100}),
    );
    let world = world_of(setup).await;
    let known = format!("/report/node-a/{EXECUTION}");
    let foreign = format!("/report/other/{EXECUTION}");
    let too_long = Some(1_000_000);
    for (method, path, length, body, want) in [
        ("GET", format!("{foreign}/nope"), too_long, unread(), 404),
        ("GET", format!("{foreign}/result"), too_long, unread(), 405),
        ("DELETE", format!("{known}/file"), too_long, unread(), 405),
        ("HEAD", format!("{known}/event"), None, unread(), 405),
        ("OPTIONS", format!("{known}/event/"), None, unread(), 405),
        ("POST", format!("{foreign}/result"), too_long, unread(), 406),
        (
            "POST",
            format!("{foreign}/file?name=../x"),
            too_long,
            unread(),
            406,
        ),
        ("POST", format!("{foreign}/event"), too_long, unread(), 406),
        ("POST", format!("{known}/result"), too_long, unread(), 413),
        (
            "POST",
            format!("{known}/file?name=../x"),
            too_long,
            unread(),
            413,
        ),
        ("POST", format!("{known}/event"), too_long, unread(), 413),
        (
            "POST",
            format!("{known}/result"),
            None,
            Body::from("{"),
            400,
        ),
        (
            "POST",
            format!("{known}/event"),
            None,
            Body::from("{}"),
            400,
        ),
        (
            "POST",
            format!("{known}/file?name=b%2F.json"),
            None,
            unread(),
            400,
        ),
        (
            "POST",
            format!("{known}/file?name=b.json"),
            None,
            unread(),
            409,
        ),
    ] {
        let got = status(&world, method, &path, length, body).await;
        assert_eq!(got, want, "{method} {path}");
    }
    world
        .reports
        .set_fault(Some(StoreFault::Writes(ReportStoreErrorKind::NoSpace)));
    for (path, body, want) in [
        ("file?name=b.json", Body::from("x"), 409),
        ("result", Body::from("{"), 400),
        ("file?name=ok", Body::from("x"), 507),
        ("result", Body::from(RESULT), 507),
    ] {
        let got = status(&world, "POST", &format!("{known}/{path}"), None, body).await;
        assert_eq!(got, want, "{path}");
    }
    assert!(world.file_names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_method_is_told_the_right_one() {
    let world = world(&["node-a"]).await;
    let request = Request::get(format!("/report/node-a/{EXECUTION}/result"));
    let answer = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers[header::ALLOW], "POST");
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_admitted_only_when_that_pod_was_created() {
    let setup = Setup::new(&["node-a", "node-b"]).set("podPoolSize", json!(1));
    let world = setup.run();
    world.cluster.until_created(1).await;
    let path = format!("node-b/{EXECUTION}/result");
    assert_eq!(
        world.post(&path, RESULT).await.status,
        StatusCode::NOT_ACCEPTABLE
    );
    assert!(world.file_names().is_empty());
    let first = pod_name("node-a", EXECUTION);
    world
        .cluster
        .until("the first pod", |state| state.pods.get(&first).map(|_| ()))
        .await;
    world.finish("node-a", EXECUTION).await;
    world.cluster.until_created(2).await;
    assert_eq!(world.post(&path, RESULT).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_node_of_one_execution_is_not_admitted_in_another() {
    let setup = Setup::new(&["node-a", "node-c"]).set("cronExpression", json!("* * * * *"));
    let world = world_of(setup).await;
    for node in ["node-a", "node-c"] {
        world.finish(node, EXECUTION).await;
    }
    world.until_ended(EXECUTION).await;
    world
        .cluster
        .change(|state| state.nodes.retain(|node| node.name == "node-a"));
    world.cluster.until_created(3).await;
    let next = "202611240000";
    for (node, execution, want) in [
        ("node-a", next, 200),
        ("node-c", next, 406),
        ("node-c", EXECUTION, 200),
        ("node-a", "202611240001", 406),
        ("node-a", "latest", 406),
    ] {
        let answer = world
            .post(&format!("{node}/{execution}/result"), RESULT)
            .await;
        assert_eq!(answer.status.as_u16(), want, "{node} {execution}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_never_takes_another_nodes_name_whichever_came_first() {
    let world = world(&["a", "a-b", "a-b-c"]).await;
    let check = async |node: &str, name: &str, want: u16| {
        let path = format!("{node}/{EXECUTION}/file?name={name}");
        let answer = world.post(&path, "from the file").await;
        assert_eq!(
            answer.status.as_u16(),
            want,
            "{node} {name}: {}",
            answer.text()
        );
    };
    check("a", "b.json", 409).await;
    check("a", "b-log.txt", 409).await;
    check("a-b", "c.json", 409).await;
    world.post_result("a-b", EXECUTION).await;
    check("a", "b.json", 409).await;
    check("a", "b.txt", 200).await;
    check("a", "c.json", 200).await;
    check("a-b", "log.txt", 200).await;
    let files = world.files();
    assert_eq!(files[&format!("{EXECUTION}/a-b.json")], RESULT.as_bytes());
    assert_eq!(
        world.file_names(),
        ["a-b-log.txt", "a-b.json", "a-b.txt", "a-c.json"]
            .map(|name| format!("{EXECUTION}/{name}"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused_announced_or_not_and_leaves_nothing() {
    let setup = Setup::new(&["node-a"]).set(
        "callbackBodyLimit",
        json!({"file": 250, "result": 30, "event": 60}),
    );
    let world = world_of(setup).await;
    let known = format!("/report/node-a/{EXECUTION}");
    for (path, length) in [("result", 31), ("event", 61), ("file?name=a", 251)] {
        let path = format!("{known}/{path}");
        assert_eq!(
            status(&world, "POST", &path, Some(length), unread()).await,
            413,
            "{path}"
        );
        let body = chunked(&[LONG, LONG, LONG, LONG]);
        assert_eq!(
            status(&world, "POST", &path, None, body).await,
            413,
            "{path}"
        );
    }
    let form = Request::post(format!("{known}/file"))
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
        .body(chunked(&[
            "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\n",
            LONG,
            LONG,
            LONG,
            "\r\n--X--\r\n",
        ]));
    assert_eq!(
        world.send(form.unwrap()).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let exact = format!("{known}/file?name=exact");
    assert_eq!(
        status(
            &world,
            "POST",
            &exact,
            Some(250),
            Body::from("x".repeat(250))
        )
        .await,
        200
    );
    assert_eq!(
        status(&world, "POST", &exact, None, chunked(&[LONG, LONG, LONG])).await,
        200
    );
    until_no_temporary(&world).await;
    assert_eq!(world.file_names(), [format!("{EXECUTION}/node-a-exact")]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_seen_when_it_is_whole() {
    let world = world(&["node-a"]).await;
    let (chunks, received) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(received, |mut received| async move {
        let chunk = received.recv().await?;
        Some((Ok::<_, io::Error>(chunk), received))
    });
    let path = format!("node-a/{EXECUTION}/file?name=big.bin");
    let posting = world.post(&path, Body::from_stream(body));
    let feeding = async {
        for _ in 0..40 {
            chunks.send(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
            assert!(world.file_names().is_empty());
        }
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(posting, feeding);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        world.files()[&format!("{EXECUTION}/node-a-big.bin")].len(),
        400_000
    );
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let world = world(&["node-a"]).await;
    let cut = || {
        let chunks = [
            Ok(Bytes::from(vec![b'x'; 1000])),
            Err(io::Error::other("reset")),
        ];
        Body::from_stream(stream::iter(chunks))
    };
    for path in ["file?name=a", "result", "event"] {
        let answer = world
            .post(&format!("node-a/{EXECUTION}/{path}"), cut())
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
    }
    // The connection is gone: nobody waits for the answer any more.
    let endless = stream::once(async { Ok::<_, io::Error>(Bytes::from(vec![b'x'; 100_000])) })
        .chain(stream::pending());
    let path = format!("node-a/{EXECUTION}/file?name=b");
    let posting = world.post(&path, Body::from_stream(endless));
    let gone = tokio::time::timeout(std::time::Duration::from_secs(1), posting).await;
    assert!(gone.is_err());
    until_no_temporary(&world).await;
    assert!(world.file_names().is_empty());
    assert!(world.cluster.look(|state| state.events.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_form_that_breaks_off_leaves_none_of_its_files() {
    let world = world(&["node-a"]).await;
    let part = |name: &str| {
        format!(
            "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\ncontent\r\n"
        )
    };
    for (body, want) in [
        (
            format!(
                "{}{}",
                part("a"),
                "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"b\"\r\n\r\ncont"
            ),
            400,
        ),
        (format!("{}{}--X--\r\n", part("a"), part("../b")), 400),
        (format!("{}{}--X--\r\n", part("a"), part("b.json")), 409),
    ] {
        let request = Request::post(format!("/report/node-a/{EXECUTION}/file"))
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
            .body(Body::from(body.clone()));
        let world = if want == 409 {
            self::world(&["node-a", "node-a-b"]).await
        } else {
            self::world(&["node-a"]).await
        };
        assert_eq!(
            world.send(request.unwrap()).await.status.as_u16(),
            want,
            "{body}"
        );
        until_no_temporary(&world).await;
        assert!(world.file_names().is_empty(), "{body}");
    }
    assert!(world.file_names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn forms_are_read_as_the_original_reads_them() {
    let file = |disposition: &str, content: &str| {
        format!("--X\r\nContent-Disposition: {disposition}\r\n\r\n{content}\r\n--X--\r\n")
    };
    let plain = "form-data; name=\"f\"; filename=\"a\"";
    for (content_type, body, want) in [
        (
            "multipart/form-data; boundary=X",
            file(plain, "x"),
            "node-a-a",
        ),
        (
            "Multipart/Form-Data; Boundary=\"X\"",
            file(plain, "x"),
            "node-a-a",
        ),
        (
            "multipart/form-data; charset=utf-8; boundary=X;",
            file(plain, "x"),
            "node-a-a",
        ),
        (
            "multipart/form-data; boundary=X",
            format!("preamble\r\n{}epilogue", file(plain, "x")),
            "node-a-a",
        ),
        (
            "multipart/form-data; boundary=X",
            file("form-data; name=f; filename=a", "x"),
            "node-a-a",
        ),
        (
            "multipart/form-data; boundary=X",
            file("form-data; name=\"f\"; filename=\"my répört.txt\"", "x"),
            "node-a-my répört.txt",
        ),
        (
            "multipart/form-data; boundary=X",
            file("form-data; name=\"f\"; filename*=UTF-8''z%C3%BCrich", "x"),
            "node-a-zürich",
        ),
        // What is no form is stored as it came.
        (
            "multipart/form-data",
            "x".to_owned(),
            "node-a-00000000-0000-4000-8000-000000000000.file",
        ),
        (
            "multipart/mixed; boundary=X",
            "x".to_owned(),
            "node-a-00000000-0000-4000-8000-000000000000.file",
        ),
        (
            "application/x-www-form-urlencoded",
            "x".to_owned(),
            "node-a-00000000-0000-4000-8000-000000000000.file",
        ),
    ] {
        let world = world(&["node-a"]).await;
        let request = Request::post(format!("/report/node-a/{EXECUTION}/file"))
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body.clone()));
        let answer = world.send(request.unwrap()).await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{content_type} {body}: {}",
            answer.text()
        );
        let mut files = world.files();
        files.remove("latest");
        let want = (format!("{EXECUTION}/{want}"), b"x".to_vec());
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [want],
            "{content_type} {body}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_507_and_the_run_goes_on() {
    let world = world(&["node-a"]).await;
    let path = |what: &str| format!("node-a/{EXECUTION}/{what}");
    for (fault, want) in [
        (StoreFault::Writes(ReportStoreErrorKind::NoSpace), 507),
        (StoreFault::Chunks(ReportStoreErrorKind::NoSpace), 507),
        (StoreFault::Chunks(ReportStoreErrorKind::Unavailable), 500),
    ] {
        world.reports.set_fault(Some(fault));
        let answer = world.post(&path("file?name=a"), "content").await;
        assert_eq!(answer.status.as_u16(), want, "{fault:?}");
    }
    world
        .reports
        .set_fault(Some(StoreFault::Writes(ReportStoreErrorKind::Unavailable)));
    assert_eq!(
        world.post(&path("result"), RESULT).await.status.as_u16(),
        500
    );
    assert!(world.has_metric("batch_job_controller_report_store_usable 0"));
    until_no_temporary(&world).await;
    assert!(world.file_names().is_empty());
    assert!(world.metric_lines("audit_plain{").is_empty());
    world.reports.set_fault(None);
    world.finish("node-a", EXECUTION).await;
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(summary.nodes[0].state, NodeState::Succeeded);
    assert!(world.has_metric("batch_job_controller_report_store_usable 1"));
}

#[tokio::test(start_paused = true)]
async fn in_dev_mode_any_pair_is_admitted_whose_names_are_safe() {
    let mut setup = Setup::new(&["node-a"]);
    setup.dev_mode = true;
    let world = setup.run();
    for (path, want) in [
        ("my-laptop.local/202601010000/result", 200),
        ("x/20260101000059/result", 200),
        ("../202601010000/result", 406),
        ("%2E%2E/202601010000/result", 406),
        ("a_b/202601010000/result", 406),
        ("Node/202601010000/result", 406),
        ("-x/202601010000/result", 406),
        ("/202601010000/result", 406),
        ("x/latest/result", 406),
        ("x/../result", 406),
        ("x/2026010100/result", 406),
        ("x/202613010000/result", 406),
    ] {
        assert_eq!(
            world.post(path, RESULT).await.status.as_u16(),
            want,
            "{path}"
        );
    }
    let names = ["202601010000/my-laptop.local.json", "20260101000059/x.json"];
    assert_eq!(world.file_names(), names);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_500_and_counted() {
    let world = world(&["node-a"]).await;
    world.reports.set_fault(Some(StoreFault::Panics));
    let answer = world
        .post(&format!("node-a/{EXECUTION}/file?name=a"), "x")
        .await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.text().contains("the test's"), "{}", answer.text());
    assert!(world.has_metric("batch_job_controller_request_panics_total 1"));
    world.reports.set_fault(None);
    world.post_result("node-a", EXECUTION).await;
}

#[tokio::test(start_paused = true)]
async fn answers_are_counted_by_endpoint_and_code() {
    let world = world(&["node-a"]).await;
    world.post_result("node-a", EXECUTION).await;
    world.post("other/202611232359/file", "x").await;
    world.post("other/202611232359/nope", "x").await;
    assert_eq!(
        world.metric_lines("callback_requests_total{"),
        [
            "batch_job_controller_callback_requests_total{code=\"200\",endpoint=\"result\"} 1",
            "batch_job_controller_callback_requests_total{code=\"404\",endpoint=\"other\"} 1",
            "batch_job_controller_callback_requests_total{code=\"406\",endpoint=\"file\"} 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_is_about_the_job_pod_and_answered_by_the_cluster() {
    let world = world(&["node-a"]).await;
    let path = format!("node-a/{EXECUTION}/event");
    assert_eq!(world.post(&path, EVENT).await.status, StatusCode::OK);
    let event = world.cluster.look(|state| state.events[0].clone());
    let pod = pod_name("node-a", EXECUTION);
    let regarding = event.regarding.unwrap();
    assert_eq!(regarding.uid, Some(world.cluster.pod(&pod).uid));
    assert_eq!(event.metadata.namespace.as_deref(), Some("batch"));
    assert!(event.metadata.name.unwrap().starts_with(&format!("{pod}.")));
    assert_eq!(event.reporting_instance.as_deref(), Some("audit-0"));
    for (fault, want) in [
        (controller::ports::error::ClusterErrorKind::Unavailable, 503),
        (controller::ports::error::ClusterErrorKind::Refused, 502),
    ] {
        world.cluster.change(|state| {
            state
                .faults
                .entry("create_event")
                .or_default()
                .push_back(fault);
        });
        let answer = world.post(&path, EVENT).await;
        assert_eq!(answer.status.as_u16(), want);
        assert_eq!(
            answer.headers.contains_key(header::RETRY_AFTER),
            want == 503
        );
    }
    world.cluster.remove(&pod);
    world
        .until_metric("audit_processing{executionID=\"202611232359\",node=\"node-a\"} 1")
        .await;
    assert_eq!(world.post(&path, EVENT).await.status, StatusCode::NOT_FOUND);
}
