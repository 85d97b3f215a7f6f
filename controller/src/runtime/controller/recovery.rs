//! How the loop begins as leader: with what the state record, the journal and the volume tell, and how it closes an
//! execution.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Controller;
use super::callbacks::of_result;
use super::configuration::schedule_of;
use crate::core::ids::ExecutionId;
use crate::core::record::AlreadyHandled;
use crate::core::report::Results;
use crate::core::report_name;
use crate::core::state::{ExecutionState, NodeState};
use crate::core::summary::ExecutionSummary;
use crate::core::time::Now;
use crate::ports::clock::Clock as _;
use crate::ports::report_store::ReportStore as _;
use crate::runtime::event::Event;
use crate::runtime::preparation::Ask;
use crate::runtime::recovery::{self, InProgress, Recovered};
use crate::runtime::{Ports, history, watches};

/// The pause before the journal is tried again.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

impl<P: Ports> Controller<P> {
    pub(super) fn recover(&mut self) {
        // What the watch shows meanwhile is told to the execution that is taken up.
        self.preparing = true;
        let (api, state) = (self.api.clone(), self.state.clone());
        let (began, config_map) = (self.began, self.settings.config_map.clone());
        let schedule = schedule_of(&self.settings.config);
        self.spawn(async move {
            let recovered =
                recovery::recover(&api, &state, began, schedule, config_map.as_ref()).await;
            Some(Event::Recovered(Box::new(recovered)))
        });
    }

    pub(super) fn recovered(&mut self, now: Now, recovered: Recovered) {
        let record = recovered.record;
        self.epoch = record.epoch;
        self.preparing = false;
        self.kept = recovered.kept.iter().cloned().collect();
        if self.schedule.stopped {
            return;
        }
        self.remove_abandoned();
        if let Some(told) = &recovered.told {
            self.begin_configured(now, told);
        }
        let last = self.last_scheduled_time(&record);
        self.by_hand = record.by_hand;
        self.next = record.next;
        let config = &self.settings.config;
        self.schedule.next = config.schedule.next_after(last);
        let may_start = matches!(
            recovered.in_progress,
            InProgress::Nothing | InProgress::Ended(_)
        );
        self.schedule.startup = (config.run_on_startup && self.may_run_on_startup && may_start)
            .then(|| now.monotonic.after(config.startup_delay));
        self.metrics.own().next_schedule(self.schedule.next);
        info!(
            epoch = record.epoch,
            next = self.schedule.next.map(tracing::field::display),
            "controller started"
        );
        match recovered.in_progress {
            InProgress::Nothing => self.unheard.clear(),
            InProgress::Ended(id) => {
                self.unheard.clear();
                self.close_in_record(id);
            }
            InProgress::Claimed(claim) => self.prepare(Ask::Found(claim)),
            InProgress::Journaled(journaled) => {
                self.in_progress = record.in_progress;
                self.run_execution(now, journaled.frozen, Some(journaled.found), None);
                self.export_ends();
            }
        }
        self.admission.await_history(&recovered.kept);
        self.admission.complete();
        if let Some(told) = &recovered.told {
            self.annotations_read(now, &told.read);
        }
        self.watch_config_map();
        let reports = self.api.ports.reports().clone();
        let limit = self.settings.config.callback_body_limit.result_bytes;
        let restore = history::restore(
            reports,
            self.api.ports.clock().clone(),
            recovered.kept,
            limit,
            self.events_sender.clone(),
        );
        self.spawn(async move {
            restore.await;
            None
        });
    }

    /// From here on what the ConfigMap says is taken over, and what people ask for carried out.
    fn watch_config_map(&mut self) {
        if let Some(source) = &self.settings.config_map {
            let name = source.name().to_owned();
            let watch = watches::config_map(self.api.clone(), self.events_sender.clone(), name);
            self.spawn(async move {
                watch.await;
                None
            });
        }
    }

    /// Removes what former leaders began to store and nobody goes on with.
    pub(super) fn remove_abandoned(&mut self) {
        let reports = self.api.ports.reports().clone();
        self.spawn(async move {
            match reports.remove_abandoned().await {
                Ok(0) => {}
                Ok(files) => info!(files, "what other replicas left unfinished is removed"),
                Err(error) => {
                    warn!(error = %error, "what other replicas left unfinished stays");
                }
            }
            None
        });
    }

