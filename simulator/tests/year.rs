//! A year of daily executions over 500 nodes, with a restart a week and a failover a month; a season over 100 where
//! nothing is optimised. Alone in its process, whose memory is looked at.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use simulator::swarm::{LeaderStop, SoakOptions, Stop, soak};

/// It tells how much is in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Days, and nodes.
const SIZE: (u32, u32) = if cfg!(debug_assertions) {
    (90, 100)
} else {
    (365, 500)
};

/// As many as `reportHistory` keeps executions: from the second month on as much leaves as comes.
const DAYS_A_MONTH: usize = 30;

/// What is allocated may grow by so much from the second month to the last: 7 bytes for each pod of ten months and 500
/// nodes. The months of one run differ by up to 0.3 MiB, up and down.
const ALLOCATED_GROWTH_MAX_KIB: u64 = 1024;

/// What the process may grow by: the allocator holds some back, now more, now less.
const RESIDENT_GROWTH_MAX_KIB: u64 = 10 * 1024;

/// What is allocated, in KiB.
fn allocated_kib() -> u64 {
    tikv_jemalloc_ctl::epoch::advance().unwrap();
    u64::try_from(tikv_jemalloc_ctl::stats::allocated::read().unwrap()).unwrap() / 1024
}

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
    let (mut allocated, mut resident) = (Vec::new(), Vec::new());
    let told = || {
        allocated.push(allocated_kib());
        resident.extend(resident_kib());
    };
    // That each node ran once, and that the summary names every report, is checked there.
    let outcome = soak(&options, told);
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
    check_flat("allocated", allocated, ALLOCATED_GROWTH_MAX_KIB);
    check_flat("resident", resident, RESIDENT_GROWTH_MAX_KIB);
}

/// Checks that what was measured at the end of each day does not grow by more than that from the second month on.
fn check_flat(what: &str, mut days: Vec<u64>, growth_max_kib: u64) {
    // The day in the middle of a month's: what an allocator holds back comes and goes.
    let months = days.chunks_exact_mut(DAYS_A_MONTH);
    let months: Vec<u64> = months
        .map(|days| {
            days.sort_unstable();
            days[DAYS_A_MONTH / 2]
        })
        .collect();
    println!("{what} by month, in KiB: {months:?}");
    if let [_, second, .., last] = months[..] {
        assert!(last <= second + growth_max_kib, "{what}: {months:?}");
    }
}
