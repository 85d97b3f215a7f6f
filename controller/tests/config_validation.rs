//! What `config.yaml` may hold: what every key refuses, how it says so, and what the files of the original's users rely
//! on.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use controller::config::{
    self, CallbackAuth, Config, EnvironmentDefaults, MaxFailures, NodeOperator, PoolSize, Report,
    UntoleratedTaints,
};
use controller::core::schedule;
use serde_json::json;

const REQUIRED: &str = "name: audit\ncronExpression: 42 3 * * *\n";

fn check(yaml: &str) -> Report {
    config::check(yaml, &EnvironmentDefaults::default())
}

/// Checks a file that has `yaml` and what is required besides.
fn check_with_required(yaml: &str) -> Report {
    let required = REQUIRED.lines().filter(|line| {
        let key = line.split(':').next().unwrap();
        !yaml
            .lines()
            .any(|line| line.starts_with(&format!("{key}:")))
    });
    check(&format!(
        "{}\n{yaml}",
        required.collect::<Vec<_>>().join("\n")
    ))
}

fn parsed(yaml: &str) -> Config {
    let report = check_with_required(yaml);
    assert_eq!(report.errors, [], "{yaml}");
    report.config.unwrap()
}

fn warnings(yaml: &str) -> Vec<String> {
    let report = check_with_required(yaml);
    assert_eq!(report.errors, [], "{yaml}");
    report.warnings.iter().map(ToString::to_string).collect()
}

