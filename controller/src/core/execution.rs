//! One execution: a state machine that is told what happened and answers what to do.
//!
//! It owns the frozen node list, the pool, and the state of each node. Invariants, checked by `invariants`: a slot is
//! released once; job pods not ended, creates in flight included, never exceed the pool unless an earlier execution
//! left some; an ended node stays ended (but for `NoResult`, which a late result turns into `succeeded`, and a pod's
//! failure, which that of its node shortly after turns into `lost`); the execution ends when every node has. Everything
//! it knows is plain data that follows from its plan and the events. Deliberately not here: listing nodes, choosing the
//! id, files, metrics, waiting; `runtime` does those.

mod announcing;
mod clearing;
mod creating;
mod deadlines;
mod deleting;
mod ends;
mod messages;
mod nodes;
mod resuming;
mod timers;
mod view;
mod watching;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

pub use self::announcing::{Failures, Tally};
use self::clearing::Clearing;
use self::deleting::{Deletion, EndedPods};
pub use self::messages::{CreateError, Effect, Event, Plan};
pub use self::resuming::{Found, StoredReports};
use self::timers::Alarm;
use super::ids::ExecutionId;
use super::limits::Limits;
use super::node_run::{Failure, Progress};
pub use super::node_run::{NodeRun, PlannedNode};
use super::pod_phase;
use super::pod_pool::PodPool;
use super::state::{NodeState, Reason, Trigger};
use super::time::{Monotonic, Now};

/// How long the pods of other executions are waited for before they keep their slots and fail their nodes.
pub const CLEARING_TIMEOUT: Duration = Duration::from_mins(1);

/// One execution. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Execution {
    owner: String,
    id: ExecutionId,
    trigger: Trigger,
    scheduled_time: Timestamp,
    started: Now,
    ended: Option<Now>,
    limits: Limits,
    result_expected: bool,
    nodes: Vec<NodeRun>,
    excluded: Vec<(String, Reason, String)>,
    index_by_node: BTreeMap<String, usize>,
    index_by_pod: BTreeMap<String, usize>,
    pool: PodPool,
    next_waiting: usize,
    /// Nodes whose next attempt may begin as soon as there is a slot.
    again: VecDeque<usize>,
    ended_nodes: usize,
    counts: BTreeMap<NodeState, u32>,
    failures: Failures,
    /// Why no further pod is created.
    stopped: Option<Failure>,
    /// When the execution must have ended, until that has passed.
    deadline: Option<Monotonic>,
    /// Soonest first.
    alarms: BTreeSet<(Monotonic, usize, Alarm)>,
    /// Deletions of single pods under way, by uid.
    deletions: BTreeMap<String, Deletion>,
    /// When they are repeated.
    deletion_retries: BTreeSet<(Monotonic, String)>,
    ended_pods: EndedPods,
    clearing: Option<Clearing>,
    /// Pods of other executions that have not ended, by uid: their node.
    previous: BTreeMap<String, String>,
}

impl Execution {
    /// Begins an execution; the effects are to be carried out.
    #[must_use]
    pub fn begin(plan: Plan, now: Now) -> (Self, Vec<Effect>) {
        let mut execution = Self::from_plan(plan, now);
        let mut effects = execution.delete_previous();
        execution.proceed(now, &mut effects);
        (execution, effects)
    }

    fn from_plan(plan: Plan, now: Now) -> Self {
        let previous: BTreeMap<_, _> = plan
            .previous_pods
            .iter()
            .filter(|pod| pod_phase::end_of(pod).is_none())
            .map(|pod| (pod.uid.clone(), pod.node.clone()))
            .collect();
        let pending: BTreeMap<_, _> = plan
            .previous_pods
            .iter()
            .filter_map(|pod| pod.execution.clone())
            .map(|id| (id, None))
            .collect();
        let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
        let mut counts = BTreeMap::from([
            (NodeState::Waiting, count(plan.nodes.len())),
            (NodeState::Excluded, count(plan.excluded.len())),
        ]);
        counts.retain(|_, count| *count > 0);
        let index = |key: fn(&PlannedNode) -> &String| {
            (plan.nodes.iter().enumerate())
                .map(|(index, node)| (key(node).clone(), index))
                .collect::<BTreeMap<_, _>>()
        };
        Self {
            index_by_node: index(|node| &node.node),
            index_by_pod: index(|node| &node.pod_name),
            owner: plan.owner,
            id: plan.id,
            trigger: plan.trigger,
            scheduled_time: plan.scheduled_time,
            started: plan.started,
            ended: None,
            result_expected: plan.result_expected,
            nodes: plan.nodes.into_iter().map(NodeRun::new).collect(),
            excluded: plan.excluded,
            pool: PodPool::new(plan.pool_size),
            next_waiting: 0,
            ended_nodes: 0,
            counts,
            again: VecDeque::new(),
            failures: Failures::default(),
            stopped: None,
            deadline: (plan.limits.execution_deadline)
                .map(|limit| plan.started.monotonic.after(limit)),
            alarms: BTreeSet::new(),
            deletions: BTreeMap::new(),
            deletion_retries: BTreeSet::new(),
            ended_pods: EndedPods::default(),
            limits: plan.limits,
            clearing: Some(Clearing {
                deadline: now.monotonic.after(CLEARING_TIMEOUT),
                pending,
            }),
            previous,
        }
    }

