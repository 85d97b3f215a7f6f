//! What every report store must do, as behaviours over an empty store; each implementation runs [`every_behaviour`].
//!
//! Nothing here knows how a store keeps its reports. What only a file system can do wrong (links, foreign files,
//! left-over temporary files) is tested beside the adapter.

use bytes::Bytes;
use futures::TryStreamExt;

use super::report_store::{ReportStore, ReportStoreErrorKind, Upload};
use crate::core::ids::ExecutionId;

/// Runs every behaviour, each over a fresh store from `new_store`.
///
/// # Panics
/// Where the store does otherwise, with the behaviour in the backtrace.
pub async fn every_behaviour<S: ReportStore>(mut new_store: impl FnMut() -> S) {
    a_report_is_absent_until_it_is_finished(new_store()).await;
    a_dropped_upload_leaves_nothing(new_store()).await;
    the_last_of_two_uploads_under_one_name_stays(new_store()).await;
    an_upload_of_many_chunks_is_stored_whole(new_store()).await;
    a_suspended_upload_goes_on_where_it_was(new_store()).await;
    a_range_is_read_and_nothing_beyond_it(new_store()).await;
    what_only_a_leader_may_store_is_not_stored_for_who_leads_no_more(new_store()).await;
    what_is_appended_is_there_in_order(new_store()).await;
    nothing_is_appended_to_an_execution_that_is_not_there(new_store()).await;
    reports_are_listed_by_name(new_store()).await;
    executions_are_listed_by_id(new_store()).await;
    an_execution_is_removed_with_its_reports(new_store()).await;
    reports_do_not_bring_a_removed_execution_back(new_store()).await;
    latest_follows_the_execution_it_is_set_to(new_store()).await;
    what_is_not_there_is_not_found(new_store()).await;
    names_that_leave_the_directory_are_refused(new_store()).await;
    a_file_of_our_own_is_beside_the_executions(new_store()).await;
    a_store_that_works_says_so(new_store()).await;
}

fn id(text: &str) -> ExecutionId {
    ExecutionId::parse(text).expect("an execution id")
}

async fn content<S: ReportStore>(store: &S, execution: &ExecutionId, name: &str) -> Vec<u8> {
    let length = store
        .metadata(execution, name)
        .await
        .expect("metadata")
        .length;
    read(store, execution, name, 0, length).await
}

async fn read<S: ReportStore>(
    store: &S,
    execution: &ExecutionId,
    name: &str,
    offset: u64,
    length: u64,
) -> Vec<u8> {
    let chunks: Vec<Bytes> = store
        .read(execution, name, offset, length)
        .await
        .expect("content")
        .try_collect()
        .await
        .expect("chunks");
    chunks.concat()
}

/// None where there is no directory yet: an upload may make it as late as at its end.
async fn names<S: ReportStore>(store: &S, execution: &ExecutionId) -> Vec<String> {
    match store.list(execution).await {
        Ok(reports) => reports.into_iter().map(|report| report.name).collect(),
        Err(error) => {
            assert_eq!(error.kind, ReportStoreErrorKind::NotFound);
            Vec::new()
        }
    }
}

/// A file of our own is read as it was last written, and is no execution.
pub async fn a_file_of_our_own_is_beside_the_executions<S: ReportStore>(store: S) {
    let missing = store.get_own("_own.json").await.map_err(|error| error.kind);
    assert_eq!(missing, Err(ReportStoreErrorKind::NotFound));
    for text in ["one", "the other"] {
        let put = store.put_own("_own.json", Bytes::from(text)).await;
        put.expect("it is stored");
        assert_eq!(store.get_own("_own.json").await, Ok(Bytes::from(text)));
    }
    assert_eq!(store.list_executions().await, Ok(Vec::new()));
}

