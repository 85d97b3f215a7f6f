//! Who may call back: the pairs of node and execution whose pod was created, in the kept executions, and until when a
//! pod's token is good.
//!
//! Written by the controller's loop before a create is sent, read by every request: a short lock, never held over I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use super::ordered_watch as watch;
use crate::core::ids::ExecutionId;
use crate::core::names;
use crate::core::report_name;
use crate::core::time::{Monotonic, Now};

/// The table of pairs. Memory: a name per node and kept execution.
#[derive(Debug)]
pub struct Admission {
    dev_mode: bool,
    is_complete: watch::Sender<bool>,
    executions: RwLock<BTreeMap<ExecutionId, Admitted>>,
    /// Kept executions that are not in the table yet.
    unread: RwLock<BTreeSet<ExecutionId>>,
}

#[derive(Debug)]
struct Admitted {
    /// The frozen list.
    nodes: BTreeSet<Box<str>>,
    created: BTreeMap<Box<str>, Created>,
}

/// What was created for a node.
#[derive(Debug, Clone, Copy)]
struct Created {
    newest_attempt: u32,
    /// When the tokens of its pods end; none while one may run.
    tokens_end: Option<Monotonic>,
    /// When the newest pod may have as many events at once again as at its beginning.
    events_recover: Monotonic,
    /// How many reports the node has, as far as that is known.
    reports: usize,
}

/// The most reports that a node may have in an execution: as many files as one form may bring. Each is a name in
/// memory, in the execution's summary and in the list of its page.
pub const NODE_REPORTS_MAX: usize = 1000;

/// The most events that a job pod may have at once; beyond that one comes back every [`EVENT_PAUSE`]. Whoever reads
/// them is a person, and the API server keeps each for an hour.
pub const EVENTS_AT_ONCE_MAX: u32 = 50;

/// See [`EVENTS_AT_ONCE_MAX`].
pub const EVENT_PAUSE: Duration = Duration::from_secs(6);

/// How long a token is good after its pod has ended: what a job posts at its very end may be held, forwarded and
/// repeated.
const TOKEN_GRACE: Duration = Duration::from_mins(10);

impl Admission {
    /// An empty table; with `dev_mode` every well-formed pair is admitted.
    #[must_use]
    pub fn new(dev_mode: bool) -> Self {
        Self {
            dev_mode,
            is_complete: watch::Sender::new(false),
            executions: RwLock::default(),
            unread: RwLock::default(),
        }
    }

    /// The execution in progress, if there is one, is known.
    pub fn complete(&self) {
        self.is_complete.set(true);
    }

    /// Returns once the execution in progress is known: before that a pair that is not here may be one all the same.
    pub async fn completed(&self) {
        self.is_complete.subscribe().wait_for(|is| *is).await;
    }

    /// These executions are kept, and will be read.
    pub fn await_history(&self, kept: &[ExecutionId]) {
        let mut unread = self.unread.write().unwrap_or_else(PoisonError::into_inner);
        *unread = kept.iter().cloned().collect();
    }

    /// What is left of that execution is in the table.
    pub fn history_read(&self, id: &ExecutionId) {
        let mut unread = self.unread.write().unwrap_or_else(PoisonError::into_inner);
        unread.remove(id);
    }

    /// Whether a pair that is not admitted may be so in a moment, since its execution is kept and not in the table yet.
    #[must_use]
    pub fn is_unread(&self, node: &str, execution: &str) -> bool {
        if self.dev_mode || !names::is_dns_subdomain(node) {
            return false;
        }
        let unread = self.unread.read().unwrap_or_else(PoisonError::into_inner);
        ExecutionId::parse(execution).is_some_and(|id| unread.contains(&id))
    }

