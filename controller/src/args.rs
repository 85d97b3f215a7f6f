//! The command line and the environment: the only reader of both.

#![allow(
    clippy::doc_markdown,
    reason = "clap prints these comments as they are"
)]

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::config::EnvironmentDefaults;
use crate::core::ids::ExecutionId;
use crate::core::state::NodeState;

/// Runs a job pod on every matching node of a Kubernetes cluster, on a cron schedule, a bounded number at a time.
///
/// Job pods post results, files and events back: results become Prometheus gauges, files a browsable history. The
/// configuration is a ConfigMap with the keys config.yaml and pod-template.yaml.
#[derive(Debug, Parser)]
#[command(name = "batch-job-controller", version, max_term_width = 110)]
pub struct Arguments {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller (the default).
    ///
    /// It is told by the environment: NAMESPACE and CONFIG_MAP_NAME (required), POD_NAME, POD_IP, REPORT_DIRECTORY, TZ,
    /// LISTEN_ADDRESS, DEV_MODE, KUBECONFIG (else the pod's service account) and RUST_LOG.
    Run,
    /// Check the configuration: every wrong key at once, and warnings for unknown ones.
    ///
    /// Works without a cluster on files. Without files it reads the ConfigMap that NAMESPACE and CONFIG_MAP_NAME name
    /// from the cluster. Exit status 1 where something is wrong.
    Validate(ConfigurationFiles),
    /// Print the job pod of a node as it would be created.
    ///
    /// Works without a cluster on files; what is not given as a file comes from the cluster's ConfigMap. The owner
    /// reference and the callback token, which only the running controller has, are left out.
    Render(RenderArguments),
    /// Print the next times at which the schedule is due.
    ///
    /// In UTC and on the wall clock of the schedule's time zone, with notes where a clock change skips or repeats a
    /// time. Works without a cluster on --cron or --config; without either it reads the cluster's ConfigMap.
    Schedule(ScheduleArguments),
    /// Serve the callback API alone, to write a job's script against.
    ///
    /// Any node and execution may post; reports are checked and stored as the controller does it, and everything that
    /// arrives is printed: results with the series they become, events, refusals with their reason. At the start it
    /// prints requests to try and the environment of a job pod. Works without a cluster; Ctrl-C ends it.
    Mock(MockArguments),
    /// Start an execution now, also while the schedule is suspended.
    ///
    /// Sets the annotation batch-job-controller.bakito.github.com/trigger of the controller's ConfigMap, which a person
    /// can do as well: any new value asks for an execution over all eligible nodes. An execution in progress is
    /// replaced where concurrencyPolicy is Replace; else the controller refuses, with a Kubernetes event.
    Trigger(TriggerArguments),
    /// End the execution in progress: running job pods are deleted, the other nodes are notStarted.
    ///
    /// Sets the annotation batch-job-controller.bakito.github.com/cancel of the controller's ConfigMap to a new value.
    Cancel(ControllerArguments),
}

/// Which controller is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct ControllerArguments {
    /// The controller's namespace [default: the environment variable NAMESPACE].
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The controller's ConfigMap [default: the environment variable CONFIG_MAP_NAME].
    #[arg(long, value_name = "NAME")]
    pub config_map: Option<String>,
}

/// Arguments of `trigger`.
#[derive(Debug, Args)]
pub struct TriggerArguments {
    /// Only these of the eligible nodes: a label selector such as disk=ssd, 'zone in (a,b)' or '!virtual'.
    #[arg(long, value_name = "SELECTOR")]
    pub nodes: Option<String>,
    /// Only nodes of this kept execution.
    #[arg(long, value_name = "ID", value_parser = execution_id)]
    pub from: Option<ExecutionId>,
    /// With --from, its nodes that ended in one of these states [default: failed,lost,notStarted].
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = node_state, requires = "from")]
    pub only: Vec<NodeState>,
    /// Which controller is meant.
    #[command(flatten)]
    pub controller: ControllerArguments,
}

