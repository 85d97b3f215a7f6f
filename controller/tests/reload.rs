//! A ConfigMap that changes while the controller runs, or while nobody leads.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use controller::core::by_hand::ANNOTATION_TRIGGER;
use controller::core::state::ExecutionState;
use serde_json::{Value, json};
use tempfile::TempDir;

use support::cluster::State;
use support::world::{Setup, World, pod_name};

const EXECUTION: &str = "202611232359";

fn setup() -> Setup {
    Setup::new(&["node-a", "node-b", "node-c"]).set("podPoolSize", json!(2))
}

async fn started(setup: Setup) -> World {
    let world = setup.run();
    world.handle.recovered().await;
    world
}

/// Waits until so many pods were created, in all.
async fn until_there(world: &World, count: usize) {
    let enough = |state: &State| (state.created.len() >= count).then_some(());
    world.cluster.until("the pods", enough).await;
    // And as many as the pool takes.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn finish_all(world: &World, execution: &str) {
    for node in ["node-a", "node-b", "node-c"] {
        let name = pod_name(node, execution);
        let exists = |state: &State| state.pods.get(&name).map(|_| ());
        world.cluster.until(&name, exists).await;
        world.finish(node, execution).await;
    }
    let summary = world.until_ended(execution).await;
    assert_eq!(summary.state, ExecutionState::Succeeded);
}

/// Puts this configuration into the ConfigMap.
fn configure(world: &World, setup: &Setup) {
    let data = setup.data();
    world
        .cluster
        .change(|state| state.config_map.as_mut().unwrap().data = data);
}

fn running(world: &World) -> usize {
    world.cluster.look(State::running).len()
}

