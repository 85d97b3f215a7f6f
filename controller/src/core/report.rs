//! Result documents: `{"<gauge>": [{"value": 1.5, "labels": {"a": "x"}}]}`, and the series that they become.
//!
//! A document is read as the original's decoder (Go's `encoding/json`) reads it: null leaves a value at zero, unknown
//! keys are ignored, of a repeated key the last one counts (labels add up), bytes that are no UTF-8 become U+FFFD. On
//! purpose otherwise: keys are matched exactly, nothing may follow the document, and `null` is refused. What is stored
//! is the body as it came, not what is read here.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// Longest part of a message that quotes the body, in characters: it ends up in one line of a log.
const QUOTE_MAX_CHARS: usize = 200;

/// Longest value of a declared label, in bytes: several times what anybody reads in a graph's legend.
pub const LABEL_VALUE_MAX_BYTES: usize = 1024;

/// The most series of one gauge that a node exports in an execution. Each is kept in memory, over all the results of
/// the node.
pub const GAUGE_SERIES_MAX: usize = 1000;

/// One measured value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The gauge's value; 0 where the document has none.
    pub value: f64,
    /// Label values by label name, as posted.
    pub labels: BTreeMap<String, String>,
}

/// The samples of a document by gauge, configured or not.
pub type Results = BTreeMap<String, Vec<Sample>>;

/// Why a document cannot be read; one line: the field, where one is to blame, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    field: Option<String>,
    message: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for JsonError {}

/// Why a result is refused; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The body is not the document.
    #[error("result: {0}")]
    Json(#[from] JsonError),
    /// The document is `null`.
    #[error("result: must be an object of gauges, is null")]
    Null,
    /// The document has no gauge at all.
    #[error("result: must name at least one gauge")]
    Empty,
}

/// Why a result that can be read cannot be exported; one line that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The text format of Prometheus has no way to say it: a scraper takes it for the end of everything.
    #[error("result: {0}: must not contain the character U+0000, which Prometheus does not take")]
    NulInLabel(String),
    /// A label value is too long.
    #[error("result: {field}: must be at most {LABEL_VALUE_MAX_BYTES} bytes long, is {length}")]
    LongLabel {
        /// Which one.
        field: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The node would have too many series.
    #[error(
        "result: {gauge}: would have {count} series of this node, at most {GAUGE_SERIES_MAX} are taken"
    )]
    ManySeries {
        /// The gauge.
        gauge: String,
        /// How many there would be with those of earlier results.
        count: usize,
    },
}

/// Checks the samples of one gauge: the values of the labels that it declares. Others are never exported.
///
/// # Errors
/// The first fault.
pub fn check_labels(gauge: &str, samples: &[Sample], labels: &[String]) -> Result<(), SampleError> {
    for (index, sample) in samples.iter().enumerate() {
        for label in labels {
            let Some(value) = sample.labels.get(label) else {
                continue;
            };
            let field = || format!("{gauge}[{index}].labels.{label}");
            if value.len() > LABEL_VALUE_MAX_BYTES {
                return Err(SampleError::LongLabel {
                    field: field(),
                    length: value.len(),
                });
            }
            if value.contains('\0') {
                return Err(SampleError::NulInLabel(field()));
            }
        }
    }
    Ok(())
}

/// Reads a result document. Its numbers are finite: JSON has no others, and one beyond a float's range is refused.
///
/// # Errors
/// The first fault, in one line.
pub fn parse_results(body: &[u8]) -> Result<Results, ReportError> {
    type Document = BTreeMap<String, Option<Vec<Option<Sample>>>>;
    let document: Option<Document> = parse_document(body)?;
    let document = document.ok_or(ReportError::Null)?;
    if document.is_empty() {
        return Err(ReportError::Empty);
    }
    let samples = |samples: Option<Vec<Option<Sample>>>| {
        samples
            .unwrap_or_default()
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect()
    };
    Ok(document
        .into_iter()
        .map(|(gauge, list)| (gauge, samples(list)))
        .collect())
}

/// How many samples a document has, over all its gauges.
#[must_use]
pub fn sample_count(results: &Results) -> usize {
    results.values().map(Vec::len).sum()
}

/// The series of one gauge: label values in the order of `labels`, the ones that it declares, each with its value. A
/// label that a sample lacks is empty, one that is not declared is ignored, and of several samples with the same values
/// the last one counts. `node` and `executionID` are the exporter's to add: what a sample says of them never shows.
#[must_use]
pub fn gauge_series(samples: &[Sample], labels: &[String]) -> BTreeMap<Vec<String>, f64> {
    let values_of = |sample: &Sample| {
        labels
            .iter()
            .map(|label| sample.labels.get(label).cloned().unwrap_or_default())
            .collect()
    };
    samples
        .iter()
        .map(|sample| (values_of(sample), sample.value))
        .collect()
}

