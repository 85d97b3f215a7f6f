//! When executions are due: a cron expression or an interval, in a time zone.
//!
//! The language is that of robfig/cron v3 (see [`cron_expression`](super::cron_expression)): five fields, `@daily` and
//! its like, `@every 1h30m`, a `CRON_TZ=` or `TZ=` prefix. Around a clock change we differ from it on purpose, so that
//! no run is lost or doubled. A fixed time (neither minute nor hour begins with `*`) that is skipped runs at the first
//! instant after the gap, and one that is repeated runs the first time: in other words, at the first instant at which
//! the wall clock has reached it. All others follow the wall clock: every matching minute that exists, both times
//! round.
//!
//! Time zones come from the database compiled in, never from this machine.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Timestamp};

use super::cron_expression::{CronExpression, FieldError};
use super::go_duration;

/// How many calendar years after the current one are searched for a match, as in robfig/cron.
const SEARCHED_YEARS: i16 = 5;

/// Why a schedule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Nothing there.
    #[error("the expression is empty")]
    Empty,
    /// A field is wrong, or there are not five.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// An `@` word that does not exist.
    #[error(
        "unknown descriptor {0:?}, expected @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly or @every <duration>"
    )]
    UnknownDescriptor(String),
    /// The duration behind `@every` is no duration or below a second.
    #[error("{0:?} is not a duration of at least one second, such as 90s or 1h30m")]
    BadInterval(String),
    /// A time zone that is not in the IANA database.
    #[error(
        "unknown time zone {0:?}, expected a name of the IANA database such as Europe/Zurich or UTC"
    )]
    UnknownTimeZone(String),
    /// A prefix with a time zone and nothing behind it.
    #[error("no expression follows the time zone")]
    NothingAfterTimeZone,
}

/// A parsed schedule. Its fire times depend on nothing but the instant it is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    kind: Kind,
    zone: TimeZone,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Cron(CronExpression),
    /// Whole seconds, at least one.
    Every(Duration),
}

/// Finds a time zone by its IANA name, spelled as there; `UTC`, and the empty name as in Go, are UTC.
///
/// # Errors
/// [`ScheduleError::UnknownTimeZone`] if there is none.
pub fn time_zone(name: &str) -> Result<TimeZone, ScheduleError> {
    if matches!(name, "" | "UTC") {
        return Ok(TimeZone::UTC);
    }
    // The database takes any spelling, Go only the exact one.
    TimeZoneDatabase::bundled()
        .get(name)
        .ok()
        .filter(|zone| zone.iana_name() == Some(name))
        .ok_or_else(|| ScheduleError::UnknownTimeZone(name.into()))
}

impl Schedule {
    /// Reads an expression, to be evaluated in `zone` unless it names its own.
    ///
    /// # Errors
    /// What robfig/cron v3 refuses, and `@every` below a second.
    pub fn parse(expression: &str, zone: &TimeZone) -> Result<Schedule, ScheduleError> {
        if expression.is_empty() {
            return Err(ScheduleError::Empty);
        }
        let (zone, expression) = split_time_zone(expression, zone)?;
        let kind = if expression.starts_with('@') {
            parse_descriptor(expression)?
        } else {
            Kind::Cron(CronExpression::parse(expression)?)
        };
        Ok(Schedule { kind, zone })
    }

