//! A round of two replicas: the leader is killed, stopped, cut off or asked to end, and the other one goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::evidence::Evidence;
use super::site::{Plan, Site, identity};
use super::{Draw, Round, finish};

/// The replica that leads at first, and the other.
const LEADER: usize = 0;
const STANDBY: usize = 1;

/// Beyond its lease: long enough for everything to happen that can.
const BEYOND_LEASE: Duration = Duration::from_secs(3);

/// After a kill: the lease, and so much to notice it and go on.
const TAKE_OVER_MAX: Duration = Duration::from_secs(1);

/// On a planned end.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How the leader is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Kill,
    Pause,
    CutOff,
    Terminate,
}

impl Strike {
    const ALL: [Self; 4] = [Self::Kill, Self::Terminate, Self::Pause, Self::CutOff];

    fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Pause => "stopped for longer than its lease",
            Self::CutOff => "cut off for longer than its lease",
            Self::Terminate => "asked to end",
        }
    }

    /// The most from the strike to the successor's first pod; none where it is not the successor alone that decides it.
    fn limit(self, lease: Duration) -> Option<Duration> {
        match self {
            Self::Kill => Some(lease + TAKE_OVER_MAX),
            Self::Terminate => Some(HAND_OVER_MAX),
            // What job pods post to a stopped process is unanswered until they repeat it.
            Self::Pause | Self::CutOff => None,
        }
    }
}

/// Runs it; returns what there is to say.
pub(super) fn run(round: &Round<'_>) -> Result<(u32, String, Evidence)> {
    let mut draw = Draw(round.seed);
    let strike = Strike::ALL[usize::try_from(round.seed - 1).unwrap_or(0) % Strike::ALL.len()];
    let plan = Plan {
        nodes: round.arguments.nodes,
        pool: round.arguments.nodes.div_ceil(10),
        pod_time: (Duration::from_secs(1), Duration::from_secs(3)),
        lease: Duration::from_secs(round.arguments.lease_seconds),
        replicas: 2,
        first_endpoint: if draw.below(2) == 0 { LEADER } else { STANDBY },
        seed: round.seed,
    };
    let mut site = Site::begin(round.binaries, &plan, round.interrupt)?;
    site.start(LEADER)?;
    site.until_settled(LEADER, true, round.interrupt)?;
    site.start(STANDBY)?;
    site.until_settled(STANDBY, false, round.interrupt)?;
    site.until_created(1, round.interrupt)?;
    round.interrupt.sleep(draw.duration(plan.makespan() / 2))?;
    let struck = Instant::now();
    carry_out(strike, &mut site, &plan, round)?;
    let evidence = finish(&mut site, &plan, round.interrupt)?;
    let took = first_pod_of_successor(&site, struck)?;
    if let Some(limit) = strike.limit(plan.lease) {
        ensure!(
            took <= limit,
            "the successor's first pod came {:.3} s after the leader was {}, not within {:.3} s",
            took.as_secs_f64(),
            strike.as_str(),
            limit.as_secs_f64()
        );
    }
    let line = format!(
        "seed {}: leader {}, the Service leads to the {} first: successor's first pod after {:.3} s; {}",
        round.seed,
        strike.as_str(),
        if plan.first_endpoint == LEADER {
            "leader"
        } else {
            "standby"
        },
        took.as_secs_f64(),
        relayed(&site),
    );
    Ok((1, line, evidence))
}

fn carry_out(strike: Strike, site: &mut Site, plan: &Plan, round: &Round<'_>) -> Result<()> {
    let interrupt = round.interrupt;
    match strike {
        Strike::Kill => {
            site.kill(LEADER)?;
            site.until_settled(STANDBY, true, interrupt)?;
            site.start(LEADER)
        }
        Strike::Terminate => {
            site.terminate(LEADER)?;
            site.until_terminated(LEADER, interrupt)?;
            site.start(LEADER)
        }
        Strike::Pause => {
            site.pause(LEADER, true)?;
            interrupt.sleep(plan.lease + BEYOND_LEASE)?;
            site.pause(LEADER, false)
        }
        Strike::CutOff => {
            site.cut_off(LEADER);
            interrupt.sleep(plan.lease + BEYOND_LEASE)?;
            site.mend(LEADER);
            Ok(())
        }
    }
}

/// From the strike to the first pod that was created after the other replica took the Lease.
fn first_pod_of_successor(site: &Site, struck: Instant) -> Result<Duration> {
    let holders = site.holders();
    let taken = holders.iter().find(|shown| shown.what == identity(STANDBY));
    let taken = taken.context("the other replica never took the Lease")?.at;
    let created = site.created();
    let first = created.iter().find(|shown| shown.at > taken);
    let first = first.context("the successor created no pod")?.at;
    Ok(first - struck)
}

/// What the replica that is there all the time passed on and held.
fn relayed(site: &Site) -> String {
    let Ok(scrape) = site.scrape(STANDBY) else {
        return "its metrics cannot be read".to_owned();
    };
    let sum = |name: &str, outcome: &str| -> f64 {
        let name = format!("batch_job_controller_{name}_total");
        let samples = scrape.of(&name).filter(|sample| {
            let is_page = sample
                .labels
                .get("port")
                .is_some_and(|port| port == "reports");
            !is_page
                && sample
                    .labels
                    .get("outcome")
                    .is_some_and(|found| found == outcome)
        });
        samples.map(|sample| sample.value).sum()
    };
    format!(
        "standby passed on {} callbacks, held {} to their answer and {} to their time",
        sum("forwarded_requests", "answered"),
        sum("held_callbacks", "answered"),
        sum("held_callbacks", "expired"),
    )
}