/// How deep objects and lists may nest: the limit of Go's decoder.
const DEPTH_MAX: usize = 10_000;

/// Reads one JSON value and nothing after it, as Go reads it.
pub(super) fn parse_document<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    let text = replace_lone_surrogates(decode_lossily(body));
    if is_too_deep(&text) {
        return Err(JsonError {
            field: None,
            message: format!("nested deeper than {DEPTH_MAX} levels"),
        });
    }
    // Which field is to blame is found out only where one is: it takes as long as the reading itself.
    serde_json::from_str(&text).or_else(|_| read_tracked(&text))
}

fn read_tracked<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let value = T::deserialize(tracked).map_err(|error| {
        let path = track.path();
        let is_field = path.iter().next().is_some();
        JsonError {
            field: is_field.then(|| printable(&path.to_string())),
            message: printable(&error.to_string()),
        }
    })?;
    deserializer.end().map_err(|error| JsonError {
        field: None,
        message: printable(&error.to_string()),
    })?;
    Ok(value)
}

/// Also where what nests is ignored. What is no JSON may be too deep or not: it is refused either way.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut is_string, mut is_escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_string,
            b'"' => is_string = !is_string,
            b'[' | b'{' if !is_string => depth += 1,
            b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// UTF-8 with each byte that is none as U+FFFD, one for one as in Go.
