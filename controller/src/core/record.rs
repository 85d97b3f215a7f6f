//! The state record: what must be known though the report volume is lost, and what two leaders must agree on.
//!
//! It is small whatever the cluster's size, and is only changed from the version that was read. Decisions only; reading
//! and writing is the business of `runtime::state_record`. Invariants: the epoch only rises; a tick is claimed once,
//! and so is what a person asks for; an execution is cancelled here before anything is done about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::by_hand::{Handled, Selection};
use super::ids::ExecutionId;
use super::state::Trigger;

/// The version of the record's shape: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateRecord {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Of the leader that wrote it: raised at each take-over.
    pub epoch: u64,
    /// The execution in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<Claim>,
    /// The one that begins when that has ended: it replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Claim>,
    /// The newest scheduled time that was handled, run or dropped; before the first one, when the first leader began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled_time: Option<Timestamp>,
    /// The schedule that [`Self::last_scheduled_time`] is about, as it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// What people have asked for; none before the ConfigMap was looked at for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<Handled>,
}

/// An execution that was claimed and has not been closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// What began it.
    pub trigger: Trigger,
    /// The time it was due.
    pub scheduled_time: Timestamp,
    /// Over which nodes it goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub selection: Option<Selection>,
    /// Its id, from when its journal exists; nothing was done for it before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<ExecutionId>,
    /// Why it is cancelled, where it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancelled: Option<String>,
}

/// What asks for an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What began it.
    pub trigger: Trigger,
    /// The time it is due.
    pub scheduled_time: Timestamp,
    /// Over which nodes it goes.
    pub selection: Option<Selection>,
    /// The value of the annotation that asks for it, where a person does.
    pub annotation: Option<String>,
}

/// What a leader knows when it takes over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewLeader {
    /// The highest epoch of a journal on the volume: a record that was lost must not let an epoch come again.
    pub journal: Option<u64>,
    /// When it began.
    pub began: Timestamp,
    /// What people have asked for by then; none where that cannot be known.
    pub asked: Option<Handled>,
    /// The schedule, as it is configured.
    pub schedule: String,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlreadyHandled {
    /// A tick, or a later one.
    #[error("the scheduled time {0} has been handled already")]
    Tick(Timestamp),
    /// What a person asked for.
    #[error("the value {0:?} of the annotation has been handled already")]
    Annotation(String),
    /// What was to begin next.
    #[error("it was cancelled before it began")]
    Cancelled,
}

impl Request {
    /// A tick, or a start.
    #[must_use]
    pub fn of(trigger: Trigger, scheduled_time: Timestamp) -> Self {
        Self {
            trigger,
            scheduled_time,
            selection: None,
            annotation: None,
        }
    }

    /// The execution as it is claimed.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim {
            trigger: self.trigger,
            scheduled_time: self.scheduled_time,
            selection: self.selection.clone(),
            id: None,
            cancelled: None,
        }
    }
}

impl Claim {
    /// Whether both are the same execution, however far each has come.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.trigger, self.scheduled_time) == (other.trigger, other.scheduled_time)
    }
}

