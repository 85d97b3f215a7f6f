//! Executions that people start and end by annotations of the ConfigMap, and ticks that are dropped or replace another.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use controller::core::by_hand::{ANNOTATION_CANCEL, ANNOTATION_TRIGGER};
use controller::core::state::{ExecutionState, NodeState, Reason, Trigger};
use controller::core::summary::ExecutionSummary;
use controller::ports::cluster::PodPhase;
use controller::ports::report_store::ReportStoreErrorKind;
use serde_json::json;

use support::reports::StoreFault;
use support::world::{Setup, World};

/// The execution of the schedule, and one by hand before it.
const SCHEDULED: &str = "202611232359";
const BY_HAND: &str = "202611232358";

fn setup() -> Setup {
    Setup::new(&["node-a", "node-b", "node-c"]).set("podPoolSize", json!(2))
}

/// A controller that has taken over.
async fn started(setup: Setup) -> World {
    let world = setup.run();
    world.handle.recovered().await;
    world
}

/// Waits until so many pods were created, in all.
async fn until_there(world: &World, count: usize) {
    let enough = |state: &support::cluster::State| (state.created.len() >= count).then_some(());
    world.cluster.until("the pods", enough).await;
}

fn states(summary: &ExecutionSummary) -> Vec<(NodeState, Option<Reason>)> {
    let nodes = summary.nodes.iter();
    nodes.map(|node| (node.state, node.reason)).collect()
}

async fn finish(world: &World, execution: &str, nodes: &[&str]) -> ExecutionSummary {
    for node in nodes {
        let name = support::world::pod_name(node, execution);
        let exists = |state: &support::cluster::State| state.pods.get(&name).map(|_| ());
        world.cluster.until(&name, exists).await;
        world.finish(node, execution).await;
    }
    world.until_ended(execution).await
}

#[tokio::test(start_paused = true)]
async fn a_trigger_runs_while_suspended_and_once_for_a_value() {
    let world = started(setup().set("suspend", json!(true))).await;
    world.cluster.annotate(ANNOTATION_TRIGGER, "now");
    let summary = finish(&world, BY_HAND, &["node-a", "node-b", "node-c"]).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(summary.trigger, Trigger::Manual);
    // Another change of the ConfigMap, then another leader: the value has been handled.
    world.cluster.annotate("example.com/other", "x");
    tokio::time::sleep(Duration::from_mins(5)).await;
    let world = world.restart(|_, _| {});
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(world.cluster.look(|state| state.created.len()), 3);
    let suspended = world.cluster.until_told("TickSuspended").await;
    assert!(suspended.contains("2026-11-23T23:59:00Z"), "{suspended}");
}

