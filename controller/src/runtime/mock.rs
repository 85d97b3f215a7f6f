//! In place of the controller's loop, for a job's author: no schedule, no cluster, every well-formed pair of node and
//! execution may call back, and what arrives is handed on.
//!
//! Requests go through the same handle and the same callback API as the controller's, which checks and stores them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::admission::Admission;
use super::event::{Callback, Event};
use super::handle::ControllerHandle;
use crate::core::event_message::EventReport;
use crate::core::ids::ExecutionId;
use crate::core::report::Results;
use crate::core::time::Monotonic;
use crate::metrics::Metrics;

/// Requests that may wait to be handed on.
const QUEUE_LENGTH: usize = 16;

/// What was accepted; reports are on disk by then.
#[derive(Debug)]
pub struct Received {
    /// The node in the URL.
    pub node: String,
    /// The execution in the URL.
    pub execution: ExecutionId,
    /// What was posted.
    pub content: Content,
}

/// What was posted.
#[derive(Debug)]
pub enum Content {
    /// A result.
    Result {
        /// The report's name in the execution's directory.
        stored_name: String,
        /// Its samples, configured or not.
        results: Results,
    },
    /// A file; of a form each.
    File {
        /// The report's name in the execution's directory.
        stored_name: String,
    },
    /// An event; no cluster is told of it.
    Event(EventReport),
}

/// A handle for the HTTP side, and the loop behind it: it calls `receive` for all that is accepted, results and events
/// before they are answered, and ends when the last handle is dropped.
pub fn start(
    metrics: Arc<Metrics>,
    mut receive: impl FnMut(Received) + Send + 'static,
) -> (ControllerHandle, impl Future<Output = ()> + Send) {
    let (sender, mut events) = mpsc::channel(QUEUE_LENGTH);
    let admission = Arc::new(Admission::new(true));
    let handle = ControllerHandle::new(sender, admission, metrics, || true, || Monotonic::START);
    let run = async move {
        while let Some(event) = events.recv().await {
            if let Event::Callback(callback) = event {
                take(callback, &mut receive);
            }
        }
    };
    (handle, run)
}

fn take(callback: Callback, receive: &mut impl FnMut(Received)) {
    match callback {
        Callback::Result {
            execution,
            node,
            stored_name,
            results,
            reply,
        } => {
            receive(Received {
                node,
                execution,
                content: Content::Result {
                    stored_name,
                    results,
                },
            });
            // A requester that went away has been heard all the same.
            let _ = reply.send(());
        }
        Callback::File {
            execution,
            node,
            stored_name,
        } => receive(Received {
            node,
            execution,
            content: Content::File { stored_name },
        }),
        Callback::Event {
            execution,
            node,
            event,
            reply,
        } => {
            receive(Received {
                node,
                execution,
                content: Content::Event(event),
            });
            let _ = reply.send(Ok(()));
        }
    }
}
