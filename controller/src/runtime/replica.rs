//! One replica: it stands by until it leads, then runs the controller's loop, and hands over at its end.
//!
//! Every replica lives as long as its process and listens on every port; what it is at the moment is its [`Standing`],
//! which the HTTP side asks for with each request. The loop lives as long as a leadership: when that is lost, it is
//! dropped with all its tasks. What they had sent has an unknown outcome, and the successor copes with it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::api_calls::WriteBounds;
use super::controller::{Controller, Term};
use super::election::{Change, Election};
use super::fence::Fence;
use super::handle::ControllerHandle;
use super::ordered_watch as watch;
use super::{Ports, Settings};
use crate::core::leadership::{Identity, Timing};
use crate::core::lease::{LeaseRecord, ReplicaAddress};
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;

/// What a replica is at the moment.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Another replica leads, or none.
    Standby(Option<Leader>),
    /// It leads, and takes up what its predecessor left.
    Recovering,
    /// It leads.
    Leading(ControllerHandle),
}

/// The replica that holds the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its holder identity: the name of its pod.
    pub identity: String,
    /// Where it is reached, where the Lease says so.
    pub address: Option<ReplicaAddress>,
}

/// Why a request that needs the leader cannot be answered here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLeading {
    /// Another replica leads.
    #[error("this replica stands by, {} leads: try again", .0.identity)]
    Standby(Leader),
    /// Nobody is known to lead.
    #[error("no replica leads at the moment: try again")]
    NoLeader,
    /// This one is about to.
    #[error("the leader is still taking over: try again")]
    Recovering,
}

/// A handle on a replica, for as long as its process lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReplicaHandle {
    standing: watch::Receiver<Standing>,
    stop: Arc<watch::Sender<bool>>,
    handed_over: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

impl ReplicaHandle {
    /// The metrics of this process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the replica is at the moment.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// What the replica is, and each change of it. It ends with the replica.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The controller's loop, where it runs here and may act.
    ///
    /// # Errors
    /// Who leads instead.
    pub fn leading(&self) -> Result<ControllerHandle, NotLeading> {
        match self.standing() {
            Standing::Leading(handle) if handle.may_act() => Ok(handle),
            Standing::Recovering => Err(NotLeading::Recovering),
            Standing::Standby(Some(leader)) => Err(NotLeading::Standby(leader)),
            Standing::Standby(None) | Standing::Leading(_) => Err(NotLeading::NoLeader),
        }
    }

    /// Whether the replica runs, leading or standing by.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match &*self.standing.borrow() {
            Standing::Leading(handle) => handle.is_alive(),
            Standing::Standby(_) | Standing::Recovering => !self.standing.is_over(),
        }
    }

    /// Returns once the replica leads, or does not. Cancel safe.
    pub async fn until_leading(&self, leads: bool) {
        let is_so = |standing: &Standing| matches!(standing, Standing::Leading(_)) == leads;
        self.standing.clone().wait_for(is_so).await;
    }

    /// Lets the replica hand over: no further execution or pod begins, creates in flight are settled, the Lease is
    /// released.
    pub fn hand_over(&self) {
        self.stop.set(true);
    }

    /// Whether it has handed over, and never leads again.
    #[must_use]
    pub fn has_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// Returns once it has handed over. Cancel safe.
    pub async fn handed_over(&self) {
        self.handed_over.clone().wait_for(|is_done| *is_done).await;
    }
}

/// A loop that leads without an election.
impl From<ControllerHandle> for ReplicaHandle {
    fn from(handle: ControllerHandle) -> Self {
        let metrics = handle.shared_metrics();
        let (_, standing) = watch::channel(Standing::Leading(handle));
        Self {
            standing,
            stop: Arc::default(),
            handed_over: watch::channel(false).1,
            metrics,
        }
    }
}

/// The replica of this process.
#[derive(Debug)]
pub struct Replica<P: Ports> {
    settings: Settings,
    identity: Identity,
    ports: P,
    metrics: Arc<Metrics>,
    standing: watch::Sender<Standing>,
    stop: watch::Receiver<bool>,
    handed_over: watch::Sender<bool>,
    /// Only in its first leadership a process may begin an execution because it started.
    has_led: bool,
}

impl<P: Ports> Replica<P> {
    /// A replica that does nothing yet. With `dev_mode` it takes no part in an election, and leads at once.
    #[must_use]
    pub fn new(
        settings: Settings,
        identity: Identity,
        ports: P,
        metrics: Arc<Metrics>,
    ) -> (Self, ReplicaHandle) {
        let (standing, shown) = watch::channel(Standing::Standby(None));
        let (sender, stop) = watch::channel(false);
        let (handed_over, is_handed_over) = watch::channel(false);
        let handle = ReplicaHandle {
            standing: shown,
            stop: Arc::new(sender),
            handed_over: is_handed_over,
            metrics: Arc::clone(&metrics),
        };
        let replica = Self {
            settings,
            identity,
            ports,
            metrics,
            standing,
            stop,
            handed_over,
            has_led: false,
        };
        (replica, handle)
    }

