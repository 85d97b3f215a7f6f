//! Execution ids: the scheduled time in UTC, `yyyyMMddHHmm`, with seconds where minutes do not tell two apart.
//!
//! Ids sort as strings in the order of time: `202601010342` < `20260101034215` < `202601010343`. A report directory
//! holds an execution's files exactly when its name is an id; everything else there is somebody else's.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// The id of one execution: 12 or 14 digits that are a time. Its directory, label and metric label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(Arc<str>);

impl ExecutionId {
    /// The id of a time, to the minute.
    #[must_use]
    pub fn of_minute(time: Timestamp) -> Self {
        Self(format_utc(time, "%Y%m%d%H%M"))
    }

    /// The id of a time, to the second.
    #[must_use]
    pub fn of_second(time: Timestamp) -> Self {
        Self(format_utc(time, "%Y%m%d%H%M%S"))
    }

    /// The id that `text` is, if it is one: 12 or 14 digits that name an existing minute or second.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !matches!(text.len(), 12 | 14) || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let field = |from: usize, to: usize| text.get(from..to)?.parse::<i16>().ok();
        let small = |from, to| field(from, to).and_then(|value| i8::try_from(value).ok());
        let second = if text.len() == 14 { small(12, 14)? } else { 0 };
        DateTime::new(
            field(0, 4)?,
            small(4, 6)?,
            small(6, 8)?,
            small(8, 10)?,
            small(10, 12)?,
            second,
            0,
        )
        .ok()?;
        Some(Self(text.into()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits as a number, for the gauge `<prefix>_current_execution_id`: exact, ids stay below 2^53.
    #[must_use]
    pub fn as_f64(&self) -> f64 {
        self.0.parse().unwrap_or(0.0)
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no execution id"))
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn format_utc(time: Timestamp, format: &str) -> Arc<str> {
    time.to_zoned(TimeZone::UTC)
        .strftime(format)
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_the_scheduled_time_in_utc() {
        let time: Timestamp = "2026-11-23T23:59:07Z".parse().unwrap();
        assert_eq!(ExecutionId::of_minute(time).as_str(), "202611232359");
        assert_eq!(ExecutionId::of_second(time).as_str(), "20261123235907");
    }

    #[test]
    fn ids_sort_in_the_order_of_time() {
        let ids = ["202601010342", "20260101034215", "202601010343"]
            .map(|id| ExecutionId::parse(id).unwrap());
        assert!(ids.is_sorted());
    }

    #[test]
    fn only_times_are_ids() {
        for text in [
            "",
            "latest",
            "20260101034",
            "2026010103420",
            "202613010342",
            "202602300342",
            "202601012442",
            "20260101034260",
            "２０２６０１０１０３４２",
        ] {
            assert_eq!(ExecutionId::parse(text), None, "{text}");
        }
    }
}
