//! An execution that another leader began: what the journal and the pods that are there make of it.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroU32;
use std::time::Duration;

use controller::core::execution::{
    CreateError, Effect, Event, Execution, Found, NodeRun, Plan, PlannedNode, StoredReports,
};
use controller::core::failure::{ClusterError, ClusterErrorKind};
use controller::core::ids::ExecutionId;
use controller::core::invariants;
use controller::core::journal::{EndedNode, Entry};
use controller::core::limits::Limits;
use controller::core::state::{NodeState, Reason, Trigger};
use controller::core::time::{Monotonic, Now};
use controller::core::views::{PodPhase, PodView};

const ID: &str = "202601010342";

fn now(seconds: u64) -> Now {
    let second = 1_767_239_000 + i64::try_from(seconds).unwrap();
    Now {
        wall: jiff::Timestamp::from_second(second).unwrap(),
        monotonic: Monotonic::START.after(Duration::from_secs(seconds)),
    }
}

/// Nodes `node-0` onwards with a pool of two, and one retry.
fn plan(nodes: usize) -> Plan {
    Plan {
        owner: "audit".to_owned(),
        id: ExecutionId::parse(ID).unwrap(),
        trigger: Trigger::Schedule,
        scheduled_time: now(0).wall,
        started: now(0),
        pool_size: NonZeroU32::new(2).unwrap(),
        limits: Limits {
            pod_start_deadline: Duration::from_mins(10),
            pod_run_deadline: None,
            node_lost_timeout: Duration::from_mins(5),
            execution_deadline: None,
            retries: 1,
            max_failures: None,
            fail_fast: false,
            ended_pods: 1,
        },
        result_expected: false,
        nodes: (0..nodes)
            .map(|index| PlannedNode {
                node: format!("node-{index}"),
                uid: format!("node-uid-{index}"),
                pod_name: format!("pod-{index}"),
                alternative_pod_name: format!("pod-{index}-hash"),
            })
            .collect(),
        excluded: Vec::new(),
        previous_pods: Vec::new(),
    }
}

fn pod(index: usize, name: &str, phase: PodPhase) -> PodView {
    PodView {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        node: format!("node-{index}"),
        owner: "audit".to_owned(),
        execution: ExecutionId::parse(ID),
        phase,
        terminating: false,
        grace: Duration::ZERO,
        reason: String::new(),
        message: String::new(),
        waiting: None,
        containers: vec!["main".to_owned()],
    }
}

fn creating(index: usize, attempt: u32) -> Entry {
    let pod = if attempt == 1 {
        format!("pod-{index}")
    } else {
        format!("pod-{index}-{attempt}")
    };
    Entry::Creating {
        index,
        attempt,
        pod,
    }
}

fn created(index: usize, at: u64) -> Entry {
    Entry::Created {
        index,
        uid: format!("uid-of-pod-{index}"),
        time: now(at).wall,
    }
}

fn resume(nodes: usize, entries: Vec<Entry>, pods: Vec<PodView>) -> (Execution, Vec<Effect>) {
    let found = Found {
        entries,
        pods,
        ..Found::default()
    };
    let (execution, effects) = Execution::resume(plan(nodes), found, now(100));
    invariants::check(&execution).unwrap();
    (execution, effects)
}

/// The pods that are to be created.
fn creates(effects: &[Effect]) -> Vec<&str> {
    let mut names = Vec::new();
    for effect in effects {
        if let Effect::CreatePod { pod_name, .. } = effect {
            names.push(pod_name.as_str());
        }
    }
    names
}

#[test]
fn creates_beyond_the_pool_wait_for_their_turn() {
    // The first was refused and gave its slot to the third; that was not written any more.
    let entries = vec![
        creating(0, 1),
        creating(1, 1),
        created(1, 50),
        creating(2, 1),
    ];
    let pods = vec![pod(1, "pod-1", PodPhase::Running)];
    let (mut execution, effects) = resume(3, entries, pods);
    assert_eq!(creates(&effects), ["pod-2"]);
    assert_eq!(execution.nodes()[0].state(), NodeState::Waiting);
    let ended = pod(1, "pod-1", PodPhase::Succeeded);
    let effects = execution.handle(now(101), Event::PodSeen(ended));
    assert_eq!(creates(&effects), ["pod-0"]);
    invariants::check(&execution).unwrap();
}