const USABLE: &str = "batch_job_controller_configuration_usable 1";
const UNUSABLE: &str = "batch_job_controller_configuration_usable 0";

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_holds_from_the_next_execution_on() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    let mut changed = setup().set("podPoolSize", json!(1));
    changed.template = changed.template.replace("image: job", "image: newer");
    configure(&world, &changed);
    world.cluster.until_told("ConfigurationChanged").await;
    world.finish("node-a", EXECUTION).await;
    until_there(&world, 3).await;
    assert_eq!(running(&world), 2, "it ends with the pool it began with");
    finish_all(&world, EXECUTION).await;
    let images = |world: &World| {
        world.cluster.look(|state| {
            let pods = state.creates.iter();
            let image = |pod: &k8s_openapi::api::core::v1::Pod| {
                pod.spec.as_ref().unwrap().containers[0].image.clone()
            };
            pods.map(|create| image(&create.pod).unwrap())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(images(&world), ["job"; 3], "and the template");
    world.cluster.annotate(ANNOTATION_TRIGGER, "now");
    until_there(&world, 4).await;
    assert_eq!(running(&world), 1);
    assert_eq!(images(&world)[3], "newer");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_configuration_is_refused_and_the_last_good_one_goes_on() {
    let world = started(setup()).await;
    configure(&world, &setup().set("podPoolSize", json!(0)));
    let told = world.cluster.until_told("ConfigurationRefused").await;
    assert!(told.contains("podPoolSize: found 0"), "{told}");
    world.until_metric(UNUSABLE).await;
    until_there(&world, 2).await;
    assert_eq!(running(&world), 2);
    finish_all(&world, EXECUTION).await;
    configure(&world, &setup().set("podPoolSize", json!(1)));
    world.until_metric(USABLE).await;
    world.cluster.change(|state| state.config_map = None);
    world.until_metric(UNUSABLE).await;
    assert_eq!(world.cluster.notes("ConfigurationRefused").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_that_wait_for_a_restart_are_named_and_the_others_hold() {
    let world = started(setup()).await;
    let changed = setup()
        .set("podPoolSize", json!(1))
        .set("fileServerPort", json!(1234))
        .set("reportDirectory", json!("/elsewhere"));
    configure(&world, &changed);
    let told = world.cluster.until_told("RestartNeeded").await;
    assert!(
        told.ends_with(": reportDirectory, fileServerPort"),
        "{told}"
    );
    until_there(&world, 1).await;
    assert_eq!(running(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_schedule_moves_the_next_tick() {
    let world = started(setup()).await;
    configure(&world, &setup().set("cronExpression", json!("5 0 * * *")));
    until_there(&world, 2).await;
    finish_all(&world, "202611240005").await;
    assert_eq!(world.cluster.look(|state| state.created.len()), 3);
}

#[tokio::test(start_paused = true)]
async fn suspending_takes_effect_at_once_and_shows() {
    let world = started(setup()).await;
    configure(&world, &setup().set("suspend", json!(true)));
    world.until_metric("batch_job_controller_suspended 1").await;
    world.cluster.until_told("TickSuspended").await;
    assert!(world.cluster.look(|state| state.created.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_changed_while_nobody_led_has_missed_nothing() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    finish_all(&world, EXECUTION).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    configure(&world, &setup().set("cronExpression", json!("0 1 * * *")));
    world.cluster.until_told("ConfigurationChanged").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Both the 01:00 of this and the 00:30 of the next one pass while nobody leads.
    let data = setup().set("cronExpression", json!("30 0,2 * * *")).data();
    world
        .cluster
        .change(|state| state.config_map.as_mut().unwrap().data = data);
    let world = world.restart_after(Duration::from_mins(90)).await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(world.cluster.look(|state| state.created.len()), 3);
    finish_all(&world, "202611240230").await;
}

#[tokio::test(start_paused = true)]
async fn a_gauge_that_is_added_is_exported_and_one_that_stays_keeps_its_samples() {
    let world = started(setup()).await;
    until_there(&world, 2).await;
    world.finish("node-a", EXECUTION).await;
    let gauges = json!({"gauges": {"added": {}, "plain": {}}});
    configure(&world, &setup().set("metrics", gauges));
    world.cluster.until_told("ConfigurationChanged").await;
    let result = r#"{"plain": [{"value": 2}], "added": [{"value": 3}]}"#;
    world
        .post(&format!("node-b/{EXECUTION}/result"), result)
        .await;
    for line in [
        r#"audit_plain{executionID="202611232359",node="node-a"} 1"#,
        r#"audit_plain{executionID="202611232359",node="node-b"} 2"#,
        r#"audit_added{executionID="202611232359",node="node-b"} 3"#,
    ] {
        assert!(world.has_metric(line), "{line}: {}", world.metrics.render());
    }
}

/// Between two leaders; the process itself is started with the configuration of the first.
#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_a_wrong_configuration_takes_the_last_good_one_of_the_volume() {
    let world = started(setup()).await;
    configure(&world, &setup().set("podPoolSize", json!(1)));
    world.cluster.until_told("ConfigurationChanged").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let broken = setup().set("podPoolSize", json!(0)).data();
    let world = world.restart(|cluster, _| {
        cluster.change(|state| state.config_map.as_mut().unwrap().data = broken);
    });
    world.cluster.until_told("ConfigurationRefused").await;
    until_there(&world, 1).await;
    assert_eq!(running(&world), 1);
    // In the middle of it, too.
    let world = world.restart(|_, _| {});
    world.handle.recovered().await;
    finish_all(&world, EXECUTION).await;
    world.until_metric(UNUSABLE).await;
    assert_eq!(world.cluster.look(|state| state.peak), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_begins_with_what_changed_while_it_stood_by() {
    let data: Value = json!(setup().set("podPoolSize", json!(1)).data());
    let world = setup().run_in(TempDir::new().unwrap(), |cluster| {
        let data = serde_json::from_value(data).unwrap();
        cluster.change(|state| state.config_map.as_mut().unwrap().data = data);
    });
    until_there(&world, 1).await;
    assert_eq!(running(&world), 1);
}
