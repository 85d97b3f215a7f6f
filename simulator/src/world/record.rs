//! The record of a run: every change of a pod and every answer of the callback, told to the event log and to the
//! checker before the run goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controller::core::ids::ExecutionId;
use controller::metrics::Metrics;
use controller::ports::clock::{Clock as _, Monotonic};
use tokio::sync::Notify;

use crate::apiserver::ApiServer;
use crate::callback::{Attempt, InProcess, Transport};
use crate::checker::{Checker, JobPod, Peaks, Seen, Violation};
use crate::clock::SimClock;
use crate::event_log::EventLog;
use crate::faulty_cluster::LatePods;
use crate::job::{EXECUTION_LABEL, Post, PostKind};
use crate::report_store::MemoryReportStore;
use crate::state::{Selector, Stored, WatchEvent, WatchFrom, resource};

/// Events taken from the watch under one lock of the state.
const EVENTS_AT_ONCE: usize = 256;

/// What is recorded against.
#[derive(Debug)]
pub(super) struct Observed {
    /// The clock of the run.
    pub(super) clock: SimClock,
    /// The controller's reports.
    pub(super) store: MemoryReportStore,
    /// The controller's metrics.
    pub(super) metrics: Arc<Metrics>,
    /// Pods whose create was given up.
    pub(super) late_pods: LatePods,
    /// Series that it may have at most.
    pub(super) series_bound: usize,
}

/// What became of the posts of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Answered with a 2xx.
    pub accepted: u64,
    /// Answered otherwise, or not.
    pub refused: u64,
}

/// The record. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Record {
    book: Arc<Mutex<Book>>,
    alarm: Arc<Notify>,
}

#[derive(Debug)]
struct Book {
    observed: Observed,
    log: EventLog,
    checker: Checker,
    ended: u64,
    answers: BTreeMap<&'static str, Answers>,
    violation: Option<Violation>,
}

impl Record {
    pub(super) fn new(pool: NonZeroU32, observed: Observed) -> Self {
        let book = Book {
            observed,
            log: EventLog::default(),
            checker: Checker::new(pool),
            ended: 0,
            answers: BTreeMap::new(),
            violation: None,
        };
        Self {
            book: Arc::new(Mutex::new(book)),
            alarm: Arc::default(),
        }
    }

    /// Returns when an invariant was broken. Cancel safe.
    pub(super) async fn alarm(&self) {
        self.alarm.notified().await;
    }

