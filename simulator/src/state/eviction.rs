//! Eviction: a delete that a disruption budget may refuse, and binding, the other thing a pod is told by a path of its
//! own.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::delete::DeleteOptions;
use super::object::Object;
use super::resource::{POD_DISRUPTION_BUDGETS, PODS};
use super::selector::Selector;
use super::status::Status;
use super::stored::Stored;
use super::{Part, State, Target};

/// When to ask again where a budget's status is not current, in seconds.
const RETRY_SECONDS: u32 = 10;

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl State {
    /// Evicts a pod, where its disruption budget allows it: a delete with these options.
    ///
    /// # Errors
    /// As for a delete; 429 where the budget is used up.
    pub fn evict(
        &mut self,
        now: Timestamp,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Status, Status> {
        let target = Target {
            row: &PODS,
            ..target
        };
        let pod = self.get(target)?;
        if needs_budget(&pod) {
            self.take_from_budget(now, &pod, options.dry_run)?;
        }
        self.delete(now, target, options)?;
        Ok(Status::created())
    }

    fn take_from_budget(
        &mut self,
        now: Timestamp,
        pod: &Stored,
        dry_run: bool,
    ) -> Result<(), Status> {
        let namespace = &*pod.metadata.namespace;
        let budgets = self.iter(&POD_DISRUPTION_BUDGETS, Some(namespace));
        let covers = |budget: &&Arc<Stored>| {
            let selector = budget.pointer("/spec/selector");
            selector.is_some_and(|selector| Selector::of_object(selector).matches(pod))
        };
        let budgets: Vec<Arc<Stored>> = budgets.filter(covers).cloned().collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [budget] => budget,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::unclassified(why));
            }
        };
        let name = &budget.metadata.name;
        let number = |field: &str| {
            let value = budget.pointer(&format!("/status/{field}"));
            value.and_then(Value::as_i64).unwrap_or_default()
        };
        if number("observedGeneration") < budget.metadata.generation {
            let detail =
                format!("The disruption budget {name} is still being processed by the server.");
            let mut status = Status::disruption_budget(REFUSAL, &detail);
            if let Some(details) = &mut status.details {
                details.retry_after_seconds = Some(RETRY_SECONDS);
            }
            return Err(status);
        }
        let allowed = number("disruptionsAllowed");
        if allowed <= 0 {
            let (wanted, has) = (number("desiredHealthy"), number("currentHealthy"));
            let detail = format!(
                "The disruption budget {name} needs {wanted} healthy pods and has {has} currently"
            );
            return Err(Status::disruption_budget(REFUSAL, &detail));
        }
        if dry_run {
            return Ok(());
        }
        let taken = Target::new(&POD_DISRUPTION_BUDGETS, namespace, name);
        self.modify(taken, Part::Status, |budget| {
            let status = budget.section_mut("status");
            status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
            status.entry("disruptedPods").or_insert(json!({}))[&*pod.metadata.name] =
                json!(super::write::whole_seconds(now).to_string());
        })?;
        Ok(())
    }

    /// Gives a pod to a node, as the scheduler does.
    ///
    /// # Errors
    /// 404 without the pod, 409 when it has a node or is being deleted, 500 without a node's name, as of a real server.
    pub fn bind(&mut self, target: Target<'_>, binding: &Value) -> Result<Status, Status> {
        let node = binding.pointer("/target/name").and_then(Value::as_str);
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            return Err(Status::unclassified("target.name: Required value"));
        };
        let pod = self.get(Target {
            row: &PODS,
            ..target
        })?;
        let name = target.name;
        if pod.metadata.deletion_timestamp.is_some() {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(Status::binding_conflict(name, &why));
        }
        let taken = pod.text("/spec/nodeName");
        if !taken.is_empty() {
            let why = format!("pod {name} is already assigned to node {taken:?}");
            return Err(Status::binding_conflict(name, &why));
        }
        let mut bound = Object::clone(&pod);
        bound
            .section_mut("spec")
            .insert("nodeName".to_owned(), json!(node));
        let conditions = bound
            .section_mut("status")
            .entry("conditions")
            .or_insert(json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}));
        }
        self.commit(bound);
        Ok(Status::created())
    }
}

/// Whether the pod's end would disrupt anything: one that waits, has ended or is being deleted serves nobody.
fn needs_budget(pod: &Object) -> bool {
    let phase = pod.text("/status/phase");
    pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, "Pending" | "Succeeded" | "Failed")
}
