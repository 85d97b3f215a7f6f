//! The five fields of a cron expression as sets of minutes, hours, days, months and weekdays, and the wall-clock
//! minutes they match. Knows no time zone: what becomes of a wall-clock minute is decided in `schedule`.
//!
//! The language is that of robfig/cron v3, which the original used, down to its corners: `*/1` counts as a star in the
//! day rule, `5/15` runs to the end of the field, `+5` is 5, an empty item of a list is nothing. Our only extension is
//! weekday 7 for Sunday. The sets are our own rather than the `cron` or `croner` crate's, since both read a
//! different language (the one wants seconds and joins the day fields with "and", the other reads `N/step`, `*/1` and
//! `L` otherwise), and translating every corner back takes more than the matching itself.

use jiff::civil::{Date, DateTime};

/// What stands in the way of reading a cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not five fields.
    #[error("expected five fields (minute hour day-of-month month day-of-week), found {0}")]
    FieldCount(usize),
    /// Neither a number nor a name that this field knows.
    #[error("{field}: {text:?} is not a number or name of this field")]
    NotANumber {
        /// The field.
        field: &'static str,
        /// What stood there.
        text: String,
    },
    /// A number outside of the field's range.
    #[error("{field}: {item:?} is not within {min}-{max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The list item that holds the number.
        item: String,
        /// The least value of the field.
        min: u64,
        /// The greatest value of the field.
        max: u64,
    },
    /// A range that ends before it begins.
    #[error("{field}: the range {item:?} begins beyond its end")]
    Backwards {
        /// The field.
        field: &'static str,
        /// The range.
        item: String,
    },
    /// A step of zero.
    #[error("{field}: the step of {item:?} must be at least 1")]
    ZeroStep {
        /// The field.
        field: &'static str,
        /// The list item with the step.
        item: String,
    },
    /// More than one `-` or `/`.
    #[error("{field}: too many {separator:?} in {item:?}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The separator.
        separator: char,
        /// The list item.
        item: String,
    },
}

/// Five parsed fields. Bit n of a set stands for value n; weekdays count from Sunday = 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronExpression {
    minutes: Field,
    hours: Field,
    days_of_month: Field,
    months: Field,
    days_of_week: Field,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    set: u64,
    /// One of the items is `*` or `?` without a step above 1: the field does not restrict the days.
    unrestricted: bool,
    /// The field's text begins with `*` (or `?`, which is the same).
    begins_with_star: bool,
}

struct Bounds {
    name: &'static str,
    min: u64,
    max: u64,
    /// The greatest number that may be written: 7 for weekdays, which is Sunday once more.
    written_max: u64,
    names: &'static [&'static str],
    first_name_value: u64,
}

impl Bounds {
    const fn numeric(name: &'static str, min: u64, max: u64) -> Bounds {
        Bounds {
            name,
            min,
            max,
            written_max: max,
            names: &[],
            first_name_value: 0,
        }
    }
}

const MINUTE: Bounds = Bounds::numeric("minute", 0, 59);
const HOUR: Bounds = Bounds::numeric("hour", 0, 23);
const DAY_OF_MONTH: Bounds = Bounds::numeric("day of month", 1, 31);
const MONTH: Bounds = Bounds {
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
    first_name_value: 1,
    ..Bounds::numeric("month", 1, 12)
};
const DAY_OF_WEEK: Bounds = Bounds {
    written_max: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    ..Bounds::numeric("day of week", 0, 6)
};

