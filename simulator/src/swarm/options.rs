//! What a run of the swarm is made of, drawn from its seed: sizes, durations and which faults are on.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::disturbance::{Disturbance, Timeline};
use crate::faults::{Kind, Plan};
use crate::kubelet::{Lifecycle, Stage, Step};
use crate::rng::{Seed, Stream};
use crate::world::Scenario;

/// Time between two executions that are due.
pub(super) const PERIOD: Duration = Duration::from_mins(20);

/// The controller's name.
pub(super) const OWNER: &str = "sim";

/// What stands before the version of the template in its image.
const IMAGE_VERSION: &str = ":1.0.";

/// The version of the template that an image is of.
pub(super) fn version_of_image(image: &str) -> Option<u32> {
    image.rsplit_once(IMAGE_VERSION)?.1.parse().ok()
}

/// A pool full of the slowest pods brings an execution to its end within this time, where nothing fails.
const ROUNDS_TIME_MAX_MS: u64 = 8 * 60 * 1000;

/// A slow API server, for one object.
const API_LATENCY_MS_MAX: u64 = 50;

/// What a run is made of. The same options give the same run.
#[derive(Debug, Clone)]
pub struct SwarmOptions {
    /// Where everything random comes from.
    pub seed: u64,
    /// Replicas of the controller.
    pub replicas: u32,
    /// Nodes there are at the begin.
    pub nodes: u32,
    /// Slots of the pool.
    pub pool: NonZeroU32,
    /// How long pods live, in milliseconds.
    pub pod_ms: (u64, u64),
    /// Share of the pods that fail.
    pub failure_share: f64,
    /// Further attempts on a node whose pod failed.
    pub retries: u32,
    /// Nodes that may fail, and what happens beyond that; none: as many as do.
    pub max_failures: Option<MaxFailures>,
    /// Ended pods that are kept.
    pub ended_pods: u32,
    /// Executions that are due while faults happen.
    pub executions: u32,
    /// Whether the replicas share a volume.
    pub has_shared_volume: bool,
    /// What an access to the volume takes.
    pub disk_latency: Duration,
    /// How long answers of the API server are on their way.
    pub api_latency: Duration,
    /// Ended pods above which the cluster collects them.
    pub pod_gc_above: u32,
    /// Where clocks are put forward or back while the run lasts: how, and under which schedule.
    pub clock_change: Option<ClockChange>,
    /// What breaks between the replicas and the API server.
    pub faults: Plan,
    /// What else happens.
    pub timeline: Timeline,
}

/// `maxFailures` and `failurePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxFailures {
    /// So many nodes may fail.
    pub nodes: u32,
    /// Whether no pod is created beyond that; else the execution goes on.
    pub is_fail_fast: bool,
}

impl MaxFailures {
    fn drawn(stream: &mut Stream, nodes: u32) -> Option<Self> {
        (stream.between(0, 2) == 0).then(|| Self {
            nodes: uneven(stream, 0, nodes.div_ceil(4)),
            is_fail_fast: stream.between(0, 2) > 0,
        })
    }

    /// As a configuration has it.
    fn text(self) -> String {
        let policy = if self.is_fail_fast {
            "FailFast"
        } else {
            "Continue"
        };
        let nodes = self.nodes;
        format!("maxFailures: {nodes}\nfailurePolicy: {policy}\n")
    }
}

/// A change of the clocks in Europe/Berlin during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockChange {
    /// Whether an hour is skipped; else one comes twice.
    pub is_forward: bool,
    /// Whether the schedule names its times, so that none is lost or run twice; else it follows the wall clock.
    pub has_fixed_times: bool,
}

impl ClockChange {
    /// When.
    pub(super) fn at(self) -> Timestamp {
        let text = if self.is_forward {
            "2026-03-29T01:00:00Z"
        } else {
            "2026-10-25T01:00:00Z"
        };
        text.parse().expect("it is a timestamp")
    }
}

