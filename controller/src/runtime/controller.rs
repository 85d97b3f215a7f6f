//! The controller's loop: one closed enum of everything that can wake it, and one owner of the state.
//!
//! It never waits for the cluster or the disk: effects run as tasks, and their answers come back as events. A panic in
//! a task ends the loop, and with it the process: a dead part would leave slots hanging.

mod by_hand;
mod callbacks;
mod configuration;
mod creation;
mod deletions;
mod effects;
mod recovery;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{info, warn};

use self::deletions::HeldDeletion;
use self::schedule::{ScheduleState, ToldDrops};
use super::admission::Admission;
use super::announcement::Announcement;
use super::api_calls::{ApiCalls, WriteBounds};
use super::configuration::Data;
use super::event::Event;
use super::fence::Fence;
use super::handle::ControllerHandle;
use super::journal::{Journal, JournalWrites};
use super::preparation::{NotPrepared, Prepared};
use super::state_record::StateHandle;
use super::summary_writes::SummaryWrites;
use super::{Ports, Settings, watches};
use crate::config::pod_template::PodTemplate;
use crate::core::by_hand::Handled;
use crate::core::execution::{self, Execution, Found};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::JobPodSpec;
use crate::core::journal::Frozen;
use crate::core::record::{AlreadyHandled, Claim, Request};
use crate::core::report_name;
use crate::core::state::Trigger;
use crate::core::summary;
use crate::metrics::Metrics;
use crate::metrics::own::Decision;
use crate::ports::clock::{Clock as _, Monotonic, Now};
use crate::ports::cluster::PodWatchEvent;
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
    events_sender: mpsc::Sender<Event>,
    tasks: JoinSet<Option<Event>>,
    schedule: ScheduleState,
    told_drops: ToldDrops,
    may_run_on_startup: bool,
    /// When it was made.
    began: Timestamp,
    state: StateHandle<P>,
    /// Of this leader; 0 before it has taken over, when nothing is due.
    epoch: u64,
    /// The executions on the volume, of those that were there when it took over.
    kept: BTreeSet<ExecutionId>,
    journal_writes: JournalWrites,
    held_deletions: Vec<HeldDeletion>,
    /// The execution that has ended and is in the state record until its summary is on the volume.
    closing: Option<ExecutionId>,
    /// The data of the ConfigMap that was read last, good or not.
    judged: Option<Data>,
    /// The execution that is being prepared or runs, as it was claimed.
    in_progress: Option<Claim>,
    preparing: bool,
    /// The one that begins when that has ended.
    next: Option<Claim>,
    /// What people have asked for and was handled; none before anything is known of it.
    by_hand: Option<Handled>,
    /// What the watch showed while an execution was being prepared.
    unheard: Vec<PodWatchEvent>,
    current: Option<Current<P::Reports>>,
    /// The newest execution that has ended: what still arrives for it amends its summary.
    ended: Option<Execution>,
    summaries: SummaryWrites,
    /// Who waits for the writes in flight to be answered.
    settling: Option<oneshot::Sender<()>>,
    /// Said once: the number hardly changes from one execution to the next.
    has_warned_of_series: bool,
}

/// The execution in progress.
#[derive(Debug)]
struct Current<R> {
    execution: Execution,
    job_pod: Arc<JobPodSpec>,
    /// What it began with, whatever is configured meanwhile.
    settings: Arc<Settings>,
    node_watch: AbortHandle,
    template: PodTemplate,
    journal: Journal<R>,
    /// Creates on their way, by the node's place in the list: whether they are still wanted.
    creations: BTreeMap<usize, Arc<AtomicBool>>,
    /// Tenths of the list that have ended, as last logged.
    logged_tenths: usize,
}

/// What a leadership begins with.
#[derive(Debug)]
pub(super) struct Term {
    /// What its writes are bound by.
    pub(super) writes: WriteBounds,
    /// Whether `runOnStartup` counts: not for who takes over.
    pub(super) may_run_on_startup: bool,
}

