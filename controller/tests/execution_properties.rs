//! Properties of the execution state machine: whatever happens to pods and calls, in whatever order, the invariants
//! hold after each event, and the execution ends when every pod has ended.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use controller::core::execution::{CreateError, Effect, Event, Execution, Plan, PlannedNode};
use controller::core::failure::{ClusterError, ClusterErrorKind};
use controller::core::ids::ExecutionId;
use controller::core::invariants;
use controller::core::limits::Limits;
use controller::core::state::{ExecutionState, NodeState, Reason, Trigger};
use controller::core::time::{Monotonic, Now};
use controller::core::views::{NodeView, PodPhase, PodView, Waiting};
use proptest::prelude::*;

const ID: &str = "202601010342";
const PREVIOUS_ID: &str = "202601010242";

fn now(millis: u64) -> Now {
    Now {
        wall: jiff::Timestamp::from_millisecond(1_767_239_000_000 + i64::try_from(millis).unwrap())
            .unwrap(),
        monotonic: Monotonic(Duration::from_millis(millis)),
    }
}

fn pod(name: &str, uid: &str, node: &str, execution: &str, phase: PodPhase) -> PodView {
    PodView {
        name: name.to_owned(),
        uid: uid.to_owned(),
        node: node.to_owned(),
        owner: "audit".to_owned(),
        execution: ExecutionId::parse(execution),
        phase,
        terminating: false,
        grace: Duration::ZERO,
        reason: String::new(),
        message: String::new(),
        waiting: None,
        containers: vec!["main".to_owned()],
    }
}

/// As the configuration has them by default, but for what a case draws.
fn limits() -> Limits {
    Limits {
        pod_start_deadline: Duration::from_mins(10),
        pod_run_deadline: None,
        node_lost_timeout: Duration::from_mins(5),
        execution_deadline: None,
        retries: 0,
        max_failures: None,
        fail_fast: false,
        ended_pods: 1000,
    }
}

/// Limits of every kind, each of them often on and often off.
fn drawn_limits() -> impl Strategy<Value = Limits> {
    let seconds = |range: std::ops::Range<u64>| range.prop_map(Duration::from_secs);
    (
        seconds(1..120),
        proptest::option::of(seconds(1..120)),
        seconds(0..120),
        proptest::option::weighted(0.2, seconds(1..600)),
        0..3_u32,
        proptest::option::of(0..4_usize),
        any::<bool>(),
        prop_oneof![Just(1000), 0..4_usize],
    )
        .prop_map(|drawn| Limits {
            pod_start_deadline: drawn.0,
            pod_run_deadline: drawn.1,
            node_lost_timeout: drawn.2,
            execution_deadline: drawn.3,
            retries: drawn.4,
            max_failures: drawn.5,
            fail_fast: drawn.6,
            ended_pods: drawn.7,
        })
}

fn plan(nodes: usize, pool: u32, previous: usize) -> Plan {
    Plan {
        owner: "audit".to_owned(),
        id: ExecutionId::parse(ID).unwrap(),
        trigger: Trigger::Schedule,
        scheduled_time: now(0).wall,
        started: now(0),
        pool_size: NonZeroU32::new(pool).unwrap(),
        limits: limits(),
        result_expected: true,
        nodes: (0..nodes)
            .map(|index| PlannedNode {
                node: format!("node-{index}"),
                uid: format!("node-uid-{index}"),
                pod_name: format!("pod-{index}"),
                alternative_pod_name: format!("pod-{index}-hash"),
            })
            .collect(),
        excluded: Vec::new(),
        previous_pods: (0..previous)
            .map(|index| {
                let node = format!("node-{index}");
                pod(
                    &format!("old-{index}"),
                    &format!("old-uid-{index}"),
                    &node,
                    PREVIOUS_ID,
                    PodPhase::Running,
                )
            })
            .collect(),
    }
}

