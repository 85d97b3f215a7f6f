//! The real client's `watcher` beside a client that writes, behind every fault of the layer, under paused time: once
//! the faults are over its view is the server's state, and every kind of fault has fired, was noticed and recovered
//! from.
//!
//! `FAULT_SEEDS` says how many seeds, from `FAULT_FIRST_SEED` on. The cells of the table are checked from the usual
//! number on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/faulty_client.rs"]
mod faulty_client;
#[path = "common/seeds.rs"]
mod seeds;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faulty_client::{Follower, Writer};
use jiff::Timestamp;
use seeds::Seeds;
use simulator::apiserver::ApiServer;
use simulator::event_log::EventLog;
use simulator::faults::{Faults, Kind, Plan, Tally};
use simulator::rng::Seed;
use simulator::state::{Options, State};
use tokio::time::{Instant, sleep};

/// Seeds of a push: seconds, as time is virtual.
const SEEDS: u64 = 1_000;

/// One seed in so many runs twice.
const TWICE: u64 = 50;

/// Writes of a run.
const WRITES: u32 = 40;

/// Within this time after the last fault the view agrees: the client's own deadline for a silent watch (295 s), a list
/// and a watch that take a minute each, a watch that lags for as long, the pauses between.
const BOUND: Duration = Duration::from_mins(10);

/// Small enough for versions to expire by themselves now and then.
const HISTORY: usize = 60;

/// What happened, in virtual time.
#[derive(Debug, Clone)]
pub struct Log {
    start: Instant,
    lines: Arc<Mutex<EventLog>>,
}

impl Log {
    /// Adds a line.
    pub fn line(&self, what: impl Debug) {
        let at = self.start.elapsed();
        let mut lines = self.lines.lock().unwrap();
        lines.append(at, format_args!("{what:?}"));
    }
}

struct Run {
    digest: String,
    tally: Tally,
}

fn run(seed: u64, plan: &Plan) -> Result<Run, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(converge(seed, plan.clone()))
}

async fn converge(number: u64, plan: Plan) -> Result<Run, String> {
    let seed = Seed::of_run(number);
    let start = Instant::now();
    let clock = move || Timestamp::from_second(1_767_225_600).unwrap() + start.elapsed();
    let options = Options {
        seed: number,
        history: HISTORY,
        ..Options::default()
    };
    let api = ApiServer::new(State::new(&options), Arc::new(clock));
    let faults = Faults::new(plan, seed);
    let log = Log {
        start,
        lines: Arc::default(),
    };
    let mut follower = Follower::start(&api, &faults, &log, seed);
    let mut writer = Writer::new(&api, &faults, &log, seed);
    for _ in 0..WRITES {
        writer.write().await;
        if writer.wants_restart() {
            follower.restart();
        }
    }
    faults.heal();
    // What is still under way lands.
    sleep(simulator::faults::DELAY_MAX).await;
    let healed = Instant::now();
    while !follower.agrees_with(&api) {
        if healed.elapsed() > BOUND {
            let lines = log.lines.lock().unwrap();
            let tail: Vec<&str> = lines.tail().collect();
            let tail = tail[tail.len().saturating_sub(40)..].join("\n");
            return Err(format!("{}\n{tail}", follower.difference(&api)));
        }
        sleep(Duration::from_secs(1)).await;
    }
    faults.converged(faulty_client::FOLLOWER);
    writer.settle(&api).await?;
    faults.converged(faulty_client::WRITER);
    let digest = log.lines.lock().unwrap().digest();
    Ok(Run {
        digest,
        tally: faults.tally(),
    })
}

#[test]
fn the_watcher_survives_every_fault_and_converges() {
    let seeds = Seeds::of_environment(SEEDS);
    let mut tally = Tally::default();
    for seed in seeds.iter() {
        let plan = Plan::drawn(Seed::of_run(seed));
        let outcome = run(seed, &plan).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if seed % TWICE == 0 {
            let again = run(seed, &plan).unwrap();
            assert_eq!(
                outcome.digest, again.digest,
                "two runs of seed {seed} differ"
            );
        }
        tally.add(&outcome.tally);
    }
    println!("{tally}");
    if seeds.are_enough() {
        let empty = tally.empty(Kind::ALL.iter().copied());
        assert!(empty.is_empty(), "cells with nothing in them: {empty:?}");
    }
}

#[test]
fn each_kind_alone_is_noticed_and_survived() {
    for kind in Kind::ALL {
        // Without an expired watch nobody lists a second time.
        let relist = (*kind == Kind::TimeTravel).then_some((Kind::GoneInStream, 0.2));
        let plan = Plan::of([(*kind, 0.5)].into_iter().chain(relist));
        let mut tally = Tally::default();
        for seed in 1..=20 {
            let outcome = run(seed, &plan);
            let outcome = outcome.unwrap_or_else(|error| panic!("{kind}, seed {seed}: {error}"));
            tally.add(&outcome.tally);
        }
        let count = tally.count(*kind);
        assert!(tally.empty([*kind]).is_empty(), "{kind}: {count:?}");
    }
}
