//! `batch-job-controller schedule`.

use jiff::Timestamp;

use super::{Failure, configuration};
use crate::args::{ConfigurationFiles, Environment, ListingFormat, ScheduleArguments};
use crate::core::schedule::{self, Schedule};
use crate::core::schedule_listing::ScheduleListing;

/// Prints the next fire times.
#[allow(clippy::print_stdout, reason = "a command line's answer")]
pub(super) async fn schedule(
    arguments: &ScheduleArguments,
    environment: &Environment,
) -> Result<(), Failure> {
    let schedule = find_schedule(arguments, environment).await?;
    let listing = ScheduleListing::new(&schedule, from(arguments), arguments.count);
    match arguments.output {
        ListingFormat::Text => print!("{}", listing.to_text()),
        ListingFormat::Json => print!("{}", listing.to_json()),
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the default of --from is now")]
fn from(arguments: &ScheduleArguments) -> Timestamp {
    arguments.from.unwrap_or_else(Timestamp::now)
}

async fn find_schedule(
    arguments: &ScheduleArguments,
    environment: &Environment,
) -> Result<Schedule, Failure> {
    if let Some(expression) = &arguments.cron {
        let (option, zone) = match (&arguments.time_zone, &environment.time_zone) {
            (Some(zone), _) => ("--time-zone", zone.as_str()),
            (None, Some(zone)) => ("environment variable TZ", zone.as_str()),
            (None, None) => ("", "UTC"),
        };
        return parse("--cron", expression, option, zone);
    }
    let (texts, failure) = match &arguments.config {
        Some(path) => configuration::from_files(&ConfigurationFiles {
            config: Some(path.clone()),
            pod_template: None,
        }),
        None => configuration::from_cluster(environment).await?,
    };
    let Some(text) = texts.config else {
        return Err(failure);
    };
    let texts = configuration::Texts {
        config: Some(text),
        pod_template: None,
    };
    let checked = configuration::check(&texts, environment);
    let Some(config) = checked.config else {
        return Err(checked.errors);
    };
    match &arguments.time_zone {
        Some(zone) => parse(
            "cronExpression",
            &config.cron_expression,
            "--time-zone",
            zone,
        ),
        None => Ok(config.schedule),
    }
}

fn parse(
    expression_key: &str,
    expression: &str,
    zone_key: &str,
    zone: &str,
) -> Result<Schedule, Failure> {
    let zone = schedule::time_zone(zone).map_err(|error| vec![format!("{zone_key}: {error}")])?;
    Schedule::parse(expression, &zone).map_err(|error| vec![format!("{expression_key}: {error}")])
}