fn errors(yaml: &str) -> Vec<String> {
    check_with_required(yaml)
        .errors
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn whatever_a_key_or_a_value_is_it_is_told_in_one_line() {
    for (yaml, line) in [
        ("\"\": 1", "\"\": unknown key, ignored"),
        ("metrics: {\"\": 1}", "metrics.\"\": unknown key, ignored"),
        ("\"a\\nb\": 1", "a\u{fffd}b: unknown key, ignored"),
    ] {
        let warnings = warnings(yaml);
        assert!(warnings[0].starts_with(line), "{warnings:?}");
    }
    let errors = errors("metrics: {gauges: {\"a\\u0085\": \"b\\u0085\"}}");
    assert!(
        errors[0].starts_with("metrics.gauges.a\u{fffd}"),
        "{errors:?}"
    );
    assert!(!errors.concat().contains(char::is_control), "{errors:?}");
}

/// One key of the table: a file with a value of the wrong type, one with a value out of range (none where any value of
/// the type is right), the key that the error names, and what both must say is wanted.
struct Case {
    key: &'static str,
    wrong_type: &'static str,
    out_of_range: Option<&'static str>,
    wanted: &'static str,
}

const fn case(
    key: &'static str,
    wrong_type: &'static str,
    out_of_range: &'static str,
    wanted: &'static str,
) -> Case {
    Case {
        key,
        wrong_type,
        out_of_range: Some(out_of_range),
        wanted,
    }
}

const fn any_value(key: &'static str, wrong_type: &'static str, wanted: &'static str) -> Case {
    Case {
        key,
        wrong_type,
        out_of_range: None,
        wanted,
    }
}

const CASES: &[Case] = &[
    case("name", "[a]", "Not-A-Label", "a DNS label"),
    case("jobServiceAccount", "5", "Not_A_Name", "an object's name"),
    case(
        "jobImagePullSecrets",
        "registry",
        "{a: b}",
        "a list of {name: …}",
    ),
    case("imagePullSecrets", "5", "{a: b}", "a list of {name: …}"),
    any_value(
        "jobNodeSelector",
        "[a]",
        "a mapping of label keys to values",
    ),
    any_value("runOnUnscheduledNodes", "\"true\"", "true or false"),
    any_value(
        "jobNodeExpressions",
        "{}",
        "a list of {key, operator, values}",
    ),
    case("untoleratedTaints", "5", "walk", "run or skip"),
    case(
        "cronExpression",
        "5",
        "60 * * * *",
        "a cron expression of five fields",
    ),
    case(
        "timeZone",
        "5",
        "Mars/Olympus",
        "a time zone of the IANA database",
    ),
    any_value("runOnStartup", "1", "true or false"),
    case("startupDelay", "soon", "-1s", "a duration of at least 0"),
    case(
        "podPoolSize",
        "ten",
        "0",
        "an integer of at least 1 or a percentage",
    ),
    case("reportDirectory", "5", "\"\"", "a path"),
    case("reportHistory", "many", "0", "an integer of at least 1"),
    case(
        "callbackServiceName",
        "5",
        "1-begins-with-a-digit",
        "a Service's name",
    ),
    case(
        "callbackServicePort",
        "http",
        "65536",
        "a port, an integer from 1 to 65535",
    ),
    case(
        "healthProbePort",
        "\"9152\"",
        "0",
        "a port, an integer from 1 to 65535",
    ),
    case(
        "fileServerPort",
        "true",
        "-1",
        "a port, an integer from 1 to 65535",
    ),
    any_value("latestMetricsLabel", "\"yes\"", "true or false"),
    any_value("savePodLog", "[]", "true or false"),
    any_value("custom", "text", "a mapping"),
    case("leaderElectionResourceLock", "5", "mutex", "leases"),
    case("concurrencyPolicy", "true", "Allow", "Forbid or Replace"),
    any_value("suspend", "0", "true or false"),
    case(
        "startingDeadlineSeconds",
        "1m",
        "-1",
        "an integer of at least 0, in seconds",
    ),
    case("podStartDeadline", "true", "0", "a duration of more than 0"),
    case("podRunDeadline", "[1s]", "0s", "a duration of more than 0"),
    case("nodeLostTimeout", "{}", "-5m", "a duration of at least 0"),
    case(
        "executionDeadline",
        "1 hour",
        "-1",
        "a duration of more than 0",
    ),
    case("retries", "twice", "-1", "an integer of at least 0"),
    case(
        "maxFailures",
        "some",
        "101%",
        "an integer of at least 0 or a percentage",
    ),
    case("failurePolicy", "[]", "Stop", "Continue or FailFast"),
    case("endedPods", "1.5", "-1", "an integer of at least 0"),
    case(
        "callbackAuth",
        "true",
        "maybe",
        "permissive, required or off",
    ),
    case("reportQuota", "much", "0", "a size of at least 1 byte"),
    case(
        "callbackHoldTimeout",
        "true",
        "-30s",
        "a duration of at least 0",
    ),
    case("reportDurability", "true", "sync", "fsync or none"),
    any_value("metrics", "5", "a mapping"),
    any_value("leaderElection", "15s", "a mapping"),
    any_value("callbackBodyLimit", "1Gi", "a mapping"),
];

/// Keys of the nested mappings.
const NESTED: &[(&str, &[Case])] = &[
    (
        "metrics",
        &[
            case(
                "port",
                "http",
                "70000",
                "a port, an integer from 1 to 65535",
            ),
            case(
                "prefix",
                "5",
                "not-a-metric",
                "the beginning of a Prometheus metric name",
            ),
            case("history", "all", "0", "an integer of at least 1"),
            any_value(
                "gauges",
                "[test]",
                "a mapping of gauge names to {help, labels}",
            ),
        ],
    ),
    (
        "leaderElection",
        &[
            case(
                "leaseDuration",
                "true",
                "0",
                "a duration of whole seconds, at least 1s",
            ),
            case("renewDeadline", "soon", "-1s", "a duration of more than 0"),
            case("retryPeriod", "[]", "0s", "a duration of more than 0"),
        ],
    ),
    (
        "callbackBodyLimit",
        &[
            case("file", "big", "0", "a size of at least 1 byte"),
            case("result", "true", "-1Mi", "a size of at least 1 byte"),
            case("event", "[]", "0Ki", "a size of at least 1 byte"),
        ],
    ),
];

/// A file in which every key has the value that `pick` chooses, and the lines that must come of it.
fn file_of_wrong_values(
    pick: impl Fn(&Case) -> Option<&'static str>,
) -> (String, Vec<(String, &'static str)>) {
    let mut yaml = String::new();
    let mut wanted = Vec::new();
    for case in CASES {
        if NESTED.iter().any(|(section, _)| *section == case.key) {
            continue;
        }
        let Some(value) = pick(case) else { continue };
        writeln!(yaml, "{}: {value}", case.key).unwrap();
        wanted.push((case.key.to_owned(), case.wanted));
    }
    for (section, cases) in NESTED {
        writeln!(yaml, "{section}:").unwrap();
        for case in *cases {
            let Some(value) = pick(case) else { continue };
            writeln!(yaml, "  {}: {value}", case.key).unwrap();
            wanted.push((format!("{section}.{}", case.key), case.wanted));
        }
    }
    (yaml, wanted)
}

/// Each wanted key must be named by exactly one line that says what was found and what is wanted, and no other line be
/// there.
fn assert_one_line_each(yaml: &str, wanted: &[(String, &str)]) {
    let lines = errors(yaml);
    for (key, wanted) in wanted {
        let about: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with(&format!("{key}: found ")))
            .collect();
        assert_eq!(about.len(), 1, "{key}: {about:?} of {lines:#?}");
        assert!(
            about[0].contains(&format!(", want {wanted}")),
            "{} should want {wanted}",
            about[0]
        );
        assert!(!about[0].contains('\n'));
    }
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
}

#[test]
fn every_key_of_the_wrong_type_is_one_line_in_one_run() {
    let (yaml, wanted) = file_of_wrong_values(|case| Some(case.wrong_type));
    assert_one_line_each(&yaml, &wanted);
}

#[test]
fn every_value_out_of_range_is_one_line_in_one_run() {
    let (yaml, wanted) = file_of_wrong_values(|case| case.out_of_range);
    assert_one_line_each(&yaml, &wanted);
}

#[test]
fn each_wrong_value_alone_is_one_line_as_well() {
    for case in CASES {
        for value in std::iter::once(case.wrong_type).chain(case.out_of_range) {
            assert_one_line_each(
                &format!("{}: {value}", case.key),
                &[(case.key.to_owned(), case.wanted)],
            );
        }
    }
    for (section, cases) in NESTED {
        for case in *cases {
            for value in std::iter::once(case.wrong_type).chain(case.out_of_range) {
                let yaml = format!("{section}:\n  {}: {value}", case.key);
                assert_one_line_each(&yaml, &[(format!("{section}.{}", case.key), case.wanted)]);
            }
        }
    }
}

#[test]
fn an_error_shows_what_was_found() {
    for (yaml, line) in [
        (
            "podPoolSize: ten",
            "podPoolSize: found \"ten\", want an integer of at least 1 or a percentage from 1% to 100%, such as \"10%\"",
        ),
        (
            "reportHistory: -3",
            "reportHistory: found -3, want an integer of at least 1",
        ),
        (
            "retries: 1.5",
            "retries: found 1.5, want an integer of at least 0",
        ),
        (
            "savePodLog: {a: [1, x]}",
            "savePodLog: found {\"a\":[1,\"x\"]}, want true or false",
        ),
        (
            "metrics: {gauges: {test: {labels: [ok, not-ok]}}}",
            "metrics.gauges.test.labels[1]: found \"not-ok\", want a Prometheus label name: letters, digits and _, no digit first, not beginning with __",
        ),
        (
            "cronExpression: 60 * * * *",
            "cronExpression: found \"60 * * * *\", want a cron expression of five fields such as \"42 3 * * *\", or @daily, or @every 1h30m: minute: \"60\" is not within 0-59",
        ),
        (
            "cronExpression: CRON_TZ=Mars/Olympus 0 0 * * *",
            "cronExpression: found \"CRON_TZ=Mars/Olympus 0 0 * * *\", want a cron expression of five fields such as \"42 3 * * *\", or @daily, or @every 1h30m: unknown time zone \"Mars/Olympus\", expected a name of the IANA database such as Europe/Zurich or UTC",
        ),
    ] {
        assert_eq!(errors(yaml), [line]);
    }
}

#[test]
fn missing_required_keys_are_errors() {
    let lines: Vec<_> = check("podPoolSize: 3")
        .errors
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("name: found nothing, want a DNS label"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("cronExpression: found nothing, want a cron expression"),
        "{lines:?}"
    );
    assert_eq!(check("name: null\ncronExpression: ~").errors.len(), 2);
}

#[test]
fn what_is_no_mapping_at_all_is_one_error() {
    for (yaml, found) in [
        ("", "nothing"),
        ("# nothing\n", "nothing"),
        ("foo", "\"foo\""),
        ("[a, b]", "[\"a\",\"b\"]"),
        ("5", "5"),
    ] {
        let report = check(yaml);
        assert_eq!(
            report.to_string(),
            format!("error: config.yaml: found {found}, want a mapping of keys to values\n")
        );
    }
}

#[test]
fn a_syntax_error_tells_line_and_column_on_one_line() {
    let report = check("name: audit\ncustom: [1, 2\nother: 3\n");
    assert_eq!(report.errors.len(), 1);
    let line = report.errors[0].to_string();
    assert!(
        line.starts_with("config.yaml: found ") && line.contains("line 3"),
        "{line}"
    );
    assert!(!line.contains('\n'), "{line}");
}

#[test]
fn an_empty_file_but_for_what_is_required_has_the_defaults() {
    let config = parsed("");
    assert_eq!(config.name, "audit");
    assert_eq!(config.job_service_account, None);
    assert_eq!(config.job_image_pull_secrets, []);
    assert!(config.job_node_selector.is_empty());
    assert!(!config.run_on_unscheduled_nodes && !config.run_on_startup && !config.suspend);
    assert!(!config.latest_metrics_label && !config.save_pod_log);
    assert_eq!(config.time_zone, "UTC");
    assert_eq!(config.startup_delay, Duration::from_secs(10));
    assert_eq!(
        config.pod_pool_size,
        PoolSize::Count(NonZeroU32::new(10).unwrap())
    );
    assert_eq!(config.report_directory, PathBuf::from("/var/www"));
    assert_eq!(
        (config.report_history.get(), config.metrics.history),
        (30, 30)
    );
    let ports = (
        config.callback_service_port,
        config.health_probe_port,
        config.metrics.port,
        config.file_server_port,
    );
    assert_eq!(ports, (8090, 9152, 9153, 8080));
    assert_eq!(config.metrics.prefix, "audit");
    assert_eq!(config.custom, json!({}));
    assert_eq!(
        config.leader_election.lease_duration,
        Duration::from_secs(15)
    );
    assert_eq!(config.pod_start_deadline, Duration::from_mins(10));
    assert_eq!(
        (
            config.pod_run_deadline,
            config.execution_deadline,
            config.starting_deadline
        ),
        (None, None, None)
    );
    assert_eq!(config.node_lost_timeout, Duration::from_mins(5));
    assert_eq!(
        (config.retries, config.max_failures, config.ended_pods),
        (0, None, 1000)
    );
    let limit = config.callback_body_limit;
    assert_eq!(
        (limit.file_bytes, limit.result_bytes, limit.event_bytes),
        (1 << 30, 1 << 20, 16 << 10)
    );
    assert_eq!(
        (config.report_quota_bytes, config.callback_hold_timeout),
        (None, Duration::from_secs(30))
    );
    assert_eq!(warnings(""), [""; 0]);
}

#[test]
fn null_is_as_good_as_absent() {
    let nulls = CASES.iter().filter(|case| !REQUIRED.contains(case.key));
    let nulls: Vec<_> = nulls.map(|case| format!("{}: null", case.key)).collect();
    let yaml = nulls.join("\n");
    assert_eq!(parsed(&yaml), parsed(""));
    assert_eq!(warnings(&yaml), [""; 0]);
}

#[test]
fn the_sample_of_the_original_is_valid_without_a_warning() {
    let report = check(
        r#"
name:  example-job-controller
jobServiceAccount: ""
jobImagePullSecrets: {}
jobNodeSelector: {}
cronExpression: "* * * * *"
reportHistory: 10
podPoolSize: 10
runOnStartup: false
callbackServiceName: example-job-controller
reportDirectory: "/var/www"
callbackServicePort: 8090
latestMetricsLabel: false
metrics:
  prefix: example_job_controller
  gauges:
    my_metric:
      help: "describe my metric"
      labels:
        - label_a
        - label_b
"#,
    );
    assert_eq!(report.to_string(), "");
    let config = report.config.unwrap();
    assert_eq!(config.job_image_pull_secrets, []);
    assert_eq!(
        config.metrics.gauges["my_metric"].labels,
        ["label_a", "label_b"]
    );
}

#[test]
fn what_a_yaml_1_1_reader_took_is_taken() {
    assert!(parsed("runOnStartup: yes").run_on_startup);
    assert!(!parsed("runOnStartup: Off").run_on_startup);
    assert_eq!(parsed("reportHistory: 10.0").report_history.get(), 10);
    assert_eq!(parsed("reportHistory: 010").report_history.get(), 8);
    assert_eq!(
        parsed("startupDelay: 5000000000").startup_delay,
        Duration::from_secs(5)
    );
    assert_eq!(
        parsed("startupDelay: 1.5h").startup_delay,
        Duration::from_mins(90)
    );
    let selector = parsed("jobNodeSelector: {batch: true, zone: 1, empty: }").job_node_selector;
    assert_eq!(
        selector.into_iter().collect::<Vec<_>>(),
        [
            ("batch".into(), "true".into()),
            ("empty".into(), String::new()),
            ("zone".into(), "1".into())
        ]
    );
    assert_eq!(parsed("&x a: 1\ncustom: {k: *x}").custom, json!({"k": "a"}));
    let json =
        check("{\"custom\": {\"k\": 1}, \"name\": \"audit\", \"cronExpression\": \"@daily\"}");
    assert_eq!(json.config.unwrap().custom, json!({"k": 1}));
}

#[test]
fn a_key_in_another_case_is_taken_with_a_warning() {
    assert_eq!(
        parsed("podpoolsize: 3").pod_pool_size,
        PoolSize::Count(NonZeroU32::new(3).unwrap())
    );
    assert_eq!(
        warnings("podpoolsize: 3"),
        ["podpoolsize: taken for podPoolSize; spell it so"]
    );
    assert_eq!(
        warnings("metrics: {Port: 9000}"),
        ["metrics.Port: taken for metrics.port; spell it so"]
    );
    // The exact spelling comes first.
    let both = "podpoolsize: 3\npodPoolSize: 4";
    assert_eq!(
        parsed(both).pod_pool_size,
        PoolSize::Count(NonZeroU32::new(4).unwrap())
    );
    assert_eq!(
        warnings(both),
        ["podpoolsize: unknown key, ignored; the nearest known key is podPoolSize"]
    );
}

#[test]
fn a_key_given_twice_and_a_second_document_are_warnings() {
    let twice = "reportHistory: 1\nreportHistory: 2";
    assert_eq!(parsed(twice).report_history.get(), 2);
    let lines = warnings(twice);
    assert!(
        lines.len() == 1
            && lines[0].starts_with("config.yaml: ")
            && lines[0].contains("reportHistory"),
        "{lines:?}"
    );
    let second_document = "reportHistory: 1\n---\nreportHistory: 2";
    assert_eq!(parsed(second_document).report_history.get(), 1);
    assert_eq!(
        warnings(second_document),
        ["config.yaml: only the first YAML document is read"]
    );
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_key() {
    for (yaml, line) in [
        (
            "reportHistroy: 5",
            "reportHistroy: unknown key, ignored; the nearest known key is reportHistory",
        ),
        (
            "prefix: a",
            "prefix: unknown key, ignored; the nearest known key is metrics.prefix",
        ),
        (
            "leaderElection: {leaseDurations: 5s}",
            "leaderElection.leaseDurations: unknown key, ignored; the nearest known key is leaderElection.leaseDuration",
        ),
        (
            "callbackBodyLimit: {files: 5}",
            "callbackBodyLimit.files: unknown key, ignored; the nearest known key is callbackBodyLimit.file",
        ),
        (
            "metrics: {gauges: {a: {label: [b]}}}",
            "metrics.gauges.a.label: unknown key, ignored; the nearest known key is metrics.gauges.a.labels",
        ),
        (
            "jobImagePullSecrets: [{name: a, nam: b}]",
            "jobImagePullSecrets[0].nam: unknown key, ignored; the nearest known key is jobImagePullSecrets[0].name",
        ),
    ] {
        assert_eq!(warnings(yaml), [line]);
    }
}

#[test]
fn what_has_an_effect_warns_of_nothing() {
    for effective in [
        "callbackBodyLimit: {file: 1Mi}",
        "callbackAuth: required",
        "reportQuota: 1Gi",
        "callbackHoldTimeout: 0",
        "leaderElection: {leaseDuration: 20s, renewDeadline: 9s, retryPeriod: 1s}",
        "metrics: {history: 3}",
        "savePodLog: true",
        "custom: {a: b}",
        "latestMetricsLabel: true",
    ] {
        assert_eq!(warnings(effective), [""; 0], "{effective}");
    }
}

#[test]
fn the_environment_gives_the_time_zone_and_overrides_the_directory() {
    let environment = EnvironmentDefaults {
        time_zone: Some("Europe/Zurich".into()),
        report_directory: Some("/reports".into()),
    };
    let (config, _) = config::parse(
        &format!("{REQUIRED}reportDirectory: /elsewhere"),
        &environment,
    )
    .unwrap();
    assert_eq!(config.report_directory, PathBuf::from("/reports"));
    assert_eq!(config.time_zone, "Europe/Zurich");
    assert_eq!(
        config.schedule.zone(),
        &schedule::time_zone("Europe/Zurich").unwrap()
    );
    let (config, _) =
        config::parse(&format!("{REQUIRED}timeZone: Asia/Tokyo"), &environment).unwrap();
    assert_eq!(config.time_zone, "Asia/Tokyo");

    let unknown = EnvironmentDefaults {
        time_zone: Some("Mars".into()),
        report_directory: Some(PathBuf::new()),
    };
    let errors = config::parse(REQUIRED, &unknown).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "timeZone: found \"Mars\" (from the environment variable TZ), want a time zone of the IANA database, such as Europe/Zurich or UTC"
    );
    let empty = EnvironmentDefaults {
        time_zone: Some(String::new()),
        report_directory: Some(PathBuf::new()),
    };
    let (config, _) = config::parse(REQUIRED, &empty).unwrap();
    assert_eq!(
        (config.time_zone.as_str(), config.report_directory),
        ("UTC", PathBuf::from("/var/www"))
    );
}

#[test]
fn ports_must_differ() {
    assert_eq!(
        errors("healthProbePort: 8090\nmetrics: {port: 8080}"),
        [
            "healthProbePort: found 8090, want a port of its own, callbackServicePort has this one",
            "fileServerPort: found 8080, want a port of its own, metrics.port has this one",
        ]
    );
    // A wrong port is not compared as well.
    assert_eq!(
        errors("healthProbePort: 8090\ncallbackServicePort: 0").len(),
        1
    );
}

#[test]
fn the_lease_must_outlast_the_renewal_and_the_renewal_its_tries() {
    assert_eq!(
        errors("leaderElection: {leaseDuration: 10s}"),
        [
            "leaderElection.renewDeadline: found 10s, want at least 1s less than leaseDuration, which is 10s"
        ]
    );
    assert_eq!(
        errors("leaderElection: {retryPeriod: 9s}"),
        [
            "leaderElection.retryPeriod: found 9s, want less than renewDeadline / 1.2, which is 8.333333333s"
        ]
    );
    assert_eq!(
        errors("leaderElection: {leaseDuration: 3s, renewDeadline: 2s, retryPeriod: 500ms}"),
        [""; 0]
    );
    assert_eq!(errors("leaderElection: {leaseDuration: 1500ms}").len(), 1);
}

#[test]
fn gauges_must_be_exportable() {
    for (gauges, key) in [
        ("processing: {}", "metrics.gauges.processing"),
        ("duration: {}", "metrics.gauges.duration"),
        ("pods: {}", "metrics.gauges.pods"),
        (
            "current_execution_id: {}",
            "metrics.gauges.current_execution_id",
        ),
        ("with-hyphen: {}", "metrics.gauges.with-hyphen"),
        ("\"\": {}", "metrics.gauges.\"\""),
        ("a: [b]", "metrics.gauges.a"),
        ("a: {help: 5}", "metrics.gauges.a.help"),
        ("a: {labels: b}", "metrics.gauges.a.labels"),
        ("a: {labels: [__b]}", "metrics.gauges.a.labels[0]"),
        ("a: {labels: [1b]}", "metrics.gauges.a.labels[0]"),
        ("a: {labels: ['b:c']}", "metrics.gauges.a.labels[0]"),
        ("a: {labels: [b, c, b]}", "metrics.gauges.a.labels[2]"),
        ("a: {labels: [5]}", "metrics.gauges.a.labels[0]"),
    ] {
        let lines = errors(&format!("metrics: {{gauges: {{{gauges}}}}}"));
        assert_eq!(lines.len(), 1, "{gauges}: {lines:?}");
        assert!(
            lines[0].starts_with(&format!("{key}: found ")),
            "{}",
            lines[0]
        );
    }
    let config = parsed("metrics: {gauges: {4xx: {labels: [node, executionID, a]}, plain: }}");
    assert_eq!(
        config.metrics.gauges["4xx"].labels,
        ["node", "executionID", "a"]
    );
    assert!(config.metrics.gauges["plain"].labels.is_empty());
    let version_metric = "metrics: {prefix: com_github_bakito, gauges: {batch_job_controller: {}}}";
    assert!(errors(version_metric)[0].starts_with("metrics.gauges.batch_job_controller: found "));
    assert_eq!(
        errors("name: batch-job-controller\nmetrics: {gauges: {nodes: {}, disk_free: {}}}"),
        [
            "metrics.gauges.nodes: found the name \"nodes\", want another name: batch_job_controller_nodes is exported by the \
             controller itself"
        ]
    );
    let nameless = errors("name: 'Not A Name'\nmetrics: {gauges: {processing: {}}}");
    assert!(
        nameless.iter().any(|line| line.ends_with(
            "want another name: <prefix>_processing is exported by the controller itself"
        )),
        "{nameless:?}"
    );
}

#[test]
fn the_prefix_comes_from_the_name() {
    assert_eq!(parsed("name: my-job").metrics.prefix, "my_job");
    let lines = errors("name: 1st-job");
    assert!(
        lines.len() == 1
            && lines[0]
                .starts_with("metrics.prefix: found nothing, and \"1st_job\" derived from name"),
        "{lines:?}"
    );
    assert_eq!(
        parsed("name: 1st-job\nmetrics: {prefix: first}")
            .metrics
            .prefix,
        "first"
    );
}

#[test]
fn metrics_history_ends_with_the_reports() {
    let more = "reportHistory: 5\nmetrics: {history: 6}";
    assert_eq!(parsed(more).metrics.history, 5);
    assert_eq!(
        warnings(more),
        ["metrics.history: 6 is more than reportHistory, so 5 executions are exported"]
    );
    assert_eq!(parsed("reportHistory: 5").metrics.history, 5);
    assert_eq!(
        parsed("latestMetricsLabel: true\nmetrics: {history: 0}")
            .metrics
            .history,
        0
    );
}

#[test]
fn node_expressions_follow_the_rules_of_match_expressions() {
    let config = parsed(
        "jobNodeExpressions: [{key: type, operator: NotIn, values: [virtual-kubelet]}, {key: cores, operator: Gt, values: [4]}]",
    );
    assert_eq!(config.job_node_expressions[0].operator, NodeOperator::NotIn);
    assert_eq!(config.job_node_expressions[1].values, ["4"]);
    for (item, key) in [
        ("5", ""),
        ("{operator: Exists}", ".key"),
        ("{key: a b, operator: Exists}", ".key"),
        ("{key: a}", ".operator"),
        ("{key: a, operator: in, values: [b]}", ".operator"),
        ("{key: a, operator: In}", ".values"),
        ("{key: a, operator: NotIn, values: []}", ".values"),
        ("{key: a, operator: Exists, values: [b]}", ".values"),
        ("{key: a, operator: Gt, values: [1, 2]}", ".values"),
        ("{key: a, operator: Lt, values: [b]}", ".values"),
        ("{key: a, operator: In, values: b}", ".values"),
        ("{key: a, operator: In, values: [b c]}", ".values[0]"),
    ] {
        let lines = errors(&format!("jobNodeExpressions: [{item}]"));
        assert_eq!(lines.len(), 1, "{item}: {lines:?}");
        assert!(
            lines[0].starts_with(&format!("jobNodeExpressions[0]{key}: found ")),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn node_selectors_are_labels() {
    assert!(
        errors("jobNodeSelector: {'a b': c}")[0]
            .starts_with("jobNodeSelector.a b: found the key \"a b\", want a label key")
    );
    assert!(
        errors("jobNodeSelector: {a: b c}")[0]
            .starts_with("jobNodeSelector.a: found \"b c\", want a label value")
    );
    assert!(
        errors("jobNodeSelector: {a: [b]}")[0]
            .starts_with("jobNodeSelector.a: found [\"b\"], want a label value")
    );
    assert_eq!(
        parsed("jobNodeSelector: {kubernetes.io/os: linux}").job_node_selector["kubernetes.io/os"],
        "linux"
    );
}

#[test]
fn pull_secrets_have_two_spellings() {
    let names = |yaml: &str| {
        parsed(yaml)
            .job_image_pull_secrets
            .into_iter()
            .map(|secret| secret.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names("jobImagePullSecrets: [{name: a}]"), ["a"]);
    assert_eq!(names("imagePullSecrets: [{name: a}]"), ["a"]);
    assert_eq!(
        names("jobImagePullSecrets: {}\nimagePullSecrets: [{name: a}]"),
        ["a"]
    );
    let both = "jobImagePullSecrets: [{name: a}]\nimagePullSecrets: [{name: b}]";
    assert_eq!(names(both), ["b"]);
    assert_eq!(warnings(both).len(), 1);
    assert!(
        errors("imagePullSecrets: [a]")[0]
            .starts_with("imagePullSecrets[0]: found \"a\", want a mapping")
    );
    assert!(
        errors("imagePullSecrets: [{}]")[0]
            .starts_with("imagePullSecrets[0].name: found nothing, want the name")
    );
}

#[test]
fn older_resource_locks_are_warnings() {
    for lock in [
        "configmapsleases",
        "configmaps",
        "endpoints",
        "endpointsleases",
    ] {
        assert_eq!(
            warnings(&format!("leaderElectionResourceLock: {lock}")),
            [format!(
                "leaderElectionResourceLock: {lock} is no longer supported, a Lease is used instead"
            )]
        );
    }
    assert_eq!(warnings("leaderElectionResourceLock: leases"), [""; 0]);
    assert_eq!(warnings("leaderElectionResourceLock: \"\""), [""; 0]);
}

#[test]
fn a_plain_off_is_no_boolean_for_callback_auth() {
    assert_eq!(parsed("callbackAuth: off").callback_auth, CallbackAuth::Off);
    assert_eq!(
        parsed("callbackAuth: \"off\"").callback_auth,
        CallbackAuth::Off
    );
    assert_eq!(
        parsed("callbackAuth: required").callback_auth,
        CallbackAuth::Required
    );
}

#[test]
fn typed_values_come_through() {
    let config = parsed(
        "podPoolSize: 10%\nmaxFailures: 5%\nuntoleratedTaints: skip\nstartingDeadlineSeconds: 90\nreportQuota: 1.5Gi\ncallbackBodyLimit: {file: 5M}",
    );
    assert_eq!(config.pod_pool_size, PoolSize::Percent(10));
    assert_eq!(config.pod_pool_size.to_string(), "10%");
    assert_eq!(config.max_failures, Some(MaxFailures::Percent(5)));
    assert_eq!(config.untolerated_taints, UntoleratedTaints::Skip);
    assert_eq!(config.starting_deadline, Some(Duration::from_secs(90)));
    assert_eq!(config.report_quota_bytes, Some(3 << 29));
    assert_eq!(config.callback_body_limit.file_bytes, 5_000_000);
}

#[test]
fn a_schedule_that_never_comes_is_a_warning() {
    assert_eq!(
        warnings("cronExpression: 0 0 30 2 *"),
        ["cronExpression: \"0 0 30 2 *\" never matches"]
    );
    assert_eq!(warnings("cronExpression: 0 0 29 2 *"), [""; 0]);
}

#[test]
fn every_case_is_about_a_known_key_of_its_own() {
    let known: BTreeSet<_> = CASES.iter().map(|case| case.key).collect();
    assert_eq!(known.len(), CASES.len());
    for key in known {
        let line = format!("{key}Q: unknown key, ignored; the nearest known key is {key}");
        assert_eq!(warnings(&format!("{key}Q: 1")), [line]);
    }
}