/// What the world does next; the numbers choose among what is possible in the current state.
#[derive(Debug, Clone, Copy)]
enum Action {
    AnswerWell(usize),
    AnswerBadly(usize, ClusterErrorKind),
    CreatedButUnanswered(usize),
    AnswerLate(usize),
    Start(usize),
    End(usize, bool),
    EndUnseen(usize, bool),
    Show,
    Delete(usize),
    DeleteUnseen(usize),
    Repeat(usize),
    Recreate(usize),
    Result(usize),
    Relist,
    PreviousEnds(usize),
    Stick(usize, &'static str),
    Refuse(usize, &'static str),
    Terminate(usize),
    NodeReady(usize, bool),
    NodeGone(usize),
    NodeReplaced(usize),
    RelistNodes,
    PassTime(u64),
    PassLongTime,
}

const WAITING: [&str; 4] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "ContainerCreating",
];
const REFUSALS: [&str; 4] = [
    "OutOfpods",
    "OutOfcpu",
    "Evicted",
    "UnexpectedAdmissionError",
];

fn action() -> impl Strategy<Value = Action> {
    let kind = prop_oneof![
        Just(ClusterErrorKind::Unavailable),
        Just(ClusterErrorKind::Throttled {
            retry_after: Some(Duration::from_secs(2))
        }),
        Just(ClusterErrorKind::Throttled { retry_after: None }),
        Just(ClusterErrorKind::Refused),
    ];
    let n = 0..64_usize;
    prop_oneof![
        8 => n.clone().prop_map(Action::AnswerWell),
        2 => (n.clone(), kind).prop_map(|(n, kind)| Action::AnswerBadly(n, kind)),
        1 => n.clone().prop_map(Action::CreatedButUnanswered),
        1 => n.clone().prop_map(Action::AnswerLate),
        3 => n.clone().prop_map(Action::Start),
        8 => (n.clone(), any::<bool>()).prop_map(|(n, well)| Action::End(n, well)),
        4 => (n.clone(), any::<bool>()).prop_map(|(n, well)| Action::EndUnseen(n, well)),
        2 => Just(Action::Show),
        1 => n.clone().prop_map(Action::Delete),
        1 => n.clone().prop_map(Action::DeleteUnseen),
        2 => n.clone().prop_map(Action::Repeat),
        1 => n.clone().prop_map(Action::Recreate),
        4 => n.clone().prop_map(Action::Result),
        1 => Just(Action::Relist),
        1 => n.clone().prop_map(Action::PreviousEnds),
        2 => (n.clone(), prop::sample::select(&WAITING[..])).prop_map(|(n, why)| Action::Stick(n, why)),
        1 => (n.clone(), prop::sample::select(&REFUSALS[..])).prop_map(|(n, why)| Action::Refuse(n, why)),
        1 => n.clone().prop_map(Action::Terminate),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, ready)| Action::NodeReady(n, ready)),
        1 => n.clone().prop_map(Action::NodeGone),
        1 => n.prop_map(Action::NodeReplaced),
        1 => Just(Action::RelistNodes),
        4 => (1..40_000_u64).prop_map(Action::PassTime),
        2 => Just(Action::PassLongTime),
    ]
}

/// A cluster beside the state machine: it carries out effects when told to, and remembers what really exists.
struct World {
    execution: Execution,
    millis: u64,
    pending: Vec<Effect>,
    answers: Vec<Event>,
    pods: BTreeMap<String, PodView>,
    gone: Vec<PodView>,
    uids: u64,
    /// What the watch has yet to show, in order.
    unseen: VecDeque<Event>,
    creations: BTreeMap<String, u32>,
    nodes: BTreeMap<String, NodeView>,
    ended: u32,
    pool: usize,
}

impl World {
    fn new(nodes: usize, pool: u32, previous: usize) -> Self {
        Self::of(plan(nodes, pool, previous))
    }

    fn of(plan: Plan) -> Self {
        let pool = plan.pool_size.get() as usize;
        let nodes = (plan.nodes.iter())
            .map(|node| {
                let view = NodeView {
                    name: node.node.clone(),
                    uid: node.uid.clone(),
                    ready: true,
                    ..NodeView::default()
                };
                (view.name.clone(), view)
            })
            .collect();
        let pods = plan
            .previous_pods
            .iter()
            .map(|pod| (pod.name.clone(), pod.clone()))
            .collect();
        let (execution, effects) = Execution::begin(plan, now(0));
        let mut world = Self {
            execution,
            millis: 0,
            pending: Vec::new(),
            answers: Vec::new(),
            pods,
            gone: Vec::new(),
            uids: 0,
            unseen: VecDeque::new(),
            creations: BTreeMap::new(),
            nodes,
            ended: 0,
            pool,
        };
        world.take(effects);
        world
    }

