//! What the containers of pods have written: text per pod uid and container, dropped with the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::object::Object;
use super::resource::PODS;
use super::status::Status;
use super::{State, Target};

/// Text by pod uid, then container.
pub(super) type Logs = BTreeMap<Arc<str>, BTreeMap<String, String>>;

/// The log of one container so far.
#[derive(Debug, Clone, Copy)]
pub struct PodLog<'a> {
    pub text: &'a str,
    /// Whether nothing more will come.
    pub ended: bool,
}

impl State {
    /// Adds to the log of a container, as its kubelet does. Nothing happens when the pod is gone.
    pub fn append_pod_log(&mut self, namespace: &str, pod: &str, container: &str, text: &str) {
        let Some(stored) = self.find(Target::new(&PODS, namespace, pod)) else {
            return;
        };
        let uid = Arc::clone(&stored.metadata.uid);
        let containers = self.logs.entry(uid).or_default();
        match containers.get_mut(container) {
            Some(log) => log.push_str(text),
            None => {
                containers.insert(container.to_owned(), text.to_owned());
            }
        }
        self.log_version += 1;
    }

    /// The log of a pod's container; of its only one when none is named.
    ///
    /// # Errors
    /// 404 without the pod; 400 when the container is unknown, must be named, or waits to start.
    pub fn pod_log(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<PodLog<'_>, Status> {
        let target = Target::new(&PODS, namespace, pod);
        let stored = self
            .find(target)
            .ok_or_else(|| Status::not_found(&PODS, pod))?;
        let container = log_container(stored, container)?;
        let text = self
            .logs
            .get(&stored.metadata.uid)
            .and_then(|logs| logs.get(container));
        let phase = stored.text("/status/phase");
        if phase == "Pending" && !stored.text("/spec/nodeName").is_empty() && text.is_none() {
            let reason = waiting_reason(stored, container).unwrap_or("ContainerCreating");
            let message =
                format!("container {container:?} in pod {pod:?} is waiting to start: {reason}");
            return Err(Status::bad_request(message));
        }
        Ok(PodLog {
            text: text.map_or("", String::as_str),
            ended: matches!(phase, "Succeeded" | "Failed"),
        })
    }
}

fn names(pod: &Object, list: &str) -> Vec<String> {
    pod.list(list)
        .iter()
        .filter_map(|c| c["name"].as_str())
        .map(str::to_owned)
        .collect()
}

fn log_container<'a>(pod: &'a Object, container: Option<&'a str>) -> Result<&'a str, Status> {
    let name = &pod.metadata.name;
    let containers = pod.list("/spec/containers");
    let inits = pod.list("/spec/initContainers");
    match container.filter(|c| !c.is_empty()) {
        Some(wanted) if containers.iter().chain(inits).any(|c| c["name"] == wanted) => Ok(wanted),
        Some(wanted) => Err(Status::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        ))),
        None if containers.len() == 1 => Ok(containers[0]["name"].as_str().unwrap_or_default()),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names(pod, "/spec/containers").join(" ")
            );
            if !inits.is_empty() {
                message.push_str(" or one of the init containers: [");
                message.push_str(&names(pod, "/spec/initContainers").join(" "));
                message.push(']');
            }
            Err(Status::bad_request(message))
        }
    }
}

fn waiting_reason<'a>(pod: &'a Object, container: &str) -> Option<&'a str> {
    let status = pod
        .list("/status/containerStatuses")
        .iter()
        .find(|s| s["name"] == container)?;
    status
        .pointer("/state/waiting/reason")
        .and_then(Value::as_str)
}