/// From the begin of a run to the change of its clocks: the second execution is due at it.
pub(super) const CLOCKS_CHANGE_AFTER: Duration = Duration::from_secs(20 * 60 + 10);

/// What a command line says instead of the seed.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Replicas, instead of 1 to 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    pub replicas: Option<u32>,

    /// Nodes, instead of 5 to 200
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub nodes: Option<u32>,

    /// Executions that are due while faults happen, instead of 1 to 3
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub executions: Option<u32>,

    /// Only these kinds of fault, of those that the seed has
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<AnyKind>,

    /// Without these kinds of fault
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub without: Vec<AnyKind>,
}

/// A kind of fault, wherever it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnyKind {
    /// Between a replica and the API server.
    Fault(Kind),
    /// To processes, volumes, clocks and nodes.
    Disturbance(Disturbance),
}

impl AnyKind {
    /// Every kind that a sweep has.
    pub fn all() -> impl Iterator<Item = Self> {
        let faults = Kind::ALL.iter().filter(|kind| kind.is_in_process());
        let disturbances = Disturbance::ALL.iter();
        (faults.map(|kind| Self::Fault(*kind)))
            .chain(disturbances.map(|kind| Self::Disturbance(*kind)))
    }

    /// Its name in options and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault(kind) => kind.name(),
            Self::Disturbance(kind) => kind.name(),
        }
    }

    /// Its row in the harness's catalogue.
    #[must_use]
    pub fn row(self) -> u8 {
        match self {
            Self::Fault(kind) => kind.row(),
            Self::Disturbance(kind) => kind.row(),
        }
    }
}

impl std::str::FromStr for AnyKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            format!("there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for AnyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// As a command line takes them.
impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("replicas", self.replicas),
            ("nodes", self.nodes),
            ("executions", self.executions),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, " --{name} {number}")?;
            }
        }
        for (name, kinds) in [("only", &self.only), ("without", &self.without)] {
            if !kinds.is_empty() {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                write!(f, " --{name} {}", kinds.join(","))?;
            }
        }
        Ok(())
    }
}

/// A number between these of which small ones are likelier.
fn uneven(stream: &mut Stream, low: u32, high: u32) -> u32 {
    let width = f64::from(high - low);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between two small numbers"
    )]
    let above = (width * stream.unit().powi(2)).round() as u32;
    low + above
}

impl SwarmOptions {
    /// What a seed is, but for what the command line says.
    #[must_use]
    pub fn drawn(seed: u64, overrides: &Overrides) -> Self {
        let of_run = Seed::of_run(seed).child("swarm");
        let mut stream = of_run.stream("sizes");
        let replicas = uneven(&mut stream, 0, 2);
        let nodes = uneven(&mut stream, 5, 200);
        let rounds = uneven(&mut stream, 1, 12);
        let longest_ms =
            stream.between(2_000, (ROUNDS_TIME_MAX_MS / u64::from(rounds)).min(120_000));
        let shortest_ms = stream.between(1_000, longest_ms);
        let is_steady = stream.between(0, 2) == 0;
        let failure_share = if stream.between(0, 1) == 0 {
            0.0
        } else {
            stream.unit() * 0.3
        };
        let ended_pods = if stream.between(0, 2) == 0 {
            uneven(&mut stream, 0, 20)
        } else {
            1_000
        };
        let retries = uneven(&mut stream, 0, 2);
        let executions = uneven(&mut stream, 1, 3);
        // Several replicas need one that they share.
        let has_shared_volume = stream.between(0, 3) > 0 || 3 - replicas > 1;
        let disk_latency = Duration::from_millis(stream.between(0, 20));
        let nodes = overrides.nodes.unwrap_or(nodes);
        let pod_gc_above = uneven(&mut of_run.stream("pod-gc"), 0, nodes);
        let api_latency =
            Duration::from_millis(of_run.stream("api-latency").between(0, API_LATENCY_MS_MAX));
        let max_failures = MaxFailures::drawn(&mut of_run.stream("max-failures"), nodes);
        let mut stream = of_run.stream("clock-change");
        let clock_change = ClockChange {
            is_forward: stream.between(0, 1) == 0,
            has_fixed_times: stream.between(0, 1) == 0,
        };
        let mut options = Self {
            seed,
            // Three more often than two: the first of the list is drawn most often.
            replicas: overrides.replicas.unwrap_or(3 - replicas),
            nodes,
            pool: NonZeroU32::new(nodes.div_ceil(rounds)).unwrap_or(NonZeroU32::MIN),
            pod_ms: (if is_steady { longest_ms } else { shortest_ms }, longest_ms),
            failure_share,
            retries,
            max_failures,
            ended_pods,
            executions: overrides.executions.unwrap_or(executions),
            has_shared_volume,
            disk_latency,
            api_latency,
            pod_gc_above,
            clock_change: Some(clock_change),
            faults: Plan::drawn(of_run).in_process(),
            timeline: Timeline::drawn(of_run),
        };
        options.keep(overrides);
        options
    }