#[test]
fn an_attempt_that_failed_is_not_made_again() {
    let failed = Entry::AttemptEnded {
        index: 0,
        attempt: 1,
        reason: Reason::Refused,
        message: "not by this policy".to_owned(),
        time: now(100).wall,
    };
    let (mut execution, effects) = resume(1, vec![creating(0, 1), failed], Vec::new());
    assert!(creates(&effects).is_empty());
    assert_eq!(execution.nodes()[0].reason(), Some(Reason::Refused));
    let due = execution.next_wakeup().unwrap();
    let then = Now {
        monotonic: due,
        ..now(100)
    };
    let effects = execution.handle(then, Event::Woken);
    assert_eq!(creates(&effects), ["pod-0-2"]);
    invariants::check(&execution).unwrap();
}

#[test]
fn the_pod_of_an_attempt_that_is_over_does_not_bring_it_back() {
    let failed = |attempt| Entry::AttemptEnded {
        index: 0,
        attempt,
        reason: Reason::PodFailed,
        message: String::new(),
        time: now(100).wall,
    };
    let entries = vec![creating(0, 1), failed(1)];
    let (execution, effects) = resume(1, entries, vec![pod(0, "pod-0", PodPhase::Failed)]);
    assert!(creates(&effects).is_empty());
    let node = &execution.nodes()[0];
    assert_eq!((node.state(), node.attempts()), (NodeState::Waiting, 1));
}

#[test]
fn a_deadline_counts_from_what_this_leader_has_seen_whatever_the_clock_of_the_last_one_read() {
    // By that clock the pod was created an hour ago.
    let time = now(100).wall - jiff::SignedDuration::from_hours(1);
    let uid = "uid-of-pod-0".to_owned();
    let entries = vec![
        creating(0, 1),
        Entry::Created {
            index: 0,
            uid,
            time,
        },
    ];
    let (mut execution, _) = resume(1, entries, vec![pod(0, "pod-0", PodPhase::Pending)]);
    let effects = execution.handle(now(101), Event::Woken);
    assert!(effects.is_empty(), "{effects:?}");
    let effects = execution.handle(now(100 + 601), Event::Woken);
    assert!(
        matches!(effects[..], [Effect::ReadPod { .. }]),
        "{effects:?}"
    );
}

#[test]
fn ended_pods_are_deleted_beyond_the_limit_by_the_next_leader_too() {
    let ended = |index| {
        Entry::Ended(EndedNode {
            index,
            state: NodeState::Succeeded,
            reason: None,
            message: String::new(),
            attempts: 1,
            start_time: None,
            end_time: None,
            samples: 7,
        })
    };
    let entries = vec![creating(0, 1), ended(0), creating(1, 1), ended(1)];
    let pods = vec![
        pod(0, "pod-0", PodPhase::Succeeded),
        pod(1, "pod-1", PodPhase::Succeeded),
    ];
    let (mut execution, effects) = resume(3, entries, pods);
    assert_eq!(execution.summary().nodes[0].samples, 7);
    let settled = effects.iter().filter_map(|effect| match effect {
        Effect::PodEnded { pod, .. } => Some(pod.uid.clone()),
        _ => None,
    });
    let settled: Vec<String> = settled.collect();
    assert_eq!(settled.len(), 2);
    let mut deleted = Vec::new();
    for uid in settled {
        for effect in execution.handle(now(101), Event::PodSettled { uid }) {
            if let Effect::DeleteEndedPod { pod_name, .. } = effect {
                deleted.push(pod_name);
            }
        }
    }
    assert_eq!(deleted, ["pod-0"]);
}

