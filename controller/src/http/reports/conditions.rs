//! Which part of a file a request is answered with, if any: conditions and ranges of RFC 9110.
//!
//! Pure. A header that cannot be read counts as absent, as the RFC has it.

use http::{HeaderMap, HeaderName, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::ports::report_store::ReportMetadata;

/// What a request for a file gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// All of it.
    Whole,
    /// The bytes from `first` to `last`, both included.
    Range { first: u64, last: u64 },
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: it is not what the client expects.
    PreconditionFailed,
    /// Nothing: the range lies beyond the end.
    Unsatisfiable,
}

impl Answer {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Whole => StatusCode::OK,
            Self::Range { .. } => StatusCode::PARTIAL_CONTENT,
            Self::NotModified => StatusCode::NOT_MODIFIED,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::Unsatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// Offset and length of the bytes to send, of a file of so many.
    pub(super) fn span(self, length: u64) -> (u64, u64) {
        match self {
            Self::Whole => (0, length),
            Self::Range { first, last } => (first, last - first + 1),
            Self::NotModified | Self::PreconditionFailed | Self::Unsatisfiable => (0, 0),
        }
    }

    pub(super) fn content_range(self, length: u64) -> Option<String> {
        match self {
            Self::Range { first, last } => Some(format!("bytes {first}-{last}/{length}")),
            Self::Unsatisfiable => Some(format!("bytes */{length}")),
            Self::Whole | Self::NotModified | Self::PreconditionFailed => None,
        }
    }
}

/// The strong entity tag of a report: it is replaced whole, by a file with another time.
pub(super) fn entity_tag(metadata: &ReportMetadata) -> String {
    format!(
        "\"{:x}-{:x}\"",
        metadata.modified.as_nanosecond(),
        metadata.length
    )
}

/// A time as HTTP writes it, to the second.
pub(super) fn http_date(time: Timestamp) -> String {
    // Only a year beyond 9999 has no such form.
    rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .unwrap_or_default()
}

/// Evaluates the request's conditions in the order of RFC 9110, 13.2.2.
pub(super) fn answer_for(headers: &HeaderMap, metadata: &ReportMetadata) -> Answer {
    let tag = entity_tag(metadata);
    let modified_second = metadata.modified.as_second();
    let is_stale = match tags(headers, header::IF_MATCH) {
        Some(tags) => !matches_strongly(&tags, &tag),
        None => {
            date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|since| modified_second > since)
        }
    };
    if is_stale {
        return Answer::PreconditionFailed;
    }
    let is_known = match tags(headers, header::IF_NONE_MATCH) {
        Some(tags) => matches_weakly(&tags, &tag),
        None => {
            date(headers, header::IF_MODIFIED_SINCE).is_some_and(|since| modified_second <= since)
        }
    };
    if is_known {
        return Answer::NotModified;
    }
    match text(headers, header::RANGE) {
        Some(range) if range_applies(headers, &tag, modified_second) => {
            ranged(range, metadata.length)
        }
        _ => Answer::Whole,
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<i64> {
    parse_date(text(headers, name)?)
}

fn parse_date(text: &str) -> Option<i64> {
    rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
        .map(Timestamp::as_second)
}

/// All lines of a list of entity tags as one; none where there is no such header.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn listed(tags: &str) -> impl Iterator<Item = &str> {
    tags.split(',').map(str::trim)
}

fn matches_strongly(tags: &str, tag: &str) -> bool {
    listed(tags).any(|listed| listed == "*" || listed == tag)
}

fn matches_weakly(tags: &str, tag: &str) -> bool {
    listed(tags).any(|listed| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed) == tag)
}

/// `If-Range`: the range is of use only if the client's other part is of this very file.
fn range_applies(headers: &HeaderMap, tag: &str, modified_second: i64) -> bool {
    match text(headers, header::IF_RANGE) {
        None => !headers.contains_key(header::IF_RANGE),
        Some(condition) if condition.starts_with('"') => condition == tag,
        Some(condition) => parse_date(condition) == Some(modified_second),
    }
}

/// One byte range; of several, and of what is none, the whole file.
fn ranged(range: &str, length: u64) -> Answer {
    let Some((first, last)) = single_range(range) else {
        return Answer::Whole;
    };
    // Some clients ask for a range of everything; of an empty file there is nothing else to say.
    if length == 0 {
        return Answer::Whole;
    }
    match (first, last) {
        (Some(first), _) if first >= length => Answer::Unsatisfiable,
        (Some(first), last) => Answer::Range {
            first,
            last: last.unwrap_or(u64::MAX).min(length - 1),
        },
        (None, Some(0)) => Answer::Unsatisfiable,
        (None, suffix) => Answer::Range {
            first: length.saturating_sub(suffix.unwrap_or(length)),
            last: length - 1,
        },
    }
}

