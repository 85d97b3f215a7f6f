//! Forwards the pod watch to the controller's loop; pauses after errors, so that a broken API server is not hammered.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Ports;
use super::event::Event;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs until the loop is gone. Waits while its queue is full: an event is never dropped.
pub(super) async fn run<P: Ports>(ports: P, events: mpsc::Sender<Event>) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut watch = pin!(ports.cluster().watch_pods());
        while let Some(item) = watch.next().await {
            match item {
                Ok(event) => {
                    pause = PAUSE_MIN;
                    if events.send(Event::Pods(event)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    warn!(error = %error, pause_ms = pause.as_millis(), "pod watch interrupted");
                    let clock = ports.clock();
                    clock.sleep_until(clock.monotonic().after(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        debug!("pod watch ended, beginning again");
        let clock = ports.clock();
        clock.sleep_until(clock.monotonic().after(PAUSE_MIN)).await;
    }
}
