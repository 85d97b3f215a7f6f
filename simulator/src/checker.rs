//! The invariants of the controller, checked after every event of a run, from outside: from what the API server stores
//! and what the callback answers.
//!
//! Incremental: an event costs the same whatever the cluster's size. Each `invariant_…` is a sentence that holds after
//! every event; the first that does not ends the run. Deliberately not here: how events get here (`world`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use controller::core::ids::ExecutionId;
use controller::core::views::PodPhase;

use crate::state::Stored;

/// What does not hold: a sentence with the figures.
pub type Violation = String;

/// A job pod as the API server stores it.
#[derive(Debug, Clone)]
pub struct JobPod<'a> {
    /// `metadata.uid`.
    pub uid: &'a Arc<str>,
    /// `metadata.name`.
    pub name: &'a str,
    /// `spec.nodeName`.
    pub node: &'a str,
    /// The execution label.
    pub execution: &'a str,
    /// `status.phase`.
    pub phase: PodPhase,
    /// Whether its create was given up, and it came into being all the same: the pool's bound cannot count it.
    pub is_late: bool,
}

impl<'a> JobPod<'a> {
    /// The pod as it is stored, with that execution label.
    pub(crate) fn of(pod: &'a Stored, execution: &'a str, is_late: bool) -> Self {
        Self {
            uid: &pod.metadata.uid,
            name: &pod.metadata.name,
            node: pod.text("/spec/nodeName"),
            execution,
            phase: PodPhase::parse(Some(pod.text("/status/phase"))),
            is_late,
        }
    }
}

/// Executions that are remembered: a late pod of an older one is late anyway.
const REMEMBERED: usize = 8;

/// A pod that exists.
#[derive(Debug)]
struct Known {
    execution: ExecutionId,
    phase: PodPhase,
    /// Whether it holds no slot.
    is_excused: bool,
}

/// What was seen of one execution.
#[derive(Debug, Default)]
pub struct Seen {
    /// Pods created.
    pub created: usize,
    /// Pods that exist and have not ended.
    pub running: usize,
    /// Those of them that hold a slot.
    holding: usize,
    /// Pods that ended well.
    pub succeeded: usize,
    /// Pods that ended badly, or went before they ended.
    pub failed: usize,
    /// Node and attempt of every pod there ever was.
    attempts: BTreeSet<(Box<str>, u32)>,
}

/// The checker of one run.
#[derive(Debug)]
pub struct Checker {
    pool: NonZeroU32,
    pods: BTreeMap<Arc<str>, Known>,
    executions: BTreeMap<ExecutionId, Seen>,
    /// In the order of their first pods: ids are times of clocks that may be wrong.
    begun: VecDeque<ExecutionId>,
    running: usize,
    peaks: Peaks,
}

/// The most that there ever was at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Job pods that had not ended.
    pub running: usize,
    /// Job pods that the API server stored, ended ones included.
    pub stored: usize,
}

fn has_ended(phase: PodPhase) -> bool {
    matches!(phase, PodPhase::Succeeded | PodPhase::Failed)
}

/// How far a pod has come: phases only go on.
fn rank(phase: PodPhase) -> u8 {
    match phase {
        PodPhase::Pending => 0,
        PodPhase::Running | PodPhase::Unknown => 1,
        PodPhase::Succeeded | PodPhase::Failed => 2,
    }
}

/// The attempt that a pod's name tells: `<name>-job-<node>-<execution>`, then `-<attempt>` from the second on.
pub(crate) fn attempt_of(pod: &JobPod<'_>) -> u32 {
    let after = pod
        .name
        .rsplit_once(pod.execution)
        .map_or("", |(_, after)| after);
    let last = after.rsplit('-').next().unwrap_or_default();
    // A hash of the node may stand before it; one of digits only is longer than any attempt.
    last.parse().ok().filter(|_| last.len() < 12).unwrap_or(1)
}

impl Checker {
    /// A checker of a controller with a pool of this size.
    #[must_use]
    pub fn new(pool: NonZeroU32) -> Self {
        Self {
            pool,
            pods: BTreeMap::new(),
            executions: BTreeMap::new(),
            begun: VecDeque::new(),
            running: 0,
            peaks: Peaks::default(),
        }
    }

