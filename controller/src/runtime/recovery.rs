//! What a leader does before anything else: it takes the state record over, and finds out what to go on with.
//!
//! Nothing is decided from a volume or an API server that does not answer: the reads are repeated until they do. A
//! volume without the journal is another matter: then the pods alone say what runs.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::Ports;
use super::api_calls::ApiCalls;
use super::configuration::{self, ConfigMapSource, Data};
use super::history;
use super::journal;
use super::preparation::persist;
use super::state_record::StateHandle;
use crate::core::by_hand::Handled;
use crate::core::execution::{Found, StoredReports};
use crate::core::ids::ExecutionId;
use crate::core::journal::{Entry, Frozen, epoch_of};
use crate::core::record::{Claim, NewLeader, StateRecord};
use crate::core::report_name;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::{Cluster as _, ConfigMapView};
use crate::ports::report_store::{ReportStore, ReportStoreError, ReportStoreErrorKind};

/// The pause before something is tried again that only a person can mend, or a volume that does not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// Where a leader begins.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The record, with this leader's epoch.
    pub(super) record: StateRecord,
    /// The executions on the volume.
    pub(super) kept: Vec<ExecutionId>,
    /// What is in progress.
    pub(super) in_progress: InProgress,
    /// What the ConfigMap says, where the controller has one.
    pub(super) told: Option<Told>,
}

/// What a leader's ConfigMap says when it begins.
#[derive(Debug)]
pub(super) struct Told {
    /// The ConfigMap, or why it cannot be read.
    pub(super) read: Result<ConfigMapView, String>,
    /// The last good data, where that is not what the ConfigMap has.
    pub(super) kept: Option<Data>,
}

/// What is in progress when a leader begins.
#[derive(Debug)]
pub(super) enum InProgress {
    Nothing,
    /// An execution that has ended, as its summary says; only the record does not know yet.
    Ended(ExecutionId),
    /// An execution that was claimed. Nothing was done for it yet; or, where it has an id, its journal is lost.
    Claimed(Claim),
    /// An execution with a journal.
    Journaled(Box<Journaled>),
}

/// An execution that another process began.
#[derive(Debug)]
pub(super) struct Journaled {
    pub(super) frozen: Frozen,
    pub(super) found: Found,
}

