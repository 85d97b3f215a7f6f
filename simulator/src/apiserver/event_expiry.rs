//! Events expire: a real server keeps them for an hour (`--event-ttl`), which bounds what a busy cluster holds.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{MissedTickBehavior, interval};

use super::ApiServer;

/// The default of a real server.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);

/// How often expired events are looked for.
const LOOK: Duration = Duration::from_mins(1);

/// Removes events that have expired, until dropped.
pub async fn expire_events(server: ApiServer) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = server.now();
        server.with_state(|state| state.expire_events(now, EVENT_TTL));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::{Options, State, Target, WriteOptions, resource};
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn an_event_goes_an_hour_after_its_creation_and_nothing_else_does() {
        let begun = tokio::time::Instant::now();
        let now = move || jiff::Timestamp::UNIX_EPOCH + begun.elapsed();
        let server = ApiServer::new(State::new(&Options::default()), Arc::new(now));
        let involved = json!({"kind": "Pod", "name": "p", "namespace": "default"});
        let event = json!({"metadata": {"name": "e"}, "involvedObject": involved, "reason": "R", "type": "Normal"});
        let map = json!({"metadata": {"name": "m"}});
        for (row, object) in [(&resource::EVENTS, event), (&resource::CONFIG_MAPS, map)] {
            let target = Target::new(row, "default", "");
            let now = server.now();
            server
                .with_state(|state| state.create(now, target, object, WriteOptions::default()))
                .unwrap();
        }
        tokio::spawn(expire_events(server.clone()));
        let count = |row| server.read(|state| state.iter(row, Some("default")).count());
        tokio::time::sleep(Duration::from_mins(59)).await;
        assert_eq!(count(&resource::EVENTS), 1);
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert_eq!(count(&resource::EVENTS), 0);
        assert_eq!(count(&resource::CONFIG_MAPS), 1);
    }
}
