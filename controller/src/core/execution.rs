//! One execution: a state machine that is told what happened and answers what to do.
//!
//! It owns the frozen node list, the pool, and the state of each node. Invariants, checked by `invariants`: a slot is
//! released once; job pods not ended, creates in flight included, never exceed the pool unless an earlier execution left
//! some; an ended node stays ended (but for `NoResult`, which a late result turns into `succeeded`); the execution ends
//! when every node has. Deliberately not here: listing nodes, choosing the id, files, metrics, waiting; `runtime` does those.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use super::failure::{ClusterError, ClusterErrorKind};
use super::ids::ExecutionId;
use super::pod_phase::{self, PodEnd};
use super::pod_pool::{PodPool, SlotHolder};
use super::state::{ExecutionState, NodeState, Reason, Trigger};
use super::summary::{ExecutionSummary, NodeSummary, SCHEMA_VERSION};
use super::time::{Monotonic, Now};
use super::views::PodView;

/// How long the pods of other executions are waited for before they keep their slots and fail their nodes.
pub const CLEARING_TIMEOUT: Duration = Duration::from_secs(60);

/// The first pause before a failed call is repeated; doubled each time up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// The longest pause between two tries: an API server that comes back is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

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

/// One eligible node and the names its pod may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNode {
    /// The node's name.
    pub node: String,
    /// The name of its pod.
    pub pod_name: String,
    /// The name of its pod where somebody else's pod holds the first.
    pub alternative_pod_name: String,
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
    /// A create was answered AlreadyExists; this is who holds the name.
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

/// One node of the list.
#[derive(Debug, Clone)]
pub struct NodeRun {
    names: PlannedNode,
    state: NodeState,
    reason: Option<Reason>,
    message: String,
    progress: Progress,
    /// How often `progress` has changed.
    step: u32,
    pod_name: String,
    attempts: u32,
    /// Whether a create of the pod was sent whose outcome is unknown.
    is_doubtful: bool,
    started: Option<Now>,
    ended: Option<Now>,
    reports: Vec<String>,
    samples: u32,
    has_result: bool,
}

/// Where the pod of a running node stands, beyond what [`NodeState`] tells people.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    /// No pod asked for, or ended.
    Idle,
    /// A create is under way.
    Creating { tries: u32 },
    /// A create failed and is repeated. Its outcome may be unknown: the slot stays taken.
    Retrying { tries: u32 },
    /// A create was refused, but an earlier one was not answered: whether the pod exists is being read.
    Settling { tries: u32, refusal: String },
    /// The pod exists.
    Exists { uid: String },
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

/// Waiting for the pods of other executions to go.
#[derive(Debug, Clone)]
struct Clearing {
    deadline: Monotonic,
    /// Executions whose deletion has not been answered well, with the time of the next try where one failed.
    pending: BTreeMap<ExecutionId, Option<(u32, Monotonic)>>,
}

impl NodeRun {
    fn new(names: PlannedNode) -> Self {
        Self {
            pod_name: names.pod_name.clone(),
            names,
            state: NodeState::Waiting,
            reason: None,
            message: String::new(),
            progress: Progress::Idle,
            step: 0,
            attempts: 0,
            is_doubtful: false,
            started: None,
            ended: None,
            reports: Vec::new(),
            samples: 0,
            has_result: false,
        }
    }

    fn advance(&mut self, progress: Progress) {
        self.progress = progress;
        self.step += 1;
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.names.node
    }

