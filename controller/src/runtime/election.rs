//! The async shell around `core::leadership`: carries out its requests, watches the Lease, wakes it in time, and moves
//! the fence.
//!
//! It has its own lane to the API server: nothing here waits for a turn behind the controller's calls. Everything runs
//! while [`Election::next`] is polled, on the task of whoever asks: where that stands still, so does the renewal, and
//! the fence closes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Ports;
use super::api_calls::no_answer;
use super::fence::{Fence, FenceKeeper, fence};
use crate::core::leadership::{
    Action, Event, Found, Gained, Identity, Leadership, Lost, Request, Timing,
};
use crate::core::lease::{LeaseRecord, LeaseView, lease_name};
use crate::core::names;
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// Between the end of a watch and its next begin. A released Lease is taken within a second all the same.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause between two tries to watch.
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(8);

/// What changed.
#[derive(Debug)]
pub(super) enum Change {
    /// This replica leads.
    Lead(Gained),
    /// It does not lead any more.
    StepDown(Lost),
    /// Somebody else holds the Lease than before, or nobody.
    Holder,
    /// The Lease was given up for good.
    Stopped,
}

type Answer = Result<Found, ClusterError>;

/// One replica's part in the election.
pub(super) struct Election<P: Ports> {
    ports: P,
    metrics: Arc<Metrics>,
    controller: Arc<str>,
    name: Arc<str>,
    timing: Timing,
    machine: Leadership,
    keeper: FenceKeeper,
    fence: Fence,
    changes: VecDeque<Change>,
    holder: String,
    request: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    watching: Pin<Box<dyn Future<Output = ()> + Send>>,
    seen: mpsc::Receiver<Option<LeaseView>>,
    /// Said once until it goes well again.
    has_warned: bool,
}

impl<P: Ports> Election<P> {
    /// Stands for the election of the controller of that name.
    pub(super) fn begin(
        ports: P,
        metrics: Arc<Metrics>,
        controller: &str,
        identity: Identity,
        timing: Timing,
    ) -> Self {
        let name: Arc<str> = lease_name(controller).into();
        let (sender, seen) = mpsc::channel(16);
        let watching = watch(ports.clone(), Arc::clone(&name), sender);
        let (keeper, fence) = fence();
        Self {
            machine: Leadership::new(identity, timing),
            ports,
            metrics,
            controller: controller.into(),
            name,
            timing,
            keeper,
            fence,
            changes: VecDeque::new(),
            holder: String::new(),
            request: None,
            watching: Box::pin(watching),
            seen,
            has_warned: false,
        }
    }

    /// Open while this replica leads.
    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether somebody else was seen to renew or take the Lease since this process began.
    pub(super) fn has_seen_others_renew(&self) -> bool {
        self.machine.has_seen_others_renew()
    }

    /// What the Lease said when it was last seen.
    pub(super) fn lease(&self) -> Option<&LeaseRecord> {
        self.machine.lease()
    }