    fn keep(&mut self, overrides: &Overrides) {
        let is_kept = |kind: AnyKind| {
            let is_named = overrides.only.is_empty() || overrides.only.contains(&kind);
            is_named && !overrides.without.contains(&kind)
        };
        self.faults.retain(|kind| is_kept(AnyKind::Fault(kind)));
        self.timeline
            .retain(|kind| is_kept(AnyKind::Disturbance(kind)));
        if !self.timeline.enables(Disturbance::ClockChange) {
            self.clock_change = None;
        }
    }

    /// Nodes there may be in the end: some join.
    pub(super) fn nodes_max(&self) -> u32 {
        self.nodes + self.nodes / 2 + 10
    }

    /// Slots of the pool in that version of the configuration: every other one halves it.
    pub(super) fn pool_of(&self, version: u32) -> NonZeroU32 {
        if version.is_multiple_of(2) {
            return self.pool;
        }
        NonZeroU32::new(self.pool.get().div_ceil(2)).unwrap_or(NonZeroU32::MIN)
    }

    /// What the replicas are told, in that version. Its image tells the version.
    pub(super) fn scenario(&self, version: u32) -> Scenario {
        let cron = match self.clock_change {
            Some(change) if change.has_fixed_times => "0,20,40 0-23 * * *",
            _ => "*/20 * * * *",
        };
        // Elsewhere it would end what nobody notices.
        let run_deadline = if self.timeline.enables(Disturbance::PodHangs) {
            "podRunDeadline: 5m\n"
        } else {
            ""
        };
        let max_failures = self.max_failures.map(MaxFailures::text);
        let max_failures = max_failures.unwrap_or_default();
        let config = format!(
            "name: {OWNER}\ncronExpression: '{cron}'\npodPoolSize: {}\nreportHistory: 3\n\
             timeZone: Europe/Berlin\n\
             callbackServiceName: sim\nretries: {}\nendedPods: {}\npodStartDeadline: 2m\n\
             {run_deadline}{max_failures}nodeLostTimeout: 1m\nmetrics:\n  gauges:\n    \
             usage: {{help: Share of a mount that is in use., labels: [mount]}}\n    \
             checks: {{help: Checks that were made., labels: []}}\n",
            self.pool_of(version),
            self.retries,
            self.ended_pods
        );
        let standard = Scenario::standard();
        let template = standard.template.text();
        let template = template.replace(":1.0.0", &format!("{IMAGE_VERSION}{version}"));
        let read = Scenario::new(Some(&config), Some(&template));
        let mut scenario = read.expect("the configuration of the swarm is valid").0;
        if let Some(change) = self.clock_change {
            scenario.start =
                change.at() - SignedDuration::try_from(CLOCKS_CHANGE_AFTER).unwrap_or_default();
        }
        scenario
    }

