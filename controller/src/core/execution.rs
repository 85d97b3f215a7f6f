//! One execution: a state machine that is told what happened and answers what to do.
//!
//! It owns the frozen node list, the pool, and the state of each node. Invariants, checked by `invariants`: a slot is
//! released once; job pods not ended, creates in flight included, never exceed the pool unless an earlier execution left
//! some; an ended node stays ended (but for `NoResult`, which a late result turns into `succeeded`); the execution ends
//! when every node has. Deliberately not here: listing nodes, choosing the id, files, metrics, waiting; `runtime` does those.

mod clearing;
mod creating;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use self::clearing::Clearing;
use super::failure::ClusterError;
use super::ids::ExecutionId;
use super::node_run::Progress;
pub use super::node_run::{NodeRun, PlannedNode};
use super::pod_phase;
use super::pod_pool::{PodPool, SlotHolder};
use super::state::{ExecutionState, NodeState, Reason, Trigger};
use super::summary::{ExecutionSummary, NodeSummary, SCHEMA_VERSION};
use super::time::{Monotonic, Now};
use super::views::PodView;

/// How long the pods of other executions are waited for before they keep their slots and fail their nodes.
pub const CLEARING_TIMEOUT: Duration = Duration::from_mins(1);

/// What an execution begins with; frozen from here on.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The controller's name: the value of the owner label.
    pub owner: String,
    /// The execution's id.
    pub id: ExecutionId,
    /// What began it.
    pub trigger: Trigger,
    /// The time it was due.
    pub scheduled_time: Timestamp,
    /// When it began: before the nodes were listed.
    pub started: Now,
    /// Slots of the pool.
    pub pool_size: NonZeroU32,
    /// Whether a node needs a result to have succeeded.
    pub result_expected: bool,
    /// The eligible nodes, in the order in which they get their pods.
    pub nodes: Vec<PlannedNode>,
    /// The nodes left out, each with why.
    pub excluded: Vec<(String, Reason, String)>,
    /// The pods of this owner that belong to other executions.
    pub previous_pods: Vec<PodView>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The deletion of another execution's pods was answered.
    PreviousPodsDeleted {
        /// Whose pods.
        execution: ExecutionId,
        /// The answer.
        result: Result<(), ClusterError>,
    },
    /// A create was answered well.
    Created {
        /// Which node's.
        index: usize,
        /// The pod.
        pod: PodView,
    },
    /// A create was answered badly, or the pod could not be rendered.
    CreateFailed {
        /// Which node's.
        index: usize,
        /// Why.
        error: CreateError,
    },
    /// A create was answered `AlreadyExists`; this is who holds the name.
    NameHeld {
        /// Which node's.
        index: usize,
        /// The pod of that name.
        holder: PodView,
    },
    /// The watch showed a pod of this owner.
    PodSeen(PodView),
    /// A pod of this owner is gone.
    PodGone(PodView),
    /// The watch began again with every pod of this owner.
    Relisted(Vec<PodView>),
    /// A pod was read, because the watch gave an unclear picture of it.
    PodRead {
        /// Which node's.
        index: usize,
        /// The step of the effect that asked.
        step: u32,
        /// The answer.
        result: Result<PodView, ClusterError>,
    },
    /// The volume was looked at; what it held was told with `ResultStored` before this.
    LookedForResult {
        /// Which node's.
        index: usize,
        /// The step of the effect that asked.
        step: u32,
    },
    /// A result of a node is on disk.
    ResultStored {
        /// The node's name.
        node: String,
        /// The report's stored name.
        name: String,
        /// Samples in it.
        samples: u32,
    },
    /// A file of a node is on disk.
    FileStored {
        /// The node's name.
        node: String,
        /// The report's stored name.
        name: String,
    },
    /// The time of [`Execution::next_wakeup`] has come.
    Woken,
}

/// Why there is no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateError {
    /// The template gives no pod for this node.
    Template(String),
    /// The call failed.
    Cluster(ClusterError),
}

/// What to do. Each can be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Delete the job pods of another execution; answer with `PreviousPodsDeleted`.
    DeletePreviousPods(ExecutionId),
    /// Create the pod of the node at `index` under this name; answer with `Created`, `CreateFailed` or `NameHeld`.
    CreatePod {
        /// The node's place in the list.
        index: usize,
        /// The pod's name.
        pod_name: String,
    },
    /// Read a pod of which the watch gives an unclear picture; answer with `PodRead`.
    ReadPod {
        /// The node's place in the list.
        index: usize,
        /// To be repeated in the answer: one that comes after the node has moved on is void.
        step: u32,
        /// The pod's name.
        pod_name: String,
    },
    /// Look on the volume for a result that nobody told of; answer with `ResultStored` where there is one, then with
    /// `LookedForResult`.
    LookForResult {
        /// The node's place in the list.
        index: usize,
        /// To be repeated in the answer.
        step: u32,
    },
    /// The pod of the node at `index` ended: save its logs where that is configured.
    PodEnded {
        /// The node's place in the list.
        index: usize,
        /// The pod as it was last seen.
        pod: PodView,
    },
    /// The node at `index` reached, or changed, its final state: export and log it.
    NodeEnded {
        /// The node's place in the list.
        index: usize,
    },
    /// Every node has ended.
    Ended,
}

