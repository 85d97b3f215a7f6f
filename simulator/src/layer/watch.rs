//! A watch with faults: the lines of an answer's body, some withheld, doubled, garbled or late, until it ends one way
//! or another.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::io;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::part_of;
use crate::faults::{Call, EventKind, Fault, Faults, Kind, status};

/// What a client reads when its connection breaks.
pub(super) fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

/// The watch of `call` with faults.
pub(super) fn with_faults(body: Body, faults: Faults, call: Call) -> Body {
    let watch = Watch {
        faults,
        call,
        body: body.into_data_stream(),
        unread: VecDeque::new(),
        ready: VecDeque::new(),
        earlier: BTreeMap::new(),
        has_bookmarks: true,
        end: None,
    };
    Body::from_stream(stream::unfold(watch, |mut watch| async {
        let chunk = watch.next().await?;
        Some((chunk, watch))
    }))
}

/// How a watch ends once the lines that are ready are out.
enum End {
    /// As if it had timed out.
    Closed,
    Reset,
    /// It does not end, and says nothing.
    Silent,
}

struct Watch {
    faults: Faults,
    call: Call,
    body: BodyDataStream,
    /// Lines that have come from the server.
    unread: VecDeque<Bytes>,
    /// Lines that go to the client.
    ready: VecDeque<Bytes>,
    /// The last ADDED or MODIFIED of each object, by uid.
    earlier: BTreeMap<String, Bytes>,
    has_bookmarks: bool,
    end: Option<End>,
}

/// What an event says of itself.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
    uid: String,
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            match self.end.take() {
                None => {}
                Some(End::Closed) => {
                    self.end = Some(End::Closed);
                    return None;
                }
                Some(End::Reset) => {
                    self.end = Some(End::Closed);
                    return Some(Err(reset()));
                }
                Some(End::Silent) => pending().await,
            }
            let Some(line) = self.unread.pop_front() else {
                match self.read().await {
                    // The headers go out with it.
                    Some(true) => return Some(Ok(Bytes::new())),
                    Some(false) => continue,
                    None => return None,
                }
            };
            self.tell(line).await;
        }
    }

    /// Reads the next lines; whether there were none in what came. None at the end.
    async fn read(&mut self) -> Option<bool> {
        // The Router's own bodies do not break, and nothing is read after their end.
        let Some(Ok(chunk)) = self.body.next().await else {
            self.body = Body::empty().into_data_stream();
            return None;
        };
        let lines = chunk.split_inclusive(|byte| *byte == b'\n');
        self.unread.extend(lines.map(|line| chunk.slice_ref(line)));
        Some(chunk.is_empty())
    }

    async fn tell(&mut self, line: Bytes) {
        let Ok(head) = serde_json::from_slice::<Head>(&line) else {
            self.ready.push_back(line);
            return;
        };
        let uid = head.object.metadata.uid;
        let kind = match head.kind.as_str() {
            "ADDED" | "MODIFIED" => EventKind::Stored,
            "DELETED" => EventKind::Deleted,
            "BOOKMARK" if self.has_bookmarks => EventKind::Bookmark,
            "BOOKMARK" => return,
            _ => {
                self.ready.push_back(line);
                return;
            }
        };
        let earlier = self.earlier.get(&uid).cloned();
        let fault = self.faults.befall_event(kind, earlier.is_some());
        if kind == EventKind::Stored {
            self.earlier.insert(uid, line.clone());
        }
        match fault {
            None => self.ready.push_back(line),
            Some(fault) => {
                let name = head.object.metadata.name;
                self.carry_out(&fault, line, earlier, &name).await;
            }
        }
    }

    async fn carry_out(&mut self, fault: &Fault, line: Bytes, earlier: Option<Bytes>, name: &str) {
        if fault.kind == Kind::SameNameNewUid {
            return self.replace(fault, line, name).await;
        }
        self.faults.fired(fault, &self.call);
        match fault.kind {
            Kind::DuplicateEvent => self.ready.extend([line.clone(), line]),
            Kind::LateEvent => self.ready.extend([line].into_iter().chain(earlier)),
            Kind::MissedState => {
                self.withhold(fault.delay, |_| false).await;
                self.unread.clear();
                self.expire(fault);
            }
            Kind::GoneInStream => self.expire(fault),
            Kind::SilentWatch => self.end = Some(End::Silent),
            Kind::BookmarksMissing => self.has_bookmarks = false,
            Kind::WatchCut => {
                self.ready
                    .push_back(line.slice(..part_of(line.len(), fault.share)));
                self.end = Some(End::Closed);
            }
            Kind::EventGarbled => {
                let at = part_of(line.len(), fault.share);
                let garbled = [&line[..at], b"\x01\n"].concat();
                self.ready.push_back(garbled.into());
                self.end = Some(End::Reset);
            }
            // The one that is left: this watch lags behind all others.
            _ => {
                self.withhold(fault.delay, |_| false).await;
                self.ready.push_back(line);
            }
        }
    }

    /// Withholds a DELETED until the name is there again, then expires. A name that does not come again is only told
    /// late.
    async fn replace(&mut self, fault: &Fault, line: Bytes, name: &str) {
        let is_successor = |head: &Head| head.kind == "ADDED" && head.object.metadata.name == name;
        if self.withhold(fault.delay, is_successor).await {
            self.faults.fired(fault, &self.call);
            self.unread.clear();
            self.expire(fault);
        } else {
            self.ready.push_back(line);
        }
    }

    fn expire(&mut self, fault: &Fault) {
        let status = status(fault, &self.call).and_then(|status| serde_json::to_vec(&status).ok());
        let line = [
            br#"{"type":"ERROR","object":"#,
            &*status.unwrap_or_default(),
            b"}\n",
        ];
        self.ready.push_back(line.concat().into());
        self.end = Some(End::Closed);
    }

    /// Lets lines come without telling them, for a time or until one is found.
    async fn withhold(&mut self, time: Duration, found: impl Fn(&Head) -> bool) -> bool {
        let until = Instant::now() + time;
        let mut looked_at = 0;
        loop {
            for line in self.unread.iter().skip(looked_at) {
                if serde_json::from_slice(line).is_ok_and(|head| found(&head)) {
                    return true;
                }
            }
            looked_at = self.unread.len();
            match timeout_at(until, self.read()).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    tokio::time::sleep_until(until).await;
                    return false;
                }
                Err(_) => return false,
            }
        }
    }
}
