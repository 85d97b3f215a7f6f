//! Who leads: the decision of one replica about its Lease, as a state machine without I/O.
//!
//! It is told what was seen of the Lease and what became of its requests, and answers what to send next; one request at
//! a time. Clocks are never compared: a candidate counts from the change that it saw on its own monotonic clock, the
//! holder from
//! *sending* its last successful renewal. So a holder, which acts for `renewDeadline` at most and whose writes end within
//! [`Timing::write_limit`], has stopped before anybody may take over, as long as no monotonic clock runs faster than
//! another by more than `leaseDuration / (renewDeadline + write limit)`, 7 % with the defaults.
//!
//! Only an update takes the lease, at a version that was read, and a deleted Lease has no version. So a missing one is
//! created unclaimed first, which harms nobody however late it is done, and then waited for like any other; only where
//! nobody has led before does its creator take it at once.
//!
//! Three things no lease can tell are left: one that is deleted in the seconds in which the first leader ever is
//! elected, somebody who writes what a release writes, and so gives it away, and two processes of one identity, which
//! are taken for one.

use std::fmt;
use std::time::Duration;

use super::failure::ClusterErrorKind;
use super::lease::{LeaseRecord, LeaseView, ReplicaAddress};
use super::time::{Monotonic, Now};

/// A Lease of a longer duration than this and than our own was not written by a leader: it does not stop us for hours.
const FOREIGN_LEASE_MAX: Duration = Duration::from_mins(10);

/// How the Lease is timed: `leaderElection` of the configuration. `lease_duration` > `renew_deadline` > 1.2 ×
/// `retry_period`, as in client-go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease counts after the change that was seen; whole seconds, at least one. Default: 15 s.
    pub lease_duration: Duration,
    /// How long the holder acts after sending its last successful renewal; more than zero. Default: 10 s.
    pub renew_deadline: Duration,
    /// Time between two writes of the Lease; more than zero. Default: 2 s.
    pub retry_period: Duration,
}

impl Timing {
    /// The longest that a write may take, so that none of a former leader is under way when another may lead: four
    /// fifths of what is left between `renew_deadline` and `lease_duration`, 4 s with the defaults.
    #[must_use]
    pub fn write_limit(&self) -> Duration {
        self.lease_duration.saturating_sub(self.renew_deadline) * 4 / 5
    }
}

/// Who this replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its holder identity, unique among the replicas.
    pub name: String,
    /// Where others reach it.
    pub address: Option<ReplicaAddress>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The watch showed the Lease; none where it was deleted.
    Seen(Option<LeaseView>),
    /// The request in flight was answered, or was not.
    Answered(Result<Found, ClusterErrorKind>),
    /// Time passed.
    Woken,
    /// The process is about to end: give the lease up, and never take it again.
    Stop,
}

/// What a request found, or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The Lease as it now is.
    Lease(LeaseView),
    /// There is none. Where anybody is known to have led before, it was deleted, and its holder may not know yet.
    Nothing {
        /// Whether anybody is known to have led before, asked after the Lease was.
        has_been_led: bool,
    },
}

/// A request to the API server. It is to be answered within [`Timing::write_limit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read the Lease as it is now, never from a cache.
    Read,
    /// Create it; nobody holds it then.
    Create(LeaseRecord),
    /// Replace it if it still is of that version.
    Update {
        /// The version that was read.
        version: String,
        /// What it shall say.
        record: LeaseRecord,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this, then tell the answer.
    Send(Request),
    /// This replica leads from now on.
    Lead(Gained),
    /// It does not lead any more; what it does in that name must stop at once.
    StepDown(Lost),
    /// After [`Event::Stop`]: the lease is given up, or was not ours.
    Stopped,
}

/// Why a replica leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gained {
    /// There was no Lease.
    Created,
    /// It held the Lease already: it restarted, or could not renew for a while.
    TakenBack,
    /// The last holder gave it up.
    Released,
    /// The holder did not renew it in time; nobody where the holder was emptied by hand.
    Expired(String),
}

