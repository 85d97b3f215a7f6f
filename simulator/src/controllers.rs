//! What a cluster does by itself, as its controller manager does: one rule a file, and what drives them.
//!
//! A rule is pure: it is given the state and the time, changes the state, and says when it is to be asked again. The
//! driver asks in virtual time as in real time. A rule remembers nothing that it could not find out again, so a driver
//! may begin whenever it likes. Deliberately not here: the end of a namespace, which is a verb's (`state`), the expiry
//! of events, and the controllers of workloads.

mod garbage;
mod node_lifecycle;
mod pod_gc;
mod taint_eviction;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use crate::apiserver::ApiServer;
use crate::state::State;

pub use garbage::GarbageCollection;
pub use node_lifecycle::NodeLifecycle;
pub use pod_gc::PodGc;
pub use taint_eviction::TaintEviction;

/// Changes of this time are looked at together: the pace of a controller whose cache is filled by a watch.
const GATHERING: Duration = Duration::from_millis(20);

/// Something that a cluster does by itself.
pub trait Rule: Send {
    /// Does what is due, and says when it is to be asked again, if nothing changes before.
    fn sync(&mut self, state: &mut State, now: Timestamp) -> Option<Timestamp>;

    /// Whether it is to be asked after every change, too.
    fn follows_changes(&self) -> bool;
}

/// Every rule, as a cluster begins with them.
#[must_use]
pub fn every_rule() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(NodeLifecycle::default()),
        Box::new(TaintEviction::default()),
        Box::new(PodGc::default()),
        Box::new(GarbageCollection::default()),
    ]
}

/// Follows these rules until dropped.
pub async fn run(api: ApiServer, mut rules: Vec<Box<dyn Rule>>) {
    let mut changes = api.subscribe();
    let follows = rules.iter().any(|rule| rule.follows_changes());
    loop {
        let now = api.now();
        let due = api.with_state(|state| {
            let dues = rules.iter_mut().filter_map(|rule| rule.sync(state, now));
            dues.min()
        });
        let due = due.map(|due| {
            let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            Instant::now() + wait
        });
        tokio::select! {
            biased;
            Ok(()) = changes.changed(), if follows => sleep(GATHERING).await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            else => return,
        }
    }
}
