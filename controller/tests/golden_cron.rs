//! What robfig/cron v3 does with 742 expressions, recorded; each line is a case.
//!
//! Where we differ on purpose the case is named below with what is wanted instead and why. The instants there were
//! worked out from the rule and the zones' clock changes:
//! Lord Howe 2026-04-05 02:00 +11:00 to 01:30 +10:30 · Zurich 2026-03-29 02:00 +01:00 to 03:00 +02:00 and 2026-10-25
//! 03:00 +02:00 to 02:00 +01:00 · New York 2026-03-08 02:00 -05:00 to 03:00 -04:00 · São Paulo 2018-11-04 00:00 -03:00
//! to 01:00 -02:00.
#![allow(clippy::unwrap_used)]

use controller::core::schedule::{Schedule, ScheduleError, time_zone};
use jiff::Timestamp;
use serde::Deserialize;

const RECORDED_LINES: usize = 742;

#[derive(Deserialize)]
struct Line {
    expr: String,
    tz: String,
    from: Timestamp,
    #[serde(default)]
    next: Vec<String>,
    #[serde(default)]
    error: bool,
}

struct Deviation {
    expr: &'static str,
    tz: &'static str,
    from: &'static str,
    /// As in the recording; empty: the expression is refused.
    next: &'static [&'static str],
    /// Why, for people and for the message of a test.
    because: &'static str,
}

