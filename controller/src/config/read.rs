//! Every key of `config.yaml`: what it may be, its default, and the rules that join several of them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::LocalObjectReference;
use serde_json::Value;

use super::raw::{ConfigError, ConfigErrors, Findings, Section, Warning, document, shown};
use super::values;
use super::{
    CallbackAuth, CallbackBodyLimit, ConcurrencyPolicy, Config, EnvironmentDefaults, FailurePolicy,
    Gauge, LeaderElection, Metrics, NodeExpression, NodeOperator, PoolSize, ReportDurability,
    UntoleratedTaints,
};
use crate::core::schedule::{self, Schedule};

/// Keys that are read and checked, but whose feature does not exist yet: a value other than the default warns. Whoever
/// builds the feature removes its row.
const WITHOUT_EFFECT: &[(&str, fn(&Config) -> bool)] = &[
    ("jobNodeExpressions", |c| c.job_node_expressions.is_empty()),
    ("untoleratedTaints", |c| {
        c.untolerated_taints == UntoleratedTaints::default()
    }),
    ("leaderElection", |c| c.leader_election == LEADER_ELECTION),
    ("concurrencyPolicy", |c| {
        c.concurrency_policy == ConcurrencyPolicy::default()
    }),
    ("suspend", |c| !c.suspend),
    ("startingDeadlineSeconds", |c| c.starting_deadline.is_none()),
    ("podStartDeadline", |c| {
        c.pod_start_deadline == POD_START_DEADLINE
    }),
    ("podRunDeadline", |c| c.pod_run_deadline.is_none()),
    ("nodeLostTimeout", |c| {
        c.node_lost_timeout == NODE_LOST_TIMEOUT
    }),
    ("executionDeadline", |c| c.execution_deadline.is_none()),
    ("retries", |c| c.retries == 0),
    ("maxFailures", |c| c.max_failures.is_none()),
    ("failurePolicy", |c| {
        c.failure_policy == FailurePolicy::default()
    }),
    ("endedPods", |c| c.ended_pods == ENDED_PODS),
    ("callbackAuth", |c| {
        c.callback_auth == CallbackAuth::default()
    }),
    ("reportQuota", |c| c.report_quota_bytes.is_none()),
    ("callbackHoldTimeout", |c| {
        c.callback_hold_timeout == CALLBACK_HOLD_TIMEOUT
    }),
    ("reportDurability", |c| {
        c.report_durability == ReportDurability::default()
    }),
];

const POD_START_DEADLINE: Duration = Duration::from_secs(600);
const NODE_LOST_TIMEOUT: Duration = Duration::from_secs(300);
const CALLBACK_HOLD_TIMEOUT: Duration = Duration::from_secs(30);
/// Far below the 12,500 ended pods in a cluster above which its garbage collector takes other people's too.
const ENDED_PODS: u32 = 1000;
const LEADER_ELECTION: LeaderElection = LeaderElection {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};
/// Names of metrics behind the prefix that the controller exports itself.
const RESERVED_GAUGES: [&str; 4] = ["processing", "duration", "pods", "current_execution_id"];
/// The metric with the controller's version, which no prefix and gauge may add up to.
const VERSION_METRIC: &str = "com_github_bakito_batch_job_controller";
const DOCUMENT: &str = "config.yaml";

const BOOLEAN: &str = "true or false";
const COUNT: &str = "an integer of at least 0";
const POSITIVE: &str = "an integer of at least 1";
const PORT: &str = "a port, an integer from 1 to 65535";
const DURATION: &str = "a duration of at least 0, such as 10s or 1h30m, or integer nanoseconds";
const POSITIVE_DURATION: &str =
    "a duration of more than 0, such as 10s or 1h30m, or integer nanoseconds";
const BYTES: &str = "a size of at least 1 byte, an integer or such as 16Ki, 1Mi or 1Gi";
const LABEL_VALUE: &str =
    "a label value: at most 63 letters, digits, -, _ and ., a letter or digit at both ends";
