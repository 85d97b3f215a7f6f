//! The history is compacted: a real server has its store forget, every five minutes, what is older than that
//! (`--etcd-compaction-interval`). Without it a resource that seldom changes keeps its changes for months.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::ApiServer;

/// The default of a real server.
const INTERVAL: Duration = Duration::from_mins(5);

/// Compacts the history again and again, until dropped: what happened within the last interval is always there.
pub async fn compact_history(server: ApiServer) {
    let mut rounds = interval(INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = 0;
    loop {
        rounds.tick().await;
        last = server.with_state(|state| {
            state.compact(last);
            state.version()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::{
        Options, Selector, State, Target, WatchEvent, WatchFrom, WriteOptions, resource,
    };
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_watch_from_before_the_last_interval_is_told_that_it_is_gone() {
        let now = Arc::new(|| jiff::Timestamp::UNIX_EPOCH);
        let server = ApiServer::new(State::new(&Options::default()), now);
        tokio::spawn(compact_history(server.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let row = &resource::CONFIG_MAPS;
        let before = server.read(State::version);
        let map = json!({"metadata": {"name": "m"}});
        let target = Target::new(row, "default", "");
        let now = server.now();
        server
            .with_state(|state| state.create(now, target, map, WriteOptions::default()))
            .unwrap();
        let watched_from = |version| {
            let from = WatchFrom::Version(version);
            server.read(|state| {
                let mut cursor = state.watch(row, None, Selector::default(), from);
                state.poll(&mut cursor, 1).pop()
            })
        };
        let added = Some("ADDED");
        let name = |event: Option<WatchEvent>| event.map(|event| event.name());
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(name(watched_from(before)), added);
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(name(watched_from(before)), Some("ERROR"));
        assert_eq!(name(watched_from(server.read(State::version))), None);
    }
}
