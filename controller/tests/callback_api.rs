//! The callback API over the production loop and router: who may post what, in which order faults are answered, and
//! that a report is whole or absent.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::time::Duration;

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
    Setup::new(nodes).run_to_pods().await
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

/// A part of a form with the boundary `X`.
fn part(name: &str, content: &str) -> String {
    format!(
        "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n{content}\r\n"
    )
}

/// A form with the boundary `X` as `node-a` posts it.
fn form(body: impl Into<Body>) -> Request<Body> {
    Request::post(format!("/report/node-a/{EXECUTION}/file"))
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
        .body(body.into())
        .unwrap()
}

/// A body in chunks, without an announced length, that may break off.
fn chunks_of(text: &str, is_whole: bool) -> Body {
    let text = text.as_bytes().to_vec();
    let mut chunks: Vec<io::Result<Bytes>> = (text.chunks(50))
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    if !is_whole {
        chunks.push(Err(io::Error::other("reset")));
    }
    Body::from_stream(stream::iter(chunks))
}

/// Sends what is not answered within a second: its connection is gone then.
async fn send_and_leave(world: &World, request: Request<Body>) {
    let sending = world.send(request);
    let left = tokio::time::timeout(Duration::from_secs(1), sending).await;
    assert!(left.is_err(), "answered with {left:?}");
}

