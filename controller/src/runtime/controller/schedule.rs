//! When the next execution is due, and whether what is due begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Controller;
use crate::config::ConcurrencyPolicy;
use crate::core::record::Request;
use crate::core::schedule::Schedule;
use crate::core::state::Trigger;
use crate::core::time::{Monotonic, Now};
use crate::metrics::own::Decision;
use crate::runtime::Ports;
use crate::runtime::announcement::Announcement;
use crate::runtime::event::Event;
use crate::runtime::preparation::{Ask, Preparation};

/// Missed ticks are counted up to here; beyond that the number says nothing more.
const MISSED_MAX: usize = 1000;

/// Events of one kind are at least this far apart: ticks may be a second apart.
const TELLING_PAUSE: Duration = Duration::from_mins(1);

const IN_PROGRESS: &str =
    "the previous execution is still in progress, and concurrencyPolicy is Forbid";

#[derive(Debug)]
pub(super) struct ScheduleState {
    pub(super) stopped: bool,
    pub(super) next: Option<Timestamp>,
    pub(super) startup: Option<Monotonic>,
}

/// When people were last told of a dropped tick, and how many were dropped since, by the event's reason.
#[derive(Debug, Default)]
pub(super) struct ToldDrops(BTreeMap<&'static str, (Monotonic, u32)>);

impl ToldDrops {
    /// Another one is dropped: how many nobody was told of, where it is time to tell.
    fn note(&mut self, now: Monotonic, reason: &'static str) -> Option<u32> {
        let told = self.0.entry(reason).or_insert((Monotonic::default(), 0));
        if now.since(told.0) < TELLING_PAUSE {
            told.1 += 1;
            return None;
        }
        Some(std::mem::replace(told, (now, 0)).1)
    }
}

/// A scheduled time that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick {
    pub(super) due: Timestamp,
    /// Older ones that passed without anybody's noticing, at most [`MISSED_MAX`].
    pub(super) missed: usize,
}

impl ScheduleState {
    /// The newest tick that is due, and moves on to the next one. Older ones that were missed are dropped.
    pub(super) fn take_due(&mut self, schedule: &Schedule, wall: Timestamp) -> Option<Tick> {
        let oldest = self.next.filter(|next| *next <= wall)?;
        let newest = schedule.newest_due(oldest, wall);
        self.next = schedule.next_after(newest);
        let all = std::iter::once(oldest).chain(schedule.fires_after(oldest));
        let missed = all.take_while(|due| *due < newest).take(MISSED_MAX).count();
        Some(Tick {
            due: newest,
            missed,
        })
    }
}

impl<P: Ports> Controller<P> {
    /// A scheduled time has come, or was missed and is the newest.
    pub(super) fn tick(&mut self, now: Now, tick: Tick) {
        let Tick { due, missed } = tick;
        if missed > 0 {
            let many = if missed < MISSED_MAX { "" } else { "at least " };
            let note = format!("{many}{missed} scheduled times before {due} were missed");
            info!(note, "executions dropped");
            self.metrics.own().ticks_missed(missed);
            self.announce(Announcement::warning("TicksMissed", note));
        }
        let config = &self.settings.config;
        let late = Duration::try_from(now.wall.duration_since(due)).unwrap_or_default();
        if config.suspend {
            self.drop_tick(now, due, Decision::Suspended, "suspend is set");
        } else if config.starting_deadline.is_some_and(|limit| late > limit) {
            let why = format!(
                "startingDeadlineSeconds passed: it is {} s late",
                late.as_secs()
            );
            self.drop_tick(now, due, Decision::Missed, &why);
        } else {
            self.begin(now, Request::of(Trigger::Schedule, due));
        }
    }

    /// Whether an execution is in progress, or about to begin.
    pub(super) fn is_busy(&self) -> bool {
        self.preparing || self.current.is_some() || self.next.is_some()
    }

    pub(super) fn begin(&mut self, now: Now, request: Request) {
        if !self.is_busy() {
            return match self.closing {
                None => self.prepare(Ask::New(request)),
                Some(_) => self.follow(request),
            };
        }
        match (request.trigger, self.settings.config.concurrency_policy) {
            // It was to be the first one, and is not.
            (Trigger::Startup, _) => {}
            (_, ConcurrencyPolicy::Replace) => self.replace(request),
            (_, ConcurrencyPolicy::Forbid) => match request.annotation {
                Some(value) => {
                    self.refuse_trigger(value, Decision::Forbid, "TriggerForbidden", IN_PROGRESS);
                }
                None => {
                    self.drop_tick(now, request.scheduled_time, Decision::Forbid, IN_PROGRESS);
                }
            },
        }
    }

    /// A tick is not run, and nobody runs it afterwards.
    fn drop_tick(&mut self, now: Now, scheduled_time: Timestamp, decision: Decision, why: &str) {
        self.metrics.own().tick_dropped(decision);
        info!(scheduled_time = %scheduled_time, "execution dropped: {why}");
        let reason = match decision {
            Decision::Suspended => "TickSuspended",
            Decision::Missed => "TickMissed",
            _ => "TickForbidden",
        };
        if let Some(untold) = self.told_drops.note(now.monotonic, reason) {
            let others = match untold {
                0 => String::new(),
                _ => format!(" (and {untold} times before)"),
            };
            let note = format!("no execution at {scheduled_time}: {why}{others}");
            self.announce(Announcement {
                is_warning: decision == Decision::Missed,
                ..Announcement::normal(reason, note)
            });
        }
        let state = self.state.clone();
        self.spawn(async move {
            let dropped = state.update(|record| record.handle_tick(scheduled_time));
            if let Err(error) = dropped.await {
                warn!(scheduled_time = %scheduled_time, error = %error, "dropped tick not recorded");
            }
            None
        });
    }

    pub(super) fn prepare(&mut self, ask: Ask) {
        self.preparing = true;
        let claim = ask.claim();
        self.metrics.own().execution_started(claim.scheduled_time);
        self.in_progress = Some(claim);
        let preparation = Preparation {
            api: self.api.clone(),
            state: self.state.clone(),
            epoch: self.epoch,
            settings: Arc::clone(&self.settings),
            metrics: Arc::clone(&self.metrics),
            admission: Arc::clone(&self.admission),
        };
        self.spawn(async move {
            let prepared = preparation.prepare(ask).await;
            Some(Event::Prepared(prepared.map(Box::new)))
        });
    }
}
