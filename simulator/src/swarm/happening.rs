//! What each disturbance does when it is due.

use std::sync::Arc;
use std::time::Duration;

use controller::core::by_hand::{ANNOTATION_CANCEL, ANNOTATION_TRIGGER};
use controller::core::ids::ExecutionId;
use controller::core::lease::lease_name;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::disturbance::{Disturbance, Due};
use super::life::Cut;
use super::options::CLOCKS_CHANGE_AFTER;
use super::site::{Process, Site};
use crate::fleet::{Outage, OutageKind, create_node};
use crate::job::{CONFIG_KEY, EXECUTION_LABEL};
use crate::node::{self, NodeShape};
use crate::rng::Stream;
use crate::state::{DeleteOptions, Object, Part, Stored, Target, WriteOptions, resource};
use crate::world::{NAMESPACE, POD_TEMPLATE_KEY};

/// How long a cut, a pause or a broken disk lasts, in milliseconds: around the lease's times.
const LASTS_MS: (u64, u64) = (500, 90_000);

/// How long a node is away, in milliseconds: around `nodeLostTimeout`.
const NODE_AWAY_MS: (u64, u64) = (1_000, 150_000);

/// A step of a wall clock, in milliseconds.
const STEP_MS_MAX: u64 = 3_600_000;

/// How far the clocks of replicas are apart, in milliseconds.
const SKEW_MS_MAX: u64 = 300_000;

/// Disturbances of nodes that the fleet carries out at their time.
fn outage(due: &Due, number: u32) -> Option<Outage> {
    let mut stream = due.stream.clone();
    let lasts = Duration::from_millis(stream.between(NODE_AWAY_MS.0, NODE_AWAY_MS.1));
    let kind = match due.kind {
        Disturbance::NodeNotReady => OutageKind::NotReady {
            // Some stay away for good, and everything goes on without them.
            lasts: (stream.between(0, 3) > 0).then_some(lasts),
        },
        Disturbance::NodeDeleted => OutageKind::Deleted,
        Disturbance::NodeReplaced => OutageKind::Replaced,
        Disturbance::NodeRecreated => OutageKind::Recreated { after: lasts },
        _ => return None,
    };
    let begin = due.at;
    let node = number;
    Some(Outage { node, begin, kind })
}

/// The outages among what is due, each of a node of its own.
pub(super) fn outages(due: &[Due], nodes: u32) -> Vec<Outage> {
    let numbers = 1..=nodes;
    let outages = due.iter().filter(|due| outage(due, 1).is_some());
    // Spread over the list, so that nodes of every round are among them.
    let step = (nodes / 7).max(1);
    let spread = numbers.map(|number| (number * step) % nodes + 1);
    let mut used = std::collections::BTreeSet::new();
    let mut free = spread.filter(|number| used.insert(*number));
    outages
        .filter_map(|due| outage(due, free.next()?))
        .collect()
}

/// Before this nobody disturbs the Lease: the first leader is still being elected, which a deletion can spoil.
const FIRST_ELECTION: Duration = Duration::from_mins(1);

impl Site {
    /// The clocks of the replicas, as they are from the begin.
    pub(super) fn skew_clocks(&self) {
        if !self.options.timeline.enables(Disturbance::ClockSkew) {
            return;
        }
        let mut stream = self.seed.stream("skew");
        for slot in 0..self.place_count() {
            let step_ms = signed(&mut stream, SKEW_MS_MAX);
            self.wall_clock(slot).step_wall_ms(step_ms);
            self.disturbances.fired(Disturbance::ClockSkew, Some(slot));
        }
    }

    /// Tells when the clocks are changed, if they are.
    pub(super) async fn change_clocks(self: Arc<Self>, begin: Instant) {
        if self.options.clock_change.is_some() {
            sleep_until(begin + CLOCKS_CHANGE_AFTER).await;
            self.happened(Disturbance::ClockChange, None, Duration::ZERO);
        }
    }

    /// The clocks of replicas that do not go equally fast, as they are from the begin.
    pub(super) fn note_rates(&self) {
        if self.options.timeline.enables(Disturbance::ClockRate) {
            for slot in 0..self.place_count() {
                self.disturbances.fired(Disturbance::ClockRate, Some(slot));
            }
        }
    }

    /// Carries out what is due, at its time.
    pub(super) async fn disturb(self: Arc<Self>, begin: Instant, due: Vec<Due>) {
        for due in due {
            sleep_until(begin + due.at).await;
            if self.is_healed() {
                return;
            }
            self.happen(due);
        }
    }

