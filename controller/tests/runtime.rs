//! The production loop under virtual time, from tick to summary.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controller::core::job_pod::ExtensionVariables;
use controller::core::state::{ExecutionState, NodeState, Reason, Trigger};
use controller::core::summary::{ExecutionSummary, NodeSummary};
use controller::core::views::PodView;
use controller::ports::clock::Clock as _;
use controller::ports::cluster::{PodPhase, ServiceAddress};
use controller::ports::error::ClusterErrorKind;
use controller::ports::report_store::ReportStoreErrorKind;
use controller::runtime::callback_address;
use http::StatusCode;
use k8s_openapi::api::core::v1::EnvVar;
use serde_json::json;
use support::cluster::{CreateFault, OWNER, TestCluster};
use support::reports::StoreFault;
use support::world::{RESULT, Setup, World, pod_name};
use support::{id, instant};
use tempfile::TempDir;
use tokio::time::Instant;

const EXECUTION: &str = "202611232359";
const NEXT_EXECUTION: &str = "202611240000";
const OLD_EXECUTION: &str = "202611222359";

fn every_minute(nodes: &[&str]) -> Setup {
    Setup::new(nodes).set("cronExpression", json!("* * * * *"))
}

fn old_pod(name: &str, node: &str, owner: &str, execution: &str, phase: PodPhase) -> PodView {
    PodView {
        name: name.to_owned(),
        uid: format!("old-uid-of-{name}"),
        node: node.to_owned(),
        owner: owner.to_owned(),
        execution: Some(id(execution)),
        phase,
        terminating: false,
        grace: Duration::ZERO,
        reason: String::new(),
        message: String::new(),
        waiting: None,
        containers: vec!["job".to_owned()],
    }
}

fn node_of<'a>(summary: &'a ExecutionSummary, node: &str) -> &'a NodeSummary {
    let mut nodes = summary.nodes.iter();
    nodes.find(|found| found.node == node).unwrap()
}

fn failure(summary: &ExecutionSummary, node: &str) -> Option<Reason> {
    let node = node_of(summary, node);
    assert_eq!(node.state, NodeState::Failed, "{node:?}");
    node.reason
}

/// Waits until a pod exists, and gives its name.
async fn created(world: &World, node: &str, execution: &str) -> String {
    let name = pod_name(node, execution);
    world
        .cluster
        .until(&name, |state| state.pods.get(&name).map(|_| ()))
        .await;
    name
}

/// Lets every node of an execution succeed.
async fn run_through(world: &World, nodes: &[&str], execution: &str) -> ExecutionSummary {
    for node in nodes {
        created(world, node, execution).await;
        world.finish(node, execution).await;
    }
    world.until_ended(execution).await
}

/// The value of an environment variable in every container of a created pod, init ones too.
fn environment(world: &World, index: usize, name: &str) -> Vec<Option<String>> {
    let pod = world.cluster.look(|state| state.creates[index].pod.clone());
    let spec = pod.spec.unwrap();
    let containers = spec
        .init_containers
        .into_iter()
        .flatten()
        .chain(spec.containers);
    containers
        .map(|container| {
            let mut variables = container.env.into_iter().flatten();
            variables.find(|variable| variable.name == name)?.value
        })
        .collect()
}

/// A directory with these executions, each with a report.
fn history(executions: &[&str]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for execution in executions {
        fs::create_dir(directory.path().join(execution)).unwrap();
        fs::write(directory.path().join(execution).join("node-a.json"), RESULT).unwrap();
    }
    directory
}

// Ticks and ids.

#[tokio::test(start_paused = true)]
async fn a_tick_starts_an_execution_under_its_minute() {
    let world = Setup::new(&["node-a"]).run();
    created(&world, "node-a", EXECUTION).await;
    assert_eq!(
        environment(&world, 0, "EXECUTION_ID"),
        vec![Some(EXECUTION.to_owned()); 2]
    );
    assert_eq!(
        world.files()["latest"],
        format!("-> {EXECUTION}").into_bytes()
    );
    assert!(world.has_metric("audit_current_execution_id 2.02611232359e+11"));
    assert!(world.has_metric("audit_pods 1"));
    assert!(world.has_metric("batch_job_controller_execution_in_progress 1"));
    let summary = run_through(&world, &["node-a"], EXECUTION).await;
    assert_eq!(summary.trigger, Trigger::Schedule);
    assert_eq!(summary.scheduled_time, instant("2026-11-23T23:59:00Z"));
    assert!(world.has_metric("batch_job_controller_execution_in_progress 0"));
}