impl StateRecord {
    /// Reads a record; an empty text is a new one.
    ///
    /// # Errors
    /// Where it is not one: somebody else's, or of a version that this one cannot read.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let record: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if record.schema_version > SCHEMA_VERSION {
            return Err(format!(
                "schema version {} is newer than {SCHEMA_VERSION}",
                record.schema_version
            ));
        }
        Ok(record)
    }

    /// The record as it is stored.
    #[must_use]
    pub fn text(&self) -> String {
        // Plain data: it always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A new leader takes over.
    pub fn take_over(&mut self, leader: &NewLeader) {
        let highest = self.epoch.max(leader.journal.unwrap_or_default());
        self.epoch = highest.saturating_add(1);
        self.schema_version = SCHEMA_VERSION;
        // Without a record nothing was missed before; what comes due while it is being written is not.
        self.last_scheduled_time.get_or_insert(leader.began);
        self.schedule.get_or_insert_with(|| leader.schedule.clone());
        if self.by_hand.is_none() {
            self.by_hand.clone_from(&leader.asked);
        }
        if self.in_progress.is_none() {
            self.in_progress = self.next.take();
        }
    }

    /// Claims an execution: a tick only if no later or equal one was handled, an annotation only once.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn claim(&mut self, request: &Request) -> Result<Claim, AlreadyHandled> {
        self.handle(request)?;
        let claim = request.claim();
        self.in_progress = Some(claim.clone());
        Ok(claim)
    }

    /// Cancels the execution in progress, and claims the one that begins when it has ended, in place of any that was
    /// to. Returns what was in progress, and the new one.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn replace(
        &mut self,
        request: &Request,
        why: &str,
    ) -> Result<(Option<Claim>, Claim), AlreadyHandled> {
        self.handle(request)?;
        let next = request.claim();
        self.next = Some(next.clone());
        self.mark_cancelled(why);
        Ok((self.in_progress.clone(), next))
    }

    /// Claims an execution that begins once the summary of the one before, which has ended, is on the volume.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn follow(&mut self, request: &Request) -> Result<Claim, AlreadyHandled> {
        self.handle(request)?;
        Ok(self.next.insert(request.claim()).clone())
    }

    /// The execution that was to begin when another has ended does: it is the one in progress.
    ///
    /// # Errors
    /// [`AlreadyHandled::Cancelled`] where that is not to begin any more.
    pub fn begin_next(&mut self, claim: &Claim) -> Result<(), AlreadyHandled> {
        let next = self.next.take_if(|next| next == claim);
        self.in_progress = Some(next.ok_or(AlreadyHandled::Cancelled)?);
        Ok(())
    }

    /// What was asked for with annotations is not done: it is not asked for again.
    pub fn note(&mut self, asked: &Handled) {
        let handled = self.by_hand.get_or_insert_default();
        for (handled, asked) in [
            (&mut handled.trigger, &asked.trigger),
            (&mut handled.cancel, &asked.cancel),
        ] {
            if asked.is_some() {
                handled.clone_from(asked);
            }
        }
    }

    /// Cancels the execution in progress, and the one that was to begin when that has ended. Returns what was in
    /// progress.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn cancel(&mut self, annotation: &str, why: &str) -> Result<Option<Claim>, AlreadyHandled> {
        let handled = self.by_hand.get_or_insert_default();
        if handled.cancel.as_deref() == Some(annotation) {
            return Err(AlreadyHandled::Annotation(annotation.to_owned()));
        }
        handled.cancel = Some(annotation.to_owned());
        self.next = None;
        self.mark_cancelled(why);
        Ok(self.in_progress.clone())
    }

    fn mark_cancelled(&mut self, why: &str) {
        if let Some(claim) = &mut self.in_progress {
            claim.cancelled.get_or_insert_with(|| why.to_owned());
        }
    }

    fn handle(&mut self, request: &Request) -> Result<(), AlreadyHandled> {
        if request.trigger == Trigger::Schedule {
            self.handle_tick(request.scheduled_time)?;
        }
        if let Some(annotation) = &request.annotation {
            let handled = self.by_hand.get_or_insert_default();
            if handled.trigger.as_ref() == Some(annotation) {
                return Err(AlreadyHandled::Annotation(annotation.clone()));
            }
            handled.trigger = Some(annotation.clone());
        }
        Ok(())
    }

    /// A tick is dropped, or claimed.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn handle_tick(&mut self, scheduled_time: Timestamp) -> Result<(), AlreadyHandled> {
        if self
            .last_scheduled_time
            .is_some_and(|last| last >= scheduled_time)
        {
            return Err(AlreadyHandled::Tick(scheduled_time));
        }
        self.last_scheduled_time = Some(scheduled_time);
        Ok(())
    }

    /// The schedule is another one: what it would have had up to `since` was never due.
    pub fn reschedule(&mut self, schedule: &str, since: Timestamp) {
        self.schedule = Some(schedule.to_owned());
        self.last_scheduled_time = self.last_scheduled_time.max(Some(since));
    }

    /// The execution in progress has its id, and a journal.
    pub fn open(&mut self, id: &ExecutionId) {
        if let Some(claim) = &mut self.in_progress {
            claim.id = Some(id.clone());
        }
    }

    /// The execution in progress does not begin after all.
    pub fn withdraw(&mut self) {
        if self
            .in_progress
            .as_ref()
            .is_some_and(|claim| claim.id.is_none())
        {
            self.in_progress = None;
        }
    }

    /// The execution has ended, and its summary is on the volume.
    pub fn close(&mut self, id: &ExecutionId) {
        let is_it = |claim: &Claim| claim.id.as_ref() == Some(id);
        if self.in_progress.as_ref().is_some_and(is_it) {
            self.in_progress = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn leader(journal: Option<u64>, began: i64) -> NewLeader {
        NewLeader {
            journal,
            began: at(began),
            ..NewLeader::default()
        }
    }

    fn tick(second: i64) -> Request {
        Request::of(Trigger::Schedule, at(second))
    }

    fn by_hand(second: i64, value: &str) -> Request {
        Request {
            annotation: Some(value.to_owned()),
            ..Request::of(Trigger::Manual, at(second))
        }
    }

    #[test]
    fn a_tick_is_claimed_once_and_an_older_one_never_again() {
        let mut record = StateRecord::default();
        assert!(record.claim(&tick(100)).is_ok());
        for late in [100, 40] {
            let before = record.clone();
            let refused = record.claim(&tick(late));
            assert_eq!(refused, Err(AlreadyHandled::Tick(at(late))));
            assert_eq!(record, before);
        }
        assert_eq!(record.handle_tick(at(160)), Ok(()));
        assert!(record.claim(&tick(160)).is_err());
    }

    #[test]
    fn a_startup_run_is_no_tick() {
        let mut record = StateRecord::default();
        record.handle_tick(at(100)).unwrap();
        assert!(record.claim(&Request::of(Trigger::Startup, at(70))).is_ok());
        assert_eq!(record.last_scheduled_time, Some(at(100)));
    }

    #[test]
    fn what_a_person_asks_for_is_claimed_once_and_is_no_tick() {
        let mut record = StateRecord::default();
        record.handle_tick(at(100)).unwrap();
        assert!(record.claim(&by_hand(70, "now")).is_ok());
        let again = record.claim(&by_hand(80, "now"));
        assert_eq!(again, Err(AlreadyHandled::Annotation("now".to_owned())));
        assert!(record.claim(&by_hand(80, "again")).is_ok());
        assert_eq!(record.last_scheduled_time, Some(at(100)));
    }

    #[test]
    fn the_execution_that_replaces_another_begins_once_that_is_closed() {
        let id = ExecutionId::of_minute(at(60));
        let mut record = StateRecord::default();
        record.claim(&tick(60)).unwrap();
        record.open(&id);
        record.replace(&tick(120), "replaced").unwrap();
        record
            .replace(&by_hand(130, "now"), "replaced again")
            .unwrap();
        let cancelled = record.in_progress.clone().unwrap();
        assert_eq!(cancelled.id.as_ref(), Some(&id));
        assert_eq!(cancelled.cancelled.as_deref(), Some("replaced"));
        assert!(record.replace(&tick(120), "replaced").is_err());
        record.close(&id);
        record.take_over(&leader(None, 200));
        let next = record.in_progress.clone().unwrap();
        assert_eq!(
            (next.trigger, next.scheduled_time),
            (Trigger::Manual, at(130))
        );
        assert_eq!(record.next, None);
    }

    #[test]
    fn a_cancel_is_handled_once_and_takes_what_was_to_come_next_with_it() {
        let mut record = StateRecord::default();
        record.claim(&tick(60)).unwrap();
        record.replace(&tick(120), "replaced").unwrap();
        let in_progress = record.cancel("stop", "cancelled by hand").unwrap();
        assert_eq!(in_progress.unwrap().scheduled_time, at(60));
        assert_eq!(record.next, None);
        assert!(record.in_progress.as_ref().unwrap().cancelled.is_some());
        assert!(record.cancel("stop", "cancelled by hand").is_err());
    }

    #[test]
    fn what_was_to_come_next_does_not_begin_once_it_is_cancelled() {
        let mut record = StateRecord::default();
        record.claim(&tick(60)).unwrap();
        let (_, next) = record.replace(&tick(120), "replaced").unwrap();
        let mut cancelled = record.clone();
        cancelled.cancel("stop", "cancelled by hand").unwrap();
        assert_eq!(cancelled.begin_next(&next), Err(AlreadyHandled::Cancelled));
        assert_eq!(record.begin_next(&next), Ok(()));
        assert_eq!(record.in_progress, Some(next));
    }

    #[test]
    fn only_what_has_not_begun_is_withdrawn() {
        let mut record = StateRecord::default();
        record.claim(&tick(60)).unwrap();
        record.withdraw();
        assert_eq!(record.in_progress, None);
        record.claim(&tick(120)).unwrap();
        record.open(&ExecutionId::of_minute(at(120)));
        record.withdraw();
        assert!(record.in_progress.is_some());
    }

    #[test]
    fn only_the_execution_in_progress_is_closed() {
        let (one, other) = (
            ExecutionId::of_minute(at(0)),
            ExecutionId::of_minute(at(60)),
        );
        let mut record = StateRecord::default();
        record.claim(&tick(60)).unwrap();
        record.open(&other);
        record.close(&one);
        assert!(record.in_progress.is_some());
        record.close(&other);
        assert_eq!(record.in_progress, None);
    }

    #[test]
    fn an_epoch_never_comes_again_though_the_record_was_lost() {
        let mut record = StateRecord::default();
        record.take_over(&leader(Some(7), 0));
        assert_eq!(record.epoch, 8);
        record.take_over(&leader(Some(7), 0));
        assert_eq!(record.epoch, 9);
    }

    #[test]
    fn what_comes_due_before_the_first_record_is_written_is_not_lost() {
        let mut record = StateRecord::default();
        record.take_over(&leader(None, 50));
        assert!(record.claim(&tick(60)).is_ok());
        // A later leader changes nothing about it.
        record.take_over(&leader(None, 500));
        assert_eq!(record.last_scheduled_time, Some(at(60)));
    }

    #[test]
    fn what_was_asked_for_before_the_first_record_has_been_handled() {
        let asked = |value: &str| {
            Some(Handled {
                trigger: Some(value.to_owned()),
                cancel: None,
            })
        };
        let mut record = StateRecord::default();
        for value in ["before", "while nobody led"] {
            record.take_over(&NewLeader {
                asked: asked(value),
                ..leader(None, 0)
            });
        }
        assert_eq!(record.by_hand, asked("before"));
        assert!(record.claim(&by_hand(60, "before")).is_err());
        assert!(record.claim(&by_hand(60, "while nobody led")).is_ok());
    }

    #[test]
    fn a_record_comes_back_as_it_was_written_and_a_foreign_one_is_refused() {
        let mut record = StateRecord::default();
        record.take_over(&leader(None, 0));
        record.claim(&tick(60)).unwrap();
        record.open(&ExecutionId::of_minute(at(60)));
        record
            .replace(&by_hand(70, r#"{"nodes":"a"}"#), "replaced")
            .unwrap();
        assert_eq!(StateRecord::parse(&record.text()), Ok(record));
        assert_eq!(StateRecord::parse(" \n"), Ok(StateRecord::default()));
        assert!(StateRecord::parse("name: x").is_err());
        let newer = StateRecord::parse(r#"{"schemaVersion": 2, "epoch": 3}"#);
        assert_eq!(newer, Err("schema version 2 is newer than 1".to_owned()));
    }
}
