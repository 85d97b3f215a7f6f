//! Every key of `config.yaml`: what it may be, its default, and the rules that join several of them.
//!
//! Here are the keys that stand on their own; those of job pods, metrics and leadership are in the files below.

mod job_pods;
mod leadership;
mod metrics;
mod schedule;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::raw::{ConfigError, ConfigErrors, Findings, Section, Warning, document};
use super::values;
use super::{
    CallbackAuth, CallbackBodyLimit, ConcurrencyPolicy, Config, EnvironmentDefaults, FailurePolicy,
    MaxFailures, PoolSize, ReportDurability, UntoleratedTaints,
};

/// The name under which errors of the file as a whole are reported.
const DOCUMENT: &str = "config.yaml";

const POD_START_DEADLINE: Duration = Duration::from_mins(10);
const NODE_LOST_TIMEOUT: Duration = Duration::from_mins(5);
const CALLBACK_HOLD_TIMEOUT: Duration = Duration::from_secs(30);
/// Far below the 12,500 ended pods in a cluster above which its garbage collector takes other people's too.
const ENDED_PODS: u32 = 1000;
const REPORT_HISTORY: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
const POD_POOL_SIZE: PoolSize = PoolSize::Count(NonZeroU32::new(10).expect("not zero"));

const DURATION: &str = "a duration of at least 0, such as 10s or 1h30m, or integer nanoseconds";
const POSITIVE_DURATION: &str =
    "a duration of more than 0, such as 10s or 1h30m, or integer nanoseconds";
const BYTES: &str = "a size of at least 1 byte, an integer or such as 16Ki, 1Mi or 1Gi";

/// Reads and checks a `config.yaml`.
///
/// # Errors
/// Every wrong or missing key at once.
pub fn parse(
    yaml: &str,
    environment: &EnvironmentDefaults,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let (config, errors, warnings) = read(yaml, environment);
    config
        .map(|config| (config, warnings))
        .ok_or(ConfigErrors(errors))
}

/// As [`parse`], but the warnings come with the errors. There is a configuration exactly if there is no error.
pub(super) fn read(
    yaml: &str,
    environment: &EnvironmentDefaults,
) -> (Option<Config>, Vec<ConfigError>, Vec<Warning>) {
    let findings = Findings::default();
    let config = document(yaml, DOCUMENT, &findings).map(|entries| {
        let mut root = Section::new("", entries, &findings);
        read_keys(&mut root, environment, &findings)
    });
    if let Some(config) = &config {
        check_ports(config, &findings);
    }
    let (errors, warnings) = findings.finish();
    (config.filter(|_| errors.is_empty()), errors, warnings)
}

