//! The kinds of fault between a client and the API server: one closed list. To add one, add a row; the plan, the table
//! and the sweeps take it from there.
//!
//! Rows are those of the harness's catalogue: 1 to 10 what a client sees, 11 to 18 what becomes of its calls, 46 its
//! rights. Not a kind of its own: objects that change between two pages (a page that comes late does that), lists that
//! fail as a whole (a refusal does that).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::call::{Call, Verb};

/// What a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A call, the begin of a watch included.
    Call,
    /// An event of a watch.
    Event,
    /// A bookmark of a watch.
    Bookmark,
}

/// How it is known that a client took notice of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It makes the same call again, or reads what the call was about; after a 429, not before the time it was told. In
    /// process the watch that shows the object of an unanswered create is such a read.
    Repeat,
    /// It lists again from the first page.
    Relist,
    /// It lists or watches again.
    Rewatch,
    /// It watches from the old version that it was given, and so learns what it missed; or lists again.
    CatchUp,
    /// Only the client knows, and says so: [`Faults::told`](super::Faults::told).
    Told,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $row:literal, $place:ident, $notice:ident, $in_process:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind, in the order of the catalogue.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in files and tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its row in the harness's catalogue.
            #[must_use]
            pub fn row(self) -> u8 {
                match self { $(Self::$variant => $row,)* }
            }

            /// What it befalls.
            #[must_use]
            pub fn place(self) -> Place {
                match self { $(Self::$variant => Place::$place,)* }
            }

            /// How it is known that a client took notice.
            #[must_use]
            pub fn notice(self) -> Notice {
                match self { $(Self::$variant => Notice::$notice,)* }
            }

            /// Whether the controller's port can show it. Lists of the port are always most recent, and the reconnects
            /// of its watches are the adapter's. There `Told` means that the controller has taken the event: that it
            /// does no harm is for the invariants to say.
            #[must_use]
            pub fn is_in_process(self) -> bool {
                match self { $(Self::$variant => $in_process,)* }
            }
        }
    };
}

kinds! {
    /// The first list that may come from a cache (`resourceVersion=0`) shows an older version.
    StaleStart, "stale-start", 1, Call, CatchUp, false;
    /// A later list that may come from a cache shows an older version than the client has seen.
    TimeTravel, "time-travel", 2, Call, CatchUp, false;
    /// Events are withheld, then the watch expires: the steps in between are never seen.
    MissedState, "missed-state", 3, Event, Relist, true;
    /// An event comes twice.
    DuplicateEvent, "duplicate-event", 4, Event, Told, true;
    /// An earlier event of an object comes again after a newer one; MODIFIED after DELETED, too.
    LateEvent, "late-event", 4, Event, Told, true;
    /// A DELETED is withheld until the name exists again with another uid, then the watch expires.
    SameNameNewUid, "same-name-new-uid", 5, Event, Told, false;
    /// Watches from the version asked for are answered 410 until the client lists.
    GoneAtStart, "gone-at-start", 6, Call, Relist, false;
    /// The watch ends with an ERROR event of code 410.
    GoneInStream, "gone-in-stream", 6, Event, Relist, true;
    /// A continue token is answered 410 until the client lists from the first page.
    ContinueExpired, "continue-expired", 6, Call, Relist, true;
    /// A page after the first is answered 500.
    PageFailed, "page-failed", 7, Call, Relist, true;
    /// The connection is reset in the middle of a list's body.
    BodyCut, "body-cut", 7, Call, Relist, true;
    /// The watch stays open and says nothing any more.
    SilentWatch, "silent-watch", 8, Event, Rewatch, true;
    /// The watch has no bookmarks any more, that of a streaming list included.
    BookmarksMissing, "bookmarks-missing", 8, Bookmark, Rewatch, false;
    /// This watch and the next few end as soon as they have begun.
    WatchClosed, "watch-closed", 9, Call, Rewatch, false;
    /// The watch ends in the middle of an event.
    WatchCut, "watch-cut", 9, Event, Rewatch, false;
    /// An event is garbled and the connection reset.
    EventGarbled, "event-garbled", 9, Event, Rewatch, true;
    /// One watch lags behind the others: what happened first to one kind is seen after what happened later to another.
    KindsOutOfOrder, "kinds-out-of-order", 10, Event, Told, true;
    /// 429 with Retry-After.
    TooManyRequests, "too-many-requests", 11, Call, Repeat, true;
    /// 500.
    InternalError, "internal-error", 11, Call, Repeat, true;
    /// 502, by a proxy that does not speak Status.
    BadGateway, "bad-gateway", 11, Call, Repeat, true;
    /// 503.
    ServiceUnavailable, "service-unavailable", 11, Call, Repeat, true;
    /// 504, and nothing was done.
    GatewayTimeout, "gateway-timeout", 11, Call, Repeat, true;
    /// No connection.
    ConnectionRefused, "connection-refused", 11, Call, Repeat, true;
    /// Done, and not answered before a 504 after a minute.
    TimeoutAfterCommit, "timeout-after-commit", 12, Call, Repeat, true;
    /// Done, and the connection reset instead of an answer.
    ResetAfterCommit, "reset-after-commit", 12, Call, Repeat, true;
    /// The connection is reset, and the write is done all the same, later.
    GhostWrite, "ghost-write", 13, Call, Repeat, true;
    /// 409 on an update or a patch: somebody else has written.
    Conflict, "conflict", 14, Call, Repeat, true;
    /// 403: the quota is used up.
    Forbidden, "forbidden", 15, Call, Told, true;
    /// 422.
    Invalid, "invalid", 15, Call, Told, true;
    /// 400: an admission webhook denies it.
    WebhookDenied, "webhook-denied", 15, Call, Told, true;
    /// 401: the token has rotated.
    Unauthorized, "unauthorized", 16, Call, Repeat, true;
    /// The answer takes 1 to 60 s: half of the time the call is done before, else after that.
    SlowAnswer, "slow-answer", 17, Call, Repeat, true;
    /// A deletecollection deletes half, and answers 200.
    DeleteCollectionPartial, "delete-collection-partial", 18, Call, Repeat, true;
    /// A verb on a resource is answered 403 for a while.
    VerbLost, "verb-lost", 46, Call, Repeat, true;
}