    /// A create that waits for its journal is not sent; one that is on its way is answered whatever we want.
    fn withdraw(&mut self, index: usize) {
        let is_it =
            |effect: &Effect| matches!(effect, Effect::CreatePod { index: of, .. } if *of == index);
        let waits = index.is_multiple_of(2);
        if let Some(at) = self.pending.iter().position(is_it).filter(|_| waits)
            && let Effect::CreatePod { index, attempt, .. } = self.pending.remove(at)
        {
            self.answers.push(Event::CreateFailed {
                index,
                attempt,
                error: CreateError::NotSent,
            });
        }
    }

    /// A person has had enough; what has ended stays what it is.
    fn cancel(&mut self) {
        let was_running = self.execution.state() == ExecutionState::Running;
        self.tell(Event::Cancelled {
            why: "by hand".to_owned(),
        });
        assert_eq!(self.execution.is_cancelled(), was_running);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        let withdrawn: Vec<usize> = (effects.iter())
            .filter_map(|effect| match effect {
                Effect::WithdrawCreate { index } => Some(*index),
                _ => None,
            })
            .collect();
        for effect in effects {
            if let Effect::CreatePod { index, .. } = &effect {
                let is_wanted = !self.execution.is_stopped() || withdrawn.contains(index);
                assert!(is_wanted, "{effect:?}");
            }
            match effect {
                Effect::WithdrawCreate { index } => self.withdraw(index),
                Effect::CreatePod { .. }
                | Effect::ReadPod { .. }
                | Effect::LookForResult { .. }
                | Effect::DeletePod { .. }
                | Effect::DeleteEndedPod { .. }
                | Effect::PodEnded { .. }
                | Effect::DeletePreviousPods(_) => self.pending.push(effect),
                Effect::Ended => self.ended += 1,
                Effect::PodKnown { .. }
                | Effect::NodeEnded { .. }
                | Effect::AttemptFailed { .. }
                | Effect::Announce { .. } => {}
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.execution.handle(now(self.millis), event);
        self.take(effects);
        invariants::check(&self.execution).unwrap();
        let open = self.pods.values().filter(|pod| {
            pod.execution.as_ref() == Some(self.execution.id())
                && pod.name.starts_with("pod-")
                && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
                && !pod.uid.starts_with("foreign")
                && !self.is_away(&pod.node)
        });
        assert!(
            open.count() <= self.pool,
            "more job pods than the pool allows"
        );
    }

    /// Whether a pod on it does not count: it cannot be reached, or is being given up.
    fn is_away(&self, node: &str) -> bool {
        let index = node.trim_start_matches("node-").parse::<usize>().unwrap();
        self.execution.nodes()[index].state() == NodeState::Lost
    }

    fn create(&mut self, index: usize, name: &str) -> PodView {
        self.uids += 1;
        let created = pod(
            name,
            &format!("uid-{}", self.uids),
            &format!("node-{index}"),
            ID,
            PodPhase::Pending,
        );
        *self.creations.entry(created.node.clone()).or_default() += 1;
        self.pods.insert(name.to_owned(), created.clone());
        self.unseen.push_back(Event::PodSeen(created.clone()));
        created
    }

    /// The watch catches up: each change is shown once, in order.
    fn show_all(&mut self) {
        while let Some(event) = self.unseen.pop_front() {
            self.tell(event);
        }
    }

    fn show(&mut self, event: Event) {
        self.unseen.push_back(event);
        self.show_all();
    }

    fn answer(&mut self, effect: Effect, failure: Option<ClusterErrorKind>) -> Event {
        let failure = failure.map(|kind| ClusterError::new(kind, "injected"));
        match effect {
            Effect::CreatePod {
                index,
                attempt,
                pod_name,
            } => match (failure, self.pods.get(&pod_name).cloned()) {
                (Some(error), _) => Event::CreateFailed {
                    index,
                    attempt,
                    error: CreateError::Cluster(error),
                },
                (None, Some(holder)) => Event::NameHeld {
                    index,
                    attempt,
                    holder,
                },
                (None, None) => Event::Created {
                    index,
                    attempt,
                    pod: self.create(index, &pod_name),
                },
            },
            Effect::ReadPod {
                index,
                step,
                pod_name,
            } => Event::PodRead {
                index,
                step,
                result: match (failure, self.pods.get(&pod_name)) {
                    (Some(error), _) if error.kind.is_transient() => Err(error),
                    (_, Some(pod)) => Ok(pod.clone()),
                    (_, None) => Err(ClusterError::new(ClusterErrorKind::NotFound, "not found")),
                },
            },
            Effect::LookForResult { index, step } => Event::LookedForResult { index, step },
            Effect::PodEnded { pod, .. } => Event::PodSettled { uid: pod.uid },
            Effect::DeletePod { pod_name, uid } | Effect::DeleteEndedPod { pod_name, uid } => {
                let result = failure.map_or_else(|| self.delete(&pod_name, &uid), Err);
                Event::PodDeleted {
                    pod_name,
                    uid,
                    result,
                }
            }
            Effect::DeletePreviousPods(execution) => Event::PreviousPodsDeleted {
                execution,
                result: failure.map_or(Ok(()), Err),
            },
            other => unreachable!("{other:?} is not answered"),
        }
    }

    /// A pod that has ended goes at once; another terminates until its kubelet has stopped it.
    fn delete(&mut self, name: &str, uid: &str) -> Result<(), ClusterError> {
        let Some(mut pod) = self.pods.get(name).cloned() else {
            return Err(ClusterError::new(ClusterErrorKind::NotFound, "not found"));
        };
        if pod.uid != uid {
            return Err(ClusterError::new(ClusterErrorKind::Conflict, "another uid"));
        }
        if matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed) {
            self.remove(&pod);
        } else if !pod.terminating {
            pod.terminating = true;
            pod.grace = Duration::from_secs(30);
            self.pods.insert(pod.name.clone(), pod.clone());
            self.unseen.push_back(Event::PodSeen(pod));
        }
        Ok(())
    }

    fn remove(&mut self, pod: &PodView) {
        self.pods.remove(&pod.name);
        self.gone.push(pod.clone());
        self.unseen.push_back(Event::PodGone(pod.clone()));
    }

    fn node(&self, n: usize) -> Option<NodeView> {
        let nodes: Vec<_> = self.nodes.values().collect();
        (!nodes.is_empty()).then(|| nodes[n % nodes.len()].clone())
    }

    fn open_pod(&self, n: usize) -> Option<PodView> {
        let open: Vec<_> = self
            .pods
            .values()
            .filter(|pod| pod.name.starts_with("pod-"))
            .collect();
        (!open.is_empty()).then(|| open[n % open.len()].clone())
    }

    fn change(&mut self, n: usize, change: impl FnOnce(&mut PodView)) {
        let Some(mut pod) = self.open_pod(n) else {
            return;
        };
        if matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed) {
            return;
        }
        change(&mut pod);
        self.pods.insert(pod.name.clone(), pod.clone());
        self.unseen.push_back(Event::PodSeen(pod));
    }

