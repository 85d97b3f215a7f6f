//! The controller on a cluster that breaks: every invariant holds after every event, every execution ends, and every
//! fault that its port can show has happened.
//!
//! `FAULT_SEEDS` says how many seeds, from `FAULT_FIRST_SEED` on. The table is checked from the usual number on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/seeds.rs"]
mod seeds;

use std::num::NonZeroU32;
use std::time::Duration;

use controller::config::PoolSize;
use seeds::Seeds;
use simulator::faults::{Kind, Placed, Plan, Tally};
use simulator::kubelet::Lifecycle;
use simulator::rng::Seed;
use simulator::world::{Failure, Outcome, Scenario, WorldOptions, simulate};

/// One seed in so many runs twice.
const TWICE: u64 = 50;

fn world(seed: u64, faults: Plan) -> Result<Outcome, Failure> {
    let options = WorldOptions {
        nodes: 12,
        scenario: Scenario::standard().with_pool(PoolSize::Count(NonZeroU32::new(3).unwrap())),
        executions: 3,
        lifecycle: Lifecycle::steady(Duration::from_secs(20), 0.2),
        faults,
        seed,
    };
    simulate(&options, |_| ())
}

#[test]
fn invariants_hold_and_executions_end_whatever_breaks() {
    let seeds = Seeds::of_environment(100);
    let mut tally = Tally::default();
    for seed in seeds.iter() {
        let plan = || Plan::drawn(Seed::of_run(seed));
        let outcome = world(seed, plan());
        let outcome = outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        if seed % TWICE == 0 {
            let again = world(seed, plan()).unwrap();
            assert_eq!(
                outcome.digest, again.digest,
                "two runs of seed {seed} differ"
            );
        }
        tally.add(&outcome.faults);
    }
    println!("{tally}");
    if seeds.are_enough() {
        let shown = Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.is_in_process());
        let empty = tally.empty(shown);
        assert!(empty.is_empty(), "cells with nothing in them: {empty:?}");
    }
}

#[test]
fn a_create_that_is_done_and_not_answered_counts_as_ours() {
    let placed = Placed {
        kind: Kind::ResetAfterCommit,
        nth: 1,
    };
    let outcome = world(1, Plan::placed(vec![placed])).unwrap();
    let count = outcome.faults.count(Kind::ResetAfterCommit);
    assert_eq!((count.fired, count.noticed, count.recovered), (1, 1, 1));
    let nodes = outcome
        .executions
        .iter()
        .map(|execution| execution.succeeded + execution.failed);
    assert_eq!(nodes.sum::<usize>(), 3 * 12);
}
