//! Requests to a replica that does not lead: passed on to the leader, held while there is none, never lost. Over the
//! Routers, in virtual time.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use controller::core::callback_key::{CallbackKey, KEY_BYTES, Purpose};
use controller::core::forward_mark::{HEADER, Passage};
use controller::ports::error::ClusterErrorKind;
use futures::{TryStreamExt as _, stream};
use http::{Request, StatusCode, header};
use serde_json::json;
use support::replicas::{Process, Site, key, send, until};
use support::reports::StoreFault;
use support::world::{Answer, RESULT, Setup};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const EXECUTION: &str = "202611232359";
const RESULT_OF_A: &str = "node-a/202611232359/result";
const FILE_OF_A: &str = "node-a/202611232359/file?name=log.txt";

/// A leader and a replica that stands by, in an execution of two nodes.
struct Pair {
    site: Site,
    leader: Process,
    standby: Process,
}

async fn pair() -> Pair {
    pair_of(setup()).await
}

fn setup() -> Setup {
    Setup::new(&["node-a", "node-b"])
}

async fn pair_of(setup: Setup) -> Pair {
    let site = Site::new(&setup);
    let leader = site.start_leader("audit-0").await;
    let standby = site.start("audit-1");
    standby.until_it_stands_by(Some("audit-0")).await;
    (site.cluster)
        .until("every pod", |state| (state.pods.len() == 2).then_some(()))
        .await;
    Pair {
        site,
        leader,
        standby,
    }
}

impl Pair {
    fn is_on_disk(&self, name: &str, content: &str) -> bool {
        let path = self.site.directory().join(EXECUTION).join(name);
        std::fs::read(path).is_ok_and(|found| found == content.as_bytes())
    }
}

/// Posts without waiting for the answer.
fn begin_post(process: &Process, path: &str, body: Body) -> JoinHandle<(Answer, Duration)> {
    let (router, begun) = (process.callback.clone(), Instant::now());
    let request = Request::post(format!("/report/{path}"));
    let request = request.body(body).unwrap();
    tokio::spawn(async move {
        let answer = send(&router, request).await;
        (answer, begun.elapsed())
    })
}

/// A body of so many bytes, in chunks of 64 KiB.
fn body_of(bytes: usize) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = vec![Ok::<_, std::convert::Infallible>(chunk); bytes / CHUNK];
    Body::from_stream(stream::iter(chunks))
}

fn counted(name: &str, labels: &str, count: u32) -> String {
    format!("batch_job_controller_{name}_total{{{labels}}} {count}")
}