    fn end(&mut self, n: usize, well: bool) {
        let phase = if well {
            PodPhase::Succeeded
        } else {
            PodPhase::Failed
        };
        self.change(n, |pod| pod.phase = phase);
    }

    /// Does it, where it is possible.
    fn act(&mut self, action: Action) {
        match action {
            Action::Show => self.show_all(),
            Action::Result(n) => {
                let node = format!("node-{}", n % self.execution.nodes().len().max(1));
                self.tell(Event::ResultStored {
                    name: format!("{node}.json"),
                    node,
                    samples: 1,
                });
            }
            Action::Relist => {
                self.unseen.clear();
                self.tell(Event::Relisted(self.pods.values().cloned().collect()));
            }
            Action::PassTime(millis) => {
                self.millis += millis;
                self.tell(Event::Woken);
            }
            Action::PassLongTime => {
                self.millis += 400_000;
                self.tell(Event::Woken);
            }
            calls_and_more => self.act_on_calls(calls_and_more),
        }
    }

    /// The API server answers.
    fn act_on_calls(&mut self, action: Action) {
        match action {
            Action::AnswerWell(n) if !self.pending.is_empty() => {
                let effect = self.pending.remove(n % self.pending.len());
                let event = self.answer(effect, None);
                self.tell(event);
            }
            Action::AnswerBadly(n, kind) if !self.pending.is_empty() => {
                let effect = self.pending.remove(n % self.pending.len());
                let event = self.answer(effect, Some(kind));
                self.tell(event);
            }
            Action::CreatedButUnanswered(n) if !self.pending.is_empty() => {
                let effect = self.pending.remove(n % self.pending.len());
                if let Effect::CreatePod {
                    index, pod_name, ..
                } = &effect
                    && !self.pods.contains_key(pod_name)
                {
                    self.create(*index, pod_name);
                }
                let event = self.answer(effect, Some(ClusterErrorKind::Unavailable));
                self.tell(event);
            }
            Action::AnswerLate(n) if !self.pending.is_empty() => {
                let effect = self.pending.remove(n % self.pending.len());
                let event = self.answer(effect, None);
                self.answers.push(event);
            }
            pods_and_more => self.act_on_pods(pods_and_more),
        }
    }

