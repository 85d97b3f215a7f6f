//! The controller's loop: one closed enum of everything that can wake it, and one owner of the state.
//!
//! It never waits for the cluster or the disk: effects run as tasks, and their answers come back as events. A panic in a task
//! ends the loop, and with it the process: a dead part would leave slots hanging.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::admission::Admission;
use super::api_calls::ApiCalls;
use super::event::{Callback, Event, PostEventError};
use super::handle::ControllerHandle;
use super::job_event::{self, Regarding};
use super::preparation::{self, Due, Prepared};
use super::summary_writes::SummaryWrites;
use super::{Ports, Settings, pod_logs, pod_watch, stored_result};
use crate::core::event_message::EventReport;
use crate::core::execution::{self, CreateError, Effect, Execution};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{JobPodInstance, JobPodSpec, job_pod};
use crate::core::names;
use crate::core::report::Results;
use crate::core::report_name;
use crate::core::state::{NodeState, Trigger};
use crate::core::summary;
use crate::core::views::PodView;
use crate::metrics::Metrics;
use crate::metrics::own::Decision;
use crate::ports::clock::{Clock as _, Monotonic, Now};
use crate::ports::cluster::{Cluster as _, PodWatchEvent};
use crate::ports::error::{ClusterError, ClusterErrorKind};
use crate::ports::report_store::ReportStore as _;

/// Events that may wait for the loop; senders wait beyond that.
const QUEUE_LENGTH: usize = 1024;

/// The loop looks at the wall clock at least this often, so that a step of it is noticed.
const WALL_CLOCK_CHECK: Duration = Duration::from_secs(30);

/// The loop and its state. Dropping it ends every task it has started.
#[derive(Debug)]
pub struct Controller<P: Ports> {
    settings: Arc<Settings>,
    api: ApiCalls<P>,
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    events: mpsc::Receiver<Event>,
    tasks: JoinSet<Option<Event>>,
    schedule: ScheduleState,
    preparing: bool,
    /// What the watch showed while an execution was being prepared.
    unheard: Vec<PodWatchEvent>,
    current: Option<Current>,
    /// The newest execution that has ended: what still arrives for it amends its summary.
    ended: Option<Execution>,
    summaries: SummaryWrites,
    /// Said once: the number hardly changes from one execution to the next.
    has_warned_of_series: bool,
}

/// The execution in progress.
#[derive(Debug)]
struct Current {
    execution: Execution,
    job_pod: Arc<JobPodSpec>,
    /// Tenths of the list that have ended, as last logged.
    logged_tenths: usize,
}

#[derive(Debug)]
struct ScheduleState {
    stopped: bool,
    next: Option<Timestamp>,
    startup: Option<Monotonic>,
}

