//! After the faults: within a computed time what is in progress ends, then an execution that is due begins and ends
//! just as its pods do, and what was acknowledged is there and exported.

use std::collections::BTreeSet;
use std::time::Duration;

use controller::core::by_hand::Handled;
use controller::core::ids::ExecutionId;
use controller::core::state::{NodeState, Reason};
use controller::core::summary::{self, ExecutionSummary};
use controller::ports::clock::Clock as _;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::Swarm;
use super::options::PERIOD;
use crate::checker::Violation;
use crate::state::{Target, resource};
use crate::world::{HEALING_TIME, NAMESPACE, between};

/// After a change of the state record the end of something is looked for so much later, in virtual time.
const LOOK: Duration = Duration::from_secs(1);

/// Without faults the end of a pod is in the journal within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// For a lease to run out, a leader to take over, and the metrics to come back.
const TAKE_OVER: Duration = Duration::from_mins(2);

/// Ticks that may be dropped in a row, because what was missed is run late.
const DROPPED_MAX: u32 = 3;

impl Swarm {
    /// Everything works from now on.
    pub(super) async fn heal(&mut self) -> Result<(), Violation> {
        self.site.record.note(format_args!("everything heals"));
        self.site.heal();
        // Nodes that are away come back in this time, and pods are stopped.
        self.wait_until(Instant::now() + Duration::from_mins(3))
            .await?;
        self.site.remove_stuck_pods();
        Ok(())
    }

    pub(super) async fn come_right(&mut self) -> Result<(), Violation> {
        let healed = self.site.clock.wall();
        let bound = self.site.options.bound(self.site.options.nodes_max());
        self.until_over(healed, HEALING_TIME + bound).await?;
        let epoch = self.site.record.state().epoch;
        let summary = self.next_execution(bound).await?;
        self.check_summary(&summary)?;
        self.wait_until(Instant::now() + TAKE_OVER).await?;
        self.check_end()?;
        let changes = self.site.record.state().epoch - epoch;
        if changes > 0 {
            return Err(format!(
                "without any fault the leader has changed {changes} times"
            ));
        }
        Ok(())
    }

    /// Waits until what was in progress then is not any more.
    async fn until_over(&mut self, then: Timestamp, bound: Duration) -> Result<(), Violation> {
        let last = Instant::now() + bound;
        loop {
            let in_progress = self.site.record.state().in_progress;
            let is_older = |due: Timestamp| due <= then;
            if !in_progress.is_some_and(|claim| is_older(claim.scheduled_time)) {
                return Ok(());
            }
            if Instant::now() >= last {
                let state = self.site.record.state();
                return Err(format!(
                    "what was in progress when everything healed has not ended within {} s: {state:?}",
                    bound.as_secs()
                ));
            }
            let record = self.site.record.clone();
            self.wait_for(async {
                tokio::select! {
                    biased;
                    () = record.state_changed() => {}
                    () = sleep_until(last) => {}
                }
            })
            .await?;
            self.wait_until(Instant::now() + LOOK).await?;
        }
    }

    /// Waits for the end of the next execution that is due.
    async fn next_execution(&mut self, bound: Duration) -> Result<ExecutionSummary, Violation> {
        for _ in 0..=DROPPED_MAX {
            let now = self.site.clock.wall();
            let last = self.site.record.state().last_scheduled_time;
            let from = last.map_or(now, |last| last.max(now));
            let schedule = self.site.scenario().config.schedule;
            let Some(due) = schedule.next_after(from) else {
                return Err("no execution is due any more".to_owned());
            };
            let begins = Instant::now() + between(now, due);
            self.wait_until(begins - LOOK).await?;
            // Of an execution that ended meanwhile.
            self.site.remove_stuck_pods();
            self.wait_until(begins).await?;
            let is_busy = self.site.record.state().in_progress.is_some();
            self.wait_until(begins + Duration::from_secs(30)).await?;
            let state = self.site.record.state();
            let claim = state.in_progress.as_ref();
            let is_begun = claim.is_some_and(|claim| claim.scheduled_time == due);
            if is_begun || self.site.record.id(due).is_some() {
                self.delete_a_running_pod().await?;
                return self.until_ended(due, bound).await;
            }
            if !is_busy {
                return Err(format!(
                    "nothing was in progress, and the execution that is due at {due} has not begun: {state:?}"
                ));
            }
            self.until_over(due, bound + PERIOD).await?;
        }
        Err(format!(
            "the executions of {DROPPED_MAX} times in a row were dropped"
        ))
    }

    /// Somebody deletes a pod: its end is noticed at once, and not only when the pods are listed again.
    async fn delete_a_running_pod(&mut self) -> Result<(), Violation> {
        let in_progress = self.site.record.state().in_progress;
        let Some(id) = in_progress.and_then(|claim| claim.id) else {
            return Ok(());
        };
        let Some(pod) = self.site.delete_a_running_pod(&id) else {
            return Ok(());
        };
        self.wait_until(Instant::now() + NOTICED_WITHIN).await?;
        if self.site.options.has_shared_volume && !self.site.record.is_end_told(&id, &pod) {
            return Err(format!(
                "pod {pod} was deleted, and that was not noticed within {} s",
                NOTICED_WITHIN.as_secs()
            ));
        }
        Ok(())
    }

    pub(super) async fn until_ended(
        &mut self,
        due: Timestamp,
        bound: Duration,
    ) -> Result<ExecutionSummary, Violation> {
        self.until_over(due, bound).await?;
        let id = self.site.record.id(due);
        let id = id.ok_or_else(|| format!("the execution that was due at {due} has not begun"))?;
        self.summary(&id)
            .ok_or_else(|| format!("execution {id} has ended, and no summary says so"))
    }

