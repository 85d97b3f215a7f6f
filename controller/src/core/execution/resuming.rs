//! Going on with an execution that another process, or this one before it was restarted, began.
//!
//! The journal says what was intended and how nodes ended, a list of the pods what exists. A node whose pod is known to
//! have existed and is gone has ended as deleted; only a create that nobody saw answered, with no pod and no report
//! there, is repeated, under the same name. Pods in the list that no journal tells of are taken up all the same: it may
//! have been lost with its volume.

use std::collections::{BTreeMap, BTreeSet};

use super::timers::Alarm;
use super::watching::is_ours;
use super::{Effect, Execution, Plan};
use crate::core::backoff::attempt_backoff;
use crate::core::journal::{EndedNode, Entry};
use crate::core::names::attempt_pod_name;
use crate::core::node_run::{Failure, Progress};
use crate::core::pod_phase;
use crate::core::pod_pool::SlotHolder;
use crate::core::report_name;
use crate::core::state::NodeState;
use crate::core::time::Now;
use crate::core::views::PodView;

/// What is there of an execution when it is taken up.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The entries of its journals, in the order of their epochs.
    pub entries: Vec<Entry>,
    /// Every pod of this owner, as the API server has it now.
    pub pods: Vec<PodView>,
    /// The stored reports by node.
    pub reports: BTreeMap<String, StoredReports>,
    /// Why it is cancelled, where that was decided before.
    pub cancelled: Option<String>,
}

/// A node's reports on the volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredReports {
    /// Their stored names.
    pub names: Vec<String>,
    /// Whether its result is among them.
    pub has_result: bool,
}

impl Execution {
    /// Goes on with an execution. `plan` is the one it began with; its `previous_pods` are found anew.
    #[must_use]
    pub fn resume(plan: Plan, found: Found, now: Now) -> (Self, Vec<Effect>) {
        let (own, others): (Vec<_>, Vec<_>) = (found.pods.into_iter())
            .partition(|pod| pod.owner == plan.owner && pod.execution.as_ref() == Some(&plan.id));
        let plan = Plan {
            started: now.at(plan.started.wall),
            previous_pods: others,
            ..plan
        };
        let mut execution = Self::from_plan(plan, now);
        let mut effects = Vec::new();
        for entry in found.entries {
            execution.replay(now, entry);
        }
        execution.await_next_attempts();
        for (node, stored) in found.reports {
            execution.take_up_reports(&node, stored);
        }
        let has_started = execution.nodes.iter().any(|node| node.attempts > 0) || !own.is_empty();
        if has_started {
            execution.clearing = None;
            for uid in execution.previous.keys() {
                execution.pool.adopt(uid);
            }
        } else {
            effects.extend(execution.delete_previous());
        }
        let present = execution.take_up_pods(now, own, &mut effects);
        execution.fail_fast(now, &mut effects);
        if let Some(why) = found.cancelled {
            execution.cancel(now, why, &mut effects);
        }
        execution.settle_absent(now, &present, &mut effects);
        execution.proceed(now, &mut effects);
        (execution, effects)
    }

    fn replay(&mut self, now: Now, entry: Entry) {
        match entry {
            Entry::Begun(_) => {}
            Entry::Creating {
                index,
                attempt,
                pod,
            } => self.replay_creating(index, attempt, pod),
            Entry::Created { index, uid, time } => {
                if let Some(node) = self.nodes.get_mut(index)
                    && node.state == NodeState::Running
                {
                    node.started = Some(now.at(time));
                    node.newest_uid = Some(uid.clone());
                    node.advance(Progress::Exists { uid });
                    // The time is of another machine's clock: a deadline counts from what this one has seen.
                    self.start_in_time(now, index);
                }
            }
            Entry::AttemptEnded {
                index,
                attempt,
                reason,
                message,
                time,
            } => {
                let failure = (reason, message);
                self.replay_attempt_ended(now.at(time), index, attempt, failure);
            }
            Entry::Ended(ended) => self.replay_ended(now, ended),
        }
    }