    /// The next change. Cancel safe. To be polled without pause: it renews the Lease.
    pub(super) async fn next(&mut self) -> Change {
        let clock = self.ports.clock().clone();
        loop {
            if let Some(change) = self.changes.pop_front() {
                return change;
            }
            // Where nothing is due, an answer is under way. The first time is due at once.
            let wakeup = self.machine.next_wakeup();
            let woken = async {
                match wakeup {
                    Some(wakeup) => clock.sleep_until(wakeup).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                answer = answer(&mut self.request) => {
                    self.request = None;
                    self.note(&answer);
                    Event::Answered(answer.map_err(|error| error.kind))
                }
                Some(lease) = self.seen.recv() => Event::Seen(lease),
                // It goes on for as long as somebody listens, and that is us.
                () = &mut self.watching => Event::Woken,
                () = woken => Event::Woken,
            };
            self.tell(event);
        }
    }

    /// Gives the Lease up for good, where it is ours. For as long as releasing it once may take, and a second try.
    pub(super) async fn stop(&mut self) {
        let clock = self.ports.clock().clone();
        self.changes.clear();
        self.tell(Event::Stop);
        let bound = self.timing.retry_period + 2 * self.timing.write_limit();
        let stopped = async { while !matches!(self.next().await, Change::Stopped) {} };
        tokio::select! {
            biased;
            () = stopped => {}
            () = clock.sleep_until(clock.monotonic().after(bound)) => {
                warn!("the lease could not be released: it is free when it has run out");
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let actions = self.machine.handle(self.ports.clock().now(), event);
        // Before anything else is done: what acts for a leader looks at this.
        self.keeper.set(self.machine.acts_until());
        for action in actions {
            match action {
                Action::Send(request) => self.send(request),
                Action::Lead(why) => self.changes.push_back(Change::Lead(why)),
                Action::StepDown(why) => self.changes.push_back(Change::StepDown(why)),
                Action::Stopped => self.changes.push_back(Change::Stopped),
            }
        }
        let holder = self.lease().map_or("", |lease| lease.holder.as_str());
        if holder != self.holder {
            self.holder = holder.to_owned();
            self.changes.push_back(Change::Holder);
        }
    }

    fn send(&mut self, request: Request) {
        let (ports, metrics) = (self.ports.clone(), Arc::clone(&self.metrics));
        let (controller, name) = (Arc::clone(&self.controller), Arc::clone(&self.name));
        let limit = self.timing.write_limit();
        self.request = Some(Box::pin(async move {
            let (cluster, clock) = (ports.cluster(), ports.clock());
            let call = async {
                match &request {
                    Request::Read => cluster.get_lease(&name).await,
                    Request::Create(record) => cluster.create_lease(&name, record).await,
                    Request::Update { version, record } => {
                        cluster.update_lease(&name, version, record).await
                    }
                }
            };
            let result = tokio::select! {
                biased;
                result = call => result,
                () = clock.sleep_until(clock.monotonic().after(limit)) => Err(no_answer(limit)),
            };
            let verb = match &request {
                Request::Read => "get_lease",
                Request::Create(_) => "create_lease",
                Request::Update { .. } => "update_lease",
            };
            metrics.own().api_request(verb, &result);
            match (request, result) {
                (Request::Read, Err(error)) if error.kind == ClusterErrorKind::NotFound => {
                    let has_been_led = has_been_led(&ports, &controller, limit).await;
                    Ok(Found::Nothing { has_been_led })
                }
                (_, result) => result.map(Found::Lease),
            }
        }));
    }

    /// Says once that the Lease is out of reach; losing a race for it is nothing to say.
    fn note(&mut self, answer: &Answer) {
        match answer {
            Ok(_) => self.has_warned = false,
            Err(error)
                if matches!(
                    error.kind,
                    ClusterErrorKind::Conflict
                        | ClusterErrorKind::AlreadyExists
                        | ClusterErrorKind::NotFound
                ) =>
            {
                debug!(lease = &*self.name, error = %error, "lease changed meanwhile");
            }
            Err(error) if self.has_warned => {
                debug!(lease = &*self.name, error = %error, "lease still out of reach");
            }
            Err(error) => {
                self.has_warned = true;
                warn!(lease = &*self.name, error = %error, "lease cannot be read or written");
            }
        }
    }
}

/// The answer to the request in flight; pending where there is none.
async fn answer(request: &mut Option<Pin<Box<dyn Future<Output = Answer> + Send>>>) -> Answer {
    match request {
        Some(request) => request.await,
        None => std::future::pending().await,
    }
}

/// Whether anybody is known to have led before: whoever leads leaves the record `<name>-state`. What cannot be read
/// counts as there.
async fn has_been_led<P: Ports>(ports: &P, controller: &str, limit: Duration) -> bool {
    let (name, clock) = (names::state_record(controller), ports.clock());
    tokio::select! {
        biased;
        read = ports.cluster().config_map(&name) => {
            !read.is_err_and(|error| error.kind == ClusterErrorKind::NotFound)
        }
        () = clock.sleep_until(clock.monotonic().after(limit)) => true,
    }
}

/// Forwards the watch of the Lease, again and again, until nobody listens.
async fn watch<P: Ports>(ports: P, name: Arc<str>, seen: mpsc::Sender<Option<LeaseView>>) {
    let mut pause = WATCH_PAUSE;
    loop {
        let mut watch = std::pin::pin!(ports.cluster().watch_lease(&name));
        while let Some(item) = watch.next().await {
            match item {
                Ok(lease) => {
                    pause = WATCH_PAUSE;
                    if seen.send(lease).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    debug!(lease = &*name, error = %error, "lease watch interrupted");
                    pause = (pause * 2).min(WATCH_PAUSE_MAX);
                    break;
                }
            }
        }
        let clock = ports.clock();
        clock.sleep_until(clock.monotonic().after(pause)).await;
    }
}
