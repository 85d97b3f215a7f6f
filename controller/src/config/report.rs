//! What `validate` says about a configuration: its errors and its warnings, a line each.

use std::fmt;

use super::raw::{ConfigError, Warning};
use super::read::read;
use super::{Config, EnvironmentDefaults};

/// All that there is to say about a `config.yaml`. Displayed as lines beginning with `error` or `warning`; nothing if
/// all is well.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The configuration, exactly if there is no error.
    pub config: Option<Config>,
    /// Wrong keys, in the order of reading.
    pub errors: Vec<ConfigError>,
    /// What its user should know.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

/// Checks a `config.yaml` without a cluster, as a start of the controller would.
#[must_use]
pub fn check(config_yaml: &str, environment: &EnvironmentDefaults) -> Report {
    let (config, errors, warnings) = read(config_yaml, environment);
    Report {
        config,
        errors,
        warnings,
    }
}
