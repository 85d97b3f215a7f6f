//! Schedules against a model that walks through time minute by minute, over real zones around their clock changes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt;

use controller::core::schedule::{Schedule, time_zone};
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp, ToSpan};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Zones with changes of an hour, half an hour, two hours and a day, at midnight and in the night, and one without.
const ZONES: [&str; 14] = [
    "Europe/Zurich",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "America/St_Johns",
    "Asia/Tehran",
    "Antarctica/Troll",
    "Pacific/Kwajalein",
    "America/Havana",
    "Asia/Pyongyang",
    "UTC",
];

/// A field of an expression: its text and what it means, told apart from the code under test.
#[derive(Debug, Clone)]
struct Field {
    text: String,
    values: BTreeSet<i8>,
    is_star: bool,
    begins_with_star: bool,
}

fn stepped(min: i8, max: i8, step: i8) -> BTreeSet<i8> {
    (min..=max)
        .step_by(usize::try_from(step).unwrap())
        .collect()
}

fn field(min: i8, max: i8) -> impl Strategy<Value = Field> {
    let new = |text: String, values, is_star| {
        let begins_with_star = text.starts_with(['*', '?']);
        Field {
            text,
            values,
            is_star,
            begins_with_star,
        }
    };
    prop_oneof![
        3 => Just(new("*".into(), stepped(min, max, 1), true)),
        1 => Just(new("?".into(), stepped(min, max, 1), true)),
        1 => (1..=30i8).prop_map(move |step| new(format!("*/{step}"), stepped(min, max, step), step == 1)),
        3 => (min..=max).prop_map(move |value| new(value.to_string(), BTreeSet::from([value]), false)),
        1 => (min..=max, 1..=30i8)
            .prop_map(move |(value, step)| new(format!("{value}/{step}"), stepped(value, max, step), false)),
        2 => prop::collection::btree_set(min..=max, 1..5).prop_map(move |values| {
            let text = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            new(text, values, false)
        }),
        2 => (min..=max, min..=max, 1..=5i8).prop_map(move |(a, b, step)| {
            let (first, last) = (a.min(b), a.max(b));
            new(format!("{first}-{last}/{step}"), stepped(first, last, step), false)
        }),
    ]
}

