//! The same options give the same run, event by event; another seed gives another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use controller::config::PoolSize;
use simulator::faults::Plan;
use simulator::kubelet::Lifecycle;
use simulator::world::{Outcome, Scenario, WorldOptions, simulate};

fn run(seed: u64, lifecycle: Lifecycle) -> Outcome {
    let options = WorldOptions {
        nodes: 40,
        scenario: Scenario::standard().with_pool(PoolSize::Count(NonZeroU32::new(7).unwrap())),
        executions: 4,
        lifecycle,
        faults: Plan::none(),
        seed,
    };
    simulate(&options, |_| ()).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn the_same_seed_gives_the_same_digest_and_another_seed_another() {
    let lifecycle = || Lifecycle::steady(Duration::from_secs(2), 0.2);
    let (first, again, other) = (
        run(1, lifecycle()),
        run(1, lifecycle()),
        run(2, lifecycle()),
    );
    assert_eq!(first.digest, again.digest);
    assert_eq!(first.events, again.events);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn pods_that_differ_in_everything_are_as_deterministic() {
    let lifecycle = || Lifecycle::uneven(Duration::from_secs(30), 0.1);
    let (first, again) = (run(3, lifecycle()), run(3, lifecycle()));
    assert_eq!(first.digest, again.digest);
    assert!(
        first
            .executions
            .iter()
            .any(|execution| execution.failed > 0)
    );
}
