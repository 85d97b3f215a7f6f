//! What happens between a tick and the first pod: everything an execution freezes is read, its directory is made, the history
//! is pruned. A sequence of calls, repeated while they fail for the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::admission::Admission;
use super::api_calls::ApiCalls;
use super::journal::Journal;
use super::state_record::{StateError, StateHandle};
use super::{Ports, Settings, callback_address, recovery};
use crate::config::{Config, FailurePolicy};
use crate::core::eligibility::Eligibility;
use crate::core::execution::{Found, Plan, PlannedNode, StoredReports};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::JobPodSpec;
use crate::core::journal::{self, Entry, Frozen, epoch_of};
use crate::core::limits::Limits;
use crate::core::names;
use crate::core::record::{AlreadyHandled, Claim};
use crate::core::retention;
use crate::core::state::{Reason, Trigger};
use crate::core::views::{NodeView, PodView};
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterError;
use crate::ports::report_store::{ReportMetadata, ReportStore as _};

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An execution that is due.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) trigger: Trigger,
    pub(super) scheduled_time: Timestamp,
    /// Whether its id needs seconds: `@every` under a minute.
    pub(super) to_the_second: bool,
    /// Where the state record names it already.
    pub(super) claim: Option<Claim>,
}

/// What an execution begins with.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) frozen: Frozen,
    /// Where its journal was lost: what is there of it.
    pub(super) found: Option<Found>,
    /// Executions that left the history.
    pub(super) pruned: Vec<ExecutionId>,
}

/// Why an execution does not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPrepared {
    /// Another leader ran the tick, or leads now.
    #[error(transparent)]
    Claimed(#[from] StateError<AlreadyHandled>),
    /// A refusal that repeating does not change.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// What preparing needs of the controller.
#[derive(Debug)]
pub(super) struct Preparation<P: Ports> {
    pub(super) api: ApiCalls<P>,
    pub(super) state: StateHandle<P>,
    pub(super) epoch: u64,
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Arc<Admission>,
}

impl<P: Ports> Preparation<P> {
    /// Claims the execution, reads the cluster, makes room, and begins the journal: in this order, so that nothing is done by
    /// whoever has not claimed it, and nothing is created that the journal does not tell of.
    ///
    /// # Errors
    /// [`NotPrepared`]; what may pass is repeated instead.
    pub(super) async fn prepare(self, due: Due) -> Result<Prepared, NotPrepared> {
        let api = &self.api;
        let config = &self.settings.config;
        let started = api.ports.clock().now();
        if due.claim.is_none() {
            self.state
                .update(|record| record.claim(due.trigger, due.scheduled_time))
                .await?;
        }
        let pod_ip = self.settings.pod_ip.as_deref();
        let cluster = api.cluster();
        let callback_address = persist(api, "get_service", || {
            callback_address::resolve(cluster, config, pod_ip)
        })
        .await?;
        let nodes = persist(api, "list_nodes", || cluster.list_nodes()).await?;
        let pods = persist(api, "list_pods", || cluster.list_pods()).await?;
        let present = list_executions(api, &self.metrics).await;
        let taken_up = due.claim.as_ref().and_then(|claim| claim.id.clone());
        let id = match &taken_up {
            Some(id) => id.clone(),
            None => self.choose_id(&due, &present, &pods).await,
        };
        let pruned = self.open(&id, present).await;
        let (eligible, excluded) = partition(&self.settings, &id, nodes);
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
            previous_pods: pods.clone(),
            id: id.clone(),
        };
        let frozen = Frozen {
            schema_version: journal::SCHEMA_VERSION,
            plan,
            job_pod: self.job_pod(callback_address),
            template: self.settings.template.text().to_owned(),
        };
        self.begin_journal(&id, &frozen).await;
        self.state
            .update(|record| {
                record.open(&id);
                Ok::<_, AlreadyHandled>(())
            })
            .await?;
        let found = match taken_up {
            None => None,
            Some(_) => Some(Found {
                entries: Vec::new(),
                reports: self.stored_reports(&frozen.plan).await,
                pods,
            }),
        };
        Ok(Prepared {
            frozen,
            found,
            pruned,
        })
    }

    async fn choose_id(&self, due: &Due, present: &[ExecutionId], pods: &[PodView]) -> ExecutionId {
        let mut taken = present.to_vec();
        if due.claim.is_some() {
            // Its process was killed before it did anything: what it left is no execution.
            for id in present {
                let reports = self.api.ports.reports();
                let is_left = |files: &[ReportMetadata]| {
                    files.iter().all(|file| epoch_of(&file.name).is_some())
                };
                if matches!(reports.list(id).await, Ok(files) if is_left(&files)) {
                    taken.retain(|other| other != id);
                }
            }
        }
        choose_id(due, &taken, pods)
    }

    fn job_pod(&self, callback_address: String) -> JobPodSpec {
        let config = &self.settings.config;
        JobPodSpec {
            controller: config.name.clone(),
            namespace: self.settings.namespace.clone(),
            service_account: config.job_service_account.clone(),
            image_pull_secrets: config.job_image_pull_secrets.clone(),
            callback_address,
            callback_port: config.callback_service_port,
            owner: self.settings.owner.clone(),
        }
    }

    /// While the volume takes no journal no pod is created.
    async fn begin_journal(&self, id: &ExecutionId, frozen: &Frozen) {
        let reports = self.api.ports.reports();
        let journal = Journal::new(reports.clone(), id.clone(), self.epoch);
        let entry = [Entry::Begun(Box::new(frozen.clone()))];
        let mut pause = PAUSE_MIN;
        loop {
            let Err(unwritten) = journal.append(&entry).await else {
                return;
            };
            self.metrics.own().report_store_usable(false);
            warn!(execution_id = %id, error = %unwritten, pause_ms = pause.as_millis(), "execution waits: its journal cannot be written");
            let clock = self.api.ports.clock();
            clock.sleep_until(clock.monotonic().after(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // It may be the directory that could not be made.
            if reports.create_execution(id).await.is_ok() {
                self.metrics.own().report_store_usable(true);
            }
        }
    }

    async fn stored_reports(&self, plan: &Plan) -> BTreeMap<String, StoredReports> {
        let files = match self.api.ports.reports().list(&plan.id).await {
            Ok(files) => files,
            Err(error) => {
                warn!(execution_id = %plan.id, error = %error, "execution cannot be listed");
                return BTreeMap::new();
            }
        };
        let nodes = plan.nodes.iter().map(|node| node.node.as_str());
        recovery::by_node(nodes, files.into_iter().map(|file| file.name).collect())
    }

    /// Makes the directory and the link `latest`, and prunes the history. A store that cannot does not stop the execution here.
    async fn open(&self, id: &ExecutionId, mut present: Vec<ExecutionId>) -> Vec<ExecutionId> {
        let reports = self.api.ports.reports();
        present.push(id.clone());
        let mut pruned = retention::expired(present, id, self.settings.config.report_history);
        let mut usable = true;
        // Before anything is written: on a full disk this is what makes room.
        for old in &pruned {
            // First, so that no report is taken for what is about to go.
            self.admission.forget(old);
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
        self.metrics.own().report_store_usable(usable);
        pruned.retain(|old| old != id);
        pruned
    }
}

/// Repeats a call while its failure is transient.
pub(super) async fn persist<P: Ports, T, F: Future<Output = Result<T, ClusterError>>>(
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
fn choose_id(due: &Due, present: &[ExecutionId], pods: &[PodView]) -> ExecutionId {
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