    /// The summary of an execution, on whichever volume it is.
    fn summary(&self, id: &ExecutionId) -> Option<ExecutionSummary> {
        let volumes = self.site.volumes();
        let mut found = volumes.iter().filter_map(|volume| {
            let bytes = volume.store().get(id, summary::FILE_NAME)?;
            serde_json::from_slice::<ExecutionSummary>(&bytes).ok()
        });
        found.find(|summary| summary.end_time.is_some())
    }

    /// An execution without faults is just what its pods were.
    pub(super) fn check_summary(&self, summary: &ExecutionSummary) -> Result<(), Violation> {
        let id = ExecutionId::parse(&summary.id).ok_or("a summary of no execution")?;
        let nodes = (self.site.api).read(|state| state.count(&resource::NODES));
        if summary.nodes.len() != nodes {
            return Err(format!(
                "execution {id} has {} nodes, and there are {nodes}",
                summary.nodes.len()
            ));
        }
        let count = |state| {
            let count = summary.counts.get(&state);
            count.map_or(0, |count| *count as usize)
        };
        let succeeded = self
            .site
            .record
            .facts(&id)
            .map_or(0, |facts| facts.succeeded());
        if count(NodeState::Succeeded) != succeeded {
            return Err(format!(
                "execution {id} counts {:?}, and the pods of {succeeded} nodes succeeded",
                summary.counts
            ));
        }
        let unexplained = summary.nodes.iter().find(|node| {
            let is_of_pod = matches!(
                node.reason,
                None | Some(
                    Reason::PodFailed
                        | Reason::Evicted
                        | Reason::Deleted
                        | Reason::OutOfPods
                        | Reason::ImagePull
                        | Reason::RunDeadline
                        | Reason::NodeLost
                        | Reason::NotReady
                        | Reason::Unschedulable
                        | Reason::MaxFailures
                )
            );
            !is_of_pod || node.state == NodeState::Succeeded && node.samples == 0
        });
        if let Some(node) = unexplained {
            return Err(format!(
                "without any fault node {node:?} of {id} is not well"
            ));
        }
        let excluded = summary
            .nodes
            .iter()
            .filter(|node| node.state == NodeState::Excluded);
        if let Some(node) = excluded
            .map(|node| &node.node)
            .find(|node| self.site.record.is_eligible(node))
        {
            return Err(format!(
                "execution {id} leaves out {node}, which is eligible"
            ));
        }
        let told: BTreeSet<&String> = summary
            .nodes
            .iter()
            .flat_map(|node| &node.reports)
            .collect();
        for volume in self.site.volumes() {
            let acknowledged = self.site.record.acknowledged(&volume, &id);
            if let Some(name) = acknowledged.iter().find(|name| !told.contains(name)) {
                return Err(format!(
                    "{id}/{name} was acknowledged, and the summary does not name it"
                ));
            }
        }
        Ok(())
    }

    /// One leads and exports what was acknowledged; the others export nothing of it.
    pub(super) fn check_end(&self) -> Result<(), Violation> {
        let site = &self.site;
        let running = site.running();
        let leaders: Vec<_> = running.iter().filter(|process| process.leads()).collect();
        let [leader] = leaders[..] else {
            return Err(format!("{} replicas lead", leaders.len()));
        };
        for process in &running {
            site.record.check_kept(process.volume());
            let series = process.metrics.series_count();
            if !process.leads() && series > 0 {
                return Err(format!(
                    "{} stands by, and exports {series} series",
                    process.who.identity
                ));
            }
        }
        let history = site.scenario().config.report_history.get() as usize;
        let nodes = site.options.nodes_max() as usize;
        let bound = nodes * site.scenario().series_per_node() * history;
        let series = leader.metrics.series_count();
        if series > bound {
            return Err(format!("{series} series, of at most {bound}"));
        }
        let store = leader.volume().store();
        if store.execution_count() > history {
            return Err(format!(
                "{} executions are kept, of at most {history}",
                store.execution_count()
            ));
        }
        self.check_asked()?;
        self.check_gauges(&leader.metrics.render(), leader.volume())
    }

    /// Whatever people have asked for was carried out, or refused.
    fn check_asked(&self) -> Result<(), Violation> {
        let name = self.site.scenario().config.name;
        let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, &name);
        let asked = (self.site.api).read(|state| {
            let map = state.find(target)?;
            Some(Handled::of(&map.metadata.annotations))
        });
        let asked = asked.unwrap_or_default();
        let handled = self.site.record.state().by_hand.unwrap_or_default();
        let is_open =
            |asked: &Option<String>, handled: &Option<String>| asked.is_some() && asked != handled;
        if is_open(&asked.trigger, &handled.trigger) || is_open(&asked.cancel, &handled.cancel) {
            return Err(format!(
                "{asked:?} is asked for, and {handled:?} was handled"
            ));
        }
        Ok(())
    }

    /// What job pods were told is stored is exported.
    fn check_gauges(&self, metrics: &str, volume: &super::volume::Volume) -> Result<(), Violation> {
        let exported: BTreeSet<(&str, &str)> = metrics
            .lines()
            .filter(|line| line.starts_with("sim_usage{"))
            .filter_map(|line| {
                let label = |name: &str| {
                    let (_, rest) = line.split_once(&format!("{name}=\""))?;
                    rest.split_once('"').map(|(value, _)| value)
                };
                Some((label("executionID")?, label("node")?))
            })
            .collect();
        for id in volume.store().execution_ids() {
            for node in self.site.record.acknowledged_results(volume, &id) {
                if !exported.contains(&(id.as_str(), node.as_str())) {
                    return Err(format!(
                        "the result of {node} in {id} was acknowledged, and is not exported"
                    ));
                }
            }
        }
        match self.site.record.violation() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }
}
