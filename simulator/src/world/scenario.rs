//! What a world's controller is told: its configuration and pod template, the user's own or standard ones, and when its
//! executions are due.

use std::num::NonZeroU32;
use std::time::Duration;

use controller::config::pod_template::PodTemplate;
use controller::config::{self, Config, EnvironmentDefaults, PoolSize};
use controller::core::ids::ExecutionId;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::job::CONFIG_KEY;
use crate::state::{Target, WriteOptions, resource};

/// The controller's namespace.
pub(crate) const NAMESPACE: &str = "batch";

/// The key of the pod template in the ConfigMap.
pub(crate) const POD_TEMPLATE_KEY: &str = "pod-template.yaml";

/// Where job pods call back where the configuration names no Service.
pub(super) const POD_IP: &str = "10.128.0.1";

/// The clock begins a little before the first execution, so that this begins like all others.
const LEAD: SignedDuration = SignedDuration::from_secs(10);

/// Executions are due from 2026-01-01T00:00:00Z on; this is a second before.
const BEFORE_FIRST_SECOND: i64 = 1_767_225_599;

/// The standard configuration: three gauges with none to two labels, an execution an hour.
const CONFIG: &str = "\
name: sim
cronExpression: 0 * * * *
podPoolSize: 10%
reportHistory: 3
metrics:
  gauges:
    checks: {help: Checks that were made., labels: []}
    usage: {help: Share of a mount that is in use., labels: [mount]}
    age: {help: Age of a certificate., labels: [issuer, subject]}
";

/// Faults happen within this time of the begin of an execution; then it must end.
pub(super) const FAULTY_TIME: Duration = Duration::from_mins(10);

/// What the last fault may take after that: a silent watch (295 s), calls of a minute, pauses of half a minute.
pub(crate) const HEALING_TIME: Duration = Duration::from_mins(10);

/// The standard pod template: of the size and shape of a real one.
const POD_TEMPLATE: &str = "\
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

/// What the controller is told.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub(crate) config: Config,
    pub(crate) config_yaml: String,
    pub(crate) template: PodTemplate,
    pub(crate) start: Timestamp,
}

impl Scenario {
    /// The standard configuration and pod template.
    ///
    /// # Panics
    /// Never: they are valid.
    #[must_use]
    pub fn standard() -> Self {
        let read = Self::new(None, None);
        read.expect("the standard configuration is valid").0
    }

    /// The texts of a `config.yaml` and a `pod-template.yaml`, the standard ones where none is given. Executions are
    /// due when `cronExpression` says; `runOnStartup` is left out, it would come in between. With the scenario comes
    /// what its user should know about the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with them, a line each.
    pub fn new(
        config_yaml: Option<&str>,
        pod_template: Option<&str>,
    ) -> Result<(Self, Vec<config::Warning>), Vec<String>> {
        let config_yaml = config_yaml.unwrap_or(CONFIG);
        let report = config::check(config_yaml, &EnvironmentDefaults::default());
        let mut errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        let template = PodTemplate::parse(pod_template.unwrap_or(POD_TEMPLATE))
            .and_then(|template| {
                let tried = template.render("node-1", "202601010000", NAMESPACE);
                tried.map(|_| template)
            })
            .map_err(|error| errors.push(format!("pod-template.yaml: {error}")));
        let first = report.config.as_ref().map(|config| {
            let before = Timestamp::from_second(BEFORE_FIRST_SECOND).unwrap_or_default();
            config.schedule.next_after(before)
        });
        if first == Some(None) {
            errors.push("cronExpression: no execution is due within five years".to_owned());
        }
        match (report.config, template, first.flatten()) {
            (Some(mut config), Ok(template), Some(first)) if errors.is_empty() => {
                config.run_on_startup = false;
                let scenario = Self {
                    config,
                    config_yaml: config_yaml.to_owned(),
                    template,
                    start: first - LEAD,
                };
                Ok((scenario, report.warnings))
            }
            _ => Err(errors),
        }
    }

