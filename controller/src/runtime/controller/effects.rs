//! What an execution asks for, carried out: calls as tasks whose answers come back as events, and what people see of
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{debug, info};

use super::Controller;
use super::creation::Creation;
use crate::core::execution::{self, Effect, Execution};
use crate::core::ids::ExecutionId;
use crate::core::journal::Entry;
use crate::core::node_run::NodeRun;
use crate::core::state::{ExecutionState, NodeState, Reason};
use crate::core::time::Now;
use crate::core::views::PodView;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::runtime::announcement::{self, Announcement};
use crate::runtime::event::Event;
use crate::runtime::{Ports, pod_logs, stored_result};

impl<P: Ports> Controller<P> {
    pub(super) fn carry_out(&mut self, now: Now, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            match effect {
                Effect::DeletePreviousPods(previous) => self.delete_previous(previous),
                Effect::CreatePod {
                    index,
                    attempt,
                    pod_name,
                } => self.create_pod(index, attempt, pod_name),
                Effect::WithdrawCreate { index } => self.withdraw_create(index),
                Effect::ReadPod {
                    index,
                    step,
                    pod_name,
                } => self.read_pod(index, step, pod_name),
                Effect::LookForResult { index, step } => self.look_for_result(index, step),
                Effect::DeletePod { pod_name, uid } => {
                    if let Some(current) = &self.current {
                        self.delete_pod(current.execution.id().clone(), pod_name, uid);
                    }
                }
                Effect::PodKnown { index } => self.pod_known(index),
                Effect::DeleteEndedPod { pod_name, uid } => {
                    if let Some(current) = &self.current {
                        let id = current.execution.id().clone();
                        self.delete_ended_pod(id, pod_name, uid);
                    }
                }
                Effect::PodEnded { pod, .. } => self.save_logs(*pod),
                Effect::AttemptFailed { index } => self.attempt_failed(index),
                Effect::NodeEnded { index } => self.node_ended(index),
                Effect::Announce { index } => self.announce_failure(index),
                Effect::Ended => self.ended(now),
            }
        }
        self.report_progress();
    }

    /// Starts a task. What calls the cluster is kilobytes of state, which `JoinSet` would move several times.
    pub(super) fn spawn(&mut self, task: impl Future<Output = Option<Event>> + Send + 'static) {
        self.tasks.spawn(Box::pin(task));
    }

    fn spawn_answer(&mut self, answer: impl Future<Output = execution::Event> + Send + 'static) {
        let Some(current) = &self.current else { return };
        let id = current.execution.id().clone();
        let answer = Box::pin(answer);
        self.spawn(async move { Some(Event::Answer(id, answer.await)) });
    }

    fn delete_previous(&mut self, previous: ExecutionId) {
        let api = self.api.clone();
        self.spawn_answer(async move {
            let deleted = api
                .write_of_any_length("delete_pods", api.cluster().delete_pods(&previous))
                .await;
            execution::Event::PreviousPodsDeleted {
                execution: previous,
                result: deleted,
            }
        });
    }

    fn create_pod(&mut self, index: usize, attempt: u32, pod_name: String) {
        let Some(current) = &self.current else { return };
        if self.schedule.stopped {
            debug!(
                pod = pod_name,
                "pod not created: the controller is shutting down"
            );
            return;
        }
        let is_wanted = Arc::new(AtomicBool::new(true));
        let creation = Creation {
            index,
            attempt,
            pod_name,
            node: current.execution.nodes()[index].node().to_owned(),
            execution: current.execution.id().clone(),
            job_pod: Arc::clone(&current.job_pod),
            settings: Arc::clone(&current.settings),
            template: current.template.clone(),
            journal: current.journal.clone(),
            is_wanted: Arc::clone(&is_wanted),
        };
        if let Some(current) = &mut self.current {
            current.creations.insert(index, is_wanted);
        }
        // Before the create is sent: the pod may call back before its create is answered.
        self.admission
            .admit(&creation.execution, &creation.node, attempt);
        let api = self.api.clone();
        self.spawn_answer(creation.carry_out(api));
    }

    fn withdraw_create(&mut self, index: usize) {
        let creations = self.current.as_mut().map(|current| &mut current.creations);
        if let Some(is_wanted) = creations.and_then(|creations| creations.remove(&index)) {
            is_wanted.store(false, Ordering::Relaxed);
        }
    }

    fn read_pod(&mut self, index: usize, step: u32, pod_name: String) {
        let api = self.api.clone();
        self.spawn_answer(async move {
            let result = api.call("get_pod", api.cluster().get_pod(&pod_name)).await;
            execution::Event::PodRead {
                index,
                step,
                result,
            }
        });
    }

    fn look_for_result(&mut self, index: usize, step: u32) {
        let Some(current) = &self.current else {
            return;
        };
        let node = current.execution.nodes()[index].node().to_owned();
        let id = current.execution.id().clone();
        let reports = self.api.ports.reports().clone();
        let limit = current.settings.config.callback_body_limit.result_bytes;
        let clock = self.api.ports.clock().clone();
        self.spawn(async move {
            let found = stored_result::find(&reports, &clock, &id, &node, limit).await;
            Some(Event::LookedForResult {
                execution: id,
                node,
                index,
                step,
                found,
            })
        });
    }

    fn save_logs(&mut self, pod: PodView) {
        let Some(current) = &self.current else { return };
        let id = current.execution.id().clone();
        let (api, metrics) = (self.api.clone(), Arc::clone(&self.metrics));
        let is_wanted = current.settings.config.save_pod_log;
        let secrets = self.tokens_of(&pod.node);
        self.spawn(async move {
            let stored_names = if is_wanted {
                pod_logs::save(api, &metrics, &id, &pod, &secrets).await
            } else {
                Vec::new()
            };
            Some(Event::LogsSaved {
                execution: id,
                node: pod.node,
                uid: pod.uid,
                stored_names,
            })
        });
    }

    /// The callback tokens that the node's pods got in the execution in progress.
    fn tokens_of(&self, node: &str) -> Vec<String> {
        let (Some(tokens), Some(current)) = (&self.settings.tokens, &self.current) else {
            return Vec::new();
        };
        let attempts = (current.execution.node(node)).map_or(0, NodeRun::attempts);
        let id = current.execution.id().as_str();
        (1..=attempts)
            .map(|attempt| tokens.token(node, id, attempt))
            .collect()
    }

    /// Notes in the journal that the pod exists.
    fn pod_known(&mut self, index: usize) {
        let Some(current) = &self.current else { return };
        let node = &current.execution.nodes()[index];
        if let (Some(uid), Some(started)) = (node.pod_uid(), node.started()) {
            self.journal_writes.push(Entry::Created {
                index,
                uid: uid.to_owned(),
                time: started.wall,
            });
        }
    }

    fn node_ended(&mut self, index: usize) {
        self.withdraw_create(index);
        let Some(current) = &self.current else {
            return;
        };
        let node = &current.execution.nodes()[index];
        if let Some(end) = node.journal_end(index) {
            self.journal_writes.push(Entry::Ended(end));
        }
        let id = current.execution.id();
        let now = self.api.ports.clock().now();
        self.admission.ended(id, node.node(), now.wall, now);
        let error = node.state() != NodeState::Succeeded;
        self.metrics.processing(id, node.node(), error);
        if let Some(duration) = node.duration() {
            self.metrics.duration(id, node.node(), duration);
        }
        let Some(reason) = node.reason().filter(|_| error) else {
            debug!(execution_id = %id, node = node.node(), pod = node.pod_name(), "job pod succeeded");
            return;
        };
        if node.state() == NodeState::NotStarted {
            debug!(execution_id = %id, node = node.node(), reason = reason.as_str(), "node not started");
            return;
        }
        self.metrics.own().node_failed(reason);
        info!(
            execution_id = %id,
            node = node.node(),
            pod = node.pod_name(),
            state = node.state().as_str(),
            reason = reason.as_str(),
            detail = node.message(),
            attempts = node.attempts(),
            "node ended without success"
        );
    }

    fn attempt_failed(&mut self, index: usize) {
        let Some(current) = &self.current else { return };
        let node = &current.execution.nodes()[index];
        if let Some(end) = node.journal_attempt_end(index) {
            self.journal_writes.push(end);
        }
        info!(
            execution_id = %current.execution.id(),
            node = node.node(),
            pod = node.pod_name(),
            reason = node.reason().map(Reason::as_str),
            detail = node.message(),
            attempt = node.attempts(),
            "attempt failed, another one follows"
        );
    }

    fn announce_failure(&mut self, index: usize) {
        let Some(current) = &self.current else { return };
        let node = &current.execution.nodes()[index];
        let Some(reason) = node.reason() else { return };
        let uid = node.newest_pod_uid().map(str::to_owned);
        self.announce(Announcement {
            pod: uid.map(|uid| (node.pod_name().to_owned(), uid)),
            reason: reason.as_str().to_owned(),
            note: format!(
                "execution {}, node {}: {}",
                current.execution.id(),
                node.node(),
                node.message()
            ),
            action: "RunJobPod",
            is_warning: true,
        });
    }

    pub(super) fn announce(&mut self, announcement: Announcement) {
        let (api, settings) = (self.api.clone(), Arc::clone(&self.settings));
        self.spawn(async move {
            announcement::tell(api, &settings, announcement).await;
            None
        });
    }

    /// An execution that did not go well is told once, with what failed on how many nodes.
    fn announce_end(&mut self, execution: &Execution) {
        let state = match execution.state() {
            ExecutionState::Degraded => "Degraded",
            ExecutionState::Failed => "Failed",
            ExecutionState::Empty => "Empty",
            ExecutionState::Cancelled => "Cancelled",
            ExecutionState::Running | ExecutionState::Succeeded => return,
        };
        let counts = counts_text(execution);
        let failures = execution.failures().text();
        let why = if failures.is_empty() {
            String::new()
        } else {
            format!("; failures: {failures}")
        };
        let note = format!("execution {}: {counts}{why}", execution.id());
        self.announce(Announcement::warning(&format!("Execution{state}"), note));
    }

    fn report_progress(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let counts = current.execution.counts();
        for state in NodeState::ALL {
            self.metrics
                .own()
                .nodes(state, counts.get(&state).copied().unwrap_or(0));
        }
        let (ended, nodes) = (
            current.execution.ended_nodes(),
            current.execution.nodes().len(),
        );
        let tenths = ended * 10 / nodes.max(1);
        if tenths > current.logged_tenths && ended < nodes {
            current.logged_tenths = tenths;
            info!(execution_id = %current.execution.id(), ended, nodes, "execution progress");
        }
    }

    fn ended(&mut self, now: Now) {
        self.report_progress();
        let Some(current) = self.current.take() else {
            return;
        };
        current.node_watch.abort();
        let execution = current.execution;
        self.announce_end(&execution);
        let (state, makespan) = (execution.state(), execution.makespan().unwrap_or_default());
        self.metrics
            .own()
            .execution_ended(state, makespan, now.wall);
        info!(
            execution_id = %execution.id(),
            state = state.as_str(),
            makespan_ms = u64::try_from(makespan.as_millis()).unwrap_or(u64::MAX),
            counts = %counts_text(&execution),
            "execution ended"
        );
        self.summaries.close(now.monotonic, &execution);
        self.closing = Some(execution.id().clone());
        self.kept.insert(execution.id().clone());
        self.ended = Some(execution);
        self.in_progress = None;
    }
}

fn counts_text(execution: &Execution) -> String {
    let counts = execution.counts();
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{} {count}", state.as_str()))
        .collect();
    parts.join(", ")
}