    fn replay_creating(&mut self, index: usize, attempt: u32, pod: String) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if node.state.is_final() {
            return;
        }
        node.attempts = attempt.saturating_sub(1);
        node.begin_attempt(pod.clone());
        node.is_doubtful = true;
        node.advance(Progress::Retrying { tries: 1 });
        self.index_by_pod.insert(pod, index);
        self.watch_for_loss(index);
        self.pool.resume(index);
        self.set_state(index, NodeState::Running);
    }

    fn replay_attempt_ended(&mut self, at: Now, index: usize, attempt: u32, failure: Failure) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        // The line may come after that of the next create, which waits for none of these.
        if node.state.is_final() || node.attempts > attempt {
            return;
        }
        node.attempts = attempt;
        node.ended = Some(at);
        (node.reason, node.message) = (Some(failure.0), failure.1);
        node.advance(Progress::Idle);
        self.pool.release(&SlotHolder::Node(index));
        self.set_state(index, NodeState::Waiting);
    }

    /// The next attempts begin when they were to.
    fn await_next_attempts(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if let (NodeState::Waiting, Some(ended)) = (node.state, node.ended) {
                let due = ended.monotonic.after(attempt_backoff(node.attempts));
                self.set_alarm(due, index, Alarm::NextAttempt);
            }
        }
    }

    fn replay_ended(&mut self, now: Now, ended: EndedNode) {
        let index = ended.index;
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let is_first = !node.state.is_final();
        node.reason = ended.reason;
        node.message = ended.message;
        node.attempts = ended.attempts;
        node.samples = ended.samples;
        node.started = ended.start_time.map(|time| now.at(time));
        node.ended = ended.end_time.map(|time| now.at(time));
        node.advance(Progress::Idle);
        self.set_state(index, ended.state);
        if is_first {
            self.ended_nodes += 1;
            self.pool.release(&SlotHolder::Node(index));
        }
    }

    fn take_up_reports(&mut self, node: &str, stored: StoredReports) {
        if let Some(&index) = self.index_by_node.get(node) {
            let node = &mut self.nodes[index];
            node.reports = stored.names;
            node.has_result = stored.has_result;
        }
    }

    /// What the list shows of the pods of this execution: of several pods of a node the last attempt's counts. Returns
    /// the nodes that have one.
    fn take_up_pods(
        &mut self,
        now: Now,
        mut pods: Vec<PodView>,
        effects: &mut Vec<Effect>,
    ) -> BTreeSet<usize> {
        pods.sort_by(|one, other| {
            let key = |pod: &PodView| (pod.name.len(), pod.name.clone());
            key(one).cmp(&key(other))
        });
        let mut newest: BTreeMap<usize, PodView> = BTreeMap::new();
        let mut older = Vec::new();
        for pod in pods {
            if let Some(&index) = self.index_by_node.get(&pod.node)
                && is_ours(&self.owner, &self.id, &pod.node, &pod)
            {
                older.extend(newest.insert(index, pod).map(|older| (index, older)));
            }
        }
        let mut present = BTreeSet::new();
        for (index, pod) in newest {
            if self.nodes[index].state == NodeState::Waiting {
                let attempt = self.attempt_of(index, &pod.name);
                // That of an attempt which is known to have ended tells nothing new.
                if attempt > self.nodes[index].attempts {
                    self.replay_creating(index, attempt, pod.name.clone());
                }
            }
            let node = &mut self.nodes[index];
            if node.state != NodeState::Running || node.pod_name != pod.name {
                older.push((index, pod));
                continue;
            }
            node.is_doubtful = false;
            present.insert(index);
            self.pod_exists(now, index, &pod, effects);
        }
        for (index, pod) in older {
            self.take_up_ended_pod(index, pod, effects);
        }
        present
    }

    /// The pod of an attempt that is over still exists: it counts for `endedPods`.
    fn take_up_ended_pod(&mut self, index: usize, pod: PodView, effects: &mut Vec<Effect>) {
        if pod_phase::end_of(&pod).is_none() {
            return;
        }
        self.keep_ended(index, &pod);
        let reports = &self.nodes[index].reports;
        let is_saved =
            |container: &String| reports.contains(&report_name::log_name(&pod.node, container));
        if !pod.containers.is_empty() && pod.containers.iter().all(is_saved) {
            self.pod_settled(&pod.uid);
        } else {
            let pod = Box::new(pod);
            effects.push(Effect::PodEnded { index, pod });
        }
    }

    /// Which attempt on the node has a pod of that name; the first where none that is allowed has.
    fn attempt_of(&self, index: usize, pod: &str) -> u32 {
        let names = &self.nodes[index].names;
        let is_name = |attempt: &u32| {
            let name = |first: &str| attempt_pod_name(first, &names.node, &self.id, *attempt);
            name(&names.pod_name) == pod || name(&names.alternative_pod_name) == pod
        };
        let attempts = 1..=self.limits.retries.saturating_add(1);
        attempts.into_iter().find(is_name).unwrap_or(1)
    }

    /// Decides on the running nodes that have no pod in the list, which is of now.
    fn settle_absent(&mut self, now: Now, present: &BTreeSet<usize>, effects: &mut Vec<Effect>) {
        let running: Vec<_> = self.running_indices().collect();
        for index in running {
            let node = &self.nodes[index];
            if present.contains(&index) {
                continue;
            }
            let is_gone = match &node.progress {
                Progress::Exists { .. } => true,
                // Nobody saw the create answered. A pod that has posted existed; the reports of an earlier attempt say
                // nothing.
                Progress::Retrying { .. } => node.attempts == 1 && !node.reports.is_empty(),
                _ => continue,
            };
            if is_gone {
                self.end_with_pod(now, index, pod_phase::gone(), effects);
            } else if self.pool.taken() > self.pool.size().get() as usize {
                self.wait_again(index);
            } else {
                self.create(index, 1, effects);
            }
        }
    }

    /// The journal may tell of more creates than there are slots: that one of them was refused, and its slot given to
    /// another, was not written any more.
    fn wait_again(&mut self, index: usize) {
        self.take_turn_back(index);
        self.again.push_back(index);
    }
}