impl<P: Ports> Controller<P> {
    /// A controller that begins its schedule now. The pod watch runs as one of its tasks.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, ports: P, metrics: Arc<Metrics>) -> (Self, ControllerHandle) {
        let (sender, events) = mpsc::channel(QUEUE_LENGTH);
        let admission = Arc::new(Admission::new(settings.dev_mode));
        let handle =
            ControllerHandle::new(sender.clone(), Arc::clone(&admission), Arc::clone(&metrics));
        let now = ports.clock().now();
        let config = &settings.config;
        let schedule = ScheduleState {
            stopped: false,
            next: config.schedule.next_after(now.wall),
            startup: config
                .run_on_startup
                .then(|| now.monotonic.after(config.startup_delay)),
        };
        metrics.own().next_schedule(schedule.next);
        let mut tasks = JoinSet::new();
        let watch = pod_watch::run(ports.clone(), sender);
        tasks.spawn(async {
            watch.await;
            None
        });
        let controller = Self {
            settings: Arc::new(settings),
            api: ApiCalls::new(ports, Arc::clone(&metrics)),
            metrics,
            admission,
            events,
            tasks,
            schedule,
            preparing: false,
            unheard: Vec::new(),
            current: None,
            ended: None,
            summaries: SummaryWrites::default(),
            has_warned_of_series: false,
        };
        (controller, handle)
    }

    /// Runs until it is dropped, or until a task of it panics.
    ///
    /// # Panics
    /// With the panic of a task.
    pub async fn run(mut self) {
        info!(
            next = self.schedule.next.map(tracing::field::display),
            "controller started"
        );
        loop {
            self.on_time();
            let clock = self.api.ports.clock().clone();
            let wakeup = clock.sleep_until(self.next_wakeup());
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.handle(event),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Some(event)) => self.handle(event),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Ok(None) | Err(_) => {}
                },
                () = wakeup => {}
            }
        }
    }

    fn now(&self) -> Now {
        self.api.ports.clock().now()
    }

    fn next_wakeup(&self) -> Monotonic {
        let now = self.now();
        let tick = self.schedule.next.map(|due| {
            let left = Duration::try_from(due.duration_since(now.wall)).unwrap_or(Duration::ZERO);
            now.monotonic.after(left.min(WALL_CLOCK_CHECK))
        });
        let execution = self
            .current
            .as_ref()
            .and_then(|current| current.execution.next_wakeup());
        let candidates = [tick, self.schedule.startup, execution, self.summaries.due()];
        let soonest = candidates.into_iter().flatten().min();
        soonest.unwrap_or_else(|| now.monotonic.after(WALL_CLOCK_CHECK))
    }

    fn on_time(&mut self) {
        let now = self.now();
        if let Some(current) = &self.current
            && current
                .execution
                .next_wakeup()
                .is_some_and(|due| due <= now.monotonic)
        {
            self.step(now, execution::Event::Woken);
        }
        self.write_summaries(now);
        if self.schedule.stopped {
            return;
        }
        if self
            .schedule
            .startup
            .is_some_and(|due| due <= now.monotonic)
        {
            self.schedule.startup = None;
            self.begin(Trigger::Startup, now.wall);
        }
        if let Some(due) = self
            .schedule
            .take_due(&self.settings.config.schedule, now.wall)
        {
            self.metrics.own().next_schedule(self.schedule.next);
            self.begin(Trigger::Schedule, due);
        }
    }

    fn begin(&mut self, trigger: Trigger, scheduled_time: Timestamp) {
        if self.preparing || self.current.is_some() {
            self.metrics.own().tick_dropped(Decision::Forbid);
            info!(scheduled_time = %scheduled_time, "execution dropped: the previous one is still in progress");
            return;
        }
        self.preparing = true;
        self.metrics.own().execution_started(scheduled_time);
        let due = Due {
            trigger,
            scheduled_time,
            to_the_second: self.settings.config.schedule.is_finer_than_minutes(),
        };
        let (api, settings, metrics) = (
            self.api.clone(),
            Arc::clone(&self.settings),
            Arc::clone(&self.metrics),
        );
        let admission = Arc::clone(&self.admission);
        self.spawn(async move {
            let prepared = preparation::prepare(&api, &settings, &metrics, &admission, due).await;
            Some(Event::Prepared(prepared.map(Box::new)))
        });
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            // What happens to the pods that are being listed must not be lost on the execution that waits for them.
            Event::Pods(event) if self.preparing => self.unheard.push(event),
            Event::Pods(event) => self.step(now, of_watch(event)),
            Event::Callback(callback) => self.callback(now, callback),
            Event::Prepared(Ok(prepared)) => self.start(now, *prepared),
            Event::Prepared(Err(error)) => self.not_started(&error),
            Event::Answer(id, event) => {
                if self
                    .current
                    .as_ref()
                    .is_some_and(|current| *current.execution.id() == id)
                {
                    self.step(now, event);
                }
            }
            Event::LogsSaved {
                execution,
                node,
                stored_names,
            } => {
                for name in stored_names {
                    let node = node.clone();
                    self.tell(now, &execution, execution::Event::FileStored { node, name });
                }
            }
            Event::LookedForResult {
                execution,
                node,
                index,
                step,
                found,
            } => {
                if let Some(results) = found {
                    let name = report_name::result_name(&node);
                    self.result(now, &execution, &node, name, &results);
                }
                let looked = execution::Event::LookedForResult { index, step };
                self.tell(now, &execution, looked);
            }
            Event::SummaryWritten => self.summaries.written(),
            Event::StopSchedule => {
                info!("schedule stopped");
                self.schedule = ScheduleState {
                    stopped: true,
                    next: None,
                    startup: None,
                };
            }
        }
    }

    fn not_started(&mut self, error: &ClusterError) {
        self.preparing = false;
        self.unheard.clear();
        self.metrics.own().execution_not_started(Decision::Refused);
        warn!(error = %error, "execution not started");
    }

    fn start(&mut self, now: Now, prepared: Prepared) {
        self.preparing = false;
        if self.schedule.stopped {
            self.metrics.own().execution_not_started(Decision::Stopped);
            return;
        }
        let plan = prepared.plan;
        let id = plan.id.clone();
        self.admission
            .begin(&id, plan.nodes.iter().map(|node| node.node.as_str()));
        let nodes = plan.nodes.iter().map(|node| node.node.as_str());
        self.metrics.execution_started(&id, nodes);
        for old in &prepared.pruned {
            self.metrics.prune(old);
        }
        info!(
            execution_id = %id,
            nodes = plan.nodes.len(),
            excluded = plan.excluded.len(),
            pool = plan.pool_size,
            "execution started"
        );
        self.warn_of_many_series(plan.nodes.len());
        let config = &self.settings.config;
        let job_pod = Arc::new(JobPodSpec {
            controller: config.name.clone(),
            namespace: self.settings.namespace.clone(),
            service_account: config.job_service_account.clone(),
            image_pull_secrets: config.job_image_pull_secrets.clone(),
            callback_address: prepared.callback_address,
            callback_port: config.callback_service_port,
            owner: self.settings.owner.clone(),
        });
        let (execution, effects) = Execution::begin(plan, now);
        self.current = Some(Current {
            execution,
            job_pod,
            logged_tenths: 0,
        });
        self.summaries.note_change();
        self.carry_out(now, effects);
        for event in std::mem::take(&mut self.unheard) {
            self.step(now, of_watch(event));
        }
    }

    fn warn_of_many_series(&mut self, nodes: usize) {
        let forecast = self.metrics.forecast(nodes);
        if forecast.is_excessive() && !self.has_warned_of_series {
            self.has_warned_of_series = true;
            warn!(
                series = forecast.series(),
                nodes = forecast.nodes,
                samples = forecast.samples,
                executions = forecast.executions,
                "many metric series to come: metrics.history bounds the executions that are exported"
            );
        }
    }

    /// Tells the execution in progress, if there is one, and carries out what it answers.
    fn step(&mut self, now: Now, event: execution::Event) {
        if let Some(current) = &mut self.current {
            let effects = current.execution.handle(now, event);
            self.summaries.note_change();
            self.carry_out(now, effects);
        }
    }

    /// Tells the execution of that id, in progress or newly ended, what arrived for it.
    fn tell(&mut self, now: Now, id: &ExecutionId, event: execution::Event) {
        if self.is_current(id) {
            self.step(now, event);
        } else if let Some(ended) = self.ended.as_mut().filter(|ended| ended.id() == id) {
            // An ended execution has nothing left to do.
            ended.handle(now, event);
            self.summaries.note_amendment();
        }
    }

    fn write_summaries(&mut self, now: Now) {
        if self.summaries.due().is_some_and(|due| due <= now.monotonic) {
            let running = self.current.as_ref().map(|current| &current.execution);
            self.summaries
                .take(now.monotonic, running, self.ended.as_ref());
        }
        let Some((id, document)) = self.summaries.start_write() else {
            return;
        };
        let reports = self.api.ports.reports().clone();
        self.spawn(async move {
            if let Err(error) = reports.put(&id, summary::FILE_NAME, document).await {
                warn!(execution_id = %id, error = %error, "execution summary not written");
            }
            Some(Event::SummaryWritten)
        });
    }

    fn carry_out(&mut self, now: Now, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            match effect {
                Effect::DeletePreviousPods(previous) => self.delete_previous(previous),
                Effect::CreatePod { index, pod_name } => self.create_pod(index, pod_name),
                Effect::ReadPod {
                    index,
                    step,
                    pod_name,
                } => self.read_pod(index, step, pod_name),
                Effect::LookForResult { index, step } => self.look_for_result(index, step),
                Effect::PodEnded { pod, .. } => self.save_logs(pod),
                Effect::NodeEnded { index } => self.node_ended(index),
                Effect::Ended => self.ended(now),
            }
        }
        self.report_progress();
    }

    // Effects that call the cluster.

    /// Starts a task. What calls the cluster is kilobytes of state, which `JoinSet` would move several times.
    fn spawn(&mut self, task: impl Future<Output = Option<Event>> + Send + 'static) {
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
                .call("delete_pods", api.cluster().delete_pods(&previous))
                .await;
            execution::Event::PreviousPodsDeleted {
                execution: previous,
                result: deleted,
            }
        });
    }

    fn create_pod(&mut self, index: usize, pod_name: String) {
        let Some(current) = &self.current else { return };
        if self.schedule.stopped {
            debug!(
                pod = pod_name,
                "pod not created: the controller is shutting down"
            );
            return;
        }
        let creation = Creation {
            index,
            pod_name,
            node: current.execution.nodes()[index].node().to_owned(),
            execution: current.execution.id().clone(),
            job_pod: Arc::clone(&current.job_pod),
            settings: Arc::clone(&self.settings),
        };
        // Before the create is sent: the pod may call back before its create is answered.
        self.admission.admit(&creation.execution, &creation.node);
        let api = self.api.clone();
        self.spawn_answer(creation.carry_out(api));
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
        let limit = self.settings.config.callback_body_limit.result_bytes;
        self.spawn(async move {
            let found = stored_result::find(&reports, &id, &node, limit).await;
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
        if !self.settings.config.save_pod_log {
            return;
        }
        let Some(current) = &self.current else { return };
        let id = current.execution.id().clone();
        let (api, metrics) = (self.api.clone(), Arc::clone(&self.metrics));
        self.spawn(async move {
            let stored_names = pod_logs::save(api, &metrics, &id, &pod).await;
            Some(Event::LogsSaved {
                execution: id,
                node: pod.node,
                stored_names,
            })
        });
    }

    // Effects that people see.

    fn node_ended(&mut self, index: usize) {
        let Some(current) = &self.current else { return };
        let node = &current.execution.nodes()[index];
        let id = current.execution.id();
        let error = node.state() != NodeState::Succeeded;
        self.metrics.processing(id, node.node(), error);
        if let Some(duration) = node.duration() {
            self.metrics.duration(id, node.node(), duration);
        }
        if let (true, Some(reason)) = (error, node.reason()) {
            self.metrics.own().node_failed(reason);
            info!(
                execution_id = %id,
                node = node.node(),
                pod = node.pod_name(),
                reason = reason.as_str(),
                detail = node.message(),
                "job pod failed"
            );
        } else {
            debug!(execution_id = %id, node = node.node(), pod = node.pod_name(), "job pod succeeded");
        }
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
        let execution = current.execution;
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
        self.ended = Some(execution);
    }

    // Callbacks.

    fn callback(&mut self, now: Now, callback: Callback) {
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
                    node,
                    name: stored_name,
                };
                self.tell(now, &execution, stored);
            }
            Callback::Event {
                execution,
                node,
                event,
                reply,
            } => self.job_event(execution, node, event, reply),
        }
    }

    fn is_current(&self, id: &ExecutionId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.execution.id() == id)
    }

    fn result(&mut self, now: Now, id: &ExecutionId, node: &str, name: String, results: &Results) {
        self.metrics.result(id, node, results);
        let samples = results.values().map(Vec::len).sum::<usize>();
        let stored = execution::Event::ResultStored {
            node: node.to_owned(),
            name,
            samples: u32::try_from(samples).unwrap_or(u32::MAX),
        };
        self.tell(now, id, stored);
    }

    fn job_event(
        &mut self,
        execution: ExecutionId,
        node: String,
        event: EventReport,
        reply: oneshot::Sender<Result<(), PostEventError>>,
    ) {
        let current = self.current.as_ref().map(|current| &current.execution);
        let run = (current.into_iter().chain(&self.ended))
            .find(|known| *known.id() == execution)
            .and_then(|known| known.node(&node));
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

impl ScheduleState {
    /// The newest tick that is due, and moves on to the next one. Older ones that were missed are dropped.
    fn take_due(
        &mut self,
        schedule: &crate::core::schedule::Schedule,
        wall: Timestamp,
    ) -> Option<Timestamp> {
        let mut due = self.next.filter(|next| *next <= wall)?;
        loop {
            self.next = schedule.next_after(due);
            match self.next {
                Some(next) if next <= wall => due = next,
                _ => return Some(due),
            }
        }
    }
}

/// One pod to create.
#[derive(Debug)]
struct Creation {
    index: usize,
    pod_name: String,
    node: String,
    execution: ExecutionId,
    job_pod: Arc<JobPodSpec>,
    settings: Arc<Settings>,
}

impl Creation {
    async fn carry_out<P: Ports>(self, api: ApiCalls<P>) -> execution::Event {
        let index = self.index;
        match self.create(api).await {
            Ok(event) => event,
            Err(error) => execution::Event::CreateFailed { index, error },
        }
    }

    async fn create<P: Ports>(self, api: ApiCalls<P>) -> Result<execution::Event, CreateError> {
        let index = self.index;
        let pod = self.render().map_err(CreateError::Template)?;
        match api.call("create_pod", api.cluster().create_pod(pod)).await {
            Ok(pod) => Ok(execution::Event::Created { index, pod }),
            Err(error) if error.kind == ClusterErrorKind::AlreadyExists => {
                self.read_holder(api).await
            }
            Err(error) => Err(CreateError::Cluster(error)),
        }
    }

    async fn read_holder<P: Ports>(
        self,
        api: ApiCalls<P>,
    ) -> Result<execution::Event, CreateError> {
        let name = &self.pod_name;
        match api.call("get_pod", api.cluster().get_pod(name)).await {
            Ok(holder) => Ok(execution::Event::NameHeld {
                index: self.index,
                holder,
            }),
            // Gone in between: the create is repeated.
            Err(mut error) => {
                error.kind = ClusterErrorKind::Unavailable;
                Err(CreateError::Cluster(error))
            }
        }
    }

    fn render(&self) -> Result<k8s_openapi::api::core::v1::Pod, String> {
        let settings = &self.settings;
        let rendered = settings
            .template
            .render(&self.node, self.execution.as_str(), &settings.namespace)
            .map_err(|error| error.to_string())?;
        let instance = JobPodInstance {
            pod_name: &self.pod_name,
            node: &self.node,
            execution_id: &self.execution,
        };
        Ok(job_pod(rendered, &self.job_pod, instance, |_| Vec::new()))
    }
}

fn of_watch(event: PodWatchEvent) -> execution::Event {
    match event {
        PodWatchEvent::Restarted(pods) => execution::Event::Relisted(pods),
        PodWatchEvent::Applied(pod) => execution::Event::PodSeen(pod),
        PodWatchEvent::Deleted(pod) => execution::Event::PodGone(pod),
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