/// Why a replica does not lead any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// It could not renew the Lease within `renewDeadline`.
    NotRenewed,
    /// The Lease names somebody else; nobody where it looks given up.
    Overwritten(String),
}

impl fmt::Display for Gained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => write!(f, "there was no lease"),
            Self::TakenBack => write!(f, "the lease is still ours"),
            Self::Released => write!(f, "the last holder released the lease"),
            Self::Expired(holder) if holder.is_empty() => {
                write!(f, "nobody has taken the lease within its duration")
            }
            Self::Expired(holder) => {
                write!(f, "{holder} has not renewed the lease within its duration")
            }
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRenewed => write!(f, "the lease could not be renewed within renewDeadline"),
            Self::Overwritten(holder) if holder.is_empty() => {
                write!(f, "somebody else released the lease")
            }
            Self::Overwritten(holder) => write!(f, "{holder} holds the lease"),
        }
    }
}

/// What was last seen of the Lease.
#[derive(Debug)]
struct Seen {
    lease: Option<LeaseView>,
    /// When it last changed.
    changed: Monotonic,
}

#[derive(Debug)]
enum InFlight {
    Read,
    Create,
    /// A write that makes or keeps us the holder.
    Hold {
        sent: Monotonic,
        gained: Gained,
    },
    Release,
}

/// How far giving the Lease up for good has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Asked,
    Reached,
}

/// The state machine of one replica.
#[derive(Debug)]
pub struct Leadership {
    identity: Identity,
    timing: Timing,
    /// Whether anybody is known to have led: a Lease that is missing was deleted, and its holder may not know yet.
    has_been_led: bool,
    seen: Option<Seen>,
    /// The version of the unclaimed Lease that this replica created where nobody has led before.
    claimable: Option<String>,
    /// When the last successful renewal was sent, while we lead.
    renewed: Option<Monotonic>,
    in_flight: Option<InFlight>,
    must_read: bool,
    next_read: Monotonic,
    next_write: Monotonic,
    next_release: Monotonic,
    has_seen_others_renew: bool,
    end: End,
}

