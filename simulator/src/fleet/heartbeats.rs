//! The leases by which the kubelets of a fleet say that they live: created at the start, renewed every 10 s, a few
//! nodes at a time so that the writes are spread as those of real kubelets are.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::apiserver::ApiServer;
use crate::node::{self, LEASE_NAMESPACE, LEASE_RENEWAL_SECONDS};
use crate::state::{Part, Target, WriteOptions, resource};

/// Renewals are spread over this many moments of each period.
const MOMENTS: u32 = 50;

/// Creates the leases of `nodes` nodes and renews them until dropped.
pub async fn renew_leases(api: ApiServer, nodes: u32) {
    let now = api.now();
    for number in 1..=nodes {
        let lease = node::lease(number, now);
        let target = Target::new(&resource::LEASES, LEASE_NAMESPACE, "");
        // One that is there already is renewed like the others.
        let _ = api.with_state(|state| state.create(now, target, lease, WriteOptions::default()));
    }
    let mut moments = interval(Duration::from_secs(LEASE_RENEWAL_SECONDS) / MOMENTS);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once; the leases are fresh.
    moments.tick().await;
    for moment in (0..MOMENTS).cycle() {
        moments.tick().await;
        let now = api.now();
        api.with_state(|state| {
            for number in (1..=nodes).filter(|number| number % MOMENTS == moment) {
                let name = node::name(number);
                let target = Target::new(&resource::LEASES, LEASE_NAMESPACE, &name);
                // A lease that somebody deleted stays away until the node restarts.
                let _ = state.modify(target, Part::Whole, |lease| {
                    lease.set("spec", node::lease_spec(&name, now));
                });
            }
        });
    }
}