const DEVIATIONS: &[Deviation] = &[
    Deviation {
        expr: "0 0 * * 0",
        tz: "Australia/Lord_Howe",
        from: "2026-04-04T13:00:00Z",
        next: &[
            "2026-04-11T13:30:00Z",
            "2026-04-18T13:30:00Z",
            "2026-04-25T13:30:00Z",
            "2026-05-02T13:30:00Z",
            "2026-05-09T13:30:00Z",
            "2026-05-16T13:30:00Z",
            "2026-05-23T13:30:00Z",
            "2026-05-30T13:30:00Z",
        ],
        because: "robfig loses Sunday 12 April, the first after the half-hour change",
    },
    Deviation {
        expr: "0 12 */2 * *",
        tz: "Australia/Lord_Howe",
        from: "2026-04-04T13:00:00Z",
        next: &[
            "2026-04-05T01:30:00Z",
            "2026-04-07T01:30:00Z",
            "2026-04-09T01:30:00Z",
            "2026-04-11T01:30:00Z",
            "2026-04-13T01:30:00Z",
            "2026-04-15T01:30:00Z",
            "2026-04-17T01:30:00Z",
            "2026-04-19T01:30:00Z",
        ],
        because: "robfig loses noon of 5 April, the day of the change",
    },
    Deviation {
        expr: "0 12 * * */2",
        tz: "Australia/Lord_Howe",
        from: "2026-03-28T22:30:17Z",
        next: &[
            "2026-03-29T01:00:00Z",
            "2026-03-31T01:00:00Z",
            "2026-04-02T01:00:00Z",
            "2026-04-04T01:00:00Z",
            "2026-04-05T01:30:00Z",
            "2026-04-07T01:30:00Z",
            "2026-04-09T01:30:00Z",
            "2026-04-11T01:30:00Z",
        ],
        because: "robfig loses noon of Sunday 5 April, the day of the change",
    },
    Deviation {
        expr: "@daily",
        tz: "Australia/Lord_Howe",
        from: "2026-04-04T13:00:00Z",
        next: &[
            "2026-04-05T13:30:00Z",
            "2026-04-06T13:30:00Z",
            "2026-04-07T13:30:00Z",
            "2026-04-08T13:30:00Z",
            "2026-04-09T13:30:00Z",
            "2026-04-10T13:30:00Z",
            "2026-04-11T13:30:00Z",
            "2026-04-12T13:30:00Z",
        ],
        because: "robfig loses midnight of 6 April, the first after the change",
    },
    Deviation {
        expr: "@weekly",
        tz: "Australia/Lord_Howe",
        from: "2026-03-28T22:30:17Z",
        next: &[
            "2026-04-04T13:00:00Z",
            "2026-04-11T13:30:00Z",
            "2026-04-18T13:30:00Z",
            "2026-04-25T13:30:00Z",
            "2026-05-02T13:30:00Z",
            "2026-05-09T13:30:00Z",
            "2026-05-16T13:30:00Z",
            "2026-05-23T13:30:00Z",
        ],
        because: "robfig loses the week of 12 April",
    },
    Deviation {
        expr: "CRON_TZ=Europe/Zurich 0 2 * * *",
        tz: "UTC",
        from: "2026-03-28T22:30:17Z",
        next: &[
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:00:00Z",
            "2026-03-31T00:00:00Z",
            "2026-04-01T00:00:00Z",
            "2026-04-02T00:00:00Z",
            "2026-04-03T00:00:00Z",
            "2026-04-04T00:00:00Z",
            "2026-04-05T00:00:00Z",
        ],
        because: "02:00 is skipped on 29 March: it runs at 03:00, the first instant after the gap; robfig loses it",
    },
    Deviation {
        expr: "CRON_TZ=Europe/Zurich 0 2 * * *",
        tz: "America/Sao_Paulo",
        from: "2026-10-24T22:59:59Z",
        next: &[
            "2026-10-25T00:00:00Z",
            "2026-10-26T01:00:00Z",
            "2026-10-27T01:00:00Z",
            "2026-10-28T01:00:00Z",
            "2026-10-29T01:00:00Z",
            "2026-10-30T01:00:00Z",
            "2026-10-31T01:00:00Z",
            "2026-11-01T01:00:00Z",
        ],
        because: "02:00 comes twice on 25 October: it runs the first time only; robfig runs it twice",
    },
    Deviation {
        expr: "CRON_TZ=America/New_York 30 2 * * *",
        tz: "America/Sao_Paulo",
        from: "2026-03-08T05:30:00Z",
        next: &[
            "2026-03-08T07:00:00Z",
            "2026-03-09T06:30:00Z",
            "2026-03-10T06:30:00Z",
            "2026-03-11T06:30:00Z",
            "2026-03-12T06:30:00Z",
            "2026-03-13T06:30:00Z",
            "2026-03-14T06:30:00Z",
            "2026-03-15T06:30:00Z",
        ],
        because: "02:30 is skipped on 8 March: it runs at 03:00; robfig loses it",
    },
    Deviation {
        expr: "CRON_TZ=Australia/Lord_Howe 15 2 * * *",
        tz: "Pacific/Apia",
        from: "2026-04-04T13:00:00Z",
        next: &[
            "2026-04-04T15:45:00Z",
            "2026-04-05T15:45:00Z",
            "2026-04-06T15:45:00Z",
            "2026-04-07T15:45:00Z",
            "2026-04-08T15:45:00Z",
            "2026-04-09T15:45:00Z",
            "2026-04-10T15:45:00Z",
            "2026-04-11T15:45:00Z",
        ],
        because: "02:15 of 5 April comes once, after the change; robfig loses it",
    },
    Deviation {
        expr: "CRON_TZ=America/Sao_Paulo 0 0 * * *",
        tz: "America/Sao_Paulo",
        from: "2018-11-03T20:00:00Z",
        next: &[
            "2018-11-04T03:00:00Z",
            "2018-11-05T02:00:00Z",
            "2018-11-06T02:00:00Z",
            "2018-11-07T02:00:00Z",
            "2018-11-08T02:00:00Z",
            "2018-11-09T02:00:00Z",
            "2018-11-10T02:00:00Z",
            "2018-11-11T02:00:00Z",
        ],
        because: "midnight of 4 November is skipped: it runs at 01:00; robfig loses it",
    },
    Deviation {
        expr: "40-49/3 20 21-27/4 4-11 2-6/2",
        tz: "America/Sao_Paulo",
        from: "2018-11-03T20:00:00Z",
        next: &[
            "2018-11-03T23:40:00Z",
            "2018-11-03T23:43:00Z",
            "2018-11-03T23:46:00Z",
            "2018-11-03T23:49:00Z",
            "2018-11-06T22:40:00Z",
        ],
        because: "Tuesday the 6th is the next day that matches; robfig runs on Sunday the 4th, the day of the change",
    },
    Deviation {
        expr: "* 15 12-29 * 6",
        tz: "America/Sao_Paulo",
        from: "2018-11-03T20:00:00Z",
        next: &[
            "2018-11-10T17:00:00Z",
            "2018-11-10T17:01:00Z",
            "2018-11-10T17:02:00Z",
            "2018-11-10T17:03:00Z",
            "2018-11-10T17:04:00Z",
        ],
        because: "Saturday the 10th is the next day that matches; robfig runs on Sunday the 4th, the day of the change",
    },
    Deviation {
        expr: "* * * * 7",
        tz: "UTC",
        from: "2018-11-03T20:00:00Z",
        next: &[
            "2018-11-04T00:00:00Z",
            "2018-11-04T00:01:00Z",
            "2018-11-04T00:02:00Z",
        ],
        because: "weekday 7 is Sunday, our extension; 4 November 2018 is one",
    },
    Deviation {
        expr: "* * * * 5-7",
        tz: "UTC",
        from: "2026-04-04T13:00:00Z",
        next: &[
            "2026-04-04T13:01:00Z",
            "2026-04-04T13:02:00Z",
            "2026-04-04T13:03:00Z",
        ],
        because: "weekday 7 is Sunday, our extension; 4 April 2026 is a Saturday",
    },
    refused("@every 0s", "UTC", "2028-02-28T12:00:00Z"),
    refused("@every 0s", "Europe/Zurich", "2026-04-04T13:00:00Z"),
    refused("@every 0s", "America/New_York", "2026-03-28T22:30:17Z"),
    refused("@every 0s", "Asia/Kolkata", "2026-03-08T05:30:00Z"),
    refused("@every 0s", "Australia/Lord_Howe", "2026-12-31T23:59:59Z"),
    refused("@every 0s", "America/Sao_Paulo", "2018-11-03T20:00:00Z"),
    refused("@every 0s", "Pacific/Apia", "2026-01-01T00:00:00Z"),
    refused("@every 500ms", "UTC", "2018-11-03T20:00:00Z"),
    refused("@every 500ms", "Europe/Zurich", "2026-01-01T00:00:00Z"),
    refused("@every 500ms", "America/New_York", "2026-10-24T22:59:59Z"),
    refused("@every 500ms", "Asia/Kolkata", "2026-11-01T04:45:30Z"),
    refused(
        "@every 500ms",
        "Australia/Lord_Howe",
        "2028-02-28T12:00:00Z",
    ),
    refused("@every 500ms", "America/Sao_Paulo", "2026-04-04T13:00:00Z"),
    refused("@every 500ms", "Pacific/Apia", "2026-03-28T22:30:17Z"),
];