impl Leadership {
    /// A replica that knows nothing of the Lease yet.
    #[must_use]
    pub fn new(identity: Identity, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            has_been_led: false,
            seen: None,
            claimable: None,
            renewed: None,
            in_flight: None,
            must_read: true,
            next_read: Monotonic::default(),
            next_write: Monotonic::default(),
            next_release: Monotonic::default(),
            has_seen_others_renew: false,
            end: End::NotYet,
        }
    }

    /// Until when this replica may act as the leader without hearing from us again; none while it does not lead.
    #[must_use]
    pub fn acts_until(&self) -> Option<Monotonic> {
        self.renewed
            .map(|sent| sent.after(self.timing.renew_deadline))
    }

    /// Whether somebody else was seen to renew or take the Lease since this replica began.
    #[must_use]
    pub fn has_seen_others_renew(&self) -> bool {
        self.has_seen_others_renew
    }

    /// What the Lease said when it was last seen.
    #[must_use]
    pub fn lease(&self) -> Option<&LeaseRecord> {
        let lease = self.seen.as_ref()?.lease.as_ref()?;
        Some(&lease.record)
    }

    /// When to wake it; none while an answer is all that it waits for.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Monotonic> {
        let next = match &self.in_flight {
            Some(_) => None,
            None if self.end == End::Reached => None,
            None if self.must_read => Some(self.next_read),
            None if self.end == End::Asked => Some(self.next_release),
            None => Some(self.next_write.max(self.free_at())),
        };
        [next, self.acts_until()].into_iter().flatten().min()
    }

    /// Takes an event and answers what to do, in this order.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        let led = self.renewed.is_some();
        let mut gained = None;
        let mut lost = None;
        match event {
            Event::Woken => {}
            Event::Stop => {
                self.end = End::Asked;
                self.renewed = None;
            }
            Event::Seen(lease) => self.see(now.monotonic, lease),
            Event::Answered(answer) => {
                (gained, lost) = self.answered(now.monotonic, answer);
            }
        }
        if self.acts_until().is_some_and(|end| end <= now.monotonic) {
            self.renewed = None;
            self.must_read = true;
            lost = Some(Lost::NotRenewed);
        }
        let mut actions = Vec::new();
        match (led, self.renewed.is_some()) {
            (false, true) => actions.extend(gained.map(Action::Lead)),
            (true, false) => actions.extend(lost.map(Action::StepDown)),
            _ => {}
        }
        actions.extend(self.next_action(now));
        actions
    }

    /// What the watch shows may be old. A candidate loses nothing but time by it; a holder only takes it as a reason to
    /// look.
    fn see(&mut self, now: Monotonic, lease: Option<LeaseView>) {
        match lease {
            Some(lease) if self.renewed.is_none() => self.note(now, Some(lease)),
            Some(lease) if lease.record.holder == self.identity.name => {}
            _ => {
                self.must_read = true;
                self.next_read = now;
            }
        }
    }

    fn note(&mut self, now: Monotonic, lease: Option<LeaseView>) {
        let others = lease
            .as_ref()
            .map(|lease| lease.record.holder.as_str())
            .filter(|holder| !holder.is_empty() && *holder != self.identity.name);
        self.has_been_led |= lease
            .as_ref()
            .is_some_and(|lease| lease.record.has_been_held());
        match &mut self.seen {
            // Any other version is a change, whatever it says: the holder's clock may stand still.
            Some(seen) if seen.lease == lease => {}
            before => {
                self.has_seen_others_renew |= before.is_some() && others.is_some();
                *before = Some(Seen {
                    lease,
                    changed: now,
                });
            }
        }
    }

    fn answered(
        &mut self,
        now: Monotonic,
        answer: Result<Found, ClusterErrorKind>,
    ) -> (Option<Gained>, Option<Lost>) {
        let in_flight = self.in_flight.take();
        let is_read = matches!(in_flight, Some(InFlight::Read));
        match answer {
            Ok(found) => {
                let lease = match found {
                    Found::Lease(lease) => Some(lease),
                    Found::Nothing { has_been_led } => {
                        self.has_been_led |= has_been_led;
                        None
                    }
                };
                self.note(now, lease);
            }
            // Somebody was faster, or our own write arrived after all: read again, decide again.
            Err(
                ClusterErrorKind::Conflict
                | ClusterErrorKind::AlreadyExists
                | ClusterErrorKind::NotFound,
            ) if !is_read => {
                self.must_read = true;
                self.next_read = now;
                self.next_release = now;
                return (None, None);
            }
            // Of an update the outcome is unknown; the version tells at the next try.
            Err(_) => {
                self.must_read |= matches!(in_flight, Some(InFlight::Create));
                return (None, None);
            }
        }
        match in_flight {
            Some(InFlight::Read) => {
                self.must_read = false;
                return (None, self.step_down_if_overwritten());
            }
            Some(InFlight::Create) => {
                let lease = self.seen.as_ref().and_then(|seen| seen.lease.as_ref());
                let is_first = !self.has_been_led;
                self.claimable = lease
                    .filter(|_| is_first)
                    .map(|lease| lease.version.clone());
                self.next_write = now;
            }
            Some(InFlight::Release) => self.end = End::Reached,
            Some(InFlight::Hold { sent, gained }) if self.end == End::NotYet => {
                self.renewed = Some(sent);
                return (Some(gained), None);
            }
            None | Some(InFlight::Hold { .. }) => {}
        }
        (None, None)
    }

    /// A lease that was deleted or emptied by hand is renewed: others wait for its duration. Any other holder ends it.
    fn step_down_if_overwritten(&mut self) -> Option<Lost> {
        let lease = self.seen.as_ref()?.lease.as_ref()?;
        let record = &lease.record;
        let is_ours = record.holder == self.identity.name
            || (record.holder.is_empty() && !record.is_released());
        if is_ours || self.renewed.is_none() {
            return None;
        }
        let holder = record.holder.clone();
        self.renewed = None;
        Some(Lost::Overwritten(holder))
    }

    /// When the Lease may be written by us, as far as others are concerned.
    fn free_at(&self) -> Monotonic {
        let Some(seen) = &self.seen else {
            return Monotonic::default();
        };
        let wait = match &seen.lease {
            Some(lease) if self.renewed.is_none() && !self.may_be_taken_at_once(lease) => {
                let theirs = lease.record.lease_duration.min(FOREIGN_LEASE_MAX);
                self.timing.lease_duration.max(theirs)
            }
            // Ours, or to be created unclaimed.
            _ => Duration::ZERO,
        };
        seen.changed.after(wait)
    }

    fn may_be_taken_at_once(&self, lease: &LeaseView) -> bool {
        lease.record.holder == self.identity.name
            || lease.record.is_released()
            || self.claimable.as_ref() == Some(&lease.version)
    }

    fn next_action(&mut self, now: Now) -> Option<Action> {
        if self.end == End::Reached {
            return Some(Action::Stopped);
        }
        if self.in_flight.is_some() {
            return None;
        }
        if self.must_read {
            return self.read(now.monotonic);
        }
        if self.end == End::Asked {
            return self.release(now);
        }
        (now.monotonic >= self.next_write.max(self.free_at())).then(|| self.hold(now))
    }

    fn read(&mut self, now: Monotonic) -> Option<Action> {
        if now < self.next_read {
            return None;
        }
        self.next_read = now.after(self.timing.retry_period);
        self.in_flight = Some(InFlight::Read);
        Some(Action::Send(Request::Read))
    }

    fn release(&mut self, now: Now) -> Option<Action> {
        let lease = self.seen.as_ref().and_then(|seen| seen.lease.as_ref());
        let Some(lease) = lease.filter(|lease| lease.record.holder == self.identity.name) else {
            self.end = End::Reached;
            return Some(Action::Stopped);
        };
        if now.monotonic < self.next_release {
            return None;
        }
        let request = Request::Update {
            version: lease.version.clone(),
            record: lease.record.released(now.wall),
        };
        self.next_release = now.monotonic.after(self.timing.retry_period);
        self.in_flight = Some(InFlight::Release);
        Some(Action::Send(request))
    }

    fn hold(&mut self, now: Now) -> Action {
        self.next_write = now.monotonic.after(self.timing.retry_period);
        let lease = self.seen.as_ref().and_then(|seen| seen.lease.as_ref());
        let Some(LeaseView { version, record }) = lease else {
            self.in_flight = Some(InFlight::Create);
            return Action::Send(Request::Create(LeaseRecord {
                lease_duration: self.timing.lease_duration,
                ..LeaseRecord::default()
            }));
        };
        let (gained, acquire_time, transitions) = if record.holder == self.identity.name {
            let acquired = record.acquire_time.unwrap_or(now.wall);
            (Gained::TakenBack, acquired, record.transitions)
        } else if self.claimable.as_ref() == Some(version) {
            (Gained::Created, now.wall, record.transitions)
        } else {
            let gained = if record.is_released() {
                Gained::Released
            } else {
                Gained::Expired(record.holder.clone())
            };
            (gained, now.wall, record.transitions.saturating_add(1))
        };
        let request = Request::Update {
            version: version.clone(),
            record: LeaseRecord {
                holder: self.identity.name.clone(),
                lease_duration: self.timing.lease_duration,
                acquire_time: Some(acquire_time),
                renew_time: Some(now.wall),
                transitions,
                address: self.identity.address.clone(),
            },
        };
        self.in_flight = Some(InFlight::Hold {
            sent: now.monotonic,
            gained,
        });
        Action::Send(request)
    }
}