/// Waits until no temporary file is left.
async fn until_no_temporary(world: &World) {
    world
        .until("no temporary file", |world| {
            let entries = std::fs::read_dir(world.directory().join(EXECUTION)).unwrap();
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
    let world = setup.run_to_pods().await;
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
            Some(5),
            unread(),
            400,
        ),
        (
            "POST",
            format!("{known}/file?name=b.json"),
            Some(5),
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
async fn a_fault_that_shows_while_reading_is_answered_before_one_known_earlier() {
    let setup = Setup::new(&["node-a", "node-a-b"]).set("callbackBodyLimit", json!({"file": 1000}));
    let world = setup.run_to_pods().await;
    let long = "x".repeat(1001);
    for (name, is_long, is_whole, want) in [
        ("b.json", true, true, 413),
        ("b.json", false, false, 400),
        ("b.json", false, true, 409),
        ("..", true, true, 413),
        ("..", false, true, 400),
        ("ok", true, true, 413),
        ("ok", true, false, 413),
        ("ok", false, false, 400),
    ] {
        let body = chunks_of(if is_long { &long } else { "short" }, is_whole);
        let path = format!("/report/node-a/{EXECUTION}/file?name={name}");
        let got = status(&world, "POST", &path, None, body).await;
        assert_eq!(got, want, "{name}, long: {is_long}, whole: {is_whole}");
    }
    let (good, taken, unsafe_, end) = (
        part("a", "x"),
        part("b.json", "x"),
        part("../c", "x"),
        "--X--\r\n",
    );
    for (body, want) in [
        (format!("{good}{taken}{end}"), 409),
        (format!("{taken}{unsafe_}{end}"), 400),
        (format!("{unsafe_}{taken}{end}"), 400),
        (format!("{taken}{good}"), 400),
        (format!("{taken}--X\r\nbroken\r\n{end}"), 400),
        (format!("{taken}{}{end}", part("a", &long)), 413),
        (format!("--X\r\nbroken\r\n{long}"), 413),
        (format!("{unsafe_}{end}{long}"), 413),
    ] {
        let answer = world.send(form(chunks_of(&body, true))).await;
        assert_eq!(answer.status.as_u16(), want, "{body}: {}", answer.text());
    }
    world
        .reports
        .set_fault(Some(StoreFault::Chunks(ReportStoreErrorKind::NoSpace)));
    for (body, want) in [
        (format!("{good}{end}"), 507),
        (format!("{good}{taken}{end}"), 409),
        (format!("{good}{unsafe_}{end}"), 400),
        (format!("{good}{end}{long}"), 413),
    ] {
        let answer = world.send(form(chunks_of(&body, true))).await;
        assert_eq!(answer.status.as_u16(), want, "{body}: {}", answer.text());
    }
    let path = format!("/report/node-a/{EXECUTION}/file?name=ok");
    let got = status(&world, "POST", &path, None, chunks_of(&long, true)).await;
    assert_eq!(got, 413);
    until_no_temporary(&world).await;
    assert!(world.file_names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_form_has_at_most_a_thousand_files() {
    let world = world(&["node-a"]).await;
    let files = |count: usize| -> String {
        let parts = (0..count).map(|number| part(&format!("{number}"), "x"));
        parts.chain(["--X--\r\n".to_owned()]).collect()
    };
    let answer = world.send(form(files(1001))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("1000"), "{}", answer.text());
    until_no_temporary(&world).await;
    assert!(world.file_names().is_empty());
    let answer = world.send(form(files(1000))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(world.file_names().len(), 1000);
    // The one that is arriving, and those that wait.
    let open = world.reports.open_uploads();
    assert_eq!((open.now, open.most), (0, 17));
}

#[tokio::test(start_paused = true)]
async fn of_two_parts_of_one_name_the_last_is_stored() {
    let world = world(&["node-a"]).await;
    let body = part("a", "first") + &part("b", "other") + &part("a", "last") + "--X--\r\n";
    assert_eq!(world.send(form(body)).await.status, StatusCode::OK);
    let files = world.files();
    assert_eq!(files[&format!("{EXECUTION}/node-a-a")], b"last");
    assert_eq!(files[&format!("{EXECUTION}/node-a-b")], b"other");
    until_no_temporary(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_stored_report_is_told_though_its_connection_has_gone() {
    let world = world(&["node-a"]).await;
    world
        .reports
        .set_fault(Some(StoreFault::Slow(Duration::from_secs(10))));
    let request = Request::post(format!("/report/node-a/{EXECUTION}/result"));
    send_and_leave(&world, request.body(Body::from(RESULT)).unwrap()).await;
    let told = world.metric_lines("audit_plain{");
    assert!(told.is_empty(), "{told:?}");
    let body = part("a", "x") + &part("b", "x") + "--X--\r\n";
    send_and_leave(&world, form(body)).await;
    world
        .until_metric(&format!(
            "audit_plain{{executionID=\"{EXECUTION}\",node=\"node-a\"}} 1"
        ))
        .await;
    let second = format!("{EXECUTION}/node-a-b");
    world
        .until("the second file", |world| {
            world.files().contains_key(&second).then_some(())
        })
        .await;
    world.reports.set_fault(None);
    tokio::time::sleep(Duration::from_secs(11)).await;
    world.cluster.succeed(&pod_name("node-a", EXECUTION));
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(summary.nodes[0].state, NodeState::Succeeded);
    assert_eq!(
        summary.nodes[0].reports,
        ["node-a.json", "node-a-a", "node-a-b"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_leaves_the_history_takes_nothing_more_and_stays_away() {
    let setup = Setup::new(&["node-a"])
        .set("cronExpression", json!("* * * * *"))
        .set("reportHistory", json!(1));
    let world = setup.run_to_pods().await;
    world.finish("node-a", EXECUTION).await;
    world.until_ended(EXECUTION).await;
    let directory = world.directory().join(EXECUTION);
    let (chunks, received) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(received, |mut received| async move {
        let chunk = received.recv().await?;
        Some((Ok::<_, io::Error>(chunk), received))
    });
    let path = format!("node-a/{EXECUTION}/file?name=late");
    let posting = world.post(&path, Body::from_stream(body));
    let pruning = async {
        chunks.send(Bytes::from_static(b"admitted")).await.unwrap();
        world
            .reports
            .set_fault(Some(StoreFault::Slow(Duration::from_secs(10))));
        world
            .until("the removal", |_| (!directory.exists()).then_some(()))
            .await;
        // The removal is not answered yet.
        assert!(world.cluster.look(|state| state.creates.len()) == 1);
        for path in ["result", "file?name=a"] {
            let path = format!("node-a/{EXECUTION}/{path}");
            let answer = world.post(&path, RESULT).await;
            assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE, "{path}");
        }
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(posting, pruning);
    assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE);
    assert!(!directory.exists());
    assert!(world.has_metric("batch_job_controller_report_store_usable 1"));
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
    let world = setup.run_to_pods().await;
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
    let world = setup.run_to_pods().await;
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
    let gone = tokio::time::timeout(Duration::from_secs(1), posting).await;
    assert!(gone.is_err());
    until_no_temporary(&world).await;
    assert!(world.file_names().is_empty());
    assert!(world.cluster.look(|state| state.events.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_form_that_breaks_off_leaves_none_of_its_files() {
    let world = world(&["node-a"]).await;
    for (body, want) in [
        (
            format!(
                "{}{}",
                part("a", "content"),
                "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"b\"\r\n\r\ncont"
            ),
            400,
        ),
        (
            format!(
                "{}{}--X--\r\n",
                part("a", "content"),
                part("../b", "content")
            ),
            400,
        ),
        (
            format!(
                "{}{}--X--\r\n",
                part("a", "content"),
                part("b.json", "content")
            ),
            409,
        ),
    ] {
        let request = form(body.clone());
        let world = if want == 409 {
            self::world(&["node-a", "node-a-b"]).await
        } else {
            self::world(&["node-a"]).await
        };
        assert_eq!(world.send(request).await.status.as_u16(), want, "{body}");
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
    let answer = world
        .post(&format!("node-a/{EXECUTION}/result"), RESULT)
        .await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.text().contains("the test's"), "{}", answer.text());
    assert!(world.has_metric("batch_job_controller_request_panics_total 2"));
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
