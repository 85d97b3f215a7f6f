//! What arrived at the callback API: stored already, told to the execution and exported here.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Controller;
use crate::core::event_message::EventReport;
use crate::core::execution;
use crate::core::ids::ExecutionId;
use crate::core::names;
use crate::core::node_run::NodeRun;
use crate::core::report::Results;
use crate::core::time::Now;
use crate::runtime::Ports;
use crate::runtime::event::{Callback, PostEventError};
use crate::runtime::job_event::{self, Regarding};

impl<P: Ports> Controller<P> {
    pub(super) fn callback(&mut self, now: Now, callback: Callback) {
        match callback {
            Callback::Result {
                execution,
                node,
                stored_name,
                results,
                reply,
            } => {
                self.result(now, &execution, &node, stored_name, &results);
                // A requester that went away has its report on disk all the same.
                let _ = reply.send(());
            }
            Callback::File {
                execution,
                node,
                stored_name,
            } => {
                let stored = execution::Event::FileStored {
                    node: node.clone(),
                    name: stored_name,
                };
                self.tell(now, &execution, stored);
                let known = self.known_node(&execution, &node);
                if let Some(count) = known.map(NodeRun::report_count) {
                    self.admission.has_reports(&execution, &node, count);
                }
            }
            Callback::Event {
                execution,
                node,
                event,
                reply,
            } => self.job_event(execution, node, event, reply),
        }
    }

    pub(super) fn result(
        &mut self,
        now: Now,
        id: &ExecutionId,
        node: &str,
        name: String,
        results: &Results,
    ) {
        self.metrics.result(id, node, results);
        self.tell(now, id, of_result(node, name, results));
    }

    /// What the execution knows of the node, where it runs or is the newest.
    fn known_node(&self, execution: &ExecutionId, node: &str) -> Option<&NodeRun> {
        let current = self.current.as_ref().map(|current| &current.execution);
        (current.into_iter().chain(&self.ended))
            .find(|known| known.id() == execution)
            .and_then(|known| known.node(node))
    }

    fn job_event(
        &mut self,
        execution: ExecutionId,
        node: String,
        event: EventReport,
        reply: oneshot::Sender<Result<(), PostEventError>>,
    ) {
        let run = self.known_node(&execution, &node);
        let regarding = Regarding {
            pod_name: run.map_or_else(
                || names::plain_pod_name(&self.settings.config.name, &node, &execution),
                |run| run.pod_name().to_owned(),
            ),
            uid: run.and_then(|run| run.pod_uid()).map(str::to_owned),
            execution,
            node,
        };
        let (api, settings) = (self.api.clone(), Arc::clone(&self.settings));
        self.spawn(async move {
            let posted = job_event::post(&api, &settings, regarding, &event).await;
            // A requester that went away asked for the event all the same.
            let _ = reply.send(posted);
            None
        });
    }
}

/// What the execution is told of a result that is stored under `name`.
pub(super) fn of_result(node: &str, name: String, results: &Results) -> execution::Event {
    let samples = results.values().map(Vec::len).sum::<usize>();
    execution::Event::ResultStored {
        node: node.to_owned(),
        name,
        samples: u32::try_from(samples).unwrap_or(u32::MAX),
    }
}