#[derive(Clone)]
struct Expression {
    minute: Field,
    hour: Field,
    day_of_month: Field,
    month: Field,
    day_of_week: Field,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl Expression {
    fn text(&self) -> String {
        let fields = [
            &self.minute,
            &self.hour,
            &self.day_of_month,
            &self.month,
            &self.day_of_week,
        ];
        fields.map(|field| field.text.as_str()).join(" ")
    }

    fn is_fixed_time(&self) -> bool {
        !self.minute.begins_with_star && !self.hour.begins_with_star
    }

    fn matches(&self, wall: DateTime) -> bool {
        let day_of_month = self.day_of_month.values.contains(&wall.day());
        let day_of_week = self
            .day_of_week
            .values
            .contains(&wall.weekday().to_sunday_zero_offset());
        let either = !self.day_of_month.is_star && !self.day_of_week.is_star;
        let day = if either {
            day_of_month || day_of_week
        } else {
            day_of_month && day_of_week
        };
        day && self.minute.values.contains(&wall.minute())
            && self.hour.values.contains(&wall.hour())
            && self.month.values.contains(&wall.month())
    }
}

/// An hour of the night, when most clocks change.
fn night_hour() -> impl Strategy<Value = Field> {
    (0..5i8).prop_map(|hour| Field {
        text: hour.to_string(),
        values: BTreeSet::from([hour]),
        is_star: false,
        begins_with_star: false,
    })
}

/// Days are mostly unrestricted, so that there is something around the change.
fn expression() -> impl Strategy<Value = Expression> {
    let any_day = |min, max| prop_oneof![4 => field(min, max).prop_filter("a star", |field| field.is_star), 1 => field(min, max)];
    (
        field(0, 59),
        prop_oneof![field(0, 23), night_hour()],
        any_day(1, 31),
        any_day(1, 12),
        any_day(0, 6),
    )
        .prop_map(
            |(minute, hour, day_of_month, month, day_of_week)| Expression {
                minute,
                hour,
                day_of_month,
                month,
                day_of_week,
            },
        )
}

/// A zone and an instant within 30 hours of one of its clock changes, if it has any in that year.
fn zone_and_instant() -> impl Strategy<Value = (TimeZone, Timestamp)> {
    (
        prop::sample::select(&ZONES[..]),
        1990..2037i16,
        0..4usize,
        -108_000..108_000i64,
    )
        .prop_map(|(zone, year, nth, seconds)| {
            let zone = time_zone(zone).unwrap();
            let new_year = jiff::civil::date(year, 1, 1)
                .to_zoned(TimeZone::UTC)
                .unwrap()
                .timestamp();
            let change = zone
                .following(new_year)
                .nth(nth)
                .map_or(new_year, |change| change.timestamp());
            (zone, change + seconds.seconds())
        })
}

/// Walks from minute to minute. A fixed time runs at the first instant at which the clock shows it or something later;
/// anything else whenever the clock shows it.
fn model(
    expression: &Expression,
    zone: &TimeZone,
    from: Timestamp,
    until: Timestamp,
) -> Vec<Timestamp> {
    let minute = Span::new().minutes(1);
    // Further back than any clock ever went.
    let mut now =
        Timestamp::from_second((from.as_second().div_euclid(60) - 2 * 24 * 60) * 60).unwrap();
    let mut latest_shown = zone.to_datetime(now);
    let mut fires = Vec::new();
    while now < until {
        now += minute;
        let shown = zone.to_datetime(now);
        let mut due = false;
        if expression.is_fixed_time() {
            while latest_shown < shown {
                latest_shown += minute;
                due |= expression.matches(latest_shown);
            }
        } else {
            due = expression.matches(shown);
        }
        if due && now > from && now <= until {
            fires.push(now);
        }
    }
    fires
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_run_is_lost_or_doubled_by_a_clock_change(expression in expression(), (zone, from) in zone_and_instant()) {
        let until = from + 60.hours();
        let schedule = Schedule::parse(&expression.text(), &zone).unwrap();
        let found: Vec<_> = schedule.fires_after(from).take_while(|at| *at <= until).collect();
        let wanted = model(&expression, &zone, from, until);
        let differs = (0..found.len().max(wanted.len())).find(|index| found.get(*index) != wanted.get(*index));
        let shown = differs.map(|index| (found.get(index), wanted.get(index)));
        prop_assert!(differs.is_none(), "found and wanted: {shown:?}");
    }

    #[test]
    fn the_next_fire_time_is_the_same_from_anywhere_before_it(
        expression in expression(),
        (zone, from) in zone_and_instant(),
        share in 0..1000i64,
    ) {
        let schedule = Schedule::parse(&expression.text(), &zone).unwrap();
        if let Some(next) = schedule.next_after(from) {
            prop_assert!(next > from);
            let between = from + ((next.as_second() - from.as_second()) * share / 1000).seconds();
            prop_assert_eq!(schedule.next_after(between), Some(next));
            let following = schedule.next_after(next);
            prop_assert!(following.is_none_or(|following| following > next));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "((CRON_)?TZ=)?[-0-9*/,?+@a-zA-Z _]{0,40}", zone in prop::sample::select(&ZONES[..])) {
        if let Ok(schedule) = Schedule::parse(&text, &time_zone(zone).unwrap()) {
            let from = Timestamp::from_second(1_774_733_417).unwrap();
            prop_assert!(schedule.next_after(from).is_none_or(|next| next > from));
        }
    }

    #[test]
    fn an_interval_keeps_its_distance(seconds in 1..100_000i64, from in 0..4_000_000_000i64, zone in prop::sample::select(&ZONES[..])) {
        let schedule = Schedule::parse(&format!("@every {seconds}s"), &time_zone(zone).unwrap()).unwrap();
        let from = Timestamp::from_second(from).unwrap();
        prop_assert_eq!(schedule.next_after(from), Some(from + seconds.seconds()));
    }
}

#[test]
fn a_schedule_ends_where_time_does() {
    let schedule = Schedule::parse("0 0 29 2 *", &TimeZone::UTC).unwrap();
    assert_eq!(
        schedule.next_after("9998-01-01T00:00:00Z".parse().unwrap()),
        None
    );
    let schedule = Schedule::parse("@every 1h", &TimeZone::UTC).unwrap();
    assert_eq!(schedule.next_after(Timestamp::MAX), None);
    // 2100 is no leap year, so that eight years pass.
    let schedule = Schedule::parse("0 0 29 2 *", &TimeZone::UTC).unwrap();
    assert_eq!(
        schedule.next_after("2096-03-01T00:00:00Z".parse().unwrap()),
        None
    );
}

#[test]
fn time_zones_are_those_of_the_database_spelled_as_there() {
    assert_eq!(time_zone("").unwrap(), TimeZone::UTC);
    let all: Vec<_> = TimeZoneDatabase::bundled()
        .available()
        .map(|name| name.to_string())
        .collect();
    assert!(all.len() > 500, "{}", all.len());
    let refused: Vec<_> = all.iter().filter(|name| time_zone(name).is_err()).collect();
    assert_eq!(refused, [""; 0]);
    for older in [
        "US/Eastern",
        "GMT",
        "Etc/UTC",
        "Asia/Calcutta",
        "Europe/Kiev",
        "CET",
        "EST5EDT",
    ] {
        assert!(time_zone(older).is_ok(), "{older}");
    }
    for unknown in [
        "europe/zurich",
        "Mars/Olympus",
        "CEST",
        "Local",
        "../Europe/Zurich",
        "Etc/Unknown",
    ] {
        assert!(time_zone(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn a_prefix_overrides_the_zone() {
    let zurich = time_zone("Europe/Zurich").unwrap();
    for (expression, zone) in [
        ("CRON_TZ=UTC @daily", "UTC"),
        ("TZ= @daily", "UTC"),
        ("TZ=Asia/Tokyo   0 0 * * *", "Asia/Tokyo"),
        ("TZ=Local 0 0 * * *", "Europe/Zurich"),
        ("0 0 * * *", "Europe/Zurich"),
    ] {
        assert_eq!(
            Schedule::parse(expression, &zurich).unwrap().zone(),
            &time_zone(zone).unwrap(),
            "{expression}"
        );
    }
    for refused in [
        "TZ=UTC",
        "CRON_TZ=UTC ",
        "tz=UTC @daily",
        " @daily",
        "@daily ",
        "@Daily",
        "@every  1h",
        "@every -1h",
        "@every",
    ] {
        assert!(Schedule::parse(refused, &zurich).is_err(), "{refused:?}");
    }
}