const LABEL_KEY: &str = "a label key, such as disk or example.com/disk";
const METRIC_LABEL: &str =
    "a Prometheus label name: letters, digits and _, no digit first, not beginning with __";

/// Reads and checks a `config.yaml`.
///
/// # Errors
/// Every wrong or missing key at once.
pub fn parse(
    yaml: &str,
    environment: &EnvironmentDefaults,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let (config, errors, warnings) = read(yaml, environment);
    match config {
        Some(config) if errors.is_empty() => Ok((config, warnings)),
        _ => Err(ConfigErrors(errors)),
    }
}

/// As [`parse`], but the warnings come with the errors. There is a configuration exactly if there is no error.
pub(super) fn read(
    yaml: &str,
    environment: &EnvironmentDefaults,
) -> (Option<Config>, Vec<ConfigError>, Vec<Warning>) {
    let findings = Findings::default();
    let config = document(yaml, DOCUMENT, &findings).and_then(|entries| {
        read_keys(Section::new("", entries, &findings), environment, &findings)
    });
    if let Some(config) = &config {
        warn_about_keys_without_effect(config, &findings);
    }
    let (errors, warnings) = findings.finish();
    (config.filter(|_| errors.is_empty()), errors, warnings)
}

fn warn_about_keys_without_effect(config: &Config, findings: &Findings) {
    for (key, is_default) in WITHOUT_EFFECT {
        if !is_default(config) {
            findings.warn(*key, "has no effect in this version");
        }
    }
}

