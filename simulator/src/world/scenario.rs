//! What every world is told: the controller's configuration, its pod template, and when it begins.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::WorldOptions;
use crate::apiserver::ApiServer;
use crate::job::CONFIG_KEY;
use crate::state::{Target, WriteOptions, resource};

/// The controller's namespace.
pub(super) const NAMESPACE: &str = "batch";

/// The controller's name.
pub(super) const NAME: &str = "sim";

/// Executions kept by the controller.
pub(super) const REPORT_HISTORY: u32 = 3;

/// Gauges of the controller, each with one sample a node.
const GAUGES: usize = 3;

/// Series of each node and execution: those of the gauges, `processing` and `duration`.
pub(super) const SERIES_PER_NODE: usize = GAUGES + 2;

/// One execution an hour.
const PERIOD: SignedDuration = SignedDuration::from_hours(1);

/// An execution must end within this time, before the next one begins.
pub const END_BOUND: Duration = Duration::from_mins(59);

/// 2026-01-01T00:00:00Z.
const FIRST_TICK_SECOND: i64 = 1_767_225_600;

/// The pod template: of the size and shape of a real one.
pub(super) const POD_TEMPLATE: &str = "\
kind: Pod
apiVersion: v1
spec:
  restartPolicy: Never
  containers:
    - name: job
      image: registry.example.com/job:1.0.0
      command: [/opt/job/run.sh]
      resources:
        requests: {cpu: 50m, memory: 32Mi}
        limits: {memory: 64Mi}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
";

/// When execution `number` is due, counted from 0.
pub(super) fn tick(number: u32) -> Timestamp {
    let first = Timestamp::from_second(FIRST_TICK_SECOND).unwrap_or(Timestamp::UNIX_EPOCH);
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    first
        .saturating_add(PERIOD.saturating_mul(number))
        .unwrap_or(Timestamp::MAX)
}

/// A little before the first tick, so that the first execution begins like all others.
pub(super) fn start() -> Timestamp {
    tick(0) - SignedDuration::from_secs(10)
}

/// The controller's `config.yaml`.
pub(super) fn config_yaml(options: &WorldOptions) -> String {
    json!({
        "name": NAME,
        "cronExpression": "0 * * * *",
        "podPoolSize": options.pool,
        "reportHistory": REPORT_HISTORY,
        "metrics": {
            "prefix": "sim",
            "gauges": {
                "checks": {"help": "Checks that were made.", "labels": []},
                "usage": {"help": "Share of a mount that is in use.", "labels": ["mount"]},
                "age": {"help": "Age of a certificate.", "labels": ["issuer", "subject"]},
            },
        },
    })
    .to_string()
}

/// Creates the controller's namespace and ConfigMap.
pub(super) fn create_objects(api: &ApiServer, config_yaml: &str) {
    let now = api.now();
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let config = json!({
        "metadata": {"name": NAME},
        "data": {CONFIG_KEY: config_yaml, "pod-template.yaml": POD_TEMPLATE},
    });
    let objects = [
        (Target::cluster(&resource::NAMESPACES, ""), namespace),
        (Target::new(&resource::CONFIG_MAPS, NAMESPACE, ""), config),
    ];
    for (target, object) in objects {
        let create = |state: &mut crate::state::State| {
            state.create(now, target, object, WriteOptions::default())
        };
        let created = api.with_state(create);
        created.expect("an empty cluster takes a namespace and its ConfigMap");
    }
}