/// Takes all keys. A wrong one is recorded, and something valid stands in for it.
fn read_keys(
    root: &mut Section<'_>,
    environment: &EnvironmentDefaults,
    findings: &Findings,
) -> Config {
    let name = read_name(root);
    let timing = schedule::read(root, environment, findings);
    let latest_metrics_label = read_bool(root, "latestMetricsLabel");
    let report_history = root
        .optional(
            "reportHistory",
            "an integer of at least 1",
            values::positive,
        )
        .unwrap_or(REPORT_HISTORY);
    let kept = metrics::Kept {
        report_history,
        latest_metrics_label,
    };
    let metrics = metrics::read(root, name.as_deref(), &kept, findings);
    leadership::read_resource_lock(root, findings);

    Config {
        name: name.unwrap_or_default(),
        job_service_account: job_pods::read_service_account(root),
        job_image_pull_secrets: job_pods::read_pull_secrets(root, findings),
        job_node_selector: job_pods::read_node_selector(root, findings),
        job_node_expressions: job_pods::read_node_expressions(root, findings),
        run_on_unscheduled_nodes: read_bool(root, "runOnUnscheduledNodes"),
        untolerated_taints: read_choice(
            root,
            "untoleratedTaints",
            &[
                ("run", UntoleratedTaints::Run),
                ("skip", UntoleratedTaints::Skip),
            ],
        ),
        cron_expression: timing.cron_expression,
        time_zone: timing.time_zone,
        schedule: timing.schedule,
        run_on_startup: read_bool(root, "runOnStartup"),
        startup_delay: read_duration(root, "startupDelay", Duration::from_secs(10)),
        pod_pool_size: read_pool_size(root),
        report_directory: read_report_directory(root, environment),
        report_history,
        callback_service_name: read_callback_service_name(root),
        callback_service_port: read_port(root, "callbackServicePort", 8090),
        health_probe_port: read_port(root, "healthProbePort", 9152),
        file_server_port: read_port(root, "fileServerPort", 8080),
        metrics,
        latest_metrics_label,
        save_pod_log: read_bool(root, "savePodLog"),
        custom: Value::Object(root.mapping("custom", "a mapping")),
        leader_election: leadership::read_timing(root, findings),
        concurrency_policy: read_choice(
            root,
            "concurrencyPolicy",
            &[
                ("Forbid", ConcurrencyPolicy::Forbid),
                ("Replace", ConcurrencyPolicy::Replace),
            ],
        ),
        suspend: read_bool(root, "suspend"),
        starting_deadline: read_starting_deadline(root),
        pod_start_deadline: root
            .optional(
                "podStartDeadline",
                POSITIVE_DURATION,
                values::positive_duration,
            )
            .unwrap_or(POD_START_DEADLINE),
        pod_run_deadline: read_deadline(root, "podRunDeadline"),
        node_lost_timeout: read_duration(root, "nodeLostTimeout", NODE_LOST_TIMEOUT),
        execution_deadline: read_deadline(root, "executionDeadline"),
        retries: read_count(root, "retries", 0),
        max_failures: read_max_failures(root),
        failure_policy: read_choice(
            root,
            "failurePolicy",
            &[
                ("Continue", FailurePolicy::Continue),
                ("FailFast", FailurePolicy::FailFast),
            ],
        ),
        ended_pods: read_count(root, "endedPods", ENDED_PODS),
        callback_auth: read_callback_auth(root),
        callback_body_limit: read_body_limit(root),
        report_quota_bytes: root.unless_none("reportQuota", BYTES, values::bytes),
        callback_hold_timeout: read_duration(root, "callbackHoldTimeout", CALLBACK_HOLD_TIMEOUT),
        report_durability: read_choice(
            root,
            "reportDurability",
            &[
                ("fsync", ReportDurability::Fsync),
                ("none", ReportDurability::None),
            ],
        ),
    }
}

fn read_bool(section: &mut Section<'_>, name: &str) -> bool {
    section
        .optional(name, "true or false", Value::as_bool)
        .unwrap_or(false)
}

fn read_count(section: &mut Section<'_>, name: &str, default: u32) -> u32 {
    section
        .optional(name, "an integer of at least 0", values::count)
        .unwrap_or(default)
}

fn read_port(section: &mut Section<'_>, name: &str, default: u16) -> u16 {
    section
        .optional(name, "a port, an integer from 1 to 65535", values::port)
        .unwrap_or(default)
}

fn read_duration(section: &mut Section<'_>, name: &str, default: Duration) -> Duration {
    section
        .optional(name, DURATION, values::duration)
        .unwrap_or(default)
}

fn read_deadline(section: &mut Section<'_>, name: &str) -> Option<Duration> {
    section.unless_none(name, POSITIVE_DURATION, values::positive_duration)
}

/// One of a closed set, spelled exactly.
fn read_choice<T: Copy + Default>(
    section: &mut Section<'_>,
    name: &str,
    choices: &[(&str, T)],
) -> T {
    let spellings: Vec<_> = choices.iter().map(|(spelling, _)| *spelling).collect();
    let chosen = section.optional(name, &spellings.join(" or "), |value| {
        let choice = choices.iter().find(|(spelling, _)| value == spelling);
        choice.map(|(_, choice)| *choice)
    });
    chosen.unwrap_or_default()
}

fn read_name(root: &mut Section<'_>) -> Option<String> {
    let wanted =
        "a DNS label: at most 63 lower-case letters, digits and -, a letter or digit at both ends";
    root.required("name", wanted, |value| {
        values::text(value).filter(|name| values::is_dns_label(name))
    })
}