impl CronExpression {
    /// Reads five fields separated by white space.
    ///
    /// # Errors
    /// The first thing that robfig/cron v3 would not accept either, weekday 7 apart.
    pub fn parse(text: &str) -> Result<CronExpression, FieldError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = fields[..] else {
            return Err(FieldError::FieldCount(fields.len()));
        };
        Ok(CronExpression {
            minutes: parse_field(minute, &MINUTE)?,
            hours: parse_field(hour, &HOUR)?,
            days_of_month: parse_field(day_of_month, &DAY_OF_MONTH)?,
            months: parse_field(month, &MONTH)?,
            days_of_week: parse_field(day_of_week, &DAY_OF_WEEK)?,
        })
    }

    /// Whether this names times of the day rather than an interval: neither minute nor hour begins with `*`.
    #[must_use]
    pub fn is_fixed_time(&self) -> bool {
        !self.minutes.begins_with_star && !self.hours.begins_with_star
    }

    /// Whether the minute that begins at `wall` matches. Seconds are not looked at.
    #[must_use]
    pub fn matches(&self, wall: DateTime) -> bool {
        self.minutes.has(wall.minute())
            && self.hours.has(wall.hour())
            && self.matches_date(wall.date())
    }

    /// The first matching minute at or after `from` whose year is at most `last_year`.
    #[must_use]
    pub fn first_match(&self, from: DateTime, last_year: i16) -> Option<DateTime> {
        let mut start = ceil_to_minute(from)?;
        while start.year() <= last_year {
            let date = start.date();
            if !self.months.has(date.month()) {
                start = next_month(date)?.at(0, 0, 0, 0);
                continue;
            }
            if self.matches_date(date)
                && let Some(time) = self.first_time_of_day(start)
            {
                return Some(time);
            }
            start = date.tomorrow().ok()?.at(0, 0, 0, 0);
        }
        None
    }

    fn first_time_of_day(&self, start: DateTime) -> Option<DateTime> {
        (start.hour()..24)
            .filter(|hour| self.hours.has(*hour))
            .find_map(|hour| {
                let first_minute = if hour == start.hour() {
                    start.minute()
                } else {
                    0
                };
                let minute = (first_minute..60).find(|minute| self.minutes.has(*minute))?;
                Some(start.date().at(hour, minute, 0, 0))
            })
    }

    /// The day rule of cron: where both day fields are restricted either may match, else both must.
    fn matches_date(&self, date: Date) -> bool {
        let day_of_month = self.days_of_month.has(date.day());
        let day_of_week = self
            .days_of_week
            .has(date.weekday().to_sunday_zero_offset());
        let day = if self.days_of_month.unrestricted || self.days_of_week.unrestricted {
            day_of_month && day_of_week
        } else {
            day_of_month || day_of_week
        };
        day && self.months.has(date.month())
    }
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|bit| self.set >> bit & 1 == 1)
    }
}

fn ceil_to_minute(wall: DateTime) -> Option<DateTime> {
    let floor = wall.date().at(wall.hour(), wall.minute(), 0, 0);
    if floor == wall {
        Some(wall)
    } else {
        floor.checked_add(jiff::Span::new().minutes(1)).ok()
    }
}

fn next_month(date: Date) -> Option<Date> {
    date.last_of_month().tomorrow().ok()
}

fn parse_field(text: &str, bounds: &Bounds) -> Result<Field, FieldError> {
    let mut set = 0;
    let mut unrestricted = false;
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (item_set, item_unrestricted) = parse_item(item, bounds)?;
        set |= item_set;
        unrestricted |= item_unrestricted;
    }
    if bounds.written_max > bounds.max {
        // Sunday, written as 7.
        set = set & !(1 << bounds.written_max) | set >> bounds.written_max;
    }
    Ok(Field {
        set,
        unrestricted,
        begins_with_star: text.starts_with(['*', '?']),
    })
}

/// One item of a list: `*`, `N`, `N-M`, each perhaps with `/step`. The flag says that it does not restrict.
fn parse_item(item: &str, bounds: &Bounds) -> Result<(u64, bool), FieldError> {
    let field = bounds.name;
    let mut by_slash = item.split('/');
    let range = by_slash.next().unwrap_or_default();
    let step = by_slash.next();
    let ends: Vec<&str> = range.split('-').collect();

    // As robfig does, whatever follows a star and a hyphen is not looked at.
    let star = matches!(ends[0], "*" | "?");
    let (start, end) = match ends[..] {
        _ if star => (bounds.min, bounds.max),
        [only] => {
            let value = parse_value(only, bounds)?;
            (value, value)
        }
        [first, last] => (parse_value(first, bounds)?, parse_value(last, bounds)?),
        _ => {
            return Err(FieldError::TooMany {
                field,
                separator: '-',
                item: item.into(),
            });
        }
    };
    if by_slash.next().is_some() {
        return Err(FieldError::TooMany {
            field,
            separator: '/',
            item: item.into(),
        });
    }
    let (end, step) = match step {
        None => (end, 1),
        // "N/step" runs from N to the end of the field.
        Some(step) => (
            if ends.len() == 1 {
                end.max(bounds.max)
            } else {
                end
            },
            parse_number(step, bounds)?,
        ),
    };

    if start < bounds.min || end > bounds.written_max {
        let (min, max) = (bounds.min, bounds.written_max);
        return Err(FieldError::OutOfRange {
            field,
            item: item.into(),
            min,
            max,
        });
    }
    if start > end {
        return Err(FieldError::Backwards {
            field,
            item: item.into(),
        });
    }
    let step_by = usize::try_from(step).unwrap_or(usize::MAX);
    if step_by == 0 {
        return Err(FieldError::ZeroStep {
            field,
            item: item.into(),
        });
    }
    let set = (start..=end)
        .step_by(step_by)
        .fold(0, |set, value| set | 1 << value);
    Ok((set, star && step == 1))
}