    /// What nodes ended as before this process took over.
    fn export_ends(&mut self) {
        let Some(current) = &self.current else { return };
        let id = current.execution.id();
        let ended = current.execution.nodes().iter();
        for node in ended.filter(|node| node.state().is_final()) {
            let error = node.state() != NodeState::Succeeded;
            self.metrics.processing(id, node.node(), error);
            if let Some(duration) = node.duration() {
                self.metrics.duration(id, node.node(), duration);
            }
        }
    }

    pub(super) fn history_found(&mut self, now: Now, id: &ExecutionId, summary: &ExecutionSummary) {
        if !self.kept.contains(id) || self.is_current(id) {
            return;
        }
        let succeeded = (summary.end_time).filter(|_| summary.state == ExecutionState::Succeeded);
        (self.metrics.own()).execution_found(summary.scheduled_time, succeeded);
        if self.kept.last() == Some(id) {
            self.metrics.newest_found(id, &summary.counts);
        }
        let nodes = summary.nodes.iter();
        let nodes = nodes.filter(|node| node.state != NodeState::Excluded);
        self.admission
            .begin(id, nodes.clone().map(|node| node.node.as_str()));
        for node in nodes.filter(|node| node.attempts > 0) {
            self.admission.admit(id, &node.node, node.attempts);
            (self.admission).has_reports(id, &node.node, node.reports.len());
            let ended = node.end_time.unwrap_or(Timestamp::UNIX_EPOCH);
            self.admission.ended(id, &node.node, ended, now);
            if !node.state.is_final() {
                continue;
            }
            let error = node.state != NodeState::Succeeded;
            self.metrics.processing(id, &node.node, error);
            if let (Some(started), Some(ended)) = (node.start_time, node.end_time) {
                let duration = ended.duration_since(started).try_into();
                self.metrics
                    .duration(id, &node.node, duration.unwrap_or_default());
            }
        }
    }

    pub(super) fn result_found(
        &mut self,
        now: Now,
        id: &ExecutionId,
        node: &str,
        results: &Results,
    ) {
        if !self.is_current(id) && !self.kept.contains(id) {
            return;
        }
        self.metrics.result_restored(id, node, results);
        let stored = of_result(node, report_name::result_name(node), results);
        self.tell(now, id, stored);
    }

    /// Writes what nothing waits for, one write at a time.
    pub(super) fn write_journal(&mut self, now: Now) {
        let Some(current) = &self.current else {
            self.journal_writes.clear();
            return;
        };
        let Some(entries) = self.journal_writes.start_write(now.monotonic) else {
            return;
        };
        let journal = current.journal.clone();
        let clock = self.api.ports.clock().clone();
        self.spawn(async move {
            while let Err(error) = journal.append(&entries).await {
                warn!(error = %error, "journal not written");
                clock
                    .sleep_until(clock.monotonic().after(JOURNAL_PAUSE))
                    .await;
            }
            Some(Event::JournalWritten)
        });
    }

    /// Once the summary of an execution that has ended is on the volume, the execution is no longer in progress.
    pub(super) fn summary_written(&mut self, id: &ExecutionId, is_written: bool) {
        self.summaries.written();
        if self.closing.as_ref() != Some(id) || self.summaries.is_queued(id) {
            return;
        }
        if !is_written {
            self.summaries.note_amendment();
            return;
        }
        self.closing = None;
        self.release_deletions();
        // Now that no pod waits for the volume.
        self.remove_abandoned();
        self.close_in_record(id.clone());
    }

    /// The execution is no longer in progress.
    fn close_in_record(&mut self, id: ExecutionId) {
        let state = self.state.clone();
        self.spawn(async move {
            let closed = state.update(|record| {
                record.close(&id);
                Ok::<_, AlreadyHandled>(())
            });
            if let Err(error) = closed.await {
                warn!(execution_id = %id, error = %error, "execution not closed in the state record");
            }
            None
        });
        self.begin_next();
    }
}
