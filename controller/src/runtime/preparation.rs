//! What happens between a tick and the first pod: everything an execution freezes is read, its directory is made, the history
//! is pruned. A sequence of calls, repeated while they fail for the moment.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::admission::Admission;
use super::api_calls::ApiCalls;
use super::{Ports, Settings, callback_address};
use crate::config::{Config, FailurePolicy};
use crate::core::eligibility::Eligibility;
use crate::core::execution::{Plan, PlannedNode};
use crate::core::ids::ExecutionId;
use crate::core::limits::Limits;
use crate::core::names;
use crate::core::retention;
use crate::core::state::{Reason, Trigger};
use crate::core::views::{NodeView, PodView};
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterError;
use crate::ports::report_store::ReportStore as _;

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An execution that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) trigger: Trigger,
    pub(super) scheduled_time: Timestamp,
    /// Whether its id needs seconds: `@every` under a minute.
    pub(super) to_the_second: bool,
}

/// What an execution begins with.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) callback_address: String,
    /// Executions that left the history.
    pub(super) pruned: Vec<ExecutionId>,
}

/// Reads the cluster and makes room.
///
/// # Errors
/// A refusal that repeating does not change.
pub(super) async fn prepare<P: Ports>(
    api: &ApiCalls<P>,
    settings: &Settings,
    metrics: &Metrics,
    admission: &Admission,
    due: Due,
) -> Result<Prepared, ClusterError> {
    let started = api.ports.clock().now();
    let config = &settings.config;
    let pod_ip = settings.pod_ip.as_deref();
    let cluster = api.cluster();
    let callback_address = persist(api, "get_service", || {
        callback_address::resolve(cluster, config, pod_ip)
    })
    .await?;
    let nodes = persist(api, "list_nodes", || cluster.list_nodes()).await?;
    let pods = persist(api, "list_pods", || cluster.list_pods()).await?;
    let present = list_executions(api, metrics).await;
    let id = choose_id(due, &present, &pods);
    let pruned = open(api, settings, metrics, admission, &id, present).await;
    let (eligible, excluded) = partition(settings, &id, nodes);
    let plan = Plan {
        owner: config.name.clone(),
        pool_size: config.pod_pool_size.of(eligible.len()),
        limits: limits(config, eligible.len()),
        trigger: due.trigger,
        scheduled_time: due.scheduled_time,
        started,
        result_expected: !config.metrics.gauges.is_empty(),
        nodes: name_pods(&config.name, &id, eligible),
        excluded,
        previous_pods: pods,
        id,
    };
    Ok(Prepared {
        plan,
        callback_address,
        pruned,
    })
}