#[tokio::test(start_paused = true)]
async fn a_minute_that_a_directory_has_taken_gets_seconds() {
    let directory = history(&[EXECUTION, "20261123235900"]);
    let world = Setup::new(&["node-a"]).run_in(directory, |_| {});
    created(&world, "node-a", "20261123235901").await;
    let kept = world.files()[&format!("{EXECUTION}/node-a.json")].clone();
    assert_eq!(kept, RESULT.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_minute_that_pods_have_taken_gets_seconds() {
    let pod = old_pod("old", "node-a", OWNER, EXECUTION, PodPhase::Succeeded);
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| cluster.put(pod));
    created(&world, "node-a", "20261123235900").await;
    assert_eq!(
        world.cluster.look(|state| state.deletions.clone()),
        [id(EXECUTION)]
    );
}

#[tokio::test(start_paused = true)]
async fn ids_of_a_schedule_below_a_minute_have_seconds() {
    let setup = Setup::new(&["node-a"]).set("cronExpression", json!("@every 30s"));
    let world = setup.run();
    for execution in ["20261123235929", "20261123235959", "20261124000029"] {
        run_through(&world, &["node-a"], execution).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_during_an_execution_is_dropped_and_counted() {
    let world = every_minute(&["node-a"]).run();
    created(&world, "node-a", EXECUTION).await;
    let dropped = "batch_job_controller_decisions_total{decision=\"drop\",reason=\"Forbid\"}";
    world.until_metric(&format!("{dropped} 2")).await;
    run_through(&world, &["node-a"], EXECUTION).await;
    // Dropped ticks are not run afterwards: the next one is the next minute's.
    created(&world, "node-a", "202611240002").await;
    assert!(world.has_metric(&format!("{dropped} 2")));
    assert_eq!(world.cluster.look(|state| state.creates.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_startup_run_begins_after_the_startup_delay() {
    let setup = Setup::new(&["node-a"])
        .set("runOnStartup", json!(true))
        .set("startupDelay", json!("25s"))
        .at("2026-11-23T23:00:00Z");
    let world = setup.run();
    let summary = run_through(&world, &["node-a"], "202611232300").await;
    assert_eq!(summary.trigger, Trigger::Startup);
    assert_eq!(summary.start_time, instant("2026-11-23T23:00:25Z"));
    // Once: the next execution is the schedule's.
    created(&world, "node-a", EXECUTION).await;
    assert_eq!(world.cluster.look(|state| state.creates.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn an_execution_without_eligible_nodes_is_empty_and_leaves_the_next_tick_alone() {
    let world = every_minute(&[]).run();
    world.cluster.change(|state| {
        let mut node = support::cluster::node("node-a");
        node.ready = false;
        state.nodes.push(node);
    });
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(summary.state, ExecutionState::Empty);
    assert_eq!(node_of(&summary, "node-a").state, NodeState::Excluded);
    assert_eq!(node_of(&summary, "node-a").reason, Some(Reason::NotReady));
    world.cluster.change(|state| state.nodes[0].ready = true);
    created(&world, "node-a", NEXT_EXECUTION).await;
}

// Pods of other executions.

#[tokio::test(start_paused = true)]
async fn previous_pods_are_deleted_by_owner_and_execution() {
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| {
        for (name, owner, execution, phase) in [
            ("ended", OWNER, OLD_EXECUTION, PodPhase::Succeeded),
            ("running", OWNER, "202611212359", PodPhase::Running),
            ("foreign", "another", OLD_EXECUTION, PodPhase::Running),
        ] {
            cluster.put(old_pod(name, "node-b", owner, execution, phase));
        }
    });
    let name = created(&world, "node-a", EXECUTION).await;
    let (deletions, left) = world.cluster.look(|state| {
        let names: Vec<String> = state.pods.keys().cloned().collect();
        (state.deletions.clone(), names)
    });
    assert_eq!(deletions, [id("202611212359"), id(OLD_EXECUTION)]);
    assert_eq!(left, [name, "foreign".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn previous_pods_that_stay_keep_their_slots_after_a_minute_and_fail_only_their_nodes() {
    let setup = Setup::new(&["node-a", "node-b", "node-c"]).set("podPoolSize", json!(2));
    let world = setup.run_in(TempDir::new().unwrap(), |cluster| {
        cluster.put(old_pod(
            "old",
            "node-a",
            OWNER,
            OLD_EXECUTION,
            PodPhase::Running,
        ));
        cluster.change(|state| state.keeps_terminating = true);
    });
    created(&world, "node-b", EXECUTION).await;
    let first = world.cluster.look(|state| state.creates[0].at);
    // A second from the start to the tick, a minute of waiting.
    let waited = first - world.clock.origin();
    assert!((61..62).contains(&waited.as_secs()), "{waited:?}");
    world.finish("node-b", EXECUTION).await;
    created(&world, "node-c", EXECUTION).await;
    world.finish("node-c", EXECUTION).await;
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(failure(&summary, "node-a"), Some(Reason::PreviousPod));
    assert_eq!(summary.state, ExecutionState::Degraded);
    assert_eq!(world.cluster.look(|state| state.peak), 2);
}

#[tokio::test(start_paused = true)]
async fn the_pods_are_created_when_the_previous_ones_have_gone() {
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| {
        cluster.put(old_pod(
            "old",
            "node-a",
            OWNER,
            OLD_EXECUTION,
            PodPhase::Running,
        ));
        cluster.change(|state| state.keeps_terminating = true);
    });
    world
        .cluster
        .until("the deletion", |state| {
            (!state.deletions.is_empty()).then_some(())
        })
        .await;
    assert!(world.cluster.look(|state| state.creates.is_empty()));
    let gone = Instant::now();
    world.cluster.remove("old");
    run_through(&world, &["node-a"], EXECUTION).await;
    let waited = world.cluster.look(|state| state.creates[0].at) - gone;
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

// Creating.

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_for_the_moment_is_repeated_not_before_retry_after() {
    let world = Setup::new(&["node-a"]).run();
    let throttled = ClusterErrorKind::Throttled {
        retry_after: Some(Duration::from_secs(7)),
    };
    world.cluster.change(|state| {
        state.create_faults = [throttled, ClusterErrorKind::Unavailable]
            .map(CreateFault::Fails)
            .into();
    });
    created(&world, "node-a", EXECUTION).await;
    let summary = run_through(&world, &["node-a"], EXECUTION).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(node_of(&summary, "node-a").attempts, 1);
    let times: Vec<Instant> = world
        .cluster
        .look(|state| state.creates.iter().map(|create| create.at).collect());
    assert_eq!(times.len(), 3);
    assert!(times[1] - times[0] >= Duration::from_secs(7), "{times:?}");
    assert!(times[2] - times[1] < Duration::from_secs(2), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_is_refused_is_its_nodes_failure_and_frees_the_slot() {
    let setup = Setup::new(&["node-a", "node-b"]).set("podPoolSize", json!(1));
    let world = setup.run();
    world.cluster.change(|state| {
        state.create_faults = [CreateFault::Fails(ClusterErrorKind::Refused)].into();
    });
    let summary = run_through(&world, &["node-b"], EXECUTION).await;
    assert_eq!(failure(&summary, "node-a"), Some(Reason::Refused));
    assert_eq!(node_of(&summary, "node-a").message, "the test's refused");
    assert_eq!(summary.state, ExecutionState::Degraded);
    assert!(world.has_metric("batch_job_controller_node_failures_total{reason=\"Refused\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_ours_that_already_exists_counts_as_created() {
    let world = Setup::new(&["node-a"]).run();
    world
        .cluster
        .change(|state| state.create_faults = [CreateFault::Unanswered].into());
    let summary = run_through(&world, &["node-a"], EXECUTION).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(world.cluster.look(|state| state.pods.len()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_a_foreign_pod_holds_gets_the_nodes_hash() {
    let name = pod_name("node-a", EXECUTION);
    let foreign = old_pod(&name, "node-a", "another", EXECUTION, PodPhase::Running);
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| {
        cluster.put(foreign.clone());
    });
    world.cluster.until_created(2).await;
    let hashed = world.cluster.look(|state| state.creates[1].name.clone());
    assert!(
        hashed.starts_with(&format!("{name}-")) && hashed.len() == name.len() + 13,
        "{hashed}"
    );
    world
        .cluster
        .until("our pod", |state| state.pods.get(&hashed).map(|_| ()))
        .await;
    let event = r#"{"reason":"R","message":"m"}"#;
    world.post_result("node-a", EXECUTION).await;
    world.cluster.succeed(&hashed);
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(world.cluster.pod(&name), foreign);
    // After the end, too, an event is about our pod.
    let answer = world
        .post(&format!("node-a/{EXECUTION}/event"), event)
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let regarding = world
        .cluster
        .look(|state| state.events[0].regarding.clone().unwrap());
    assert_eq!(regarding.name, Some(hashed));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_share_a_host_name_get_pods_of_their_own() {
    let nodes = ["node-a.east", "node-a.west"];
    let world = Setup::new(&nodes).run();
    world
        .cluster
        .until("both pods", |state| (state.pods.len() == 2).then_some(()))
        .await;
    let pods = world
        .cluster
        .look(|state| state.pods.keys().cloned().collect::<Vec<_>>());
    for (node, pod) in nodes.iter().map(|node| {
        (
            node,
            world.cluster.look(|state| {
                let mut pods = state.pods.values();
                pods.find(|pod| pod.node == **node).unwrap().name.clone()
            }),
        )
    }) {
        world.post_result(node, EXECUTION).await;
        world.cluster.succeed(&pod);
    }
    assert_ne!(pods[0], pods[1]);
    assert_eq!(
        world.until_ended(EXECUTION).await.state,
        ExecutionState::Succeeded
    );
}

#[tokio::test(start_paused = true)]
async fn the_pool_is_refilled_the_moment_a_pod_ends_and_never_overfull() {
    let nodes = ["node-1", "node-2", "node-3", "node-4", "node-5"];
    let world = Setup::new(&nodes).set("podPoolSize", json!("40%")).run();
    created(&world, "node-2", EXECUTION).await;
    assert_eq!(world.cluster.look(|state| state.creates.len()), 2);
    let ended = Instant::now();
    world.finish("node-2", EXECUTION).await;
    created(&world, "node-3", EXECUTION).await;
    assert!(
        ended.elapsed() < Duration::from_millis(100),
        "{:?}",
        ended.elapsed()
    );
    for node in ["node-1", "node-3", "node-4", "node-5"] {
        created(&world, node, EXECUTION).await;
        world.finish(node, EXECUTION).await;
    }
    assert_eq!(
        world.until_ended(EXECUTION).await.state,
        ExecutionState::Succeeded
    );
    assert_eq!(world.cluster.look(|state| state.peak), 2);
}

// How nodes end.

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_its_nodes_failure_and_its_slot_is_refilled() {
    let setup = Setup::new(&["node-a", "node-b"]).set("podPoolSize", json!(1));
    let world = setup.run();
    let name = created(&world, "node-a", EXECUTION).await;
    world.cluster.set_phase(&name, PodPhase::Running);
    world.cluster.remove(&name);
    let summary = run_through(&world, &["node-b"], EXECUTION).await;
    assert_eq!(failure(&summary, "node-a"), Some(Reason::Deleted));
    assert!(world.has_metric(&format!(
        "audit_processing{{executionID=\"{EXECUTION}\",node=\"node-a\"}} 1"
    )));
}

#[tokio::test(start_paused = true)]
async fn pods_that_end_or_go_while_the_watch_is_broken_are_noticed() {
    let world = Setup::new(&["node-a", "node-b"]).run();
    let ended = created(&world, "node-a", EXECUTION).await;
    let gone = created(&world, "node-b", EXECUTION).await;
    world.post_result("node-a", EXECUTION).await;
    world.cluster.while_unseen(|state| {
        state.pods.get_mut(&ended).unwrap().phase = PodPhase::Succeeded;
        state.pods.remove(&gone);
    });
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(node_of(&summary, "node-a").state, NodeState::Succeeded);
    assert_eq!(failure(&summary, "node-b"), Some(Reason::Deleted));
}

#[tokio::test(start_paused = true)]
async fn a_late_result_turns_no_result_into_succeeded_while_the_execution_runs() {
    let world = Setup::new(&["node-a", "node-b"]).run();
    let processing = |node: &str, value: u8| {
        format!("audit_processing{{executionID=\"{EXECUTION}\",node=\"{node}\"}} {value}")
    };
    let name = created(&world, "node-a", EXECUTION).await;
    world.cluster.succeed(&name);
    world.until_metric(&processing("node-a", 1)).await;
    world.post_result("node-a", EXECUTION).await;
    assert!(world.has_metric(&processing("node-a", 0)));
    let name = created(&world, "node-b", EXECUTION).await;
    world.cluster.succeed(&name);
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(node_of(&summary, "node-a").state, NodeState::Succeeded);
    assert_eq!(failure(&summary, "node-b"), Some(Reason::NoResult));
    // After the end it is stored and exported; the state stays.
    world.post_result("node-b", EXECUTION).await;
    assert!(world.has_metric(&format!(
        "audit_plain{{executionID=\"{EXECUTION}\",node=\"node-b\"}} 1"
    )));
    assert!(world.has_metric(&processing("node-b", 1)));
    world
        .until("the late report in the summary", |world| {
            let summary =
                fs::read(world.directory().join(EXECUTION).join("_execution.json")).unwrap();
            let summary: ExecutionSummary = serde_json::from_slice(&summary).unwrap();
            assert_eq!(failure(&summary, "node-b"), Some(Reason::NoResult));
            (node_of(&summary, "node-b").reports == ["node-b.json"]).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_result_on_the_volume_that_nobody_told_of_counts() {
    let world = Setup::new(&["node-a"]).run();
    let name = created(&world, "node-a", EXECUTION).await;
    let stored = world.directory().join(EXECUTION).join("node-a.json");
    fs::write(stored, r#"{"plain":[{"value":7}]}"#).unwrap();
    world.cluster.succeed(&name);
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(node_of(&summary, "node-a").state, NodeState::Succeeded);
    assert!(world.has_metric(&format!(
        "audit_plain{{executionID=\"{EXECUTION}\",node=\"node-a\"}} 7"
    )));
}

#[tokio::test(start_paused = true)]
async fn a_result_does_not_save_a_pod_that_failed() {
    let world = Setup::new(&["node-a"]).run();
    let name = created(&world, "node-a", EXECUTION).await;
    world.post_result("node-a", EXECUTION).await;
    world.cluster.set_phase(&name, PodPhase::Failed);
    let summary = world.until_ended(EXECUTION).await;
    assert_eq!(failure(&summary, "node-a"), Some(Reason::PodFailed));
    assert_eq!(summary.state, ExecutionState::Failed);
    assert!(world.has_metric(&format!(
        "audit_processing{{executionID=\"{EXECUTION}\",node=\"node-a\"}} 1"
    )));
}

#[tokio::test(start_paused = true)]
async fn without_gauges_no_result_is_needed() {
    let world = Setup::new(&["node-a"]).set("metrics", json!({})).run();
    let name = created(&world, "node-a", EXECUTION).await;
    world.cluster.succeed(&name);
    assert_eq!(
        world.until_ended(EXECUTION).await.state,
        ExecutionState::Succeeded
    );
}

// History and metrics.

#[tokio::test(start_paused = true)]
async fn the_history_is_pruned_by_id_and_foreign_files_are_left_alone() {
    let directory = history(&[
        "202611210000",
        "202611200000",
        "20261121000030",
        "202611190000",
    ]);
    for foreign in ["backup", "lost+found", "2026112"] {
        fs::create_dir(directory.path().join(foreign)).unwrap();
        fs::write(directory.path().join(foreign).join("file"), "keep").unwrap();
    }
    fs::write(directory.path().join("202611180000"), "a file").unwrap();
    // Written last, the oldest by id has the newest time.
    fs::write(directory.path().join("202611190000/node-a-again.txt"), "x").unwrap();
    let world = Setup::new(&["node-a"])
        .set("reportHistory", json!(3))
        .run_in(directory, |_| {});
    created(&world, "node-a", EXECUTION).await;
    let mut entries: Vec<String> = fs::read_dir(world.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    entries.sort();
    let kept = [
        "202611180000",
        "2026112",
        "202611210000",
        "20261121000030",
        EXECUTION,
        "_configuration.json",
        "backup",
        "latest",
        "lost+found",
    ];
    assert_eq!(entries, kept);
    assert_eq!(
        fs::read(world.directory().join("backup/file")).unwrap(),
        b"keep"
    );
}

#[tokio::test(start_paused = true)]
async fn latest_survives_the_pruning_of_its_execution_while_the_node_is_in_a_kept_list() {
    let world = every_minute(&["node-a", "node-b"])
        .set("reportHistory", json!(1))
        .run();
    run_through(&world, &["node-a", "node-b"], EXECUTION).await;
    world
        .cluster
        .change(|state| state.nodes.retain(|node| node.name == "node-a"));
    let name = created(&world, "node-a", NEXT_EXECUTION).await;
    assert_eq!(world.metric_lines(EXECUTION), [""; 0]);
    let latest = |node: &str| format!("audit_plain{{executionID=\"latest\",node=\"{node}\"}}");
    assert!(world.has_metric(&format!("{} 1", latest("node-a"))));
    assert!(world.metric_lines(&latest("node-b")).is_empty());
    let answer = world
        .post(
            &format!("node-a/{NEXT_EXECUTION}/result"),
            r#"{"plain":[{"value":2}]}"#,
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        world.metric_lines(&latest("node-a")),
        [format!("{} 2", latest("node-a"))]
    );
    world.cluster.succeed(&name);
    world.until_ended(NEXT_EXECUTION).await;
}

#[tokio::test(start_paused = true)]
async fn series_are_bounded_by_both_histories() {
    let setup = every_minute(&["node-a"])
        .set("reportHistory", json!(2))
        .set("latestMetricsLabel", json!(false))
        .set("metrics", json!({"history": 1, "gauges": {"plain": {}}}));
    let world = setup.run();
    let executions = [EXECUTION, NEXT_EXECUTION, "202611240001", "202611240002"];
    let mut counts = Vec::new();
    for execution in executions {
        run_through(&world, &["node-a"], execution).await;
        counts.push(world.metrics.series_count());
        assert_eq!(
            world.metric_lines("audit_plain{"),
            [format!(
                "audit_plain{{executionID=\"{execution}\",node=\"node-a\"}} 1"
            )]
        );
    }
    assert_eq!(counts, [3, 6, 6, 6]);
    assert_eq!(world.file_names().len(), 2);
    // A pruned execution takes no callbacks any more.
    let answer = world
        .post(&format!("node-a/{EXECUTION}/result"), RESULT)
        .await;
    assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE);
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn many_series_to_come_are_warned_of_once_by_the_key_that_bounds_them() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let names: Vec<String> = (0..4200).map(|index| format!("node-{index:04}")).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = every_minute(&nodes).set("podPoolSize", json!(5000)).run();
    world.cluster.change(|state| {
        state.create_faults = vec![CreateFault::Fails(ClusterErrorKind::Refused); 8400].into();
    });
    world.until_ended(EXECUTION).await;
    world.until_ended(NEXT_EXECUTION).await;
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("metrics.history"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("WARN") && warnings[0].contains("series=520800"),
        "{}",
        warnings[0]
    );
}

// Logs of pods.

#[tokio::test(start_paused = true)]
async fn the_log_of_every_container_is_saved_init_ones_too() {
    let world = Setup::new(&["node-a", "node-b"])
        .set("savePodLog", json!(true))
        .run();
    let first = created(&world, "node-a", EXECUTION).await;
    let second = created(&world, "node-b", EXECUTION).await;
    world.cluster.change(|state| {
        state
            .logs
            .insert(format!("{first}/prepare"), "prepared\n".to_owned());
        state
            .logs
            .insert(format!("{first}/job"), "line 1\nline 2\n".to_owned());
        state
            .logs
            .insert(format!("{second}/job"), "only this\n".to_owned());
    });
    world.finish("node-a", EXECUTION).await;
    world.cluster.set_phase(&second, PodPhase::Failed);
    world.until_ended(EXECUTION).await;
    let wanted = [
        ("node-a-container-job.log", "line 1\nline 2\n"),
        ("node-a-container-prepare.log", "prepared\n"),
        ("node-a.json", RESULT),
        ("node-b-container-job.log", "only this\n"),
    ];
    let wanted =
        wanted.map(|(name, content)| (format!("{EXECUTION}/{name}"), content.as_bytes().to_vec()));
    world
        .until("every log", |world| {
            let mut files = world.files();
            files.remove("latest");
            (files.into_iter().collect::<Vec<_>>() == wanted).then_some(())
        })
        .await;
    world
        .until("the logs in the summary", |world| {
            let summary =
                fs::read(world.directory().join(EXECUTION).join("_execution.json")).unwrap();
            let summary: ExecutionSummary = serde_json::from_slice(&summary).unwrap();
            (node_of(&summary, "node-a").reports.len() == 3
                && node_of(&summary, "node-b").reports.len() == 1)
                .then_some(())
        })
        .await;
}

// Where job pods call back.

#[tokio::test(start_paused = true)]
async fn job_pods_call_the_service_not_this_controllers_pod() {
    let with_service = || {
        Setup::new(&["node-a"])
            .set("callbackServiceName", json!("audit"))
            .set("callbackAuth", json!("off"))
    };
    let headless = "audit.batch.svc";
    for (address, host) in [
        (
            ServiceAddress::ClusterIp("10.96.0.7".to_owned()),
            "10.96.0.7",
        ),
        (ServiceAddress::DnsName(headless.to_owned()), headless),
    ] {
        let world = with_service().run_in(TempDir::new().unwrap(), |cluster| {
            cluster.change(|state| state.services.insert("audit".to_owned(), address));
        });
        world.cluster.until_created(1).await;
        let url = format!("http://{host}:8090/report/node-a/{EXECUTION}/result");
        assert_eq!(
            environment(&world, 0, "CALLBACK_SERVICE_RESULT_URL"),
            vec![Some(url); 2]
        );
    }
    // A Service that does not exist (yet).
    let world = with_service().run();
    world.cluster.until_created(1).await;
    assert_eq!(
        environment(&world, 0, "CALLBACK_SERVICE_NAME"),
        vec![Some("10.1.2.3".to_owned()); 2]
    );
}

#[tokio::test(start_paused = true)]
async fn the_variable_of_an_extension_is_in_every_container_and_one_of_ours_fails_its_node() {
    let mut setup = Setup::new(&["node-a", "node-b"]);
    setup.variables = ExtensionVariables::new(|_, instance, _| {
        let name = match instance.node {
            "node-a" => "NODE_NAME",
            _ => "RACK",
        };
        vec![EnvVar {
            name: name.to_owned(),
            value: Some("7".to_owned()),
            value_from: None,
        }]
    });
    let world = setup.run();
    let summary = run_through(&world, &["node-b"], EXECUTION).await;
    assert_eq!(
        environment(&world, 0, "RACK"),
        vec![Some("7".to_owned()); 2]
    );
    assert_eq!(failure(&summary, "node-a"), Some(Reason::Template));
    let message = &node_of(&summary, "node-a").message;
    assert!(message.contains("NODE_NAME"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn without_any_callback_address_the_error_names_the_service_and_the_variable() {
    let cluster = TestCluster::new(&[]);
    for (setup, part) in [
        (Setup::new(&[]), "callbackServiceName is not set"),
        (
            Setup::new(&[]).set("callbackServiceName", json!("audit")),
            "callbackServiceName names the Service \"audit\"",
        ),
    ] {
        let error = callback_address::resolve(&cluster, &setup.config(), None)
            .await
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(part) && message.contains("POD_IP"),
            "{message}"
        );
    }
    let mut setup = every_minute(&["node-a"]);
    setup.pod_ip = None;
    let world = setup.run();
    world
        .until_metric(
            "batch_job_controller_decisions_total{decision=\"drop\",reason=\"Refused\"} 2",
        )
        .await;
    assert!(world.cluster.look(|state| state.creates.is_empty()));
    assert!(world.has_metric("batch_job_controller_execution_in_progress 0"));
}

// Trouble.

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_delays_an_execution_but_does_not_lose_it() {
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| {
        cluster.change(|state| {
            for call in ["list_nodes", "list_pods", "delete_pods"] {
                state
                    .faults
                    .insert(call, vec![ClusterErrorKind::Unavailable; 3].into());
            }
            state.pods.insert(
                "old".to_owned(),
                old_pod("old", "node-a", OWNER, OLD_EXECUTION, PodPhase::Succeeded),
            );
        });
    });
    let summary = run_through(&world, &["node-a"], EXECUTION).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
    assert_eq!(summary.scheduled_time, instant("2026-11-23T23:59:00Z"));
    assert_eq!(
        world.cluster.look(|state| state.deletions.clone()),
        vec![id(OLD_EXECUTION); 4]
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_journal_cannot_be_written_no_pod_is_created_and_running_ones_go_on() {
    let setup = every_minute(&["node-a", "node-b"]).set("podPoolSize", json!(1));
    let world = setup.run();
    let no_space = Some(StoreFault::Writes(ReportStoreErrorKind::NoSpace));
    world.reports.set_fault(no_space);
    world
        .until_metric("batch_job_controller_report_store_usable 0")
        .await;
    let minutes_later = |world: &World| world.clock.wall() + Duration::from_secs(40);
    let later = minutes_later(&world);
    let is_later = |later| move |world: &World| (world.clock.wall() > later).then_some(());
    world.until("minutes later", is_later(later)).await;
    assert_eq!(world.cluster.look(|state| state.creates.len()), 0);
    world.reports.set_fault(None);
    let name = created(&world, "node-a", EXECUTION).await;
    world.reports.set_fault(no_space);
    world.cluster.succeed(&name);
    let later = minutes_later(&world);
    world.until("minutes later", is_later(later)).await;
    assert_eq!(world.cluster.look(|state| state.creates.len()), 1);
    world.reports.set_fault(None);
    let name = created(&world, "node-b", EXECUTION).await;
    world.cluster.succeed(&name);
    let summary = run_through(&world, &["node-a", "node-b"], "202611240001").await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
}

// Shutting down.

#[tokio::test(start_paused = true)]
async fn a_stopped_schedule_creates_nothing_more_and_goes_on_taking_callbacks() {
    let setup = every_minute(&["node-a", "node-b"]).set("podPoolSize", json!(1));
    let world = setup.run();
    created(&world, "node-a", EXECUTION).await;
    world.handle.stop_schedule().await;
    world.finish("node-a", EXECUTION).await;
    let ended = "batch_job_controller_nodes{state=\"succeeded\"} 1";
    world.until_metric(ended).await;
    let later = world.clock.wall() + Duration::from_mins(10);
    world
        .until("ten minutes later", |world| {
            (world.clock.wall() > later).then_some(())
        })
        .await;
    assert_eq!(world.cluster.look(|state| state.creates.len()), 1);
    world.post_result("node-a", EXECUTION).await;
    assert!(world.handle.is_alive());
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_is_being_prepared_does_not_begin_after_the_schedule_stopped() {
    let world = Setup::new(&["node-a"]).run_in(TempDir::new().unwrap(), |cluster| {
        cluster.put(old_pod(
            "old",
            "node-a",
            OWNER,
            OLD_EXECUTION,
            PodPhase::Running,
        ));
        cluster.change(|state| {
            state
                .faults
                .insert("list_nodes", vec![ClusterErrorKind::Unavailable; 2].into());
        });
    });
    world
        .until_metric("batch_job_controller_execution_in_progress 1")
        .await;
    world.handle.stop_schedule().await;
    let dropped = "batch_job_controller_decisions_total{decision=\"drop\",reason=\"Stopped\"} 1";
    world.until_metric(dropped).await;
    assert!(
        world
            .cluster
            .look(|state| state.creates.is_empty() && state.deletions.is_empty())
    );
    assert!(world.has_metric("batch_job_controller_execution_in_progress 0"));
}

// The summary.

#[tokio::test(start_paused = true)]
async fn the_summary_says_how_the_execution_stands_and_ended() {
    let world = Setup::new(&["node-a", "node-b", "node-c"]).run();
    world
        .cluster
        .change(|state| state.nodes[2].unschedulable = true);
    let name = created(&world, "node-b", EXECUTION).await;
    let path = world.directory().join(EXECUTION).join("_execution.json");
    let running = world
        .until("the summary of the running execution", |_| {
            let summary: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).ok()?).unwrap();
            let starts = [0, 1].map(|node| &summary["nodes"][node]["startTime"]);
            (starts == ["2026-11-23T23:59:00.005Z"; 2]).then_some(summary)
        })
        .await;
    assert_eq!(running["state"], "running");
    assert_eq!(running["counts"], json!({"running": 2, "excluded": 1}));
    assert!(running.get("endTime").is_none() && running.get("makespanMs").is_none());
    world
        .post(&format!("node-a/{EXECUTION}/file?name=a.txt"), "x")
        .await;
    world.finish("node-a", EXECUTION).await;
    let mut pod = world.cluster.pod(&name);
    (pod.phase, pod.reason, pod.message) = (
        PodPhase::Failed,
        "OOMKilled".to_owned(),
        "container job".to_owned(),
    );
    world.cluster.put(pod);
    world.until_ended(EXECUTION).await;
    let mut summary: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for node in [0, 1] {
        let times = summary["nodes"][node].as_object_mut().unwrap();
        assert!(times.remove("startTime").is_some() && times.remove("endTime").is_some());
    }
    assert!(summary["makespanMs"].as_u64().is_some());
    for varying in ["makespanMs", "startTime", "endTime"] {
        summary.as_object_mut().unwrap().remove(varying);
    }
    assert_eq!(
        summary,
        json!({
            "schemaVersion": 1,
            "id": EXECUTION,
            "trigger": "schedule",
            "state": "degraded",
            "scheduledTime": "2026-11-23T23:59:00Z",
            "counts": {"succeeded": 1, "failed": 1, "excluded": 1},
            "nodes": [
                {
                    "node": "node-a", "state": "succeeded", "attempts": 1,
                    "reports": ["node-a-a.txt", "node-a.json"], "samples": 1,
                },
                {
                    "node": "node-b", "state": "failed", "reason": "PodFailed", "message": "OOMKilled: container job",
                    "attempts": 1, "reports": [], "samples": 0,
                },
                {
                    "node": "node-c", "state": "excluded", "reason": "Unschedulable",
                    "message": "cordoned, and runOnUnscheduledNodes is false", "attempts": 0, "reports": [], "samples": 0,
                },
            ],
        })
    );
}
