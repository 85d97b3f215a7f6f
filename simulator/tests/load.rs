//! A cluster of some size under `cargo test`: every invariant after every event, and the pool kept full to the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use controller::config::PoolSize;
use simulator::faults::Plan;
use simulator::kubelet::Lifecycle;
use simulator::world::{Scenario, WorldOptions, simulate};

#[test]
fn five_executions_over_a_thousand_nodes_keep_every_invariant_and_waste_no_slot() {
    const NODES: u32 = 1_000;
    const POOL: u32 = 50;
    const LIFETIME: Duration = Duration::from_secs(20);
    let options = WorldOptions {
        nodes: NODES,
        scenario: Scenario::standard().with_pool(PoolSize::Count(NonZeroU32::new(POOL).unwrap())),
        executions: 5,
        lifecycle: Lifecycle::steady(LIFETIME, 0.05),
        faults: Plan::none(),
        seed: 1,
    };
    let outcome = simulate(&options, |_| ()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(outcome.executions.len(), 5);
    for execution in &outcome.executions {
        assert_eq!(execution.succeeded + execution.failed, NODES as usize);
        assert!(
            (20..=80).contains(&execution.failed),
            "{}",
            execution.failed
        );
        // Virtual time: not measured, computed. A slot is refilled the moment its pod ends.
        let ideal = LIFETIME * NODES.div_ceil(POOL);
        assert!(
            execution.makespan >= ideal && execution.makespan < ideal + LIFETIME / 20,
            "{:?}",
            execution.makespan
        );
    }
}
