//! What happens to processes, volumes, clocks and nodes: one closed list beside that of `faults`, when each happens in
//! a run, and what became of it.
//!
//! To add a kind, add a row, what it does when it is due (`happening`) and the sign by which it shows that somebody
//! took notice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::faults::Count;
use crate::rng::{Seed, Stream};

/// The most that one kind happens in a run.
const TIMES_MAX: f64 = 6.0;

/// What shows that somebody took notice of a disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Another process took over: the epoch in the state record rose.
    TakeOver,
    /// The process, or the one after it, was answered by the API server.
    Call,
    /// A call of the process met the cut.
    Cut,
    /// The Lease was shown to a replica.
    Lease,
    /// The nodes were listed by a replica, or shown to one.
    Nodes,
    /// The pods were shown to a replica.
    Pods,
    /// A job pod repeated its post.
    Repetition,
    /// A replica did not reach another.
    Peers,
    /// An access to the volume met it.
    DiskFull,
    DiskBroken,
    DiskStalled,
    /// An execution was claimed.
    Claim,
    /// The ConfigMap was read by a replica.
    ConfigMap,
    /// A replica said that it refuses the ConfigMap.
    ConfigMapRefused,
    /// The state record says that a trigger was handled.
    Trigger,
    /// The state record says that a cancellation was handled.
    Cancel,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $row:literal, $sign:ident;)*) => {
        /// A kind of disturbance.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Disturbance {
            $($(#[$doc])* $variant,)*
        }

        impl Disturbance {
            /// Every kind, in the order of the catalogue.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in options and tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its row in the harness's catalogue.
            #[must_use]
            pub fn row(self) -> u8 {
                match self { $(Self::$variant => $row,)* }
            }

            fn sign(self) -> Sign {
                match self { $(Self::$variant => Sign::$sign,)* }
            }
        }
    };
}