/// A reader sees a whole report or none.
pub async fn a_report_is_absent_until_it_is_finished<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let mut upload = store
        .begin(&execution, "node-a-x.txt")
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"hello "))
        .await
        .expect("written");
    upload
        .write(Bytes::from_static(b"world"))
        .await
        .expect("written");
    assert!(names(&store, &execution).await.is_empty());
    let absent = store
        .metadata(&execution, "node-a-x.txt")
        .await
        .expect_err("absent");
    assert_eq!(absent.kind, ReportStoreErrorKind::NotFound);
    upload.finish().await.expect("finished");
    assert_eq!(names(&store, &execution).await, ["node-a-x.txt"]);
    assert_eq!(
        content(&store, &execution, "node-a-x.txt").await,
        b"hello world"
    );
}

/// A cut or refused upload is as if it had never been.
pub async fn a_dropped_upload_leaves_nothing<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    store
        .put(&execution, "node-a-x.txt", Bytes::from_static(b"first"))
        .await
        .expect("put");
    let mut upload = store
        .begin(&execution, "node-a-x.txt")
        .await
        .expect("begun");
    upload
        .write(Bytes::from(vec![b'x'; 300_000]))
        .await
        .expect("written");
    drop(upload);
    assert_eq!(names(&store, &execution).await, ["node-a-x.txt"]);
    assert_eq!(content(&store, &execution, "node-a-x.txt").await, b"first");
}

/// Two uploads at once do not mix.
pub async fn the_last_of_two_uploads_under_one_name_stays<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let mut one = store.begin(&execution, "n-a").await.expect("begun");
    let mut other = store.begin(&execution, "n-a").await.expect("begun");
    one.write(Bytes::from_static(b"one"))
        .await
        .expect("written");
    other
        .write(Bytes::from_static(b"other"))
        .await
        .expect("written");
    other.finish().await.expect("finished");
    one.finish().await.expect("finished");
    assert_eq!(names(&store, &execution).await, ["n-a"]);
    assert_eq!(content(&store, &execution, "n-a").await, b"one");
}

/// Chunks smaller and larger than any buffer keep their order.
pub async fn an_upload_of_many_chunks_is_stored_whole<S: ReportStore>(store: S) {
    let execution = id("20260101034207");
    let mut upload = store.begin(&execution, "n-big").await.expect("begun");
    let mut expected = Vec::new();
    for (index, length) in [0, 1, 70_000, 5, 200_000, 65_536, 3, 131_072]
        .into_iter()
        .enumerate()
    {
        let chunk = vec![u8::try_from(index).expect("few chunks"); length];
        expected.extend_from_slice(&chunk);
        upload.write(Bytes::from(chunk)).await.expect("written");
    }
    upload.finish().await.expect("finished");
    assert_eq!(content(&store, &execution, "n-big").await, expected);
    store
        .put(&execution, "n-empty", Bytes::new())
        .await
        .expect("put");
    assert!(content(&store, &execution, "n-empty").await.is_empty());
}

/// Before its first byte, in a buffer, in a file, twice in a row; and it can be finished or dropped from there.
pub async fn a_suspended_upload_goes_on_where_it_was<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let mut upload = store.begin(&execution, "n-s").await.expect("begun");
    let mut expected = Vec::new();
    for length in [0, 10, 100_000, 70_000, 0, 3] {
        upload.suspend().await.expect("suspended");
        let chunk = vec![u8::try_from(length % 251).expect("small"); length];
        expected.extend_from_slice(&chunk);
        upload.write(Bytes::from(chunk)).await.expect("written");
        upload.suspend().await.expect("suspended");
        assert!(names(&store, &execution).await.is_empty());
    }
    let mut dropped = store.begin(&execution, "n-d").await.expect("begun");
    dropped
        .write(Bytes::from_static(b"x"))
        .await
        .expect("written");
    dropped.suspend().await.expect("suspended");
    drop(dropped);
    upload.finish().await.expect("finished");
    assert_eq!(names(&store, &execution).await, ["n-s"]);
    assert_eq!(content(&store, &execution, "n-s").await, expected);
}

/// Ranges are exact, across the reader's own chunks too.
pub async fn a_range_is_read_and_nothing_beyond_it<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let whole: Vec<u8> = (0..300_000_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1])
        .collect();
    store
        .put(&execution, "n-r", Bytes::from(whole.clone()))
        .await
        .expect("put");
    for (offset, length) in [(0, 0), (0, 1), (65_535, 2), (10, 200_000), (299_999, 1)] {
        let expected = &whole[offset..offset + length];
        let read = read(&store, &execution, "n-r", offset as u64, length as u64).await;
        assert!(read == expected, "{length} bytes from {offset}");
    }
}