    /// The name of its pod.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        &self.pod_name
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// Why, where the state alone does not say.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The same for people; empty where there is nothing to say.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// From the pod's creation to its end; none before.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.ended?.monotonic.since(self.started?.monotonic))
    }

    /// Whether a pod of it may exist: its callbacks are accepted.
    #[must_use]
    pub fn may_call_back(&self) -> bool {
        self.attempts > 0
    }

    /// The uid of its pod, while that exists.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        match &self.progress {
            Progress::Exists { uid } => Some(uid),
            _ => None,
        }
    }

    fn summary(&self) -> NodeSummary {
        NodeSummary {
            node: self.names.node.clone(),
            state: self.state,
            reason: self.reason,
            message: self.message.clone(),
            attempts: self.attempts,
            start_time: self.started.map(|now| now.wall),
            end_time: self.ended.map(|now| now.wall),
            reports: self.reports.clone(),
            samples: self.samples,
        }
    }
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
                self.previous_deleted(now, &execution, result)
            }
            Event::Created { index, pod } => self.created(now, index, &pod, &mut effects),
            Event::NameHeld { index, holder } => self.name_held(now, index, &holder, &mut effects),
            Event::CreateFailed { index, error } => {
                self.create_failed(now, index, error, &mut effects)
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
            } => self.result_stored(&node, name, samples, &mut effects),
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

    // Clearing: the pods of other executions go before the first pod of this one is created.

    fn delete_previous(&mut self) -> Vec<Effect> {
        let pending = self
            .clearing
            .iter()
            .flat_map(|clearing| clearing.pending.keys());
        pending.cloned().map(Effect::DeletePreviousPods).collect()
    }

    fn previous_deleted(
        &mut self,
        now: Now,
        execution: &ExecutionId,
        result: Result<(), ClusterError>,
    ) {
        let Some(clearing) = &mut self.clearing else {
            return;
        };
        let Some(retry) = clearing.pending.get_mut(execution) else {
            return;
        };
        match result {
            Err(error) if error.kind.is_transient() => {
                let tries = retry.map_or(1, |(tries, _)| tries + 1);
                *retry = Some((
                    tries,
                    now.monotonic
                        .after(backoff(error.kind, tries, execution.as_str())),
                ));
            }
            // Refused for good: the deadline decides, as it does for pods that will not go.
            Ok(()) | Err(_) => {
                clearing.pending.remove(execution);
            }
        }
    }

    fn clearing_is_over(&self, now: Now) -> bool {
        match &self.clearing {
            None => true,
            Some(clearing) => {
                now.monotonic >= clearing.deadline
                    || (clearing.pending.is_empty() && self.previous.is_empty())
            }
        }
    }

    fn end_clearing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.clearing = None;
        for (uid, node) in self.previous.clone() {
            self.pool.adopt(&uid);
            if let Some(&index) = self.index_by_node.get(&node) {
                let message = format!(
                    "a job pod of an earlier execution still runs there after {} s",
                    CLEARING_TIMEOUT.as_secs()
                );
                self.end_node(now, index, Err((Reason::PreviousPod, message)), effects);
            }
        }
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

    // Creating.

    fn create(&mut self, index: usize, tries: u32, effects: &mut Vec<Effect>) {
        let node = &mut self.nodes[index];
        node.attempts = 1;
        node.advance(Progress::Creating { tries });
        effects.push(Effect::CreatePod {
            index,
            pod_name: node.pod_name.clone(),
        });
    }

    fn pod_exists(&mut self, now: Now, index: usize, pod: &PodView, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if !matches!(node.progress, Progress::Idle | Progress::Exists { .. }) {
            node.advance(Progress::Exists {
                uid: pod.uid.clone(),
            });
            node.started = Some(now);
        }
        self.observe(now, index, pod, effects);
    }

    /// The answer to a create: of several pods that had the name one after the other, this is the newest.
    fn created(&mut self, now: Now, index: usize, pod: &PodView, effects: &mut Vec<Effect>) {
        if let Some(node) = self.nodes.get_mut(index)
            && let Progress::Exists { uid } = &mut node.progress
        {
            uid.clone_from(&pod.uid);
            node.step += 1;
        }
        self.pod_exists(now, index, pod, effects);
    }

    fn create_failed(
        &mut self,
        now: Now,
        index: usize,
        error: CreateError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        // The watch may have shown the pod before the failure was answered.
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        match error {
            CreateError::Cluster(error) if error.kind.is_transient() => {
                let pause = backoff(error.kind, tries, &node.names.node);
                node.message = format!("create is repeated: {}", error.message);
                node.is_doubtful |= error.kind == ClusterErrorKind::Unavailable;
                node.advance(Progress::Retrying { tries });
                self.retries.insert((now.monotonic.after(pause), index));
            }
            // The refusal is of this create: one before it may have made the pod.
            CreateError::Cluster(error) if node.is_doubtful => {
                let refusal = error.message;
                self.settle(index, 1, refusal, effects);
            }
            CreateError::Cluster(error) => {
                self.end_node(now, index, Err((Reason::Refused, error.message)), effects);
            }
            CreateError::Template(message) => {
                self.end_node(now, index, Err((Reason::Template, message)), effects);
            }
        }
    }

    fn settle(&mut self, index: usize, tries: u32, refusal: String, effects: &mut Vec<Effect>) {
        let node = &mut self.nodes[index];
        node.advance(Progress::Settling { tries, refusal });
        self.read(index, effects);
    }

    fn name_held(&mut self, now: Now, index: usize, holder: &PodView, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let Progress::Creating { tries } = node.progress else {
            return;
        };
        if is_ours(&self.owner, &self.id, &node.names.node, holder) {
            return self.pod_exists(now, index, holder, effects);
        }
        if node.pod_name == node.names.alternative_pod_name {
            let message = format!("a pod that is not ours holds the name {}", node.pod_name);
            return self.end_node(now, index, Err((Reason::Refused, message)), effects);
        }
        node.pod_name = node.names.alternative_pod_name.clone();
        self.index_by_pod.insert(node.pod_name.clone(), index);
        self.create(index, tries, effects);
    }

    fn retry_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Some(clearing) = &mut self.clearing {
            for (id, retry) in &mut clearing.pending {
                if retry.is_some_and(|(_, due)| due <= now.monotonic) {
                    // Asked again; the count of tries is kept for the next pause.
                    *retry = retry.map(|(tries, _)| (tries, clearing.deadline));
                    effects.push(Effect::DeletePreviousPods(id.clone()));
                }
            }
        }
        while let Some(&(due, index)) = self.retries.first() {
            if due > now.monotonic {
                break;
            }
            self.retries.pop_first();
            match self.nodes[index].progress.clone() {
                Progress::Retrying { tries } => self.create(index, tries + 1, effects),
                Progress::Settling { tries, refusal } => {
                    self.settle(index, tries + 1, refusal, effects)
                }
                Progress::Idle | Progress::Creating { .. } | Progress::Exists { .. } => {}
            }
        }
    }

    // Watching.

    /// The node whose pod this is: of this execution, under a name we asked for, on that node.
    fn index_of(&self, pod: &PodView) -> Option<usize> {
        let index = *self.index_by_pod.get(&pod.name)?;
        let node = &self.nodes[index];
        // With a create under way and an earlier one unanswered, the watch may be showing either's pod, one of them from
        // the past. The answer, a few seconds away at most, says which exists.
        let is_undecided = node.is_doubtful && matches!(node.progress, Progress::Creating { .. });
        (!is_undecided && is_ours(&self.owner, &self.id, &node.names.node, pod)).then_some(index)
    }

    fn pod_seen(&mut self, now: Now, pod: &PodView, effects: &mut Vec<Effect>) {
        if self.previous.contains_key(&pod.uid) {
            if pod_phase::end_of(pod).is_some() {
                self.previous_ended(&pod.uid);
            }
        } else if let Some(index) = self.index_of(pod) {
            let node = &self.nodes[index];
            if node.is_doubtful && matches!(node.progress, Progress::Retrying { .. }) {
                // It may be a pod from the past; what exists now decides whether the create is repeated.
                self.read(index, effects);
            } else {
                self.pod_exists(now, index, pod, effects);
            }
        }
    }

    fn pod_gone(&mut self, now: Now, pod: &PodView, effects: &mut Vec<Effect>) {
        if self.previous.contains_key(&pod.uid) {
            self.previous_ended(&pod.uid);
        } else if let Some(index) = self.index_of(pod) {
            // Created, ended and deleted before its create was answered: the last state is all there is.
            self.pod_exists(now, index, pod, effects);
            if self.nodes[index].pod_uid() == Some(&pod.uid) {
                self.end_pod(now, index, pod, pod_phase::gone(), effects);
            }
        }
    }

    fn previous_ended(&mut self, uid: &str) {
        self.previous.remove(uid);
        self.pool.release(&SlotHolder::PreviousPod(uid.to_owned()));
    }

    fn relisted(&mut self, now: Now, pods: &[PodView], effects: &mut Vec<Effect>) {
        for pod in pods {
            self.pod_seen(now, pod, effects);
        }
        let present: BTreeMap<&str, &PodView> =
            pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
        let gone: Vec<String> = (self.previous.keys())
            .filter(|uid| !present.contains_key(uid.as_str()))
            .cloned()
            .collect();
        for uid in gone {
            self.previous_ended(&uid);
        }
        // A pod created after the list was made is not in it: absence is confirmed by a read before it counts.
        let missing = self.running_indices().filter(|&index| {
            let uid = self.nodes[index].pod_uid();
            uid.is_some_and(|uid| !present.contains_key(uid))
        });
        for index in missing.collect::<Vec<_>>() {
            self.read(index, effects);
        }
    }

    fn read(&self, index: usize, effects: &mut Vec<Effect>) {
        let node = &self.nodes[index];
        effects.push(Effect::ReadPod {
            index,
            step: node.step,
            pod_name: node.pod_name.clone(),
        });
    }

    fn pod_read(
        &mut self,
        now: Now,
        index: usize,
        step: u32,
        result: Result<PodView, ClusterError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.nodes.get(index).filter(|node| node.step == step) else {
            return;
        };
        match (node.progress.clone(), result) {
            (Progress::Exists { uid }, Ok(pod)) if pod.uid == uid => {
                self.observe(now, index, &pod, effects)
            }
            (Progress::Exists { .. }, Ok(other)) => {
                self.end_pod(now, index, &other, pod_phase::gone(), effects)
            }
            (Progress::Exists { .. }, Err(error)) if error.kind == ClusterErrorKind::NotFound => {
                self.end_node(now, index, failed(pod_phase::gone()), effects);
            }
            // The next relist asks again.
            (Progress::Exists { .. }, Err(_)) => {}
            (Progress::Settling { .. } | Progress::Retrying { .. }, Ok(pod))
                if is_ours(&self.owner, &self.id, &node.names.node, &pod) =>
            {
                self.pod_exists(now, index, &pod, effects);
            }
            (Progress::Settling { tries, .. }, Err(error)) if error.kind.is_transient() => {
                let pause = backoff(error.kind, tries, &node.names.node);
                self.retries.insert((now.monotonic.after(pause), index));
            }
            (Progress::Settling { refusal, .. }, _) => {
                self.end_node(now, index, Err((Reason::Refused, refusal)), effects);
            }
            (Progress::Idle | Progress::Creating { .. } | Progress::Retrying { .. }, _) => {}
        }
    }

    fn observe(&mut self, now: Now, index: usize, pod: &PodView, effects: &mut Vec<Effect>) {
        let known = self.nodes[index].pod_uid().map(str::to_owned);
        match known {
            None => {}
            Some(uid) if uid == pod.uid => {
                if let Some(end) = pod_phase::end_of(pod) {
                    self.end_pod(now, index, pod, end, effects);
                }
            }
            // Same name, another uid: a pod from the past, or ours was deleted and somebody made this one. A read tells.
            Some(_) => self.read(index, effects),
        }
    }

    fn end_pod(
        &mut self,
        now: Now,
        index: usize,
        pod: &PodView,
        end: PodEnd,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::PodEnded {
            index,
            pod: pod.clone(),
        });
        let node = &self.nodes[index];
        let end = match end {
            PodEnd::Succeeded if self.result_expected && !node.has_result => Err((
                Reason::NoResult,
                "the pod succeeded, but posted no result".to_owned(),
            )),
            PodEnd::Succeeded => Ok(()),
            end @ PodEnd::Failed { .. } => failed(end),
        };
        self.end_node(now, index, end, effects);
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
        node.ended = Some(now);
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

    // Reports.

    fn result_stored(&mut self, node: &str, name: String, samples: u32, effects: &mut Vec<Effect>) {
        let Some(&index) = self.index_by_node.get(node) else {
            return;
        };
        let node = &mut self.nodes[index];
        node.has_result = true;
        node.samples = samples;
        remember(&mut node.reports, name);
        if node.reason == Some(Reason::NoResult) && self.ended.is_none() {
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

    // Reading it.

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

/// Whether it is the job pod of that node in that execution, whoever created it: by labels and node, never by the uid of
/// its owner, which a re-installed controller does not share.
fn is_ours(owner: &str, id: &ExecutionId, node: &str, pod: &PodView) -> bool {
    pod.owner == owner && pod.execution.as_ref() == Some(id) && pod.node == node
}

fn failed(end: PodEnd) -> Result<(), (Reason, String)> {
    match end {
        PodEnd::Succeeded => Ok(()),
        PodEnd::Failed { reason, message } => Err((reason, message)),
    }
}

fn remember(reports: &mut Vec<String>, name: String) {
    if !reports.contains(&name) {
        reports.push(name);
    }
}

/// The pause before try `tries + 1`: the server's Retry-After, else doubling, each spread over ±25 % by a hash of `key` so
/// that the nodes of a refused wave do not come back as one.
fn backoff(kind: ClusterErrorKind, tries: u32, key: &str) -> Duration {
    let base = match kind {
        ClusterErrorKind::Throttled {
            retry_after: Some(pause),
        } => pause,
        _ => BACKOFF_MIN
            .saturating_mul(1 << tries.saturating_sub(1).min(10))
            .min(BACKOFF_MAX),
    };
    let hash = key.bytes().fold(tries, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    match kind {
        // Never earlier than the server asked for.
        ClusterErrorKind::Throttled {
            retry_after: Some(_),
        } => base + base.mul_f64(f64::from(hash % 256) / 1024.0),
        _ => base.mul_f64(0.75 + f64::from(hash % 256) / 512.0),
    }
}
