//! The async shell around the core: one loop that owns the state, and the tasks that carry out its effects.
//!
//! Everything it needs of the world comes through [`Ports`]; the simulator runs the same code under virtual time.

pub mod admission;
mod announcement;
mod api_calls;
pub mod callback_address;
pub mod callback_key;
pub mod configuration;
pub mod controller;
mod election;
pub mod event;
mod fence;
pub mod handle;
mod history;
mod job_event;
mod journal;
pub mod mock;
pub mod ordered_watch;
mod pod_logs;
mod preparation;
mod recovery;
pub mod replica;
mod state_record;
mod stored_result;
mod summary_writes;
mod watches;

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use self::configuration::ConfigMapSource;
use crate::config::Config;
use crate::config::pod_template::PodTemplate;
use crate::core::callback_token::CallbackTokens;
use crate::core::job_pod::ExtensionVariables;
use crate::ports::clock::Clock;
use crate::ports::cluster::Cluster;
use crate::ports::entropy::Entropy;
use crate::ports::report_store::ReportStore;

/// The ports as one parameter, so that what is generic over them names one type.
pub trait Ports: Clone + Send + Sync + 'static {
    /// The cluster.
    type Cluster: Cluster;
    /// Where reports are kept.
    type Reports: ReportStore;
    /// Time.
    type Clock: Clock;
    /// Randomness.
    type Entropy: Entropy;

    /// The cluster.
    fn cluster(&self) -> &Self::Cluster;
    /// Where reports are kept.
    fn reports(&self) -> &Self::Reports;
    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// Randomness.
    fn entropy(&self) -> &Self::Entropy;
}

/// [`Ports`] made of four implementations.
#[derive(Debug, Clone)]
pub struct PortSet<C, R, K, E> {
    /// The cluster.
    pub cluster: C,
    /// Where reports are kept.
    pub reports: R,
    /// Time.
    pub clock: K,
    /// Randomness.
    pub entropy: E,
}

impl<C: Cluster, R: ReportStore, K: Clock, E: Entropy> Ports for PortSet<C, R, K, E> {
    type Cluster = C;
    type Reports = R;
    type Clock = K;
    type Entropy = E;

    fn cluster(&self) -> &C {
        &self.cluster
    }

    fn reports(&self) -> &R {
        &self.reports
    }

    fn clock(&self) -> &K {
        &self.clock
    }

    fn entropy(&self) -> &E {
        &self.entropy
    }
}

/// What a controller is told at its start; the configuration may change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `config.yaml`.
    pub config: Config,
    /// `pod-template.yaml`.
    pub template: PodTemplate,
    /// The namespace of the controller and its job pods.
    pub namespace: String,
    /// The controller's own pod (or host) name: the reporting instance of its events.
    pub instance: String,
    /// Where job pods call back where there is no Service.
    pub pod_ip: Option<String>,
    /// Whether any node and execution may call back.
    pub dev_mode: bool,
    /// The ConfigMap that it is told by while it runs; none where nobody tells it anything.
    pub config_map: Option<ConfigMapSource>,
    /// What makes the tokens of job pods; none where they get none.
    pub tokens: Option<CallbackTokens>,
    /// What owns the job pods.
    pub owner: Option<OwnerReference>,
    /// What an extension adds to the environment of job pods.
    pub variables: ExtensionVariables,
}