    /// The time zone it is evaluated in.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The newest fire time up to `now`, where `due` is one that has passed: however many lie between, at little cost.
    #[must_use]
    pub fn newest_due(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        if let Kind::Every(interval) = &self.kind {
            let passed = now.duration_since(due).as_secs().max(0);
            let step = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX).max(1);
            let newest = due.checked_add(SignedDuration::from_secs(passed / step * step));
            return newest.unwrap_or(due);
        }
        // Fire times lie a minute apart at least: the nearest stretch that has one has few.
        let mut stretch = SignedDuration::from_hours(1);
        loop {
            let from = now.checked_sub(stretch).unwrap_or(due).max(due);
            let mut newest = (from == due).then_some(due);
            let mut after = from;
            while let Some(next) = self.next_after(after).filter(|next| *next <= now) {
                newest = Some(next);
                after = next;
            }
            match newest {
                Some(newest) => return newest,
                None => stretch = stretch.saturating_mul(24),
            }
        }
    }

    /// The first fire time after `after`, never `after` itself; `None` if there is none within five years.
    ///
    /// An interval counts from `after`, less its fraction of a second: pass the last scheduled time.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(interval) => {
                let next = after
                    .checked_add(SignedDuration::try_from(*interval).ok()?)
                    .ok()?;
                Timestamp::from_second(next.as_second()).ok()
            }
            Kind::Cron(expression) => {
                let wall = self.zone.to_datetime(after);
                let last_year = wall.year().saturating_add(SEARCHED_YEARS);
                if expression.is_fixed_time() {
                    self.next_fixed(expression, after, wall, last_year)
                } else {
                    self.next_on_wall_clock(expression, after, last_year)
                }
            }
        }
    }

    /// Every fire time after `after`, in order.
    pub fn fires_after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
    }

    /// Whether two fire times may share a minute: `@every` below one.
    #[must_use]
    pub fn is_finer_than_minutes(&self) -> bool {
        matches!(&self.kind, Kind::Every(interval) if *interval < Duration::from_mins(1))
    }

    /// The expression, unless this is an interval.
    pub(super) fn cron(&self) -> Option<&CronExpression> {
        match &self.kind {
            Kind::Cron(expression) => Some(expression),
            Kind::Every(_) => None,
        }
    }

    /// A fixed time is due when the wall clock first reaches it. A wall time that is reached after `after` is ahead of
    /// the wall clock at `after`, so the search begins there; what the first time round has reached already is passed.
    fn next_fixed(
        &self,
        expression: &CronExpression,
        after: Timestamp,
        wall: DateTime,
        last_year: i16,
    ) -> Option<Timestamp> {
        let mut from = next_minute(wall)?;
        loop {
            let matching = expression.first_match(from, last_year)?;
            let reached = first_instant_at(&self.zone, matching)?;
            if reached > after {
                return Some(reached);
            }
            from = next_minute(matching)?;
        }
    }

    /// Goes through the stretches of constant offset, one after the other.
    fn next_on_wall_clock(
        &self,
        expression: &CronExpression,
        after: Timestamp,
        last_year: i16,
    ) -> Option<Timestamp> {
        let mut from = next_minute(self.zone.to_datetime(after))?;
        let mut offset = self.zone.to_offset(after);
        let mut changes = self.zone.following(after);
        loop {
            let due = expression
                .first_match(from, last_year)
                .and_then(|wall| offset.to_timestamp(wall).ok());
            let Some(change) = changes.next() else {
                return due;
            };
            if due.is_some_and(|due| due < change.timestamp()) {
                return due;
            }
            offset = change.offset();
            from = offset.to_datetime(change.timestamp());
            if from.year() > last_year {
                return None;
            }
        }
    }
}

/// The first instant at which the clocks of `zone` show `wall` or later.
pub(super) fn first_instant_at(zone: &TimeZone, wall: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(wall).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // Read with the later offset, a time within the gap lies before the change.
            let before_change = after.to_timestamp(wall).ok()?;
            zone.following(before_change)
                .find(|change| change.offset() == after)
                .map(|change| change.timestamp())
        }
    }
}

fn next_minute(wall: DateTime) -> Option<DateTime> {
    wall.date()
        .at(wall.hour(), wall.minute(), 0, 0)
        .checked_add(Span::new().minutes(1))
        .ok()
}

/// Takes a leading `CRON_TZ=Zone ` or `TZ=Zone ` off. `Local`, as in Go, is the zone given from outside.
fn split_time_zone<'a>(
    expression: &'a str,
    zone: &TimeZone,
) -> Result<(TimeZone, &'a str), ScheduleError> {
    let prefixed = expression
        .strip_prefix("CRON_TZ=")
        .or_else(|| expression.strip_prefix("TZ="));
    let Some(prefixed) = prefixed else {
        return Ok((zone.clone(), expression));
    };
    let (name, rest) = prefixed
        .split_once(' ')
        .ok_or(ScheduleError::NothingAfterTimeZone)?;
    let zone = if name == "Local" {
        zone.clone()
    } else {
        time_zone(name)?
    };
    Ok((zone, rest.trim()))
}

fn parse_descriptor(descriptor: &str) -> Result<Kind, ScheduleError> {
    let expression = match descriptor {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return parse_interval(descriptor),
    };
    Ok(Kind::Cron(CronExpression::parse(expression)?))
}

/// `@every <duration>`; what is less than a second of it is cut off, as in robfig/cron.
fn parse_interval(descriptor: &str) -> Result<Kind, ScheduleError> {
    let duration = descriptor
        .strip_prefix("@every ")
        .ok_or_else(|| ScheduleError::UnknownDescriptor(descriptor.into()))?;
    go_duration::parse(duration)
        .map(|interval| Kind::Every(Duration::from_secs(interval.as_secs())))
        .filter(|kind| *kind != Kind::Every(Duration::ZERO))
        .ok_or_else(|| ScheduleError::BadInterval(duration.into()))
}