/// Takes all keys. A wrong one is recorded, and something valid stands in for it.
fn read_keys(
    mut root: Section<'_>,
    environment: &EnvironmentDefaults,
    findings: &Findings,
) -> Option<Config> {
    let name = read_name(&mut root);
    let (time_zone, zone) = read_time_zone(&mut root, environment, findings);
    let schedule = read_schedule(&mut root, &zone, findings);
    let latest_metrics_label = read_bool(&mut root, "latestMetricsLabel");
    let report_history = root
        .optional("reportHistory", POSITIVE, values::positive)
        .unwrap_or(const { NonZeroU32::new(30).expect("not zero") });
    let metrics = read_metrics(
        &mut root,
        name.as_deref(),
        report_history,
        latest_metrics_label,
        findings,
    );
    read_resource_lock(&mut root, findings);

    let mut config = Config {
        name: name.unwrap_or_default(),
        job_service_account: read_object_name(&mut root, "jobServiceAccount"),
        job_image_pull_secrets: read_pull_secrets(&mut root, findings),
        job_node_selector: read_node_selector(&mut root, findings),
        job_node_expressions: read_node_expressions(&mut root, findings),
        run_on_unscheduled_nodes: read_bool(&mut root, "runOnUnscheduledNodes"),
        untolerated_taints: read_choice(
            &mut root,
            "untoleratedTaints",
            &[("run", UntoleratedTaints::Run), ("skip", UntoleratedTaints::Skip)],
        ),
        cron_expression: schedule.as_ref().map(|(text, _)| text.clone()).unwrap_or_default(),
        time_zone,
        // A schedule that is missing or wrong is an error, which keeps this stand-in from getting out.
        schedule: schedule.map(|(_, schedule)| schedule).or_else(|| Schedule::parse("@daily", &zone).ok())?,
        run_on_startup: read_bool(&mut root, "runOnStartup"),
        startup_delay: read_duration(&mut root, "startupDelay", Duration::from_secs(10)),
        pod_pool_size: root
            .optional(
                "podPoolSize",
                "an integer of at least 1 or a percentage from 1% to 100%, such as \"10%\"",
                values::pool_size,
            )
            .unwrap_or(PoolSize::Count(const { NonZeroU32::new(10).expect("not zero") })),
        report_directory: read_report_directory(&mut root, environment),
        report_history,
        callback_service_name: root
            .optional(
                "callbackServiceName",
                "a Service's name (at most 63 lower-case letters, digits and -, a letter first) or an empty text",
                |value| values::text(value).filter(|name| name.is_empty() || values::is_service_name(name)),
            )
            .filter(|name| !name.is_empty()),
        callback_service_port: root.optional("callbackServicePort", PORT, values::port).unwrap_or(8090),
        health_probe_port: root.optional("healthProbePort", PORT, values::port).unwrap_or(9152),
        file_server_port: root.optional("fileServerPort", PORT, values::port).unwrap_or(8080),
        metrics,
        latest_metrics_label,
        save_pod_log: read_bool(&mut root, "savePodLog"),
        custom: Value::Object(root.mapping("custom", "a mapping")),
        leader_election: read_leader_election(&mut root, findings),
        concurrency_policy: read_choice(
            &mut root,
            "concurrencyPolicy",
            &[("Forbid", ConcurrencyPolicy::Forbid), ("Replace", ConcurrencyPolicy::Replace)],
        ),
        suspend: read_bool(&mut root, "suspend"),
        starting_deadline: root
            .optional("startingDeadlineSeconds", "an integer of at least 0, in seconds", |value| {
                values::or_none(value, values::count)
            })
            .flatten()
            .map(|seconds| Duration::from_secs(seconds.into())),
        pod_start_deadline: root
            .optional("podStartDeadline", POSITIVE_DURATION, values::positive_duration)
            .unwrap_or(POD_START_DEADLINE),
        pod_run_deadline: read_deadline(&mut root, "podRunDeadline"),
        node_lost_timeout: read_duration(&mut root, "nodeLostTimeout", NODE_LOST_TIMEOUT),
        execution_deadline: read_deadline(&mut root, "executionDeadline"),
        retries: root.optional("retries", COUNT, values::count).unwrap_or(0),
        max_failures: root
            .optional(
                "maxFailures",
                "an integer of at least 0 or a percentage from 0% to 100%, such as \"10%\"",
                values::max_failures,
            )
            .flatten(),
        failure_policy: read_choice(
            &mut root,
            "failurePolicy",
            &[("Continue", FailurePolicy::Continue), ("FailFast", FailurePolicy::FailFast)],
        ),
        ended_pods: root.optional("endedPods", COUNT, values::count).unwrap_or(ENDED_PODS),
        callback_auth: read_callback_auth(&mut root),
        callback_body_limit: read_body_limit(&mut root),
        report_quota_bytes: root
            .optional("reportQuota", BYTES, |value| values::or_none(value, values::bytes))
            .flatten(),
        callback_hold_timeout: read_duration(&mut root, "callbackHoldTimeout", CALLBACK_HOLD_TIMEOUT),
        report_durability: read_choice(
            &mut root,
            "reportDurability",
            &[("fsync", ReportDurability::Fsync), ("none", ReportDurability::None)],
        ),
    };
    check_ports(&config, findings);
    limit_metrics_history(&mut config, findings);
    Some(config)
}

fn read_bool(section: &mut Section<'_>, name: &str) -> bool {
    section
        .optional(name, BOOLEAN, Value::as_bool)
        .unwrap_or(false)
}

fn read_duration(section: &mut Section<'_>, name: &str, default: Duration) -> Duration {
    section
        .optional(name, DURATION, values::duration)
        .unwrap_or(default)
}

fn read_deadline(section: &mut Section<'_>, name: &str) -> Option<Duration> {
    section
        .optional(name, POSITIVE_DURATION, |value| {
            values::or_none(value, values::positive_duration)
        })
        .flatten()
}

/// One of a closed set, spelled exactly.
fn read_choice<T: Copy + Default>(
    section: &mut Section<'_>,
    name: &str,
    choices: &[(&str, T)],
) -> T {
    let wanted = choices
        .iter()
        .map(|(spelling, _)| *spelling)
        .collect::<Vec<_>>()
        .join(" or ");
    section
        .optional(name, &wanted, |value| {
            choices
                .iter()
                .find(|(spelling, _)| value == spelling)
                .map(|(_, choice)| *choice)
        })
        .unwrap_or_default()
}

