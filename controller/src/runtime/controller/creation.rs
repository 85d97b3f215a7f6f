//! One pod on its way to the cluster: rendered, created, and told apart from another of its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tracing::warn;

use crate::config::pod_template::PodTemplate;
use crate::core::execution::{self, CreateError};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{JobPodInstance, JobPodSpec, job_pod};
use crate::core::journal::Entry;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterErrorKind;
use crate::ports::report_store::ReportStore;
use crate::runtime::api_calls::ApiCalls;
use crate::runtime::journal::Journal;
use crate::runtime::{Ports, Settings};

/// The pause before the journal is tried again.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// One pod to create.
#[derive(Debug)]
pub(super) struct Creation<R> {
    pub(super) index: usize,
    pub(super) attempt: u32,
    pub(super) pod_name: String,
    pub(super) node: String,
    pub(super) execution: ExecutionId,
    pub(super) job_pod: Arc<JobPodSpec>,
    pub(super) settings: Arc<Settings>,
    pub(super) template: PodTemplate,
    pub(super) journal: Journal<R>,
    /// Until it is withdrawn: the node's end is decided and its slot may be another's, or no further pod is created.
    pub(super) is_wanted: Arc<AtomicBool>,
}

impl<R: ReportStore> Creation<R> {
    pub(super) async fn carry_out<P: Ports>(self, api: ApiCalls<P>) -> execution::Event {
        let (index, attempt) = (self.index, self.attempt);
        match self.create(api).await {
            Ok(event) => event,
            Err(error) => execution::Event::CreateFailed {
                index,
                attempt,
                error,
            },
        }
    }

    async fn create<P: Ports>(self, api: ApiCalls<P>) -> Result<execution::Event, CreateError> {
        let (index, attempt) = (self.index, self.attempt);
        let pod = self.render().map_err(CreateError::Template)?;
        if !self.note(&api).await {
            return Err(CreateError::NotSent);
        }
        let create = api.cluster().create_pod(pod);
        let is_wanted = || self.is_wanted();
        let created = api.write_if(is_wanted, "create_pod", create).await;
        match created.ok_or(CreateError::NotSent)? {
            Ok(pod) => Ok(execution::Event::Created {
                index,
                attempt,
                pod,
            }),
            Err(error) if error.kind == ClusterErrorKind::AlreadyExists => {
                self.read_holder(api).await
            }
            Err(error) => Err(CreateError::Cluster(error)),
        }
    }

    fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Notes in the journal that the pod is about to be created. While that cannot be written it is not. Answers whether
    /// it is still wanted then.
    async fn note<P: Ports>(&self, api: &ApiCalls<P>) -> bool {
        let entry = [Entry::Creating {
            index: self.index,
            attempt: self.attempt,
            pod: self.pod_name.clone(),
        }];
        while self.is_wanted() {
            let Err(error) = self.journal.append(&entry).await else {
                return true;
            };
            warn!(pod = self.pod_name, error = %error, "pod not created yet: the journal cannot be written");
            let clock = api.ports.clock();
            clock
                .sleep_until(clock.monotonic().after(JOURNAL_PAUSE))
                .await;
        }
        false
    }

    async fn read_holder<P: Ports>(
        self,
        api: ApiCalls<P>,
    ) -> Result<execution::Event, CreateError> {
        let name = &self.pod_name;
        match api.call("get_pod", api.cluster().get_pod(name)).await {
            Ok(holder) => Ok(execution::Event::NameHeld {
                index: self.index,
                attempt: self.attempt,
                holder,
            }),
            // Gone in between: the create is repeated.
            Err(mut error) => {
                error.kind = ClusterErrorKind::Unavailable;
                Err(CreateError::Cluster(error))
            }
        }
    }

    fn render(&self) -> Result<Pod, String> {
        let namespace = &self.job_pod.namespace;
        let rendered = self
            .template
            .render(&self.node, self.execution.as_str(), namespace)
            .map_err(|error| error.to_string())?;
        let tokens = self.settings.tokens.as_ref();
        let token =
            tokens.map(|tokens| tokens.token(&self.node, self.execution.as_str(), self.attempt));
        let instance = JobPodInstance {
            pod_name: &self.pod_name,
            node: &self.node,
            execution_id: &self.execution,
            token: token.as_deref(),
        };
        job_pod(rendered, &self.job_pod, instance, &self.settings.variables)
            .map_err(|error| error.to_string())
    }
}