    /// An execution begins with this frozen list.
    pub fn begin<'a>(&self, id: &ExecutionId, nodes: impl IntoIterator<Item = &'a str>) {
        let admitted = Admitted {
            nodes: nodes.into_iter().map(Box::from).collect(),
            created: BTreeMap::new(),
        };
        self.write().insert(id.clone(), admitted);
    }

    /// The pod of that attempt on the node is about to be created.
    pub fn admit(&self, id: &ExecutionId, node: &str, attempt: u32) {
        if let Some(admitted) = self.write().get_mut(id) {
            let before = admitted.created.get(node);
            let created = Created {
                newest_attempt: attempt,
                tokens_end: None,
                events_recover: Monotonic::START,
                reports: before.map_or(0, |before| before.reports),
            };
            admitted.created.insert(node.into(), created);
        }
    }

    /// The newest pod on the node ended at that time, which may be of an earlier process.
    pub fn ended(&self, id: &ExecutionId, node: &str, ended: Timestamp, now: Now) {
        let ago = Duration::try_from(now.wall.duration_since(ended)).unwrap_or_default();
        let mut table = self.write();
        if let Some(created) = table
            .get_mut(id)
            .and_then(|admitted| admitted.created.get_mut(node))
        {
            created.tokens_end = Some(now.monotonic.after(TOKEN_GRACE.saturating_sub(ago)));
        }
    }

    /// Whether the tokens of that pair have ended.
    #[must_use]
    pub fn have_tokens_ended(&self, id: &ExecutionId, node: &str, now: Monotonic) -> bool {
        let created = self.created(id, node);
        let ends = created.and_then(|created| created.tokens_end);
        ends.is_some_and(|ends| ends <= now)
    }

    /// Takes one of the events that a pod may have; how long until there is one more, where there is none. Where every
    /// pair is admitted there is no pod, and no bound.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_event(&self, id: &ExecutionId, node: &str, now: Monotonic) -> Result<(), Duration> {
        let mut table = self.write();
        let created = (table.get_mut(id)).and_then(|admitted| admitted.created.get_mut(node));
        let Some(created) = created else {
            return Ok(());
        };
        let recover = created.events_recover.max(now).after(EVENT_PAUSE);
        let wait = (recover.since(now)).saturating_sub(EVENT_PAUSE * EVENTS_AT_ONCE_MAX);
        if wait.is_zero() {
            created.events_recover = recover;
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// The node has so many reports.
    pub fn has_reports(&self, id: &ExecutionId, node: &str, count: usize) {
        let mut table = self.write();
        let created = (table.get_mut(id)).and_then(|admitted| admitted.created.get_mut(node));
        if let Some(created) = created {
            created.reports = count;
        }
    }

    /// Whether the node may have so many more reports. Where every pair is admitted there is no bound.
    #[must_use]
    pub fn has_room(&self, id: &ExecutionId, node: &str, more: usize) -> bool {
        let created = self.created(id, node);
        created.is_none_or(|created| created.reports + more <= NODE_REPORTS_MAX)
    }

    /// The node gets one more report, which [`Self::has_reports`] will count. Several at once are counted so that none
    /// is one too many.
    pub fn expect_report(&self, id: &ExecutionId, node: &str) {
        let mut table = self.write();
        let created = (table.get_mut(id)).and_then(|admitted| admitted.created.get_mut(node));
        if let Some(created) = created {
            created.reports += 1;
        }
    }

    /// Whether there is a newer attempt on the node than that one.
    #[must_use]
    pub fn is_superseded(&self, id: &ExecutionId, node: &str, attempt: u32) -> bool {
        let created = self.created(id, node);
        created.is_some_and(|created| created.newest_attempt > attempt)
    }

    fn created(&self, id: &ExecutionId, node: &str) -> Option<Created> {
        self.read().get(id)?.created.get(node).copied()
    }

    /// The execution left the history.
    pub fn forget(&self, id: &ExecutionId) {
        self.write().remove(id);
    }

    /// Whether every well-formed pair is admitted.
    #[must_use]
    pub fn admits_every_pair(&self) -> bool {
        self.dev_mode
    }

    /// The execution of an admitted pair; none where it is not admitted.
    #[must_use]
    pub fn admits(&self, node: &str, execution: &str) -> Option<ExecutionId> {
        let id = ExecutionId::parse(execution)?;
        if self.dev_mode {
            return names::is_dns_subdomain(node).then_some(id);
        }
        let is_admitted = self.read().get(&id)?.created.contains_key(node);
        is_admitted.then_some(id)
    }

    /// The other node whose report `stored_name` would be, if it is one.
    #[must_use]
    pub fn owner_of_name(&self, id: &ExecutionId, node: &str, stored_name: &str) -> Option<String> {
        let table = self.read();
        let nodes = &table.get(id)?.nodes;
        report_name::other_owner(stored_name, node, |other| nodes.contains(other))
            .map(str::to_owned)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ExecutionId, Admitted>> {
        self.executions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ExecutionId, Admitted>> {
        self.executions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEPT: &str = "202611232359";

    fn while_history_is_read(dev_mode: bool) -> Admission {
        let admission = Admission::new(dev_mode);
        admission.await_history(&[ExecutionId::parse(KEPT).unwrap()]);
        admission
    }

    #[test]
    fn what_is_not_read_yet_may_be_admitted_in_a_moment() {
        let admission = while_history_is_read(false);
        assert!(admission.is_unread("node-a", KEPT));
        assert!(!admission.is_unread("node-a", "202611232358"));
        admission.history_read(&ExecutionId::parse(KEPT).unwrap());
        assert!(!admission.is_unread("node-a", KEPT));
    }

    #[test]
    fn a_pod_has_some_events_at_once_and_one_more_after_each_pause() {
        let admission = Admission::new(false);
        let id = ExecutionId::parse(KEPT).unwrap();
        admission.begin(&id, ["a", "b"]);
        admission.admit(&id, "a", 1);
        admission.admit(&id, "b", 1);
        let start = Monotonic::START.after(Duration::from_hours(1));
        let take = |node: &str, seconds| {
            admission.take_event(&id, node, start.after(Duration::from_secs(seconds)))
        };
        for _ in 0..EVENTS_AT_ONCE_MAX {
            assert_eq!(take("a", 0), Ok(()));
        }
        assert_eq!(take("a", 0), Err(EVENT_PAUSE));
        assert_eq!(take("b", 0), Ok(()));
        assert_eq!(take("a", 4), Err(Duration::from_secs(2)));
        assert_eq!(take("a", 6), Ok(()));
        assert_eq!(take("a", 6), Err(EVENT_PAUSE));
        let all = u64::from(EVENTS_AT_ONCE_MAX) * EVENT_PAUSE.as_secs();
        let taken = (0..100).filter(|_| take("a", 6 + 2 * all).is_ok()).count();
        assert_eq!(taken, EVENTS_AT_ONCE_MAX as usize);
        admission.admit(&id, "a", 2);
        assert_eq!(take("a", 6 + 2 * all), Ok(()));
    }

    #[test]
    fn no_history_admits_a_name_that_no_node_has() {
        for node in ["..", "", "a_b", "Node"] {
            assert!(
                !while_history_is_read(false).is_unread(node, KEPT),
                "{node}"
            );
        }
    }

    #[test]
    fn in_dev_mode_no_pair_waits_for_the_history() {
        assert!(!while_history_is_read(true).is_unread("node-a", KEPT));
    }
}
