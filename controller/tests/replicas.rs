//! Replicas of the production controller on one in-memory cluster, in virtual time: who leads, who stands by, how they
//! hand over.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use controller::ports::error::ClusterErrorKind;
use http::StatusCode;
use serde_json::json;
use support::replicas::{Site, until};
use support::world::Setup;

fn setup() -> Setup {
    Setup::new(&["node-a", "node-b"])
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_stands_by_as_healthy_and_names_it() {
    let site = Site::new(&setup());
    let first = site.start("audit-0");
    assert!(first.until_it_leads().await < Duration::from_secs(1));
    let second = site.start("audit-1");
    second.until_it_stands_by(Some("audit-0")).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(first.leads() && !second.leads());
    assert!(first.has_metric("batch_job_controller_leader 1"));
    assert!(second.has_metric("batch_job_controller_leader 0"));
    for path in ["/healthz", "/readyz", "/readyz/controller"] {
        assert_eq!(second.probe(path).await.0, StatusCode::OK, "{path}");
    }
    let (_, leader) = first.probe("/readyz/leader").await;
    assert_eq!(leader, "this replica leads\n");
    let (_, leader) = second.probe("/readyz/leader").await;
    assert_eq!(leader, "standing by, audit-0 leads\n");
    let address = site.lease().address.unwrap();
    assert_eq!((&*address.host, address.callback_port), ("audit-0", 8090));
}

#[tokio::test(start_paused = true)]
async fn on_a_planned_end_the_next_one_leads_within_a_second() {
    let site = Site::new(&setup());
    let first = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    second.until_it_stands_by(Some("audit-0")).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    first.handle.hand_over();
    let taken = second.until_it_leads().await;
    assert!(taken < Duration::from_secs(1), "{taken:?}");
    first.handle.handed_over().await;
    first.until_it_stands_by(Some("audit-1")).await;
    assert_eq!(site.lease().transitions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_when_its_lease_has_run_out() {
    let site = Site::new(&setup());
    let first = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    second.until_it_stands_by(Some("audit-0")).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    drop(first);
    let taken = second.until_it_leads().await;
    let seconds = 13..=16;
    assert!(seconds.contains(&taken.as_secs()), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_restarts_under_its_name_takes_its_lease_back_at_once() {
    let site = Site::new(&setup());
    drop(site.start_leader("audit-0").await);
    let before = site.lease();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let again = site.start("audit-0");
    let taken = again.until_it_leads().await;
    assert!(taken < Duration::from_secs(1), "{taken:?}");
    let after = site.lease();
    assert_eq!(after.acquire_time, before.acquire_time);
    assert_eq!(after.transitions, before.transitions);
    assert!(after.renew_time > before.renew_time);
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_does_not_run_on_startup_and_who_is_alone_does() {
    let site = Site::new(
        &setup()
            .set("runOnStartup", json!(true))
            .at("2026-11-23T12:00:00Z"),
    );
    let first = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    site.cluster.until_created(2).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    drop(first);
    second.until_it_leads().await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(site.cluster.look(|state| state.creates.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_names_somebody_else_stops_at_once() {
    let site = Site::new(&setup());
    let process = site.start_leader("audit-0").await;
    site.cluster.until_created(2).await;
    let in_progress = "batch_job_controller_execution_in_progress 1";
    assert!(process.has_metric(in_progress) && process.has_metric("audit_pods 2"));
    site.cluster.change(|state| {
        let mut record = state.lease.clone().unwrap().record;
        "somebody".clone_into(&mut record.holder);
        state.put_lease(record);
    });
    let noticed = process.until_it_stands_by(Some("somebody")).await;
    assert!(noticed < Duration::from_millis(100), "{noticed:?}");
    assert!(process.has_metric("batch_job_controller_leader 0"));
    let text = process.metrics.render();
    let is_of_nodes = |line: &str| line.starts_with("audit_");
    assert!(!text.lines().any(is_of_nodes), "{text}");
    assert!(!process.has_metric(in_progress));
    // Nobody renews it.
    let back = process.until_it_leads().await;
    let seconds = 14..=15;
    assert!(seconds.contains(&back.as_secs()), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_deletes_or_empties_is_written_again_without_a_pause() {
    let site = Site::new(&setup());
    let process = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    second.until_it_stands_by(Some("audit-0")).await;
    for empties in [false, true] {
        site.cluster.change(|state| {
            let mut record = state.lease.take().unwrap().record;
            if empties {
                record.holder.clear();
                state.put_lease(record);
            }
        });
        until("the lease is back", || {
            let lease = site.cluster.look(|state| state.lease.clone());
            lease.is_some_and(|lease| lease.record.holder == "audit-0")
        })
        .await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(process.leads() && !second.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_after_its_deadline_and_goes_on_when_it_can() {
    let site = Site::new(&setup());
    let process = site.start_leader("audit-0").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let fail = |count| {
        site.cluster.change(|state| {
            let faults = vec![ClusterErrorKind::Unavailable; count];
            for call in ["update_lease", "get_lease"] {
                state.faults.insert(call, faults.clone().into());
            }
        });
    };
    fail(1_000);
    let stopped = process.until_it_stands_by(None).await;
    let seconds = 8..=10;
    assert!(seconds.contains(&stopped.as_secs()), "{stopped:?}");
    fail(0);
    let back = process.until_it_leads().await;
    assert!(back < Duration::from_secs(3), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn creates_in_flight_are_settled_before_the_lease_is_released() {
    let site = Site::new(&setup());
    let process = site.start_leader("audit-0").await;
    // Asked for, and not answered yet.
    site.cluster.until_created(2).await;
    process.handle.hand_over();
    process.handle.handed_over().await;
    assert!(site.lease().is_released());
    assert_eq!(site.cluster.look(|state| state.pods.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stands_by_ends_at_once_and_leaves_the_lease_alone() {
    let site = Site::new(&setup());
    let first = site.start_leader("audit-0").await;
    let second = site.start("audit-1");
    second.until_it_stands_by(Some("audit-0")).await;
    second.handle.hand_over();
    second.handle.handed_over().await;
    assert_eq!(site.lease().holder, "audit-0");
    assert!(first.leads());
}
