//! What must hold of whatever reads remote input and configuration, for any bytes: a function a parser, which panics
//! where it does not hold. libFuzzer feeds them (`fuzz_targets/`), and `controller/tests/fuzz_corpus.rs` feeds them
//! what is committed in `corpus/`, without a fuzzer.

#![allow(
    unreachable_pub,
    reason = "public to the targets; the tests include it as a module"
)]

mod form;

use std::path::{Component, Path};

use controller::config::{self, EnvironmentDefaults};
use controller::core::event_message::parse_event;
use controller::core::media_type::parse_media_type;
use controller::core::report::{gauge_series, parse_results, sample_count};
use controller::core::report_name::{body_file_name, part_file_name, stored_file_name};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

pub use form::multipart;

/// The node whose job pod posts.
const NODE: &str = "node-a";

/// Longer than any field, value and reason that an answer quotes.
const ANSWER_MAX_CHARS: usize = 1000;

/// A result's body: what is read of it is finite, and is the same again when it is written down.
pub fn result(body: &[u8]) {
    let parsed = parse_results(body);
    assert_eq!(parsed, parse_results(body));
    let results = match parsed {
        Ok(results) => results,
        Err(error) => return assert_is_answer(&error.to_string()),
    };
    assert!(!results.is_empty());
    let samples = || results.values().flatten();
    assert_eq!(sample_count(&results), samples().count());
    assert!(samples().all(|sample| sample.value.is_finite()));
    let labels: Vec<String> = (samples().flat_map(|sample| sample.labels.keys()))
        .cloned()
        .collect();
    for samples in results.values() {
        let series = gauge_series(samples, &labels);
        assert!(series.len() <= samples.len());
        assert!(series.keys().all(|values| values.len() == labels.len()));
        let last = samples.last().map(|sample| sample.value);
        assert!(last.is_none_or(|last| {
            series
                .values()
                .any(|value| value.to_bits() == last.to_bits())
        }));
    }
    let written: serde_json::Map<String, serde_json::Value> = (results.iter())
        .map(|(gauge, samples)| {
            let samples = (samples.iter())
                .map(|sample| json!({"value": sample.value, "labels": sample.labels}));
            (gauge.clone(), samples.collect())
        })
        .collect();
    let written = serde_json::Value::Object(written).to_string();
    assert_eq!(parse_results(written.as_bytes()), Ok(results));
}

/// An event's body: what is read of it is what the Events API takes.
pub fn event(body: &[u8]) {
    let parsed = parse_event(body);
    assert_eq!(parsed, parse_event(body));
    let event = match parsed {
        Ok(event) => event,
        Err(error) => return assert_is_answer(&error.to_string()),
    };
    assert!((1..=128).contains(&event.reason.len()));
    assert!((1..=128).contains(&event.action.len()));
    assert!(event.note.len() <= 1024);
    assert!(["Normal", "Warning"].contains(&event.event_type()));
}

/// The query, `Content-Disposition` and `Content-Type` of an upload, a line each: whatever they are, the name that is
/// taken from them is one plain component of the node's own, or is refused in one line.
pub fn content_disposition(lines: &[u8]) {
    let Ok(lines) = std::str::from_utf8(lines) else {
        return;
    };
    let mut lines = lines.splitn(3, '\n').map(Some);
    let mut line = || lines.next().flatten();
    let (query, disposition, content_type) = (line(), line(), line());
    let uuid = "8b1a9953";
    let name = || body_file_name(query, disposition, content_type, uuid);
    assert_eq!(name(), name());
    assert_is_safe_or_refused(&name());
    let generated = body_file_name(None, None, content_type, uuid);
    assert_eq!(
        stored_file_name(NODE, &generated),
        Ok(format!("{NODE}-{generated}"))
    );
    assert!(generated.starts_with(uuid) && generated[uuid.len()..].starts_with('.'));
    if let Some(name) = part_file_name(disposition) {
        assert!(!name.is_empty());
        assert_is_safe_or_refused(&name);
    }
    let Some(Ok(parsed)) = disposition.map(parse_media_type) else {
        return;
    };
    assert_eq!(parsed.essence, parsed.essence.to_lowercase());
    if let Some(name) = parsed
        .parameters
        .get("filename")
        .filter(|name| !name.is_empty())
    {
        assert_eq!(&body_file_name(None, disposition, None, uuid), name);
        let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let rewritten = format!("form-data; name=f; filename*=UTF-8''{encoded}");
        assert_eq!(part_file_name(Some(&rewritten)).as_ref(), Some(name));
    }
}

/// `config.yaml`: it is valid, or every error names a key, what it has and what it wants, in a line.
pub fn configuration(yaml: &[u8]) {
    let Ok(yaml) = std::str::from_utf8(yaml) else {
        return;
    };
    let environment = EnvironmentDefaults::default();
    let report = config::check(yaml, &environment);
    assert_eq!(report, config::check(yaml, &environment));
    assert_eq!(report.config.is_some(), report.errors.is_empty());
    for error in &report.errors {
        assert!(!error.key.is_empty() && !error.found.is_empty() && !error.wanted.is_empty());
        assert_is_line(&error.to_string());
    }
    for warning in &report.warnings {
        assert!(!warning.key.is_empty() && !warning.message.is_empty());
        assert_is_line(&warning.to_string());
    }
    match (config::parse(yaml, &environment), report.config) {
        (Ok((config, warnings)), Some(checked)) => {
            assert_eq!((&config, &warnings), (&checked, &report.warnings));
            let directory = config::report_directory(yaml, &environment);
            assert_eq!(directory, config.report_directory);
            let now = Timestamp::from_second(1_795_476_000).expect("a time");
            let next = config.schedule.next_after(now);
            assert!(next.is_none_or(|next| next > now));
        }
        (Err(errors), None) => assert_eq!(errors.0, report.errors),
        (parsed, checked) => panic!("{parsed:?} is not {checked:?}"),
    }
}

fn assert_is_line(message: &str) {
    assert!(!message.is_empty(), "no message");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

/// A line that does not grow with what it is about.
fn assert_is_answer(message: &str) {
    assert_is_line(message);
    assert!(message.chars().count() <= ANSWER_MAX_CHARS, "{message:?}");
}

fn assert_is_safe_or_refused(name: &str) {
    match stored_file_name(NODE, name) {
        Ok(stored) => assert_is_safe(&stored),
        Err(error) => assert_is_answer(&error.to_string()),
    }
}

/// One plain component that shows as what it is, and belongs to the node.
fn assert_is_safe(stored: &str) {
    let components: Vec<Component<'_>> = Path::new(stored).components().collect();
    assert_eq!(components, [Component::Normal(stored.as_ref())]);
    assert!(stored.len() <= 255 && !stored.contains('\\'));
    assert!(
        stored
            .strip_prefix("node-a-")
            .is_some_and(|name| !name.is_empty()),
        "{stored:?}"
    );
    let reorders = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(
        !stored.chars().any(|c| c.is_control() || reorders(c)),
        "{stored:?}"
    );
}