    /// Kubelets change pods.
    fn act_on_pods(&mut self, action: Action) {
        match action {
            Action::Start(n) => {
                self.change(n, |pod| pod.phase = PodPhase::Running);
                self.show_all();
            }
            Action::End(n, well) => {
                self.end(n, well);
                self.show_all();
            }
            Action::EndUnseen(n, well) => self.end(n, well),
            Action::Stick(n, why) => {
                self.change(n, |pod| {
                    pod.waiting = Some(Waiting {
                        container: "main".to_owned(),
                        reason: why.to_owned(),
                        message: String::new(),
                    });
                });
                self.show_all();
            }
            Action::Refuse(n, why) => {
                self.change(n, |pod| {
                    pod.phase = PodPhase::Failed;
                    why.clone_into(&mut pod.reason);
                });
                self.show_all();
            }
            people_and_more => self.act_as_people(people_and_more),
        }
    }

    /// People change pods, and the watch repeats itself.
    fn act_as_people(&mut self, action: Action) {
        match action {
            Action::Delete(n) => {
                if let Some(pod) = self.open_pod(n) {
                    self.pods.remove(&pod.name);
                    self.gone.push(pod.clone());
                    self.show(Event::PodGone(pod));
                }
            }
            Action::DeleteUnseen(n) => {
                if let Some(pod) = self.open_pod(n) {
                    self.pods.remove(&pod.name);
                    self.gone.push(pod.clone());
                    self.unseen.push_back(Event::PodGone(pod));
                }
            }
            Action::Repeat(n) if !self.gone.is_empty() => {
                let old = self.gone[n % self.gone.len()].clone();
                self.tell(Event::PodSeen(old));
            }
            Action::Recreate(n) => {
                // Somebody deletes a pod and makes another under its name.
                if let Some(old) = self.open_pod(n) {
                    self.uids += 1;
                    let new = PodView {
                        uid: format!("foreign-{}", self.uids),
                        phase: PodPhase::Running,
                        ..old.clone()
                    };
                    self.pods.insert(old.name.clone(), new.clone());
                    self.gone.push(old.clone());
                    self.unseen.push_back(Event::PodGone(old));
                    self.show(Event::PodSeen(new));
                }
            }
            Action::PreviousEnds(n) => {
                let old: Vec<_> = self
                    .pods
                    .values()
                    .filter(|pod| pod.name.starts_with("old-"))
                    .cloned()
                    .collect();
                if !old.is_empty() {
                    let pod = old[n % old.len()].clone();
                    self.pods.remove(&pod.name);
                    self.show(Event::PodGone(pod));
                }
            }
            Action::Terminate(n) => {
                if let Some(pod) = self.open_pod(n) {
                    self.delete(&pod.name, &pod.uid).unwrap();
                    self.show_all();
                }
            }
            nodes => self.act_on_nodes(nodes),
        }
    }

    /// Nodes come and go.
    fn act_on_nodes(&mut self, action: Action) {
        match action {
            Action::NodeReady(n, ready) => {
                if let Some(mut node) = self.node(n) {
                    node.ready = ready;
                    self.nodes.insert(node.name.clone(), node.clone());
                    self.tell(Event::NodeSeen(node));
                }
            }
            Action::NodeGone(n) => {
                if let Some(node) = self.node(n) {
                    self.nodes.remove(&node.name);
                    self.tell(Event::NodeGone(node));
                }
            }
            Action::NodeReplaced(n) => {
                if let Some(mut node) = self.node(n) {
                    node.uid.push_str("-new");
                    self.nodes.insert(node.name.clone(), node.clone());
                    self.tell(Event::NodeSeen(node));
                }
            }
            Action::RelistNodes => {
                self.tell(Event::NodesRelisted(self.nodes.values().cloned().collect()));
            }
            _ => {}
        }
    }