fn read_name(root: &mut Section<'_>) -> Option<String> {
    let wanted =
        "a DNS label: at most 63 lower-case letters, digits and -, a letter or digit at both ends";
    root.required("name", wanted, |value| {
        values::text(value).filter(|name| values::is_dns_label(name))
    })
}

/// The name of a Kubernetes object; an empty one is none.
fn read_object_name(root: &mut Section<'_>, name: &str) -> Option<String> {
    let wanted = "an object's name (lower-case letters, digits, - and .) or an empty text";
    root.optional(name, wanted, |value| {
        values::text(value).filter(|name| name.is_empty() || values::is_object_name(name))
    })
    .filter(|name| !name.is_empty())
}

/// The key, else `TZ`, else UTC. A wrong one is recorded, and UTC stands in.
fn read_time_zone(
    root: &mut Section<'_>,
    environment: &EnvironmentDefaults,
    findings: &Findings,
) -> (String, TimeZone) {
    let wanted = "a time zone of the IANA database, such as Europe/Zurich or UTC";
    let known = |name: String| {
        let zone = schedule::time_zone(&name)
            .ok()
            .filter(|_| !name.is_empty())?;
        Some((name, zone))
    };
    let from_key = root.take("timeZone");
    let found = match (&from_key, &environment.time_zone) {
        (Some(value), _) => values::text(value).and_then(known),
        // The C library lets a colon stand before the name.
        (None, Some(name)) if !name.is_empty() => known(name.trim_start_matches(':').to_owned()),
        (None, _) => known("UTC".to_owned()),
    };
    found.unwrap_or_else(|| {
        let shown = match (&from_key, &environment.time_zone) {
            (None, Some(name)) => format!("{name:?} (from the environment variable TZ)"),
            (value, _) => shown(value.as_ref().unwrap_or(&Value::Null)),
        };
        findings.error("timeZone", shown, wanted);
        ("UTC".to_owned(), TimeZone::UTC)
    })
}

fn read_schedule(
    root: &mut Section<'_>,
    zone: &TimeZone,
    findings: &Findings,
) -> Option<(String, Schedule)> {
    let wanted =
        "a cron expression of five fields such as \"42 3 * * *\", or @daily, or @every 1h30m";
    let expression = root.required("cronExpression", wanted, values::text)?;
    match Schedule::parse(&expression, zone) {
        Ok(schedule) => {
            // Any span with a leap day shows whether there is a day at all.
            if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() {
                findings.warn("cronExpression", format!("{expression:?} never matches"));
            }
            Some((expression, schedule))
        }
        Err(error) => {
            findings.wrong_value(
                "cronExpression",
                &Value::String(expression),
                format!("{wanted}: {error}"),
            );
            None
        }
    }
}

fn read_report_directory(root: &mut Section<'_>, environment: &EnvironmentDefaults) -> PathBuf {
    let configured = root
        .optional("reportDirectory", "a path that is not empty", |value| {
            values::text(value).filter(|path| !path.trim().is_empty() && !path.contains('\0'))
        })
        .map_or_else(|| PathBuf::from("/var/www"), PathBuf::from);
    environment
        .report_directory
        .clone()
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or(configured)
}

/// Both spellings: the sample of the original has the one, its code read the other. An empty mapping, as in that sample,
/// is an empty list.
fn read_pull_secrets(root: &mut Section<'_>, findings: &Findings) -> Vec<LocalObjectReference> {
    let mut read = |name: &str| {
        let wanted = "a list of {name: …}";
        let value = root.optional(name, wanted, |value| match value {
            Value::Array(items) => Some(items.clone()),
            Value::Object(entries) if entries.is_empty() => Some(Vec::new()),
            _ => None,
        });
        let items = value.unwrap_or_default().into_iter().enumerate();
        items
            .filter_map(|(index, item)| {
                read_pull_secret(&format!("{name}[{index}]"), item, findings)
            })
            .collect::<Vec<_>>()
    };
    let current = read("jobImagePullSecrets");
    let original = read("imagePullSecrets");
    if original.is_empty() || original == current {
        return current;
    }
    if !current.is_empty() {
        findings.warn(
            "jobImagePullSecrets",
            "ignored, since imagePullSecrets is set too and is what counted so far",
        );
    }
    original
}

