//! What holds of a swarm beside what `checker` says of its pods: each a sentence, and what does not hold told with its
//! figures.

use std::time::Duration;

use controller::core::backoff::attempt_backoff;
use controller::core::ids::ExecutionId;
use controller::core::lease::lease_name;
use controller::core::record::{Claim, StateRecord};
use controller::core::state::Trigger;
use controller::core::summary::{self, ExecutionSummary};
use tokio::time::Instant;

use super::{Book, is_pod_of};
use crate::checker::{JobPod, Violation, attempt_of};
use crate::state::{Stored, Target, resource};
use crate::swarm::disturbance::Disturbance;
use crate::swarm::options::version_of_image;
use crate::swarm::standing::at_the_least;
use crate::swarm::volume::Volume;
use crate::world::NAMESPACE;

/// Within this time the creates that were under way when an execution was cancelled are sent.
const SENT_WITHIN: Duration = Duration::from_mins(1);

impl Book {
    pub(super) fn invariant_only_the_holder_acts(
        &self,
        identity: &str,
        verb: &str,
        subject: &str,
    ) -> Result<(), Violation> {
        let name = lease_name(&self.observed.config.name);
        let target = Target::new(&resource::LEASES, NAMESPACE, &name);
        let holder = self.observed.api.read(|state| {
            let lease = state.find(target)?;
            Some(lease.text("/spec/holderIdentity").to_owned())
        });
        if holder.as_deref() == Some(identity) || Instant::now() < self.tampered_until {
            return Ok(());
        }
        let holder = holder.unwrap_or_default();
        Err(format!(
            "{identity} {verb} {subject}, and {holder:?} holds the lease"
        ))
    }

    /// Once what is under way has been sent.
    pub(super) fn invariant_nothing_begins_in_what_is_cancelled(
        &self,
        pod: &str,
    ) -> Result<(), Violation> {
        let id = self
            .state
            .in_progress
            .as_ref()
            .and_then(|claim| claim.id.as_ref());
        let is_of_it = id.is_some_and(|id| is_pod_of(pod, id));
        match self.cancelled {
            Some(since) if is_of_it && since.elapsed() > SENT_WITHIN => Err(format!(
                "pod {pod} is created {} s after its execution was cancelled",
                since.elapsed().as_secs()
            )),
            _ => Ok(()),
        }
    }

    /// Whoever leads knows of each failure before the journal tells of it, and from the journal of those before; where
    /// that is on the volume of another, nobody knows.
    pub(super) fn invariant_nothing_begins_once_too_many_nodes_have_failed(
        &self,
        pod: &str,
    ) -> Result<(), Violation> {
        let limit = self.observed.options.max_failures;
        let is_shared = self.observed.volume.is_some();
        let Some(limit) = limit.filter(|limit| limit.is_fail_fast && is_shared) else {
            return Ok(());
        };
        let mut told = (self.told.iter()).filter(|(id, _)| is_pod_of(pod, id));
        match told.find(|(_, told)| told.failed() > limit.nodes as usize) {
            Some((id, told)) => Err(format!(
                "pod {pod} is created when {} nodes of {id} have failed, of at most {}",
                told.failed(),
                limit.nodes
            )),
            None => Ok(()),
        }
    }

    /// Of what a replica deletes and nobody wants stopped.
    pub(super) fn invariant_an_ended_pod_goes_only_when_its_end_is_told(
        &self,
        pod: &str,
        uid: &str,
    ) -> Result<(), Violation> {
        let Some((standing, volume)) = self.standing.get(uid).zip(self.observed.volume.as_ref())
        else {
            return Ok(());
        };
        let Some(id) = standing.execution.as_ref().filter(|_| standing.has_ended) else {
            return Ok(());
        };
        let is_stopped = standing.is_overdue(&self.observed.config)
            || self.cancelled.is_some()
            || self.observed.late_pods.contains(pod)
            || !standing.has_stood_on_a_ready_node(&self.nodes);
        let is_told = self.told.get(id).is_some_and(|told| told.has_end(pod));
        if is_stopped || is_told {
            return Ok(());
        }
        let summary = volume.store().get(id, summary::FILE_NAME);
        let summary =
            summary.and_then(|bytes| serde_json::from_slice::<ExecutionSummary>(&bytes).ok());
        if summary.is_some_and(|summary| summary.end_time.is_some()) {
            return Ok(());
        }
        Err(format!(
            "pod {pod} has ended, and is deleted before the volume tells how"
        ))
    }