    fn answer_late(&mut self) {
        for event in std::mem::take(&mut self.answers) {
            self.tell(event);
        }
    }

    /// The faults are over: every call is answered well, every pod ends, and the watch shows each change once, without
    /// ever beginning again.
    fn heal(&mut self) {
        for _ in 0..10_000 {
            if self.execution.state() != ExecutionState::Running {
                return;
            }
            self.answer_late();
            for effect in std::mem::take(&mut self.pending) {
                let event = self.answer(effect, None);
                self.tell(event);
            }
            let open = self
                .pods
                .values()
                .filter(|pod| !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed));
            for mut pod in open.cloned().collect::<Vec<_>>() {
                if pod.terminating {
                    self.remove(&pod);
                    continue;
                }
                pod.phase = PodPhase::Succeeded;
                self.pods.insert(pod.name.clone(), pod.clone());
                self.unseen.push_back(Event::PodSeen(pod));
            }
            self.show_all();
            self.millis += 61_000;
            self.tell(Event::Woken);
        }
        panic!("the execution does not end: {:?}", self.execution.counts());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_event_and_every_execution_ends(
        nodes in 0..12_usize,
        pool in 1..5_u32,
        previous in 0..3_usize,
        limits in prop_oneof![Just(limits()), drawn_limits()],
        actions in prop::collection::vec(action(), 0..160),
        cancel_at in prop::option::weighted(0.2, 0..160_usize),
    ) {
        let retries = limits.retries as usize;
        let mut world = World::of(Plan { limits, ..plan(nodes, pool, previous) });
        for (number, action) in actions.into_iter().enumerate() {
            if cancel_at == Some(number) {
                world.cancel();
            }
            world.act(action);
        }
        world.heal();
        prop_assert_eq!(world.ended, 1, "the end is said once");
        prop_assert!(world.execution.nodes().iter().all(|node| node.state().is_final()));
        for (node, created) in &world.creations {
            let gone = world.gone.iter().filter(|pod| pod.node == *node).count();
            prop_assert!(*created as usize <= 1 + retries + gone, "{} got {} pods, {} were deleted", node, created, gone);
        }
    }

    #[test]
    fn pods_that_never_end_are_ended_by_their_deadlines(
        nodes in 1..8_usize,
        pool in 1..4_u32,
        drawn in drawn_limits(),
        run_deadline in 1..60_u64,
        starts in prop::collection::vec(any::<bool>(), 8),
        stops in prop::collection::vec(any::<bool>(), 8),
    ) {
        let limits = Limits {
            pod_run_deadline: Some(Duration::from_secs(run_deadline)),
            ..drawn
        };
        let mut world = World::of(Plan { limits, ..plan(nodes, pool, 0) });
        let index = |pod: &PodView| pod.node.trim_start_matches("node-").parse::<usize>().unwrap();
        let mut turns = 0;
        while world.execution.state() == ExecutionState::Running {
            while !world.pending.is_empty() {
                world.act(Action::AnswerWell(0));
            }
            world.answer_late();
            for mut pod in world.pods.values().cloned().collect::<Vec<_>>() {
                if pod.terminating && stops[index(&pod)] {
                    world.remove(&pod);
                } else if pod.phase == PodPhase::Pending && starts[index(&pod)] {
                    pod.phase = PodPhase::Running;
                    world.pods.insert(pod.name.clone(), pod.clone());
                    world.unseen.push_back(Event::PodSeen(pod));
                }
            }
            world.show_all();
            let is_settled = world.pending.is_empty() && world.answers.is_empty();
            if is_settled && world.execution.state() == ExecutionState::Running {
                let due = world.execution.next_wakeup();
                prop_assert!(due.is_some(), "nothing would ever wake it");
                let millis = u64::try_from(due.unwrap().0.as_millis()).unwrap();
                world.millis = world.millis.max(millis + 1);
                world.tell(Event::Woken);
            }
            turns += 1;
            prop_assert!(turns < 1_000, "it goes on and on: {:?}", world.execution.counts());
        }
        prop_assert_eq!(world.execution.state(), ExecutionState::Failed);
        for (node, stops) in world.execution.nodes().iter().zip(&stops) {
            let expected = match node.state() {
                NodeState::Failed => *stops,
                NodeState::Lost => !stops,
                NodeState::NotStarted => world.execution.is_stopped(),
                _ => false,
            };
            prop_assert!(expected, "{} is {:?}: {}", node.node(), node.state(), node.message());
        }
    }