fn read_pull_secret(path: &str, item: Value, findings: &Findings) -> Option<LocalObjectReference> {
    let Value::Object(entries) = item else {
        findings.wrong_value(path, &item, "a mapping {name: …}");
        return None;
    };
    let mut section = Section::new(path, entries, findings);
    let name = section.required("name", "the name of a Secret", |value| {
        values::text(value).filter(|name| values::is_object_name(name))
    })?;
    Some(LocalObjectReference { name })
}

fn read_node_selector(root: &mut Section<'_>, findings: &Findings) -> BTreeMap<String, String> {
    let path = root.path_of("jobNodeSelector");
    let mut selector = BTreeMap::new();
    for (key, value) in root.mapping("jobNodeSelector", "a mapping of label keys to values") {
        let key_path = format!("{path}.{key}");
        if !values::is_label_key(&key) {
            findings.error(
                key_path,
                format!("the key {}", shown(&Value::String(key))),
                LABEL_KEY,
            );
            continue;
        }
        match values::scalar_as_text(&value).filter(|value| values::is_label_value(value)) {
            Some(value) => _ = selector.insert(key, value),
            None => findings.wrong_value(key_path, &value, LABEL_VALUE),
        }
    }
    selector
}

fn read_node_expressions(root: &mut Section<'_>, findings: &Findings) -> Vec<NodeExpression> {
    let items = root.list("jobNodeExpressions", "a list of {key, operator, values}");
    items
        .into_iter()
        .filter_map(|(path, item)| read_node_expression(&path, item, findings))
        .collect()
}

fn read_node_expression(path: &str, item: Value, findings: &Findings) -> Option<NodeExpression> {
    let Value::Object(entries) = item else {
        findings.wrong_value(path, &item, "a mapping {key, operator, values}");
        return None;
    };
    let mut section = Section::new(path, entries, findings);
    let key = section.required("key", LABEL_KEY, |value| {
        values::text(value).filter(|key| values::is_label_key(key))
    });
    let operator = section.required(
        "operator",
        "In, NotIn, Exists, DoesNotExist, Gt or Lt",
        |value| {
            Some(match value.as_str()? {
                "In" => NodeOperator::In,
                "NotIn" => NodeOperator::NotIn,
                "Exists" => NodeOperator::Exists,
                "DoesNotExist" => NodeOperator::DoesNotExist,
                "Gt" => NodeOperator::Gt,
                "Lt" => NodeOperator::Lt,
                _ => return None,
            })
        },
    );
    let values_path = section.path_of("values");
    let mut values = Vec::new();
    let mut all_right = true;
    let items = section.optional("values", "a list of label values", |value| {
        value.as_array().cloned()
    });
    for (index, item) in items.iter().flatten().enumerate() {
        match values::scalar_as_text(item)
            .filter(|text| !item.is_null() && values::is_label_value(text))
        {
            Some(value) => values.push(value),
            None => {
                findings.wrong_value(format!("{values_path}[{index}]"), item, LABEL_VALUE);
                all_right = false;
            }
        }
    }
    let (key, operator) = (key?, operator?);
    if !all_right || findings.any_wrong(&[&values_path]) {
        return None;
    }
    if let Some(wanted) = wanted_values(operator, &values) {
        let found = items.map_or_else(|| "nothing".to_owned(), |items| shown(&Value::Array(items)));
        findings.error(values_path, found, wanted);
        return None;
    }
    Some(NodeExpression {
        key,
        operator,
        values,
    })
}

