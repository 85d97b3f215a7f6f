//! A year of daily executions over 500 nodes, with a restart a week and a failover a month; a season over 100 where
//! nothing is optimised. Alone in its process, whose memory is looked at.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use simulator::swarm::{LeaderStop, SoakOptions, Stop, soak};

/// As in the simulator: what it gives back to the system is seen soon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Days, and nodes.
const SIZE: (u32, u32) = if cfg!(debug_assertions) {
    (90, 100)
} else {
    (365, 500)
};

/// As many as `reportHistory` keeps executions: from the second month on as much leaves as comes.
const DAYS_A_MONTH: usize = 30;

/// What memory may grow by from the second month to the last: 70 bytes for each pod of ten months and 500 nodes. The
/// months of one run differ by up to 9 MiB, up and down.
const GROWTH_MAX_KIB: u64 = 10 * 1024;

/// The memory of this process, in KiB; none where the system does not tell.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// When two of five rounds have ended: the leader is killed once a month, and restarted in most weeks.
fn stops(days: u32, nodes: u32) -> Vec<LeaderStop> {
    let stop_of = |day: u32| match day {
        _ if day % 30 == 17 => Some(Stop::Kill),
        _ if day % 7 == 2 => Some(Stop::Terminate),
        _ => None,
    };
    let stop = |execution: u32| {
        let ended = usize::try_from(nodes * 2 / 5).unwrap();
        let stop = stop_of(execution)?;
        Some(LeaderStop {
            execution,
            ended,
            stop,
        })
    };
    (0..days).filter_map(stop).collect()
}

#[test]
fn over_a_year_every_node_runs_every_day_and_memory_is_flat_from_the_second_month_on() {
    if std::env::var_os("SLOW_TESTS").is_none() {
        eprintln!(
            "skipped: a season takes half a minute where nothing is optimised; SLOW_TESTS=1 runs it"
        );
        return;
    }
    let (days, nodes) = SIZE;
    let options = SoakOptions {
        seed: 1,
        nodes,
        pool: NonZeroU32::new(nodes / 5).unwrap(),
        lifetime: Duration::from_mins(10),
        executions: days,
        // A replica takes over before the pods of the round end, which repeat their posts for a minute. With the
        // default a year is 16 million renewals, and hardly anything else.
        config: "leaderElection: {leaseDuration: 5m, renewDeadline: 4m, retryPeriod: 3m}\n",
        has_pod_gc: false,
        stops: stops(days, nodes),
    };
    let mut memory = Vec::new();
    // That each node ran once, and that the summary names every report, is checked there.
    let outcome = soak(&options, || memory.extend(resident_kib()));
    let outcome = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let killed = outcome.take_overs.iter();
    let killed = killed
        .filter(|take_over| take_over.stop == Stop::Kill)
        .count();
    println!(
        "{days} days, {nodes} nodes: {killed} leaders killed, {} restarted; {} events, digest {}",
        outcome.take_overs.len() - killed,
        outcome.events,
        outcome.digest
    );
    // The day in the middle of a month's: what an allocator holds back comes and goes.
    let months = memory.chunks_exact_mut(DAYS_A_MONTH);
    let months: Vec<u64> = months
        .map(|days| {
            days.sort_unstable();
            days[DAYS_A_MONTH / 2]
        })
        .collect();
    println!("memory by month, in KiB: {months:?}");
    if let [_, second, .., last] = months[..] {
        assert!(last <= second + GROWTH_MAX_KIB, "{months:?}");
    }
}
