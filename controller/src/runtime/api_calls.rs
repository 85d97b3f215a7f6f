//! Calls to the cluster on behalf of the loop: capped in flight, counted by outcome; writes only while this process
//! leads.
//!
//! The election's own calls do not come through here: a renewal never waits behind creates.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Ports;
use super::fence::Fence;
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// Calls in flight at once. A service account is sure of about 25 seats at the API server (*workload-low*); this stays
/// within them and leaves room for the watch and lease renewals.
pub(super) const MAX_IN_FLIGHT: usize = 16;

/// What a leader's writes are bound by.
#[derive(Debug, Clone)]
pub(super) struct WriteBounds {
    /// Whether one may begin.
    pub(super) fence: Fence,
    /// How long one may take: none of a former leader is under way when the next one acts.
    pub(super) limit: Duration,
}

/// The cluster behind the cap and the counters. Cheap to clone.
#[derive(Debug)]
pub(super) struct ApiCalls<P: Ports> {
    pub(super) ports: P,
    permits: Arc<Semaphore>,
    writes: Arc<Mutex<Writes>>,
    bounds: WriteBounds,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Writes {
    in_flight: usize,
    /// No further one begins.
    are_closed: bool,
}

impl<P: Ports> Clone for ApiCalls<P> {
    fn clone(&self) -> Self {
        Self {
            ports: self.ports.clone(),
            permits: Arc::clone(&self.permits),
            writes: Arc::clone(&self.writes),
            bounds: self.bounds.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// A write in flight, until it is dropped.
struct InFlight<'a>(&'a Mutex<Writes>);

fn lock(writes: &Mutex<Writes>) -> MutexGuard<'_, Writes> {
    writes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        lock(self.0).in_flight -= 1;
    }
}

impl<P: Ports> ApiCalls<P> {
    pub(super) fn new(ports: P, bounds: WriteBounds, metrics: Arc<Metrics>) -> Self {
        Self {
            ports,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            writes: Arc::default(),
            bounds,
            metrics,
        }
    }

    /// The cluster, for the futures of [`Self::call`].
    pub(super) fn cluster(&self) -> &P::Cluster {
        self.ports.cluster()
    }

    /// Returns once this process may act as the leader.
    pub(super) async fn pass_fence(&self) {
        self.bounds.fence.pass(self.ports.clock()).await;
    }

    /// Whether it may at the moment when that is asked.
    pub(super) fn may_act(&self) -> impl Fn() -> bool + Send + 'static + use<P> {
        let (fence, clock) = (self.bounds.fence.clone(), self.ports.clock().clone());
        move || fence.is_open(clock.monotonic())
    }

    /// A read: waits for its turn, calls, counts. `call` does nothing before it is polled; the permit is held until it
    /// has ended.
    pub(super) fn call<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> impl Future<Output = Result<T, ClusterError>> {
        // One in each of hundreds of tasks, and held twice by every future around it: kept as a pointer.
        let call = Box::pin(call);
        async move {
            let _permit = self.permit().await;
            let result = call.await;
            self.metrics.own().api_request(verb, &result);
            result
        }
    }

    /// A write: as [`Self::call`], but it begins only while this process leads, and is given up after the time a write
    /// may take: then its outcome is unknown.
    pub(super) fn write<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> impl Future<Output = Result<T, ClusterError>> {
        let bounded = self.bounded(call);
        self.write_of_any_length(verb, bounded)
    }

    /// As [`Self::write`], of what may have been withdrawn when its turn comes: none where it was.
    pub(super) async fn write_if<T>(
        &self,
        is_wanted: impl Fn() -> bool,
        verb: &'static str,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> Option<Result<T, ClusterError>> {
        let bounded = self.bounded(call);
        let _turn = self.turn().await;
        if !is_wanted() {
            return None;
        }
        let result = bounded.await;
        self.metrics.own().api_request(verb, &result);
        Some(result)
    }

    fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> impl Future<Output = Result<T, ClusterError>> {
        let (limit, call) = (self.bounds.limit, Box::pin(call));
        async move {
            let clock = self.ports.clock();
            tokio::select! {
                biased;
                result = call => result,
                () = clock.sleep_until(clock.monotonic().after(limit)) => Err(no_answer(limit)),
            }
        }
    }

    /// A write that does no harm however late it is done, and may take long: the deletion of an older execution's pods.
    pub(super) async fn write_of_any_length<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let _turn = self.turn().await;
        let result = call.await;
        self.metrics.own().api_request(verb, &result);
        result
    }

    /// Returns when a write may begin; it is in flight until that is dropped.
    async fn turn(&self) -> (Option<SemaphorePermit<'_>>, InFlight<'_>) {
        loop {
            let permit = self.permit().await;
            if !self.bounds.fence.is_open(self.ports.clock().monotonic()) {
                drop(permit);
                self.pass_fence().await;
                continue;
            }
            let Some(in_flight) = self.begin_write() else {
                drop(permit);
                // The process is about to end, and drops who waits here.
                return std::future::pending().await;
            };
            return (permit, in_flight);
        }
    }

    /// Lets no further write begin: what waits for its turn waits for ever.
    pub(super) fn close_writes(&self) {
        lock(&self.writes).are_closed = true;
    }

    /// Writes that were sent and not answered.
    pub(super) fn writes_in_flight(&self) -> usize {
        lock(&self.writes).in_flight
    }

    fn begin_write(&self) -> Option<InFlight<'_>> {
        let mut writes = lock(&self.writes);
        if writes.are_closed {
            return None;
        }
        writes.in_flight += 1;
        Some(InFlight(&self.writes))
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }
}

/// What an API server that does not answer in time comes to.
pub(super) fn no_answer(limit: Duration) -> ClusterError {
    ClusterError::new(
        ClusterErrorKind::Unavailable,
        format!("no answer from the API server within {limit:?}"),
    )
}