    /// The most that there ever was at once.
    #[must_use]
    pub fn peaks(&self) -> Peaks {
        self.peaks
    }

    /// From now on the pool has this size: pods that have not ended keep their slots.
    pub fn set_pool(&mut self, pool: NonZeroU32) {
        self.pool = pool;
    }

    /// What was seen of an execution.
    #[must_use]
    pub fn seen(&self, execution: &ExecutionId) -> Option<&Seen> {
        self.executions.get(execution)
    }

    /// A job pod was created or changed.
    ///
    /// # Errors
    /// The invariant that this breaks.
    pub fn pod_stored(&mut self, pod: &JobPod<'_>) -> Result<(), Violation> {
        match self.pods.get_mut(pod.uid) {
            None => self.created(pod),
            Some(known) => {
                let before = std::mem::replace(&mut known.phase, pod.phase);
                invariant_a_phase_never_goes_back(pod, before)?;
                if has_ended(pod.phase) && !has_ended(before) {
                    let (execution, is_excused) = (known.execution.clone(), known.is_excused);
                    self.ended(&execution, pod.phase, is_excused);
                }
                Ok(())
            }
        }
    }

    /// The pod's slot may be used again though it has not ended: its node is lost.
    pub fn excuse(&mut self, uid: &Arc<str>) {
        if let Some(known) = self.pods.get_mut(uid)
            && !has_ended(known.phase)
            && !std::mem::replace(&mut known.is_excused, true)
        {
            self.running -= 1;
            if let Some(seen) = self.executions.get_mut(&known.execution) {
                seen.holding -= 1;
            }
        }
    }

    /// The pod of that node and attempt may be created again: somebody else deleted it before anybody could know of it.
    pub fn allow_again(&mut self, execution: &ExecutionId, pod: &JobPod<'_>) {
        if let Some(seen) = self.executions.get_mut(execution) {
            seen.attempts.remove(&(pod.node.into(), attempt_of(pod)));
        }
    }

    /// The execution has left the history. Where clocks go back its id may come again, once its pods have gone, too.
    pub fn forget(&mut self, execution: &ExecutionId) {
        if self
            .pods
            .values()
            .all(|known| known.execution != *execution)
        {
            self.begun.retain(|begun| begun != execution);
            self.executions.remove(execution);
        }
    }

    /// Pods that hold a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// A job pod is gone.
    ///
    /// # Errors
    /// Where it was never there.
    pub fn pod_removed(&mut self, pod: &JobPod<'_>) -> Result<(), Violation> {
        let Some(known) = self.pods.remove(pod.uid) else {
            return Err(format!("pod {} went without having been there", pod.name));
        };
        if !has_ended(known.phase) {
            self.ended(&known.execution, PodPhase::Failed, known.is_excused);
        }
        Ok(())
    }

    fn created(&mut self, pod: &JobPod<'_>) -> Result<(), Violation> {
        let Some(execution) = ExecutionId::parse(pod.execution) else {
            return Err(format!(
                "pod {} has the execution label {:?}",
                pod.name, pod.execution
            ));
        };
        if !pod.is_late {
            self.invariant_one_execution_is_in_progress(pod, &execution)?;
            if !self.begun.contains(&execution) {
                self.begun.push_back(execution.clone());
            }
        }
        let seen = self.executions.entry(execution.clone()).or_default();
        let attempt = attempt_of(pod);
        let is_one = invariant_one_pod_per_execution_node_and_attempt(seen, pod, attempt);
        // Two creates of a pod that were given up may both be done, the second when the first's pod has been deleted.
        if !pod.is_late {
            is_one?;
        }
        seen.created += 1;
        seen.running += 1;
        seen.holding += usize::from(!pod.is_late);
        self.running += usize::from(!pod.is_late);
        let known = Known {
            execution: execution.clone(),
            phase: pod.phase,
            is_excused: pod.is_late,
        };
        self.pods.insert(Arc::clone(pod.uid), known);
        self.peaks.running = self.peaks.running.max(self.running);
        self.peaks.stored = self.peaks.stored.max(self.pods.len());
        if has_ended(pod.phase) {
            self.ended(&execution, pod.phase, pod.is_late);
        }
        while self.begun.len() > REMEMBERED {
            let oldest = self.begun.pop_front();
            oldest.and_then(|oldest| self.executions.remove(&oldest));
        }
        self.invariant_running_pods_fit_the_pool(pod)
    }