/// `bytes=first-last`, `bytes=first-` or `bytes=-suffix`.
fn single_range(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, spec) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |digits: &str| -> Option<Option<u64>> {
        match digits.trim() {
            "" => Some(None),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(Some(digits.parse().unwrap_or(u64::MAX)))
            }
            _ => None,
        }
    };
    match (number(first)?, number(last)?) {
        (None, None) => None,
        (Some(first), Some(last)) if first > last => None,
        bounds => Some(bounds),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn metadata() -> ReportMetadata {
        ReportMetadata {
            name: "n".into(),
            length: 100,
            modified: "2026-01-01T03:42:00.5Z".parse().unwrap(),
        }
    }

    fn answer(headers: &[(HeaderName, &str)]) -> Answer {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect();
        answer_for(&headers, &metadata())
    }

    fn range(first: u64, last: u64) -> Answer {
        Answer::Range { first, last }
    }

    #[test]
    fn ranges_follow_the_rfc() {
        for (header_value, expected) in [
            ("bytes=0-9", range(0, 9)),
            ("bytes=90-", range(90, 99)),
            ("bytes=-10", range(90, 99)),
            ("bytes=-1000", range(0, 99)),
            ("bytes=50-1000", range(50, 99)),
            ("Bytes = 0-0", range(0, 0)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=9-0", Answer::Whole),
            ("bytes=0-1,5-6", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("lines=0-1", Answer::Whole),
            ("nonsense", Answer::Whole),
        ] {
            assert_eq!(
                answer(&[(header::RANGE, header_value)]),
                expected,
                "{header_value}"
            );
        }
        assert_eq!(ranged("bytes=0-", 0), Answer::Whole);
    }

    #[test]
    fn conditions_follow_the_rfc() {
        let tag = entity_tag(&metadata());
        let weak = format!("W/{tag}");
        let same = "Thu, 01 Jan 2026 03:42:00 GMT";
        let earlier = "Thu, 01 Jan 2026 03:41:59 GMT";
        assert_eq!(http_date(metadata().modified), same);
        for (headers, expected) in [
            (
                vec![(header::IF_NONE_MATCH, tag.as_str())],
                Answer::NotModified,
            ),
            (
                vec![(header::IF_NONE_MATCH, weak.as_str())],
                Answer::NotModified,
            ),
            (vec![(header::IF_NONE_MATCH, "*")], Answer::NotModified),
            (
                vec![
                    (header::IF_NONE_MATCH, "\"x\""),
                    (header::IF_MODIFIED_SINCE, same),
                ],
                Answer::Whole,
            ),
            (vec![(header::IF_MODIFIED_SINCE, same)], Answer::NotModified),
            (vec![(header::IF_MODIFIED_SINCE, earlier)], Answer::Whole),
            (
                vec![(header::IF_MODIFIED_SINCE, "yesterday")],
                Answer::Whole,
            ),
            (
                vec![(header::IF_MATCH, "\"x\"")],
                Answer::PreconditionFailed,
            ),
            (
                vec![(header::IF_MATCH, weak.as_str())],
                Answer::PreconditionFailed,
            ),
            (vec![(header::IF_MATCH, tag.as_str())], Answer::Whole),
            (
                vec![(header::IF_UNMODIFIED_SINCE, earlier)],
                Answer::PreconditionFailed,
            ),
            (vec![(header::IF_UNMODIFIED_SINCE, same)], Answer::Whole),
            (
                vec![
                    (header::RANGE, "bytes=0-1"),
                    (header::IF_RANGE, tag.as_str()),
                ],
                range(0, 1),
            ),
            (
                vec![
                    (header::RANGE, "bytes=0-1"),
                    (header::IF_RANGE, weak.as_str()),
                ],
                Answer::Whole,
            ),
            (
                vec![(header::RANGE, "bytes=0-1"), (header::IF_RANGE, same)],
                range(0, 1),
            ),
            (
                vec![(header::RANGE, "bytes=0-1"), (header::IF_RANGE, earlier)],
                Answer::Whole,
            ),
        ] {
            assert_eq!(answer(&headers), expected, "{headers:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_range_stays_inside_the_file(value in "bytes=[0-9]{0,21}-[0-9]{0,21}", length in 0_u64..10_000) {
            if let Answer::Range { first, last } = ranged(&value, length) {
                proptest::prop_assert!(first <= last && last < length);
            }
        }
    }
}