    /// Runs until it is dropped: after it has handed over it goes on telling who leads, for the requests that are still
    /// under way here. Dropped before, it leaves everything as it is: another replica leads once the Lease has run out.
    ///
    /// # Panics
    /// With the panic of a task of the controller's loop.
    pub async fn run(mut self) {
        if self.settings.dev_mode {
            self.metrics.own().leader(true);
            let limit = self.timing().write_limit();
            self.lead(Fence::open(), limit, true).await;
            self.handed_over.set(true);
            self.stand_by(None);
            return std::future::pending().await;
        }
        let mut election = self.take_turns().await;
        self.handed_over.set(true);
        self.stand_by(election.lease());
        loop {
            if let Change::Holder = election.next().await {
                self.stand_by(election.lease());
            }
        }
    }

    fn timing(&self) -> Timing {
        self.settings.config.leader_election
    }

    /// Until the Lease is given up for good.
    async fn take_turns(&mut self) -> Election<P> {
        let mut stop = self.stop.clone();
        let mut election = Election::begin(
            self.ports.clone(),
            Arc::clone(&self.metrics),
            &self.settings.config.name,
            self.identity.clone(),
            self.timing(),
        );
        loop {
            let change = tokio::select! {
                biased;
                () = stop.wait_for(|is_told| *is_told) => break,
                change = election.next() => change,
            };
            match change {
                Change::Holder => self.stand_by(election.lease()),
                Change::Lead(why) => {
                    info!(identity = self.identity.name, reason = %why, "leading");
                    let has_ended = self.lead_while_elected(&mut election).await;
                    self.stand_by(election.lease());
                    if has_ended {
                        break;
                    }
                }
                Change::StepDown(_) | Change::Stopped => {}
            }
        }
        election.stop().await;
        info!("stopped taking part in the election");
        election
    }

    /// Leads until the lease is lost, or everything is ready to be handed over: then it answers true.
    async fn lead_while_elected(&mut self, election: &mut Election<P>) -> bool {
        self.metrics.own().leader(true);
        let (fence, limit) = (election.fence().clone(), self.timing().write_limit());
        let may_run_on_startup = !self.has_led && !election.has_seen_others_renew();
        self.has_led = true;
        let lost = async {
            loop {
                if let Change::StepDown(why) = election.next().await {
                    return why;
                }
            }
        };
        tokio::select! {
            biased;
            why = lost => {
                warn!(identity = self.identity.name, reason = %why, "no longer leading");
                false
            }
            () = self.lead(fence, limit, may_run_on_startup) => true,
        }
    }

    /// Runs the controller's loop until the process is told to stop, then settles what is in flight.
    async fn lead(&self, fence: Fence, write_limit: Duration, may_run_on_startup: bool) {
        let mut stop = self.stop.clone();
        self.standing.set(Standing::Recovering);
        let term = Term {
            writes: WriteBounds {
                fence,
                limit: write_limit,
            },
            may_run_on_startup,
        };
        let (controller, handle) = Controller::leading(
            self.settings.clone(),
            self.ports.clone(),
            Arc::clone(&self.metrics),
            term,
        );
        let shown = async {
            handle.recovered().await;
            let leading = Standing::Leading(handle.clone());
            self.standing.set(leading);
            std::future::pending::<()>().await;
        };
        let clock = self.ports.clock();
        let handed_over = async {
            stop.wait_for(|is_told| *is_told).await;
            handle.stop_schedule().await;
            tokio::select! {
                biased;
                () = handle.settle() => info!("creates in flight are settled"),
                () = clock.sleep_until(clock.monotonic().after(write_limit)) => {
                    warn!("handing over while writes are unanswered");
                }
            }
        };
        tokio::select! {
            biased;
            // It ends only with a panic, which goes on from here.
            () = controller.run() => {}
            () = shown => {}
            () = handed_over => {}
        }
    }

    /// Nothing of what a leader exports is left, and requests are told who leads.
    fn stand_by(&self, lease: Option<&LeaseRecord>) {
        if matches!(
            *self.standing.borrow(),
            Standing::Leading(_) | Standing::Recovering
        ) {
            self.metrics.stop_leading();
        }
        let others = lease
            .filter(|lease| !lease.holder.is_empty() && lease.holder != self.identity.name)
            .map(|lease| Leader {
                identity: lease.holder.clone(),
                address: lease.address.clone(),
            });
        if let Some(leader) = &others {
            info!(leader = leader.identity, "standing by");
        }
        self.standing.set(Standing::Standby(others));
    }
}