const fn refused(expr: &'static str, tz: &'static str, from: &'static str) -> Deviation {
    Deviation {
        expr,
        tz,
        from,
        next: &[],
        because: "an interval below a second is refused; robfig makes it one second",
    }
}

impl Deviation {
    fn is_about(&self, line: &Line) -> bool {
        line.expr == self.expr
            && line.tz == self.tz
            && line.from == self.from.parse::<Timestamp>().unwrap()
    }
}

fn recorded_lines() -> Vec<Line> {
    let lines = include_str!("fixtures/cron.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn parse(expr: &str, tz: &str) -> Result<Schedule, ScheduleError> {
    Schedule::parse(expr, &time_zone(tz).unwrap())
}

/// The first `count` fire times as in the recording, where `never` stands for there being no more.
fn fires(schedule: &Schedule, from: Timestamp, count: usize) -> Vec<String> {
    let mut fires: Vec<String> = schedule
        .fires_after(from)
        .take(count)
        .map(|at| at.to_string())
        .collect();
    if fires.len() < count {
        fires.push("never".to_owned());
    }
    fires
}

/// What is wrong with our answer to a line, given what is wanted (nothing: the expression is refused).
fn complaint(line: &Line, wanted: &[String]) -> Option<String> {
    let found = match parse(&line.expr, &line.tz) {
        Ok(schedule) if wanted.is_empty() => {
            format!("accepted, {:?}", fires(&schedule, line.from, 3))
        }
        Ok(schedule) => {
            let found = fires(&schedule, line.from, wanted.len());
            if found == wanted {
                return None;
            }
            format!("{found:?}")
        }
        Err(_) if wanted.is_empty() => return None,
        Err(error) => error.to_string(),
    };
    Some(format!(
        "{:?} in {} from {}\n  wanted {wanted:?}\n  found  {found}",
        line.expr, line.tz, line.from
    ))
}

#[test]
fn every_recorded_line_holds_but_for_the_deviations() {
    let lines = recorded_lines();
    assert_eq!(lines.len(), RECORDED_LINES);
    let complaints: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            assert!(
                line.error == line.next.is_empty(),
                "{:?} has either an error or fire times",
                line.expr
            );
            match DEVIATIONS.iter().find(|deviation| deviation.is_about(line)) {
                Some(deviation) => complaint(
                    line,
                    &deviation
                        .next
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>(),
                ),
                None => complaint(line, &line.next),
            }
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_deviation_is_about_one_line_that_says_otherwise() {
    let lines = recorded_lines();
    for deviation in DEVIATIONS {
        let about: Vec<_> = lines
            .iter()
            .filter(|line| deviation.is_about(line))
            .collect();
        assert_eq!(about.len(), 1, "{} in {}", deviation.expr, deviation.tz);
        assert!(
            complaint(about[0], &about[0].next).is_some(),
            "{} in {} is as recorded, though {}",
            deviation.expr,
            deviation.tz,
            deviation.because
        );
    }
}
