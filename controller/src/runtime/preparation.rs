//! What happens between a tick and the first pod: everything an execution freezes is read, its directory is made, the
//! history is pruned. A sequence of calls, repeated while they fail for the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::admission::Admission;
use super::api_calls::ApiCalls;
use super::journal::Journal;
use super::state_record::{StateError, StateHandle};
use super::{Ports, Settings, callback_address, history, recovery};
use crate::config::{Config, FailurePolicy};
use crate::core::by_hand::{Selected, Selection};
use crate::core::eligibility::Eligibility;
use crate::core::execution::{Found, Plan, PlannedNode, StoredReports};
use crate::core::ids::ExecutionId;
use crate::core::job_pod::JobPodSpec;
use crate::core::journal::{self, Entry, Frozen, epoch_of};
use crate::core::limits::Limits;
use crate::core::names;
use crate::core::record::{AlreadyHandled, Claim, Request};
use crate::core::retention;
use crate::core::state::Reason;
use crate::core::views::{NodeView, PodView};
use crate::metrics::Metrics;
use crate::ports::clock::Clock as _;
use crate::ports::cluster::Cluster as _;
use crate::ports::error::ClusterError;
use crate::ports::report_store::{ReportMetadata, ReportStore as _};

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An execution that is to begin.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// Nobody has claimed it yet.
    New(Request),
    /// The record has it as the one to follow another, which has ended.
    Next(Claim),
    /// The record has it in progress; whoever claimed it was killed.
    Found(Claim),
}

impl Ask {
    /// The execution that begins.
    pub(super) fn claim(&self) -> Claim {
        match self {
            Self::New(request) => request.claim(),
            Self::Next(claim) | Self::Found(claim) => claim.clone(),
        }
    }
}

/// What an execution begins with.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) frozen: Frozen,
    /// The version of the list of nodes that it is made from.
    pub(super) nodes_version: String,
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
    /// It was asked for over nodes that cannot be told.
    #[error("{0}")]
    Selection(String),
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
    /// Claims the execution, reads the cluster, makes room, and begins the journal: in this order, so that nothing is
    /// done by whoever has not claimed it, and nothing is created that the journal does not tell of.
    ///
    /// # Errors
    /// [`NotPrepared`]; what may pass is repeated instead.
    pub(super) async fn prepare(self, ask: Ask) -> Result<Prepared, NotPrepared> {
        let api = &self.api;
        let config = &self.settings.config;
        let started = api.ports.clock().now();
        match &ask {
            Ask::New(request) => _ = self.state.update(|record| record.claim(request)).await?,
            Ask::Next(claim) => self.state.update(|record| record.begin_next(claim)).await?,
            Ask::Found(_) => {}
        }
        let claim = ask.claim();
        let selected = self.selected(claim.selection.as_ref()).await?;
        let pod_ip = self.settings.pod_ip.as_deref();
        let cluster = api.cluster();
        let callback_address = persist(api, "get_service", || {
            callback_address::resolve(cluster, config, pod_ip)
        })
        .await?;
        let listed = persist(api, "list_nodes", || cluster.list_nodes()).await?;
        let pods = persist(api, "list_pods", || cluster.list_pods()).await?;
        let present = self.list_executions().await;
        let id = match &claim.id {
            Some(id) => id.clone(),
            None => self.choose_id(&ask, present.clone(), &pods).await,
        };
        let pruned = self.open(&id, present).await;
        let (eligible, excluded) = partition(&self.settings, &id, &selected, listed.nodes);
        let plan = Plan {
            owner: config.name.clone(),
            pool_size: config.pod_pool_size.of(eligible.len()),
            limits: limits(config, eligible.len()),
            trigger: claim.trigger,
            scheduled_time: claim.scheduled_time,
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
        let found = match claim.id {
            None => None,
            Some(_) => Some(Found {
                reports: self.stored_reports(&frozen.plan).await,
                pods,
                ..Found::default()
            }),
        };
        Ok(Prepared {
            frozen,
            nodes_version: listed.version,
            found,
            pruned,
        })
    }

    async fn choose_id(
        &self,
        ask: &Ask,
        mut taken: Vec<ExecutionId>,
        pods: &[PodView],
    ) -> ExecutionId {
        if matches!(ask, Ask::Found(_)) {
            // Its process was killed before it did anything: what it left is no execution.
            for id in taken.clone() {
                let reports = self.api.ports.reports();
                let is_left = |files: &[ReportMetadata]| {
                    files.iter().all(|file| epoch_of(&file.name).is_some())
                };
                if matches!(reports.list(&id).await, Ok(files) if is_left(&files)) {
                    taken.retain(|other| *other != id);
                }
            }
        }
        let to_the_second = self.settings.config.schedule.is_finer_than_minutes();
        choose_id(ask.claim().scheduled_time, to_the_second, &taken, pods)
    }

    /// What a person asked for, with the nodes of the execution that it names.
    async fn selected(&self, selection: Option<&Selection>) -> Result<Selected, NotPrepared> {
        let Some(selection) = selection else {
            return Ok(Selected::default());
        };
        let earlier = match &selection.from {
            None => None,
            Some(id) => {
                let summary =
                    history::read_summary(self.api.ports.reports(), self.api.ports.clock(), id)
                        .await;
                Some(summary.ok_or_else(|| {
                    NotPrepared::Selection(format!(
                        "from: execution {id} has no summary in the report directory, want the id of a kept execution"
                    ))
                })?)
            }
        };
        selection
            .selected(earlier.as_ref())
            .map_err(NotPrepared::Selection)
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
        let files = recovery::files(&self.api, &plan.id).await;
        let nodes = plan.nodes.iter().map(|node| node.node.as_str());
        recovery::by_node(nodes, files.unwrap_or_default())
    }

    /// What has an id: it waits until that can be told, since another execution's must not be taken.
    async fn list_executions(&self) -> Vec<ExecutionId> {
        recovery::patiently(&self.api, "report directory", || async {
            let listed = self.api.ports.reports().list_executions().await;
            listed.inspect_err(|_| self.metrics.own().report_store_usable(false))
        })
        .await
    }

    /// Makes the directory and the link `latest`, and prunes the history. A store that cannot does not stop the
    /// execution here.
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

/// The scheduled minute; with seconds where that is taken or too coarse, and the next free second where even that is
/// taken.
fn choose_id(
    due: Timestamp,
    to_the_second: bool,
    present: &[ExecutionId],
    pods: &[PodView],
) -> ExecutionId {
    let of_pods = pods.iter().filter_map(|pod| pod.execution.as_ref());
    let taken: BTreeSet<&ExecutionId> = present.iter().chain(of_pods).collect();
    let minute = ExecutionId::of_minute(due);
    if !to_the_second && !taken.contains(&minute) {
        return minute;
    }
    let mut time = due;
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
    selected: &Selected,
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
        let not_selected = selected
            .exclusion(&node.name, &node.labels)
            .map(|message| (Reason::NotSelected, message));
        let exclusion =
            not_selected.or_else(|| eligibility.exclusion(&node, || tolerations(&node.name)));
        match exclusion {
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