/// What this operator wants of its values, if they are not it.
fn wanted_values(operator: NodeOperator, values: &[String]) -> Option<&'static str> {
    match operator {
        NodeOperator::In | NodeOperator::NotIn => values
            .is_empty()
            .then_some("at least one value for the operators In and NotIn"),
        NodeOperator::Exists | NodeOperator::DoesNotExist => {
            (!values.is_empty()).then_some("no values for the operators Exists and DoesNotExist")
        }
        NodeOperator::Gt | NodeOperator::Lt => match values {
            [value] if value.parse::<i64>().is_ok() => None,
            _ => Some("exactly one integer for the operators Gt and Lt"),
        },
    }
}

fn read_metrics(
    root: &mut Section<'_>,
    name: Option<&str>,
    report_history: NonZeroU32,
    latest_metrics_label: bool,
    findings: &Findings,
) -> Metrics {
    let mut section = root.section("metrics");
    let port = section.optional("port", PORT, values::port).unwrap_or(9153);
    let prefix = read_prefix(&mut section, name, findings);
    let history_wanted = "an integer of at least 1 (0 only where latestMetricsLabel is true)";
    // A wrong latestMetricsLabel must not make this one wrong as well.
    let zero_allowed = latest_metrics_label || findings.any_wrong(&["latestMetricsLabel"]);
    let history = section
        .optional("history", history_wanted, |value| {
            values::count(value).filter(|count| *count > 0 || zero_allowed)
        })
        .unwrap_or(report_history.get());
    let gauges_path = section.path_of("gauges");
    let mut gauges = BTreeMap::new();
    for (gauge_name, value) in
        section.mapping("gauges", "a mapping of gauge names to {help, labels}")
    {
        let path = format!("{gauges_path}.{gauge_name}");
        let name_is_right = check_gauge_name(&path, &gauge_name, &prefix, findings);
        let gauge = read_gauge(&path, value, findings);
        if name_is_right && let Some(gauge) = gauge {
            gauges.insert(gauge_name, gauge);
        }
    }
    Metrics {
        port,
        prefix,
        history,
        gauges,
    }
}

fn read_prefix(metrics: &mut Section<'_>, name: Option<&str>, findings: &Findings) -> String {
    let wanted =
        "the beginning of a Prometheus metric name: letters, digits, _ and :, no digit first";
    let configured = metrics.optional("prefix", wanted, |value| {
        values::text(value).filter(|prefix| values::is_metric_name(prefix))
    });
    let path = metrics.path_of("prefix");
    if configured.is_some() || findings.any_wrong(&[&path]) {
        return configured.unwrap_or_else(|| "_".to_owned());
    }
    let derived = name.unwrap_or("_").replace('-', "_");
    if !values::is_metric_name(&derived) {
        findings.error(
            path,
            format!("nothing, and {derived:?} derived from name"),
            wanted,
        );
    }
    derived
}

fn check_gauge_name(path: &str, name: &str, prefix: &str, findings: &Findings) -> bool {
    let found = || format!("the name {}", shown(&Value::String(name.to_owned())));
    let full_name = format!("{prefix}_{name}");
    if RESERVED_GAUGES.contains(&name) || full_name == VERSION_METRIC {
        let wanted = format!("another name: {full_name} is exported by the controller itself");
        findings.error(path, found(), wanted);
        return false;
    }
    // The prefix is checked on its own, so that a wrong one is not said once for each gauge.
    if name.is_empty() || !values::is_metric_name(&format!("_{name}")) {
        findings.error(
            path,
            found(),
            "the end of a Prometheus metric name: letters, digits, _ and :",
        );
        return false;
    }
    true
}

fn read_gauge(path: &str, value: Value, findings: &Findings) -> Option<Gauge> {
    let entries = match value {
        Value::Object(entries) => entries,
        Value::Null => serde_json::Map::new(),
        other => {
            findings.wrong_value(path, &other, "a mapping {help, labels}");
            return None;
        }
    };
    let mut section = Section::new(path, entries, findings);
    let help = section
        .optional("help", "a text", values::text)
        .unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut labels = Vec::new();
    for (label_path, item) in section.list("labels", "a list of label names") {
        match values::text(&item).filter(|label| values::is_metric_label(label)) {
            Some(label) if seen.insert(label.clone()) => labels.push(label),
            Some(_) => findings.wrong_value(label_path, &item, "each label once"),
            None => findings.wrong_value(label_path, &item, METRIC_LABEL),
        }
    }
    Some(Gauge { help, labels })
}