    /// Takes one event and answers what to do.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::PreviousPodsDeleted { execution, result } => {
                self.previous_deleted(now, &execution, result);
            }
            Event::Created {
                index,
                attempt,
                pod,
            } => self.created(now, index, attempt, &pod, &mut effects),
            Event::NameHeld {
                index,
                attempt,
                holder,
            } => self.name_held(now, index, attempt, &holder, &mut effects),
            Event::CreateFailed {
                index,
                attempt,
                error,
            } => self.create_failed(now, index, attempt, error, &mut effects),
            Event::PodSeen(pod) => self.pod_seen(now, &pod, &mut effects),
            Event::PodGone(pod) => self.pod_gone(now, &pod, &mut effects),
            Event::Relisted(pods) => self.relisted(now, &pods, &mut effects),
            Event::PodRead {
                index,
                step,
                result,
            } => self.pod_read(now, index, step, result, &mut effects),
            Event::ResultStored {
                node,
                name,
                samples,
            } => self.result_stored(now, &node, name, samples, &mut effects),
            Event::LookedForResult { index, step } => {
                self.looked_for_result(now, index, step, &mut effects);
            }
            Event::FileStored { node, name } => self.file_stored(&node, name),
            Event::PodDeleted { uid, result, .. } => {
                self.pod_deleted(now, &uid, result, &mut effects);
            }
            Event::PodSettled { uid } => self.pod_settled(&uid),
            Event::NodeSeen(view) => self.node_seen(now, &view, &mut effects),
            Event::NodeGone(view) => self.node_gone(now, &view, &mut effects),
            Event::NodesRelisted(views) => self.nodes_relisted(now, &views, &mut effects),
            Event::Cancelled { why } => self.cancel(now, why, &mut effects),
            Event::Woken => self.woken(now, &mut effects),
        }
        self.delete_ended_pods(&mut effects);
        self.proceed(now, &mut effects);
        effects
    }

    /// Does what became possible: ends the clearing, fills free slots, ends the execution.
    fn proceed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.ended.is_some() || !(self.clearing_is_over(now) || self.has_nothing_to_create()) {
            return;
        }
        if self.clearing.is_some() {
            self.end_clearing(now, effects);
        }
        while self.pool.has_room()
            && let Some(index) = self.next_turn(now, effects)
        {
            if self.pool.take(index) {
                self.set_state(index, NodeState::Running);
                self.begin_attempt(index, effects);
            }
        }
        if self.ended_nodes == self.nodes.len() {
            self.ended = Some(now);
            effects.push(Effect::Ended);
        }
    }

    /// The node that gets the next slot: one that had its turn before goes first, the others in the order of the list.
    fn next_turn(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<usize> {
        loop {
            let index = match self.again.pop_front() {
                Some(index) => index,
                None if self.next_waiting < self.nodes.len() => {
                    let index = self.next_waiting;
                    self.next_waiting += 1;
                    if self.nodes[index].attempts > 0 {
                        // One that waits for its next attempt gets its turn through `again` alone.
                        continue;
                    }
                    index
                }
                None => return None,
            };
            if self.nodes[index].state == NodeState::Waiting
                && self.can_take_a_pod(now, index, effects)
            {
                return Some(index);
            }
        }
    }

    fn set_state(&mut self, index: usize, state: NodeState) {
        let old = std::mem::replace(&mut self.nodes[index].state, state);
        if let Some(count) = self.counts.get_mut(&old) {
            *count -= 1;
        }
        self.counts.retain(|_, count| *count > 0);
        *self.counts.entry(state).or_insert(0) += 1;
    }

    fn result_stored(
        &mut self,
        now: Now,
        node: &str,
        name: String,
        samples: u32,
        effects: &mut Vec<Effect>,
    ) {
        let Some(&index) = self.index_by_node.get(node) else {
            return;
        };
        let node = &mut self.nodes[index];
        node.has_result = true;
        node.samples = samples;
        remember(&mut node.reports, name);
        if node.progress == Progress::Looking {
            self.end_attempt(now, index, Ok(()), effects);
        } else if node.reason == Some(Reason::NoResult) && self.ended.is_none() {
            if node.state.is_final() {
                (node.reason, node.message) = (None, String::new());
                self.set_state(index, NodeState::Succeeded);
                effects.push(Effect::NodeEnded { index });
            } else {
                // It waits for another attempt, which is not needed any more.
                self.finish(now, index, NodeState::Succeeded, None, effects);
            }
        }
    }

    fn file_stored(&mut self, node: &str, name: String) {
        if let Some(&index) = self.index_by_node.get(node) {
            remember(&mut self.nodes[index].reports, name);
        }
    }

    /// The nodes that hold a slot.
    fn running_indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.pool.nodes()
    }
}

fn remember(reports: &mut Vec<String>, name: String) {
    if !reports.contains(&name) {
        reports.push(name);
    }
}