    #[test]
    fn without_faults_every_node_succeeds_with_one_pod_and_the_pool_is_full(
        nodes in 1..30_usize,
        pool in 1..8_u32,
    ) {
        let mut world = World::new(nodes, pool, 0);
        while world.execution.state() == ExecutionState::Running {
            let open = nodes - world.execution.ended_nodes();
            prop_assert_eq!(world.execution.pool().taken(), open.min(pool as usize));
            while !world.pending.is_empty() {
                world.act(Action::AnswerWell(0));
            }
            let running: Vec<_> = world.pods.values().filter(|pod| pod.phase == PodPhase::Pending).cloned().collect();
            for mut pod in running {
                world.tell(Event::ResultStored { node: pod.node.clone(), name: format!("{}.json", pod.node), samples: 1 });
                pod.phase = PodPhase::Succeeded;
                world.pods.insert(pod.name.clone(), pod.clone());
                world.show(Event::PodSeen(pod));
            }
        }
        prop_assert_eq!(world.execution.state(), ExecutionState::Succeeded);
        prop_assert_eq!(world.execution.counts().get(&NodeState::Succeeded).copied(), u32::try_from(nodes).ok());
        prop_assert!(world.creations.values().all(|created| *created == 1));
    }
}

#[test]
fn a_late_result_turns_no_result_into_succeeded_while_the_execution_runs() {
    let mut world = World::new(2, 2, 0);
    world.act(Action::AnswerWell(0));
    world.act(Action::AnswerWell(0));
    world.act(Action::End(0, true));
    // The ended pod is settled, then the volume is looked at.
    world.act(Action::AnswerWell(0));
    world.act(Action::AnswerWell(0));
    assert_eq!(world.execution.nodes()[0].state(), NodeState::Failed);
    world.tell(Event::ResultStored {
        node: "node-0".to_owned(),
        name: "node-0.json".to_owned(),
        samples: 1,
    });
    assert_eq!(world.execution.nodes()[0].state(), NodeState::Succeeded);
}

#[test]
fn slot_is_released_once_when_pod_vanishes() {
    let mut world = World::new(3, 1, 0);
    world.act(Action::AnswerWell(0));
    let vanished = world.pods.values().next().cloned().unwrap();
    world.act(Action::Delete(0));
    world.tell(Event::PodGone(vanished.clone()));
    world.tell(Event::PodSeen(vanished));
    assert_eq!(world.execution.counts().get(&NodeState::Failed), Some(&1));
    assert_eq!(
        world.execution.pool().taken(),
        1,
        "the next node has the slot"
    );
}

#[test]
fn pods_of_an_earlier_execution_that_stay_keep_their_slots_and_only_fail_their_nodes() {
    let mut world = World::new(3, 2, 1);
    world.act(Action::AnswerWell(0));
    assert!(
        world.pending.is_empty(),
        "nothing is created while the old pod is waited for"
    );
    world.act(Action::PassTime(60_000));
    assert_eq!(
        world.execution.nodes()[0].reason().map(Reason::as_str),
        Some("PreviousPod")
    );
    assert_eq!(world.pending.len(), 1, "one of two slots is the old pod's");
    world.act(Action::PreviousEnds(0));
    assert_eq!(world.pending.len(), 2);
}

#[test]
fn a_pod_and_its_node_that_go_together_are_lost_in_whichever_order_that_is_told() {
    for (pod_first, seconds, state) in [
        (false, 0, NodeState::Lost),
        (true, 0, NodeState::Lost),
        (true, 5, NodeState::Lost),
        (true, 60, NodeState::Failed),
    ] {
        let mut world = World::new(2, 1, 0);
        world.act(Action::AnswerWell(0));
        if !pod_first {
            world.act(Action::NodeGone(0));
        }
        world.act(Action::Delete(0));
        world.act(Action::PassTime(seconds * 1_000));
        if pod_first {
            world.act(Action::NodeGone(0));
        }
        let node = &world.execution.nodes()[0];
        assert_eq!(
            node.state(),
            state,
            "{pod_first} {seconds}: {}",
            node.message()
        );
        assert_eq!(
            world.execution.pool().taken(),
            1,
            "the next node has the slot"
        );
    }
}