/// More series than there are executions kept cannot be.
fn limit_metrics_history(config: &mut Config, findings: &Findings) {
    let kept = config.report_history.get();
    if config.metrics.history > kept && !findings.any_wrong(&["reportHistory"]) {
        findings.warn(
            "metrics.history",
            format!(
                "{} is more than reportHistory, so {kept} executions are exported",
                config.metrics.history
            ),
        );
        config.metrics.history = kept;
    }
}

/// The original's choice of a lock. It is always a Lease now.
fn read_resource_lock(root: &mut Section<'_>, findings: &Findings) {
    const OLDER: [&str; 4] = [
        "configmapsleases",
        "configmaps",
        "endpoints",
        "endpointsleases",
    ];
    let wanted =
        "leases (or one of the older configmapsleases, configmaps, endpoints, endpointsleases)";
    let lock = root.optional("leaderElectionResourceLock", wanted, |value| {
        values::text(value)
            .filter(|lock| matches!(lock.as_str(), "" | "leases") || OLDER.contains(&lock.as_str()))
    });
    if let Some(lock) = lock.filter(|lock| OLDER.contains(&lock.as_str())) {
        findings.warn(
            "leaderElectionResourceLock",
            format!("{lock} is no longer supported, a Lease is used instead"),
        );
    }
}

fn read_leader_election(root: &mut Section<'_>, findings: &Findings) -> LeaderElection {
    let mut section = root.section("leaderElection");
    let election = LeaderElection {
        lease_duration: section
            .optional(
                "leaseDuration",
                "a duration of whole seconds, at least 1s",
                values::whole_seconds,
            )
            .unwrap_or(LEADER_ELECTION.lease_duration),
        renew_deadline: section
            .optional(
                "renewDeadline",
                POSITIVE_DURATION,
                values::positive_duration,
            )
            .unwrap_or(LEADER_ELECTION.renew_deadline),
        retry_period: section
            .optional("retryPeriod", POSITIVE_DURATION, values::positive_duration)
            .unwrap_or(LEADER_ELECTION.retry_period),
    };
    let (lease, renew, retry) = (
        "leaderElection.leaseDuration",
        "leaderElection.renewDeadline",
        "leaderElection.retryPeriod",
    );
    if election.lease_duration <= election.renew_deadline && !findings.any_wrong(&[lease, renew]) {
        let wanted = format!(
            "less than leaseDuration, which is {:?}",
            election.lease_duration
        );
        findings.error(renew, format!("{:?}", election.renew_deadline), wanted);
    }
    // The same margin as in client-go, whose tries are up to 1.2 periods apart.
    if election.renew_deadline <= election.retry_period.mul_f64(1.2)
        && !findings.any_wrong(&[renew, retry])
    {
        let wanted = format!(
            "less than renewDeadline / 1.2, which is {:?}",
            election.renew_deadline.div_f64(1.2)
        );
        findings.error(retry, format!("{:?}", election.retry_period), wanted);
    }
    election
}

/// YAML 1.1 takes a plain `off` for a boolean.
fn read_callback_auth(root: &mut Section<'_>) -> CallbackAuth {
    root.optional(
        "callbackAuth",
        "permissive, required or off",
        |value| match value {
            Value::Bool(false) => Some(CallbackAuth::Off),
            Value::String(text) => match text.as_str() {
                "permissive" => Some(CallbackAuth::Permissive),
                "required" => Some(CallbackAuth::Required),
                "off" => Some(CallbackAuth::Off),
                _ => None,
            },
            _ => None,
        },
    )
    .unwrap_or_default()
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
            findings.error(
                *key,
                port.to_string(),
                format!("a port of its own, {other} has this one"),
            );
        }
    }
}
