//! What people ask for with annotations of the ConfigMap, and how an execution in progress is cancelled: recorded
//! first, then carried out, then confirmed by the record's being closed. A successor goes on after each step.

use tracing::{info, warn};

use super::Controller;
use crate::core::by_hand::{ANNOTATION_TRIGGER, Handled, Selection};
use crate::core::execution;
use crate::core::record::{AlreadyHandled, Claim, Request};
use crate::core::state::Trigger;
use crate::core::time::Now;
use crate::metrics::own::Decision;
use crate::ports::cluster::ConfigMapView;
use crate::runtime::Ports;
use crate::runtime::announcement::Announcement;
use crate::runtime::event::Event;
use crate::runtime::preparation::Ask;

const BY_HAND: &str = "cancelled by hand";

impl<P: Ports> Controller<P> {
    /// The annotations as they are now. Values that are there when nothing is recorded yet have been handled.
    pub(super) fn annotations_read(&mut self, now: Now, read: &Result<ConfigMapView, String>) {
        let Ok(view) = read else { return };
        if self.schedule.stopped {
            // The next leader reads them.
            return;
        }
        let asked = Handled::of(&view.annotations);
        let Some(handled) = &mut self.by_hand else {
            self.by_hand = Some(asked.clone());
            return self.note_handled(asked);
        };
        let is_new = |asked: &Option<String>, handled: &mut Option<String>| {
            let is_new = asked.is_some() && asked != handled;
            if is_new {
                handled.clone_from(asked);
            }
            is_new
        };
        let cancels = is_new(&asked.cancel, &mut handled.cancel);
        let triggers = is_new(&asked.trigger, &mut handled.trigger);
        if let Some(value) = asked.cancel.filter(|_| cancels) {
            self.cancel_by_hand(value);
        }
        if let Some(value) = asked.trigger.filter(|_| triggers) {
            self.trigger_by_hand(now, value);
        }
    }

    fn trigger_by_hand(&mut self, now: Now, value: String) {
        match Selection::parse(&value) {
            Ok(selection) => {
                let request = Request {
                    selection: Some(selection),
                    annotation: Some(value),
                    ..Request::of(Trigger::Manual, now.wall)
                };
                self.begin(now, request);
            }
            Err(why) => {
                let why = format!("annotation {ANNOTATION_TRIGGER}: {why}");
                self.refuse_trigger(value, Decision::Refused, "TriggerRefused", &why);
            }
        }
    }

    /// What a person asked for is not done, and not afterwards either.
    pub(super) fn refuse_trigger(
        &mut self,
        value: String,
        decision: Decision,
        reason: &'static str,
        why: &str,
    ) {
        self.metrics.own().tick_dropped(decision);
        info!(reason = why, "trigger refused");
        self.announce(Announcement::warning(reason, why.to_owned()));
        self.note_handled(Handled {
            trigger: Some(value),
            cancel: None,
        });
    }

    fn note_handled(&mut self, asked: Handled) {
        let state = self.state.clone();
        self.spawn(async move {
            let noted = state.update(|record| {
                record.note(&asked);
                Ok::<_, AlreadyHandled>(())
            });
            if let Err(error) = noted.await {
                warn!(error = %error, "what was asked for by hand is not recorded as handled");
            }
            None
        });
    }

    fn cancel_by_hand(&mut self, value: String) {
        if !self.is_busy() {
            info!("nothing to cancel: no execution is in progress");
            let note = "no execution is in progress".to_owned();
            self.announce(Announcement::normal("NothingToCancel", note));
            return self.note_handled(Handled {
                trigger: None,
                cancel: Some(value),
            });
        }
        let state = self.state.clone();
        self.spawn(async move {
            match state.update(|record| record.cancel(&value, BY_HAND)).await {
                Ok(in_progress) => in_progress.map(Event::CancelRecorded),
                Err(error) => {
                    warn!(error = %error, "execution not cancelled");
                    None
                }
            }
        });
    }

    /// The record says that this execution is cancelled, and that none is to follow it.
    pub(super) fn cancel_recorded(&mut self, now: Now, claim: &Claim) {
        self.next = None;
        self.cancel(now, claim);
    }

    /// Cancels the execution in progress, and lets this one begin once that has ended.
    pub(super) fn replace(&mut self, request: Request) {
        let why = format!(
            "replaced by the execution due at {}",
            request.scheduled_time
        );
        let state = self.state.clone();
        self.spawn(async move {
            match state.update(|record| record.replace(&request, &why)).await {
                Ok((old, next)) => Some(Event::ReplaceRecorded { old, next }),
                Err(error) => {
                    warn!(scheduled_time = %request.scheduled_time, error = %error, "execution not replaced");
                    None
                }
            }
        });
    }

    /// Lets this one begin once the summary of the one that has ended is on the volume: who took over before that would
    /// not write it any more.
    pub(super) fn follow(&mut self, request: Request) {
        let state = self.state.clone();
        self.spawn(async move {
            match state.update(|record| record.follow(&request)).await {
                Ok(next) => Some(Event::ReplaceRecorded { old: None, next }),
                Err(error) => {
                    warn!(scheduled_time = %request.scheduled_time, error = %error, "execution not started");
                    None
                }
            }
        });
    }

    /// The record says that one execution is cancelled, and which one follows it.
    pub(super) fn replace_recorded(&mut self, now: Now, old: Option<&Claim>, next: Claim) {
        let due = next.scheduled_time;
        self.next = Some(next);
        if let Some(old) = old {
            let subject = old.id.as_ref().map_or("an execution", |id| id.as_str());
            let note = format!("{subject} is cancelled and replaced by the execution due at {due}");
            self.announce(Announcement::normal("ExecutionReplaced", note));
            self.cancel(now, old);
        }
        self.begin_next();
    }

    /// Begins what is to follow, once nothing is in progress any more.
    pub(super) fn begin_next(&mut self) {
        let is_free = !self.preparing && self.current.is_none() && self.closing.is_none();
        if !is_free || self.schedule.stopped {
            return;
        }
        if let Some(next) = self.next.take() {
            self.prepare(Ask::Next(next));
        }
    }

    fn cancel(&mut self, now: Now, claim: &Claim) {
        let Some(why) = claim.cancelled.clone() else {
            return;
        };
        let in_progress = self.in_progress.as_mut();
        let Some(in_progress) = in_progress.filter(|claimed| claimed.is_same(claim)) else {
            // It has ended meanwhile.
            return;
        };
        info!(reason = why, "execution cancelled");
        if self.preparing {
            in_progress.cancelled = Some(why);
        } else {
            self.step(now, execution::Event::Cancelled { why });
        }
    }
}
