//! The record of a swarm's run: everything that happens, told to the event log and checked before the run goes on.
//!
//! What is checked from outside, whatever breaks: `checker`'s invariants on the pods, and those of a swarm
//! (`invariants`); a journal has one writer; the state record only goes forward; an execution is closed once its summary
//! tells how it ended (`summaries`).

mod invariants;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use controller::config::Config;
use controller::core::ids::ExecutionId;
use controller::core::journal::epoch_of;
use controller::core::lease::lease_name;
use controller::core::names;
use controller::core::record::StateRecord;
use controller::core::state::{Reason, Trigger};
use controller::core::summary::{self, ExecutionSummary, NodeSummary};
use controller::ports::clock::{Clock as _, Monotonic};
use controller::ports::cluster::STATE_KEY;
use controller::runtime::ordered_watch as watch;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::told::Told;
use super::disturbance::{Disturbance, Disturbances, Sign};
use super::life::Who;
use super::options::SwarmOptions;
use super::standing::{Nodes, Standing};
use super::summaries::{self, Facts};
use super::volume::Volume;
use crate::apiserver::ApiServer;
use crate::callback::Attempt;
use crate::checker::{Checker, JobPod, Peaks, Violation};
use crate::clock::SimClock;
use crate::event_log::EventLog;
use crate::faults::{Faults, refusal_in};
use crate::faulty_cluster::LatePods;
use crate::job::{EXECUTION_LABEL, FILE_NAME, Post, PostKind};
use crate::state::{Row, Selector, Stored, WatchCursor, WatchEvent, WatchFrom, resource};
use crate::world::NAMESPACE;

/// Calls that a replica has in flight at most, as the documentation says.
const IN_FLIGHT_MAX: usize = 16;

/// Events taken from a watch under one lock of the state.
const EVENTS_AT_ONCE: usize = 256;

/// What is recorded against.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) api: ApiServer,
    pub(super) clock: SimClock,
    pub(super) config: Config,
    pub(super) options: SwarmOptions,
    /// The volume that the replicas share; none where each has its own.
    pub(super) volume: Option<Volume>,
    pub(super) late_pods: LatePods,
    pub(super) disturbances: Disturbances,
    pub(super) faults: Faults,
    /// How the faults call the replicas.
    pub(super) clients: Vec<String>,
}

impl Observed {
    /// A node whose pod a fault refused: the message shows that a replica took notice.
    ///
    /// # Errors
    /// Where what refused it would have passed.
    fn refused(&self, node: &NodeSummary) -> Result<(), Violation> {
        if node.reason != Some(Reason::Refused) {
            return Ok(());
        }
        let Some(kind) = refusal_in(&node.message) else {
            let (node, message) = (&node.node, &node.message);
            return Err(format!(
                "node {node} has failed for what would have passed: {message}"
            ));
        };
        for client in &self.clients {
            self.faults.told(client, kind);
        }
        Ok(())
    }
}

/// Whether a pod's name tells that execution: one id may begin another.
fn is_pod_of(pod: &str, execution: &ExecutionId) -> bool {
    pod.split('-').any(|part| part == execution.as_str())
}

/// The record. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Record {
    book: Arc<Mutex<Book>>,
    alarm: Arc<Notify>,
    state_changed: Arc<Notify>,
    pods_changed: Arc<Notify>,
    leads: Arc<watch::Sender<Leads>>,
}

/// Who leads, as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leads {
    /// The holder identity in the Lease.
    pub(super) holder: String,
    /// The epoch in the state record.
    pub(super) epoch: u64,
}

