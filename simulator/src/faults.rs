//! Faults between a client and the API server: which happen, and what became of each.
//!
//! A [`Plan`] says how often a kind happens or where it is placed; [`Faults`] decides at each call and each event of a
//! watch, and keeps the counts. Every kind draws from a stream of its own, at everything that it may befall, so that a
//! new draw in one moves no other. Carrying a fault out is for `layer` (over the Router) and `faulty_cluster` (over the
//! controller's port).
//!
//! What is counted: a fault has *fired* when a client got something else than it would have; it was *noticed* when the
//! client did what [`Kind::notice`] says; it is *recovered* when it was noticed and the client's view then agreed with
//! the server's state, which whoever compares them says with [`Faults::converged`].

mod call;
mod kind;
mod plan;
mod refusal;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use call::{Call, Verb};
pub use kind::{Kind, Notice, Place};
pub use plan::{Placed, Plan};
pub(crate) use refusal::{refusal_in, status};
pub use tally::{Count, Tally};

use crate::rng::{Seed, Stream};

/// The longest time that a fault takes: an answer that comes late, a write that lands late, a watch that lags, a verb
/// that is lost. Kubernetes' own limit for a request.
pub const DELAY_MAX: Duration = Duration::from_mins(1);

/// The shortest of these times.
const DELAY_MIN: Duration = Duration::from_secs(1);

/// The longest pause that a 429 asks for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// The most watches in a row that end at once.
const CLOSED_MAX: u64 = 5;

/// A fault that is due, with what was drawn for it. It counts once [`Faults::fired`] is told.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What is to happen.
    pub kind: Kind,
    /// How long it takes, from 1 s to [`DELAY_MAX`]; for a 429 what the client is told to wait, at most
    /// [`RETRY_AFTER_MAX`].
    pub delay: Duration,
    /// A choice between two forms of the kind.
    pub coin: bool,
    /// A number from 0 to below 1: how far back, how far into a body.
    pub share: f64,
    /// Whether it is part of one that began earlier.
    pub goes_on: bool,
}

/// One fault that has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FiringId(u64);

/// What an event of a watch is, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// ADDED or MODIFIED.
    Stored,
    /// DELETED.
    Deleted,
    Bookmark,
}

/// The faults of a run. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Faults {
    /// None where nothing can happen.
    inner: Option<Arc<Mutex<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    plan: Plan,
    is_active: bool,
    streams: BTreeMap<Kind, Stream>,
    /// Calls or events that a kind could have befallen.
    opportunities: BTreeMap<Kind, u64>,
    counts: BTreeMap<Kind, Count>,
    fired: Vec<Firing>,
    next_id: u64,
    /// Who has listed what: client, resource, namespace.
    listed: BTreeSet<CollectionKey>,
    lasting: Lasting,
}

