//! When executions are due: `cronExpression` and `timeZone`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::EnvironmentDefaults;
use super::super::raw::{Findings, Section, shown};
use super::super::values;
use crate::core::schedule::{Schedule, time_zone};

pub(super) struct Timing {
    pub(super) cron_expression: String,
    pub(super) time_zone: String,
    pub(super) schedule: Schedule,
}

pub(super) fn read(
    root: &mut Section<'_>,
    environment: &EnvironmentDefaults,
    findings: &Findings,
) -> Timing {
    let (time_zone, zone) = read_time_zone(root, environment, findings);
    // The error that is recorded keeps the stand-in from getting out.
    let (cron_expression, schedule) =
        read_cron_expression(root, &zone, findings).unwrap_or_else(|| stand_in(&zone));
    Timing {
        cron_expression,
        time_zone,
        schedule,
    }
}

fn stand_in(zone: &TimeZone) -> (String, Schedule) {
    let schedule = Schedule::parse("@daily", zone).expect("@daily is an expression");
    ("@daily".to_owned(), schedule)
}

/// The key, else `TZ`, else UTC.
fn read_time_zone(
    root: &mut Section<'_>,
    environment: &EnvironmentDefaults,
    findings: &Findings,
) -> (String, TimeZone) {
    let from_environment = environment.time_zone.as_deref().unwrap_or_default();
    let (name, shown) = match root.take("timeZone") {
        Some(value) => (values::text(&value).unwrap_or_default(), shown(&value)),
        None if from_environment.is_empty() => return utc(),
        None => (
            from_environment.to_owned(),
            format!("{from_environment:?} (from the environment variable TZ)"),
        ),
    };
    match time_zone(&name) {
        Ok(zone) if !name.is_empty() => (name, zone),
        _ => {
            let wanted = "a time zone of the IANA database, such as Europe/Zurich or UTC";
            findings.error("timeZone", shown, wanted);
            utc()
        }
    }
}

fn utc() -> (String, TimeZone) {
    ("UTC".to_owned(), TimeZone::UTC)
}

fn read_cron_expression(
    root: &mut Section<'_>,
    zone: &TimeZone,
    findings: &Findings,
) -> Option<(String, Schedule)> {
    let wanted =
        "a cron expression of five fields such as \"42 3 * * *\", or @daily, or @every 1h30m";
    let expression = root.required("cronExpression", wanted, values::text)?;
    match Schedule::parse(&expression, zone) {
        Ok(schedule) => {
            // Any five years show whether there is such a day at all: each has a leap day, but for those around 1900.
            if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() {
                findings.warn("cronExpression", format!("{expression:?} never matches"));
            }
            Some((expression, schedule))
        }
        Err(error) => {
            let wanted = format!("{wanted}: {error}");
            findings.wrong_value("cronExpression", &Value::String(expression), wanted);
            None
        }
    }
}