#[derive(Debug)]
struct Book {
    observed: Observed,
    log: EventLog,
    checker: Checker,
    nodes: Nodes,
    standing: BTreeMap<Arc<str>, Standing>,
    facts: BTreeMap<ExecutionId, Facts>,
    /// Who last sent the create of a pod.
    creators: BTreeMap<String, Arc<str>>,
    /// Pods whose deletion a replica asked for.
    asked: BTreeSet<String>,
    asked_all: BTreeSet<ExecutionId>,
    holder: String,
    /// Until when the Lease may not say who leads: somebody else wrote it.
    tampered_until: Instant,
    state: StateRecord,
    /// The ids of the scheduled executions.
    ids: BTreeMap<Timestamp, ExecutionId>,
    /// When the execution in progress was cancelled.
    cancelled: Option<Instant>,
    /// When the execution in progress was claimed: its nodes were listed after that.
    claimed: Instant,
    told: BTreeMap<ExecutionId, Told>,
    /// Which process writes a journal.
    journals: BTreeMap<(ExecutionId, String), u64>,
    /// What job pods sent, by stored name.
    sent: BTreeMap<ExecutionId, BTreeMap<String, Vec<Bytes>>>,
    /// What they were told is stored, on which volume.
    acknowledged: BTreeMap<(u64, ExecutionId), BTreeSet<String>>,
    violation: Option<Violation>,
}

/// The watches of the record, in the order in which they are taken.
const WATCHED: [&Row; 4] = [
    &resource::NODES,
    &resource::PODS,
    &resource::LEASES,
    &resource::CONFIG_MAPS,
];

impl Record {
    pub(super) fn new(observed: Observed, log: EventLog) -> Self {
        let book = Book {
            checker: Checker::new(observed.options.pool),
            observed,
            log,
            nodes: Nodes::default(),
            standing: BTreeMap::new(),
            facts: BTreeMap::new(),
            creators: BTreeMap::new(),
            asked: BTreeSet::new(),
            asked_all: BTreeSet::new(),
            holder: String::new(),
            tampered_until: Instant::now(),
            state: StateRecord::default(),
            ids: BTreeMap::new(),
            cancelled: None,
            claimed: Instant::now(),
            told: BTreeMap::new(),
            journals: BTreeMap::new(),
            sent: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            violation: None,
        };
        Self {
            book: Arc::new(Mutex::new(book)),
            alarm: Arc::default(),
            leads: Arc::new(watch::Sender::new(Leads {
                holder: String::new(),
                epoch: 0,
            })),
            state_changed: Arc::default(),
            pods_changed: Arc::default(),
        }
    }

    /// Returns when an invariant was broken. Cancel safe.
    pub(super) async fn alarm(&self) {
        self.alarm.notified().await;
    }

    /// Returns when a ConfigMap has changed since the last time. Cancel safe; for one who waits.
    pub(super) async fn state_changed(&self) {
        self.state_changed.notified().await;
    }

    /// Returns when a pod has changed since the last time. Cancel safe; for one who waits.
    pub(super) async fn pods_changed(&self) {
        self.pods_changed.notified().await;
    }

