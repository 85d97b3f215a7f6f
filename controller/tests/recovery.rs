//! A controller that was killed: the next process goes on where the volume, the record and the pods say.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use controller::core::by_hand::{ANNOTATION_CANCEL, ANNOTATION_TRIGGER};
use controller::core::state::{ExecutionState, NodeState, Reason, Trigger};
use controller::core::summary::ExecutionSummary;
use serde_json::json;

use controller::ports::cluster::PodPhase;
use controller::ports::error::ClusterErrorKind;
use tempfile::TempDir;
use tokio::time::Instant;

use support::cluster::{CreateFault, State, TestCluster};
use support::world::{RESULT, Setup, World, pod_name};

const EXECUTION: &str = "202611232359";

fn nothing(_: &TestCluster, _: &Path) {}

fn nodes(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("node-{number}")).collect()
}

fn setup(count: usize, pool: usize) -> Setup {
    let nodes = nodes(count);
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    Setup::new(&nodes).set("podPoolSize", json!(pool))
}

/// The pods that were created, each as often as it was.
fn created(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world.cluster.look(|state| state.created.clone());
    names.sort();
    names
}

/// Lets every pod that runs post and succeed, until the execution has ended.
async fn run_to_its_end(world: &World) -> ExecutionSummary {
    run_to_the_end_of(world, EXECUTION).await
}