type CollectionKey = (Arc<str>, &'static str, String);

/// Faults that go on for a while.
#[derive(Debug, Default)]
struct Lasting {
    /// Watches from this version or before it are answered 410, until a list.
    expired: BTreeMap<CollectionKey, u64>,
    /// The token that is answered 410, until a list from the first page.
    expired_tokens: BTreeMap<CollectionKey, String>,
    /// How many more watches end at once.
    closed: BTreeMap<CollectionKey, u64>,
    /// Until when a verb is refused.
    lost_verbs: BTreeMap<(Arc<str>, Verb, &'static str), Instant>,
}

/// A fault that has fired and has not been recovered from.
#[derive(Debug)]
struct Firing {
    id: FiringId,
    kind: Kind,
    call: Call,
    /// A repetition before this time does not count: the client was told to wait.
    not_before: Instant,
    /// The version that a stale list showed.
    shown: u64,
    is_noticed: bool,
}

impl Faults {
    /// Nothing ever happens.
    #[must_use]
    pub fn none() -> Self {
        Self { inner: None }
    }

    /// The faults of a plan, in streams below `seed`.
    #[must_use]
    pub fn new(plan: Plan, seed: Seed) -> Self {
        if plan.is_none() {
            return Self::none();
        }
        let seed = seed.child("faults");
        let stream = |kind: &Kind| (*kind, seed.stream(kind.name()));
        let count = |kind: &Kind| {
            let enabled = u64::from(plan.enables(*kind));
            (
                *kind,
                Count {
                    enabled,
                    ..Count::default()
                },
            )
        };
        let inner = Inner {
            streams: Kind::ALL.iter().map(stream).collect(),
            counts: Kind::ALL.iter().map(count).collect(),
            plan,
            is_active: true,
            opportunities: BTreeMap::new(),
            fired: Vec::new(),
            next_id: 0,
            listed: BTreeSet::new(),
            lasting: Lasting::default(),
        };
        Self {
            inner: Some(Arc::new(Mutex::new(inner))),
        }
    }

    /// Whether nothing can ever happen.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.inner.is_none()
    }

    /// Takes note of a call: of earlier faults that it shows to have been noticed. Decides what befalls it.
    #[must_use]
    pub fn befall(&self, call: &Call) -> Option<Fault> {
        self.with(|inner| inner.befall(call))?
    }

    /// Decides what befalls an event of the watch that `call` began; a late event needs one that `has_earlier`.
    #[must_use]
    pub fn befall_event(&self, event: EventKind, has_earlier: bool) -> Option<Fault> {
        self.with(|inner| {
            inner.decide(|kind| match (event, kind) {
                (EventKind::Bookmark, kind) => kind.place() == Place::Bookmark,
                (EventKind::Stored, Kind::SameNameNewUid) => false,
                (_, Kind::LateEvent) => has_earlier,
                (_, kind) => kind.place() == Place::Event,
            })
        })?
    }

    /// The fault was carried out: the client of `call` got something else than it would have.
    pub fn fired(&self, fault: &Fault, call: &Call) {
        self.fired_at(fault, call, 0);
    }

    /// As [`Faults::fired`], for an answer that is late: who waits for it has nothing to notice, as
    /// [`Faults::waited_out`] says.
    #[must_use]
    pub fn fired_late(&self, fault: &Fault, call: &Call) -> Option<FiringId> {
        self.with(|inner| inner.fire(fault, call, 0))
    }

    /// The client has waited for the late answer.
    pub fn waited_out(&self, id: FiringId) {
        self.with(|inner| {
            inner
                .fired
                .retain(|firing| firing.id != id || firing.is_noticed);
        });
    }

    /// As [`Faults::fired`], for a list that showed the state at an old version.
    pub fn fired_at(&self, fault: &Fault, call: &Call, shown: u64) {
        self.with(|inner| inner.fire(fault, call, shown));
    }

    /// A client's process has started anew: its next list is its first.
    pub fn restarted(&self, client: &str) {
        self.with(|inner| inner.listed.retain(|(who, ..)| **who != *client));
    }

    /// A client says that it took notice of a fault of this kind, as only it can know. Without one it says nothing.
    pub fn told(&self, client: &str, kind: Kind) {
        self.with(|inner| {
            let mut open = inner.fired.iter_mut();
            let open = open.find(|firing| {
                firing.kind == kind && *firing.call.client == *client && !firing.is_noticed
            });
            if let Some(firing) = open {
                firing.is_noticed = true;
                inner.counts.entry(kind).or_default().noticed += 1;
            }
        });
    }

    /// A watch or a list shows a client the object that an unanswered create of it was about: that settles it like a
    /// read.
    pub fn shown(&self, client: &str, resource: &'static str, name: &str) {
        self.with(|inner| {
            for firing in &mut inner.fired {
                let call = &firing.call;
                let settles = firing.kind.leaves_in_doubt()
                    && call.verb == Verb::Create
                    && (&*call.client, call.resource, &*call.name) == (client, resource, name);
                if settles && !firing.is_noticed {
                    firing.is_noticed = true;
                    inner.counts.entry(firing.kind).or_default().noticed += 1;
                }
            }
        });
    }

    /// A client's view agrees with the server's state: what it has noticed it has recovered from.
    pub fn converged(&self, client: &str) {
        self.with(|inner| {
            let counts = &mut inner.counts;
            inner.fired.retain(|firing| {
                let is_over = firing.is_noticed && *firing.call.client == *client;
                if is_over {
                    counts.entry(firing.kind).or_default().recovered += 1;
                }
                !is_over
            });
        });
    }

    /// No more faults, until [`Faults::resume`]: what goes on for a while ends, except that what has expired stays so.
    pub fn heal(&self) {
        self.with(|inner| {
            inner.is_active = false;
            inner.lasting.closed.clear();
            inner.lasting.lost_verbs.clear();
        });
    }

    /// Faults happen again.
    pub fn resume(&self) {
        self.with(|inner| inner.is_active = true);
    }

    /// What became of each kind so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let counts = self.with(|inner| inner.counts.clone());
        Tally::of(counts.unwrap_or_default())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> Option<R> {
        let inner = self.inner.as_ref()?;
        let mut inner: MutexGuard<'_, Inner> = inner.lock().unwrap_or_else(PoisonError::into_inner);
        Some(work(&mut inner))
    }
}

impl Inner {
    fn befall(&mut self, call: &Call) -> Option<Fault> {
        self.note(call);
        let key = key(call);
        let fault = self.lasting(call, &key);
        let knows = self.listed.contains(&key);
        if call.begins_anew() {
            self.listed.insert(key.clone());
            self.lasting.expired.remove(&key);
            self.lasting.expired_tokens.remove(&key);
        }
        if fault.is_some() {
            return fault;
        }
        self.decide(|kind| kind.befalls(call, knows))
    }

    /// Marks what this call shows to have been noticed.
    fn note(&mut self, call: &Call) {
        let now = Instant::now();
        for firing in &mut self.fired {
            if !firing.is_noticed && firing.not_before <= now && firing.is_noticed_by(call) {
                firing.is_noticed = true;
                self.counts.entry(firing.kind).or_default().noticed += 1;
            }
        }
    }

    /// A fault that has begun earlier and befalls this call, too.
    fn lasting(&mut self, call: &Call, key: &CollectionKey) -> Option<Fault> {
        let lasting = &mut self.lasting;
        let kind = match call.verb {
            Verb::Watch
                if lasting
                    .expired
                    .get(key)
                    .is_some_and(|to| call.version <= *to && call.version > 0) =>
            {
                Kind::GoneAtStart
            }
            Verb::Watch if lasting.closed.get(key).is_some_and(|left| *left > 0) => {
                *lasting.closed.entry(key.clone()).or_default() -= 1;
                Kind::WatchClosed
            }
            Verb::List if lasting.expired_tokens.get(key) == Some(&call.continue_token) => {
                Kind::ContinueExpired
            }
            verb => {
                let lost = (Arc::clone(&call.client), verb, call.resource);
                let until = lasting.lost_verbs.get(&lost)?;
                if *until <= Instant::now() {
                    lasting.lost_verbs.remove(&lost);
                    return None;
                }
                Kind::VerbLost
            }
        };
        Some(Fault {
            kind,
            delay: Duration::ZERO,
            coin: false,
            share: 0.0,
            goes_on: true,
        })
    }

    /// Every kind that may happen here draws; of those that do, the first in the catalogue happens.
    fn decide(&mut self, may: impl Fn(Kind) -> bool) -> Option<Fault> {
        let mut due = None;
        for kind in Kind::ALL.iter().copied().filter(|kind| may(*kind)) {
            if !self.is_active || !self.plan.enables(kind) {
                continue;
            }
            let nth = self.opportunities.entry(kind).or_default();
            *nth += 1;
            let Some(stream) = self.streams.get_mut(&kind) else {
                continue;
            };
            let hit = stream.unit() < self.plan.rate(kind) || self.plan.is_placed(kind, *nth);
            if hit {
                // Drawn whether it happens or not: the stream goes on the same way.
                let fault = draw(kind, stream);
                due = due.or(Some(fault));
            }
        }
        due
    }

    fn fire(&mut self, fault: &Fault, call: &Call, shown: u64) -> FiringId {
        let id = FiringId(self.next_id);
        self.next_id += 1;
        let kind = fault.kind;
        let now = Instant::now();
        let is_asked_to_wait = kind == Kind::TooManyRequests;
        self.counts.entry(kind).or_default().fired += 1;
        self.fired.push(Firing {
            id,
            kind,
            call: call.clone(),
            not_before: if is_asked_to_wait {
                now + fault.delay
            } else {
                now
            },
            shown,
            is_noticed: false,
        });
        if fault.goes_on {
            return id;
        }
        let lasting = &mut self.lasting;
        match kind {
            Kind::GoneAtStart => {
                lasting.expired.insert(key(call), call.version);
            }
            Kind::ContinueExpired => {
                lasting
                    .expired_tokens
                    .insert(key(call), call.continue_token.clone());
            }
            Kind::WatchClosed => {
                let more = fault.share * f64::from(u32::try_from(CLOSED_MAX).unwrap_or(u32::MAX));
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a small number that is not negative"
                )]
                lasting.closed.insert(key(call), more as u64);
            }
            Kind::VerbLost => {
                let lost = (Arc::clone(&call.client), call.verb, call.resource);
                lasting.lost_verbs.insert(lost, now + fault.delay);
            }
            _ => {}
        }
        id
    }
}

