//! The closed enum of everything that can wake the controller's loop, and what it answers.

use tokio::sync::oneshot;

use super::preparation::{NotPrepared, Prepared};
use super::recovery::Recovered;
use crate::core::event_message::EventReport;
use crate::core::execution;
use crate::core::ids::ExecutionId;
use crate::core::record::Claim;
use crate::core::report::Results;
use crate::core::summary::ExecutionSummary;
use crate::ports::cluster::{ConfigMapView, PodWatchEvent};
use crate::ports::error::ClusterError;

/// Everything that can wake the loop, but for time.
#[derive(Debug)]
pub(super) enum Event {
    /// The pod watch.
    Pods(PodWatchEvent),
    /// Something arrived at the callback API.
    Callback(Callback),
    /// An execution can begin, or not.
    Prepared(Result<Box<Prepared>, NotPrepared>),
    /// An effect of an execution was answered.
    Answer(ExecutionId, execution::Event),
    /// The logs of a node's pod are on disk, under these names, where logs are kept.
    LogsSaved {
        execution: ExecutionId,
        node: String,
        uid: String,
        stored_names: Vec<String>,
    },
    /// A leader has found out where to begin.
    Recovered(Box<Recovered>),
    /// The controller's ConfigMap, as it is now; or why it is not there.
    ConfigMapRead(Result<Box<ConfigMapView>, String>),
    /// The record says that this execution is cancelled, and that none is to follow it.
    CancelRecorded(Claim),
    /// The record says that `old`, if anything, is cancelled, and that `next` follows it.
    ReplaceRecorded { old: Option<Claim>, next: Claim },
    /// A kept execution's summary was looked for on the volume, and perhaps found.
    HistoryRead(ExecutionId, Option<Box<ExecutionSummary>>),
    /// A kept execution's result was found on the volume.
    ResultFound {
        execution: ExecutionId,
        node: String,
        results: Results,
    },
    /// Entries were written to the journal.
    JournalWritten,
    /// A summary was written, or could not be.
    SummaryWritten {
        execution: ExecutionId,
        is_written: bool,
    },
    /// The volume was looked at for a result that nobody told of.
    LookedForResult {
        execution: ExecutionId,
        node: String,
        index: usize,
        step: u32,
        found: Option<Results>,
    },
    /// The process is about to end.
    StopSchedule,
    /// No further write begins; the reply when those in flight are answered.
    Settle(oneshot::Sender<()>),
}

/// What arrived at the callback API.
#[derive(Debug)]
pub(super) enum Callback {
    Result {
        execution: ExecutionId,
        node: String,
        stored_name: String,
        results: Results,
        reply: oneshot::Sender<()>,
    },
    File {
        execution: ExecutionId,
        node: String,
        stored_name: String,
    },
    Event {
        execution: ExecutionId,
        node: String,
        event: EventReport,
        reply: oneshot::Sender<Result<(), PostEventError>>,
    },
}

/// Why a Kubernetes event was not created.
#[derive(Debug, thiserror::Error)]
pub enum PostEventError {
    /// The pod that it is about does not exist (any more).
    #[error("pod {0} not found")]
    PodGone(String),
    /// The API server did not take it.
    #[error(transparent)]
    Cluster(ClusterError),
    /// The loop has ended: another replica leads, or will.
    #[error("this replica does not lead any more: try again")]
    NotLeading,
}
