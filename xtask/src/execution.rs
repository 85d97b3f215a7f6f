//! Following one execution of a running stack by the controller's metrics, to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::exposition::Scrape;
use crate::interrupt::Interrupt;
use crate::stack::Stack;

/// How often the metrics are read where somebody watches.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Job pods repeat a post for up to 60 s before they fail: longer without any change means that nothing moves.
const STUCK_AFTER: Duration = Duration::from_secs(90);

/// The nodes of the newest execution by state, and whether it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Only states that occur.
    pub nodes: BTreeMap<String, u64>,
    pub is_running: bool,
    /// Executions that have ended since the controller started.
    pub ended_executions: u64,
}

impl Progress {
    pub(crate) fn of(scrape: &Scrape) -> Self {
        let nodes = scrape
            .of("batch_job_controller_nodes")
            .filter_map(|sample| Some((sample.labels.get("state")?.clone(), whole(sample.value))))
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            nodes,
            is_running: scrape.sum("batch_job_controller_execution_in_progress") > 0.0,
            ended_executions: whole(scrape.sum("batch_job_controller_executions_total")),
        }
    }

    /// Nodes in `state`.
    pub(crate) fn count(&self, state: &str) -> u64 {
        self.nodes.get(state).copied().unwrap_or(0)
    }

    /// All nodes, whatever their state.
    pub(crate) fn total(&self) -> u64 {
        self.nodes.values().sum()
    }

    /// Nodes that will not change any more, but for late results.
    pub(crate) fn ended(&self) -> u64 {
        self.total() - self.count("waiting") - self.count("running")
    }

    /// Like `running 10, succeeded 5, waiting 35`.
    pub(crate) fn by_state(&self) -> String {
        let parts: Vec<String> = self
            .nodes
            .iter()
            .map(|(state, count)| format!("{state} {count}"))
            .collect();
        parts.join(", ")
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts: whole, not negative and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// Waits until the first execution has ended, reading the metrics so often; `show` sees each change. Returns the last
/// scrape.
///
/// # Errors
/// If a process ends, if nothing changes for a long time, or when interrupted.
pub(crate) fn follow(
    stack: &mut Stack,
    look_every: Duration,
    interrupt: &Interrupt,
    mut show: impl FnMut(&Progress) -> Result<()>,
) -> Result<Scrape> {
    let mut last = Progress::default();
    let mut last_change = Instant::now();
    loop {
        stack.check_alive()?;
        let scrape = stack.scrape()?;
        let progress = Progress::of(&scrape);
        if progress != last {
            show(&progress)?;
            last = progress;
            last_change = Instant::now();
        }
        if last.ended_executions > 0 && !last.is_running {
            return Ok(scrape);
        }
        if last_change.elapsed() > STUCK_AFTER {
            let seconds = STUCK_AFTER.as_secs();
            bail!(
                "nothing has changed for {seconds} s ({}){}",
                last.by_state(),
                stack.controller_log()
            );
        }
        interrupt.sleep(look_every)?;
    }
}

/// How long the one execution of this controller took, by its own clock.
pub(crate) fn makespan_seconds(scrape: &Scrape) -> f64 {
    scrape.sum("batch_job_controller_execution_duration_seconds_sum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_the_metrics() {
        let scrape = Scrape::parse(
            "batch_job_controller_nodes{state=\"waiting\"} 3\nbatch_job_controller_nodes{state=\"running\"} 2\n\
             batch_job_controller_nodes{state=\"succeeded\"} 5\nbatch_job_controller_nodes{state=\"lost\"} 0\n\
             batch_job_controller_execution_in_progress 1\nbatch_job_controller_executions_total{state=\"failed\"} 0\n",
        );
        let progress = Progress::of(&scrape);
        assert_eq!(
            (progress.total(), progress.ended(), progress.is_running),
            (10, 5, true)
        );
        assert_eq!(progress.ended_executions, 0);
        assert_eq!(progress.by_state(), "running 2, succeeded 5, waiting 3");
    }
}