async fn run_to_the_end_of(world: &World, execution: &str) -> ExecutionSummary {
    let mut posted = BTreeSet::new();
    let path = world.directory().join(execution).join("_execution.json");
    for _ in 0..10_000 {
        for name in world.cluster.look(support::cluster::State::running) {
            let node = name
                .strip_prefix("audit-job-")
                .and_then(|rest| rest.strip_suffix(&format!("-{execution}")));
            // The pods of other executions run on.
            let Some(node) = node else { continue };
            if posted.insert(name.clone()) {
                let path = format!("{node}/{execution}/result");
                while !world.post(&path, RESULT).await.status.is_success() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            world.cluster.succeed(&name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Ok(summary) = std::fs::read(&path)
            && let Ok(summary) = serde_json::from_slice::<ExecutionSummary>(&summary)
            && summary.end_time.is_some()
        {
            return summary;
        }
    }
    panic!("no end; metrics:\n{}", world.metrics.render());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_controller_finishes_the_execution_with_every_node_once() {
    let world = setup(6, 2).run();
    world.cluster.until_created(2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.finish("node-0", EXECUTION).await;
    world.cluster.until_created(3).await;
    let world = world.restart(nothing);
    let summary = run_to_its_end(&world).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(summary.trigger, Trigger::Schedule);
    let wanted: Vec<String> = (nodes(6).iter().map(|node| pod_name(node, EXECUTION))).collect();
    assert_eq!(created(&world), wanted);
    let samples = "audit_plain{executionID=\"202611232359\"";
    world
        .until("the gauges of every node", |world| {
            (world.metric_lines(samples).len() == 6).then_some(())
        })
        .await;
    let ended = "audit_processing{executionID=\"202611232359\"";
    assert_eq!(world.metric_lines(ended).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_restart_between_executions_says_how_the_newest_one_stands() {
    let standing = [
        "audit_pods ",
        "audit_current_execution_id ",
        "batch_job_controller_nodes{",
        "batch_job_controller_last_schedule_timestamp_seconds ",
        "batch_job_controller_last_success_timestamp_seconds ",
    ];
    let all = |world: &World| -> Vec<String> {
        let lines = standing.iter().flat_map(|part| world.metric_lines(part));
        lines.filter(|line| !line.starts_with('#')).collect()
    };
    let world = setup(3, 3).run();
    run_to_its_end(&world).await;
    let succeeded = "batch_job_controller_nodes{state=\"succeeded\"} 3";
    let before = world.until("the end of every node", |world| {
        let lines = all(world);
        lines.iter().any(|line| line == succeeded).then_some(lines)
    });
    let before = before.await;
    let world = world.restart(nothing);
    let after = world.until("how it stands", |world| {
        let lines = all(world);
        lines.iter().any(|line| line == succeeded).then_some(lines)
    });
    assert_eq!(after.await, before);
}

/// Killed after each of the first steps that leave a trace outside the process, once per step.
#[tokio::test(start_paused = true)]
async fn wherever_it_is_killed_every_node_runs_exactly_once() {
    let mut steps = 0;
    for kill_after in 1.. {
        let world = setup(4, 2).run();
        tokio::select! {
            biased;
            () = world.cluster.until_calls(kill_after) => {}
            _ = run_to_its_end(&world) => break,
        }
        steps = kill_after;
        let world = world.restart(nothing);
        let summary = run_to_its_end(&world).await;
        assert_eq!(
            summary.state,
            ExecutionState::Succeeded,
            "killed after {kill_after} calls: {summary:#?}"
        );
        let wanted: Vec<String> = (nodes(4).iter().map(|node| pod_name(node, EXECUTION))).collect();
        assert_eq!(created(&world), wanted, "killed after {kill_after} calls");
    }
    assert!(
        steps >= 7,
        "only {steps} steps: a record, three changes of it, four pods"
    );
}

/// Killed between a trigger by hand and its end, once per step.
#[tokio::test(start_paused = true)]
async fn wherever_it_is_killed_what_a_person_asked_for_runs_every_node_once() {
    let by_hand = "202611232358";
    let mut steps = 0;
    for kill_after in 0.. {
        let world = setup(4, 2)
            .set("suspend", json!(true))
            .at("2026-11-23T23:58:01Z")
            .run();
        world.handle.recovered().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.cluster.look(|state| state.calls);
        world.cluster.annotate(ANNOTATION_TRIGGER, "now");
        tokio::select! {
            biased;
            () = world.cluster.until_calls(before + kill_after) => {}
            _ = run_to_the_end_of(&world, by_hand) => break,
        }
        steps = kill_after;
        let world = world.restart(nothing);
        let summary = run_to_the_end_of(&world, by_hand).await;
        let killed = format!("killed after {kill_after} calls: {summary:#?}");
        assert_eq!(summary.state, ExecutionState::Succeeded, "{killed}");
        assert_eq!(summary.trigger, Trigger::Manual, "{killed}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let wanted: Vec<String> = (nodes(4).iter().map(|node| pod_name(node, by_hand))).collect();
        assert_eq!(created(&world), wanted, "{killed}");
    }
    assert!(
        steps >= 7,
        "only {steps} steps: three changes of the record, four pods"
    );
}

/// Killed between a cancel and its end, once per step.
#[tokio::test(start_paused = true)]
async fn wherever_it_is_killed_a_cancel_is_carried_out_once() {
    let mut steps = 0;
    for kill_after in 0.. {
        let world = setup(4, 2).run();
        world.cluster.until_created(2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.cluster.look(|state| state.calls);
        world.cluster.annotate(ANNOTATION_CANCEL, "stop");
        tokio::select! {
            biased;
            () = world.cluster.until_calls(before + kill_after) => {}
            _ = world.until_ended(EXECUTION) => break,
        }
        steps = kill_after;
        let world = world.restart(nothing);
        let summary = world.until_ended(EXECUTION).await;
        let killed = format!("killed after {kill_after} calls: {summary:#?}");
        assert_eq!(summary.state, ExecutionState::Cancelled, "{killed}");
        let states = [NodeState::Failed, NodeState::NotStarted].map(|state| summary.counts[&state]);
        assert_eq!(states, [2, 2], "{killed}");
        let is_it = |reason: Option<Reason>| reason == Some(Reason::Cancelled);
        assert!(
            summary.nodes.iter().all(|node| is_it(node.reason)),
            "{killed}"
        );
        assert_eq!(created(&world).len(), 2, "{killed}");
        assert!(
            world
                .cluster
                .look(support::cluster::State::running)
                .is_empty()
        );
    }
    assert!(steps >= 3, "only {steps} steps: the record, two pods");
}

/// Killed between the tick that replaces an execution and the end of that tick's own, once per step.
#[tokio::test(start_paused = true)]
async fn wherever_it_is_killed_a_replaced_execution_ends_and_the_next_runs_every_node_once() {
    let mut steps = 0;
    for kill_after in 1.. {
        let world = setup(4, 2)
            .set("concurrencyPolicy", json!("Replace"))
            .set("cronExpression", json!("58,59 23 * * *"))
            .at("2026-11-23T23:57:59Z")
            .run();
        world.cluster.until_created(2).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        let before = world.cluster.look(|state| state.calls);
        tokio::select! {
            biased;
            () = world.cluster.until_calls(before + kill_after) => {}
            _ = run_to_its_end(&world) => break,
        }
        steps = kill_after;
        let world = world.restart(nothing);
        let summary = run_to_its_end(&world).await;
        let killed = format!("killed after {kill_after} calls: {summary:#?}");
        assert_eq!(summary.state, ExecutionState::Succeeded, "{killed}");
        let replaced = world.until_ended("202611232358").await;
        assert_eq!(replaced.state, ExecutionState::Cancelled, "{replaced:#?}");
        let mut wanted: Vec<String> = nodes(4)
            .iter()
            .map(|node| pod_name(node, EXECUTION))
            .collect();
        wanted.extend(["node-0", "node-1"].map(|node| pod_name(node, "202611232358")));
        wanted.sort();
        assert_eq!(created(&world), wanted, "{killed}");
    }
    assert!(
        steps >= 10,
        "only {steps} steps: three changes of the record, two deletions, four creates, the record's closing"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_failed_before_the_restart_counts_and_the_pause_after_it_is_kept() {
    let (first, second) = (
        pod_name("node-0", EXECUTION),
        format!("{}-2", pod_name("node-0", EXECUTION)),
    );
    for is_refused in [false, true] {
        let world =
            setup(1, 1)
                .set("retries", json!(1))
                .run_in(TempDir::new().unwrap(), |cluster| {
                    let refusal = CreateFault::Fails(ClusterErrorKind::Refused);
                    let faults = is_refused.then_some(refusal);
                    cluster.change(|state| state.create_faults.extend(faults));
                });
        world.cluster.until_created(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if !is_refused {
            world.cluster.set_phase(&first, PodPhase::Failed);
        }
        let failed = Instant::now();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let world = world.restart(|cluster, _| {
            if !is_refused {
                cluster.remove(&first);
            }
        });
        world.cluster.until_created(2).await;
        let paused = failed.elapsed().as_millis();
        assert!(
            (9_900..11_000).contains(&paused),
            "{paused} ms, refused: {is_refused}"
        );
        let asked = |state: &State| {
            state
                .creates
                .iter()
                .map(|create| create.name.clone())
                .collect()
        };
        let asked: Vec<String> = world.cluster.look(asked);
        assert_eq!(
            asked,
            [first.clone(), second.clone()],
            "refused: {is_refused}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.post_result("node-0", EXECUTION).await;
        world.cluster.succeed(&second);
        let summary = world.until_ended(EXECUTION).await;
        let node = &summary.nodes[0];
        assert_eq!((node.state, node.attempts), (NodeState::Succeeded, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_went_while_nobody_watched_has_ended_as_deleted() {
    let world = setup(2, 2).run();
    world.cluster.until_created(2).await;
    // The create was answered and noted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let world = world.restart(|cluster, _| cluster.remove(&pod_name("node-0", EXECUTION)));
    let summary = run_to_its_end(&world).await;
    assert_eq!(summary.state, ExecutionState::Degraded);
    let node = &summary.nodes[0];
    assert_eq!(node.state, NodeState::Failed);
    assert_eq!(node.reason, Some(Reason::Deleted));
    assert_eq!(created(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_its_volume_it_goes_on_from_the_pods() {
    let world = setup(4, 2).run();
    world.cluster.until_created(2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let world = world.restart(|_, directory| {
        std::fs::remove_dir_all(directory.join(EXECUTION)).unwrap();
    });
    let summary = run_to_its_end(&world).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(created(&world).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_gauges_of_kept_executions_come_back_and_their_pods_may_still_post() {
    let world = setup(2, 2).run();
    let summary = run_to_its_end(&world).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = world.metric_lines("executionID=\"202611232359\"");
    let world = world.restart(nothing);
    let lines = before.len();
    world
        .until("the gauges", |world| {
            let now = world.metric_lines("executionID=\"202611232359\"");
            (now.len() == lines).then_some(())
        })
        .await;
    assert_eq!(world.metric_lines("executionID=\"202611232359\""), before);
    world.post_result("node-1", EXECUTION).await;
    assert_eq!(created(&world).len(), 2, "it is not run again");
}

#[tokio::test(start_paused = true)]
async fn the_newest_missed_tick_is_run_late_and_one_beyond_its_deadline_is_not() {
    for (deadline, runs) in [(json!(null), true), (json!(600), false)] {
        let world = setup(1, 1)
            .set("startingDeadlineSeconds", deadline)
            .set("cronExpression", json!("59 23 * * *"))
            .run();
        run_to_its_end(&world).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        // Two nights and some hours later.
        let world = world.restart_after(Duration::from_hours(50)).await;
        tokio::time::sleep(Duration::from_mins(5)).await;
        let created = created(&world);
        let late = pod_name("node-0", "202611252359");
        assert_eq!(created.contains(&late), runs, "{created:?}");
        assert_eq!(created.len(), 1 + usize::from(runs), "{created:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_execution_whose_summary_tells_its_end_is_only_closed() {
    let world = setup(2, 2).run();
    let summary = run_to_its_end(&world).await;
    world
        .until("the end in the state record", |world| {
            let record = world.cluster.look(|state| state.record.clone());
            (!record?.text.contains("inProgress")).then_some(())
        })
        .await;
    let directory = world.directory().join(EXECUTION);
    // The record was not written any more, nor was the end of a node into the journal; and its pod has gone.
    let world = world.restart(|cluster, _| {
        cluster.change(|state| {
            let record = state.record.as_mut().unwrap();
            let mut fields: serde_json::Value = serde_json::from_str(&record.text).unwrap();
            fields["inProgress"] = json!({
                "trigger": "schedule",
                "scheduledTime": "2026-11-23T23:59:00Z",
                "id": EXECUTION,
            });
            record.text = fields.to_string();
        });
        let journal = directory.join("_journal-1.jsonl");
        let lines = std::fs::read_to_string(&journal).unwrap();
        let kept = lines.lines().filter(|line| !line.contains("\"ended\""));
        std::fs::write(&journal, kept.collect::<Vec<_>>().join("\n")).unwrap();
        cluster.remove(&pod_name("node-0", EXECUTION));
    });
    world
        .until("the end in the state record", |world| {
            let record = world.cluster.look(|state| state.record.clone());
            (!record?.text.contains("inProgress")).then_some(())
        })
        .await;
    let path = world.directory().join(EXECUTION).join("_execution.json");
    let after: ExecutionSummary = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((after.state, after.counts), (summary.state, summary.counts));
    assert_eq!(created(&world).len(), 2);
}
