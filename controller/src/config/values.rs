//! Readers of single values: each takes a value of the tree and gives the typed one, or `None` where it is no such
//! thing. What is wanted is said beside the key, in `read.rs`.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::Value;

use super::{MaxFailures, PoolSize};
use crate::core::go_duration;

/// The greatest count of anything: Kubernetes' own counts are of 32 bits with a sign.
const COUNT_MAX: u64 = i32::MAX.unsigned_abs() as u64;

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

/// Any scalar as text: in a map of texts the original took `true` and `1` as they stand.
pub(super) fn scalar_as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Number(number) => {
            Some(integer(value).map_or_else(|| number.to_string(), |integer| integer.to_string()))
        }
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A whole number, also when written `10.0`, which the original took.
pub(super) fn integer(value: &Value) -> Option<i128> {
    if let Some(integer) = value.as_i64() {
        return Some(integer.into());
    }
    if let Some(integer) = value.as_u64() {
        return Some(integer.into());
    }
    // Up to 2^53 a float is exact.
    let float = value
        .as_f64()
        .filter(|float| float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0)?;
    format!("{float:.0}").parse().ok()
}

pub(super) fn count(value: &Value) -> Option<u32> {
    integer(value)
        .filter(|count| (0..=i128::from(COUNT_MAX)).contains(count))
        .and_then(|count| u32::try_from(count).ok())
}

pub(super) fn positive(value: &Value) -> Option<NonZeroU32> {
    count(value).and_then(NonZeroU32::new)
}

pub(super) fn port(value: &Value) -> Option<u16> {
    integer(value)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

pub(super) fn pool_size(value: &Value) -> Option<PoolSize> {
    match percent(value) {
        Some(percent) => Some(PoolSize::Percent(percent)).filter(|_| percent > 0),
        None => positive(value).map(PoolSize::Count),
    }
}

pub(super) fn max_failures(value: &Value) -> Option<MaxFailures> {
    match percent(value) {
        Some(percent) => Some(MaxFailures::Percent(percent)),
        None => count(value).map(MaxFailures::Count),
    }
}

/// `10%`: digits and a percent sign, at most 100.
fn percent(value: &Value) -> Option<u8> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let percent = digits.parse().ok().filter(|percent| *percent <= 100);
    percent.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A Go duration such as `10s`, or integer nanoseconds as in the original; not negative.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => go_duration::parse(text),
        _ => integer(value)
            .and_then(|ns| u64::try_from(ns).ok())
            .map(Duration::from_nanos)
            .filter(|d| *d <= go_duration::LONGEST),
    }
}

pub(super) fn positive_duration(value: &Value) -> Option<Duration> {
    duration(value).filter(|duration| !duration.is_zero())
}

pub(super) fn whole_seconds(value: &Value) -> Option<Duration> {
    let seconds_max = u64::from(i32::MAX.unsigned_abs());
    duration(value).filter(|d| d.subsec_nanos() == 0 && (1..=seconds_max).contains(&d.as_secs()))
}

/// A size in bytes of at least 1: an integer, or a Kubernetes quantity such as `16Ki`, `1.5Gi` or `1M`.
pub(super) fn bytes(value: &Value) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 12] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
    ];
    let size = match value {
        Value::String(text) => {
            let suffix = SUFFIXES
                .iter()
                .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
            let (number, unit) = suffix.unwrap_or((text, 1));
            scaled(number, unit)?
        }
        _ => integer(value).and_then(|size| u64::try_from(size).ok())?,
    };
    Some(size).filter(|size| (1..=i64::MAX.unsigned_abs()).contains(size))
}

/// A decimal number times a unit, where that is whole.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let numerator = digits.parse::<u128>().ok()?.checked_mul(unit.into())?;
    let denominator = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    if numerator % denominator == 0 {
        u64::try_from(numerator / denominator).ok()
    } else {
        None
    }
}

/// A label as of RFC 1123: lower-case letters, digits and `-`, at most 63, a letter or digit at both ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| alphanumeric(*byte) || *byte == b'-')
        && bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
}

/// A Service's name: a label as of RFC 1035, which begins with a letter.
pub(super) fn is_service_name(text: &str) -> bool {
    is_dns_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())
}

/// The name of most Kubernetes objects: a subdomain as of RFC 1123.
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A qualified name: up to 63 characters, perhaps behind a DNS subdomain and a slash.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_object_name(prefix) && !name.is_empty() && is_label_value(name),
        None => !text.is_empty() && is_label_value(text),
    }
}

/// Empty, or up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends.
pub(super) fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

/// A metric's name in Prometheus.
pub(super) fn is_metric_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    text.bytes().all(allowed)
        && text
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

/// A label's name in Prometheus that is not reserved for its own use.
pub(super) fn is_metric_label(text: &str) -> bool {
    is_metric_name(text) && !text.contains(':') && !text.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_may_be_written_as_whole_floats() {
        assert_eq!(integer(&json!(10.0)), Some(10));
        assert_eq!(integer(&json!(1e3)), Some(1000));
        assert_eq!(integer(&json!(10.5)), None);
        assert_eq!(integer(&json!(1e300)), None);
        assert_eq!(integer(&json!("10")), None);
        assert_eq!(integer(&json!(true)), None);
        assert_eq!(integer(&json!(u64::MAX)), Some(u64::MAX.into()));
    }

    #[test]
    fn sizes_are_kubernetes_quantities() {
        assert_eq!(bytes(&json!("1Gi")), Some(1 << 30));
        assert_eq!(bytes(&json!("1.5Ki")), Some(1536));
        assert_eq!(bytes(&json!("16k")), Some(16_000));
        assert_eq!(bytes(&json!("12")), Some(12));
        assert_eq!(bytes(&json!(12)), Some(12));
        for wrong in [
            json!("0"),
            json!(0),
            json!(-1),
            json!("1K"),
            json!("1.0001Ki"),
            json!("-1Ki"),
            json!(""),
            json!("Ki"),
            json!("."),
            json!("16Ei"),
            json!("1 Gi"),
        ] {
            assert_eq!(bytes(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn percentages_are_whole_and_at_most_a_hundred() {
        assert_eq!(pool_size(&json!("10%")), Some(PoolSize::Percent(10)));
        for wrong in [
            json!("0%"),
            json!("101%"),
            json!("+5%"),
            json!("1.5%"),
            json!("%"),
            json!("10"),
            json!(0),
            json!(-1),
        ] {
            assert_eq!(pool_size(&wrong), None, "{wrong}");
        }
        assert_eq!(max_failures(&json!("0%")), Some(MaxFailures::Percent(0)));
    }

    #[test]
    fn scalars_become_text_as_they_did_in_the_original() {
        assert_eq!(scalar_as_text(&json!(true)).as_deref(), Some("true"));
        assert_eq!(scalar_as_text(&json!(1.0)).as_deref(), Some("1"));
        assert_eq!(scalar_as_text(&json!(1.25)).as_deref(), Some("1.25"));
        assert_eq!(scalar_as_text(&json!(null)).as_deref(), Some(""));
        assert_eq!(scalar_as_text(&json!([])), None);
    }
}
