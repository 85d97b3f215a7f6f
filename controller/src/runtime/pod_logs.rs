//! Saves the logs of an ended job pod beside its reports, streamed, container by container. Callback tokens are struck
//! out: a shell that prints what it runs prints its URLs.

use bytes::Bytes;
use futures::StreamExt as _;
use tracing::{debug, warn};

use super::Ports;
use super::api_calls::ApiCalls;
use crate::core::ids::ExecutionId;
use crate::core::report_name;
use crate::core::views::PodView;
use crate::metrics::Metrics;
use crate::ports::cluster::Cluster as _;
use crate::ports::report_store::{ReportStore as _, Upload as _};

/// Saves each container's log as `<node>-container-<container>.log`. What cannot be read or written is logged and left
/// out: a log never decides an outcome. Returns the stored names.
pub(super) async fn save<P: Ports>(
    api: ApiCalls<P>,
    metrics: &Metrics,
    execution: &ExecutionId,
    pod: &PodView,
    secrets: &[String],
) -> Vec<String> {
    let mut stored = Vec::new();
    for container in &pod.containers {
        let name = report_name::log_name(&pod.node, container);
        match save_one(&api, execution, pod, container, &name, secrets).await {
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
    secrets: &[String],
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    // The permit is for the request; the body then streams beside other calls.
    let mut log = api
        .call("get_pod_log", api.cluster().pod_log(&pod.name, container))
        .await?;
    let mut upload = api.ports.reports().begin(execution, name).await?;
    let mut bytes = 0;
    let mut strike_out = StrikeOut::new(secrets);
    while let Some(chunk) = log.next().await {
        let chunk = strike_out.take(chunk?);
        bytes += chunk.len() as u64;
        upload.write(chunk).await?;
    }
    let rest = strike_out.rest();
    bytes += rest.len() as u64;
    upload.write(rest).await?;
    upload.finish().await?;
    Ok(bytes)
}

/// What stands in a secret's place.
const STRUCK_OUT: &[u8] = b"***";

/// Replaces secrets in a text that comes in chunks, wherever these part them.
struct StrikeOut<'s> {
    secrets: &'s [String],
    /// The end of what came, which may be the beginning of a secret.
    kept: Vec<u8>,
}

impl<'s> StrikeOut<'s> {
    fn new(secrets: &'s [String]) -> Self {
        Self {
            secrets,
            kept: Vec::new(),
        }
    }

    /// What can be written by now.
    fn take(&mut self, chunk: Bytes) -> Bytes {
        if self.secrets.is_empty() {
            return chunk;
        }
        self.kept.extend_from_slice(&chunk);
        let mut written = Vec::with_capacity(self.kept.len());
        let mut at = 0;
        while at < self.kept.len() {
            let left = &self.kept[at..];
            let mut secrets = self.secrets.iter().map(String::as_bytes);
            if let Some(secret) = secrets.clone().find(|secret| left.starts_with(secret)) {
                written.extend_from_slice(STRUCK_OUT);
                at += secret.len();
            } else if secrets.any(|secret| secret.starts_with(left)) {
                break;
            } else {
                written.push(left[0]);
                at += 1;
            }
        }
        self.kept.drain(..at);
        written.into()
    }

    /// What is left at the end.
    fn rest(self) -> Bytes {
        self.kept.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_struck_out_wherever_chunks_part_it() {
        let secrets = ["1-abc".to_owned(), "12-abd".to_owned()];
        let text = "x1-abc 1-ab 12-abd12-abd1-1-abc 1-a";
        for length in 1..=text.len() {
            let mut strike_out = StrikeOut::new(&secrets);
            let chunks = text.as_bytes().chunks(length);
            let mut written: Vec<u8> = chunks
                .flat_map(|chunk| strike_out.take(Bytes::copy_from_slice(chunk)))
                .collect();
            written.extend_from_slice(&strike_out.rest());
            assert_eq!(
                String::from_utf8(written).unwrap(),
                "x*** 1-ab ******1-*** 1-a",
                "{length}"
            );
        }
    }
}