#[test]
fn a_read_that_is_refused_does_not_say_that_there_is_no_pod() {
    let error = |kind| ClusterError::new(kind, "no");
    let (mut execution, effects) = Execution::begin(plan(1), now(0));
    assert_eq!(creates(&effects), ["pod-0"]);
    // The first create is not answered, the second is refused: whether the first made the pod is to be read.
    let failed = |kind| Event::CreateFailed {
        index: 0,
        attempt: 1,
        error: CreateError::Cluster(error(kind)),
    };
    execution.handle(now(1), failed(ClusterErrorKind::Unavailable));
    execution.handle(now(30), Event::Woken);
    let effects = execution.handle(now(31), failed(ClusterErrorKind::Refused));
    let [Effect::ReadPod { index, step, .. }] = effects[..] else {
        panic!("{effects:?}");
    };
    let read = Event::PodRead {
        index,
        step,
        result: Err(error(ClusterErrorKind::Refused)),
    };
    execution.handle(now(32), read);
    assert_eq!(execution.nodes()[0].state(), NodeState::Running);
    let effects = execution.handle(now(60), Event::Woken);
    assert!(
        matches!(effects[..], [Effect::ReadPod { .. }]),
        "{effects:?}"
    );
}

#[test]
fn an_ended_pod_keeps_its_logs_until_each_container_has_one() {
    let ended = Entry::Ended(EndedNode {
        index: 0,
        state: NodeState::Succeeded,
        reason: None,
        message: String::new(),
        attempts: 1,
        start_time: None,
        end_time: None,
        samples: 0,
    });
    for (stored, saves) in [
        (&[][..], true),
        // Its own upload, named as if it were a log.
        (&["node-0-x-container-y"], true),
        (&["node-0-container-main.log"], true),
        (
            &["node-0-container-main.log", "node-0-container-side.log"],
            false,
        ),
    ] {
        let mut ended_pod = pod(0, "pod-0", PodPhase::Succeeded);
        ended_pod.containers.push("side".to_owned());
        let reports = StoredReports {
            names: stored.iter().map(|name| (*name).to_owned()).collect(),
            ..StoredReports::default()
        };
        let found = Found {
            entries: vec![creating(0, 1), ended.clone()],
            pods: vec![ended_pod],
            reports: [("node-0".to_owned(), reports)].into(),
            ..Found::default()
        };
        let (_, effects) = Execution::resume(plan(1), found, now(100));
        let is_saved = |effect: &Effect| matches!(effect, Effect::PodEnded { .. });
        assert_eq!(effects.iter().any(is_saved), saves, "{stored:?}");
    }
}

#[test]
fn a_leader_that_finds_too_many_failures_creates_nothing_and_waits_for_what_runs() {
    let failed = Entry::Ended(EndedNode {
        index: 0,
        state: NodeState::Failed,
        reason: Some(Reason::PodFailed),
        message: String::new(),
        attempts: 1,
        start_time: None,
        end_time: None,
        samples: 0,
    });
    let entries = vec![creating(0, 1), failed, creating(1, 1), creating(2, 1)];
    let mut plan = plan(4);
    (plan.limits.max_failures, plan.limits.fail_fast) = (Some(0), true);
    let found = Found {
        entries,
        pods: vec![pod(1, "pod-1", PodPhase::Running)],
        ..Found::default()
    };
    let (mut execution, effects) = Execution::resume(plan, found, now(100));
    invariants::check(&execution).unwrap();
    assert!(creates(&effects).is_empty(), "{effects:?}");
    let step = effects.iter().find_map(|effect| match effect {
        Effect::ReadPod { index: 2, step, .. } => Some(*step),
        _ => None,
    });
    let result = Err(ClusterError::new(ClusterErrorKind::NotFound, "not found"));
    let effects = execution.handle(
        now(101),
        Event::PodRead {
            index: 2,
            step: step.unwrap(),
            result,
        },
    );
    assert!(creates(&effects).is_empty(), "{effects:?}");
    let states: Vec<_> = execution.nodes().iter().map(NodeRun::state).collect();
    let expected = [
        NodeState::Failed,
        NodeState::Running,
        NodeState::Failed,
        NodeState::NotStarted,
    ];
    assert_eq!(states, expected);
}
