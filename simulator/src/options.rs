//! The options that the commands share, and how they are said on the first line of a run.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use controller::config::PoolSize;

use crate::faults::Plan;
use crate::kubelet::Lifecycle;
use crate::rng::Seed;

/// The longest of all times, in seconds: a year. Beyond it, a typo is likelier.
const SECONDS_MAX: f64 = 365.0 * 24.0 * 3600.0;

/// How fake pods live.
#[derive(Debug, Clone, Copy, Args)]
pub struct PodOptions {
    /// Seed of everything random: which pods fail, how their time is divided, the values they report
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Seconds from a pod's creation to its end, the time it is Pending included: 40, 0.5, or 20..60 for pods that take
    /// any time from 20 to 60 s
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
        let PodSeconds { least, most } = self.pod_seconds;
        Lifecycle::spread(least, most, self.failure_share)
    }
}

impl fmt::Display for PodOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--seed {} --pod-seconds {} --failure-share {}",
            self.seed, self.pod_seconds, self.failure_share
        )
    }
}

/// Where the plan of faults comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultOption {
    /// From the seed.
    Drawn,
    /// From a file, JSON or YAML.
    File(PathBuf),
}

impl FaultOption {
    /// The plan; none where there is no option.
    ///
    /// # Errors
    /// Where the file cannot be read, or is no plan.
    pub fn plan(option: Option<&Self>, seed: u64) -> anyhow::Result<Plan> {
        match option {
            None => Ok(Plan::none()),
            Some(Self::Drawn) => Ok(Plan::drawn(Seed::of_run(seed))),
            Some(Self::File(path)) => {
                let shown = path.display();
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("--faults {shown}"))?;
                Plan::parse(&text).map_err(|error| anyhow::anyhow!("--faults {shown}: {error}"))
            }
        }
    }
}

impl FromStr for FaultOption {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "drawn" => Self::Drawn,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for FaultOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drawn => f.write_str("drawn"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The lifetime of a pod: any time from `least` to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSeconds {
    /// The shortest; more than zero.
    pub least: Duration,
    /// The longest; at least `least`.
    pub most: Duration,
}

impl PodSeconds {
    /// The mean of all that are possible.
    #[must_use]
    pub fn mean(self) -> Duration {
        (self.least + self.most) / 2
    }

    /// The least time in which a pool can run the pods of these nodes: whole rounds where all pods take equally long.
    /// Else it is an estimate, by the mean: the drawn times are not known beforehand.
    #[must_use]
    pub fn ideal(self, nodes: u32, pool: NonZeroU32) -> Duration {
        if self.least == self.most {
            self.most.saturating_mul(nodes.div_ceil(pool.get()))
        } else {
            (self.mean().saturating_mul(nodes) / pool.get()).max(self.most)
        }
    }
}

/// As `--pod-seconds` takes it.
impl fmt::Display for PodSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.least.as_secs_f64())?;
        if self.most > self.least {
            write!(f, "..{}", self.most.as_secs_f64())?;
        }
        Ok(())
    }
}

fn parse_seconds(text: &str) -> Result<PodSeconds, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (parse_duration(least), parse_duration(most)) {
        (Ok(least), Ok(most)) if least <= most => Ok(PodSeconds { least, most }),
        (Ok(_), Ok(_)) => Err(format!("the shorter time first: {most}..{least}")),
        (Err(wanted), _) | (_, Err(wanted)) => Err(format!("{wanted}, or a range of them: 20..60")),
    }
}

/// A time in seconds.
///
/// # Errors
/// What is wanted instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.trim().parse().ok();
    let seconds = seconds.filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX);
    let wanted = || "wanted: seconds, more than 0 and at most a year, as in 40 or 0.5".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(wanted)
}

/// The size of a pool: a number, or a share of the nodes.
///
/// # Errors
/// What is wanted instead.
pub fn parse_pool(text: &str) -> Result<PoolSize, String> {
    let pool = match text.strip_suffix('%') {
        Some(percent) => percent
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(PoolSize::Percent),
        None => text.parse().ok().map(PoolSize::Count),
    };
    pool.ok_or_else(|| {
        "wanted: job pods at once, 1 or more, as in 500, or a share of the nodes from 1% to 100%"
            .to_owned()
    })
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

    fn seconds(least_ms: u64, most_ms: u64) -> PodSeconds {
        let [least, most] = [least_ms, most_ms].map(Duration::from_millis);
        PodSeconds { least, most }
    }

    #[test]
    fn fractions_and_ranges_of_seconds_are_allowed_and_nonsense_is_not() {
        assert_eq!(parse_seconds("0.25"), Ok(seconds(250, 250)));
        assert_eq!(parse_seconds("20..60"), Ok(seconds(20_000, 60_000)));
        for wrong in [
            "0", "-1", "inf", "nan", "two", "1e12", "", "..", "2..", "..2", "60..20", "1..inf",
        ] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        for text in ["0.25", "20..60"] {
            assert_eq!(parse_seconds(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_ideal_is_in_whole_rounds_and_by_the_mean_where_pods_differ() {
        let pool = NonZeroU32::new(10).unwrap();
        assert_eq!(
            seconds(4_000, 4_000).ideal(21, pool),
            Duration::from_secs(12)
        );
        assert_eq!(
            seconds(2_000, 6_000).ideal(21, pool),
            Duration::from_millis(8_400)
        );
        assert_eq!(seconds(2_000, 6_000).ideal(1, pool), Duration::from_secs(6));
    }

    #[test]
    fn a_pool_is_a_number_or_a_share_of_the_nodes() {
        assert_eq!(parse_pool("10%"), Ok(PoolSize::Percent(10)));
        assert_eq!(parse_pool("7").unwrap().of(1).get(), 7);
        for wrong in ["0", "-1", "0%", "101%", "ten", "%", "1.5"] {
            assert!(parse_pool(wrong).unwrap_err().contains("1%"), "{wrong}");
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