#[test]
fn a_node_that_is_back_stays_well_when_its_absence_is_told_again() {
    let mut world = World::new(1, 1, 0);
    world.act(Action::AnswerWell(0));
    for (version, ready) in [(7, false), (8, true), (7, false)] {
        let mut node = world.node(0).unwrap();
        (node.version, node.ready) = (version, ready);
        world.tell(Event::NodeSeen(node));
    }
    world.act(Action::PassLongTime);
    assert_eq!(world.execution.nodes()[0].state(), NodeState::Running);
    // Nor does it go with another one that had its name before.
    let mut former = world.node(0).unwrap();
    (former.version, former.uid) = (3, "former".to_owned());
    world.tell(Event::NodeSeen(former));
    assert_eq!(world.execution.nodes()[0].state(), NodeState::Running);
}

#[test]
fn a_pod_is_read_before_it_counts_as_past_a_deadline_since_its_watch_may_be_silent() {
    let start_deadline_ms = 600_000;
    for (phase, is_late) in [(PodPhase::Pending, true), (PodPhase::Running, false)] {
        let mut world = World::new(1, 1, 0);
        world.act(Action::AnswerWell(0));
        // Nobody is shown it.
        world.change(0, |pod| pod.phase = phase);
        world.unseen.clear();
        world.act(Action::PassTime(start_deadline_ms));
        world.act(Action::AnswerWell(0));
        let is_deleted = matches!(world.pending[..], [Effect::DeletePod { .. }]);
        assert_eq!(is_deleted, is_late, "{phase:?}: {:?}", world.pending);
    }
}

#[test]
fn a_pod_that_was_gone_before_its_deadline_was_deleted() {
    let mut world = World::new(1, 1, 0);
    world.act(Action::AnswerWell(0));
    let pod = world.open_pod(0).unwrap();
    world.remove(&pod);
    world.unseen.clear();
    world.act(Action::PassTime(600_000));
    world.act(Action::AnswerWell(0));
    assert_eq!(world.execution.nodes()[0].reason(), Some(Reason::Deleted));
}

#[test]
fn who_is_stopped_before_its_create_is_sent_has_not_started_and_what_exists_runs_to_its_end() {
    let max_failures = Some(0);
    let plan = Plan {
        limits: Limits {
            max_failures,
            fail_fast: true,
            ..limits()
        },
        ..plan(5, 4, 0)
    };
    let mut world = World::of(plan);
    // The first waits for its journal, the second's answer is on its way, the third is to be sent again.
    let throttled = ClusterErrorKind::Throttled { retry_after: None };
    world.act(Action::AnswerBadly(2, throttled));
    world.act(Action::AnswerWell(2));
    world.act(Action::End(0, false));
    let state = |world: &World, index: usize| world.execution.nodes()[index].state();
    assert_eq!(state(&world, 3), NodeState::Failed);
    assert!(world.execution.is_stopped());
    for (index, expected) in [
        (1, NodeState::Running),
        (2, NodeState::NotStarted),
        (4, NodeState::NotStarted),
    ] {
        assert_eq!(state(&world, index), expected, "{index}");
    }
    let succeeding = Event::ResultStored {
        node: "node-1".to_owned(),
        name: "node-1.json".to_owned(),
        samples: 1,
    };
    world.tell(succeeding);
    world.heal();
    assert_eq!(state(&world, 0), NodeState::NotStarted);
    assert_eq!(state(&world, 1), NodeState::Succeeded);
    assert_eq!(world.creations.len(), 2, "{:?}", world.creations);
    assert_eq!(world.execution.state(), ExecutionState::Failed);
}

#[test]
fn a_create_in_doubt_when_the_execution_is_stopped_is_settled_by_a_read() {
    for exists in [false, true] {
        let mut world = World::new(1, 1, 0);
        world.act(if exists {
            Action::CreatedButUnanswered(0)
        } else {
            Action::AnswerBadly(0, ClusterErrorKind::Unavailable)
        });
        world.unseen.clear();
        world.cancel();
        let is_read = matches!(world.pending[..], [Effect::ReadPod { .. }]);
        assert!(is_read, "{:?}", world.pending);
        world.act(Action::AnswerWell(0));
        let is_deleted = matches!(world.pending[..], [Effect::DeletePod { .. }]);
        assert_eq!(is_deleted, exists, "{:?}", world.pending);
        world.heal();
        assert_eq!(world.execution.nodes()[0].reason(), Some(Reason::Cancelled));
    }
}