/// Takes over. Returns when it is done, however long that takes.
/// `began` is when this leader did, with that schedule.
pub(super) async fn recover<P: Ports>(
    api: &ApiCalls<P>,
    state: &StateHandle<P>,
    began: Timestamp,
    schedule: String,
    config_map: Option<&ConfigMapSource>,
) -> Recovered {
    let reports = api.ports.reports();
    let kept = patiently(api, "report directory", || reports.list_executions()).await;
    let newest = match kept.last() {
        Some(newest) => files(api, newest).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let told = match config_map {
        Some(source) => Some(told(api, source).await),
        None => None,
    };
    let annotations = (told.as_ref())
        .and_then(|told| told.read.as_ref().ok())
        .map(|view| Handled::of(&view.annotations));
    let leader = NewLeader {
        journal: newest.iter().filter_map(|file| epoch_of(file)).max(),
        began,
        asked: annotations,
        schedule,
    };
    let record = loop {
        match state.take_over(&leader).await {
            Ok(record) => break record,
            Err(refused) => {
                error!(error = %refused, "the state record is refused: no execution begins until that is mended");
                pause(api).await;
            }
        }
    };
    let in_progress = match record.in_progress.clone() {
        None => InProgress::Nothing,
        Some(claim) => take_up(api, claim).await,
    };
    Recovered {
        record,
        kept,
        in_progress,
        told,
    }
}

async fn told<P: Ports>(api: &ApiCalls<P>, source: &ConfigMapSource) -> Told {
    let (cluster, name) = (api.cluster(), source.name());
    let read = persist(api, "get_config_map", || cluster.config_map(name)).await;
    let read = read.map_err(|error| format!("ConfigMap {name}: {error}"));
    let is_good = matches!(&read, Ok(view) if source.read(&view.data).is_ok());
    let kept = if is_good {
        None
    } else {
        configuration::kept(api.ports.reports()).await
    };
    Told { read, kept }
}

async fn take_up<P: Ports>(api: &ApiCalls<P>, claim: Claim) -> InProgress {
    let Some(id) = claim.id.clone() else {
        return InProgress::Claimed(claim);
    };
    let reports = api.ports.reports();
    let Some(files) = files(api, &id).await else {
        warn!(execution_id = %id, "the execution in progress has no directory any more: its pods say what runs");
        return InProgress::Claimed(claim);
    };
    // Now that a former leader can write none any more.
    patiently(api, "directory of an execution", || reports.end_puts(&id)).await;
    let summary = history::read_summary(reports, api.ports.clock(), &id).await;
    if summary.is_some_and(|summary| summary.end_time.is_some()) {
        return InProgress::Ended(id);
    }
    let mut entries = journal::read_all(reports, api.ports.clock(), &id, &files).await;
    // Whoever began it again found nothing of what was there before.
    let is_begun = |entry: &Entry| matches!(entry, Entry::Begun(_));
    let begun = entries.iter().rposition(is_begun);
    let begun = begun
        .map(|at| entries.split_off(at))
        .and_then(|from_begun| {
            let mut from_begun = from_begun.into_iter();
            match from_begun.next() {
                Some(Entry::Begun(frozen)) => Some((*frozen, from_begun.collect::<Vec<_>>())),
                _ => None,
            }
        });
    let Some((frozen, entries)) = begun else {
        warn!(execution_id = %id, "the execution in progress has no journal any more: its pods say what runs");
        return InProgress::Claimed(claim);
    };
    let cluster = api.cluster();
    let pods = loop {
        match persist(api, "list_pods", || cluster.list_pods()).await {
            Ok(pods) => break pods,
            Err(refused) => {
                error!(error = %refused, "job pods cannot be listed: the execution in progress waits");
                pause(api).await;
            }
        }
    };
    let nodes = frozen.plan.nodes.iter().map(|node| node.node.as_str());
    let found = Found {
        entries,
        pods,
        reports: by_node(nodes, files),
        cancelled: claim.cancelled,
    };
    info!(execution_id = %id, entries = found.entries.len(), pods = found.pods.len(), "execution taken up");
    InProgress::Journaled(Box::new(Journaled { frozen, found }))
}

/// The stored reports of each node.
pub(super) fn by_node<'a>(
    nodes: impl Iterator<Item = &'a str>,
    files: Vec<String>,
) -> BTreeMap<String, StoredReports> {
    let mut by_node: BTreeMap<String, StoredReports> = nodes
        .map(|node| (node.to_owned(), StoredReports::default()))
        .collect();
    for file in files {
        let is_node = |name: &str| by_node.contains_key(name);
        if let Some(node) = report_name::owner(&file, is_node).map(str::to_owned)
            && let Some(stored) = by_node.get_mut(&node)
        {
            stored.has_result |= file == report_name::result_name(&node);
            stored.names.push(file);
        }
    }
    by_node.retain(|_, stored| !stored.names.is_empty());
    by_node
}

/// The names of the files in an execution's directory; none where there is no directory.
pub(super) async fn files<P: Ports>(api: &ApiCalls<P>, id: &ExecutionId) -> Option<Vec<String>> {
    let reports = api.ports.reports();
    let list = || async {
        match reports.list(id).await {
            Err(error) if error.kind == ReportStoreErrorKind::NotFound => Ok(None),
            listed => listed.map(Some),
        }
    };
    let files = patiently(api, "directory of an execution", list).await?;
    Some(files.into_iter().map(|file| file.name).collect())
}

/// Repeats a read of the volume until it is answered.
pub(super) async fn patiently<P: Ports, T, F: Future<Output = Result<T, ReportStoreError>>>(
    api: &ApiCalls<P>,
    subject: &str,
    read: impl Fn() -> F,
) -> T {
    loop {
        match read().await {
            Ok(read) => return read,
            Err(unreadable) => {
                error!(error = %unreadable, "{subject} cannot be read: no execution begins until it can");
                pause(api).await;
            }
        }
    }
}

async fn pause<P: Ports>(api: &ApiCalls<P>) {
    let clock = api.ports.clock();
    clock.sleep_until(clock.monotonic().after(PAUSE)).await;
}
