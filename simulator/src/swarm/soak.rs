//! Replicas for long, or on many nodes: one execution after the other, each without any fault but that the leader is
//! killed or told to end in the middle of some. Every invariant is checked after every event, and each execution must
//! run every node once.

use std::num::NonZeroU32;
use std::time::Duration;

use controller::core::ids::ExecutionId;
use controller::core::state::NodeState;
use controller::core::summary::{ExecutionSummary, NodeSummary};
use controller::ports::clock::Clock as _;
use tokio::time::{Instant, sleep_until};

use super::disturbance::Timeline;
use super::options::SwarmOptions;
use super::site::Site;
use super::{Swarm, at_the_port, in_virtual_time};
use crate::apiserver::compact_history;
use crate::checker::Violation;
use crate::controllers::{self, PodGc};
use crate::event_log::EventLog;
use crate::faults::Plan;
use crate::traffic::{Counts, Traffic};
use crate::world::{Failure, Scenario, between};

/// How exactly it is seen when another replica leads, in virtual time.
const LOOK: Duration = Duration::from_millis(100);

/// A lease of the longest duration that a soak has, a take-over, and what is read again of the history.
const TAKE_OVER_MAX: Duration = Duration::from_mins(15);

/// A leader claims an execution at once.
const CLAIM_MAX: Duration = Duration::from_secs(1);

/// What a soak is made of. The same options give the same run.
#[derive(Debug, Clone)]
pub struct SoakOptions {
    /// Where everything random comes from.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u32,
    /// Slots of the pool.
    pub pool: NonZeroU32,
    /// How long each pod lives.
    pub lifetime: Duration,
    /// Daily executions.
    pub executions: u32,
    /// Further lines of `config.yaml`.
    pub config: &'static str,
    /// Whether the cluster removes ended pods above the threshold of a real one.
    pub has_pod_gc: bool,
    /// What happens to the leader, in order.
    pub stops: Vec<LeaderStop>,
}

/// What happens to the leader once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderStop {
    /// In which execution; the first is 0.
    pub execution: u32,
    /// Once so many of its pods have ended.
    pub ended: usize,
    /// In which way.
    pub stop: Stop,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At once.
    Kill,
    /// It hands over before.
    Terminate,
}

/// How another process took over.
#[derive(Debug, Clone)]
pub struct TakeOver {
    /// The execution in progress.
    pub id: ExecutionId,
    /// How the former leader ended.
    pub stop: Stop,
    /// From then, or from when it was told to end, until another one had taken up what was in progress.
    pub took: Duration,
    /// Job pods there were, ended ones included.
    pub pods: usize,
    /// What the replicas asked of the API server in that time.
    pub to_leading: Counts,
    /// What they asked until the execution had ended.
    pub to_end: Counts,
}

/// How a soak went.
#[derive(Debug, Clone)]
pub struct SoakOutcome {
    /// One for each stop.
    pub take_overs: Vec<TakeOver>,
    /// Pods that PodGC removed.
    pub collected: usize,
    /// Lines of the event log.
    pub events: u64,
    /// Its digest.
    pub digest: String,
}

/// Runs it to its end. `told` hears of the end of each execution.
///
/// # Errors
/// The first invariant that does not hold, or a node that did not run once.
///
/// # Panics
/// Where the options are no valid configuration.
pub fn soak(options: &SoakOptions, mut told: impl FnMut()) -> Result<SoakOutcome, Failure> {
    in_virtual_time(async {
        let mut traffic = Traffic::default();
        let (swarm, log) = (options.swarm(), EventLog::default());
        let mut swarm = Swarm::new(swarm, options.scenario(), log, |api, faults, _| {
            let (replicas, late_pods, asked) = at_the_port(api, faults);
            traffic = asked;
            (replicas, late_pods)
        });
        let compaction = compact_history(swarm.site.api.clone());
        swarm.running.spawn(compaction);
        if options.has_pod_gc {
            let api = swarm.site.api.clone();
            let rules = controllers::run(api, vec![Box::new(PodGc::default())]);
            swarm.running.spawn(rules);
        }
        let record = swarm.site.record.clone();
        let soaked = swarm.soak(options, &traffic, &mut told).await;
        soaked.map_err(|violation| Failure {
            violation,
            timeline: record.timeline(),
        })
    })
}

impl SoakOptions {
    fn swarm(&self) -> SwarmOptions {
        let lifetime_ms = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        SwarmOptions {
            seed: self.seed,
            replicas: 2,
            nodes: self.nodes,
            pool: self.pool,
            pod_ms: (lifetime_ms, lifetime_ms),
            failure_share: 0.0,
            retries: 0,
            max_failures: None,
            ended_pods: 0,
            executions: self.executions,
            has_shared_volume: true,
            disk_latency: Duration::ZERO,
            api_latency: Duration::ZERO,
            faults: Plan::none(),
            timeline: Timeline::default(),
            pod_gc_above: 0,
            clock_change: None,
        }
    }

