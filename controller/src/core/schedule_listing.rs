//! The next fire times of a schedule for a person to read: in UTC, on the local clock, and with a note wherever a
//! clock change has a say. When a schedule fires is decided in `schedule`; this only shows it.

use std::fmt::Write;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, Zoned};

use super::cron_expression::CronExpression;
use super::schedule::Schedule;

/// Skipped minutes that a note names one by one.
const NAMED_MINUTES: usize = 3;

/// Fire times, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleListing {
    zone: TimeZone,
    /// Empty if the schedule has none within five years.
    pub fires: Vec<Fire>,
}

/// One fire time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The instant.
    pub at: Timestamp,
    /// The same on the clock of the schedule's zone.
    pub local: Zoned,
    /// What a clock change does to this one, or to those between the last one and this one.
    pub notes: Vec<String>,
}

impl ScheduleListing {
    /// The first `count` fire times after `from`.
    #[must_use]
    pub fn new(schedule: &Schedule, from: Timestamp, count: usize) -> ScheduleListing {
        let zone = schedule.zone().clone();
        let mut previous = from;
        let fires = schedule
            .fires_after(from)
            .take(count)
            .map(|at| {
                let notes = schedule
                    .cron()
                    .map(|expression| notes(expression, &zone, previous, at));
                previous = at;
                Fire {
                    at,
                    local: at.to_zoned(zone.clone()),
                    notes: notes.unwrap_or_default(),
                }
            })
            .collect();
        ScheduleListing { zone, fires }
    }