    fn happen(self: &Arc<Self>, due: Due) {
        let Due {
            at,
            kind,
            mut stream,
        } = due;
        let lasts = Duration::from_millis(stream.between(LASTS_MS.0, LASTS_MS.1));
        let until = Instant::now() + lasts;
        let of_lease = matches!(
            kind,
            Disturbance::LeaseDeleted | Disturbance::LeaseOverwritten
        );
        if of_lease && at < FIRST_ELECTION {
            return;
        }
        match kind {
            Disturbance::Crash
            | Disturbance::CrashAtCall
            | Disturbance::CrashAtPoll
            | Disturbance::Terminate
            | Disturbance::Pause
            | Disturbance::PauseAtCall
            | Disturbance::LeaseRefused
            | Disturbance::ApiRefused
            | Disturbance::ApiSilent
            | Disturbance::ApiAnswersLost
            | Disturbance::PodsCutOff => {
                if let Some(process) = self.victim(&mut stream) {
                    self.happen_to(kind, &process, until, &mut stream);
                }
                return;
            }
            Disturbance::CrashInRecovery => {
                let points = points(&mut stream);
                tokio::spawn(Arc::clone(self).crash_in_recovery(points));
                return;
            }
            Disturbance::NoLeader | Disturbance::PowerLoss => {
                for slot in 0..self.place_count() {
                    self.keep_away(slot, lasts);
                }
                for process in self.running() {
                    if kind == Disturbance::PowerLoss {
                        process.life.kill_with_volume();
                    } else {
                        process.life.kill();
                    }
                }
            }
            Disturbance::ClockStep => {
                let slot = self.draw_slot(&mut stream);
                self.wall_clock(slot)
                    .step_wall_ms(signed(&mut stream, STEP_MS_MAX));
                self.happened(kind, Some(slot), lasts);
                return;
            }
            Disturbance::LeaseDeleted => self.delete_lease(),
            Disturbance::LeaseOverwritten => self.overwrite_lease(&mut stream),
            Disturbance::DiskFull | Disturbance::DiskBroken | Disturbance::DiskStalled => {
                for volume in self.volumes() {
                    match kind {
                        Disturbance::DiskFull => volume.fill_up(until),
                        Disturbance::DiskBroken => volume.break_down(until),
                        _ => volume.stall(until),
                    }
                }
            }
            Disturbance::Trigger => self.ask(ANNOTATION_TRIGGER, at),
            Disturbance::Cancel => self.ask(ANNOTATION_CANCEL, at),
            Disturbance::ConfigChanged => self.change_config(),
            Disturbance::ConfigBroken => self.break_config_map(&mut stream, lasts),
            Disturbance::NodeJoined => self.add_node(&mut stream),
            Disturbance::NodeCordoned => self.cordon(&mut stream, lasts),
            Disturbance::PodDeleted if !self.delete_a_pod(&mut stream) => return,
            Disturbance::PeersCutOff => {
                if self.place_count() == 1 {
                    return;
                }
                self.cut_peers(lasts);
            }
            Disturbance::PostAnswerLost => {
                let count = u32::try_from(stream.between(1, 20)).unwrap_or(1);
                self.lose_answers(count);
                return;
            }
            // The fleet carries these out, and the others are how the run is made.
            _ => {}
        }
        self.happened(kind, None, lasts);
    }

    fn happened(&self, kind: Disturbance, slot: Option<usize>, lasts: Duration) {
        let place = slot.map(|slot| format!(" of replica {slot}"));
        self.record.note(format_args!(
            "DISTURBANCE {kind}{} ({} s)",
            place.unwrap_or_default(),
            lasts.as_secs_f64()
        ));
        self.disturbances.fired(kind, slot);
    }

    fn happen_to(
        &self,
        kind: Disturbance,
        process: &Arc<Process>,
        until: Instant,
        stream: &mut Stream,
    ) {
        let life = &process.life;
        match kind {
            Disturbance::Crash => life.kill(),
            Disturbance::CrashAtCall => life.kill_after(points(stream)),
            Disturbance::CrashAtPoll => life.kill_after_polls(points(stream)),
            Disturbance::Terminate => Self::terminate(Arc::clone(process)),
            Disturbance::Pause => life.stand_still(until),
            Disturbance::PauseAtCall => {
                let lasts = until.saturating_duration_since(Instant::now());
                life.stand_still_after(points(stream), lasts);
            }
            Disturbance::LeaseRefused => life.cut_off_lease(until),
            Disturbance::ApiRefused => life.cut_off(Cut::Refused, until),
            Disturbance::ApiSilent => life.cut_off(Cut::Silent, until),
            Disturbance::ApiAnswersLost => life.cut_off(Cut::AnswersLost, until),
            _ => {
                // It has fired when a post meets it.
                life.deafen(until);
                return;
            }
        }
        let lasts = until.saturating_duration_since(Instant::now());
        self.happened(kind, Some(process.who.slot), lasts);
    }