    /// The first invariant that was broken.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.book().violation.clone()
    }

    pub(super) fn peaks(&self) -> Peaks {
        self.book().checker.peaks()
    }

    pub(super) fn digest(&self) -> (u64, String) {
        let book = self.book();
        (book.log.lines(), book.log.digest())
    }

    pub(super) fn timeline(&self) -> Vec<String> {
        self.book().log.tail().map(str::to_owned).collect()
    }

    /// The state record as it was last written.
    pub(super) fn state(&self) -> StateRecord {
        self.book().state.clone()
    }

    /// Whether a journal tells how the pod has ended, or the summary does, where the execution has.
    pub(super) fn is_end_told(&self, id: &ExecutionId, pod: &str) -> bool {
        let book = self.book();
        let is_closed = book.facts.get(id).is_some_and(|facts| facts.is_closed);
        is_closed || (book.told.get(id)).is_some_and(|told| told.has_end(pod))
    }

    /// Whether a list of nodes that is made now has it as an eligible one.
    pub(super) fn is_eligible(&self, node: &str) -> bool {
        self.book().nodes.is_eligible(node)
    }

    /// The id of the execution that was due then; none before it has begun.
    pub(super) fn id(&self, due: Timestamp) -> Option<ExecutionId> {
        self.book().ids.get(&due).cloned()
    }

    /// Who leads, and each change of it.
    pub(super) fn leads(&self) -> watch::Receiver<Leads> {
        self.leads.subscribe()
    }

    /// What the pods of an execution did.
    pub(super) fn facts(&self, id: &ExecutionId) -> Option<Facts> {
        self.book().facts.get(id).cloned()
    }

    /// Notes a line.
    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        self.write(|book| book.append(what));
    }

    /// Something is wrong.
    pub(super) fn blame(&self, violation: Violation) {
        self.write(|book| book.blame(Err(violation)));
    }

    /// Somebody who is no replica writes the Lease.
    pub(super) fn tampered(&self) {
        self.write(|book| {
            let lease = book.observed.config.leader_election.lease_duration;
            book.tampered_until = Instant::now() + lease;
        });
    }

    /// Tells the record of every change, until dropped.
    pub(super) async fn follow(self, api: ApiServer) {
        let mut changes = api.subscribe();
        let begin = |row: &'static Row| {
            let namespace = row.namespaced.then_some(NAMESPACE);
            api.read(|state| state.watch(row, namespace, Selector::default(), WatchFrom::Now))
        };
        let mut cursors: [WatchCursor; 4] = WATCHED.map(begin);
        self.write(|book| {
            let nodes = api.read(|state| state.iter(&resource::NODES, None).cloned().collect());
            let nodes: Vec<Arc<Stored>> = nodes;
            for node in &nodes {
                book.nodes.stored(node);
            }
        });
        loop {
            let mut is_quiet = true;
            for (row, cursor) in WATCHED.iter().zip(&mut cursors) {
                let events = api.read(|state| state.poll(cursor, EVENTS_AT_ONCE));
                is_quiet &= events.is_empty();
                self.write(|book| events.iter().for_each(|event| book.changed(row, event)));
                match row.plural {
                    _ if events.is_empty() => {}
                    "configmaps" => self.state_changed.notify_one(),
                    "pods" => self.pods_changed.notify_one(),
                    _ => {}
                }
            }
            if is_quiet && changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn write(&self, entry: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        entry(&mut book);
        if book.violation.is_some() {
            self.alarm.notify_one();
        }
        let is_changed = {
            let leads = self.leads.borrow();
            leads.epoch != book.state.epoch || leads.holder != book.holder
        };
        if is_changed {
            self.leads.set(Leads {
                holder: book.holder.clone(),
                epoch: book.state.epoch,
            });
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What processes do.
impl Record {
    /// A process sends the create of a pod.
    pub(super) fn creates(&self, who: &Who, pod: &str) {
        self.write(|book| {
            book.creators
                .insert(pod.to_owned(), Arc::clone(&who.identity));
            let held = book.invariant_only_the_holder_acts(&who.identity, "creates", pod);
            book.blame(held);
            let wanted = book.invariant_nothing_begins_in_what_is_cancelled(pod);
            book.blame(wanted);
            let wanted = book.invariant_nothing_begins_once_too_many_nodes_have_failed(pod);
            book.blame(wanted);
        });
    }

    /// A process sends the deletion of a pod.
    pub(super) fn deletes(&self, who: &Who, pod: &str, uid: &str) {
        self.write(|book| {
            book.append(format_args!("{} deletes pod {pod}", who.identity));
            let is_first = book.asked.insert(uid.to_owned());
            book.note_deadline(uid);
            let held = book.invariant_only_the_holder_acts(&who.identity, "deletes", pod);
            book.blame(held);
            if is_first {
                let told = book.invariant_an_ended_pod_goes_only_when_its_end_is_told(pod, uid);
                book.blame(told);
            }
        });
    }

    /// A process has so many calls for pods in flight.
    pub(super) fn calls(&self, who: &Who, in_flight: usize) {
        if in_flight > IN_FLIGHT_MAX {
            self.blame(format!("{} has {in_flight} calls in flight", who.identity));
        }
    }

    /// A process sends the deletion of an execution's pods.
    pub(super) fn deletes_all(&self, who: &Who, execution: &ExecutionId) {
        self.write(|book| {
            book.append(format_args!(
                "{} deletes the pods of {execution}",
                who.identity
            ));
            book.asked_all.insert(execution.clone());
            let held = book.invariant_only_the_holder_acts(
                &who.identity,
                "deletes pods of",
                execution.as_str(),
            );
            book.blame(held);
        });
    }

    /// A process appends to a file of its own.
    pub(super) fn appends(&self, who: &Who, execution: &ExecutionId, file: &str, bytes: &[u8]) {
        self.write(|book| {
            let key = (execution.clone(), file.to_owned());
            let writer = *book.journals.entry(key).or_insert(who.number);
            if writer != who.number {
                book.blame(Err(format!(
                    "process {} appends to {file} of {execution}, which process {writer} began",
                    who.number
                )));
            }
            if epoch_of(file).is_none() {
                book.blame(Err(format!("{file} is appended to, and is no journal")));
            }
            let lines = bytes.split(|byte| *byte == b'\n');
            let lines = lines.filter(|line| !line.is_empty()).count();
            book.append(format_args!(
                "{} writes {lines} lines to {file} of {execution}",
                who.identity
            ));
        });
    }

    /// Journals of the shared volume tell this, too.
    pub(super) fn appended(&self, execution: &ExecutionId, bytes: &[u8]) {
        self.write(|book| {
            let told = book.told.entry(execution.clone()).or_default();
            told.take(bytes);
        });
    }

    /// A process has stored what only a leader may.
    pub(super) fn puts(&self, who: &Who, execution: &ExecutionId, name: &str, bytes: &[u8]) {
        if name != summary::FILE_NAME {
            return;
        }
        let Some(summary) = summaries::glance(bytes) else {
            return self.blame(format!("{} writes a summary that is none", who.identity));
        };
        self.write(|book| {
            book.append(format_args!(
                "{} writes the summary of {execution}: {:?}",
                who.identity, summary.counts
            ));
            let is_closed = (book.facts.get(execution)).is_some_and(|facts| facts.is_closed);
            if is_closed && summary.end_time.is_none() {
                book.blame(Err(format!(
                    "{} writes that {execution} is running, which has been closed",
                    who.identity
                )));
            }
        });
    }

    /// A process removes an execution from its volume.
    pub(super) fn removes(&self, volume: &Volume, execution: &ExecutionId) {
        self.write(|book| {
            book.acknowledged
                .remove(&(volume.number(), execution.clone()));
            book.append(format_args!("execution {execution} leaves the history"));
            let newer = volume.store().executions_after(execution);
            let history = book.observed.config.report_history.get() as usize;
            if newer + 1 < history {
                book.blame(Err(format!(
                    "execution {execution} is removed, with {newer} newer ones, of a history of {history}"
                )));
            }
            book.forget(execution);
        });
    }

    /// A job pod sends a post; says whether it has sent that report before.
    pub(super) fn sends(&self, post: &Post) -> bool {
        let Some((id, name)) = post.stored_name() else {
            return false;
        };
        let mut is_repeated = false;
        self.write(|book| {
            let of_execution = book.sent.entry(id).or_default();
            let sent = of_execution.entry(name).or_default();
            is_repeated = sent.contains(&post.body);
            if !is_repeated {
                sent.push(post.body.clone());
            }
        });
        is_repeated
    }

    /// A process answered a post, whether the job pod hears of it or not.
    pub(super) fn answered(&self, who: &Who, volume: &Volume, post: &Post, attempt: &Attempt) {
        self.write(|book| book.post_answered(who, volume, post, attempt));
    }

    /// Everything that was acknowledged is still stored, on a volume that is still there.
    pub(super) fn check_kept(&self, volume: &Volume) {
        self.write(|book| {
            let kept = book.invariant_what_is_acknowledged_stays(volume);
            book.blame(kept);
        });
    }

    /// What was acknowledged on a volume that is gone is gone.
    pub(super) fn forget_volume(&self, number: u64) {
        self.write(|book| book.acknowledged.retain(|(volume, _), _| *volume != number));
    }

    /// What was acknowledged as results of that execution: the nodes.
    pub(super) fn acknowledged_results(
        &self,
        volume: &Volume,
        execution: &ExecutionId,
    ) -> Vec<String> {
        let names = self.acknowledged(volume, execution);
        let results = names.iter().filter(|name| !name.ends_with(FILE_NAME));
        results
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect()
    }

    /// What was acknowledged as reports of that execution: their stored names.
    pub(super) fn acknowledged(
        &self,
        volume: &Volume,
        execution: &ExecutionId,
    ) -> BTreeSet<String> {
        let key = (volume.number(), execution.clone());
        let names = self.book().acknowledged.get(&key).cloned();
        names.unwrap_or_default()
    }

    /// How many pods of an execution have ended.
    pub(super) fn ended(&self, id: &ExecutionId) -> usize {
        let book = self.book();
        let seen = book.checker.seen(id);
        seen.map_or(0, |seen| seen.succeeded + seen.failed)
    }

    /// Job pods that exist.
    pub(super) fn pod_count(&self) -> usize {
        self.book().standing.len()
    }
}

impl Book {
    /// Nothing is expected of an execution any more that has left the history of every volume: a run may be as long as
    /// it likes.
    fn forget(&mut self, execution: &ExecutionId) {
        if self.acknowledged.keys().any(|(_, id)| id == execution) {
            return;
        }
        self.facts.remove(execution);
        self.checker.forget(execution);
        self.asked_all.remove(execution);
        self.ids.retain(|_, id| id != execution);
        self.told.remove(execution);
        self.journals.retain(|(id, _), _| id != execution);
        self.sent.remove(execution);
        self.creators.retain(|pod, _| !is_pod_of(pod, execution));
    }

    fn append(&mut self, what: fmt::Arguments<'_>) {
        let at = self.observed.clock.monotonic().since(Monotonic::START);
        self.log.append(at, what);
    }

    fn blame(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.append(format_args!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    fn changed(&mut self, row: &Row, event: &WatchEvent) {
        let Some(object) = event.object() else {
            return self.blame(Err(format!("the watch of the record broke: {event:?}")));
        };
        let is_deleted = matches!(event, WatchEvent::Deleted(_));
        match row.plural {
            "nodes" => self.node_changed(event, object, is_deleted),
            "pods" => self.pod_changed(event, object, is_deleted),
            "leases" => self.lease_changed(object, is_deleted),
            _ => self.config_map_changed(object, is_deleted),
        }
    }

    fn node_changed(&mut self, event: &WatchEvent, node: &Stored, is_deleted: bool) {
        let name = &node.metadata.name;
        if is_deleted {
            self.nodes.deleted(name);
        } else {
            self.nodes.stored(node);
        }
        let ready = self.nodes.is_ready(name);
        self.append(format_args!("node {name} {} ready={ready}", event.name()));
    }

    fn lease_changed(&mut self, lease: &Stored, is_deleted: bool) {
        if *lease.metadata.name != *lease_name(&self.observed.config.name) {
            return;
        }
        let holder = if is_deleted {
            ""
        } else {
            lease.text("/spec/holderIdentity")
        };
        if holder != self.holder {
            self.append(format_args!("lease held by {holder:?}"));
            holder.clone_into(&mut self.holder);
        }
    }

    fn config_map_changed(&mut self, map: &Stored, is_deleted: bool) {
        if *map.metadata.name != *names::state_record(&self.observed.config.name) || is_deleted {
            return;
        }
        let text = map.get("data").and_then(|data| data[STATE_KEY].as_str());
        let text = text.unwrap_or_default();
        self.append(format_args!("state record {text}"));
        match StateRecord::parse(text) {
            Ok(record) => self.state_changed(record),
            Err(error) => self.blame(Err(format!("the state record is none: {error}"))),
        }
    }

    fn state_changed(&mut self, record: StateRecord) {
        let before = std::mem::replace(&mut self.state, record);
        let record = &self.state;
        let claimed = |record: &StateRecord| {
            let claim = record.in_progress.as_ref();
            claim.map(|claim| claim.scheduled_time)
        };
        let disturbances = &self.observed.disturbances;
        if claimed(record) != claimed(&before) {
            self.claimed = Instant::now();
            disturbances.show(Sign::Claim, None);
        }
        let in_progress = record.in_progress.as_ref();
        self.cancelled = (in_progress.is_some_and(|claim| claim.cancelled.is_some()))
            .then(|| self.cancelled.unwrap_or_else(Instant::now));
        let once = self.invariant_a_tick_is_claimed_once(&before);
        self.blame(once);
        let ticked =
            self.invariant_a_tick_is_dropped_only_where_another_execution_is_in_progress(&before);
        self.blame(ticked);
        let (record, disturbances) = (&self.state, &self.observed.disturbances);
        let (now, then) = (record.by_hand.clone(), before.by_hand.clone());
        let (now, then) = (now.unwrap_or_default(), then.unwrap_or_default());
        if now.trigger != then.trigger {
            disturbances.show(Sign::Trigger, None);
        }
        if now.cancel != then.cancel {
            disturbances.show(Sign::Cancel, None);
        }
        if record.epoch > before.epoch {
            self.observed.disturbances.show(Sign::TakeOver, None);
        }
        if record.epoch < before.epoch || record.last_scheduled_time < before.last_scheduled_time {
            return self.blame(Err("the state record goes back".to_owned()));
        }
        let opened = before.in_progress.and_then(|claim| claim.id);
        let open = record.in_progress.as_ref().and_then(|claim| {
            let id = claim.id.clone()?;
            let of_schedule = claim.trigger == Trigger::Schedule;
            Some((id, of_schedule.then_some(claim.scheduled_time)))
        });
        if let Some((id, Some(due))) = &open {
            self.ids.insert(*due, id.clone());
        }
        if let Some(closed) = opened
            && open.is_none_or(|(id, _)| id != closed)
        {
            let as_it_was = self.closed(&closed);
            self.blame(as_it_was);
        }
    }

    /// A pod that a replica deletes may be past a deadline.
    fn note_deadline(&mut self, uid: &str) {
        let Some(standing) = self.standing.get(uid) else {
            return;
        };
        if standing.is_overdue(&self.observed.config)
            && let Some(id) = &standing.execution
            && let Some(facts) = self.facts.get_mut(id)
        {
            facts.deleted_overdue(&standing.node);
            if standing.runs() && !standing.has_ended {
                (self.observed.disturbances).fired(Disturbance::PodHangs, None);
            }
        }
    }

    /// An execution is no longer in progress.
    fn closed(&mut self, id: &ExecutionId) -> Result<(), Violation> {
        self.append(format_args!("execution {id} is closed"));
        let facts = self.facts.entry(id.clone()).or_default();
        facts.is_closed = true;
        let Some(volume) = &self.observed.volume else {
            return Ok(());
        };
        let Some(bytes) = volume.store().get(id, summary::FILE_NAME) else {
            return Err(format!("execution {id} is closed without a summary"));
        };
        let summary: ExecutionSummary =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if summary.end_time.is_none() {
            return Err(format!(
                "execution {id} is closed, and its summary says that it runs"
            ));
        }
        for node in &summary.nodes {
            self.observed.refused(node)?;
        }
        let failed_max = self.told.get(id).map_or(0, |told| told.failed_max);
        summaries::check(&summary, facts)?;
        summaries::check_state(&summary, self.observed.options.max_failures, failed_max)
    }

    fn pod_changed(&mut self, event: &WatchEvent, pod: &Stored, is_deleted: bool) {
        let metadata = &pod.metadata;
        let phase = pod.text("/status/phase");
        let reason = pod.text("/status/reason");
        let leaving = metadata.deletion_timestamp.map_or("", |_| " terminating");
        self.append(format_args!(
            "pod {} {} {phase} {reason}{leaving}",
            metadata.name,
            event.name()
        ));
        let Some(execution) = metadata.labels.get(EXECUTION_LABEL) else {
            return;
        };
        let job_pod = JobPod::of(
            pod,
            execution,
            self.observed.late_pods.contains(&metadata.name),
        );
        let checked = if is_deleted {
            self.pod_removed(&job_pod)
        } else {
            self.pod_stored(&job_pod, pod)
        };
        self.blame(checked);
    }

    fn pod_stored(&mut self, job_pod: &JobPod<'_>, pod: &Stored) -> Result<(), Violation> {
        let is_new = !self.standing.contains_key(job_pod.uid);
        let node_uid = self.nodes.uid_at(job_pod.node, self.claimed);
        let standing = (self.standing)
            .entry(Arc::clone(job_pod.uid))
            .or_insert_with(|| Standing::new(job_pod, node_uid));
        let had_ended = standing.has_ended;
        if let Some(kind) = standing.seen(pod) {
            self.observed.disturbances.fired(kind, None);
        }
        let ends = standing.has_ended && !had_ended && !job_pod.is_late;
        if let Some(id) = ExecutionId::parse(job_pod.execution) {
            let facts = self.facts.entry(id).or_default();
            facts.pod_seen(job_pod, is_new);
            if ends {
                facts.ended(job_pod);
            }
        }
        if !is_new {
            return self.checker.pod_stored(job_pod);
        }
        self.invariant_an_execution_ends_with_the_template_it_began_with(job_pod, pod)?;
        self.invariant_attempts_are_as_configured(job_pod)?;
        if !job_pod.is_late && self.nodes.is_ineligible_since(job_pod.node, self.claimed) {
            return Err(format!(
                "pod {} is created on a node that has not been eligible since its execution was claimed",
                job_pod.name
            ));
        }
        let limits = &self.observed.config;
        for (uid, standing) in &self.standing {
            if !standing.has_ended && standing.is_given_up(&self.nodes, limits) {
                self.checker.excuse(uid);
            }
        }
        self.checker.pod_stored(job_pod)?;
        if job_pod.is_late {
            return Ok(());
        }
        match self.creators.get(job_pod.name) {
            None => Err(format!("nobody has created pod {}", job_pod.name)),
            Some(creator) => self.invariant_only_the_holder_acts(creator, "creates", job_pod.name),
        }
    }

    fn pod_removed(&mut self, job_pod: &JobPod<'_>) -> Result<(), Violation> {
        let Some(id) = ExecutionId::parse(job_pod.execution) else {
            return Err(format!("pod {} has no execution", job_pod.name));
        };
        self.checker.pod_removed(job_pod)?;
        let standing = self.standing.remove(job_pod.uid);
        let is_overdue =
            (standing.as_ref()).is_some_and(|standing| standing.is_overdue(&self.observed.config));
        if let Some(facts) = self.facts.get_mut(&id) {
            if standing
                .as_ref()
                .is_some_and(|standing| !standing.has_ended && !job_pod.is_late)
            {
                facts.ended(job_pod);
            }
            if is_overdue {
                facts.deleted_overdue(job_pod.node);
            }
        }
        let is_asked = self.asked.remove(&**job_pod.uid) || self.asked_all.contains(&id);
        if !is_asked && standing.is_some_and(|standing| standing.has_ended) {
            let disturbances = &self.observed.disturbances;
            if self.observed.options.timeline.enables(Disturbance::PodGc) {
                disturbances.fired(Disturbance::PodGc, None);
            }
        }
        if !is_asked && let Some(facts) = self.facts.get_mut(&id) {
            facts.removed_by_others(job_pod.node);
        }
        // Without a journal that tells of it nobody can know that it was there.
        let is_journaled = (self.told.get(&id)).is_some_and(|told| told.has_created(job_pod.uid));
        let is_unknown = !is_asked && !is_journaled;
        if self.observed.volume.is_none() || is_unknown {
            self.checker.allow_again(&id, job_pod);
        }
        Ok(())
    }

    fn post_answered(&mut self, who: &Who, volume: &Volume, post: &Post, attempt: &Attempt) {
        let path = post.url.split_once("/report/").map_or("", |(_, path)| path);
        self.append(format_args!("post {path} to {}: {attempt}", who.identity));
        let Some((id, name)) = post.stored_name() else {
            return;
        };
        if !attempt.succeeded() {
            return;
        }
        let node = path.split('/').next().unwrap_or_default();
        if post.kind == PostKind::Result {
            let facts = self.facts.entry(id.clone()).or_default();
            facts.result_acknowledged(node);
        }
        let stored = volume.store().get(&id, &name);
        if stored.as_ref() != Some(&post.body) {
            return self.blame(Err(format!(
                "{path} was acknowledged, and {name} is not stored as it was sent"
            )));
        }
        let key = (volume.number(), id);
        self.acknowledged.entry(key).or_default().insert(name);
    }
}