    /// How the pods live.
    pub(super) fn lifecycle(&self) -> Lifecycle {
        let (least, most) = (
            Duration::from_millis(self.pod_ms.0),
            Duration::from_millis(self.pod_ms.1),
        );
        let lifecycle = Lifecycle::spread(least, most, self.failure_share);
        let odd = |kind, from, to| {
            self.timeline.enables(kind).then_some(Stage {
                from,
                delay_ms_min: self.pod_ms.0 / 2,
                delay_ms_max: self.pod_ms.0 / 2,
                weight: 1,
                to,
            })
        };
        let never = Disturbance::PodNeverStarts;
        let stages = [
            odd(never, Step::Creating, Step::ImagePullBackOff),
            odd(never, Step::Creating, Step::InvalidImageName),
            odd(never, Step::Accepted, Step::OutOfPods),
            odd(Disturbance::PodEvicted, Step::Running, Step::Evicted),
            odd(Disturbance::PodHangs, Step::Running, Step::Hanging),
        ];
        lifecycle.with_rare(stages.into_iter().flatten())
    }

    /// Within this time an execution ends once nothing fails any more.
    pub(super) fn bound(&self, nodes: u32) -> Duration {
        let is_changed = self.timeline.enables(Disturbance::ConfigChanged);
        let pool = self.pool_of(u32::from(is_changed));
        let rounds = nodes.div_ceil(pool.get()) * (self.retries + 1);
        // A pod that hangs holds its slot for the run deadline and the time it has to stop; posts are repeated for a
        // minute each.
        let odd = Duration::from_mins(10);
        let longest = Duration::from_millis(self.pod_ms.1) + Duration::from_secs(1);
        let hangs = if self.timeline.enables(Disturbance::PodHangs)
            || self.timeline.enables(Disturbance::PodNeverStarts)
        {
            odd * rounds
        } else {
            odd
        };
        longest * rounds + hangs
    }
}

impl fmt::Display for SwarmOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} replicas with {}, {} nodes, pool {}, pods of {}..{} s of which {:.0} % fail{}, {} retries, {} ended \
             pods kept, PodGC above {}, {} executions, a disk of {} ms, an API server of {} ms{}; {}; {}",
            self.seed,
            self.replicas,
            if self.has_shared_volume {
                "a volume"
            } else {
                "a volume each"
            },
            self.nodes,
            self.pool,
            Duration::from_millis(self.pod_ms.0).as_secs_f64(),
            Duration::from_millis(self.pod_ms.1).as_secs_f64(),
            self.failure_share * 100.0,
            match self.max_failures {
                None => String::new(),
                Some(MaxFailures {
                    nodes,
                    is_fail_fast: true,
                }) => format!(" and stop it above {nodes}"),
                Some(MaxFailures {
                    nodes,
                    is_fail_fast: false,
                }) => format!(" and fail it above {nodes}"),
            },
            self.retries,
            self.ended_pods,
            self.pod_gc_above,
            self.executions,
            self.disk_latency.as_millis(),
            self.api_latency.as_millis(),
            match self.clock_change {
                None => "",
                Some(ClockChange {
                    is_forward: true,
                    has_fixed_times: false,
                }) => ", clocks put forward",
                Some(ClockChange {
                    is_forward: true,
                    has_fixed_times: true,
                }) => ", clocks put forward and fixed times",
                Some(ClockChange {
                    is_forward: false,
                    has_fixed_times: false,
                }) => ", clocks put back",
                Some(ClockChange {
                    is_forward: false,
                    has_fixed_times: true,
                }) => ", clocks put back and fixed times",
            },
            self.timeline,
            self.faults.kinds(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_by_its_name_also_where_the_two_lists_meet() {
        for kind in AnyKind::all() {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
    }
}
