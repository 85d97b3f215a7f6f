//! What the HTTP side knows of the controller: who may call back, and where to tell what arrived.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::admission::Admission;
use super::event::{Callback, Event, PostEventError};
use crate::core::event_message::EventReport;
use crate::core::ids::ExecutionId;
use crate::core::report::Results;
use crate::core::time::Monotonic;
use crate::metrics::Metrics;

/// A handle on the controller's loop. Cheap to clone.
#[derive(Clone)]
pub struct ControllerHandle {
    events: mpsc::Sender<Event>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    may_act: Arc<dyn Fn() -> bool + Send + Sync>,
    now: Arc<dyn Fn() -> Monotonic + Send + Sync>,
}

impl fmt::Debug for ControllerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerHandle").finish_non_exhaustive()
    }
}

impl ControllerHandle {
    pub(super) fn new(
        events: mpsc::Sender<Event>,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
        may_act: impl Fn() -> bool + Send + Sync + 'static,
        now: impl Fn() -> Monotonic + Send + Sync + 'static,
    ) -> Self {
        Self {
            events,
            admission,
            metrics,
            may_act: Arc::new(may_act),
            now: Arc::new(now),
        }
    }

    /// Whether the loop acts for the leader at this moment. A process that was paused for longer than its lease does
    /// not, before it knows.
    pub(super) fn may_act(&self) -> bool {
        (self.may_act)()
    }

    /// The metrics of this process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the controller's loop runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.events.is_closed()
    }

    /// Returns once the loop has taken up what its predecessor left. Cancel safe.
    pub async fn recovered(&self) {
        self.admission.completed().await;
    }

    /// The execution of a pair that may call back; none where it may not.
    #[must_use]
    pub fn admits(&self, node: &str, execution: &str) -> Option<ExecutionId> {
        self.admission.admits(node, execution)
    }

    /// Whether a pair that may not call back may in a moment: what is left of a kept execution is read after a start.
    #[must_use]
    pub fn is_unread(&self, node: &str, execution: &str) -> bool {
        self.admission.is_unread(node, execution)
    }

    /// Whether the tokens of the pair's pods have ended: ten minutes after the newest one's end.
    #[must_use]
    pub fn have_tokens_ended(&self, execution: &ExecutionId, node: &str) -> bool {
        let now = (self.now)();
        self.admission.have_tokens_ended(execution, node, now)
    }

    /// Whether a newer attempt than that one was created for the pair.
    #[must_use]
    pub fn is_superseded(&self, execution: &ExecutionId, node: &str, attempt: u32) -> bool {
        self.admission.is_superseded(execution, node, attempt)
    }

    /// Takes one of the events that the pair's pod may have.
    ///
    /// # Errors
    /// How long until there is one more.
    pub fn take_event(&self, execution: &ExecutionId, node: &str) -> Result<(), Duration> {
        self.admission.take_event(execution, node, (self.now)())
    }

    /// Whether the node may have so many more reports.
    #[must_use]
    pub fn has_room(&self, execution: &ExecutionId, node: &str, more: usize) -> bool {
        self.admission.has_room(execution, node, more)
    }

    /// The node is about to have one more report, told of with [`Self::file_stored`].
    pub fn expect_report(&self, execution: &ExecutionId, node: &str) {
        self.admission.expect_report(execution, node);
    }

    /// Whether every well-formed pair is admitted, whatever has been run.
    #[must_use]
    pub fn admits_every_pair(&self) -> bool {
        self.admission.admits_every_pair()
    }

    /// The other node whose report `stored_name` would be, if it is one: such a name is a conflict.
    #[must_use]
    pub fn owner_of_name(
        &self,
        execution: &ExecutionId,
        node: &str,
        stored_name: &str,
    ) -> Option<String> {
        self.admission.owner_of_name(execution, node, stored_name)
    }

    /// A result is on disk. Returns when its samples are exported and the node's state knows of it.
    ///
    /// # Errors
    /// `NotLeading` where the leadership has ended: the report is on disk, but whoever leads does not know of it.
    pub async fn result_stored(
        &self,
        execution: ExecutionId,
        node: String,
        stored_name: String,
        results: Results,
    ) -> Result<(), PostEventError> {
        let (reply, answer) = oneshot::channel();
        let callback = Callback::Result {
            execution,
            node,
            stored_name,
            results,
            reply,
        };
        self.send(callback).await?;
        match answer.await {
            Ok(()) if self.may_act() => Ok(()),
            _ => Err(PostEventError::NotLeading),
        }
    }

    /// A file is on disk.
    ///
    /// # Errors
    /// As [`Self::result_stored`].
    pub async fn file_stored(
        &self,
        execution: ExecutionId,
        node: String,
        stored_name: String,
    ) -> Result<(), PostEventError> {
        let callback = Callback::File {
            execution,
            node,
            stored_name,
        };
        self.send(callback).await
    }

    /// Creates a Kubernetes event about the node's job pod.
    ///
    /// # Errors
    /// `PodGone` where the pod does not exist; the API server's refusal.
    pub async fn post_event(
        &self,
        execution: ExecutionId,
        node: String,
        event: EventReport,
    ) -> Result<(), PostEventError> {
        let (reply, answer) = oneshot::channel();
        let callback = Callback::Event {
            execution,
            node,
            event,
            reply,
        };
        self.send(callback).await?;
        answer.await.map_err(|_| PostEventError::NotLeading)?
    }

    /// Stops the schedule: no further execution begins and no further pod is created; callbacks go on.
    pub async fn stop_schedule(&self) {
        // A loop that is gone has stopped already.
        let _ = self.events.send(Event::StopSchedule).await;
    }

    /// Lets no further write to the cluster begin, and returns when those in flight are answered.
    pub async fn settle(&self) {
        let (reply, settled) = oneshot::channel();
        if self.events.send(Event::Settle(reply)).await.is_ok() {
            // A loop that has ended has nothing in flight.
            let _ = settled.await;
        }
    }

    pub(super) fn shared_metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    async fn send(&self, callback: Callback) -> Result<(), PostEventError> {
        let sent = self.events.send(Event::Callback(callback)).await;
        sent.map_err(|_| PostEventError::NotLeading)
    }
}
