//! Many nodes: the leader is killed twice during an execution over 15,000, of whose ended pods PodGC has removed some
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use controller::ports::cluster::LIST_PAGE_SIZE;
use simulator::swarm::{LeaderStop, SoakOptions, Stop, soak};
use simulator::traffic::Counts;

const NODES: usize = 15_000;
const POOL: usize = 500;

/// PodGC keeps this many ended pods by default.
const KEPT_BY_POD_GC: usize = 12_500;

/// So many have ended when the leader is killed: in the middle, and when PodGC has removed some of them.
const KILLED_AT: [usize; 2] = [NODES / 2, NODES - 2 * POOL];

fn times(counts: &Counts, verb: &str, resource: &str) -> usize {
    let requests = counts.requests.iter();
    let of_kind = requests.filter(|(kind, _)| kind.verb == verb && kind.resource == resource);
    of_kind
        .map(|(_, times)| usize::try_from(*times).unwrap())
        .sum()
}

fn pages(objects: usize) -> usize {
    objects.div_ceil(LIST_PAGE_SIZE as usize)
}

#[test]
fn who_follows_a_killed_leader_of_15_000_nodes_asks_for_a_few_lists_and_no_node_runs_twice() {
    if std::env::var_os("SLOW_TESTS").is_none() {
        eprintln!(
            "skipped: 15,000 nodes take a minute where nothing is optimised; SLOW_TESTS=1 runs them"
        );
        return;
    }
    let kill = |ended| LeaderStop {
        execution: 0,
        ended,
        stop: Stop::Kill,
    };
    let options = SoakOptions {
        seed: 1,
        nodes: NODES.try_into().unwrap(),
        pool: NonZeroU32::new(POOL.try_into().unwrap()).unwrap(),
        lifetime: Duration::from_mins(1),
        executions: 1,
        // Nobody but PodGC removes any.
        config: "endedPods: 20000\n",
        has_pod_gc: true,
        stops: KILLED_AT.map(kill).into(),
    };
    // That each node ran once, and that the summary names every report, is checked there.
    let outcome = soak(&options, || ()).unwrap_or_else(|failure| panic!("{failure}"));
    println!("PodGC removed {} pods", outcome.collected);
    assert!(
        outcome.take_overs[1].pods < KILLED_AT[1],
        "PodGC came too late"
    );
    for (take_over, ended) in outcome.take_overs.iter().zip(KILLED_AT) {
        let pods = take_over.pods;
        println!(
            "killed when {ended} pods had ended: another leads after {:?}, with {pods} pods in the cluster, and asked for",
            take_over.took
        );
        for (kind, times) in &take_over.to_leading.requests {
            println!("  {kind}: {times}");
        }
        assert!(pods <= KEPT_BY_POD_GC + 2 * POOL, "{pods}");
        // One to take up what is there, one to watch what becomes of it.
        let lists = (
            times(&take_over.to_leading, "list", "pods"),
            times(&take_over.to_leading, "list", "nodes"),
        );
        assert_eq!(lists, (2 * pages(pods), pages(NODES)));
        for (kind, times) in &take_over.to_leading.requests {
            // The record is one, and the configuration is read once more when its watch has begun.
            let is_map = (kind.verb, kind.resource) == ("get", "configmaps");
            let bound = if is_map { 3 } else { 2 };
            assert!(kind.verb == "list" || *times <= bound, "{kind}: {times}");
        }
    }
    // Up to the end, too, a node costs the create of its pod and the event that it posts, and nothing else.
    let last = &outcome.take_overs[1].to_end;
    let left = NODES - KILLED_AT[1];
    assert!(times(last, "create", "pods") <= left, "{last:?}");
    assert!(times(last, "create", "events") <= left, "{last:?}");
    for (kind, times) in &last.requests {
        let is_of_nodes = matches!(kind.verb, "create" | "list") || kind.resource == "leases";
        assert!(is_of_nodes || *times <= 3, "{kind}: {times}");
    }
}