fn execution_id(text: &str) -> Result<ExecutionId, String> {
    ExecutionId::parse(text)
        .ok_or_else(|| "want a time in UTC as yyyyMMddHHmm or yyyyMMddHHmmss".to_owned())
}

fn node_state(text: &str) -> Result<NodeState, String> {
    let mut states = NodeState::ALL.into_iter().filter(|state| state.is_final());
    states
        .find(|state| state.as_str() == text)
        .ok_or_else(|| "want succeeded, failed, lost, notStarted or excluded".to_owned())
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigurationFiles {
    /// A file with the controller's configuration (the ConfigMap's key config.yaml).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A file with the job pod's template (the ConfigMap's key pod-template.yaml).
    #[arg(long, value_name = "FILE")]
    pub pod_template: Option<PathBuf>,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListingFormat {
    /// Columns for people.
    Text,
    /// A JSON list of UTC instants.
    Json,
}

/// Arguments of `render`.
#[derive(Debug, Args)]
pub struct RenderArguments {
    /// The node the pod would run on.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// The execution the pod would belong to [default: the current minute in UTC, as yyyyMMddHHmm].
    #[arg(long, value_name = "ID")]
    pub execution_id: Option<String>,
    /// The namespace of the pod [default: the environment variable NAMESPACE, else default].
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where the pod would call back [default: the name of the Service callbackServiceName, else the environment
    /// variable POD_IP, else 127.0.0.1].
    #[arg(long, value_name = "HOST")]
    pub callback_address: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub files: ConfigurationFiles,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "yaml")]
    pub output: DataFormat,
}

/// Arguments of `schedule`.
#[derive(Debug, Args)]
pub struct ScheduleArguments {
    /// A cron expression: five fields, @daily and the like, @every 1h30m, with an optional prefix CRON_TZ=.
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "config")]
    pub cron: Option<String>,
    /// The time zone the expression is evaluated in, an IANA name such as Europe/Zurich [default: the configuration's
    /// timeZone, else the environment variable TZ, else UTC].
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// A file with the controller's configuration (the ConfigMap's key config.yaml).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The instant after which to look, RFC 3339 such as 2026-01-01T00:00:00Z [default: now].
    #[arg(long, value_name = "INSTANT")]
    pub from: Option<Timestamp>,
    /// How many times to print.
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub count: usize,
    /// How to print them.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ListingFormat,
}

/// Arguments of `mock`.
#[derive(Debug, Args)]
pub struct MockArguments {
    /// The port to listen on, 0 for any that is free [default: the configuration's callbackServicePort, 8090].
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The address to listen on; 0.0.0.0 for jobs in containers.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// A file with the controller's configuration (the ConfigMap's key config.yaml), for its gauges and limits.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where reports are stored [default: the environment variable REPORT_DIRECTORY, else a new temporary directory,
    /// which stays].
    #[arg(long, value_name = "DIRECTORY")]
    pub report_directory: Option<PathBuf>,
}

/// The environment variables that the controller reads; an empty one counts as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NAMESPACE`.
    pub namespace: Option<String>,
    /// `CONFIG_MAP_NAME`.
    pub config_map_name: Option<String>,
    /// `POD_NAME`, else `HOSTNAME`.
    pub pod_name: Option<String>,
    /// `POD_IP`.
    pub pod_ip: Option<String>,
    /// `REPORT_DIRECTORY`.
    pub report_directory: Option<PathBuf>,
    /// `TZ`, without a colon before it.
    pub time_zone: Option<String>,
    /// `LISTEN_ADDRESS`, as it was found.
    pub listen_address: Option<String>,
    /// `DEV_MODE=true`.
    pub dev_mode: bool,
    /// `RUST_LOG`.
    pub log_filter: Option<String>,
}

