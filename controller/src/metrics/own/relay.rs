//! What became of requests that are the leader's, on a replica that does not lead.

use prometheus::{IntCounterVec, Registry};

use super::{OwnMetrics, counter_vec};

/// What became of one try to pass a request on to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The leader answered.
    Answered,
    /// It was not reached, or does not lead itself.
    Unreached,
    /// It broke off, or stopped leading, before its answer.
    CutOff,
}

impl Forwarded {
    const ALL: [Self; 3] = [Self::Answered, Self::Unreached, Self::CutOff];

    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreached => "unreached",
            Self::CutOff => "cutOff",
        }
    }
}

/// The ports whose requests are passed on to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayedPort {
    /// The callback API.
    Callback,
    /// The file server.
    Reports,
}

impl RelayedPort {
    const ALL: [Self; 2] = [Self::Callback, Self::Reports];

    fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Reports => "reports",
        }
    }
}

/// The label values of how a held callback came to its end.
const HELD: [&str; 2] = ["answered", "expired"];

#[derive(Debug)]
pub(super) struct RelayMetrics {
    forwarded_requests: IntCounterVec,
    held_callbacks: IntCounterVec,
}

impl RelayMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let relay = Self {
            forwarded_requests: counter_vec(
                registry,
                "forwarded_requests_total",
                "Tries to pass a request on to the leader, by port and outcome.",
                &["port", "outcome"],
            ),
            held_callbacks: counter_vec(
                registry,
                "held_callbacks_total",
                "Callbacks that waited for a leader, by what came of it: answered after all, or told to come again.",
                &["outcome"],
            ),
        };
        for port in RelayedPort::ALL {
            for outcome in Forwarded::ALL {
                relay.forwarded(port, outcome, 0);
            }
        }
        for outcome in HELD {
            relay.held(outcome, 0);
        }
        relay
    }

    fn forwarded(&self, port: RelayedPort, outcome: Forwarded, count: u64) {
        self.forwarded_requests
            .with_label_values(&[port.as_str(), outcome.as_str()])
            .inc_by(count);
    }

    fn held(&self, outcome: &str, count: u64) {
        self.held_callbacks
            .with_label_values(&[outcome])
            .inc_by(count);
    }
}

impl OwnMetrics {
    /// A request was tried to be passed on to the leader.
    pub fn forwarded(&self, port: RelayedPort, outcome: Forwarded) {
        self.relay.forwarded(port, outcome, 1);
    }

    /// A callback that waited for a leader was answered, or told to come again.
    pub fn callback_held(&self, is_answered: bool) {
        let [answered, expired] = HELD;
        let outcome = if is_answered { answered } else { expired };
        self.relay.held(outcome, 1);
    }
}
