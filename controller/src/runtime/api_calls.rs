//! Calls to the cluster on behalf of the loop: capped in flight, counted by outcome.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Ports;
use crate::metrics::Metrics;
use crate::ports::error::ClusterError;

/// Calls in flight at once. A service account is sure of about 25 seats at the API server (*workload-low*); this stays
/// within them and leaves room for the watch and lease renewals.
pub(super) const MAX_IN_FLIGHT: usize = 16;

/// The cluster behind the cap and the counters. Cheap to clone.
#[derive(Debug)]
pub(super) struct ApiCalls<P: Ports> {
    pub(super) ports: P,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl<P: Ports> Clone for ApiCalls<P> {
    fn clone(&self) -> Self {
        Self {
            ports: self.ports.clone(),
            permits: Arc::clone(&self.permits),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl<P: Ports> ApiCalls<P> {
    pub(super) fn new(ports: P, metrics: Arc<Metrics>) -> Self {
        Self {
            ports,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            metrics,
        }
    }

    /// The cluster, for the futures of [`Self::call`].
    pub(super) fn cluster(&self) -> &P::Cluster {
        self.ports.cluster()
    }

    /// Waits for its turn, calls, counts. `call` does nothing before it is polled; the permit is held until it has ended.
    pub(super) async fn call<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let _permit = self.permit().await;
        let result = call.await;
        self.metrics.own().api_request(verb, &result);
        result
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }
}
