//! Replicas of the controller while everything breaks: a few seeds of `simulator sweep`. `cargo xtask seeds` runs
//! hundreds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use simulator::swarm::{AnyKind, Overrides, SwarmOptions, SwarmOutcome, simulate};

fn run(seed: u64, overrides: &Overrides) -> SwarmOutcome {
    let options = SwarmOptions::drawn(seed, overrides);
    simulate(&options, None).unwrap_or_else(|failure| panic!("{options}\n{failure}"))
}

#[test]
fn replicas_come_right_whatever_has_happened() {
    let small = Overrides {
        nodes: Some(12),
        executions: Some(1),
        ..Overrides::default()
    };
    for seed in 1..=20 {
        run(seed, &small);
    }
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    let (first, again, other) = (
        run(50, &Overrides::default()),
        run(50, &Overrides::default()),
        run(51, &Overrides::default()),
    );
    assert_eq!(first.digest, again.digest);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn without_faults_one_replica_leads_from_the_begin_to_the_end() {
    let without = Overrides {
        without: AnyKind::all().collect(),
        ..Overrides::default()
    };
    for seed in 1..=5 {
        let outcome = run(seed, &without);
        assert_eq!(outcome.epochs, 1);
        assert!(outcome.counts.values().all(|count| count.fired == 0));
    }
}

#[test]
fn only_the_kinds_that_are_asked_for_happen() {
    let crash: AnyKind = "crash".parse().unwrap();
    let only = Overrides {
        only: vec![crash],
        replicas: Some(2),
        ..Overrides::default()
    };
    let fired: Vec<AnyKind> = (1..=4)
        .flat_map(|seed| run(seed, &only).counts)
        .filter(|(_, count)| count.fired > 0)
        .map(|(kind, _)| kind)
        .collect();
    assert!(!fired.is_empty() && fired.iter().all(|kind| *kind == crash));
}