fn read_pool_size(root: &mut Section<'_>) -> PoolSize {
    let wanted = "an integer of at least 1 or a percentage from 1% to 100%, such as \"10%\"";
    root.optional("podPoolSize", wanted, values::pool_size)
        .unwrap_or(POD_POOL_SIZE)
}

fn read_max_failures(root: &mut Section<'_>) -> Option<MaxFailures> {
    let wanted = "an integer of at least 0 or a percentage from 0% to 100%, such as \"10%\"";
    root.unless_none("maxFailures", wanted, values::max_failures)
}

fn read_starting_deadline(root: &mut Section<'_>) -> Option<Duration> {
    let wanted = "an integer of at least 0, in seconds";
    root.unless_none("startingDeadlineSeconds", wanted, values::count)
        .map(|seconds| Duration::from_secs(seconds.into()))
}

/// Where reports are, as far as a configuration says that may be wrong elsewhere: for what was kept there of a good
/// one.
#[must_use]
pub fn report_directory(yaml: &str, environment: &EnvironmentDefaults) -> PathBuf {
    let findings = Findings::default();
    let entries = document(yaml, DOCUMENT, &findings).unwrap_or_default();
    read_report_directory(&mut Section::new("", entries, &findings), environment)
}

/// The environment goes first; the key is checked in any case.
fn read_report_directory(root: &mut Section<'_>, environment: &EnvironmentDefaults) -> PathBuf {
    let configured = root.optional("reportDirectory", "a path that is not empty", |value| {
        values::text(value).filter(|path| !path.trim().is_empty() && !path.contains('\0'))
    });
    let overriding = environment.report_directory.clone();
    overriding
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or_else(|| configured.map_or_else(|| PathBuf::from("/var/www"), PathBuf::from))
}

fn read_callback_service_name(root: &mut Section<'_>) -> Option<String> {
    let wanted = "a Service's name (at most 63 lower-case letters, digits and -, a letter first) or an empty text";
    let name = root.optional("callbackServiceName", wanted, |value| {
        values::text(value).filter(|name| name.is_empty() || values::is_service_name(name))
    });
    name.filter(|name| !name.is_empty())
}

/// YAML 1.1 takes a plain `off` for a boolean.
fn read_callback_auth(root: &mut Section<'_>) -> CallbackAuth {
    let auth = root.optional("callbackAuth", "permissive, required or off", |value| {
        if *value == Value::Bool(false) {
            return Some(CallbackAuth::Off);
        }
        match value.as_str()? {
            "permissive" => Some(CallbackAuth::Permissive),
            "required" => Some(CallbackAuth::Required),
            "off" => Some(CallbackAuth::Off),
            _ => None,
        }
    });
    auth.unwrap_or_default()
}

fn read_body_limit(root: &mut Section<'_>) -> CallbackBodyLimit {
    let mut section = root.section("callbackBodyLimit");
    let mut read = |name: &str, default| {
        section
            .optional(name, BYTES, values::bytes)
            .unwrap_or(default)
    };
    CallbackBodyLimit {
        file_bytes: read("file", 1 << 30),
        result_bytes: read("result", 1 << 20),
        event_bytes: read("event", 16 << 10),
    }
}

/// Each server needs a port of its own.
fn check_ports(config: &Config, findings: &Findings) {
    let ports = [
        ("callbackServicePort", config.callback_service_port),
        ("healthProbePort", config.health_probe_port),
        ("metrics.port", config.metrics.port),
        ("fileServerPort", config.file_server_port),
    ];
    let right: Vec<_> = ports
        .into_iter()
        .filter(|(key, _)| !findings.any_wrong(&[key]))
        .collect();
    for (index, (key, port)) in right.iter().enumerate() {
        if let Some((other, _)) = right[..index].iter().find(|(_, other)| other == port) {
            let wanted = format!("a port of its own, {other} has this one");
            findings.error(*key, port.to_string(), wanted);
        }
    }
}