/// The variables without which the cluster's ConfigMap cannot be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapReference {
    /// `NAMESPACE`.
    pub namespace: String,
    /// `CONFIG_MAP_NAME`.
    pub name: String,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one reader of the environment"
    )]
    pub fn read() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        Self {
            namespace: set("NAMESPACE"),
            config_map_name: set("CONFIG_MAP_NAME"),
            pod_name: set("POD_NAME").or_else(|| set("HOSTNAME")),
            pod_ip: set("POD_IP"),
            report_directory: set("REPORT_DIRECTORY").map(PathBuf::from),
            // POSIX allows a colon before a name of the database.
            time_zone: set("TZ")
                .map(|zone| zone.trim_start_matches(':').to_owned())
                .filter(|zone| !zone.is_empty()),
            listen_address: set("LISTEN_ADDRESS"),
            dev_mode: set("DEV_MODE").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            log_filter: set("RUST_LOG"),
        }
    }

    /// What the configuration falls back on.
    #[must_use]
    pub fn defaults(&self) -> EnvironmentDefaults {
        EnvironmentDefaults {
            time_zone: self.time_zone.clone(),
            report_directory: self.report_directory.clone(),
        }
    }

    /// Where the ConfigMap is.
    ///
    /// # Errors
    /// A line for each variable that is not set.
    pub fn config_map(&self) -> Result<ConfigMapReference, Vec<String>> {
        match (&self.namespace, &self.config_map_name) {
            (Some(namespace), Some(name)) => Ok(ConfigMapReference {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
            (namespace, name) => {
                let mut missing = Vec::new();
                if namespace.is_none() {
                    missing.push("environment variable NAMESPACE: not set, want the namespace of the controller".to_owned());
                }
                if name.is_none() {
                    missing.push(
                        "environment variable CONFIG_MAP_NAME: not set, want the name of the ConfigMap with the keys \
                         config.yaml and pod-template.yaml"
                            .to_owned(),
                    );
                }
                Err(missing)
            }
        }
    }

    /// The same with what the command line says first.
    #[must_use]
    pub fn of(&self, controller: &ControllerArguments) -> Self {
        let or = |said: &Option<String>, found: &Option<String>| said.clone().or(found.clone());
        Self {
            namespace: or(&controller.namespace, &self.namespace),
            config_map_name: or(&controller.config_map, &self.config_map_name),
            ..self.clone()
        }
    }

    /// The address to listen on; none for every address.
    ///
    /// # Errors
    /// A line where it is no IP address.
    pub fn listen_address(&self) -> Result<Option<IpAddr>, String> {
        let Some(text) = &self.listen_address else {
            return Ok(None);
        };
        let address = text.parse().map_err(|_| {
            format!("environment variable LISTEN_ADDRESS: found {text:?}, want an IP address such as 127.0.0.1")
        })?;
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let missing = environment(&[("NAMESPACE", "")]).config_map().unwrap_err();
        assert_eq!(missing.len(), 2);
        assert!(missing[0].contains("NAMESPACE") && missing[1].contains("CONFIG_MAP_NAME"));
    }

    #[test]
    fn the_host_name_stands_in_for_the_pod_name() {
        assert_eq!(
            environment(&[("HOSTNAME", "h")]).pod_name.as_deref(),
            Some("h")
        );
        assert_eq!(
            environment(&[("HOSTNAME", "h"), ("POD_NAME", "p")])
                .pod_name
                .as_deref(),
            Some("p")
        );
    }

    #[test]
    fn a_colon_before_the_time_zone_is_not_part_of_its_name() {
        for (found, zone) in [
            (":Europe/Zurich", Some("Europe/Zurich")),
            ("UTC", Some("UTC")),
            (":", None),
        ] {
            assert_eq!(environment(&[("TZ", found)]).time_zone.as_deref(), zone);
        }
    }

    #[test]
    fn a_listen_address_that_is_none_is_refused_by_name() {
        let error = environment(&[("LISTEN_ADDRESS", "localhost")])
            .listen_address()
            .unwrap_err();
        assert!(error.contains("LISTEN_ADDRESS") && error.contains("localhost"));
    }
}
