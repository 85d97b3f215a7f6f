//! What the Go original did wrong and must not come back, and the test that holds each of it. Two of them are here,
//! because nothing else tests them as one sentence.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use controller::config::{self, EnvironmentDefaults};
use controller::core::schedule::{Schedule, time_zone};
use jiff::tz::TimeZone;

/// A defect of the original, the file of the test that would show it again, and the test.
const DEFECTS: [(&str, &str, &str); 14] = [
    (
        "job pods reported to the address of a controller's pod that was gone",
        "runtime.rs",
        "job_pods_call_the_service_not_this_controllers_pod",
    ),
    (
        "@weekly lost a week",
        "original_defects.rs",
        "a_weekly_schedule_loses_no_week",
    ),
    (
        "a restart killed the execution in progress",
        "recovery.rs",
        "a_restarted_controller_finishes_the_execution_with_every_node_once",
    ),
    (
        "a pool of 0 hung, a negative one crashed",
        "original_defects.rs",
        "a_pool_without_a_slot_is_refused",
    ),
    (
        "polling once a second cost half of the ideal makespan",
        "runtime.rs",
        "the_pool_is_refilled_the_moment_a_pod_ends_and_never_overfull",
    ),
    (
        "pods of nodes with one host name collided",
        "runtime.rs",
        "nodes_that_share_a_host_name_get_pods_of_their_own",
    ),
    (
        "a pod that existed already hung its slot for ever",
        "runtime.rs",
        "a_pod_of_ours_that_already_exists_counts_as_created",
    ),
    (
        "the history deleted foreign files, by their age",
        "runtime.rs",
        "the_history_is_pruned_by_id_and_foreign_files_are_left_alone",
    ),
    (
        "a report was taken for any node of any execution",
        "callback_api.rs",
        "a_node_of_one_execution_is_not_admitted_in_another",
    ),
    (
        "a file b.json of node a took the place of the result of node a-b",
        "callback_api.rs",
        "a_file_never_takes_another_nodes_name_whichever_came_first",
    ),
    (
        "pruning an execution took the newest results of its nodes with it",
        "runtime.rs",
        "latest_survives_the_pruning_of_its_execution_while_the_node_is_in_a_kept_list",
    ),
    (
        "results were lost with a restart",
        "recovery.rs",
        "the_gauges_of_kept_executions_come_back_and_their_pods_may_still_post",
    ),
    (
        "replicas that stood by listened on no port, and were restarted for it",
        "replicas.rs",
        "one_leads_and_the_other_stands_by_as_healthy_and_names_it",
    ),
    (
        "older values of leaderElectionResourceLock crashed",
        "config_validation.rs",
        "older_resource_locks_are_warnings",
    ),
];

#[test]
fn each_defect_of_the_original_has_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (defect, file, test) in DEFECTS {
        let source = std::fs::read_to_string(tests.join(file)).unwrap();
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        let is_it = |line: &str| {
            let name = line.strip_prefix("async ").unwrap_or(line);
            let name = name
                .strip_prefix("fn ")
                .and_then(|rest| rest.strip_prefix(test));
            name.is_some_and(|rest| rest.starts_with('('))
        };
        let at = lines.iter().position(|line| is_it(line));
        let at = at.unwrap_or_else(|| panic!("{defect}: no {test} in {file}"));
        let above = &lines[at.saturating_sub(3)..at];
        let is_run = above
            .iter()
            .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
        assert!(is_run, "{defect}: {test} is not run as a test");
    }
}

#[test]
fn a_weekly_schedule_loses_no_week() {
    let berlin = time_zone("Europe/Berlin").unwrap();
    for (expression, zone) in [
        ("@weekly", TimeZone::UTC),
        ("@weekly", berlin.clone()),
        ("0 0 * * 0", berlin),
    ] {
        let schedule = Schedule::parse(expression, &zone).unwrap();
        let mut last = "2026-01-01T10:30:00Z".parse().unwrap();
        let mut sundays = Vec::new();
        for due in schedule.fires_after(last).take(110) {
            sundays.push(zone.to_datetime(due));
            // Asked at any moment of the week, and at the tick itself, the next one is the same.
            assert_eq!(schedule.next_after(last), Some(due));
            last = due;
        }
        let first = jiff::civil::date(2026, 1, 4).at(0, 0, 0, 0);
        for (week, sunday) in (0_i64..).zip(sundays) {
            assert_eq!(
                sunday,
                first + jiff::Span::new().weeks(week),
                "{expression}"
            );
        }
    }
}

#[test]
fn a_pool_without_a_slot_is_refused() {
    for pool in ["0", "-1", "0%", "\"0%\""] {
        let yaml = format!("name: a\ncronExpression: '@daily'\npodPoolSize: {pool}\n");
        let refused = config::parse(&yaml, &EnvironmentDefaults::default()).unwrap_err();
        assert_eq!(refused.0[0].key, "podPoolSize", "{pool}");
    }
}
