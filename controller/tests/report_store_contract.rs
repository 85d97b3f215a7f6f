//! The report store on a file system: the contract of the port, and what only a file system can do wrong.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use controller::adapter::fs_report_store::FsReportStore;
use controller::config::ReportDurability;
use controller::core::ids::ExecutionId;
use controller::ports::report_store::{ReportStore, ReportStoreErrorKind, Upload};
use controller::ports::report_store_contract;
use tempfile::TempDir;

fn id(text: &str) -> ExecutionId {
    ExecutionId::parse(text).unwrap()
}

fn store(directory: &TempDir) -> FsReportStore {
    FsReportStore::new(
        directory.path().join("reports"),
        ReportDurability::Fsync,
        "c-0",
    )
}

fn entries(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_file_system_keeps_the_contract() {
    for durability in [ReportDurability::Fsync, ReportDurability::None] {
        let mut directories = Vec::new();
        report_store_contract::every_behaviour(|| {
            let directory = TempDir::new().unwrap();
            let store = FsReportStore::new(directory.path().join("reports"), durability, "c-0");
            directories.push(directory);
            store
        })
        .await;
    }
}

/// Again and again, because what is remembered from one report to the next may be forgotten at any moment between.
#[tokio::test]
async fn a_link_in_the_place_of_the_directory_is_seen_by_the_next_report() {
    let directory = TempDir::new().unwrap();
    let store = FsReportStore::new(directory.path().to_owned(), ReportDurability::None, "c-0");
    for day in 10..=28 {
        let execution = id(&format!("202601{day}0342"));
        let path = directory.path().join(execution.as_str());
        let put = |name| store.put(&execution, name, "content".into());
        put("a.json").await.unwrap();
        let moved = directory.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        assert!(put("b.json").await.is_err(), "{execution}");
        assert_eq!(entries(&moved), ["a.json"]);
        fs::remove_dir_all(&moved).unwrap();
    }
}

#[tokio::test]
async fn foreign_entries_are_neither_listed_nor_removed() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let reports = directory.path().join("reports");
    store
        .put(&id("202601010342"), "n.json", Bytes::new())
        .await
        .unwrap();
    fs::create_dir(reports.join("lost+found")).unwrap();
    fs::write(reports.join("202601020342"), "a file").unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("n.json"), "outside").unwrap();
    symlink(&elsewhere, reports.join("202601030342")).unwrap();

    assert_eq!(store.list_executions().await.unwrap(), [id("202601010342")]);
    for execution in ["202601020342", "202601030342"] {
        store.remove_execution(&id(execution)).await.unwrap();
        assert_eq!(
            store.list(&id(execution)).await.unwrap_err().kind,
            ReportStoreErrorKind::NotFound
        );
        assert!(store.read(&id(execution), "n.json", 0, 1).await.is_err());
        assert!(
            store
                .put(&id(execution), "n.json", Bytes::new())
                .await
                .is_err()
        );
    }
    assert_eq!(
        entries(&reports),
        ["202601010342", "202601020342", "202601030342", "lost+found"]
    );
    assert_eq!(
        fs::read_to_string(elsewhere.join("n.json")).unwrap(),
        "outside"
    );
}

#[tokio::test]
async fn links_inside_an_execution_are_not_followed() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    store.create_execution(&execution).await.unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let inside = directory.path().join("reports/202601010342");
    symlink(outside.join("secret"), inside.join("n-link")).unwrap();
    symlink(&outside, inside.join("n-directory")).unwrap();

    assert!(store.list(&execution).await.unwrap().is_empty());
    assert_eq!(
        store.metadata(&execution, "n-link").await.unwrap_err().kind,
        ReportStoreErrorKind::NotFound
    );
    assert!(store.read(&execution, "n-link", 0, 6).await.is_err());
    // A report takes the link's place; what it pointed to stays.
    store
        .put(&execution, "n-link", Bytes::from_static(b"mine"))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(outside.join("secret")).unwrap(),
        "secret"
    );
    store.remove_execution(&execution).await.unwrap();
    assert_eq!(entries(&outside), ["secret"]);
}

#[tokio::test]
async fn a_dropped_upload_removes_its_temporary_file() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    let mut upload = store.begin(&execution, "n-x").await.unwrap();
    upload.write(Bytes::from(vec![0; 100_000])).await.unwrap();
    let inside = directory.path().join("reports/202601010342");
    assert_eq!(entries(&inside).len(), 1);
    assert!(store.list(&execution).await.unwrap().is_empty());
    drop(upload);
    while !entries(&inside).is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_suspended_upload_is_a_closed_file() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    let inside = directory.path().join("reports/202601010342");
    let is_open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        // Other tests of this process open and close theirs meanwhile.
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let ours: Vec<_> = targets
            .filter(|target| target.starts_with(&inside))
            .collect();
        !ours.is_empty()
    };
    for length in [10, 100_000] {
        let mut upload = store.begin(&execution, "n-x").await.unwrap();
        upload.write(Bytes::from(vec![7; length])).await.unwrap();
        assert_eq!(is_open(), length > 65_536);
        upload.suspend().await.unwrap();
        assert!(!is_open());
        let [temporary] = &entries(&inside)[..] else {
            panic!("{:?}", entries(&inside));
        };
        assert_eq!(fs::read(inside.join(temporary)).unwrap(), vec![7; length]);
        drop(upload);
        while !entries(&inside).is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn pipes_inside_an_execution_are_no_reports() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    store.create_execution(&execution).await.unwrap();
    let pipe = directory.path().join("reports/202601010342/n-pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert!(store.list(&execution).await.unwrap().is_empty());
    let error = store.read(&execution, "n-pipe", 0, 1).await.err().unwrap();
    assert_eq!(error.kind, ReportStoreErrorKind::NotFound);
}

#[tokio::test]
async fn latest_is_a_relative_link_and_replaces_one_that_dangles() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let reports = directory.path().join("reports");
    fs::create_dir(&reports).unwrap();
    symlink("/nowhere/202601010000", reports.join("latest")).unwrap();
    assert_eq!(store.latest().await.unwrap(), None);
    store.create_execution(&id("202601010342")).await.unwrap();
    store.set_latest(&id("202601010342")).await.unwrap();
    assert_eq!(
        fs::read_link(reports.join("latest")).unwrap(),
        Path::new("202601010342")
    );
    assert_eq!(entries(&reports), ["202601010342", "latest"]);
}