    fn ended(&mut self, execution: &ExecutionId, phase: PodPhase, is_excused: bool) {
        self.running -= usize::from(!is_excused);
        if let Some(seen) = self.executions.get_mut(execution) {
            seen.running -= 1;
            seen.holding -= usize::from(!is_excused);
            match phase {
                PodPhase::Succeeded => seen.succeeded += 1,
                _ => seen.failed += 1,
            }
        }
    }

    fn invariant_running_pods_fit_the_pool(&self, pod: &JobPod<'_>) -> Result<(), Violation> {
        if self.running <= self.pool.get() as usize {
            return Ok(());
        }
        let (running, pool) = (self.running, self.pool);
        Err(format!(
            "pod {} makes {running} that have not ended, of a pool of {pool}",
            pod.name
        ))
    }

    fn invariant_one_execution_is_in_progress(
        &self,
        pod: &JobPod<'_>,
        id: &ExecutionId,
    ) -> Result<(), Violation> {
        let Some(newest) = self.begun.back().filter(|newest| *newest != id) else {
            return Ok(());
        };
        if self.begun.contains(id) {
            return Err(format!(
                "pod {} is created for {id} when {newest} has begun",
                pod.name
            ));
        }
        let running = self.executions.get(newest).map_or(0, |seen| seen.holding);
        if running > 0 {
            return Err(format!(
                "pod {} is created when {running} pods of {newest} have not ended",
                pod.name
            ));
        }
        Ok(())
    }
}

fn invariant_a_phase_never_goes_back(pod: &JobPod<'_>, before: PodPhase) -> Result<(), Violation> {
    let onwards = rank(pod.phase) > rank(before) || pod.phase == before;
    if onwards {
        Ok(())
    } else {
        Err(format!(
            "pod {} goes from {before:?} to {:?}",
            pod.name, pod.phase
        ))
    }
}