    /// Who takes over next dies at one of its first calls as leader.
    async fn crash_in_recovery(self: Arc<Self>, points: u32) {
        let leader = self.leader();
        if let Some(leader) = leader {
            leader.life.kill();
        }
        let mut leads = self.record.leads();
        while leads.changed().await.is_ok() && !self.is_healed() {
            let holder = leads.borrow().holder.clone();
            let holds = |process: &Arc<Process>| *process.who.identity == *holder;
            if let Some(process) = self.running().into_iter().find(holds) {
                process.life.kill_after(points);
                self.happened(
                    Disturbance::CrashInRecovery,
                    Some(process.who.slot),
                    Duration::ZERO,
                );
                return;
            }
        }
    }

    fn draw_slot(&self, stream: &mut Stream) -> usize {
        let last = self.place_count() as u64 - 1;
        usize::try_from(stream.between(0, last)).unwrap_or(0)
    }

    /// The leader, most of the time, or any process.
    fn victim(&self, stream: &mut Stream) -> Option<Arc<Process>> {
        let slot = self.draw_slot(stream);
        let leader = (stream.between(0, 3) > 0).then(|| self.leader()).flatten();
        leader.or_else(|| self.process(slot))
    }

    /// Somebody sets an annotation of the ConfigMap to a new value.
    fn ask(&self, annotation: &str, at: Duration) {
        let value = format!("{} s", at.as_secs_f64());
        let name = self.scenario().config.name;
        let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, &name);
        self.api.with_state(|state| {
            // One that has been deleted takes no annotation.
            let _ = state.modify(target, Part::Whole, |map: &mut Object| {
                let annotations = Arc::make_mut(&mut map.metadata.annotations);
                annotations.insert(annotation.to_owned(), value);
            });
        });
    }

    fn change_config(&self) {
        {
            let mut configured = self.configured();
            let version = configured.0 + 1;
            *configured = (version, self.options.scenario(version));
        }
        self.restore_config_map();
    }

    /// The ConfigMap is as it was last configured.
    pub(super) fn restore_config_map(&self) {
        self.write_config_map(self.scenario().data());
    }

    fn write_config_map(&self, data: Value) {
        let name = self.scenario().config.name;
        let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, &name);
        let now = self.api.now();
        self.api.with_state(|state| {
            if state.find(target).is_none() {
                let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, "");
                let object = json!({"metadata": {"name": name}, "data": data});
                let created = state.create(now, target, object, WriteOptions::default());
                debug_assert!(created.is_ok(), "the name is free: {created:?}");
            } else {
                let changed = state.modify(target, Part::Whole, |map: &mut Object| {
                    if let Value::Object(data) = data {
                        *map.section_mut("data") = data;
                    }
                });
                debug_assert!(changed.is_ok(), "it is there: {changed:?}");
            }
        });
    }

    fn break_config_map(self: &Arc<Self>, stream: &mut Stream, lasts: Duration) {
        let name = self.scenario().config.name;
        if stream.between(0, 1) == 0 {
            self.write_config_map(json!({CONFIG_KEY: "podPoolSize: [", POD_TEMPLATE_KEY: ""}));
        } else {
            let target = Target::new(&resource::CONFIG_MAPS, NAMESPACE, &name);
            let now = self.api.now();
            // Gone already is as good.
            let _ = (self.api).with_state(|state| state.delete(now, target, &DeleteOptions::now()));
        }
        let site = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            site.restore_config_map();
        });
    }

    fn delete_lease(&self) {
        let name = lease_name(&self.scenario().config.name);
        let target = Target::new(&resource::LEASES, NAMESPACE, &name);
        self.record.tampered();
        let now = self.api.now();
        // One that is not there is as good.
        let _ = self
            .api
            .with_state(|state| state.delete(now, target, &DeleteOptions::now()));
    }

    fn overwrite_lease(&self, stream: &mut Stream) {
        let name = lease_name(&self.scenario().config.name);
        let target = Target::new(&resource::LEASES, NAMESPACE, &name);
        let change: (&str, Value) = match stream.between(0, 3) {
            0 => ("holderIdentity", json!("somebody")),
            // Emptied, but not as its holder would release it.
            1 => ("holderIdentity", json!("")),
            2 => ("renewTime", json!("2001-01-01T00:00:00.000000Z")),
            _ => ("renewTime", json!("2051-01-01T00:00:00.000000Z")),
        };
        self.record.tampered();
        self.api.with_state(|state| {
            if state.find(target).is_some() {
                // Whatever it comes to.
                let _ = state.modify(target, Part::Whole, |lease: &mut Object| {
                    lease
                        .section_mut("spec")
                        .insert(change.0.to_owned(), change.1);
                });
            }
        });
    }

    /// No replica reaches another for a while.
    fn cut_peers(self: &Arc<Self>, lasts: Duration) {
        let hosts: Vec<String> = self
            .running()
            .iter()
            .map(|process| process.host.clone())
            .collect();
        let mut pairs = Vec::new();
        for (number, one) in hosts.iter().enumerate() {
            pairs.extend(
                hosts[..number]
                    .iter()
                    .map(|other| (one.clone(), other.clone())),
            );
        }
        for (one, other) in &pairs {
            self.network.cut(one, other);
        }
        let site = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            for (one, other) in &pairs {
                site.network.mend(one, other);
            }
        });
    }

    fn add_node(&self, stream: &mut Stream) {
        let (first, last) = (self.options.nodes + 1, self.options.nodes_max());
        let number = stream.between(u64::from(first), u64::from(last));
        let number = u32::try_from(number).unwrap_or(last);
        // One that has joined already is as good.
        let _ = create_node(&self.api, number, &NodeShape::default());
    }

    fn cordon(self: &Arc<Self>, stream: &mut Stream, lasts: Duration) {
        let number = stream.between(1, u64::from(self.options.nodes));
        let name = node::name(u32::try_from(number).unwrap_or(1));
        let site = Arc::clone(self);
        site.set_unschedulable(&name, true);
        // Some stay so for good.
        if stream.between(0, 2) == 0 {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            site.set_unschedulable(&name, false);
        });
    }

    fn set_unschedulable(&self, name: &str, is: bool) {
        let target = Target::cluster(&resource::NODES, name);
        self.api.with_state(|state| {
            // A node that is gone is not cordoned.
            let _ = state.modify(target, Part::Whole, |node: &mut Object| {
                node.section_mut("spec")
                    .insert("unschedulable".to_owned(), is.into());
            });
        });
    }

    /// Somebody deletes any job pod; half of the time by force.
    fn delete_a_pod(&self, stream: &mut Stream) -> bool {
        let pods: Vec<Arc<Stored>> = self.api.read(|state| {
            let pods = state.iter(&resource::PODS, Some(NAMESPACE));
            let job_pods = pods.filter(|pod| pod.metadata.labels.contains_key(EXECUTION_LABEL));
            job_pods.cloned().collect()
        });
        let Some(last) = pods.len().checked_sub(1) else {
            return false;
        };
        let drawn = usize::try_from(stream.between(0, last as u64)).unwrap_or(0);
        let options = if stream.between(0, 1) == 0 {
            DeleteOptions::now()
        } else {
            DeleteOptions::default()
        };
        self.delete_pod(&pods[drawn], &options);
        true
    }

    /// Somebody deletes a pod of that execution that runs, by force: its name.
    pub(super) fn delete_a_running_pod(&self, id: &ExecutionId) -> Option<String> {
        let pod = self.api.read(|state| {
            let mut pods = state.iter(&resource::PODS, Some(NAMESPACE));
            let runs = |pod: &&Arc<Stored>| {
                let label = pod.metadata.labels.get(EXECUTION_LABEL);
                label.is_some_and(|label| **label == *id.as_str())
                    && pod.text("/status/phase") == "Running"
                    && pod.metadata.deletion_timestamp.is_none()
            };
            pods.find(runs).cloned()
        })?;
        self.delete_pod(&pod, &DeleteOptions::now());
        Some(pod.metadata.name.to_string())
    }

    fn delete_pod(&self, pod: &Stored, options: &DeleteOptions) {
        let target = Target::new(&resource::PODS, NAMESPACE, &pod.metadata.name);
        let now = self.api.now();
        // Gone already is as good.
        let _ = self
            .api
            .with_state(|state| state.delete(now, target, options));
    }

    /// Pods that do not stop are deleted by force: their nodes are well again.
    pub(super) fn remove_stuck_pods(&self) {
        let pods: Vec<Arc<Stored>> = self.api.read(|state| {
            let pods = state.iter(&resource::PODS, Some(NAMESPACE));
            let stuck = pods.filter(|pod| pod.metadata.deletion_timestamp.is_some());
            stuck.cloned().collect()
        });
        for pod in pods {
            self.delete_pod(&pod, &DeleteOptions::now());
        }
    }
}

/// A number of up to `most`, either way.
fn signed(stream: &mut Stream, most: u64) -> i64 {
    let drawn = i64::try_from(stream.between(0, 2 * most)).unwrap_or(0);
    drawn - i64::try_from(most).unwrap_or(0)
}

/// Begins and ends of calls until a process dies: often few, seldom many.
fn points(stream: &mut Stream) -> u32 {
    let most = [4, 20, 100][usize::try_from(stream.between(0, 2)).unwrap_or(0)];
    u32::try_from(stream.between(0, most)).unwrap_or(0)
}