kinds! {
    /// A process is killed.
    Crash, "crash", 19, Call;
    /// A process is killed as one of its next calls begins, or has been answered.
    CrashAtCall, "crash-at-call", 19, Call;
    /// A process is killed at any of the next polls of its main task.
    CrashAtPoll, "crash-at-poll", 19, Call;
    /// Whoever takes over next is killed at one of its first calls as leader.
    CrashInRecovery, "crash-in-recovery", 20, TakeOver;
    /// A process is told to end, hands over, and is started again.
    Terminate, "terminate", 21, Call;
    /// A process stands still, often for longer than its lease.
    Pause, "pause", 22, Call;
    /// A process stands still as one of its next calls has been answered: it wakes in the middle of what it does.
    PauseAtCall, "pause-at-call", 22, Call;
    /// A process cannot connect to the API server.
    ApiRefused, "api-refused", 25, Cut;
    /// What a process sends to the API server is lost.
    ApiSilent, "api-silent", 25, Cut;
    /// What a process sends to the API server is carried out; it is not told.
    ApiAnswersLost, "api-answers-lost", 26, Cut;
    /// A process reaches everything but its Lease.
    LeaseRefused, "lease-refused", 25, Cut;
    /// Somebody deletes the Lease.
    LeaseDeleted, "lease-deleted", 27, Lease;
    /// Somebody writes another holder into the Lease, or a time of renewal that is far away.
    LeaseOverwritten, "lease-overwritten", 27, Lease;
    /// The monotonic clocks of the replicas do not go equally fast.
    ClockRate, "clock-rate", 26, Call;
    /// Every process is killed, and stays away for longer than the lease.
    NoLeader, "no-leader", 29, TakeOver;
    /// A wall clock steps by up to an hour, either way.
    ClockStep, "clock-step", 30, Call;
    /// The clocks are put forward or back while the run lasts, where the time zone does that.
    ClockChange, "clock-change", 30, Claim;
    /// The wall clocks of the replicas do not agree.
    ClockSkew, "clock-skew", 31, Call;
    /// Somebody asks for an execution with the annotation.
    Trigger, "trigger", 32, Trigger;
    /// Somebody cancels the execution in progress with the annotation.
    Cancel, "cancel", 32, Cancel;
    /// A node is NotReady, for a while or for good.
    NodeNotReady, "node-not-ready", 33, Nodes;
    /// A node is deleted.
    NodeDeleted, "node-deleted", 33, Nodes;
    /// A node is deleted, and another one has its name at once.
    NodeReplaced, "node-replaced", 33, Nodes;
    /// A node is deleted, and another one has its name some time later.
    NodeRecreated, "node-recreated", 33, Nodes;
    /// A node joins.
    NodeJoined, "node-joined", 34, Nodes;
    /// A node is cordoned, for a while or for good.
    NodeCordoned, "node-cordoned", 34, Nodes;
    /// Some pods never start: no image, a refusal by the kubelet.
    PodNeverStarts, "pod-never-starts", 35, Pods;
    /// Some pods are evicted while they run.
    PodEvicted, "pod-evicted", 35, Pods;
    /// Some pods run for ever, and do not stop when they are told to.
    PodHangs, "pod-hangs", 35, Pods;
    /// Somebody deletes a pod, ended or not.
    PodDeleted, "pod-deleted", 36, Pods;
    /// Ended pods are collected, above a small number.
    PodGc, "pod-gc", 36, Pods;
    /// The answer to a post is lost on its way.
    PostAnswerLost, "post-answer-lost", 39, Repetition;
    /// The volume is full for a while.
    DiskFull, "disk-full", 40, DiskFull;
    /// The volume fails for a while.
    DiskBroken, "disk-broken", 40, DiskBroken;
    /// The volume does not answer for a while.
    DiskStalled, "disk-stalled", 41, DiskStalled;
    /// The power fails: all processes are gone, and what was being appended is there in part.
    PowerLoss, "power-loss", 42, TakeOver;
    /// Job pods do not reach a process.
    PodsCutOff, "pods-cut-off", 44, Repetition;
    /// The replicas do not reach each other.
    PeersCutOff, "peers-cut-off", 44, Peers;
    /// Configuration and template are changed: another pool size, another image.
    ConfigChanged, "config-changed", 45, ConfigMap;
    /// The ConfigMap is broken for a while, or deleted.
    ConfigBroken, "config-broken", 45, ConfigMapRefused;
}

impl Disturbance {
    /// Whether it is how the run is made, and not something that happens at a time.
    fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::ClockChange
                | Self::ClockRate
                | Self::ClockSkew
                | Self::PodGc
                | Self::PodNeverStarts
                | Self::PodEvicted
                | Self::PodHangs
        )
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One disturbance at its time.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) at: Duration,
    pub(super) kind: Disturbance,
    /// What it draws from when it happens.
    pub(super) stream: Stream,
}

/// Which disturbances a run has: each kind is off in half of the seeds, and happens once to a few times in the others.
#[derive(Debug, Clone, Default)]
pub struct Timeline(BTreeMap<Disturbance, u32>);

impl Timeline {
    /// A kind's draw depends on nothing but its name.
    #[must_use]
    pub fn drawn(seed: Seed) -> Self {
        let seed = seed.child("disturbances");
        let times = |kind: &Disturbance| {
            let mut stream = seed.stream(kind.name());
            let is_on = stream.between(0, 1) == 1;
            // Uneven: often once, seldom as often as can be.
            let times = 1.0 + (TIMES_MAX - 1.0) * stream.unit().powi(3);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small number that is not negative"
            )]
            is_on.then_some((*kind, times as u32))
        };
        Self(Disturbance::ALL.iter().filter_map(times).collect())
    }

    /// These kinds, so many times each.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = (Disturbance, u32)>) -> Self {
        Self(times.into_iter().collect())
    }

    /// Without those that do not pass.
    pub fn retain(&mut self, keep: impl Fn(Disturbance) -> bool) {
        self.0.retain(|kind, _| keep(*kind));
    }

    /// Whether the kind may happen.
    #[must_use]
    pub fn enables(&self, kind: Disturbance) -> bool {
        self.0.contains_key(&kind)
    }

    /// What happens within `window`, in order.
    pub(super) fn within(&self, seed: Seed, window: (Duration, Duration)) -> Vec<Due> {
        let seed = seed.child("disturbances/when");
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (begin, end) = (millis(window.0), millis(window.1));
        let mut due = Vec::new();
        for (kind, times) in self.0.iter().filter(|(kind, _)| !kind.is_lasting()) {
            for number in 0..*times {
                let mut stream = seed.stream(&format!("{kind}/{number}"));
                let at = Duration::from_millis(stream.between(begin, end));
                let kind = *kind;
                due.push(Due { at, kind, stream });
            }
        }
        due.sort_by_key(|due| due.at);
        due
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = (self.0.iter())
            .map(|(kind, times)| format!("{kind}×{times}"))
            .collect();
        f.write_str(&kinds.join(" "))
    }
}