impl Kind {
    /// Whether it may befall a call. `knows` says whether the client has listed the collection before.
    pub(super) fn befalls(self, call: &Call, knows: bool) -> bool {
        let verb = call.verb;
        match self {
            Self::StaleStart => call.is_cached_list() && !knows,
            Self::TimeTravel => call.is_cached_list() && knows,
            Self::GoneAtStart => verb == Verb::Watch && call.version > 0,
            Self::ContinueExpired | Self::PageFailed => {
                verb == Verb::List && !call.continue_token.is_empty()
            }
            Self::BodyCut => verb == Verb::List,
            Self::WatchClosed => verb == Verb::Watch,
            Self::TimeoutAfterCommit | Self::ResetAfterCommit | Self::GhostWrite => verb.is_write(),
            Self::Conflict => matches!(verb, Verb::Update | Verb::Patch),
            Self::Forbidden | Self::Invalid | Self::WebhookDenied => {
                matches!(verb, Verb::Create | Verb::Update | Verb::Patch)
            }
            Self::DeleteCollectionPartial => verb == Verb::DeleteCollection,
            _ => self.place() == Place::Call,
        }
    }
}

impl Kind {
    /// Whether a client cannot know what became of its write.
    pub(super) fn leaves_in_doubt(self) -> bool {
        matches!(
            self,
            Self::TimeoutAfterCommit | Self::ResetAfterCommit | Self::GhostWrite | Self::SlowAnswer
        )
    }

    /// Whether only few calls or events can be befallen: first lists, later pages, begins of watches, bookmarks, and
    /// the like.
    pub(super) fn is_seldom_possible(self) -> bool {
        matches!(
            self,
            Self::StaleStart
                | Self::TimeTravel
                | Self::SameNameNewUid
                | Self::GoneAtStart
                | Self::ContinueExpired
                | Self::PageFailed
                | Self::BodyCut
                | Self::BookmarksMissing
                | Self::WatchClosed
                | Self::Conflict
                | Self::DeleteCollectionPartial
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!(
                "no kind of fault is called {name:?}; there are {}",
                names.join(", ")
            )
        })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_between_client_and_api_server_has_a_kind() {
        let rows: BTreeSet<u8> = Kind::ALL.iter().map(|kind| kind.row()).collect();
        assert_eq!(rows, (1..=18).chain([46]).collect());
    }

    #[test]
    fn names_are_read_back_and_are_different() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("nope".parse::<Kind>().unwrap_err().contains("stale-start"));
    }
}