fn invariant_one_pod_per_execution_node_and_attempt(
    seen: &mut Seen,
    pod: &JobPod<'_>,
    attempt: u32,
) -> Result<(), Violation> {
    if seen.attempts.insert((pod.node.into(), attempt)) {
        Ok(())
    } else {
        let (node, execution) = (pod.node, pod.execution);
        Err(format!(
            "pod {} is another of node {node}, execution {execution}, attempt {attempt}",
            pod.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "202601010000";
    const SECOND: &str = "202601010100";

    /// A checker of a pool of two, and what it says to a sequence of pods.
    struct Case(Checker);

    impl Case {
        fn new() -> Self {
            Self(Checker::new(NonZeroU32::new(2).unwrap()))
        }

        fn stored(
            &mut self,
            uid: &str,
            name: &str,
            execution: &str,
            phase: PodPhase,
        ) -> Result<(), Violation> {
            let uid = Arc::from(uid);
            let node = name.split('-').nth(2).unwrap_or_default();
            self.0.pod_stored(&JobPod {
                uid: &uid,
                name,
                node,
                execution,
                phase,
                is_late: false,
            })
        }

        fn removed(&mut self, uid: &str) -> Result<(), Violation> {
            let uid = Arc::from(uid);
            self.0.pod_removed(&JobPod {
                uid: &uid,
                name: "x",
                node: "n",
                execution: FIRST,
                phase: PodPhase::Pending,
                is_late: false,
            })
        }
    }

    fn name(node: &str, execution: &str) -> String {
        format!("my-job-{node}-{execution}")
    }

    #[test]
    fn a_pool_that_overflows_is_found_and_one_that_is_refilled_is_not() {
        let mut case = Case::new();
        let pending = PodPhase::Pending;
        case.stored("1", &name("a", FIRST), FIRST, pending).unwrap();
        case.stored("2", &name("b", FIRST), FIRST, pending).unwrap();
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Succeeded)
            .unwrap();
        case.stored("3", &name("c", FIRST), FIRST, pending).unwrap();
        case.removed("2").unwrap();
        case.stored("4", &name("d", FIRST), FIRST, pending).unwrap();
        let violation = case
            .stored("5", &name("e", FIRST), FIRST, pending)
            .unwrap_err();
        assert!(violation.contains("pool of 2"), "{violation}");
        let seen = case.0.seen(&ExecutionId::parse(FIRST).unwrap()).unwrap();
        assert_eq!(
            (seen.created, seen.succeeded, seen.failed, seen.running),
            (5, 1, 1, 3)
        );
    }

    #[test]
    fn a_second_pod_of_a_node_is_found_unless_it_is_another_attempt() {
        let mut case = Case::new();
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Failed)
            .unwrap();
        let retry = format!("{}-2", name("a", FIRST));
        case.stored("2", &retry, FIRST, PodPhase::Failed).unwrap();
        let violation = case
            .stored("3", &name("a", FIRST), FIRST, PodPhase::Pending)
            .unwrap_err();
        assert!(violation.contains("attempt 1"), "{violation}");
    }

    #[test]
    fn the_slot_of_a_pod_whose_node_is_lost_may_be_used_again_and_its_end_releases_no_other() {
        let mut case = Case::new();
        let pending = PodPhase::Pending;
        case.stored("1", &name("a", FIRST), FIRST, pending).unwrap();
        case.stored("2", &name("b", FIRST), FIRST, pending).unwrap();
        case.0.excuse(&Arc::from("1"));
        case.0.excuse(&Arc::from("1"));
        case.stored("3", &name("c", FIRST), FIRST, pending).unwrap();
        case.removed("1").unwrap();
        assert_eq!(case.0.running(), 2);
        assert!(case.stored("4", &name("d", FIRST), FIRST, pending).is_err());
    }

    #[test]
    fn an_id_may_come_again_when_the_history_has_forgotten_it_and_its_pods_have_gone() {
        let id = ExecutionId::parse(FIRST).unwrap();
        for is_forgotten in [false, true] {
            let mut case = Case::new();
            case.stored("1", &name("a", FIRST), FIRST, PodPhase::Succeeded)
                .unwrap();
            case.0.forget(&id);
            case.removed("1").unwrap();
            case.stored("2", &name("a", SECOND), SECOND, PodPhase::Succeeded)
                .unwrap();
            if is_forgotten {
                case.0.forget(&id);
            }
            let again = case.stored("3", &name("a", FIRST), FIRST, PodPhase::Pending);
            assert_eq!(again.is_ok(), is_forgotten, "{again:?}");
        }
    }

    #[test]
    fn a_pod_may_be_created_again_where_nobody_could_know_of_it() {
        let mut case = Case::new();
        let name = name("a", FIRST);
        case.stored("1", &name, FIRST, PodPhase::Pending).unwrap();
        case.removed("1").unwrap();
        let uid = Arc::from("1");
        let pod = JobPod {
            uid: &uid,
            name: &name,
            node: "a",
            execution: FIRST,
            phase: PodPhase::Pending,
            is_late: false,
        };
        case.0
            .allow_again(&ExecutionId::parse(FIRST).unwrap(), &pod);
        case.stored("2", &name, FIRST, PodPhase::Pending).unwrap();
        case.removed("2").unwrap();
        assert!(case.stored("3", &name, FIRST, PodPhase::Pending).is_err());
    }

    #[test]
    fn two_executions_at_once_are_found_and_one_after_the_other_is_not() {
        let mut case = Case::new();
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Running)
            .unwrap();
        let violation = case
            .stored("2", &name("a", SECOND), SECOND, PodPhase::Pending)
            .unwrap_err();
        assert!(violation.contains("have not ended"), "{violation}");
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Succeeded)
            .unwrap();
        case.stored("3", &name("b", SECOND), SECOND, PodPhase::Pending)
            .unwrap();
        let violation = case
            .stored("4", &name("c", FIRST), FIRST, PodPhase::Pending)
            .unwrap_err();
        assert!(violation.contains("has begun"), "{violation}");
    }

    #[test]
    fn a_phase_that_goes_back_is_found() {
        let mut case = Case::new();
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Running)
            .unwrap();
        case.stored("1", &name("a", FIRST), FIRST, PodPhase::Succeeded)
            .unwrap();
        assert!(
            case.stored("1", &name("a", FIRST), FIRST, PodPhase::Running)
                .is_err()
        );
        assert!(case.removed("unknown").is_err());
    }
}