    /// The first invariant that was broken.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.book().violation.clone()
    }

    /// Pods that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.book().ended
    }

    /// What the callback answered, by the kind of the post.
    pub(super) fn answers(&self) -> BTreeMap<&'static str, Answers> {
        self.book().answers.clone()
    }

    /// The most job pods that there ever were.
    pub(super) fn peaks(&self) -> Peaks {
        self.book().checker.peaks()
    }

    /// What was seen of an execution, as far as `look` looks.
    pub(super) fn seen<R>(&self, id: &ExecutionId, look: impl FnOnce(&Seen) -> R) -> Option<R> {
        self.book().checker.seen(id).map(look)
    }

    /// How many events there were, and their digest.
    pub(super) fn digest(&self) -> (u64, String) {
        let book = self.book();
        (book.log.lines(), book.log.digest())
    }

    /// The last lines of the event log.
    pub(super) fn timeline(&self) -> Vec<String> {
        self.book().log.tail().map(str::to_owned).collect()
    }

    /// Whether the series are bounded now.
    pub(super) fn check_series(&self) -> Result<(), Violation> {
        self.book().invariant_series_are_bounded()
    }

    /// Tells the record of every change of a pod, until dropped.
    pub(super) async fn follow_pods(self, api: ApiServer) {
        let mut changes = api.subscribe();
        let begin = |state: &crate::state::State| {
            state.watch(&resource::PODS, None, Selector::default(), WatchFrom::Now)
        };
        let mut cursor = api.read(begin);
        loop {
            let events = api.read(|state| state.poll(&mut cursor, EVENTS_AT_ONCE));
            if !events.is_empty() {
                self.write(|book| events.iter().for_each(|event| book.pod_changed(event)));
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn write(&self, entry: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        entry(&mut book);
        if book.violation.is_some() {
            self.alarm.notify_one();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn append(&mut self, what: fmt::Arguments<'_>) {
        let at = self.observed.clock.monotonic().since(Monotonic::START);
        self.log.append(at, what);
    }

    fn blame(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.append(format_args!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    fn pod_changed(&mut self, event: &WatchEvent) {
        match event.object() {
            Some(pod) => self.pod(event, pod),
            None => self.blame(Err(format!("the watch of the record broke: {event:?}"))),
        }
    }

    fn pod(&mut self, event: &WatchEvent, pod: &Stored) {
        let metadata = &pod.metadata;
        let phase = pod.text("/status/phase");
        self.append(format_args!(
            "pod {} {} {phase}",
            metadata.name,
            event.name()
        ));
        let Some(execution) = metadata.labels.get(EXECUTION_LABEL) else {
            return;
        };
        let job_pod = JobPod::of(
            pod,
            execution,
            self.observed.late_pods.contains(&metadata.name),
        );
        let checked = if matches!(event, WatchEvent::Deleted(_)) {
            self.checker.pod_removed(&job_pod)
        } else {
            self.ended += u64::from(matches!(phase, "Succeeded" | "Failed"));
            self.checker.pod_stored(&job_pod)
        };
        self.blame(checked);
        self.check_reports_and_series();
    }

    fn post_answered(&mut self, post: &Post, attempt: &Attempt) {
        let path = post.url.split_once("/report/").map_or("", |(_, path)| path);
        self.append(format_args!("post {path} {attempt}"));
        let answers = self.answers.entry(post.kind.name()).or_default();
        if attempt.succeeded() {
            answers.accepted += 1;
            let stored = invariant_what_is_acknowledged_is_stored(&self.observed.store, path, post);
            self.blame(stored);
        } else {
            answers.refused += 1;
        }
        self.check_reports_and_series();
    }

    fn check_reports_and_series(&mut self) {
        if let Some(violation) = self.observed.store.take_violation() {
            self.blame(Err(format!(
                "a report would leave its directory: {violation}"
            )));
        }
        let bounded = self.invariant_series_are_bounded();
        self.blame(bounded);
    }

    fn invariant_series_are_bounded(&self) -> Result<(), Violation> {
        let (count, bound) = (
            self.observed.metrics.series_count(),
            self.observed.series_bound,
        );
        if count <= bound {
            Ok(())
        } else {
            Err(format!("{count} series, of at most {bound}"))
        }
    }
}

/// What a job pod was told is stored is in the store, as it was sent.
fn invariant_what_is_acknowledged_is_stored(
    store: &MemoryReportStore,
    path: &str,
    post: &Post,
) -> Result<(), Violation> {
    let Some((id, name)) = post.stored_name() else {
        return match post.kind {
            PostKind::Event => Ok(()),
            _ => Err(format!("a callback URL without a pair: {}", post.url)),
        };
    };
    let stored = store.get(&id, &name);
    if stored.as_ref() == Some(&post.body) {
        Ok(())
    } else {
        Err(format!(
            "{path} was acknowledged, and {name} is not stored as it was sent"
        ))
    }
}

/// A way to the callback that records each answer.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) inner: InProcess,
    pub(super) record: Record,
}

impl Transport for Recorded {
    async fn attempt(&self, post: &Post, namespace: &str) -> Attempt {
        let attempt = self.inner.attempt(post, namespace).await;
        self.record.write(|book| book.post_answered(post, &attempt));
        attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn a_post(body: &'static str) -> Post {
        Post {
            kind: PostKind::Result,
            url: "http://h:1/report/node-1/202601010000/result".into(),
            content_type: "application/json",
            file_name: None,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledged_report_that_is_missing_or_differs_is_found() {
        let clock = SimClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let store = MemoryReportStore::new(clock);
        let path = "node-1/202601010000/result";
        let check = |body| invariant_what_is_acknowledged_is_stored(&store, path, &a_post(body));
        assert!(check("{}").is_err());
        let id = ExecutionId::parse("202601010000").unwrap();
        controller::ports::report_store::ReportStore::put(&store, &id, "node-1.json", "{}".into())
            .await
            .unwrap();
        assert_eq!(check("{}"), Ok(()));
        assert!(check("{\"a\":[]}").is_err());
    }
}