#[tokio::test]
async fn a_foreign_latest_is_left_alone_and_named() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let reports = directory.path().join("reports");
    fs::create_dir_all(reports.join("latest")).unwrap();
    assert_eq!(store.latest().await.unwrap(), None);
    store.create_execution(&id("202601010342")).await.unwrap();
    let error = store.set_latest(&id("202601010342")).await.unwrap_err();
    assert!(error.message.contains("latest"), "{error}");
    assert_eq!(entries(&reports), ["202601010342", "latest"]);
}

#[tokio::test]
async fn a_report_directory_that_cannot_be_used_is_an_error() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("reports"), "a file").unwrap();
    let store = store(&directory);
    assert_eq!(
        store.probe().await.unwrap_err().kind,
        ReportStoreErrorKind::Unavailable
    );
    assert!(
        store
            .put(&id("202601010342"), "n.json", Bytes::new())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_is_appended_after_its_file_was_removed_is_in_a_new_one() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    store.create_execution(&execution).await.unwrap();
    let append = |text: &'static str| store.append(&execution, "_lines", text.into());
    append("one").await.unwrap();
    let file = directory.path().join("reports/202601010342/_lines");
    fs::remove_file(&file).unwrap();
    append("two").await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"two");
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    assert_eq!(
        append("three").await.unwrap_err().kind,
        ReportStoreErrorKind::NotFound
    );
}

#[tokio::test]
async fn the_same_report_again_is_not_written_again() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory);
    let execution = id("202601010342");
    let inode = || {
        let file = directory.path().join("reports/202601010342/n.json");
        fs::metadata(file).unwrap().ino()
    };
    let put = |text: &'static str| store.put(&execution, "n.json", text.into());
    put("one").await.unwrap();
    let first = inode();
    put("one").await.unwrap();
    assert_eq!(inode(), first);
    for other in ["two", "twos", "tw", ""] {
        let before = inode();
        put(other).await.unwrap();
        assert_ne!(inode(), before, "{other}");
        let file = directory.path().join("reports/202601010342/n.json");
        assert_eq!(fs::read_to_string(file).unwrap(), other);
        let before = inode();
        put(other).await.unwrap();
        assert_eq!(inode(), before, "{other}");
    }
    assert_eq!(
        entries(&directory.path().join("reports/202601010342")),
        ["n.json"]
    );
}

#[tokio::test]
async fn a_summary_whose_writer_stands_still_before_the_rename_does_not_replace_its_successors() {
    let directory = TempDir::new().unwrap();
    let store_of = |identity| {
        FsReportStore::new(
            directory.path().to_owned(),
            ReportDurability::None,
            identity,
        )
    };
    let (former, next) = (store_of("c-0"), store_of("c-1"));
    let execution = id("202601010342");
    let runtime = tokio::runtime::Handle::current();
    let (successor, of) = (next.clone(), execution.clone());
    // It still leads when it is asked, and not when it goes on.
    let stands_still = move || {
        runtime.block_on(async {
            successor.end_puts(&of).await.unwrap();
            let put = successor.put_if(&of, "_execution.json", "ended".into(), || true);
            put.await.unwrap();
        });
        true
    };
    let late = former
        .put_if(
            &execution,
            "_execution.json",
            "running".into(),
            stands_still,
        )
        .await;
    assert_eq!(late.unwrap_err().kind, ReportStoreErrorKind::NotFound);
    let summary = directory.path().join("202601010342/_execution.json");
    assert_eq!(fs::read_to_string(summary).unwrap(), "ended");
}

#[tokio::test]
async fn what_a_process_left_unfinished_goes_at_its_next_start_and_what_others_left_after_ten_minutes()
 {
    let directory = TempDir::new().unwrap();
    let reports = directory.path().join("reports");
    let store_of = |identity| FsReportStore::new(reports.clone(), ReportDurability::None, identity);
    let execution = id("202601010342");
    for identity in ["c-0", "c-1"] {
        let mut upload = store_of(identity).begin(&execution, "n-x").await.unwrap();
        upload.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        // As a process that is killed leaves it.
        std::mem::forget(upload);
    }
    let inside = reports.join("202601010342");
    fs::write(inside.join("_upload-mine"), "somebody's").unwrap();
    fs::write(inside.join("n.json"), "{}").unwrap();
    assert_eq!(entries(&inside).len(), 4);

    let started = store_of("c-0");
    assert_eq!(started.remove_own_temporaries().await.unwrap(), 1);
    assert_eq!(started.remove_abandoned().await.unwrap(), 0);
    for name in entries(&inside) {
        let file = fs::File::open(inside.join(name)).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - Duration::from_secs(602))
            .unwrap();
    }
    let mut upload = started.begin(&execution, "n-y").await.unwrap();
    upload.write(Bytes::from(vec![7; 100_000])).await.unwrap();
    assert_eq!(started.remove_abandoned().await.unwrap(), 1);
    upload.finish().await.unwrap();
    assert_eq!(entries(&inside), ["_upload-mine", "n-y", "n.json"]);
    assert_eq!(entries(&reports), ["202601010342"]);
}
