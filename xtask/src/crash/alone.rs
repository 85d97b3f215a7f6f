//! A round of one controller: killed at any moment of an execution, and started again, sometimes killed while it takes
//! up again.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::evidence::Evidence;
use super::site::{Plan, Site};
use super::{Draw, Round, finish};

/// From the start of the process to its first pods, about.
const START: Duration = Duration::from_millis(300);

/// Of what an execution takes, in percent, the part in which it is killed: one that is over would be followed by
/// another.
const STRIKE_PERCENT: u32 = 85;

/// Runs it; returns how often it was killed, at most `strikes_max` times, and what there is to say.
pub(super) fn run(round: &Round<'_>, strikes_max: u32) -> Result<(u32, String, Evidence)> {
    let mut draw = Draw(round.seed);
    let plan = Plan {
        nodes: round.arguments.nodes,
        pool: round.arguments.nodes.div_ceil(4),
        pod_time: (Duration::from_millis(300), Duration::from_millis(700)),
        lease: Duration::from_secs(round.arguments.lease_seconds),
        replicas: 1,
        first_endpoint: 0,
        seed: round.seed,
    };
    let mut site = Site::begin(round.binaries, &plan, round.interrupt)?;
    let begun = Instant::now();
    site.start(0)?;
    let moment = draw.duration(START + plan.makespan() * STRIKE_PERCENT / 100);
    round.interrupt.sleep(moment)?;
    site.kill(0)?;
    let created = site.created().len();
    let killed = Instant::now();
    site.start(0)?;
    let mut strikes = 1;
    while strikes < strikes_max && draw.below(4) == 0 {
        round.interrupt.sleep(draw.duration(START))?;
        site.kill(0)?;
        site.start(0)?;
        strikes += 1;
    }
    let evidence = finish(&mut site, &plan, round.interrupt)?;
    let line = format!(
        "seed {}: killed {strikes} time(s), first after {:.3} s with {created} of {} pods created; all ended {:.1} s later",
        round.seed,
        (killed - begun).as_secs_f64(),
        plan.nodes,
        killed.elapsed().as_secs_f64()
    );
    Ok((strikes, line, evidence))
}