/// Repeats a call while its failure is transient.
async fn persist<P: Ports, T, F: Future<Output = Result<T, ClusterError>>>(
    api: &ApiCalls<P>,
    verb: &'static str,
    call: impl Fn() -> F,
) -> Result<T, ClusterError> {
    let mut pause = PAUSE_MIN;
    loop {
        match api.call(verb, call()).await {
            Err(error) if error.kind.is_transient() => {
                warn!(verb, error = %error, pause_ms = pause.as_millis(), "call to the cluster is repeated");
                let clock = api.ports.clock();
                clock.sleep_until(clock.monotonic().after(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            result => return result,
        }
    }
}

async fn list_executions<P: Ports>(api: &ApiCalls<P>, metrics: &Metrics) -> Vec<ExecutionId> {
    match api.ports.reports().list_executions().await {
        Ok(present) => present,
        Err(error) => {
            metrics.own().report_store_usable(false);
            warn!(error = %error, "report directory cannot be listed");
            Vec::new()
        }
    }
}

/// The scheduled minute; with seconds where that is taken or too coarse, and the next free second where even that is taken.
fn choose_id(due: Due, present: &[ExecutionId], pods: &[PodView]) -> ExecutionId {
    let of_pods = pods.iter().filter_map(|pod| pod.execution.as_ref());
    let taken: BTreeSet<&ExecutionId> = present.iter().chain(of_pods).collect();
    let minute = ExecutionId::of_minute(due.scheduled_time);
    if !due.to_the_second && !taken.contains(&minute) {
        return minute;
    }
    let mut time = due.scheduled_time;
    loop {
        let id = ExecutionId::of_second(time);
        if !taken.contains(&id) {
            return id;
        }
        // Past the end of time there is no later id: the last one is shared, and the store decides.
        let Ok(next) = time.checked_add(jiff::SignedDuration::from_secs(1)) else {
            return id;
        };
        time = next;
    }
}

/// Makes the directory and the link `latest`, and prunes the history. A store that cannot does not stop the execution.
async fn open<P: Ports>(
    api: &ApiCalls<P>,
    settings: &Settings,
    metrics: &Metrics,
    admission: &Admission,
    id: &ExecutionId,
    mut present: Vec<ExecutionId>,
) -> Vec<ExecutionId> {
    let reports = api.ports.reports();
    present.push(id.clone());
    let mut pruned = retention::expired(present, id, settings.config.report_history);
    let mut usable = true;
    // Before anything is written: on a full disk this is what makes room.
    for old in &pruned {
        // First, so that no report is taken for what is about to go.
        admission.forget(old);
        match reports.remove_execution(old).await {
            Ok(()) => info!(execution_id = %old, "execution left the history"),
            Err(error) => {
                usable = false;
                warn!(execution_id = %old, error = %error, "execution that left the history cannot be removed");
            }
        }
    }
    let opened = async {
        reports.create_execution(id).await?;
        reports.set_latest(id).await
    };
    if let Err(error) = opened.await {
        usable = false;
        warn!(execution_id = %id, error = %error, "report directory cannot be written");
    }
    metrics.own().report_store_usable(usable);
    pruned.retain(|old| old != id);
    pruned
}

fn partition(
    settings: &Settings,
    id: &ExecutionId,
    nodes: Vec<NodeView>,
) -> (Vec<NodeView>, Vec<(String, Reason, String)>) {
    let config = &settings.config;
    let eligibility = Eligibility {
        node_selector: config.job_node_selector.clone(),
        node_expressions: config.job_node_expressions.clone(),
        run_on_unscheduled_nodes: config.run_on_unscheduled_nodes,
        untolerated_taints: config.untolerated_taints,
    };
    // A template that does not render fails its node with the error, not here.
    let tolerations = |node: &str| {
        let rendered = (settings.template).render(node, id.as_str(), &settings.namespace);
        let spec = rendered.ok().and_then(|pod| pod.spec);
        spec.and_then(|spec| spec.tolerations).unwrap_or_default()
    };
    let mut eligible = Vec::new();
    let mut excluded = Vec::new();
    for node in nodes {
        match eligibility.exclusion(&node, || tolerations(&node.name)) {
            None => eligible.push(node),
            Some((reason, message)) => excluded.push((node.name, reason, message)),
        }
    }
    (eligible, excluded)
}

fn limits(config: &Config, nodes: usize) -> Limits {
    Limits {
        pod_start_deadline: config.pod_start_deadline,
        pod_run_deadline: config.pod_run_deadline,
        node_lost_timeout: config.node_lost_timeout,
        execution_deadline: config.execution_deadline,
        retries: config.retries,
        max_failures: config.max_failures.map(|max| max.of(nodes)),
        fail_fast: config.failure_policy == FailurePolicy::FailFast,
        ended_pods: usize::try_from(config.ended_pods).unwrap_or(usize::MAX),
    }
}

fn name_pods(controller: &str, id: &ExecutionId, nodes: Vec<NodeView>) -> Vec<PlannedNode> {
    let names = names::pod_names(controller, id, nodes.iter().map(|node| node.name.as_str()));
    (nodes.into_iter().zip(names))
        .map(|(node, names)| PlannedNode {
            node: node.name,
            uid: node.uid,
            pod_name: names.name,
            alternative_pod_name: names.alternative,
        })
        .collect()
}