    pub(super) fn invariant_a_tick_is_claimed_once(
        &self,
        before: &StateRecord,
    ) -> Result<(), Violation> {
        let claims = |record: &StateRecord| [record.in_progress.clone(), record.next.clone()];
        let known: Vec<Claim> = claims(before).into_iter().flatten().collect();
        let new = claims(&self.state).into_iter().flatten().find(|claim| {
            let is_tick = claim.trigger == Trigger::Schedule;
            is_tick && !known.iter().any(|known| known.is_same(claim))
        });
        match new {
            Some(claim) if before.last_scheduled_time >= Some(claim.scheduled_time) => {
                Err(format!(
                    "the execution due at {} is claimed when {:?} has been handled",
                    claim.scheduled_time, before.last_scheduled_time
                ))
            }
            _ => Ok(()),
        }
    }

    /// What was missed is run late, the newest of it; without a trigger nothing begins that the state record does not
    /// show.
    pub(super) fn invariant_a_tick_is_dropped_only_where_another_execution_is_in_progress(
        &self,
        before: &StateRecord,
    ) -> Result<(), Violation> {
        let (last, now) = (before.last_scheduled_time, self.state.last_scheduled_time);
        let is_handled = last.is_some() && now > last;
        let is_busy = before.in_progress.is_some() || before.next.is_some();
        let is_triggered = self.observed.options.timeline.enables(Disturbance::Trigger);
        // A new schedule has missed nothing.
        let is_rescheduled = self.state.schedule != before.schedule;
        if !is_handled || is_busy || is_triggered || is_rescheduled {
            return Ok(());
        }
        let claims = [&self.state.in_progress, &self.state.next];
        let mut claimed = claims.into_iter().flatten();
        if claimed.any(|claim| Some(claim.scheduled_time) == now) {
            return Ok(());
        }
        Err(format!(
            "the execution due at {now:?} was dropped, and none was in progress"
        ))
    }

    /// No more attempts than are allowed, and not before the pause; where clocks agree, since the journal tells a
    /// successor the time.
    pub(super) fn invariant_attempts_are_as_configured(
        &self,
        job_pod: &JobPod<'_>,
    ) -> Result<(), Violation> {
        let attempt = attempt_of(job_pod);
        let options = &self.observed.options;
        if attempt > options.retries + 1 {
            return Err(format!(
                "pod {} is of attempt {attempt}, with {} retries",
                job_pod.name, options.retries
            ));
        }
        let id = ExecutionId::parse(job_pod.execution);
        let facts = id.and_then(|id| self.facts.get(&id));
        let before = attempt.saturating_sub(1);
        let ended = facts.and_then(|facts| facts.ended_at(job_pod.node, before));
        let clocks = [Disturbance::ClockSkew, Disturbance::ClockStep];
        let clocks_agree = !clocks.iter().any(|kind| options.timeline.enables(*kind));
        if attempt == 1 || job_pod.is_late || !clocks_agree {
            return Ok(());
        }
        let pause = at_the_least(attempt_backoff(before));
        match ended.map(|ended| ended.elapsed()) {
            Some(after) if after < pause => Err(format!(
                "pod {} is created {} s after the attempt before, and the pause is {} s",
                job_pod.name,
                after.as_secs_f64(),
                pause.as_secs_f64()
            )),
            _ => Ok(()),
        }
    }

    /// Where the volume tells a new leader of it; the pool's size is of the same version.
    pub(super) fn invariant_an_execution_ends_with_the_template_it_began_with(
        &mut self,
        job_pod: &JobPod<'_>,
        pod: &Stored,
    ) -> Result<(), Violation> {
        if job_pod.is_late || self.observed.volume.is_none() {
            return Ok(());
        }
        let container = pod.list("/spec/containers").first();
        let image = container.and_then(|container| container["image"].as_str());
        let Some(version) = image.and_then(version_of_image) else {
            return Err(format!("pod {} has the image {image:?}", job_pod.name));
        };
        self.checker
            .set_pool(self.observed.options.pool_of(version));
        let Some(id) = ExecutionId::parse(job_pod.execution) else {
            return Ok(());
        };
        let facts = self.facts.entry(id).or_default();
        let first = *facts.version.get_or_insert(version);
        if first == version {
            return Ok(());
        }
        Err(format!(
            "pod {} is made of version {version} of the template, and its execution began with {first}",
            job_pod.name
        ))
    }

    pub(super) fn invariant_what_is_acknowledged_stays(
        &self,
        volume: &Volume,
    ) -> Result<(), Violation> {
        if let Some(violation) = volume.store().take_violation() {
            return Err(format!("a report would leave its directory: {violation}"));
        }
        let own = (self.acknowledged.iter()).filter(|((number, _), _)| *number == volume.number());
        for ((_, id), names) in own {
            let of_execution = self.sent.get(id);
            for name in names {
                let sent = of_execution.and_then(|sent| sent.get(name));
                let stored = volume.store().get(id, name);
                let is_kept =
                    stored.is_some_and(|stored| sent.is_some_and(|sent| sent.contains(&stored)));
                if !is_kept {
                    return Err(format!("{id}/{name} was acknowledged, and is not stored"));
                }
            }
        }
        Ok(())
    }
}