/// One that has happened and has not been recovered from.
#[derive(Debug)]
struct Firing {
    kind: Disturbance,
    slot: Option<usize>,
    is_noticed: bool,
}

/// What became of the disturbances of a run. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Disturbances(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
struct Ledger {
    counts: BTreeMap<Disturbance, Count>,
    open: Vec<Firing>,
}

impl Disturbances {
    pub(super) fn of(timeline: &Timeline) -> Self {
        let count = |kind: &Disturbance| {
            let enabled = u64::from(timeline.enables(*kind));
            let count = Count {
                enabled,
                ..Count::default()
            };
            (*kind, count)
        };
        let ledger = Ledger {
            counts: Disturbance::ALL.iter().map(count).collect(),
            open: Vec::new(),
        };
        Self(Arc::new(Mutex::new(ledger)))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It happened, to the replica of that place where it befalls one.
    pub(super) fn fired(&self, kind: Disturbance, slot: Option<usize>) {
        let mut ledger = self.ledger();
        ledger.counts.entry(kind).or_default().fired += 1;
        ledger.open.push(Firing {
            kind,
            slot,
            is_noticed: false,
        });
    }

    /// Something shows that what happened before was noticed.
    pub(super) fn show(&self, sign: Sign, slot: Option<usize>) {
        let ledger = &mut *self.ledger();
        for firing in &mut ledger.open {
            let is_its = firing.slot.is_none() || slot.is_none() || firing.slot == slot;
            if !firing.is_noticed && firing.kind.sign() == sign && is_its {
                firing.is_noticed = true;
                ledger.counts.entry(firing.kind).or_default().noticed += 1;
            }
        }
    }

    /// Everything that was noticed is over, and all is well.
    pub(super) fn converged(&self) {
        let ledger = &mut *self.ledger();
        for firing in ledger.open.drain(..).filter(|firing| firing.is_noticed) {
            ledger.counts.entry(firing.kind).or_default().recovered += 1;
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<Disturbance, Count> {
        self.ledger().counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbance_is_noticed_by_its_sign_at_its_replica_and_recovered_once() {
        let disturbances = Disturbances::of(&Timeline::default());
        disturbances.fired(Disturbance::Crash, Some(1));
        disturbances.show(Sign::Call, Some(0));
        disturbances.show(Sign::Nodes, None);
        let count = || disturbances.counts()[&Disturbance::Crash];
        assert_eq!((count().fired, count().noticed), (1, 0));
        disturbances.show(Sign::Call, Some(1));
        disturbances.show(Sign::Call, Some(1));
        disturbances.converged();
        disturbances.converged();
        assert_eq!((count().noticed, count().recovered), (1, 1));
    }

    #[test]
    fn what_happens_is_in_order_and_the_same_for_a_seed() {
        let timeline = Timeline::drawn(Seed::of_run(3));
        let window = (Duration::from_secs(10), Duration::from_secs(100));
        let times = || {
            let due = timeline.within(Seed::of_run(3), window);
            due.iter().map(|due| due.at).collect::<Vec<_>>()
        };
        assert!(times().is_sorted() && times() == times() && !times().is_empty());
    }
}