/// What is appended is there, in the order in which it was asked for, though nobody waited in between.
pub async fn what_is_appended_is_there_in_order<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    store.create_execution(&execution).await.expect("made");
    let lines: Vec<String> = (0..100).map(|number| format!("{number}\n")).collect();
    let appended = lines.iter().map(|line| {
        let line = Bytes::copy_from_slice(line.as_bytes());
        store.append(&execution, "_lines", line)
    });
    for appended in futures::future::join_all(appended).await {
        appended.expect("appended");
    }
    let other = store.append(&execution, "_other", Bytes::from_static(b"x"));
    other.await.expect("appended");
    let last = store.append(&execution, "_lines", Bytes::from_static(b"last"));
    last.await.expect("appended");
    let found = content(&store, &execution, "_lines").await;
    assert_eq!(String::from_utf8_lossy(&found), lines.concat() + "last");
}

/// An execution that is not there, or was removed, is not made by an append.
pub async fn nothing_is_appended_to_an_execution_that_is_not_there<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let append = || store.append(&execution, "_lines", Bytes::from_static(b"x"));
    let error = append().await.expect_err("there is none");
    assert_eq!(error.kind, ReportStoreErrorKind::NotFound);
    store.create_execution(&execution).await.expect("made");
    append().await.expect("appended");
    store.remove_execution(&execution).await.expect("removed");
    let error = append().await.expect_err("it was removed");
    assert_eq!(error.kind, ReportStoreErrorKind::NotFound);
    let left = store.list_executions().await.expect("listed");
    assert!(left.is_empty());
}

/// Sorted as strings, with their lengths.
pub async fn reports_are_listed_by_name<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    for name in ["b.json", "a.json", "a-x", "_execution.json"] {
        store
            .put(&execution, name, Bytes::from(name))
            .await
            .expect("put");
    }
    let reports = store.list(&execution).await.expect("reports");
    let listed: Vec<(&str, u64)> = reports
        .iter()
        .map(|report| (report.name.as_str(), report.length))
        .collect();
    assert_eq!(
        listed,
        [
            ("_execution.json", 15),
            ("a-x", 3),
            ("a.json", 6),
            ("b.json", 6)
        ]
    );
}

/// Ids with seconds sort between their minutes.
pub async fn executions_are_listed_by_id<S: ReportStore>(store: S) {
    assert!(
        store
            .list_executions()
            .await
            .expect("executions")
            .is_empty()
    );
    for execution in ["202601010343", "20260101034207", "202601010342"] {
        store
            .create_execution(&id(execution))
            .await
            .expect("created");
        store
            .create_execution(&id(execution))
            .await
            .expect("created again");
    }
    let listed = store.list_executions().await.expect("executions");
    let listed: Vec<&str> = listed.iter().map(ExecutionId::as_str).collect();
    assert_eq!(listed, ["202601010342", "20260101034207", "202601010343"]);
}

/// And only it; once more is no error.
pub async fn an_execution_is_removed_with_its_reports<S: ReportStore>(store: S) {
    let (old, new) = (id("202601010342"), id("202601020342"));
    for execution in [&old, &new] {
        store
            .put(execution, "n.json", Bytes::from_static(b"{}"))
            .await
            .expect("put");
    }
    store.remove_execution(&old).await.expect("removed");
    store.remove_execution(&old).await.expect("removed again");
    assert_eq!(
        store.list_executions().await.expect("executions"),
        std::slice::from_ref(&new)
    );
    assert_eq!(content(&store, &new, "n.json").await, b"{}");
}

