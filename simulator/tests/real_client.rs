//! Failovers with the real Kubernetes client: replicas of the production controller over its production adapter, on the
//! Router of the simulated API server, in virtual time, without sockets.
//!
//! The site, the checker and the demand that everything comes right are the swarm's; faults and cuts lie between the
//! client and the API server. Each scenario is a few seeds; `FAULT_SEEDS` and `FAULT_FIRST_SEED` say others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;

use controller::adapter::kube_cluster::KubeCluster;
use controller::adapter::retry_after;
use kube::Client;
use seeds::Seeds;
use simulator::faults::{Count, Kind, Notice, Plan};
use simulator::rng::Seed;
use simulator::swarm::{
    AnyKind, Connection, Disturbance, Overrides, SwarmOptions, SwarmOutcome, Timeline,
    simulate_over,
};
use tower::Layer as _;
use tower::util::MapResponseLayer;

/// Seeds of each scenario.
const SEEDS: u64 = 12;

/// The adapter as the binary makes it, but for the sockets.
fn real_client(connection: Connection, namespace: &str, owner: &str) -> KubeCluster {
    let service = MapResponseLayer::new(retry_after::keep).layer(connection);
    KubeCluster::new(Client::new(service, namespace), namespace, owner)
}

fn run(options: &SwarmOptions) -> SwarmOutcome {
    let outcome = simulate_over(options, None, real_client);
    outcome.unwrap_or_else(|failure| panic!("{options}\n{failure}"))
}

/// A small cluster with several replicas and a volume that they share, where nothing happens yet.
fn calm(seed: u64) -> SwarmOptions {
    let overrides = Overrides {
        replicas: Some(2 + u32::try_from(seed % 2).unwrap()),
        nodes: Some(20),
        executions: Some(2),
        without: AnyKind::all().collect(),
        ..Overrides::default()
    };
    let mut options = SwarmOptions::drawn(seed, &overrides);
    options.faults = Plan::none();
    options.has_shared_volume = true;
    options
}

/// Runs the seeds of a scenario: `arrange` says what happens. Each of `kinds` must have happened and been noticed.
fn scenario(kinds: impl IntoIterator<Item = AnyKind>, arrange: impl Fn(&mut SwarmOptions)) {
    let seeds = Seeds::of_environment(SEEDS);
    let mut total: BTreeMap<AnyKind, Count> = BTreeMap::new();
    let mut epochs = 0;
    for seed in seeds.iter() {
        let mut options = calm(seed);
        arrange(&mut options);
        let outcome = run(&options);
        for (kind, count) in outcome.counts {
            let sum = total.entry(kind).or_default();
            sum.fired += count.fired;
            sum.noticed += count.noticed;
        }
        epochs += outcome.epochs;
    }
    println!("{epochs} leaders");
    for kind in kinds {
        let count = total.get(&kind).copied().unwrap_or_default();
        println!("{kind}: fired {}, noticed {}", count.fired, count.noticed);
        // What a client has to tell by itself the adapter does not tell.
        let is_told = matches!(kind, AnyKind::Fault(kind) if kind.notice() == Notice::Told);
        let is_seen = count.fired > 0 && (is_told || count.noticed > 0);
        assert!(
            !seeds.are_enough() || is_seen,
            "{kind} has never happened, or nobody noticed"
        );
    }
}

/// What happens to processes, so many times each, and nothing else.
fn disturbed(times: &[(Disturbance, u32)]) {
    let kinds = times.iter().map(|(kind, _)| AnyKind::Disturbance(*kind));
    scenario(kinds, |options| {
        options.timeline = Timeline::of(times.iter().copied());
    });
}

/// What befalls calls and watches, at these rates, and what happens meanwhile, so many times each.
fn befallen(rates: &[(Kind, f64)], times: &[(Disturbance, u32)]) {
    let faults = rates.iter().map(|(kind, _)| AnyKind::Fault(*kind));
    let disturbances = times.iter().map(|(kind, _)| AnyKind::Disturbance(*kind));
    scenario(faults.chain(disturbances), |options| {
        options.faults = Plan::of(rates.iter().copied());
        options.timeline = Timeline::of(times.iter().copied());
    });
}

#[test]
fn a_leader_is_killed_at_any_moment() {
    disturbed(&[
        (Disturbance::Crash, 6),
        (Disturbance::CrashAtCall, 6),
        (Disturbance::CrashInRecovery, 2),
        (Disturbance::NoLeader, 1),
        (Disturbance::Terminate, 2),
    ]);
}

#[test]
fn a_leader_stands_still_and_comes_back_believing_that_it_leads() {
    disturbed(&[(Disturbance::Pause, 12)]);
}

#[test]
fn a_leader_stands_still_in_the_middle_of_what_it_does() {
    disturbed(&[(Disturbance::PauseAtCall, 12)]);
}

#[test]
fn a_leader_does_not_reach_the_api_server() {
    disturbed(&[
        (Disturbance::ApiRefused, 5),
        (Disturbance::ApiSilent, 5),
        (Disturbance::ApiAnswersLost, 5),
    ]);
}

#[test]
fn a_leader_reaches_everything_but_its_lease() {
    disturbed(&[(Disturbance::LeaseRefused, 12)]);
}

#[test]
fn watches_expire() {
    befallen(
        &[
            (Kind::GoneInStream, 0.1),
            (Kind::GoneAtStart, 0.5),
            (Kind::MissedState, 0.1),
            (Kind::WatchCut, 0.1),
        ],
        &[(Disturbance::Crash, 2)],
    );
}

#[test]
fn pods_are_deleted_while_the_watch_tells_nothing() {
    // No leader ends: whoever takes over reads everything anew.
    befallen(
        &[(Kind::MissedState, 0.5)],
        &[(Disturbance::PodDeleted, 20)],
    );
}

#[test]
fn the_api_server_asks_to_wait_at_every_other_call() {
    befallen(&[(Kind::TooManyRequests, 0.4)], &[(Disturbance::Crash, 2)]);
}

/// Everything at once that a client can meet, as drawn from the seed; but for what the swarm cannot judge from outside:
/// writes that are done after their client has given up, and refusals for good.
fn all_at_once(seed: u64) -> SwarmOptions {
    let overrides = Overrides {
        nodes: Some(40),
        executions: Some(1),
        ..Overrides::default()
    };
    let mut options = SwarmOptions::drawn(seed, &overrides);
    options.faults = Plan::drawn(Seed::of_run(seed));
    options.faults.retain(|kind| {
        let is_for_good = matches!(
            kind,
            Kind::VerbLost | Kind::Forbidden | Kind::Invalid | Kind::WebhookDenied
        );
        !is_for_good && kind != Kind::GhostWrite
    });
    options
}

#[test]
fn everything_happens_at_once() {
    for seed in Seeds::of_environment(SEEDS).iter() {
        run(&all_at_once(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let options = all_at_once(3);
    assert_eq!(run(&options).digest, run(&options).digest);
}
