//! What a hostile pod of the cluster may try on the callback API: to report for others, with what it has seen or
//! guessed, to write where it must not, and to take more than there is for it. Whatever is answered, nothing outside of
//! the execution's directory is created or changed. Over the Router; what a connection can do, over TCP.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

#[path = "support/lines.rs"]
mod lines;
#[path = "support/mock.rs"]
mod mock;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use controller::http::server::{Pace, ServerLimits, serve};
use controller::ports::cluster::PodPhase;
use futures::{StreamExt as _, stream};
use http::{Request, StatusCode, header};
use serde_json::json;
use support::replicas::Site;
use support::tokens;
use support::world::{Answer, RESULT, Setup, World, pod_name};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use self::mock::Mock;

const EXECUTION: &str = "202611232359";
const EVENT: &str = r#"{"reason":"Checked","message":"all good"}"#;

/// Names, as they stand in a URL.
const NAMES: [&str; 41] = [
    "../evil",
    "..%2fevil",
    "%2e%2e%2fevil",
    "%252e%252e%252fevil",
    "..%5cevil",
    "..%c0%afevil",
    "%c0%ae%c0%ae/evil",
    "%ff%fe",
    "/etc/evil",
    "%2fetc%2fevil",
    "a%00b",
    "%00",
    ".",
    "..",
    "%2e",
    "...",
    "CON",
    "NUL.txt",
    "C:%5cevil",
    "a%0ab",
    "a%0d%0aSet-Cookie:x",
    "a%7fb",
    "a%c2%85b",
    "%e2%80%ae.txt",
    "%e2%81%a6x",
    "%ef%bb%bfx",
    "",
    "%20",
    "b.json",
    "b-x",
    "_journal-1.jsonl",
    "_execution.json",
    "latest",
    "%F0%9F%98%80",
    "-rf",
    "~root",
    "$HOME",
    "%24(id)",
    "a|b",
    "a;b",
    "a?b",
];

/// A controller that lets nobody in without a token.
async fn guarded(nodes: &[&str]) -> World {
    Setup::new(nodes)
        .set("callbackAuth", json!("required"))
        .run_to_pods()
        .await
}

fn token(node: &str, attempt: u32) -> String {
    tokens().token(node, EXECUTION, attempt)
}

async fn post(
    world: &World,
    node: &str,
    token: &str,
    endpoint: &str,
    body: &'static str,
) -> Answer {
    let path = format!("{node}/{EXECUTION}/{token}/{endpoint}");
    world.post(&path, body).await
}

/// Every file and link below a directory, with what it says.
fn tree(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path(), fs::read(entry.path()).ok());
    }
    found
}