/// What left the history stays away, whatever was under way; an execution of that id can be made anew.
pub async fn reports_do_not_bring_a_removed_execution_back<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    store
        .put(&execution, "n.json", Bytes::from_static(b"{}"))
        .await
        .expect("put");
    let mut uploads = Vec::new();
    for length in [3, 300_000] {
        let mut upload = store.begin(&execution, "n-x").await.expect("begun");
        let chunk = Bytes::from(vec![b'x'; length]);
        upload.write(chunk).await.expect("written");
        uploads.push(upload);
    }
    store.remove_execution(&execution).await.expect("removed");
    for upload in uploads {
        let error = upload.finish().await.expect_err("removed");
        assert_eq!(error.kind, ReportStoreErrorKind::NotFound);
    }
    let put = store.put(&execution, "n.json", Bytes::new()).await;
    assert_eq!(
        put.expect_err("removed").kind,
        ReportStoreErrorKind::NotFound
    );
    let executions = store.list_executions().await.expect("executions");
    assert!(executions.is_empty(), "{executions:?}");
    store.create_execution(&execution).await.expect("created");
    assert!(names(&store, &execution).await.is_empty());
    store
        .put(&execution, "n.json", Bytes::from_static(b"{}"))
        .await
        .expect("put");
    assert_eq!(names(&store, &execution).await, ["n.json"]);
}

/// Whatever was stored before stays.
pub async fn what_only_a_leader_may_store_is_not_stored_for_who_leads_no_more<S: ReportStore>(
    store: S,
) {
    let execution = id("202601010342");
    let put = |text: &'static str, leads: bool| {
        store.put_if(&execution, "_x.json", text.into(), move || leads)
    };
    put("first", true).await.expect("stored");
    let refused = put("second", false).await.expect_err("refused");
    assert_eq!(refused.kind, ReportStoreErrorKind::Unavailable);
    assert_eq!(names(&store, &execution).await, ["_x.json"]);
    store.end_puts(&execution).await.expect("ended");
    assert_eq!(content(&store, &execution, "_x.json").await, b"first");
    put("third", true).await.expect("stored");
    assert_eq!(content(&store, &execution, "_x.json").await, b"third");
}

/// There is none at first, and one that lost its execution is none.
pub async fn latest_follows_the_execution_it_is_set_to<S: ReportStore>(store: S) {
    assert_eq!(store.latest().await.expect("latest"), None);
    for execution in [id("202601010342"), id("202601020342"), id("202601010342")] {
        store.create_execution(&execution).await.expect("created");
        store.set_latest(&execution).await.expect("set");
        assert_eq!(store.latest().await.expect("latest"), Some(execution));
    }
    store
        .remove_execution(&id("202601010342"))
        .await
        .expect("removed");
    assert_eq!(store.latest().await.expect("latest"), None);
}

/// `NotFound`, so that a page can say so.
pub async fn what_is_not_there_is_not_found<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    let kind = store.list(&execution).await.expect_err("no execution").kind;
    assert_eq!(kind, ReportStoreErrorKind::NotFound);
    store.create_execution(&execution).await.expect("created");
    assert!(names(&store, &execution).await.is_empty());
    let kind = store
        .metadata(&execution, "n.json")
        .await
        .expect_err("no report")
        .kind;
    assert_eq!(kind, ReportStoreErrorKind::NotFound);
    let kind = store
        .read(&execution, "n.json", 0, 1)
        .await
        .err()
        .expect("no report")
        .kind;
    assert_eq!(kind, ReportStoreErrorKind::NotFound);
}

/// Names are checked before they get here; the store does not rely on it.
pub async fn names_that_leave_the_directory_are_refused<S: ReportStore>(store: S) {
    let execution = id("202601010342");
    store.create_execution(&execution).await.expect("created");
    for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b"] {
        assert!(store.begin(&execution, name).await.is_err(), "{name:?}");
        assert!(
            store.put(&execution, name, Bytes::new()).await.is_err(),
            "{name:?}"
        );
        assert!(store.metadata(&execution, name).await.is_err(), "{name:?}");
        assert!(
            store.read(&execution, name, 0, 0).await.is_err(),
            "{name:?}"
        );
    }
    assert!(names(&store, &execution).await.is_empty());
}

/// The probe leaves nothing behind.
pub async fn a_store_that_works_says_so<S: ReportStore>(store: S) {
    store.probe().await.expect("usable");
    assert!(
        store
            .list_executions()
            .await
            .expect("executions")
            .is_empty()
    );
}
