//! Forwards the watches of pods and nodes to the controller's loop; pauses after errors, so that a broken API server is
//! not hammered.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Ports;
use super::api_calls::ApiCalls;
use super::event::Event;
use crate::core::execution;
use crate::core::ids::ExecutionId;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::{Cluster as _, NodeWatchEvent, WatchEvent};
use crate::ports::error::{ClusterError, ClusterErrorKind};

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Watches this owner's pods until the loop is gone. Waits while its queue is full: an event is never dropped.
pub(super) async fn pods<P: Ports>(ports: P, events: mpsc::Sender<Event>) {
    let mut pause = PAUSE_MIN;
    loop {
        let watch = ports.cluster().watch_pods();
        if (forward(&ports, watch, &events, Event::Pods, &mut pause).await).is_break() {
            return;
        }
    }
}

/// Watches all nodes on behalf of one execution, as [`pods`] does; from the list that it began with on, where its
/// version is given.
pub(super) async fn nodes<P: Ports>(
    ports: P,
    events: mpsc::Sender<Event>,
    id: ExecutionId,
    mut since: Option<String>,
) {
    let mut pause = PAUSE_MIN;
    let told = |event| {
        let event = match event {
            NodeWatchEvent::Restarted(nodes) => execution::Event::NodesRelisted(nodes),
            NodeWatchEvent::Applied(node) => execution::Event::NodeSeen(node),
            NodeWatchEvent::Deleted(node) => execution::Event::NodeGone(node),
        };
        Event::Answer(id.clone(), event)
    };
    loop {
        let watch = ports.cluster().watch_nodes(since.take());
        if (forward(&ports, watch, &events, told, &mut pause).await).is_break() {
            return;
        }
    }
}

/// Watches the controller's ConfigMap. What the watch shows may be old, so it only says when to look.
pub(super) async fn config_map<P: Ports>(
    api: ApiCalls<P>,
    events: mpsc::Sender<Event>,
    name: String,
) {
    let mut pause = PAUSE_MIN;
    let clock = api.ports.clock();
    loop {
        let mut changes = pin!(api.cluster().watch_config_map(&name));
        while let Some(change) = changes.next().await {
            let read = async {
                change?;
                api.call("get_config_map", api.cluster().config_map(&name))
                    .await
            };
            let read = match read.await {
                Ok(view) => Ok(Box::new(view)),
                Err(error) if error.kind == ClusterErrorKind::NotFound => {
                    Err(format!("ConfigMap {name}: it was deleted"))
                }
                Err(error) => {
                    warn!(config_map = name, error = %error, pause_ms = pause.as_millis(), "the ConfigMap cannot be read");
                    break;
                }
            };
            pause = PAUSE_MIN;
            if events.send(Event::ConfigMapRead(read)).await.is_err() {
                return;
            }
        }
        // Begun again, it shows once more what is there.
        clock.sleep_until(clock.monotonic().after(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Forwards one watch to its end, and pauses. Breaks when the loop is gone.
async fn forward<P: Ports, V>(
    ports: &P,
    watch: impl Stream<Item = Result<WatchEvent<V>, ClusterError>>,
    events: &mpsc::Sender<Event>,
    told: impl Fn(WatchEvent<V>) -> Event,
    pause: &mut Duration,
) -> ControlFlow<()> {
    let clock = ports.clock();
    let mut watch = pin!(watch);
    while let Some(item) = watch.next().await {
        match item {
            Ok(event) => {
                *pause = PAUSE_MIN;
                if events.send(told(event)).await.is_err() {
                    return ControlFlow::Break(());
                }
            }
            Err(error) => {
                warn!(error = %error, pause_ms = pause.as_millis(), "watch interrupted");
                clock.sleep_until(clock.monotonic().after(*pause)).await;
                *pause = (*pause * 2).min(PAUSE_MAX);
            }
        }
    }
    debug!("watch ended, beginning again");
    clock.sleep_until(clock.monotonic().after(PAUSE_MIN)).await;
    ControlFlow::Continue(())
}