    /// With another pool size than the configuration's.
    #[must_use]
    pub fn with_pool(mut self, pool: PoolSize) -> Self {
        self.config.pod_pool_size = pool;
        self
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Slots of the pool of an execution over so many nodes.
    #[must_use]
    pub fn pool(&self, nodes: u32) -> NonZeroU32 {
        self.config.pod_pool_size.of(nodes as usize)
    }

    /// When executions are due, from the first one on.
    pub(crate) fn ticks(&self) -> impl Iterator<Item = Timestamp> + '_ {
        self.config.schedule.fires_after(self.start)
    }

    /// The shortest time between two of the first executions, one more than these: what each has before the next is
    /// due.
    #[must_use]
    pub fn window(&self, executions: u32) -> Duration {
        let ticks: Vec<Timestamp> = self.ticks().take(executions as usize + 1).collect();
        let gaps = ticks.windows(2).map(|pair| between(pair[0], pair[1]));
        gaps.min().unwrap_or(Duration::MAX)
    }

    /// The id of the execution that is due then.
    pub(crate) fn id(&self, due: Timestamp) -> ExecutionId {
        if self.config.schedule.is_finer_than_minutes() {
            ExecutionId::of_second(due)
        } else {
            ExecutionId::of_minute(due)
        }
    }

    /// Series of each node and execution: one of each gauge, `processing` and `duration`.
    pub(crate) fn series_per_node(&self) -> usize {
        self.config.metrics.gauges.len() + 2
    }

    /// The data of the controller's ConfigMap.
    pub(crate) fn data(&self) -> serde_json::Value {
        json!({CONFIG_KEY: self.config_yaml, POD_TEMPLATE_KEY: self.template.text()})
    }

    /// Creates the controller's namespace, ConfigMap and Service.
    pub(crate) fn create_objects(&self, api: &ApiServer) {
        let now = api.now();
        let create = |target: Target<'_>, object: serde_json::Value| {
            api.with_state(|state| state.create(now, target, object, WriteOptions::default()))
        };
        let objects = [
            (
                Target::cluster(&resource::NAMESPACES, ""),
                json!({"metadata": {"name": NAMESPACE}}),
            ),
            (
                Target::new(&resource::CONFIG_MAPS, NAMESPACE, ""),
                json!({"metadata": {"name": self.config.name}, "data": self.data()}),
            ),
        ];
        for (target, object) in objects {
            let created = create(target, object);
            created.expect("an empty cluster takes a namespace and its ConfigMap");
        }
        if let Some(name) = &self.config.callback_service_name {
            let ports = json!([{"port": self.config.callback_service_port}]);
            let service = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
            // One of a name that no Service can have does not exist on a real cluster either.
            let _ = create(Target::new(&resource::SERVICES, NAMESPACE, ""), service);
        }
    }
}

/// From one time to a later one.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_the_shortest_time_between_two_executions() {
        let of = |cron: &str| {
            let config = format!("name: a\ncronExpression: {cron}\n");
            Scenario::new(Some(&config), None).unwrap().0
        };
        assert_eq!(of("'0 * * * *'").window(1), Duration::from_hours(1));
        assert_eq!(of("'0 0,2,3 * * *'").window(1), Duration::from_hours(2));
        assert_eq!(of("'0 0,2,3 * * *'").window(3), Duration::from_hours(1));
        assert_eq!(of("'@every 90s'").window(5), Duration::from_secs(90));
    }

    #[test]
    fn everything_that_is_wrong_is_said_in_one_go() {
        let config = "name: a\ncronExpression: 0 0 30 2 *\n";
        let errors = Scenario::new(Some(config), Some("{{")).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("pod-template.yaml"), "{errors:?}");
        assert!(errors[1].contains("cronExpression"), "{errors:?}");
        let errors = Scenario::new(Some("name: a\npodPoolSize: 0\n"), None).unwrap_err();
        let all = errors.join("\n");
        assert!(
            all.contains("podPoolSize") && all.contains("cronExpression"),
            "{all}"
        );
    }
}
