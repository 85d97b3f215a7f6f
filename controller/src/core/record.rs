//! The state record: what must be known though the report volume is lost, and what two leaders must agree on.
//!
//! It is small whatever the cluster's size, and is only changed from the version that was read. Decisions only; reading and
//! writing is the business of `runtime::state_record`. Invariants: the epoch only rises; a tick is claimed once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// The newest scheduled time that was handled, run or dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled_time: Option<Timestamp>,
}

/// An execution that was claimed and has not been closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// What began it.
    pub trigger: Trigger,
    /// The time it was due.
    pub scheduled_time: Timestamp,
    /// Its id, from when its journal exists; nothing was done for it before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<ExecutionId>,
}

/// Why a tick is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scheduled time {0} has been handled already")]
pub struct AlreadyHandled(pub Timestamp);

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

    /// A new leader takes over. `journal` is the highest epoch of a journal on the volume: a record that was lost must not
    /// let an epoch come again.
    pub fn take_over(&mut self, journal: Option<u64>) {
        let highest = self.epoch.max(journal.unwrap_or_default());
        self.epoch = highest.saturating_add(1);
        self.schema_version = SCHEMA_VERSION;
    }

    /// Claims an execution; a tick only if no later or equal one was handled.
    ///
    /// # Errors
    /// [`AlreadyHandled`], and nothing changes.
    pub fn claim(
        &mut self,
        trigger: Trigger,
        scheduled_time: Timestamp,
    ) -> Result<(), AlreadyHandled> {
        if trigger == Trigger::Schedule {
            self.handle_tick(scheduled_time)?;
        }
        self.in_progress = Some(Claim {
            trigger,
            scheduled_time,
            id: None,
        });
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
            return Err(AlreadyHandled(scheduled_time));
        }
        self.last_scheduled_time = Some(scheduled_time);
        Ok(())
    }

    /// The execution in progress has its id, and a journal.
    pub fn open(&mut self, id: &ExecutionId) {
        if let Some(claim) = &mut self.in_progress {
            claim.id = Some(id.clone());
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

    #[test]
    fn a_tick_is_claimed_once_and_an_older_one_never_again() {
        let mut record = StateRecord::default();
        assert_eq!(record.claim(Trigger::Schedule, at(100)), Ok(()));
        for late in [100, 40] {
            let before = record.clone();
            let refused = record.claim(Trigger::Schedule, at(late));
            assert_eq!(refused, Err(AlreadyHandled(at(late))));
            assert_eq!(record, before);
        }
        assert_eq!(record.handle_tick(at(160)), Ok(()));
        assert!(record.claim(Trigger::Schedule, at(160)).is_err());
    }

    #[test]
    fn a_startup_run_is_no_tick() {
        let mut record = StateRecord::default();
        record.handle_tick(at(100)).unwrap();
        assert_eq!(record.claim(Trigger::Startup, at(70)), Ok(()));
        assert_eq!(record.last_scheduled_time, Some(at(100)));
    }

    #[test]
    fn only_the_execution_in_progress_is_closed() {
        let (one, other) = (
            ExecutionId::of_minute(at(0)),
            ExecutionId::of_minute(at(60)),
        );
        let mut record = StateRecord::default();
        record.claim(Trigger::Schedule, at(60)).unwrap();
        record.open(&other);
        record.close(&one);
        assert!(record.in_progress.is_some());
        record.close(&other);
        assert_eq!(record.in_progress, None);
    }

    #[test]
    fn an_epoch_never_comes_again_though_the_record_was_lost() {
        let mut record = StateRecord::default();
        record.take_over(Some(7));
        assert_eq!(record.epoch, 8);
        record.take_over(Some(7));
        assert_eq!(record.epoch, 9);
    }

    #[test]
    fn a_record_comes_back_as_it_was_written_and_a_foreign_one_is_refused() {
        let mut record = StateRecord::default();
        record.take_over(None);
        record.claim(Trigger::Schedule, at(60)).unwrap();
        record.open(&ExecutionId::of_minute(at(60)));
        assert_eq!(StateRecord::parse(&record.text()), Ok(record));
        assert_eq!(StateRecord::parse(" \n"), Ok(StateRecord::default()));
        assert!(StateRecord::parse("name: x").is_err());
        let newer = StateRecord::parse(r#"{"schemaVersion": 2, "epoch": 3}"#);
        assert_eq!(newer, Err("schema version 2 is newer than 1".to_owned()));
    }
}
