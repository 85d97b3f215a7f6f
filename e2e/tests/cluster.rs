//! The chart on a cluster: `cargo xtask e2e` names the cluster and what to install there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Execution, Installation, await_condition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

/// The values that the tests install with.
const VALUES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/values.yaml");

/// Nodes pull the job's image first.
const ENDED_WITHIN: Duration = Duration::from_mins(5);

/// Events and logs follow at once.
const FOLLOWS_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_controller_runs_an_execution_and_everything_of_it_is_there() -> Result<()> {
    let Some(cluster) = Cluster::given().await? else {
        return Ok(());
    };
    println!("{cluster:?}");
    Installation::with(
        &cluster,
        "execution",
        Path::new(VALUES),
        async |installation| {
            let reports = installation.site("reports").await?;
            let execution = Execution::ended(&reports, ENDED_WITHIN).await?;
            let nodes = eligible_nodes(&cluster).await?;
            execution.check_all_succeeded(nodes)?;
            execution.check_reports(&reports).await?;
            execution.check_logs(&reports, "job").await?;
            let metrics = installation.site("metrics").await?;
            execution
                .check_metrics(&metrics, "e2e", &["uptime_seconds"])
                .await?;
            check_events(installation, nodes).await?;
            check_controller_log(&installation.controller_log().await?)?;
            println!("{nodes} nodes succeeded; reports, logs, metrics and events are there");
            Ok(())
        },
    )
    .await
}

/// The nodes that are ready and not cordoned; taints do not stop job pods, which name their node.
async fn eligible_nodes(cluster: &Cluster) -> Result<usize> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await?;
    let is_eligible = |node: &&Node| {
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        !is_cordoned && conditions.any(|c| c.type_ == "Ready" && c.status == "True")
    };
    Ok(nodes.iter().filter(is_eligible).count())
}

/// Each job pod has posted one event, which is about itself.
async fn check_events(installation: &Installation, nodes: usize) -> Result<()> {
    let client = installation.cluster.client.clone();
    let events: Api<Event> = Api::namespaced(client, &installation.namespace);
    await_condition("each job pod has its event", FOLLOWS_WITHIN, async || {
        let events = events.list(&ListParams::default()).await?;
        let of_jobs: Vec<_> = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("JobChecked"))
            .filter_map(|event| event.regarding.as_ref()?.name.as_deref())
            .collect();
        ensure!(of_jobs.len() == nodes, "events of {of_jobs:?}");
        ensure!(
            of_jobs.iter().all(|pod| pod.starts_with("e2e-job-")),
            "{of_jobs:?}"
        );
        Ok(())
    })
    .await
}

/// JSON lines, none of which says that someone must act.
fn check_controller_log(log: &str) -> Result<()> {
    ensure!(!log.trim().is_empty(), "the controller has logged nothing");
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(line["level"] != "ERROR", "{line}");
    }
    Ok(())
}
