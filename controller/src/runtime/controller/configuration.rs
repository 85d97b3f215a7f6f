//! What becomes of a changed ConfigMap: a good one holds from the next execution on, a bad one is refused and the last
//! good one goes on. The execution in progress ends with what it began with.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Controller;
use crate::config;
use crate::core::record::{AlreadyHandled, StateRecord};
use crate::core::time::Now;
use crate::ports::cluster::ConfigMapView;
use crate::runtime::announcement::Announcement;
use crate::runtime::configuration::{self, Configuration, Data};
use crate::runtime::recovery::Told;
use crate::runtime::{Ports, Settings};

/// What a changed configuration comes to.
struct Taken {
    /// Keys that wait for a restart.
    waiting: Vec<&'static str>,
    /// Whether the rest differs from what held before.
    is_new: bool,
    has_new_schedule: bool,
}

impl<P: Ports> Controller<P> {
    /// A leader begins with what the ConfigMap says now, which may have changed while this process stood by.
    pub(super) fn begin_configured(&mut self, now: Now, told: &Told) {
        let kept = told.kept.as_ref().and_then(|kept| self.read(kept).ok());
        if let Some(kept) = kept {
            self.take_over(kept);
        }
        if let Ok(view) = &told.read
            && let Ok(configuration) = self.read(&view.data)
        {
            self.judged = Some(view.data.clone());
            self.take_over(configuration);
            return self.keep_configuration(view.data.clone());
        }
        self.configuration_read(now, &told.read);
    }

    /// The ConfigMap as it is now; or why it is not there.
    pub(super) fn configuration_read(&mut self, now: Now, read: &Result<ConfigMapView, String>) {
        match read {
            Ok(view) if self.judged.as_ref() == Some(&view.data) => {}
            Ok(view) => {
                self.judged = Some(view.data.clone());
                match self.read(&view.data) {
                    Ok(configuration) => self.configuration_changed(now, configuration, &view.data),
                    Err(why) => self.refuse_configuration(&why),
                }
            }
            Err(why) => {
                self.judged = None;
                self.refuse_configuration(why);
            }
        }
    }

    fn read(&self, data: &Data) -> Result<Configuration, String> {
        match &self.settings.config_map {
            Some(source) => source.read(data),
            None => Err("nobody reads it".to_owned()),
        }
    }

    fn refuse_configuration(&mut self, why: &str) {
        warn!(
            reason = why,
            "configuration refused, the last good one goes on"
        );
        self.metrics.own().configuration_usable(false);
        let note = format!("the last good configuration goes on: {why}");
        self.announce(Announcement::warning("ConfigurationRefused", note));
    }

    fn configuration_changed(&mut self, now: Now, changed: Configuration, data: &Data) {
        let Taken {
            waiting,
            is_new,
            has_new_schedule,
        } = self.take_over(changed);
        if is_new {
            let note = "the changed configuration holds from the next execution on".to_owned();
            self.announce(Announcement::normal("ConfigurationChanged", note));
        }
        if !waiting.is_empty() {
            let note = format!(
                "changed, and wait for a restart of the controller: {}",
                waiting.join(", ")
            );
            self.announce(Announcement::warning("RestartNeeded", note));
        }
        if has_new_schedule {
            self.schedule.next = self.settings.config.schedule.next_after(now.wall);
            self.metrics.own().next_schedule(self.schedule.next);
            self.record_schedule(now.wall);
        }
        self.keep_configuration(data.clone());
    }

    /// From here on everything that begins goes by this configuration.
    fn take_over(&mut self, changed: Configuration) -> Taken {
        let old = Arc::clone(&self.settings);
        let (config, waiting) = config::take_over(&old.config, changed.config);
        self.metrics.own().configuration_usable(true);
        if !waiting.is_empty() {
            warn!(keys = waiting.join(", "), "changed keys wait for a restart");
        }
        let is_new = config != old.config || changed.template.text() != old.template.text();
        let has_new_schedule = schedule_of(&config) != schedule_of(&old.config);
        if is_new {
            info!("changed configuration taken over");
            self.metrics.configure(&config);
            self.metrics.own().suspended(config.suspend);
            self.settings = Arc::new(Settings {
                config,
                template: changed.template,
                variables: changed.variables,
                ..(*old).clone()
            });
        }
        Taken {
            waiting,
            is_new,
            has_new_schedule,
        }
    }

    /// What the next tick counts from. A schedule that was changed while nobody led has missed nothing.
    pub(super) fn last_scheduled_time(&mut self, record: &StateRecord) -> Timestamp {
        let last = record.last_scheduled_time.unwrap_or(self.began);
        if record.schedule.as_ref() == Some(&schedule_of(&self.settings.config)) {
            return last;
        }
        self.record_schedule(self.began);
        last.max(self.began)
    }

    /// Notes the schedule, and that nothing of it was due up to then.
    fn record_schedule(&mut self, since: Timestamp) {
        let (state, schedule) = (self.state.clone(), schedule_of(&self.settings.config));
        self.spawn(async move {
            let noted = state.update(|record| {
                record.reschedule(&schedule, since);
                Ok::<_, AlreadyHandled>(())
            });
            if let Err(error) = noted.await {
                warn!(error = %error, "the schedule is not noted in the state record");
            }
            None
        });
    }

    fn keep_configuration(&mut self, data: Data) {
        let reports = self.api.ports.reports().clone();
        self.spawn(async move {
            configuration::keep(&reports, &data).await;
            None
        });
    }
}

/// The schedule as the state record has it.
pub(super) fn schedule_of(config: &config::Config) -> String {
    format!("{} in {}", config.cron_expression, config.time_zone)
}