#[tokio::test(start_paused = true)]
async fn only_a_pods_own_token_lets_in_where_one_is_required() {
    let world = guarded(&["node-a", "node-b"]).await;
    let own = token("node-a", 1);
    for (endpoint, body) in [("result", RESULT), ("file?name=x", "x"), ("event", EVENT)] {
        for refused in [
            token("node-b", 1),
            token("node-a", 2),
            tokens().token("node-a", "202611230000", 1),
            own.to_uppercase(),
            own[..own.len() - 1].to_owned(),
            format!("{own}0"),
            format!("%00{own}"),
            "..".to_owned(),
        ] {
            let answer = post(&world, "node-a", &refused, endpoint, body).await;
            let expected = match refused.as_str() {
                // Good, but of an attempt that never was: the controller has not made it, and the key is nobody else's.
                other if other == token("node-a", 2) => continue,
                _ => StatusCode::UNAUTHORIZED,
            };
            assert_eq!(answer.status, expected, "{endpoint} {refused}");
            assert!(!answer.text().contains(&own), "{}", answer.text());
        }
        let path = format!("node-a/{EXECUTION}/{endpoint}");
        let answer = world.post(&path, body).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{endpoint}");
        for (scheme, expected) in [("Bearer", 200), ("bearer", 200), ("Basic", 401)] {
            let request = Request::post(format!("/report/{path}"))
                .header(header::AUTHORIZATION, format!("{scheme} {own}"));
            let answer = world.send(request.body(Body::from(body)).unwrap()).await;
            assert_eq!(answer.status.as_u16(), expected, "{endpoint} {scheme}");
        }
        let answer = post(&world, "node-a", &own, endpoint, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{endpoint}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permissive_controller_counts_who_shows_no_token_and_refuses_a_wrong_one() {
    let world = Setup::new(&["node-a"]).run_to_pods().await;
    let wrong = post(&world, "node-a", &token("node-b", 1), "result", RESULT).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    world
        .until_metric("batch_job_controller_callbacks_without_token_total 0")
        .await;
    for _ in 0..2 {
        world.post_result("node-a", EXECUTION).await;
    }
    let own = post(&world, "node-a", &token("node-a", 1), "result", RESULT).await;
    assert_eq!(own.status, StatusCode::OK);
    world
        .until_metric("batch_job_controller_callbacks_without_token_total 2")
        .await;
    let unknown = world.post("node-x/202611232359/result", RESULT).await;
    assert_eq!(unknown.status, StatusCode::NOT_ACCEPTABLE);
    world
        .until_metric("batch_job_controller_callbacks_without_token_total 2")
        .await;
}

#[tokio::test(start_paused = true)]
async fn where_tokens_are_off_none_is_looked_at() {
    let world = Setup::new(&["node-a"])
        .set("callbackAuth", json!("off"))
        .run_to_pods()
        .await;
    let answer = post(&world, "node-a", "whatever", "result", RESULT).await;
    assert_eq!(answer.status, StatusCode::OK);
    let urls = urls_of(&world, &pod_name("node-a", EXECUTION));
    assert_eq!(urls.len(), 6, "{urls:?}");
    assert!(
        urls.iter().all(|url| url.split('/').count() == 7),
        "{urls:?}"
    );
}

/// The callback URLs in the environment of a pod.
fn urls_of(world: &World, pod: &str) -> Vec<String> {
    let spec = world.cluster.look(|state| {
        let mut creates = state.creates.iter();
        let create = creates.find(|create| create.name == pod).unwrap();
        create.pod.spec.clone().unwrap()
    });
    let containers = spec
        .containers
        .into_iter()
        .chain(spec.init_containers.unwrap());
    containers
        .flat_map(|container| container.env.unwrap())
        .filter(|variable| variable.name.ends_with("_URL"))
        .map(|variable| variable.value.unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_token_in_its_urls_and_what_it_posts_there_is_taken() {
    let world = guarded(&["node-a"]).await;
    let urls = urls_of(&world, &pod_name("node-a", EXECUTION));
    assert_eq!(urls.len(), 6, "{urls:?}");
    for url in urls {
        let path = url.split_once("/report/").unwrap().1;
        let body = match path.rsplit('/').next().unwrap() {
            "result" => RESULT,
            "file" => "x",
            _ => EVENT,
        };
        assert_eq!(world.post(path, body).await.status, StatusCode::OK, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_ten_minutes_after_its_pod_also_through_a_restart() {
    let mut world = guarded(&["node-a", "node-b"]).await;
    let own = token("node-a", 1);
    let result = post(&world, "node-a", &own, "result", RESULT).await;
    assert_eq!(result.status, StatusCode::OK);
    world.cluster.succeed(&pod_name("node-a", EXECUTION));
    for (minutes, restarts, expected) in [(9, false, 200), (2, false, 401), (0, true, 401)] {
        tokio::time::sleep(Duration::from_mins(minutes)).await;
        if restarts {
            world = world.restart(|_, _| {});
            world.handle.recovered().await;
            while world.handle.is_unread("node-a", EXECUTION) {
                let answer = post(&world, "node-a", &own, "file?name=late", "x").await;
                assert_ne!(answer.status, StatusCode::NOT_ACCEPTABLE);
                tokio::task::yield_now().await;
            }
        }
        let answer = post(&world, "node-a", &own, "file?name=late", "x").await;
        assert_eq!(answer.status.as_u16(), expected, "{minutes} {restarts}");
    }
    // The other one's pod still runs.
    let other = post(&world, "node-b", &token("node-b", 1), "result", RESULT).await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_report_of_an_older_attempt_never_replaces_a_newer_ones() {
    let setup = Setup::new(&["node-a"])
        .set("callbackAuth", json!("required"))
        .set("retries", json!(1));
    let world = setup.run_to_pods().await;
    world
        .cluster
        .set_phase(&pod_name("node-a", EXECUTION), PodPhase::Failed);
    world
        .cluster
        .until("the second attempt", |state| {
            (state.pods.len() == 2).then_some(())
        })
        .await;
    for (endpoint, body, of_older) in [
        ("result", RESULT, 409),
        ("result", "no JSON", 400),
        ("file?name=x", "older", 409),
        ("file?name=a/b", "older", 400),
        ("event", EVENT, 200),
    ] {
        let answer = post(&world, "node-a", &token("node-a", 1), endpoint, body).await;
        assert_eq!(
            answer.status.as_u16(),
            of_older,
            "{endpoint}: {}",
            answer.text()
        );
    }
    for (endpoint, body) in [("result", RESULT), ("file?name=x", "newer")] {
        let answer = post(&world, "node-a", &token("node-a", 2), endpoint, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{endpoint}");
    }
    let stored = world.directory().join(EXECUTION).join("node-a-x");
    assert_eq!(fs::read_to_string(stored).unwrap(), "newer");
}

#[tokio::test(start_paused = true)]
async fn no_name_leaves_the_executions_directory() {
    let parent = TempDir::new().unwrap();
    let world =
        Setup::new(&["node-a", "node-a-b"]).run_in(TempDir::new_in(parent.path()).unwrap(), |_| {});
    world.cluster.until_created(2).await;
    let execution = world.directory().join(EXECUTION);
    let outside = |path: &PathBuf| !path.starts_with(&execution);
    let mut before = tree(parent.path());
    before.retain(|path, _| outside(path));
    let long = "x".repeat(300);
    for name in NAMES.into_iter().chain([long.as_str()]) {
        let path = format!("node-a/{EXECUTION}/file?name={name}");
        let answer = world.post(&path, "evil").await;
        assert!(
            matches!(answer.status.as_u16(), 200 | 400 | 409),
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
        for disposition in [
            format!("attachment; filename=\"{name}\""),
            format!("attachment; filename*=UTF-8''{name}"),
        ] {
            let plain = Request::post(format!("/report/node-a/{EXECUTION}/file"))
                .header(header::CONTENT_DISPOSITION, &disposition);
            let answer = world.send(plain.body(Body::from("evil")).unwrap()).await;
            assert!(
                answer.status.as_u16() < 500,
                "{disposition}: {}",
                answer.status
            );
            let part = disposition.replace("attachment", "form-data; name=\"f\"");
            let body = format!("--X\r\nContent-Disposition: {part}\r\n\r\nevil\r\n--X--\r\n");
            let form = Request::post(format!("/report/node-a/{EXECUTION}/file"))
                .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X");
            let answer = world.send(form.body(Body::from(body)).unwrap()).await;
            assert!(answer.status.as_u16() < 500, "{part}: {}", answer.status);
        }
    }
    for target in [
        "node-a/..%2f..%2fetc/result",
        "..%2f..%2fetc/202611232359/result",
        "node-a%00/202611232359/result",
    ] {
        let answer = world.post(target, RESULT).await;
        assert!(
            matches!(answer.status.as_u16(), 404 | 406),
            "{target}: {}",
            answer.status
        );
    }
    let mut after = tree(parent.path());
    after.retain(|path, _| outside(path));
    assert_eq!(before, after);
    let stored = fs::read_dir(&execution)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for name in stored.filter(|name| !name.starts_with('_')) {
        assert!(
            name.starts_with("node-a-") && !name.starts_with("node-a-b"),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_scraper_could_take_is_refused_by_its_field_and_leaves_nothing() {
    let world = Setup::new(&["node-a"]).run_to_pods().await;
    let labelled = |value: &str| format!(r#"{{"test":[{{"labels":{{"label_a":"{value}"}}}}]}}"#);
    let many = |from: usize, to: usize| {
        let sample = |number| format!(r#"{{"labels":{{"label_a":"{number}"}}}}"#);
        let samples: Vec<String> = (from..to).map(sample).collect();
        format!(r#"{{"test":[{}]}}"#, samples.join(","))
    };
    for (body, want) in [
        (
            r#"{"plain":[{"value":1e999}]}"#.to_owned(),
            "plain[0].value",
        ),
        (r#"{"plain":[{"value":NaN}]}"#.to_owned(), "plain[0].value"),
        (labelled("x\\u0000y"), "test[0].labels.label_a"),
        (labelled(&"x".repeat(1025)), "at most 1024 bytes"),
        (many(0, 1001), "test: would have 1001 series"),
    ] {
        let answer = world
            .post(&format!("node-a/{EXECUTION}/result"), body)
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{want}");
        assert!(answer.text().contains(want), "{}", answer.text());
        assert_eq!(answer.text().lines().count(), 1);
    }
    assert_eq!(world.file_names(), [""; 0]);
    for (from, to, status) in [(0, 700, 200), (0, 1000, 200), (1000, 1001, 400)] {
        let path = format!("node-a/{EXECUTION}/result");
        let answer = world.post(&path, many(from, to)).await;
        assert_eq!(answer.status.as_u16(), status, "{from}..{to}");
    }
    let series = world.metric_lines(&format!("audit_test{{executionID=\"{EXECUTION}\""));
    assert_eq!(series.len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_somebody_planted_is_not_followed() {
    let world = Setup::new(&["node-a"]).run_to_pods().await;
    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "theirs").unwrap();
    let execution = world.directory().join(EXECUTION);
    for name in ["node-a.json", "node-a-x"] {
        symlink(&secret, execution.join(name)).unwrap();
    }
    world.post_result("node-a", EXECUTION).await;
    let file = world
        .post(&format!("node-a/{EXECUTION}/file?name=x"), "mine")
        .await;
    assert_eq!(file.status, StatusCode::OK);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "theirs");
    assert_eq!(
        fs::read_to_string(execution.join("node-a-x")).unwrap(),
        "mine"
    );
    // Now in the place of the directory itself.
    fs::rename(&execution, world.directory().join("moved")).unwrap();
    symlink(outside.path(), &execution).unwrap();
    for (endpoint, body) in [("result", RESULT), ("file?name=y", "mine")] {
        let answer = world
            .post(&format!("node-a/{EXECUTION}/{endpoint}"), body)
            .await;
        assert!(
            answer.status.is_server_error(),
            "{endpoint}: {}",
            answer.status
        );
    }
    assert_eq!(tree(outside.path()).len(), 1);
}

/// A body of so many bytes in chunks of 16 KiB, whose length nobody announces.
fn chunked(bytes: usize) -> Body {
    const CHUNK: usize = 16 << 10;
    let chunk = Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; CHUNK]));
    Body::from_stream(stream::iter(vec![chunk; bytes / CHUNK]))
}

/// Every entry of the execution's directory but our own files: reports, and uploads under their temporary names.
fn stored(execution: &Path) -> Vec<String> {
    let entries = fs::read_dir(execution).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| !name.starts_with('_') || name.starts_with("_upload-"))
        .collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn an_execution_stores_what_its_quota_allows_whoever_posts_and_after_a_restart_too() {
    let setup = Setup::new(&["node-a", "node-b"]).set("reportQuota", json!("256Ki"));
    let mut world = setup.run_to_pods().await;
    let upload = async |world: &World, node: &str, name: &str, body: Body| {
        let path = format!("{node}/{EXECUTION}/file?name={name}");
        let answer = world.post(&path, body).await;
        (answer.status.as_u16(), answer.text().to_owned())
    };
    let refusal =
        "reportQuota: the reports of this execution would take more than 262144 bytes, the limit\n";
    assert_eq!(
        upload(&world, "node-a", "x", chunked(128 << 10)).await.0,
        200
    );
    for restarts in [false, true] {
        if restarts {
            world = world.restart(|_, _| {});
            world.handle.recovered().await;
        }
        // Cut in the middle of its way; the second is refused at its end.
        for body in [chunked(512 << 10), Body::from(vec![b'y'; 130 << 10])] {
            let refused = upload(&world, "node-b", "y", body).await;
            assert_eq!(refused, (507, refusal.to_owned()), "{restarts}");
        }
        let form = "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"one\"\r\n\r\n";
        let form = format!("{form}{}\r\n--X--\r\n", "z".repeat(200 << 10));
        let request = Request::post(format!("/report/node-b/{EXECUTION}/file"))
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X");
        let answer = world.send(request.body(Body::from(form)).unwrap()).await;
        assert_eq!(answer.text(), refusal);
        // The same again, and another in its place: neither is counted twice.
        for _ in 0..5 {
            assert_eq!(
                upload(&world, "node-a", "x", chunked(128 << 10)).await.0,
                200
            );
            let other = Body::from(vec![b'z'; 128 << 10]);
            assert_eq!(upload(&world, "node-a", "x", other).await.0, 200);
            world.post_result("node-b", EXECUTION).await;
        }
        world
            .until("what was refused is gone", |world| {
                let names = stored(&world.directory().join(EXECUTION));
                (names == ["node-a-x", "node-b.json"]).then_some(())
            })
            .await;
        assert!(world.has_metric("batch_job_controller_report_store_usable 1"));
    }
    // Two at once have room for one.
    let (one, other) = tokio::join!(
        upload(&world, "node-a", "one", chunked(112 << 10)),
        upload(&world, "node-b", "other", chunked(112 << 10)),
    );
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 507]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_counts_what_others_stored_before_it() {
    let setup = Setup::new(&["node-a"]).set("reportQuota", json!("256Ki"));
    let site = Site::new(&setup);
    let first = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    site.cluster.until_created(1).await;
    let path = |name: &str| format!("node-a/{EXECUTION}/file?name={name}");
    let status = async |process: &support::replicas::Process, name: &str, bytes: usize| {
        process
            .post(&path(name), chunked(bytes))
            .await
            .status
            .as_u16()
    };
    assert_eq!(status(&first, "one", 96 << 10).await, 200);
    drop(first);
    second.until_it_leads().await;
    assert_eq!(status(&second, "two", 96 << 10).await, 200);
    assert_eq!(status(&second, "three", 96 << 10).await, 507);
}

/// A body of which so many bytes come, and no end.
fn endless(bytes: usize) -> Body {
    let begun = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(vec![
        b'x';
        bytes
    ]))]);
    Body::from_stream(begun.chain(stream::pending()))
}

/// Posts that have begun and do not come to their end; dropped, their connections are.
fn under_way(
    world: &World,
    paths: impl Iterator<Item = String>,
    bytes: usize,
) -> tokio::task::JoinSet<StatusCode> {
    let mut posts = tokio::task::JoinSet::new();
    for path in paths {
        let request = Request::post(format!("/report/{path}"));
        let request = request.body(endless(bytes)).unwrap();
        let answered = world.callback.clone().oneshot(request);
        posts.spawn(async { answered.await.unwrap().status() });
    }
    posts
}

fn retry_after(answer: &Answer) -> &str {
    answer.headers[header::RETRY_AFTER].to_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_pod_has_only_so_many_posts_under_way_and_takes_no_other_pods_place() {
    let world = Setup::new(&["node-a", "node-b"]).run_to_pods().await;
    let endpoints = ["result", "file?name=x", "event"].iter().cycle().take(32);
    let paths = endpoints.map(|endpoint| format!("node-a/{EXECUTION}/{endpoint}"));
    let mut posts = under_way(&world, paths, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let result = format!("node-a/{EXECUTION}/result");
    let answer = world.post(&result, RESULT).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(retry_after(&answer), "1");
    assert!(
        answer.text().contains("32 under way, the limit"),
        "{}",
        answer.text()
    );
    world
        .until_metric(
            r#"batch_job_controller_callback_requests_total{code="429",endpoint="result"} 1"#,
        )
        .await;
    world.post_result("node-b", EXECUTION).await;
    // Nor does somebody without a token take the pod's.
    posts.abort_all();
    while posts.join_next().await.is_some() {}
    world.post_result("node-a", EXECUTION).await;
    let guarded = guarded(&["node-a"]).await;
    let paths = (0..32).map(|_| format!("node-a/{EXECUTION}/1-0/file?name=x"));
    let mut refused = under_way(&guarded, paths, 1);
    while let Some(status) = refused.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_wait_for_their_turn_and_results_do_not_wait_for_them() {
    let mut setup = Setup::new(&["node-a"]);
    setup.dev_mode = true;
    let world = setup.run();
    let paths = (0..512).map(|number| format!("node-{number}/{EXECUTION}/file?name=x"));
    let mut posts = under_way(&world, paths, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    let answer = world
        .post(&format!("node-a/{EXECUTION}/file?name=x"), "x")
        .await;
    assert_eq!(
        answer.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        answer.text()
    );
    assert_eq!(retry_after(&answer), "5");
    assert_eq!(begun.elapsed().as_secs(), 30);
    world.post_result("node-a", EXECUTION).await;
    posts.abort_all();
    let answer = world
        .post(&format!("node-a/{EXECUTION}/file?name=x"), "x")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_wait_for_their_end_take_only_so_much_memory_together() {
    let mut setup = Setup::new(&["node-a"]);
    setup.dev_mode = true;
    let world = setup.run();
    let paths = (0..70).map(|number| format!("node-{number}/{EXECUTION}/result"));
    let mut posts = under_way(&world, paths, (1 << 20) - 100);
    for _ in 0..6 {
        let refused = posts.join_next().await.unwrap().unwrap();
        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    }
    world.post_result("node-a", EXECUTION).await;
    posts.abort_all();
    while posts.join_next().await.is_some() {}
    let large = format!(r#"{{"plain":[{}{{}}]}}"#, "{},".repeat(300_000));
    let answer = world
        .post(&format!("node-a/{EXECUTION}/result"), large)
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_posts_events_without_end_is_told_when_it_may_post_the_next() {
    let world = guarded(&["node-a", "node-b"]).await;
    let own = token("node-a", 1);
    for _ in 0..50 {
        let answer = post(&world, "node-a", &own, "event", EVENT).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let answer = post(&world, "node-a", &own, "event", EVENT).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = retry_after(&answer).parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert!(answer.text().starts_with("event: "), "{}", answer.text());
    let other = post(&world, "node-b", &token("node-b", 1), "event", EVENT).await;
    assert_eq!(other.status, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    for expected in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        let answer = post(&world, "node-a", &own, "event", EVENT).await;
        assert_eq!(answer.status, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_has_only_so_many_reports_and_may_replace_each() {
    let mut world = Setup::new(&["node-a", "node-b"]).run_to_pods().await;
    let upload = async |world: &World, node: &str, name: &str| {
        let path = format!("{node}/{EXECUTION}/file?name={name}");
        let answer = world.post(&path, name.to_owned()).await;
        (answer.status.as_u16(), answer.text().to_owned())
    };
    world.post_result("node-a", EXECUTION).await;
    // Each counts once, however often it is posted.
    for number in (0..999).chain(0..20) {
        let stored = upload(&world, "node-a", &format!("file-{number}")).await;
        assert_eq!(stored, (200, String::new()), "{number}");
    }
    for restarts in [false, true] {
        if restarts {
            world = world.restart(|_, _| {});
            world.handle.recovered().await;
        }
        let refused = upload(&world, "node-a", "one-more").await;
        assert_eq!(refused.0, 507);
        assert!(
            refused.1.contains("more than 1000 reports"),
            "{}",
            refused.1
        );
        assert_eq!(upload(&world, "node-a", "file-7").await.0, 200);
        assert_eq!(upload(&world, "node-b", "one-more").await.0, 200);
    }
    let names = stored(&world.directory().join(EXECUTION));
    assert_eq!(names.len(), 1001);
}

/// Limits of the same kind as a process's own, in times that a test can wait for.
fn short() -> ServerLimits {
    ServerLimits {
        connections: 8,
        head_timeout: Duration::from_millis(300),
        pace: Pace {
            bytes: 1000,
            within: Duration::from_millis(300),
        },
        ..ServerLimits::default()
    }
}

/// Serves over TCP.
async fn listen(router: Router, limits: ServerLimits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, limits, CancellationToken::new()));
    address
}

/// All that the other side says until it closes the connection.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // A connection that is closed over what was not read is reset.
    let _ = tokio::time::timeout(lines::PATIENCE, stream.read_to_end(&mut said))
        .await
        .unwrap();
    String::from_utf8(said).unwrap()
}

fn head(target: &str, length: usize) -> String {
    format!("POST /report/{target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_cut_off_and_a_steady_one_is_not() {
    let world = Setup::new(&["node-a"]).run_to_pods().await;
    let address = listen(world.callback.clone(), short()).await;
    let connect = async |sent: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        stream
    };
    // Half a head, none at all, and one that is too long.
    let result = format!("node-a/{EXECUTION}/result");
    for sent in ["POST /report/", ""] {
        assert_eq!(rest_of(connect(sent).await).await, "", "{sent}");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(17 << 10));
    let answer = rest_of(connect(&long).await).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Half a body: none that goes on, and one that does, too slowly.
    let file = format!("node-a/{EXECUTION}/file?name=x");
    let form = "Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n";
    for target in [&result, &file] {
        for (head, trickles) in [
            (head(target, 5000), false),
            (head(target, 5000), true),
            (
                head(target, 5000).replacen("\r\n\r\n", &format!("\r\n{form}"), 1),
                false,
            ),
        ] {
            let mut stream = connect(&head).await;
            while trickles && stream.write_all(b"x").await.is_ok() {
                let mut byte = [0];
                let pause = Duration::from_millis(20);
                if tokio::time::timeout(pause, stream.peek(&mut byte))
                    .await
                    .is_ok()
                {
                    break;
                }
            }
            let answer = rest_of(stream).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{target}: {answer}");
            let limit = "body: fewer than 1000 bytes came within 0.3 s, the limit\n";
            assert!(answer.ends_with(limit), "{answer}");
        }
    }
    assert_eq!(stored(&world.directory().join(EXECUTION)), [""; 0]);
    // For longer than any of these times.
    let mut stream = connect(&head(&file, 20 * 500)).await;
    for _ in 0..20 {
        stream.write_all(&[b'x'; 500]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = rest_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn whoever_has_a_request_gets_the_place_of_whoever_has_none() {
    let world = Setup::new(&["node-a"]).run_to_pods().await;
    let patient = ServerLimits {
        head_timeout: lines::PATIENCE,
        ..short()
    };
    let address = listen(world.callback.clone(), patient).await;
    let mut idle = Vec::new();
    for _ in 0..3 * patient.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /report/").await.unwrap();
        idle.push(stream);
    }
    // One has its answer and stays.
    let request = head(&format!("node-a/{EXECUTION}/result"), RESULT.len()) + RESULT;
    let mut first = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        first.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            answer.push(char::from(first.read_u8().await.unwrap()));
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    idle.reverse();
    let newest = idle.split_off(patient.connections - 1);
    for stream in newest {
        assert_eq!(rest_of(stream).await, "");
    }
    for stream in idle {
        let still = tokio::time::timeout(Duration::from_millis(1), stream.readable()).await;
        assert!(still.is_err(), "the newest are spared");
    }
}

/// The resident memory of a process, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .unwrap()
}

/// Raises the process's own limit: it holds thousands of sockets.
fn allow_files(wanted: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|current| current < wanted) {
        files.current = files.maximum;
        setrlimit(Resource::Nofile, files).unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn thousands_of_half_sent_requests_neither_stop_the_server_nor_fill_its_memory() {
    const REQUESTS: usize = 6000;
    const GROWTH_KIB_MAX: u64 = 192 << 10;
    allow_files(2 * REQUESTS as u64);
    let directory = TempDir::new().unwrap();
    let mock = Mock::start(&[
        "--port",
        "0",
        "--report-directory",
        mock::shown(directory.path()),
    ]);
    let url = mock.variable("CALLBACK_SERVICE_RESULT_URL");
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let before = resident_kib(mock.process());
    let long = format!(
        "{}X: {}",
        head("n/1/result", 1).trim_end(),
        "x".repeat(12 << 10)
    );
    let mut open = Vec::new();
    for number in 0..REQUESTS {
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        let endpoint = ["result", "file?name=x"][number % 2];
        let of_node = path.replace("node-1", &format!("node-{number}"));
        let target = of_node
            .trim_start_matches("report/")
            .replace("result", endpoint);
        let sent = match number % 3 {
            0 => "POST /report/".to_owned(),
            1 => long.clone(),
            _ => head(&target, 1 << 20) + &"x".repeat(8 << 10),
        };
        // It may have given way already.
        let _ = stream.write_all(sent.as_bytes());
        open.push(stream);
    }
    let mut posted = std::net::TcpStream::connect(host).unwrap();
    posted.set_read_timeout(Some(lines::PATIENCE)).unwrap();
    let request = head(path.trim_start_matches("report/"), RESULT.len()) + RESULT;
    posted.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 15];
    posted.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let after = resident_kib(mock.process());
    println!(
        "{REQUESTS} half-sent requests: {before} KiB before, {after} KiB after, {} bytes each",
        (after.saturating_sub(before) << 10) / REQUESTS as u64
    );
    assert!(
        after < before + GROWTH_KIB_MAX,
        "{before} KiB, then {after} KiB"
    );
    drop(open);
}