    fn scenario(&self) -> Scenario {
        let config = format!(
            "name: sim\ncronExpression: '@daily'\npodPoolSize: {}\ncallbackServiceName: sim\nmetrics:\n  gauges:\n    \
             usage: {{help: Share of a mount that is in use., labels: [mount]}}\n    \
             checks: {{help: Checks that were made., labels: []}}\n{}",
            self.pool, self.config
        );
        let read = Scenario::new(Some(&config), None);
        read.unwrap_or_else(|errors| panic!("{errors:?}")).0
    }
}

impl Swarm {
    async fn soak(
        &mut self,
        options: &SoakOptions,
        traffic: &Traffic,
        told: &mut impl FnMut(),
    ) -> Result<SoakOutcome, Violation> {
        let mut stops = options.stops.iter().peekable();
        let (mut take_overs, mut collected) = (Vec::new(), 0);
        for number in 0..options.executions {
            let now = self.site.clock.wall();
            let due = self.site.scenario().config.schedule.next_after(now);
            let due = due.ok_or("no execution is due any more")?;
            self.wait_until(Instant::now() + between(now, due)).await?;
            let id = self.site.scenario().id(due);
            let bound = self.site.options.bound(options.nodes) + TAKE_OVER_MAX;
            let record = self.site.record.clone();
            let is_claimed = |_: &Site| record.state().last_scheduled_time == Some(due);
            self.until(&format!("the begin of {id}"), CLAIM_MAX, is_claimed)
                .await?;
            while let Some(stop) = stops.next_if(|stop| stop.execution == number) {
                self.until_ended_pods(&id, stop.ended, bound).await?;
                take_overs.push(self.take_over(&id, stop.stop, traffic).await?);
            }
            let summary = self.until_ended(due, bound).await?;
            self.check_summary(&summary)?;
            check_every_node_ran_once(&summary)?;
            let facts = self.site.record.facts(&id);
            collected += facts.map_or(0, |facts| facts.removed_count());
            let asked = traffic.counts();
            for TakeOver { to_end, .. } in (take_overs.iter_mut()).filter(|one| one.id == id) {
                *to_end = asked.since(to_end);
            }
            told();
        }
        self.check_end()?;
        let (events, digest) = self.site.record.digest();
        Ok(SoakOutcome {
            take_overs,
            collected,
            events,
            digest,
        })
    }

    async fn take_over(
        &mut self,
        id: &ExecutionId,
        stop: Stop,
        traffic: &Traffic,
    ) -> Result<TakeOver, Violation> {
        let leader = self.site.leader().ok_or("no replica leads")?;
        let (begun, asked) = (Instant::now(), traffic.counts());
        let former = leader.who.number;
        match stop {
            Stop::Kill => leader.life.kill(),
            Stop::Terminate => Site::terminate(leader),
        }
        let is_other = |site: &Site| {
            let leader = site.leader();
            leader.is_some_and(|leader| leader.who.number != former)
        };
        self.until("another leader", TAKE_OVER_MAX, is_other)
            .await?;
        Ok(TakeOver {
            id: id.clone(),
            stop,
            took: begun.elapsed(),
            pods: self.site.record.pod_count(),
            to_leading: traffic.counts().since(&asked),
            to_end: asked,
        })
    }

    /// Waits until so many pods of the execution have ended.
    async fn until_ended_pods(
        &mut self,
        id: &ExecutionId,
        count: usize,
        bound: Duration,
    ) -> Result<(), Violation> {
        let begun = Instant::now();
        let record = self.site.record.clone();
        while record.ended(id) < count {
            if begun.elapsed() >= bound {
                let seconds = bound.as_secs();
                return Err(format!(
                    "the end of {count} pods of {id} does not come within {seconds} s"
                ));
            }
            self.wait_for(async {
                tokio::select! {
                    biased;
                    () = record.pods_changed() => {}
                    () = sleep_until(begun + bound) => {}
                }
            })
            .await?;
            // The others of the same moment end, too.
            self.wait_until(Instant::now() + LOOK).await?;
        }
        Ok(())
    }

    /// Waits until it is so.
    async fn until(
        &mut self,
        what: &str,
        bound: Duration,
        is_so: impl Fn(&Site) -> bool,
    ) -> Result<(), Violation> {
        let last = Instant::now() + bound;
        while !is_so(&self.site) {
            if Instant::now() >= last {
                let seconds = bound.as_secs();
                return Err(format!("{what} does not come within {seconds} s"));
            }
            self.wait_until(Instant::now() + LOOK).await?;
        }
        Ok(())
    }
}

/// Every node has succeeded at its first attempt.
fn check_every_node_ran_once(summary: &ExecutionSummary) -> Result<(), Violation> {
    let is_well = |node: &NodeSummary| node.state == NodeState::Succeeded && node.attempts == 1;
    match summary.nodes.iter().find(|node| !is_well(node)) {
        Some(node) => Err(format!(
            "in {} this node did not run once: {node:?}",
            summary.id
        )),
        None => Ok(()),
    }
}
