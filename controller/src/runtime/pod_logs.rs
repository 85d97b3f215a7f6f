//! Saves the logs of an ended job pod beside its reports, streamed, container by container.

use futures::StreamExt as _;
use tracing::{debug, warn};

use super::Ports;
use super::api_calls::ApiCalls;
use crate::core::ids::ExecutionId;
use crate::core::views::PodView;
use crate::metrics::Metrics;
use crate::ports::cluster::Cluster as _;
use crate::ports::report_store::{ReportStore as _, Upload as _};

/// Saves each container's log as `<node>-container-<container>.log`. What cannot be read or written is logged and left out:
/// a log never decides an outcome. Returns the stored names.
pub(super) async fn save<P: Ports>(
    api: ApiCalls<P>,
    metrics: &Metrics,
    execution: &ExecutionId,
    pod: &PodView,
) -> Vec<String> {
    let mut stored = Vec::new();
    for container in &pod.containers {
        let name = format!("{}-container-{container}.log", pod.node);
        match save_one(&api, execution, pod, container, &name).await {
            Ok(bytes) => {
                metrics.own().report_stored(bytes);
                debug!(pod = pod.name, container, bytes, "saved container log");
                stored.push(name);
            }
            Err(error) => {
                warn!(pod = pod.name, container, error = %error, "container log not saved");
            }
        }
    }
    stored
}

async fn save_one<P: Ports>(
    api: &ApiCalls<P>,
    execution: &ExecutionId,
    pod: &PodView,
    container: &str,
    name: &str,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    // The permit is for the request; the body then streams beside other calls.
    let mut log = api
        .call("get_pod_log", api.cluster().pod_log(&pod.name, container))
        .await?;
    let mut upload = api.ports.reports().begin(execution, name).await?;
    let mut bytes = 0;
    while let Some(chunk) = log.next().await {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        upload.write(chunk).await?;
    }
    upload.finish().await?;
    Ok(bytes)
}
