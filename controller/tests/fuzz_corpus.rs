//! What the fuzz targets in `controller/fuzz` check, over the corpus that is committed there: without a fuzzer, in
//! every run of the tests.

#![allow(clippy::unwrap_used)]

#[path = "../fuzz/src/lib.rs"]
mod properties;

use std::fs;
use std::path::Path;

/// Feeds a target its corpus.
fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        // The test's output says of which file a panic is.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 10, "{}: only {count} files", directory.display());
}

#[test]
fn results() {
    replay("result", properties::result);
}

#[test]
fn events() {
    replay("event", properties::event);
}

#[test]
fn forms() {
    replay("multipart", properties::multipart);
}

#[test]
fn content_dispositions() {
    replay("content_disposition", properties::content_disposition);
}

#[test]
fn configurations() {
    replay("configuration", properties::configuration);
}