/// One execution. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Execution {
    owner: String,
    id: ExecutionId,
    trigger: Trigger,
    scheduled_time: Timestamp,
    started: Now,
    ended: Option<Now>,
    result_expected: bool,
    nodes: Vec<NodeRun>,
    excluded: Vec<(String, Reason, String)>,
    index_by_node: BTreeMap<String, usize>,
    index_by_pod: BTreeMap<String, usize>,
    pool: PodPool,
    next_waiting: usize,
    ended_nodes: usize,
    counts: BTreeMap<NodeState, u32>,
    /// When creates are repeated, soonest first; entries of nodes that no longer wait are skipped.
    retries: BTreeSet<(Monotonic, usize)>,
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
            retries: BTreeSet::new(),
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
            Event::Created { index, pod } => self.created(now, index, &pod, &mut effects),
            Event::NameHeld { index, holder } => self.name_held(now, index, &holder, &mut effects),
            Event::CreateFailed { index, error } => {
                self.create_failed(now, index, error, &mut effects);
            }
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
            Event::Woken => self.retry_due(now, &mut effects),
        }
        self.proceed(now, &mut effects);
        effects
    }

    /// When `Woken` is to be sent, where something waits for time to pass.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Monotonic> {
        if self.ended.is_some() {
            return None;
        }
        let clearing = self.clearing.iter().flat_map(|clearing| {
            let retries = clearing.pending.values().flatten().map(|(_, due)| *due);
            retries.chain([clearing.deadline])
        });
        let retry = self.retries.first().map(|(due, _)| *due);
        clearing.chain(retry).min()
    }

    /// Does what became possible: ends the clearing, fills free slots, ends the execution.
    fn proceed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.ended.is_some() || !self.clearing_is_over(now) {
            return;
        }
        if self.clearing.is_some() {
            self.end_clearing(now, effects);
        }
        while self.pool.has_room() && self.next_waiting < self.nodes.len() {
            let index = self.next_waiting;
            self.next_waiting += 1;
            if self.nodes[index].state == NodeState::Waiting && self.pool.take(index) {
                self.set_state(index, NodeState::Running);
                self.create(index, 1, effects);
            }
        }
        if self.ended_nodes == self.nodes.len() {
            self.ended = Some(now);
            effects.push(Effect::Ended);
        }
    }

    fn end_node(
        &mut self,
        now: Now,
        index: usize,
        end: Result<(), (Reason, String)>,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        if node.state.is_final() {
            return;
        }
        let state;
        (state, node.reason, node.message) = match end {
            Ok(()) => (NodeState::Succeeded, None, String::new()),
            Err((reason, message)) => (NodeState::Failed, Some(reason), message),
        };
        node.ended.get_or_insert(now);
        node.advance(Progress::Idle);
        self.set_state(index, state);
        self.ended_nodes += 1;
        self.pool.release(&SlotHolder::Node(index));
        effects.push(Effect::NodeEnded { index });
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
            self.end_node(now, index, Ok(()), effects);
        } else if node.reason == Some(Reason::NoResult) && self.ended.is_none() {
            (node.reason, node.message) = (None, String::new());
            self.set_state(index, NodeState::Succeeded);
            effects.push(Effect::NodeEnded { index });
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

    /// The execution's id.
    #[must_use]
    pub fn id(&self) -> &ExecutionId {
        &self.id
    }

    /// The nodes of the list, in its order.
    #[must_use]
    pub fn nodes(&self) -> &[NodeRun] {
        &self.nodes
    }

    /// The node of that name, if it is in the list.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeRun> {
        self.index_by_node
            .get(name)
            .map(|&index| &self.nodes[index])
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PodPool {
        &self.pool
    }

    /// Nodes of the list that have ended.
    #[must_use]
    pub fn ended_nodes(&self) -> usize {
        self.ended_nodes
    }

    /// Nodes in each state, left-out ones included; states without a node are left out.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<NodeState, u32> {
        &self.counts
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ExecutionState {
        if self.ended.is_none() {
            return ExecutionState::Running;
        }
        let succeeded = self
            .counts
            .get(&NodeState::Succeeded)
            .map_or(0, |count| *count as usize);
        match succeeded {
            _ if self.nodes.is_empty() => ExecutionState::Empty,
            0 => ExecutionState::Failed,
            all if all == self.nodes.len() => ExecutionState::Succeeded,
            _ => ExecutionState::Degraded,
        }
    }

    /// From begin to end; none before the end.
    #[must_use]
    pub fn makespan(&self) -> Option<Duration> {
        Some(self.ended?.monotonic.since(self.started.monotonic))
    }

    /// The summary of this moment.
    #[must_use]
    pub fn summary(&self) -> ExecutionSummary {
        let excluded = self
            .excluded
            .iter()
            .map(|(node, reason, message)| NodeSummary {
                node: node.clone(),
                state: NodeState::Excluded,
                reason: Some(*reason),
                message: message.clone(),
                attempts: 0,
                start_time: None,
                end_time: None,
                reports: Vec::new(),
                samples: 0,
            });
        ExecutionSummary {
            schema_version: SCHEMA_VERSION,
            id: self.id.to_string(),
            trigger: self.trigger,
            state: self.state(),
            scheduled_time: self.scheduled_time,
            start_time: self.started.wall,
            end_time: self.ended.map(|now| now.wall),
            makespan_ms: self
                .makespan()
                .map(|makespan| u64::try_from(makespan.as_millis()).unwrap_or(u64::MAX)),
            counts: self.counts.clone(),
            nodes: self
                .nodes
                .iter()
                .map(NodeRun::summary)
                .chain(excluded)
                .collect(),
        }
    }
}

fn remember(reports: &mut Vec<String>, name: String) {
    if !reports.contains(&name) {
        reports.push(name);
    }
}
