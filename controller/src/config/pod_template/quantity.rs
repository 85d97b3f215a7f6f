//! The canonical form of a Kubernetes quantity: `0.1` is `100m`, `1.5Gi` is `1536Mi`, `1000m` is `1`.
//!
//! The rule is that of `k8s.io/apimachinery/pkg/api/resource`: no precision is lost, no fraction is written, the suffix
//! is as large as it can be, and its kind stays (binary, decimal, exponent). What is finer than a billionth is rounded
//! up; what passes 2^63-1 in a binary suffix is capped there.

/// The finest decimal place that a quantity keeps, as a power of ten.
const NANO: i32 = -9;

/// Digits that are read exactly; no real quantity has more.
const MAX_DIGITS: usize = 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSi,
    DecimalExponent,
    BinarySi,
}

/// `mantissa` × 10^`scale`.
#[derive(Clone, Copy)]
struct Amount {
    mantissa: i128,
    scale: i32,
}

/// The canonical spelling of `text`, or `None` where it is no quantity.
pub(crate) fn canonical_quantity(text: &str) -> Option<String> {
    let text = text.trim();
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let whole_length = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(whole_length);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if whole.is_empty()
        && fraction.is_empty()
        && !(suffix.is_empty() && negative | text.starts_with('+'))
    {
        return None;
    }
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let (format, exponent) = suffix_meaning(suffix)?;
    let magnitude: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let mut amount = Amount {
        mantissa: magnitude,
        scale: -i32::try_from(fraction.len()).ok()?,
    };
    if format == Format::BinarySi {
        amount.mantissa = amount.mantissa.checked_mul(1_i128 << exponent)?;
    } else {
        amount.scale = amount.scale.checked_add(exponent)?;
    }
    let amount = round_up(amount);
    let amount = if format == Format::BinarySi {
        cap(amount)
    } else {
        amount
    };
    write_canonical(amount, format, negative)
}

/// The kind of a suffix, with its power of ten (or of two).
fn suffix_meaning(suffix: &str) -> Option<(Format, i32)> {
    let decimal = |exponent| Some((Format::DecimalSi, exponent));
    let binary = |exponent| Some((Format::BinarySi, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-1000..=1000)
                .contains(&exponent)
                .then_some((Format::DecimalExponent, exponent))
        }
    }
}

/// Rounds away from zero to the finest place that is kept.
fn round_up(amount: Amount) -> Amount {
    let Ok(surplus) = u32::try_from(NANO - amount.scale) else {
        return amount;
    };
    // Past the range of the divisor nothing but "more than zero" is left.
    let mantissa = match 10_i128.checked_pow(surplus) {
        Some(divisor) => amount.mantissa / divisor + i128::from(amount.mantissa % divisor != 0),
        None => i128::from(amount.mantissa > 0),
    };
    Amount {
        mantissa,
        scale: NANO,
    }
}

fn cap(amount: Amount) -> Amount {
    let largest = i128::from(i64::MAX);
    let exceeds = u32::try_from(-amount.scale)
        .ok()
        .and_then(|places| 10_i128.checked_pow(places))
        .and_then(|unit| largest.checked_mul(unit))
        .is_some_and(|limit| amount.mantissa > limit);
    if exceeds {
        Amount {
            mantissa: largest,
            scale: 0,
        }
    } else {
        amount
    }
}

fn write_canonical(amount: Amount, format: Format, negative: bool) -> Option<String> {
    if amount.mantissa == 0 {
        return Some("0".into());
    }
    let sign = if negative { "-" } else { "" };
    if format == Format::BinarySi
        && let Some(whole) = whole_number(amount)
        && whole >= 1024
    {
        let (number, times) = without_factors(whole, 1024);
        let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(times)?;
        return Some(format!("{sign}{number}{suffix}"));
    }
    let (mut number, times) = without_factors(amount.mantissa, 10);
    let mut exponent = amount.scale + i32::try_from(times).ok()?;
    // Suffixes come in steps of a thousand.
    for _ in 0..exponent.rem_euclid(3) {
        number = number.checked_mul(10)?;
        exponent -= 1;
    }
    let suffix = match (format, exponent) {
        (_, 0) => String::new(),
        (Format::DecimalExponent, exponent) => format!("e{exponent}"),
        (_, exponent) => {
            let steps = usize::try_from((exponent - NANO) / 3).ok()?;
            (*["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].get(steps)?).to_owned()
        }
    };
    Some(format!("{sign}{number}{suffix}"))
}

fn whole_number(amount: Amount) -> Option<i128> {
    match u32::try_from(-amount.scale) {
        Ok(places) => {
            let unit = 10_i128.checked_pow(places)?;
            (amount.mantissa % unit == 0).then_some(amount.mantissa / unit)
        }
        Err(_) => amount
            .mantissa
            .checked_mul(10_i128.checked_pow(u32::try_from(amount.scale).ok()?)?),
    }
}

fn without_factors(mut number: i128, factor: i128) -> (i128, usize) {
    let mut times = 0;
    while number % factor == 0 && number != 0 {
        number /= factor;
        times += 1;
    }
    (number, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_take_the_form_that_kubernetes_writes() {
        for (given, canonical) in [
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1", "1"),
            ("1.0", "1"),
            ("0", "0"),
            ("0Mi", "0"),
            ("007", "7"),
            (".5", "500m"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("128Mi", "128Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("5G", "5G"),
            ("1500M", "1500M"),
            ("2000M", "2G"),
            ("0.0001m", "100n"),
            ("1u", "1u"),
            ("0.1n", "1n"),
            ("16Ei", "9223372036854775807"),
        ] {
            assert_eq!(
                canonical_quantity(given).as_deref(),
                Some(canonical),
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for given in [
            "", "ten", "1mm", "1 Gi", "1.2.3", "0x10", "1KB", "e3", "--1", "NaN", ".", "Mi",
        ] {
            assert_eq!(canonical_quantity(given), None, "{given}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(text in "[+-]?[0-9]{1,12}(\\.[0-9]{0,6})?(n|u|m||k|M|G|T|Ki|Mi|Gi|e[0-9])") {
            if let Some(canonical) = canonical_quantity(&text) {
                proptest::prop_assert_eq!(canonical_quantity(&canonical), Some(canonical));
            }
        }

        #[test]
        fn any_text_is_answered(text in ".*") {
            let _ = canonical_quantity(&text);
        }
    }
}
