//! A result that is on the volume, though nobody told of it: the process that stored it ended, or lost its requester,
//! in between.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt as _;
use tracing::{debug, warn};

use crate::core::ids::ExecutionId;
use crate::core::report::{Results, parse_results};
use crate::core::report_name;
use crate::ports::clock::Clock;
use crate::ports::report_store::{ReportStore, ReportStoreError, ReportStoreErrorKind};

/// The pause before a volume that does not answer is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// How often it is asked for one report: a volume that has come back answers within this time, a report that nobody can
/// read never does.
const TRIES: u32 = 60;

/// Reads from a volume that may fail for a while.
///
/// # Errors
/// `NotFound`; any other only where it has not answered for long.
pub(super) async fn patiently<T, F: Future<Output = Result<T, ReportStoreError>>>(
    clock: &impl Clock,
    read: impl Fn() -> F,
) -> Result<T, ReportStoreError> {
    for _ in 1..TRIES {
        match read().await {
            Err(error) if error.kind != ReportStoreErrorKind::NotFound => {
                debug!(error = %error, "volume is asked again");
                clock.sleep_until(clock.monotonic().after(PAUSE)).await;
            }
            result => return result,
        }
    }
    read().await
}

/// The node's stored result; none where there is none, or none that can be read.
pub(super) async fn find(
    reports: &impl ReportStore,
    clock: &impl Clock,
    execution: &ExecutionId,
    node: &str,
    limit_bytes: u64,
) -> Option<Results> {
    let name = report_name::result_name(node);
    let read = || read_whole(reports, execution, &name, limit_bytes);
    let document = match patiently(clock, read).await {
        Ok(document) => document,
        Err(error) => {
            if error.kind != ReportStoreErrorKind::NotFound {
                warn!(execution_id = %execution, node, error = %error, "stored result cannot be read");
            }
            return None;
        }
    };
    // What is there was checked before it was stored.
    parse_results(&document).ok()
}

/// A report as a whole, up to a limit.
///
/// # Errors
/// As those of the store.
pub(super) async fn read_whole(
    reports: &impl ReportStore,
    execution: &ExecutionId,
    name: &str,
    limit_bytes: u64,
) -> Result<BytesMut, ReportStoreError> {
    let length = reports.metadata(execution, name).await?.length;
    let mut content = reports
        .read(execution, name, 0, length.min(limit_bytes))
        .await?;
    let mut document = BytesMut::new();
    while let Some(chunk) = content.next().await {
        document.extend_from_slice(&chunk?);
    }
    Ok(document)
}
