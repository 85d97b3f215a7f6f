//! One pod on its way to the cluster: rendered, created, and told apart from another of its name.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::core::execution::{self, CreateError};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::{JobPodInstance, JobPodSpec, job_pod};
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterErrorKind;
use crate::runtime::api_calls::ApiCalls;
use crate::runtime::{Ports, Settings};

/// One pod to create.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) index: usize,
    pub(super) attempt: u32,
    pub(super) pod_name: String,
    pub(super) node: String,
    pub(super) execution: ExecutionId,
    pub(super) job_pod: Arc<JobPodSpec>,
    pub(super) settings: Arc<Settings>,
}

impl Creation {
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
        match api.call("create_pod", api.cluster().create_pod(pod)).await {
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
        let settings = &self.settings;
        let rendered = settings
            .template
            .render(&self.node, self.execution.as_str(), &settings.namespace)
            .map_err(|error| error.to_string())?;
        let instance = JobPodInstance {
            pod_name: &self.pod_name,
            node: &self.node,
            execution_id: &self.execution,
        };
        job_pod(rendered, &self.job_pod, instance, &settings.variables)
            .map_err(|error| error.to_string())
    }
}
