//! The state record on its way to the cluster and back: changed only from the version that was read, by one leader.
//!
//! A change that somebody else's write overtook is decided again on what is there now; a write without an answer is
//! settled by reading. A record of another epoch means that another leads: nothing is written then.

use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Ports;
use super::api_calls::ApiCalls;
use crate::core::backoff::backoff;
use crate::core::names;
use crate::core::record::{NewLeader, StateRecord};
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// The record as its leader knows it. Clones share it.
#[derive(Debug)]
pub(super) struct StateHandle<P: Ports> {
    api: ApiCalls<P>,
    name: Arc<str>,
    known: Arc<Mutex<Known>>,
}

impl<P: Ports> Clone for StateHandle<P> {
    fn clone(&self) -> Self {
        Self {
            api: self.api.clone(),
            name: Arc::clone(&self.name),
            known: Arc::clone(&self.known),
        }
    }
}

#[derive(Debug)]
struct Known {
    version: Option<String>,
    record: StateRecord,
}

/// Why the record was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError<E> {
    /// The change decided against itself.
    #[error(transparent)]
    Decided(E),
    /// Another leader has written since.
    #[error("another leader, of epoch {0}, has taken over")]
    Superseded(u64),
    /// The API server refuses the write, or the record cannot be read.
    #[error(transparent)]
    Cluster(ClusterError),
}

impl<P: Ports> StateHandle<P> {
    /// The record of a controller, not read yet.
    pub(super) fn new(api: ApiCalls<P>, controller: &str) -> Self {
        Self {
            api,
            name: names::state_record(controller).into(),
            known: Arc::new(Mutex::new(Known {
                version: None,
                record: StateRecord::default(),
            })),
        }
    }

    /// Reads the record and takes over with a new epoch, above that of any journal. Repeats while the cluster does not
    /// answer.
    ///
    /// # Errors
    /// `Refused`: RBAC, or a record that is not ours.
    pub(super) async fn take_over(&self, leader: &NewLeader) -> Result<StateRecord, ClusterError> {
        let mut known = self.known.lock().await;
        let mut tries = 1;
        loop {
            let taken = match self.read(&mut known).await {
                Ok(()) => {
                    let mut record = known.record.clone();
                    record.take_over(leader);
                    self.write(&mut known, record).await
                }
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => break,
                Err(error) if may_pass(error.kind) => self.pause(&error, &mut tries).await,
                Err(error) => return Err(error),
            }
        }
        info!(epoch = known.record.epoch, "state record taken over");
        Ok(known.record.clone())
    }

    /// Changes the record by `change`, which is repeated on what is there where somebody else wrote; returns what it
    /// returned.
    ///
    /// # Errors
    /// [`StateError`]; what may pass is repeated instead.
    pub(super) async fn update<T, E>(
        &self,
        change: impl Fn(&mut StateRecord) -> Result<T, E>,
    ) -> Result<T, StateError<E>> {
        let mut known = self.known.lock().await;
        let epoch = known.record.epoch;
        let mut tries = 1;
        loop {
            let mut record = known.record.clone();
            let result = change(&mut record).map_err(StateError::Decided)?;
            if record == known.record {
                return Ok(result);
            }
            let error = match self.write(&mut known, record.clone()).await {
                Ok(()) => return Ok(result),
                Err(error) if may_pass(error.kind) => error,
                Err(error) => return Err(StateError::Cluster(error)),
            };
            // The write may have been carried out all the same: what is there now decides.
            loop {
                self.pause(&error, &mut tries).await;
                match self.read(&mut known).await {
                    Ok(()) => break,
                    Err(error) if may_pass(error.kind) => {}
                    Err(error) => return Err(StateError::Cluster(error)),
                }
            }
            if known.record == record {
                return Ok(result);
            }
            // A record that somebody deleted is written again; the epoch of nobody is below ours.
            if known.record.epoch > epoch {
                return Err(StateError::Superseded(known.record.epoch));
            }
            if known.record.epoch < epoch {
                known.record = StateRecord {
                    epoch,
                    ..known.record.clone()
                };
            }
        }
    }

    async fn read(&self, known: &mut Known) -> Result<(), ClusterError> {
        let read = self.api.cluster().read_state(&self.name);
        let document = self.api.call("get_state", read).await?;
        let text = document.as_ref().map_or("", |document| &document.text);
        known.record = StateRecord::parse(text).map_err(|error| {
            ClusterError::new(
                ClusterErrorKind::Refused,
                format!(
                    "the state record in ConfigMap {} cannot be read: {error}; delete the ConfigMap to begin a new one",
                    self.name
                ),
            )
        })?;
        known.version = document.map(|document| document.version);
        Ok(())
    }

    async fn write(&self, known: &mut Known, record: StateRecord) -> Result<(), ClusterError> {
        let text = record.text();
        let version = known.version.as_deref();
        let write = self.api.cluster().write_state(&self.name, version, &text);
        let version = self.api.write("update_state", write).await?;
        *known = Known {
            version: Some(version),
            record,
        };
        Ok(())
    }

    async fn pause(&self, error: &ClusterError, tries: &mut u32) {
        warn!(config_map = &*self.name, error = %error, "state record is read again");
        let clock = self.api.ports.clock();
        let pause = backoff(error.kind, *tries, &self.name);
        clock.sleep_until(clock.monotonic().after(pause)).await;
        *tries += 1;
    }
}

/// What is decided again on what is there now, beside what may pass by itself.
fn may_pass(kind: ClusterErrorKind) -> bool {
    kind.is_transient()
        || matches!(
            kind,
            ClusterErrorKind::AlreadyExists | ClusterErrorKind::NotFound
        )
}
