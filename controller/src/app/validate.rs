//! `batch-job-controller validate`.

use super::{Extend, Failure, configuration};
use crate::args::{ConfigurationFiles, Environment};

/// Says everything that is wrong, or that nothing is.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line's answer"
)]
pub(super) async fn validate(
    files: &ConfigurationFiles,
    environment: &Environment,
    extend: &Extend,
) -> Result<(), Failure> {
    let (texts, mut failure) = if files.config.is_none() && files.pod_template.is_none() {
        configuration::from_cluster(environment).await?
    } else {
        configuration::from_files(files)
    };
    let checked = configuration::check_extended(&texts, environment, extend);
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    failure.extend(checked.errors);
    if failure.is_empty() {
        println!("the configuration is valid");
        Ok(())
    } else {
        Err(failure)
    }
}