#[tokio::test(start_paused = true)]
async fn a_post_to_a_standby_is_answered_by_the_leader_as_it_answers_itself() {
    let pair = pair().await;
    for (path, body, status) in [
        (RESULT_OF_A, RESULT, 200),
        (RESULT_OF_A, "{", 400),
        ("node-x/202611232359/result", RESULT, 406),
        (FILE_OF_A, "a file", 200),
        ("node-a/202611232359/file?name=..", "a file", 400),
        (
            "node-a/202611232359/event",
            r#"{"reason":"Checked","message":"well"}"#,
            200,
        ),
        ("node-a/202611232359/nothing", "", 404),
    ] {
        let direct = pair.leader.post(path, body).await;
        let passed_on = pair.standby.post(path, body).await;
        assert_eq!(direct.status.as_u16(), status, "{path}: {}", direct.text());
        assert_eq!(
            (passed_on.status, passed_on.text()),
            (direct.status, direct.text()),
            "{path}"
        );
    }
    assert!(pair.is_on_disk("node-a.json", RESULT));
    assert!(pair.is_on_disk("node-a-log.txt", "a file"));
    let sample = r#"audit_plain{executionID="202611232359",node="node-a"} 1"#;
    assert!(pair.leader.has_metric(sample));
    assert!(!pair.standby.has_metric(sample));
    let answered = counted(
        "forwarded_requests",
        r#"outcome="answered",port="callback""#,
        6,
    );
    assert!(pair.standby.has_metric(&answered), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused_through_a_standby_too() {
    let limits = json!({"file": "2Mi", "result": "1Ki"});
    let pair = pair_of(setup().set("callbackBodyLimit", limits)).await;
    for (path, bytes) in [(RESULT_OF_A, 64 << 10), (FILE_OF_A, 3 << 20)] {
        let answer = pair.standby.post(path, body_of(bytes)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
    }
    let answer = pair.standby.post(FILE_OF_A, body_of(2 << 20)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn callbacks_to_a_dead_leader_are_held_and_answered_by_its_successor() {
    let Pair {
        site,
        leader,
        standby,
    } = pair().await;
    drop(leader);
    let posts = [
        begin_post(&standby, RESULT_OF_A, Body::from(RESULT)),
        begin_post(&standby, FILE_OF_A, body_of(3 << 20)),
        begin_post(
            &standby,
            "node-b/202611232359/event",
            Body::from(r#"{"reason":"Checked","message":"well"}"#),
        ),
    ];
    for post in posts {
        let (answer, took) = post.await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let seconds = 13..=17;
        assert!(seconds.contains(&took.as_secs()), "{took:?}");
    }
    assert!(standby.leads());
    assert!(standby.has_metric(r#"audit_plain{executionID="202611232359",node="node-a"} 1"#));
    assert!(standby.has_metric(&counted("held_callbacks", r#"outcome="answered""#, 3)));
    let reasons = |event: &k8s_openapi::api::events::v1::Event| event.reason.clone();
    let events: Vec<_> = site
        .cluster
        .look(|state| state.events.iter().filter_map(reasons).collect());
    let checked = events.iter().filter(|reason| *reason == "Checked");
    assert_eq!(checked.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_nobody_takes_is_told_to_come_again_when_its_time_is_over() {
    for (hold, seconds) in [("30s", 30), ("2s", 2), ("0s", 0)] {
        let site = Site::new(&setup().set("callbackHoldTimeout", json!(hold)));
        site.cluster.change(|state| {
            let faults = vec![ClusterErrorKind::Unavailable; 1_000];
            state.faults.insert("get_lease", faults.into());
        });
        let alone = site.start("audit-0");
        let begun = Instant::now();
        let answer = alone.post(RESULT_OF_A, RESULT).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert!(
            answer.text().contains("callbackHoldTimeout"),
            "{}",
            answer.text()
        );
        assert_eq!(begun.elapsed().as_secs(), seconds, "{hold}");
        assert!(alone.has_metric(&counted("held_callbacks", r#"outcome="expired""#, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_request_without_a_leader_is_said_at_once() {
    let site = Site::new(&setup());
    site.cluster.change(|state| {
        let faults = vec![ClusterErrorKind::Unavailable; 1_000];
        state.faults.insert("get_lease", faults.into());
    });
    let alone = site.start("audit-0");
    let begun = Instant::now();
    let answer = alone.post("node-a/202611232359/nothing", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let get = Request::get(format!("/report/{RESULT_OF_A}"));
    let answer = send(&alone.callback, get.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_kept_is_sent_again_to_the_successor() {
    let pair = pair().await;
    pair.site.network.silence("audit-0", true);
    let small = begin_post(&pair.standby, FILE_OF_A, body_of(1 << 20));
    let event = begin_post(
        &pair.standby,
        "node-b/202611232359/event",
        Body::from(r#"{"reason":"Checked","message":"well"}"#),
    );
    sleep(Duration::from_secs(1)).await;
    drop(pair.leader);
    for post in [small, event] {
        let (answer, _) = post.await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let cut = r#"outcome="cutOff",port="callback""#;
    let cut = counted("forwarded_requests", cut, 2);
    assert!(pair.standby.has_metric(&cut), "{cut}");
}

#[tokio::test(start_paused = true)]
async fn a_larger_body_that_is_cut_is_told_to_come_again() {
    let pair = pair().await;
    pair.site.network.silence("audit-0", true);
    let large = begin_post(&pair.standby, FILE_OF_A, body_of((1 << 20) + (64 << 10)));
    sleep(Duration::from_secs(1)).await;
    drop(pair.leader);
    pair.standby.until_it_leads().await;
    let led = Instant::now();
    let (answer, _) = large.await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert!(answer.text().contains("too large"), "{}", answer.text());
    let waited = led.elapsed();
    assert!((29..=30).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_its_client_breaks_off_is_no_report_of_anybody() {
    let pair = pair().await;
    let chunks = [
        Ok(Bytes::from_static(b"begun")),
        Err(std::io::Error::other("reset")),
    ];
    let body = Body::from_stream(stream::iter(chunks));
    let answer = pair.standby.post(FILE_OF_A, body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
    let path = pair.site.directory().join(EXECUTION).join("node-a-log.txt");
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_passed_on_goes_no_further_and_only_a_replica_can_mark_it() {
    let pair = pair().await;
    let marked = |mark: &str| {
        let request = Request::post(format!("/report/{RESULT_OF_A}")).header(HEADER, mark);
        request.body(Body::from(RESULT)).unwrap()
    };
    let target = format!("/report/{RESULT_OF_A}");
    let passage = |to| Passage {
        method: "POST",
        target: &target,
        to,
    };
    let mark = passage("audit-1").mark("audit-9", &key());
    let answer = send(&pair.standby.callback, marked(&mark)).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(!pair.is_on_disk("node-a.json", RESULT));
    // Made for another replica, then for this one.
    let answer = send(&pair.leader.callback, marked(&mark)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = send(&pair.leader.callback, marked("me")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(!pair.is_on_disk("node-a.json", RESULT));
    let mark = passage("audit-0").mark("audit-9", &key());
    let answer = send(&pair.leader.callback, marked(&mark)).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn what_was_passed_on_is_read_to_its_end_before_it_is_refused() {
    let pair = pair_of(setup().set("callbackBodyLimit", json!({"file": "1Mi"}))).await;
    let target = format!("/report/{FILE_OF_A}");
    let passage = Passage {
        method: "POST",
        target: &target,
        to: "audit-0",
    };
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let body = body_of(8 << 20)
        .into_data_stream()
        .inspect_ok(move |chunk| {
            counted.fetch_add(chunk.len(), Ordering::Relaxed);
        });
    let request = Request::post(&target)
        .header(header::CONTENT_LENGTH, 8 << 20)
        .header(HEADER, passage.mark("audit-9", &key()))
        .body(Body::from_stream(body))
        .unwrap();
    let answer = send(&pair.leader.callback, request).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(read.load(Ordering::Relaxed), 8 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_another_key_passes_nothing_on_and_says_so_at_once() {
    let site = Site::new(&setup());
    let leader = site.start_leader("audit-0").await;
    let other = CallbackKey::new(vec![8; KEY_BYTES]).unwrap();
    let standby = site.start_with("audit-1", other.for_purpose(Purpose::Forwarding));
    standby.until_it_stands_by(Some("audit-0")).await;
    site.cluster.until_created(2).await;
    let begun = Instant::now();
    let answer = standby.post(RESULT_OF_A, RESULT).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert!(
        answer.text().contains("different keys"),
        "{}",
        answer.text()
    );
    assert_eq!(begun.elapsed(), Duration::ZERO);
    leader.post(RESULT_OF_A, RESULT).await;
    let page = get(&standby, &format!("/{EXECUTION}/node-a.json")).await;
    assert_eq!(page.text(), RESULT, "the volume is the same");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_ends_without_a_successor_lets_no_callback_wait_for_one() {
    let site = Site::new(&setup());
    let alone = site.start_leader("audit-0").await;
    site.cluster.until_created(2).await;
    let slow = StoreFault::Slow(Duration::from_secs(2));
    alone.reports.set_fault(Some(slow));
    let post = begin_post(&alone, RESULT_OF_A, Body::from(RESULT));
    alone.handle.hand_over();
    let (answer, took) = post.await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert!(took <= Duration::from_secs(6), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_reaches_its_leader_too_early_waits_there() {
    let pair = pair().await;
    drop(pair.leader);
    let target = format!("/report/{RESULT_OF_A}");
    let passage = Passage {
        method: "POST",
        target: &target,
        to: "audit-0",
    };
    let mark = passage.mark("audit-9", &key());
    let request = Request::post(&target).header(HEADER, mark);
    let request = request.body(Body::from(RESULT)).unwrap();
    let again = pair.site.start("audit-0");
    let answer = send(&again.callback, request).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_at_a_planned_end_are_answered_by_the_successor() {
    let pair = pair().await;
    pair.leader.handle.hand_over();
    pair.leader.handle.handed_over().await;
    for path in [RESULT_OF_A, FILE_OF_A] {
        let answer = pair.leader.post(path, RESULT).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    assert!(pair.standby.leads());
    assert!(
        pair.standby
            .has_metric(r#"audit_plain{executionID="202611232359",node="node-a"} 1"#)
    );
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_stored_as_the_leadership_ends_is_told_to_whoever_leads_next() {
    let pair = pair().await;
    let slow = Duration::from_secs(5);
    pair.leader.reports.set_fault(Some(StoreFault::Slow(slow)));
    let post = begin_post(&pair.leader, RESULT_OF_A, Body::from(RESULT));
    sleep(Duration::from_secs(1)).await;
    pair.leader.handle.hand_over();
    let (answer, _) = post.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let sample = r#"audit_plain{executionID="202611232359",node="node-a"} 1"#;
    until("the successor exports it", || {
        pair.standby.has_metric(sample)
    })
    .await;
}

async fn get(process: &Process, path: &str) -> Answer {
    let request = Request::get(path).body(Body::empty()).unwrap();
    send(&process.pages, request).await
}

#[tokio::test(start_paused = true)]
async fn report_pages_come_from_the_leader_and_from_the_volume_where_it_is_away() {
    let pair = pair().await;
    pair.leader.post(RESULT_OF_A, RESULT).await;
    let page = format!("/{EXECUTION}/node-a.json");
    let answered = |count| {
        counted(
            "forwarded_requests",
            r#"outcome="answered",port="reports""#,
            count,
        )
    };
    let direct = get(&pair.leader, &page).await;
    let passed_on = get(&pair.standby, &page).await;
    assert_eq!(
        (passed_on.status, passed_on.text()),
        (StatusCode::OK, RESULT)
    );
    assert_eq!(passed_on.headers, direct.headers);
    assert!(pair.standby.has_metric(&answered(1)));
    let summary = get(&pair.standby, &format!("/{EXECUTION}/_execution.json")).await;
    assert_eq!(summary.status, StatusCode::OK);
    assert_eq!(
        get(&pair.standby, "/none/").await.status,
        StatusCode::NOT_FOUND
    );
    assert!(pair.standby.has_metric(&answered(3)));

    pair.site.network.silence("audit-0", true);
    let begun = Instant::now();
    assert_eq!(get(&pair.standby, &page).await.text(), RESULT);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    drop(pair.leader);
    assert_eq!(get(&pair.standby, &page).await.text(), RESULT);
    assert!(pair.standby.has_metric(&answered(3)));
}