fn parse_value(text: &str, bounds: &Bounds) -> Result<u64, FieldError> {
    let named = bounds
        .names
        .iter()
        .zip(bounds.first_name_value..)
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    match named {
        Some((_, value)) => Ok(value),
        None => parse_number(text, bounds),
    }
}

/// A number as Go's `strconv.Atoi` reads it (a plus sign is allowed), not negative.
fn parse_number(text: &str, bounds: &Bounds) -> Result<u64, FieldError> {
    text.parse::<i64>()
        .ok()
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| FieldError::NotANumber {
            field: bounds.name,
            text: text.into(),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn minutes(field: &str) -> Vec<i8> {
        let expression = CronExpression::parse(&format!("{field} * * * *")).unwrap();
        (0..60)
            .filter(|minute| expression.minutes.has(*minute))
            .collect()
    }

    fn weekdays(field: &str) -> Vec<i8> {
        let expression = CronExpression::parse(&format!("* * * * {field}")).unwrap();
        (0..8)
            .filter(|day| expression.days_of_week.has(*day))
            .collect()
    }

    #[test]
    fn items_ranges_and_steps_are_those_of_robfig() {
        assert_eq!(minutes("5/15"), [5, 20, 35, 50]);
        assert_eq!(minutes("1,2,"), [1, 2]);
        assert_eq!(minutes("10-20/5"), [10, 15, 20]);
        assert_eq!(minutes("*/61"), [0]);
        assert_eq!(minutes("*/9223372036854775807"), [0]);
        assert_eq!(minutes("+5"), [5]);
        assert_eq!(minutes("007"), [7]);
        assert_eq!(minutes("*-5/30"), [0, 30]);
        assert_eq!(minutes(",").len(), 0);
        assert_eq!(minutes("?").len(), 60);
    }

    #[test]
    fn weekday_seven_is_sunday() {
        assert_eq!(weekdays("7"), [0]);
        assert_eq!(weekdays("5-7"), [0, 5, 6]);
        assert_eq!(weekdays("0-7"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(weekdays("7/2"), [0]);
        assert_eq!(weekdays("1/6"), [1]);
        assert_eq!(weekdays("Mon-fRI"), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_robfig_refuses_is_refused() {
        for expression in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 0 *",
            "* * * 13 *",
            "* * * * 8",
            "* * * * 7-8",
            "*/0 * * * *",
            "*/-0 * * * *",
            "5-1 * * * *",
            "1--2 * * * *",
            "-1 * * * *",
            "1/2/3 * * * *",
            "*/* * * * *",
            "1-2-3 * * * *",
            "* * * * sat-sun",
            "* * * foo *",
            "a * * * *",
            "jan * * * *",
            "1.5 * * * *",
            "/5 * * * *",
            "5/ * * * *",
            "* * L * *",
            "99999999999999999999 * * * *",
        ] {
            assert!(CronExpression::parse(expression).is_err(), "{expression}");
        }
    }

    #[test]
    fn both_day_fields_restricted_means_either() {
        let either = CronExpression::parse("0 0 13 * FRI").unwrap();
        assert!(either.matches(date(2026, 2, 13).at(0, 0, 0, 0)));
        assert!(either.matches(date(2026, 1, 13).at(0, 0, 0, 0)));
        assert!(either.matches(date(2026, 1, 16).at(0, 0, 0, 0)));
        let star_with_step_one = CronExpression::parse("0 0 13 * */1").unwrap();
        assert!(!star_with_step_one.matches(date(2026, 1, 16).at(0, 0, 0, 0)));
        let star_with_step_two = CronExpression::parse("0 0 13 * */2").unwrap();
        assert!(star_with_step_two.matches(date(2026, 1, 17).at(0, 0, 0, 0)));
    }

    #[test]
    fn only_a_leading_star_in_minute_or_hour_makes_an_interval() {
        let fixed = |text: &str| CronExpression::parse(text).unwrap().is_fixed_time();
        assert!(fixed("30 2 * * *"));
        assert!(fixed("0-59 2/1 * * *"));
        assert!(fixed("1,* 2 * * *"));
        assert!(!fixed("*/30 2 * * *"));
        assert!(!fixed("0 * * * *"));
        assert!(!fixed("0 */1 * * *"));
        assert!(!fixed("? 2 * * *"));
    }
}
