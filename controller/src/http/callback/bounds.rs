//! How many posts are under way: of one job pod, and uploads in all. It stands before whatever reads a body, on every
//! replica.
//!
//! A pod that has too many is refused at once: it is one script's doing. Uploads that find no place wait for one, since
//! many pods that each have one are no fault of theirs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::handler::Handler as _;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::authentication::{Authentication, Claim};
use super::target::{Endpoint, Target};
use crate::http::Answering;
use crate::http::error::HttpError;
use crate::runtime::replica::ReplicaHandle;

/// The most posts of one job pod at a time: a script that uploads what it finds in parallel has a few.
const POD_POSTS_MAX: usize = 32;

/// The most uploads of files at a time. Each has a descriptor and up to three blocks of 64 KiB; a few have wider ones.
const UPLOADS_MAX: usize = 512;

/// How long an upload waits for its turn.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

/// When a pod that had too many posts may come again.
const POD_PAUSE: Duration = Duration::from_secs(1);

/// Posts are counted before they are answered.
#[derive(Debug)]
struct Bounded {
    inner: Answering,
    authentication: Authentication,
    replica: ReplicaHandle,
    /// The posts under way by node and execution, as their paths name them.
    pods: Mutex<BTreeMap<Pod, usize>>,
    uploads: Semaphore,
}

type Pod = (String, String);

/// The callback API, with so many posts at a time.
pub fn bounded(
    inner: Answering,
    authentication: Authentication,
    replica: impl Into<ReplicaHandle>,
) -> Answering {
    let bounded = Bounded {
        inner,
        authentication,
        replica: replica.into(),
        pods: Mutex::default(),
        uploads: Semaphore::new(UPLOADS_MAX),
    };
    Answering::new(post.with_state(Arc::new(bounded)))
}

async fn post(State(bounded): State<Arc<Bounded>>, mut request: Request) -> Response {
    let Ok(claim) = Claim::of(&mut request, &bounded.authentication) else {
        // It gets its answer without a look at its body.
        return bounded.here(request).await;
    };
    match bounded.enter(&claim.target).await {
        Ok(_under_way) => bounded.here(request).await,
        Err(refusal) => {
            let own = bounded.replica.metrics().own();
            own.callback_answered(claim.target.endpoint.as_str(), refusal.status.as_u16());
            refusal.into_response()
        }
    }
}

impl Bounded {
    async fn here(&self, request: Request) -> Response {
        let answered = self.inner.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }

    async fn enter(&self, target: &Target) -> Result<UnderWay<'_>, HttpError> {
        let pod = (target.node.clone(), target.execution.clone());
        let of_pod = OfPod::enter(self, pod).ok_or_else(|| {
            let message = format!(
                "posts: this job pod has {POD_POSTS_MAX} under way, the limit; come again when one is answered"
            );
            HttpError::too_many(message, POD_PAUSE)
        })?;
        let upload = match target.endpoint {
            Endpoint::File => Some(self.upload().await?),
            Endpoint::Result | Endpoint::Event => None,
        };
        Ok(UnderWay {
            _of_pod: of_pod,
            _upload: upload,
        })
    }

    async fn upload(&self) -> Result<SemaphorePermit<'_>, HttpError> {
        let entered = timeout(UPLOAD_PATIENCE, self.uploads.acquire()).await;
        entered.ok().and_then(Result::ok).ok_or_else(|| {
            HttpError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("uploads: {UPLOADS_MAX} are under way, the limit: try again"),
            )
        })
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<Pod, usize>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A post that was let in, until it is answered.
#[derive(Debug)]
struct UnderWay<'b> {
    _of_pod: OfPod<'b>,
    _upload: Option<SemaphorePermit<'b>>,
}

#[derive(Debug)]
struct OfPod<'b> {
    bounded: &'b Bounded,
    pod: Pod,
}

impl<'b> OfPod<'b> {
    /// None where the pod has too many.
    fn enter(bounded: &'b Bounded, pod: Pod) -> Option<Self> {
        let mut pods = bounded.pods();
        let posts = pods.entry(pod.clone()).or_default();
        if *posts == POD_POSTS_MAX {
            return None;
        }
        *posts += 1;
        drop(pods);
        Some(Self { bounded, pod })
    }
}

impl Drop for OfPod<'_> {
    fn drop(&mut self) {
        let mut pods = self.bounded.pods();
        if let Some(posts) = pods.get_mut(&self.pod) {
            *posts -= 1;
            if *posts == 0 {
                pods.remove(&self.pod);
            }
        }
    }
}