impl Firing {
    fn is_noticed_by(&self, call: &Call) -> bool {
        let lists = call.begins_anew();
        // Asked of every call and every fault that nobody has noticed: what is quick to see comes first.
        match self.kind.notice() {
            Notice::Repeat => call.repeats(&self.call),
            Notice::Relist => lists && call.shares_collection(&self.call),
            Notice::Rewatch => {
                (lists || call.verb == Verb::Watch) && call.shares_collection(&self.call)
            }
            Notice::CatchUp => {
                let catches_up = call.verb == Verb::Watch && call.version == self.shown;
                (lists || catches_up) && call.shares_collection(&self.call)
            }
            Notice::Told => false,
        }
    }
}

fn key(call: &Call) -> CollectionKey {
    (
        Arc::clone(&call.client),
        call.resource,
        call.namespace.clone(),
    )
}

fn draw(kind: Kind, stream: &mut Stream) -> Fault {
    let max = if kind == Kind::TooManyRequests {
        RETRY_AFTER_MAX
    } else {
        DELAY_MAX
    };
    Fault {
        kind,
        delay: Duration::from_secs(stream.between(DELAY_MIN.as_secs(), max.as_secs())),
        coin: stream.between(0, 1) == 1,
        share: stream.unit(),
        goes_on: false,
    }
}