fn decode_lossily(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// An escaped surrogate without its other half is U+FFFD in Go, and an error in a stricter reader.
fn replace_lone_surrogates(text: String) -> String {
    if !text.contains("\\u") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(backslash) = rest.find('\\') {
        out.push_str(&rest[..backslash]);
        rest = &rest[backslash..];
        let length = match (escaped_unit(rest), rest.get(6..).and_then(escaped_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // The backslash and what it escapes, so that `\\u` is not taken for an escape.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The number in `\uXXXX`, where the text begins with that.
fn escaped_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Fit for one line of a log or an answer.
fn printable(text: &str) -> String {
    let cleaned = text.chars().map(|c| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    });
    cleaned.take(QUOTE_MAX_CHARS).collect()
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SampleVisitor)
    }
}

/// By hand: a derived one would take `[1, {}]` for a sample and refuse a repeated key.
struct SampleVisitor;

impl<'de> Visitor<'de> for SampleVisitor {
    type Value = Sample;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sample such as {\"value\": 1, \"labels\": {}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Sample, A::Error> {
        let mut sample = Sample::default();
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "value" => {
                    let value = entries.next_value::<Option<f64>>()?;
                    sample.value = value.unwrap_or(sample.value);
                }
                "labels" => {
                    match entries.next_value::<Option<BTreeMap<String, Option<String>>>>()? {
                        Some(labels) => {
                            let labels = labels
                                .into_iter()
                                .map(|(name, value)| (name, value.unwrap_or_default()));
                            sample.labels.extend(labels);
                        }
                        None => sample.labels.clear(),
                    }
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plain(body: &str) -> Vec<f64> {
        let results =
            parse_results(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        results["plain"].iter().map(|sample| sample.value).collect()
    }

    #[test]
    fn absent_and_null_values_are_zero() {
        assert_eq!(plain(r#"{"plain":[{}]}"#), [0.0]);
        assert_eq!(plain(r#"{"plain":[{"value":null}]}"#), [0.0]);
        assert_eq!(plain(r#"{"plain":[null]}"#), [0.0]);
        assert!(plain(r#"{"plain":null}"#).is_empty());
        assert!(plain(r#"{"plain":[]}"#).is_empty());
        assert_eq!(plain(r#" {"plain":[{"value":1,"labels":null}]} "#), [1.0]);
    }

    #[test]
    fn of_a_repeated_key_the_last_one_counts_and_labels_add_up() {
        assert_eq!(
            plain(r#"{"plain":[{"value":1}],"plain":[{"value":2,"value":3,"value":null}]}"#),
            [3.0]
        );
        let results =
            parse_results(br#"{"g":[{"labels":{"a":"1","b":null},"labels":{"a":"2"}}]}"#).unwrap();
        let labels = &results["g"][0].labels;
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("2", ""));
    }

    #[test]
    fn keys_are_matched_exactly_and_unknown_ones_ignored() {
        assert_eq!(
            plain(r#"{"plain":[{"Value":1,"other":[{"deep":[]}]}]}"#),
            [0.0]
        );
    }

    #[test]
    fn numbers_are_read_to_the_last_digit() {
        assert_eq!(
            plain(r#"{"plain":[{"value":1.5e3},{"value":-0.1},{"value":9007199254740993}]}"#),
            [1500.0, -0.1, 9_007_199_254_740_992.0]
        );
        assert_eq!(
            plain(r#"{"plain":[{"value":5.0e-324},{"value":1.7976931348623157e308}]}"#),
            [5e-324, f64::MAX]
        );
    }

    #[test]
    fn bytes_that_are_no_utf8_and_lone_surrogates_are_replaced() {
        let results = parse_results(b"{\"g\":[{\"labels\":{\"a\":\"x\xe2\x98y\",\"b\":\"\\ud800\\u0041\",\"c\":\"\\ud83d\\ude00\\\\udfff\"}}]}").unwrap();
        let labels = &results["g"][0].labels;
        assert_eq!(labels["a"], "x\u{fffd}\u{fffd}y");
        assert_eq!(labels["b"], "\u{fffd}A");
        assert_eq!(labels["c"], "😀\\udfff");
    }

    #[test]
    fn what_is_no_result_is_refused_in_one_line() {
        for (body, part) in [
            ("", "EOF"),
            ("foo", "expected"),
            ("[]", "map"),
            ("null", "null"),
            ("{}", "at least one"),
            (r#"{"plain":[{"value":"1"}]}"#, "plain[0].value"),
            (r#"{"plain":{"value":1}}"#, "plain"),
            (r#"{"plain":[1]}"#, "plain[0]"),
            (r#"{"plain":[[1,{}]]}"#, "plain[0]"),
            (r#"{"plain":[{"value":1e400}]}"#, "out of range"),
            (r#"{"plain":[{"value":-1e400}]}"#, "plain[0].value"),
            (r#"{"plain":[{"value":Infinity}]}"#, "plain[0].value"),
            (r#"{"plain":[{"value":NaN}]}"#, "expected"),
            (r#"{"plain":[{"labels":{"a":1}}]}"#, "plain[0].labels.a"),
            (r#"{"plain":[{"value":1}]}garbage"#, "trailing"),
            (r#"{"plain":[{"value":1}]} {}"#, "trailing"),
            ("{\"a\nb\":1}", "control"),
            ("\u{feff}{}", "expected"),
        ] {
            let error = parse_results(body.as_bytes()).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.starts_with("result: ") && !error.contains('\n'),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn nesting_is_taken_as_deep_as_the_original_takes_it() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let ignored = |levels| {
            format!(
                r#"{{"plain":[{{"x":{},"y":"[\"[","value":1}}]}}"#,
                deep(levels)
            )
        };
        // Three levels of the document itself.
        assert_eq!(plain(&ignored(DEPTH_MAX - 3)), [1.0]);
        let error = parse_results(ignored(DEPTH_MAX - 2).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "result: nested deeper than 10000 levels");
        assert!(parse_results(deep(100_000).as_bytes()).is_err());
        assert!(parse_results("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_gauge_exports_its_declared_labels_in_order() {
        let body = br#"{"g":[{"value":1,"labels":{"b":"B","zzz":"Z","node":"evil"}},{"value":2,"labels":{"b":"B"}},{"value":3}]}"#;
        let results = parse_results(body).unwrap();
        let series = gauge_series(&results["g"], &["a".to_owned(), "b".to_owned()]);
        let expected = [
            (vec![String::new(), String::new()], 3.0),
            (vec![String::new(), "B".to_owned()], 2.0),
        ];
        assert_eq!(series, BTreeMap::from(expected));
        assert_eq!(sample_count(&results), 3);
    }

    #[test]
    fn what_a_scraper_would_not_take_is_refused_by_its_field_where_it_is_declared() {
        let labels = ["a".to_owned(), "b".to_owned()];
        let checked = |value: &str, label: &str| {
            let labelled = BTreeMap::from([(label.to_owned(), value.to_owned())]);
            let sample = |labels| Sample { value: 1.0, labels };
            let samples = [sample(BTreeMap::new()), sample(labelled)];
            check_labels("g", &samples, &labels).map_err(|error| error.to_string())
        };
        let long = "é".repeat(LABEL_VALUE_MAX_BYTES / 2);
        for taken in ["", "a b", "x\ny\r\t\"\\", "\u{7f}\u{fffd}é", &long] {
            assert_eq!(checked(taken, "b"), Ok(()), "{taken:?}");
        }
        assert_eq!(checked("x\0", "other"), Ok(()));
        assert_eq!(
            checked("x\0y", "b").unwrap_err(),
            "result: g[1].labels.b: must not contain the character U+0000, which Prometheus does not take"
        );
        assert_eq!(
            checked(&(long + "x"), "a").unwrap_err(),
            "result: g[1].labels.a: must be at most 1024 bytes long, is 1025"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_answered(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = parse_results(&body);
        }

        #[test]
        fn any_text_with_escapes_is_answered(body in "[{}\\[\\]\":,\\\\ud8f0a1é.]{0,60}") {
            let _ = parse_results(body.as_bytes());
        }
    }
}
