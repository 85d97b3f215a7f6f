//! Go's text form of a duration (`10s`, `1h30m`, `1.5h`), which the original's users have in their files.
//!
//! The grammar and the rounding are those of Go's `time.ParseDuration`.

use std::time::Duration;

const UNITS_NS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The longest duration Go can hold: 2^63 - 1 nanoseconds, some 292 years.
pub const LONGEST: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// Reads a duration that is not negative; `None` where Go refuses the text or the duration is below zero.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (negative, magnitude) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let nanos = if magnitude == "0" {
        0
    } else {
        parse_terms(magnitude)?
    };
    if negative && nanos > 0 {
        return None;
    }
    Some(Duration::from_nanos(nanos))
}

fn parse_terms(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let (term_ns, after) = parse_term(rest)?;
        total_ns = total_ns
            .checked_add(term_ns)
            .filter(|ns| *ns <= i64::MAX.unsigned_abs())?;
        rest = after;
    }
    Some(total_ns)
}

/// One number with its unit, as `1.5h`, and the text behind it.
fn parse_term(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit_ns = UNITS_NS.iter().find(|(name, _)| *name == unit)?.1;
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let nanos = whole
        .checked_mul(unit_ns)?
        .checked_add(fraction_ns(fraction, unit_ns))?;
    Some((nanos, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// What digits behind the point are worth, rounded down. Eighteen of them are more than any unit can show.
fn fraction_ns(digits: &str, unit_ns: u64) -> u64 {
    let mut numerator: u128 = 0;
    let mut denominator: u128 = 1;
    for digit in digits.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    u64::try_from(u128::from(unit_ns) * numerator / denominator).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("10s", 10_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("+3ms", 3_000_000),
            ("0", 0),
            ("-0", 0),
            ("-0s", 0),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("2us7ns", 2_007),
            ("1.0000000019s", 1_000_000_001),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_or_is_negative_is_refused() {
        for text in [
            "", "5", "s", ".s", "1d", "1 s", " 1s", "1s ", "-1s", "1h-3m", "+", "-", "1e3s",
            "9999999h", "--1s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