impl<P: Ports> Controller<P> {
    /// A controller that is the only one, as `Self::leading`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, ports: P, metrics: Arc<Metrics>) -> (Self, ControllerHandle) {
        let timing = settings.config.leader_election;
        let term = Term {
            writes: WriteBounds {
                fence: Fence::open(),
                limit: timing.write_limit(),
            },
            may_run_on_startup: true,
        };
        Self::leading(settings, ports, metrics, term)
    }

    /// A controller that begins its schedule now. The pod watch runs as one of its tasks.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub(super) fn leading(
        settings: Settings,
        ports: P,
        metrics: Arc<Metrics>,
        term: Term,
    ) -> (Self, ControllerHandle) {
        let (sender, events) = mpsc::channel(QUEUE_LENGTH);
        let admission = Arc::new(Admission::new(settings.dev_mode));
        metrics.own().suspended(settings.config.suspend);
        let (fence, clock) = (term.writes.fence.clone(), ports.clock().clone());
        let now = {
            let clock = clock.clone();
            move || clock.monotonic()
        };
        let may_act = move || fence.is_open(clock.monotonic());
        let handle = ControllerHandle::new(
            sender.clone(),
            Arc::clone(&admission),
            Arc::clone(&metrics),
            may_act,
            now,
        );
        let schedule = ScheduleState {
            stopped: false,
            next: None,
            startup: None,
        };
        let mut tasks = JoinSet::new();
        let watch = watches::pods(ports.clone(), sender.clone());
        tasks.spawn(async {
            watch.await;
            None
        });
        let began = ports.clock().wall();
        let api = ApiCalls::new(ports, term.writes, Arc::clone(&metrics));
        let controller = Self {
            state: StateHandle::new(api.clone(), &settings.config.name),
            settings: Arc::new(settings),
            api,
            events_sender: sender,
            epoch: 0,
            kept: BTreeSet::new(),
            journal_writes: JournalWrites::default(),
            held_deletions: Vec::new(),
            closing: None,
            judged: None,
            may_run_on_startup: term.may_run_on_startup,
            began,
            metrics,
            admission,
            events,
            tasks,
            schedule,
            told_drops: ToldDrops::default(),
            in_progress: None,
            preparing: false,
            next: None,
            by_hand: None,
            unheard: Vec::new(),
            current: None,
            ended: None,
            summaries: SummaryWrites::default(),
            settling: None,
            has_warned_of_series: false,
        };
        (controller, handle)
    }

    /// Runs until it is dropped, or until a task of it panics.
    ///
    /// # Panics
    /// With the panic of a task.
    pub async fn run(mut self) {
        self.api.pass_fence().await;
        self.recover();
        loop {
            self.on_time();
            let clock = self.api.ports.clock().clone();
            let wakeup = clock.sleep_until(self.next_wakeup());
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                Some(ended) = self.tasks.join_next() => event_of(ended),
                () = wakeup => None,
            };
            // Time may have passed while this stood still: nothing is decided by who may not lead any more.
            self.api.pass_fence().await;
            if let Some(event) = event {
                self.handle(event);
            }
            self.settle();
        }
    }

    /// Answers who waits once every write that was sent is answered, and the answers are taken in.
    fn settle(&mut self) {
        if self.settling.is_none() || self.api.writes_in_flight() > 0 {
            return;
        }
        while let Some(ended) = self.tasks.try_join_next() {
            if let Some(event) = event_of(ended) {
                self.handle(event);
            }
        }
        if let Some(settling) = self.settling.take() {
            // Nobody waits any more: it took too long.
            let _ = settling.send(());
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
        let candidates = [
            tick,
            self.schedule.startup,
            execution,
            self.summaries.due(),
            self.journal_writes.due(),
        ];
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
        self.write_journal(now);
        if self.schedule.stopped {
            return;
        }
        if self
            .schedule
            .startup
            .is_some_and(|due| due <= now.monotonic)
        {
            self.schedule.startup = None;
            self.begin(now, Request::of(Trigger::Startup, now.wall));
        }
        if let Some(tick) = self
            .schedule
            .take_due(&self.settings.config.schedule, now.wall)
        {
            self.metrics.own().next_schedule(self.schedule.next);
            self.tick(now, tick);
        }
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
            Event::Answer(id, event) => self.tell(now, &id, event),
            Event::LogsSaved {
                execution,
                node,
                uid,
                stored_names,
            } => {
                for name in stored_names {
                    let node = node.clone();
                    self.tell(now, &execution, execution::Event::FileStored { node, name });
                }
                self.tell(now, &execution, execution::Event::PodSettled { uid });
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
            Event::Recovered(recovered) => self.recovered(now, *recovered),
            Event::ConfigMapRead(read) => {
                let read = read.map(|view| *view);
                self.configuration_read(now, &read);
                self.annotations_read(now, &read);
            }
            Event::CancelRecorded(claim) => self.cancel_recorded(now, &claim),
            Event::ReplaceRecorded { old, next } => {
                self.replace_recorded(now, old.as_ref(), next);
            }
            Event::HistoryRead(id, summary) => {
                if let Some(summary) = summary {
                    self.history_found(now, &id, &summary);
                }
                self.admission.history_read(&id);
            }
            Event::ResultFound {
                execution,
                node,
                results,
            } => self.result_found(now, &execution, &node, &results),
            Event::JournalWritten => {
                self.journal_writes.written();
                self.release_deletions();
            }
            Event::SummaryWritten {
                execution,
                is_written,
            } => self.summary_written(&execution, is_written),
            Event::Settle(reply) => {
                self.api.close_writes();
                self.settling = Some(reply);
            }
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

    fn not_started(&mut self, error: &NotPrepared) {
        self.preparing = false;
        self.in_progress = None;
        self.unheard.clear();
        self.metrics.own().execution_not_started(Decision::Refused);
        warn!(error = %error, "execution not started");
        if !matches!(error, NotPrepared::Claimed(_)) {
            self.announce(Announcement::warning(
                "ExecutionNotStarted",
                error.to_string(),
            ));
            let state = self.state.clone();
            self.spawn(async move {
                let withdrawn = state.update(|record| {
                    record.withdraw();
                    Ok::<_, AlreadyHandled>(())
                });
                if let Err(error) = withdrawn.await {
                    warn!(error = %error, "execution not withdrawn in the state record");
                }
                None
            });
        }
        self.begin_next();
    }

    fn start(&mut self, now: Now, prepared: Prepared) {
        self.preparing = false;
        if self.schedule.stopped {
            self.metrics.own().execution_not_started(Decision::Stopped);
            return;
        }
        let plan = &prepared.frozen.plan;
        info!(
            execution_id = %plan.id,
            nodes = plan.nodes.len(),
            excluded = plan.excluded.len(),
            pool = plan.pool_size,
            "execution started"
        );
        self.warn_of_many_series(plan.nodes.len());
        let cancelled = (self.in_progress.as_mut()).and_then(|claim| claim.cancelled.take());
        let found = match (prepared.found, cancelled) {
            (found, None) => found,
            (found, cancelled) => Some(Found {
                cancelled,
                ..found.unwrap_or_default()
            }),
        };
        let watch_from = Some(prepared.nodes_version);
        self.run_execution(now, prepared.frozen, found, watch_from);
        // Only now: what is `latest` of a node of the new list outlives its execution.
        for old in &prepared.pruned {
            self.kept.remove(old);
            self.metrics.prune(old);
        }
    }

    /// Begins an execution, or goes on with what was found of it. Nodes are watched from that version on; none where it
    /// is too old to be known.
    fn run_execution(
        &mut self,
        now: Now,
        frozen: Frozen,
        found: Option<Found>,
        watch_from: Option<String>,
    ) {
        let Frozen {
            plan,
            job_pod,
            template,
            ..
        } = frozen;
        let id = plan.id.clone();
        self.admission
            .begin(&id, plan.nodes.iter().map(|node| node.node.as_str()));
        let nodes = plan.nodes.iter().map(|node| node.node.as_str());
        self.metrics.execution_started(&id, nodes);
        let (execution, effects) = match found {
            None => Execution::begin(plan, now),
            Some(found) => Execution::resume(plan, found, now),
        };
        let called = execution.nodes().iter().filter(|node| node.may_call_back());
        for node in called {
            self.admission.admit(&id, node.node(), node.attempts());
            (self.admission).has_reports(&id, node.node(), node.report_count());
            if let Some(ended) = node.ended() {
                self.admission.ended(&id, node.node(), ended.wall, now);
            }
        }
        let reports = self.api.ports.reports().clone();
        let watch = watches::nodes(
            self.api.ports.clone(),
            self.events_sender.clone(),
            id.clone(),
            watch_from,
        );
        let node_watch = self.tasks.spawn(Box::pin(async {
            watch.await;
            None
        }));
        self.current = Some(Current {
            execution,
            job_pod: Arc::new(job_pod),
            settings: Arc::clone(&self.settings),
            template: self.template(&template),
            journal: Journal::new(reports, id, self.epoch),
            node_watch,
            creations: BTreeMap::new(),
            logged_tenths: 0,
        });
        self.summaries.note_change();
        self.carry_out(now, effects);
        for event in std::mem::take(&mut self.unheard) {
            self.step(now, of_watch(event));
        }
    }

    fn template(&self, text: &str) -> PodTemplate {
        if text == self.settings.template.text() {
            return self.settings.template.clone();
        }
        PodTemplate::parse(text).unwrap_or_else(|error| {
            warn!(error = %error, "the execution's own pod template cannot be read: the configured one is used");
            self.settings.template.clone()
        })
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
            // An ended execution has nothing left to do but to delete ended pods.
            let effects = ended.handle(now, event);
            self.summaries.note_amendment();
            for effect in effects {
                match effect {
                    execution::Effect::DeletePod { pod_name, uid } => {
                        self.delete_pod(id.clone(), pod_name, uid);
                    }
                    execution::Effect::DeleteEndedPod { pod_name, uid } => {
                        self.delete_ended_pod(id.clone(), pod_name, uid);
                    }
                    _ => {}
                }
            }
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
        let api = self.api.clone();
        self.spawn(async move {
            // A process that stood still may have been followed by another, which closed the execution.
            api.pass_fence().await;
            let reports = api.ports.reports();
            let put = reports.put_if(&id, summary::FILE_NAME, document, api.may_act());
            let written = put.await;
            if let Err(error) = &written {
                warn!(execution_id = %id, error = %error, "execution summary not written");
            }
            Some(Event::SummaryWritten {
                execution: id,
                is_written: written.is_ok(),
            })
        });
    }

    fn is_current(&self, id: &ExecutionId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.execution.id() == id)
    }
}

/// What a task has to tell.
fn event_of(ended: Result<Option<Event>, JoinError>) -> Option<Event> {
    match ended {
        Ok(event) => event,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

fn of_watch(event: PodWatchEvent) -> execution::Event {
    match event {
        PodWatchEvent::Restarted(pods) => execution::Event::Relisted(pods),
        PodWatchEvent::Applied(pod) => execution::Event::PodSeen(pod),
        PodWatchEvent::Deleted(pod) => execution::Event::PodGone(pod),
    }
}