    /// A JSON list of UTC instants such as `"2026-01-01T03:42:00Z"`, one on a line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let instants: Vec<String> = self
            .fires
            .iter()
            .map(|fire| format!("  \"{}\"", fire.at))
            .collect();
        if instants.is_empty() {
            "[]\n".to_owned()
        } else {
            format!("[\n{}\n]\n", instants.join(",\n"))
        }
    }

    /// Aligned columns under a heading.
    #[must_use]
    pub fn to_text(&self) -> String {
        if self.fires.is_empty() {
            return "never: no time within five years matches\n".to_owned();
        }
        let rows = self.fires.iter().map(|fire| {
            let local = fire.local.strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string();
            (fire.at.to_string(), local, fire.notes.join("; "))
        });
        let heading = format!("LOCAL ({})", self.zone.iana_name().unwrap_or("UTC"));
        let rows: Vec<_> = std::iter::once(("UTC".to_owned(), heading, String::new()))
            .chain(rows)
            .collect();
        let width = |column: fn(&(String, String, String)) -> &String| {
            rows.iter()
                .map(|row| column(row).chars().count())
                .max()
                .unwrap_or_default()
        };
        let (utc_width, local_width) = (width(|row| &row.0), width(|row| &row.1));
        let mut text = String::new();
        for (utc, local, note) in &rows {
            let line = format!("{utc:utc_width$}  {local:local_width$}  {note}");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// What there is to say about the fire at `at`, the one before it being at `previous`.
fn notes(
    expression: &CronExpression,
    zone: &TimeZone,
    previous: Timestamp,
    at: Timestamp,
) -> Vec<String> {
    let changes = zone
        .following(previous)
        .take_while(|change| change.timestamp() <= at);
    let mut notes: Vec<String> = changes
        .filter_map(|change| note_on_gap(expression, zone, change.timestamp(), at))
        .collect();
    notes.extend(note_on_repetition(expression, zone, at));
    notes
}

/// Matching minutes that the clock change at `change` skips.
fn note_on_gap(
    expression: &CronExpression,
    zone: &TimeZone,
    change: Timestamp,
    at: Timestamp,
) -> Option<String> {
    let before = zone.to_offset(change.checked_sub(Span::new().nanoseconds(1)).ok()?);
    let gap_start = before.to_datetime(change);
    let gap_end = zone.to_datetime(change);
    let skipped = matches_within(expression, gap_start, gap_end);
    if skipped.is_empty() {
        return None;
    }
    let today = zone.to_datetime(at).date();
    let verb = if skipped.len() == 1 { "does" } else { "do" };
    let outcome = if expression.is_fixed_time() {
        format!("runs once at {}", minute(gap_end, today))
    } else {
        "left out".to_owned()
    };
    Some(format!(
        "clock goes forward: {} {verb} not exist, {outcome}",
        named(&skipped, today)
    ))
}

fn matches_within(expression: &CronExpression, start: DateTime, end: DateTime) -> Vec<DateTime> {
    let next = |from: DateTime| {
        expression
            .first_match(from, end.year())
            .filter(|wall| *wall < end)
    };
    std::iter::successors(next(start), |last| {
        next(last.checked_add(Span::new().minutes(1)).ok()?)
    })
    .collect()
}

fn note_on_repetition(
    expression: &CronExpression,
    zone: &TimeZone,
    at: Timestamp,
) -> Option<String> {
    let wall = zone.to_datetime(at);
    let AmbiguousOffset::Fold { before, .. } = zone.to_ambiguous_timestamp(wall).offset() else {
        return None;
    };
    let is_first = before.to_timestamp(wall).is_ok_and(|first| first == at);
    let outcome = match (expression.is_fixed_time(), is_first) {
        (true, _) => "runs the first time only",
        (false, true) => "this is the first time round",
        (false, false) => "this is the second time round",
    };
    Some(format!(
        "clock goes back: {} comes twice, {outcome}",
        minute(wall, wall.date())
    ))
}

/// `02:00, 02:30`, or the first and the last of many.
fn named(minutes: &[DateTime], today: Date) -> String {
    match minutes {
        [first, .., last] if minutes.len() > NAMED_MINUTES => {
            format!(
                "{} to {} ({} times)",
                minute(*first, today),
                minute(*last, today),
                minutes.len()
            )
        }
        _ => minutes
            .iter()
            .map(|wall| minute(*wall, today))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The time of the day, with the date unless it is today's.
fn minute(wall: DateTime, today: Date) -> String {
    let format = if wall.date() == today {
        "%H:%M"
    } else {
        "%Y-%m-%d %H:%M"
    };
    wall.strftime(format).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::core::schedule::time_zone;

    fn listing(expression: &str, zone: &str, from: &str, count: usize) -> ScheduleListing {
        let schedule = Schedule::parse(expression, &time_zone(zone).unwrap()).unwrap();
        ScheduleListing::new(&schedule, from.parse().unwrap(), count)
    }

    fn assert_text(listing: &ScheduleListing, lines: &[&str]) {
        assert_eq!(listing.to_text().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_fixed_time_in_the_gap_is_pointed_out() {
        assert_text(
            &listing("30 2 * * *", "Europe/Zurich", "2026-03-27T12:00:00Z", 3),
            &[
                "UTC                   LOCAL (Europe/Zurich)",
                "2026-03-28T01:30:00Z  Sat 2026-03-28 02:30:00 +01:00",
                "2026-03-29T01:00:00Z  Sun 2026-03-29 03:00:00 +02:00  clock goes forward: 02:30 does not exist, runs once at 03:00",
                "2026-03-30T00:30:00Z  Mon 2026-03-30 02:30:00 +02:00",
            ],
        );
    }

    #[test]
    fn several_fixed_times_in_the_gap_are_one_run() {
        let two = listing("0,30 2,3 * * *", "Europe/Zurich", "2026-03-28T12:00:00Z", 2);
        assert_eq!(
            two.fires[0].notes,
            ["clock goes forward: 02:00, 02:30 do not exist, runs once at 03:00"]
        );
        assert_eq!(two.fires[0].at.to_string(), "2026-03-29T01:00:00Z");
        assert_eq!(two.fires[1].at.to_string(), "2026-03-29T01:30:00Z");
        let many = listing("0-59 2 * * *", "Europe/Zurich", "2026-03-28T12:00:00Z", 1);
        assert_eq!(
            many.fires[0].notes,
            ["clock goes forward: 02:00 to 02:59 (60 times) do not exist, runs once at 03:00"]
        );
    }

    #[test]
    fn a_fixed_time_that_is_repeated_is_pointed_out() {
        assert_text(
            &listing("30 2 * * *", "Europe/Zurich", "2026-10-24T12:00:00Z", 2),
            &[
                "UTC                   LOCAL (Europe/Zurich)",
                "2026-10-25T00:30:00Z  Sun 2026-10-25 02:30:00 +02:00  clock goes back: 02:30 comes twice, runs the first time only",
                "2026-10-26T01:30:00Z  Mon 2026-10-26 02:30:00 +01:00",
            ],
        );
    }

    #[test]
    fn an_interval_leaves_the_gap_out_and_runs_both_times_round() {
        let forward = listing("*/30 * * * *", "Europe/Zurich", "2026-03-29T00:00:00Z", 3);
        assert_eq!(forward.fires[0].notes, [""; 0]);
        assert_eq!(
            forward.fires[1].notes,
            ["clock goes forward: 02:00, 02:30 do not exist, left out"]
        );
        assert_eq!(forward.fires[2].notes, [""; 0]);
        let back = listing("0 * * * *", "Europe/Zurich", "2026-10-24T23:00:00Z", 3);
        assert_eq!(
            back.fires[0].notes,
            ["clock goes back: 02:00 comes twice, this is the first time round"]
        );
        assert_eq!(
            back.fires[1].notes,
            ["clock goes back: 02:00 comes twice, this is the second time round"]
        );
        assert_eq!(back.fires[2].notes, [""; 0]);
        let other_day = listing("*/30 2 * * *", "Europe/Zurich", "2026-03-29T00:00:00Z", 1);
        assert_eq!(
            other_day.fires[0].notes,
            ["clock goes forward: 2026-03-29 02:00, 2026-03-29 02:30 do not exist, left out"]
        );
    }

    #[test]
    fn a_day_that_does_not_exist_runs_with_the_next() {
        let apia = listing("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1);
        assert_eq!(apia.fires[0].at.to_string(), "2011-12-30T10:00:00Z");
        assert_eq!(
            apia.fires[0].notes,
            ["clock goes forward: 2011-12-30 12:00 does not exist, runs once at 00:00"]
        );
    }

    #[test]
    fn json_is_a_list_of_utc_instants() {
        let json = listing("42 3 * * *", "UTC", "2026-01-01T00:00:00Z", 2).to_json();
        let instants: Vec<String> = serde_json::from_str(&json).unwrap();
        assert_eq!(instants, ["2026-01-01T03:42:00Z", "2026-01-02T03:42:00Z"]);
    }

    #[test]
    fn what_never_comes_is_an_empty_list() {
        let never = listing("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 5);
        assert_eq!(never.to_json(), "[]\n");
        assert_eq!(
            never.to_text(),
            "never: no time within five years matches\n"
        );
    }

    #[test]
    fn intervals_count_from_the_start_and_know_no_clock_change() {
        assert_text(
            &listing("@every 90s", "UTC", "2026-01-01T00:00:00.7Z", 2),
            &[
                "UTC                   LOCAL (UTC)",
                "2026-01-01T00:01:30Z  Thu 2026-01-01 00:01:30 +00:00",
                "2026-01-01T00:03:00Z  Thu 2026-01-01 00:03:00 +00:00",
            ],
        );
    }
}