#[tokio::test(start_paused = true)]
async fn a_trigger_during_an_execution_is_refused_with_an_event() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    world.cluster.annotate(ANNOTATION_TRIGGER, "now");
    let told = world.cluster.until_told("TriggerForbidden").await;
    assert!(told.contains("concurrencyPolicy"), "{told}");
    world
        .until_metric("batch_job_controller_decisions_total{decision=\"drop\",reason=\"Forbid\"} 1")
        .await;
    finish(&world, SCHEDULED, &["node-a", "node-b", "node-c"]).await;
    // It is not run afterwards either.
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(world.cluster.look(|state| state.created.len()), 3);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_listed_for_a_while_does_not_lend_an_id_twice() {
    let world = started(setup().set("suspend", json!(true))).await;
    world.cluster.annotate(ANNOTATION_TRIGGER, "first");
    finish(&world, BY_HAND, &["node-a", "node-b", "node-c"]).await;
    for node in ["node-a", "node-b", "node-c"] {
        (world.cluster).remove(&support::world::pod_name(node, BY_HAND));
    }
    let summary = world.directory().join(BY_HAND).join("_execution.json");
    let before = std::fs::read(&summary).unwrap();
    let away = world.directory().with_extension("away");
    std::fs::rename(world.directory(), &away).unwrap();
    std::fs::write(world.directory(), "no directory").unwrap();
    world.cluster.annotate(ANNOTATION_TRIGGER, "second");
    let unusable = "batch_job_controller_report_store_usable 0";
    world.until_metric(unusable).await;
    std::fs::remove_file(world.directory()).unwrap();
    std::fs::rename(&away, world.directory()).unwrap();
    until_there(&world, 5).await;
    let again = support::world::pod_name("node-a", BY_HAND);
    let created = world.cluster.look(|state| state.created.clone());
    let times = created.iter().filter(|name| **name == again).count();
    assert_eq!(times, 1, "{created:?}");
    assert_eq!(std::fs::read(&summary).unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_the_disk_when_its_execution_is_cancelled_is_not_created() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    let full = StoreFault::Writes(ReportStoreErrorKind::NoSpace);
    world.reports.set_fault(Some(full));
    (world.cluster).set_phase(
        &support::world::pod_name("node-a", SCHEDULED),
        PodPhase::Failed,
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.cluster.annotate(ANNOTATION_CANCEL, "now");
    tokio::time::sleep(Duration::from_secs(10)).await;
    world
        .cluster
        .remove(&support::world::pod_name("node-b", SCHEDULED));
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.reports.set_fault(None);
    let summary = world.until_ended(SCHEDULED).await;
    assert_eq!(
        states(&summary),
        [
            (NodeState::Failed, Some(Reason::PodFailed)),
            (NodeState::Failed, Some(Reason::Cancelled)),
            (NodeState::NotStarted, Some(Reason::Cancelled)),
        ]
    );
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(world.cluster.look(|state| state.created.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn values_that_are_there_before_the_first_record_count_as_handled() {
    let world =
        setup()
            .set("suspend", json!(true))
            .run_in(tempfile::TempDir::new().unwrap(), |cluster| {
                cluster.annotate(ANNOTATION_TRIGGER, "old");
                cluster.annotate(ANNOTATION_CANCEL, "old");
            });
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(world.cluster.look(|state| state.created.is_empty()));
    // One that is set while nobody leads is new.
    let world = world.restart(|cluster, _| cluster.annotate(ANNOTATION_TRIGGER, "new"));
    until_there(&world, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_trigger_goes_over_the_nodes_that_it_selects() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    world.finish("node-a", SCHEDULED).await;
    let fail = |node: &str| {
        let name = support::world::pod_name(node, SCHEDULED);
        world
            .cluster
            .set_phase(&name, controller::ports::cluster::PodPhase::Failed);
    };
    fail("node-b");
    until_there(&world, 3).await;
    fail("node-c");
    world.until_ended(SCHEDULED).await;
    world.cluster.change(|state| {
        let label = ("disk".to_owned(), "ssd".to_owned());
        state.nodes[1].labels.extend([label]);
    });
    let value = format!(r#"{{"nodes":"disk=ssd","from":"{SCHEDULED}","only":["failed"]}}"#);
    world.cluster.annotate(ANNOTATION_TRIGGER, &value);
    // Its minute is taken.
    until_there(&world, 4).await;
    let name = world.cluster.look(|state| state.created[3].clone());
    let execution = name.strip_prefix("audit-job-node-b-").unwrap();
    let summary = finish(&world, execution, &["node-b"]).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    let excluded = (NodeState::Excluded, Some(Reason::NotSelected));
    assert_eq!(
        states(&summary),
        [(NodeState::Succeeded, None), excluded, excluded]
    );
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_cannot_be_carried_out_is_refused_with_an_event_that_names_the_field() {
    for (value, reason, part) in [
        (r#"{"nodes":"a b"}"#, "TriggerRefused", "nodes: "),
        (
            r#"{"from":"202601010000"}"#,
            "ExecutionNotStarted",
            "from: execution 202601010000",
        ),
    ] {
        let world = started(setup()).await;
        world.cluster.annotate(ANNOTATION_TRIGGER, value);
        let told = world.cluster.until_told(reason).await;
        assert!(told.contains(part), "{told}");
        // The schedule goes on.
        finish(&world, SCHEDULED, &["node-a", "node-b", "node-c"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_execution_deletes_what_runs_and_starts_nothing_more() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    world.finish("node-a", SCHEDULED).await;
    until_there(&world, 3).await;
    world.cluster.annotate(ANNOTATION_CANCEL, "stop");
    let summary = world.until_ended(SCHEDULED).await;
    assert_eq!(summary.state, ExecutionState::Cancelled);
    let cancelled = (NodeState::Failed, Some(Reason::Cancelled));
    assert_eq!(
        states(&summary),
        [(NodeState::Succeeded, None), cancelled, cancelled]
    );
    assert!(
        world
            .cluster
            .look(support::cluster::State::running)
            .is_empty()
    );
    let told = world.cluster.until_told("ExecutionCancelled").await;
    assert!(told.contains("Cancelled 2"), "{told}");
    world
        .until_metric("batch_job_controller_executions_total{state=\"cancelled\"} 1")
        .await;
    // Nothing stays set that would stop the next one.
    world.cluster.annotate(ANNOTATION_TRIGGER, "again");
    until_there(&world, 5).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_execution_ends_when_its_last_pod_has_gone() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    world.cluster.change(|state| state.keeps_terminating = true);
    world.cluster.annotate(ANNOTATION_CANCEL, "stop");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let running = world.cluster.look(support::cluster::State::running);
    assert_eq!(running.len(), 2, "the kubelet takes its time: {running:?}");
    for name in running {
        world.cluster.remove(&name);
    }
    let summary = world.until_ended(SCHEDULED).await;
    assert_eq!(summary.counts[&NodeState::NotStarted], 1);
    assert_eq!(world.cluster.look(|state| state.created.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_without_an_execution_says_so_and_cancels_no_later_one() {
    let world = started(setup()).await;
    world.cluster.annotate(ANNOTATION_CANCEL, "stop");
    world.cluster.until_told("NothingToCancel").await;
    let summary = finish(&world, SCHEDULED, &["node-a", "node-b", "node-c"]).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn with_replace_the_running_execution_is_cancelled_and_the_next_begins() {
    let world = started(
        setup()
            .set("concurrencyPolicy", json!("Replace"))
            .set("cronExpression", json!("* * * * *")),
    )
    .await;
    until_there(&world, 2).await;
    let replaced = world.until_ended(SCHEDULED).await;
    assert_eq!(replaced.state, ExecutionState::Cancelled);
    let summary = finish(&world, "202611240000", &["node-a", "node-b", "node-c"]).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    let told = world.cluster.until_told("ExecutionReplaced").await;
    assert!(
        told.contains(SCHEDULED) && told.contains("2026-11-24T00:00:00Z"),
        "{told}"
    );
    // A person replaces it as well as the schedule does.
    until_there(&world, 7).await;
    world.cluster.annotate(ANNOTATION_TRIGGER, "now");
    let replaced = world.until_ended("202611240001").await;
    assert_eq!(replaced.state, ExecutionState::Cancelled);
    let summary = finish(&world, "20261124000100", &["node-a", "node-b", "node-c"]).await;
    assert_eq!(summary.trigger, Trigger::Manual);
}

#[tokio::test(start_paused = true)]
async fn with_forbid_a_tick_during_an_execution_is_dropped_with_an_event() {
    let world = started(setup().set("cronExpression", json!("* * * * *"))).await;
    until_there(&world, 2).await;
    let told = world.cluster.until_told("TickForbidden").await;
    assert!(told.contains("2026-11-24T00:00:00Z"), "{told}");
    finish(&world, SCHEDULED, &["node-a", "node-b", "node-c"]).await;
    // The next one runs.
    finish(&world, "202611240001", &["node-a", "node-b", "node-c"]).await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_missed_ticks_do_not_stop_the_schedule() {
    let world = started(setup().set("cronExpression", json!("@every 1s"))).await;
    until_there(&world, 2).await;
    world.cluster.annotate(ANNOTATION_CANCEL, "stop");
    world.cluster.until_told("ExecutionCancelled").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let world = world.restart_after(Duration::from_hours(3)).await;
    let told = world.cluster.until_told("TicksMissed").await;
    assert!(told.starts_with("at least 1000 "), "{told}");
    // The newest runs late, and the next one after it.
    for _ in 0..2 {
        let before = world.cluster.look(|state| state.created.len());
        world
            .cluster
            .annotate(ANNOTATION_CANCEL, &format!("stop {before}"));
        until_there(&world, before + 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_beyond_its_starting_deadline_is_dropped_with_an_event() {
    let world = started(
        setup()
            .set("cronExpression", json!("59 23 * * *"))
            .set("startingDeadlineSeconds", json!(60)),
    )
    .await;
    let world = world.restart_after(Duration::from_hours(1)).await;
    let told = world.cluster.until_told("TickMissed").await;
    assert!(told.contains("startingDeadlineSeconds"), "{told}");
    assert!(world.cluster.look(|state| state.created.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_comes_while_the_first_record_is_being_written_is_not_lost() {
    let world = setup().run_in(tempfile::TempDir::new().unwrap(), |cluster| {
        let kind = controller::ports::error::ClusterErrorKind::Unavailable;
        cluster.change(|state| {
            let slow = std::iter::repeat_n(kind, 12).collect();
            state.faults.insert("read_state", slow);
        });
    });
    until_there(&world, 2).await;
    assert!(world.clock.origin().elapsed() > Duration::from_secs(10));
    finish(&world, SCHEDULED, &["node-a", "node-b", "node-c"]).await;
}
