//! The options that the commands share, and how they are said on the first line of a run.

use std::fmt;
use std::time::Duration;

use clap::Args;

use crate::kubelet::Lifecycle;

/// The longest a pod may live, in seconds: a year. Beyond it, a typo is likelier.
const POD_SECONDS_MAX: f64 = 365.0 * 24.0 * 3600.0;

/// How fake pods live.
#[derive(Debug, Clone, Copy, Args)]
pub struct PodOptions {
    /// Seed of everything random: which pods fail, how their time is divided, the values they report
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Seconds from a pod's creation to its end, the time it is Pending included; fractions are allowed
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_seconds)]
    pub pod_seconds: PodSeconds,

    /// Share of the pods that end Failed, from 0 to 1
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_share)]
    pub failure_share: f64,
}

impl PodOptions {
    /// The stages of these pods.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::steady(self.pod_seconds.0, self.failure_share)
    }
}

impl fmt::Display for PodOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--seed {} --pod-seconds {} --failure-share {}",
            self.seed,
            self.pod_seconds.0.as_secs_f64(),
            self.failure_share
        )
    }
}

/// The lifetime of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSeconds(pub Duration);

fn parse_seconds(text: &str) -> Result<PodSeconds, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= POD_SECONDS_MAX {
        Ok(PodSeconds(Duration::from_secs_f64(seconds)))
    } else {
        Err("wanted: more than 0, at most a year".to_owned())
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("wanted: a number from 0 to 1".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_seconds_are_allowed_and_nonsense_is_not() {
        assert_eq!(
            parse_seconds("0.25"),
            Ok(PodSeconds(Duration::from_millis(250)))
        );
        for wrong in ["0", "-1", "inf", "nan", "two", "1e12"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_from_nothing_to_everything() {
        assert_eq!(parse_share("0.5"), Ok(0.5));
        for wrong in ["-0.1", "1.1", "nan", "half"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
