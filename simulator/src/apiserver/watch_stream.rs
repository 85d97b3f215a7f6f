//! Watches over HTTP: one JSON object a line, until the timeout.
//!
//! The stream pulls from the history when the connection has room, so a slow client holds no memory here; one that
//! falls behind the history gets an ERROR and the end.

use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::ApiServer;
use super::accept::Form;
use super::query::Query;
use super::respond::{JSON, respond};
use super::table::{self, Include};
use crate::state::{Cause, Row, Selector, Status, WatchCursor, WatchEvent, WatchFrom};

/// How long a watch lasts that does not say. A real server draws from 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(45);
/// How often a watch that asks for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);
/// When a streaming list gets its first ordinary bookmark: a real server sends one within two seconds.
const FIRST_BOOKMARK: Duration = Duration::from_millis(1250);
/// How long before the timeout the last bookmark comes, as by a real server.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Events put into one chunk of the body.
const BATCH: usize = 256;

/// A watch in progress.
struct Stream {
    server: ApiServer,
    changed: super::Changes,
    cursor: WatchCursor,
    row: &'static Row,
    form: Form,
    include: Include,
    bookmarks: bool,
    deadline: Instant,
    next_bookmark: Instant,
    first: bool,
    /// Whether the headers have gone out with an empty chunk.
    opened: bool,
}

/// Begins a watch.
///
/// # Errors
/// 422 for parameters that contradict each other, 500 for a version that is none.
pub(super) fn serve(
    server: &ApiServer,
    row: &'static Row,
    namespace: Option<&str>,
    selector: Selector,
    query: &Query,
    form: Form,
) -> Result<Response<Body>, Status> {
    let from = begin(server, query)?;
    let changed = server.subscribe_to(row);
    let cursor = server.read(|state| state.watch(row, namespace, selector, from));
    let start = Instant::now();
    let deadline = start + query.timeout()?.unwrap_or(DEFAULT_TIMEOUT);
    let first_bookmark = if from == WatchFrom::InitialEvents {
        FIRST_BOOKMARK
    } else {
        BOOKMARK_INTERVAL
    };
    let stream = Stream {
        server: server.clone(),
        changed,
        cursor,
        row,
        form,
        include: Include::parse(query.get("includeObject")),
        bookmarks: query.flag("allowWatchBookmarks"),
        deadline,
        next_bookmark: before_deadline(start, start + first_bookmark, deadline),
        first: true,
        opened: false,
    };
    let body = Body::from_stream(stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    }));
    Ok(respond(StatusCode::OK, JSON, body))
}

/// The next bookmark's time, or that of the last one before the deadline where that comes first.
fn before_deadline(now: Instant, next: Instant, deadline: Instant) -> Instant {
    let last = deadline
        .checked_sub(LAST_BOOKMARK)
        .filter(|last| *last > now)
        .unwrap_or(deadline);
    next.min(last)
}

fn begin(server: &ApiServer, query: &Query) -> Result<WatchFrom, Status> {
    check_parameters(query)?;
    let version = match query.get("resourceVersion") {
        "" => 0,
        text => text.parse().map_err(|_| {
            Status::unclassified(format!(
                "strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?,
    };
    if query.has("sendInitialEvents") {
        return Ok(match (query.flag("sendInitialEvents"), version) {
            (true, _) => WatchFrom::InitialEvents,
            (false, 0) => WatchFrom::Version(server.read(crate::state::State::version)),
            (false, version) => WatchFrom::Version(version),
        });
    }
    Ok(if version == 0 {
        WatchFrom::Now
    } else {
        WatchFrom::Version(version)
    })
}

fn check_parameters(query: &Query) -> Result<(), Status> {
    let matching = query.get("resourceVersionMatch");
    let cause = match (query.has("sendInitialEvents"), matching) {
        (true, "") => Cause::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (true, "NotOlderThan") | (false, "") => return Ok(()),
        (true, other) => Cause::not_supported("resourceVersionMatch", other, &["NotOlderThan"]),
        (false, _) => Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    };
    Err(Status::invalid_kind(
        "meta.k8s.io",
        "ListOptions",
        "",
        vec![cause],
    ))
}

impl Stream {
    /// The next chunk; none at the end. An empty first one sends the headers at once.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.opened {
            self.opened = true;
            let chunk = self.poll();
            return Some(chunk.unwrap_or_default());
        }
        loop {
            if self.cursor.is_over() {
                return None;
            }
            if let Some(chunk) = self.poll() {
                return Some(chunk);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return None;
            }
            if now >= self.next_bookmark {
                let due = now + BOOKMARK_INTERVAL;
                self.next_bookmark = before_deadline(now, due, self.deadline);
                if self.bookmarks {
                    let event = WatchEvent::Bookmark {
                        version: self.cursor.version(),
                        initial_events_end: false,
                    };
                    let mut chunk = BytesMut::new();
                    self.write(&event, &mut chunk);
                    return Some(chunk.freeze());
                }
            }
            let wake = if self.bookmarks {
                self.next_bookmark.min(self.deadline)
            } else {
                self.deadline
            };
            tokio::select! {
                biased;
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(wake) => {}
            }
        }
    }

    fn poll(&mut self) -> Option<Bytes> {
        let events = self
            .server
            .read(|state| state.poll(&mut self.cursor, BATCH));
        let mut chunk = BytesMut::new();
        for event in &events {
            if self.bookmarks || !matches!(event, WatchEvent::Bookmark { .. }) {
                self.write(event, &mut chunk);
            }
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }

    fn write(&mut self, event: &WatchEvent, chunk: &mut BytesMut) {
        chunk.extend_from_slice(br#"{"type":""#);
        chunk.extend_from_slice(event.name().as_bytes());
        chunk.extend_from_slice(br#"","object":"#);
        chunk.extend_from_slice(&self.object(event));
        chunk.put_slice(b"}\n");
        self.first = false;
    }

    fn object(&self, event: &WatchEvent) -> Bytes {
        let encoded = |value: &Value| Bytes::from(serde_json::to_vec(value).unwrap_or_default());
        match (self.form, event) {
            (_, WatchEvent::Error(status)) => {
                Bytes::from(serde_json::to_vec(status).unwrap_or_default())
            }
            (Form::Table, _) => {
                let table =
                    table::of_event(self.row, event, self.include, self.server.now(), self.first);
                encoded(&table.unwrap_or_default())
            }
            (
                Form::Metadata,
                WatchEvent::Bookmark {
                    version,
                    initial_events_end,
                },
            ) => encoded(&table::bookmark(
                "meta.k8s.io/v1",
                "PartialObjectMetadata",
                *version,
                *initial_events_end,
            )),
            (
                _,
                WatchEvent::Bookmark {
                    version,
                    initial_events_end,
                },
            ) => encoded(&table::bookmark(
                &self.row.api_version(),
                self.row.kind,
                *version,
                *initial_events_end,
            )),
            (
                form,
                WatchEvent::Added(object)
                | WatchEvent::Modified(object)
                | WatchEvent::Deleted(object),
            ) => {
                if form == Form::Metadata {
                    encoded(&table::partial(object))
                } else {
                    object.encoded(self.row)
                }
            }
        }
    }
}
