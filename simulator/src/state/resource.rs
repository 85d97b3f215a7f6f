//! The table of resources: one row each. Serving another resource is another row.
//!
//! A row is data and the two functions of `admission` that default and check its objects. Deliberately not here: the
//! verbs, which are the same for every row.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use serde::de::DeserializeOwned;

use super::access;
use super::admission::{self, Prepare, Validate};
use super::columns::{self, Column};
use super::object::Object;
use super::pod_rules;
use super::service;
use super::unknown_field::UnknownField;

/// Which rule a name follows (`k8s.io/apimachinery/pkg/api/validation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// RFC 1123 label, at most 63.
    Label,
    /// RFC 1035 label, at most 63: begins with a letter.
    Label1035,
    /// Anything that can be one segment of a path: RBAC.
    PathSegment,
}

/// A path below an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// Reads and writes `status` only.
    Status,
    Log,
    Binding,
    Eviction,
    /// Writes `spec.finalizers` of a namespace.
    Finalize,
}

impl Subresource {
    /// Its last path segment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Log => "log",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
        }
    }
}

/// The verbs of a collection and its objects.
const EVERY_VERB: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const NO_DELETE_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];

/// One resource.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says how a real server treats the resource"
)]
#[derive(Debug)]
pub struct Row {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Where its objects are kept: rows with the same one show the same objects.
    pub storage: &'static str,
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes of the spec and the delete.
    pub generation: bool,
    /// Whether an update may leave out `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// Whether an update of a missing object creates it.
    pub create_on_update: bool,
    /// Whether a delete answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    /// Whether a delete waits for the kubelet (pods).
    pub graceful: bool,
    /// Whether a delete that does not say leaves the dependents without an owner.
    pub orphans_dependents: bool,
    /// The field selectors beyond `metadata.name` and `metadata.namespace`: label, JSON pointer, value when absent.
    pub fields: &'static [(&'static str, &'static str, &'static str)],
    pub columns: &'static [Column],
    /// JSON pointers to the times that have exactly six digits of a second (`MicroTime`).
    pub micro_times: &'static [&'static str],
    pub prepare: Prepare,
    pub validate: Validate,
    /// Decodes into the typed form and throws it away: says what has a wrong type, and which fields the type does not
    /// have.
    pub decode: Decode,
}

/// See [`Row::decode`].
pub type Decode = fn(&Object) -> Result<Vec<UnknownField>, serde_json::Error>;

fn decode_as<T: DeserializeOwned>(object: &Object) -> Result<Vec<UnknownField>, serde_json::Error> {
    let mut unknown = Vec::new();
    object.decode_noting::<T>(&mut |path| unknown.push(UnknownField::at(&path)))?;
    Ok(unknown)
}

impl Row {
    const fn new<T: DeserializeOwned>(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            plural,
            singular,
            kind,
            namespaced: true,
            short_names: &[],
            categories: &[],
            verbs: EVERY_VERB,
            subresources: &[],
            storage: plural,
            name_rule: NameRule::Subdomain,
            generation: false,
            unconditional_update: true,
            create_on_update: false,
            returns_deleted: false,
            graceful: false,
            orphans_dependents: false,
            fields: &[],
            columns: columns::NAME_AND_AGE,
            micro_times: &[],
            prepare: admission::nothing,
            validate: admission::anything,
            decode: decode_as::<T>,
        }
    }

    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As error texts name it: `pods`, `leases.coordination.k8s.io`.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// As some error texts name it: `Pod`, `Lease.coordination.k8s.io`.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// Whether `status` is written through its own path only.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }
}

const STATUS: &[Subresource] = &[Subresource::Status];
const ALL: &[&str] = &["all"];

pub static NODES: Row = Row {
    namespaced: false,
    short_names: &["no"],
    subresources: STATUS,
    fields: &[("spec.unschedulable", "/spec/unschedulable", "false")],
    columns: columns::NODES,
    prepare: admission::prepare_node,
    validate: admission::validate_node,
    ..Row::new::<core::Node>("", "v1", "nodes", "node", "Node")
};

pub static PODS: Row = Row {
    short_names: &["po"],
    categories: ALL,
    subresources: &[
        Subresource::Status,
        Subresource::Log,
        Subresource::Binding,
        Subresource::Eviction,
    ],
    generation: true,
    returns_deleted: true,
    graceful: true,
    fields: &[
        ("spec.nodeName", "/spec/nodeName", ""),
        ("spec.restartPolicy", "/spec/restartPolicy", ""),
        ("spec.schedulerName", "/spec/schedulerName", ""),
        ("spec.serviceAccountName", "/spec/serviceAccountName", ""),
        ("spec.hostNetwork", "/spec/hostNetwork", "false"),
        ("status.phase", "/status/phase", ""),
        ("status.podIP", "/status/podIP", ""),
        ("status.nominatedNodeName", "/status/nominatedNodeName", ""),
    ],
    columns: columns::PODS,
    prepare: pod_rules::prepare,
    validate: pod_rules::validate,
    ..Row::new::<core::Pod>("", "v1", "pods", "pod", "Pod")
};

pub static EVENTS: Row = Row {
    short_names: &["ev"],
    create_on_update: true,
    fields: &[
        ("involvedObject.kind", "/involvedObject/kind", ""),
        ("involvedObject.namespace", "/involvedObject/namespace", ""),
        ("involvedObject.name", "/involvedObject/name", ""),
        ("involvedObject.uid", "/involvedObject/uid", ""),
        (
            "involvedObject.apiVersion",
            "/involvedObject/apiVersion",
            "",
        ),
        (
            "involvedObject.resourceVersion",
            "/involvedObject/resourceVersion",
            "",
        ),
        ("involvedObject.fieldPath", "/involvedObject/fieldPath", ""),
        ("reason", "/reason", ""),
        ("reportingComponent", "/reportingComponent", ""),
        ("source", "/source/component", ""),
        ("type", "/type", ""),
    ],
    columns: columns::EVENTS,
    micro_times: &["/eventTime", "/series/lastObservedTime"],
    prepare: admission::prepare_event,
    validate: admission::validate_event,
    ..Row::new::<core::Event>("", "v1", "events", "event", "Event")
};

/// The same objects as [`EVENTS`] in the newer form.
pub static EVENTS_V1: Row = Row {
    group: "events.k8s.io",
    fields: &[
        ("regarding.kind", "/involvedObject/kind", ""),
        ("regarding.namespace", "/involvedObject/namespace", ""),
        ("regarding.name", "/involvedObject/name", ""),
        ("regarding.uid", "/involvedObject/uid", ""),
        ("involvedObject.kind", "/involvedObject/kind", ""),
        ("involvedObject.namespace", "/involvedObject/namespace", ""),
        ("involvedObject.name", "/involvedObject/name", ""),
        ("involvedObject.uid", "/involvedObject/uid", ""),
        ("reason", "/reason", ""),
        ("reportingController", "/reportingComponent", ""),
        ("type", "/type", ""),
    ],
    columns: columns::EVENTS,
    short_names: &["ev"],
    create_on_update: true,
    prepare: admission::prepare_event,
    validate: admission::validate_new_event,
    ..Row::new::<core::Event>("events.k8s.io", "v1", "events", "event", "Event")
};

pub static CONFIG_MAPS: Row = Row {
    short_names: &["cm"],
    columns: columns::CONFIG_MAPS,
    prepare: admission::prepare_data,
    validate: admission::validate_data,
    ..Row::new::<core::ConfigMap>("", "v1", "configmaps", "configmap", "ConfigMap")
};

pub static SECRETS: Row = Row {
    fields: &[("type", "/type", "")],
    columns: columns::SECRETS,
    prepare: admission::prepare_secret,
    validate: admission::validate_secret,
    ..Row::new::<core::Secret>("", "v1", "secrets", "secret", "Secret")
};

pub static SERVICES: Row = Row {
    short_names: &["svc"],
    categories: ALL,
    subresources: STATUS,
    name_rule: NameRule::Label1035,
    create_on_update: true,
    returns_deleted: false,
    fields: &[
        ("spec.clusterIP", "/spec/clusterIP", ""),
        ("spec.type", "/spec/type", ""),
    ],
    columns: columns::SERVICES,
    prepare: service::prepare,
    validate: service::validate,
    ..Row::new::<core::Service>("", "v1", "services", "service", "Service")
};

pub static ENDPOINTS: Row = Row {
    short_names: &["ep"],
    create_on_update: true,
    columns: columns::ENDPOINTS,
    ..Row::new::<core::Endpoints>("", "v1", "endpoints", "endpoints", "Endpoints")
};

pub static NAMESPACES: Row = Row {
    namespaced: false,
    short_names: &["ns"],
    verbs: NO_DELETE_COLLECTION,
    subresources: &[Subresource::Finalize, Subresource::Status],
    name_rule: NameRule::Label,
    returns_deleted: true,
    fields: &[("status.phase", "/status/phase", "")],
    columns: columns::NAMESPACES,
    prepare: admission::prepare_namespace,
    ..Row::new::<core::Namespace>("", "v1", "namespaces", "namespace", "Namespace")
};

pub static SERVICE_ACCOUNTS: Row = Row {
    short_names: &["sa"],
    returns_deleted: true,
    columns: columns::SERVICE_ACCOUNTS,
    ..Row::new::<core::ServiceAccount>(
        "",
        "v1",
        "serviceaccounts",
        "serviceaccount",
        "ServiceAccount",
    )
};

pub static PERSISTENT_VOLUME_CLAIMS: Row = Row {
    short_names: &["pvc"],
    subresources: STATUS,
    returns_deleted: true,
    columns: columns::PERSISTENT_VOLUME_CLAIMS,
    prepare: admission::prepare_claim,
    ..Row::new::<core::PersistentVolumeClaim>(
        "",
        "v1",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
    )
};

pub static ENDPOINT_SLICES: Row = Row {
    generation: true,
    columns: columns::ENDPOINT_SLICES,
    prepare: admission::prepare_endpoint_slice,
    validate: admission::validate_endpoint_slice,
    ..Row::new::<discovery::EndpointSlice>(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
    )
};

pub static NETWORK_POLICIES: Row = Row {
    short_names: &["netpol"],
    generation: true,
    columns: columns::NETWORK_POLICIES,
    ..Row::new::<networking::NetworkPolicy>(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "networkpolicy",
        "NetworkPolicy",
    )
};

pub static POD_DISRUPTION_BUDGETS: Row = Row {
    short_names: &["pdb"],
    subresources: STATUS,
    generation: true,
    unconditional_update: false,
    columns: columns::POD_DISRUPTION_BUDGETS,
    prepare: admission::prepare_budget,
    ..Row::new::<policy::PodDisruptionBudget>(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        "PodDisruptionBudget",
    )
};

pub static LEASES: Row = Row {
    unconditional_update: false,
    create_on_update: true,
    columns: columns::LEASES,
    micro_times: &["/spec/acquireTime", "/spec/renewTime"],
    prepare: admission::prepare_lease,
    validate: admission::validate_lease,
    ..Row::new::<coordination::Lease>("coordination.k8s.io", "v1", "leases", "lease", "Lease")
};

pub static DEPLOYMENTS: Row = Row {
    short_names: &["deploy"],
    categories: ALL,
    subresources: STATUS,
    generation: true,
    columns: columns::DEPLOYMENTS,
    prepare: admission::prepare_deployment,
    validate: admission::validate_pod_template,
    ..Row::new::<apps::Deployment>("apps", "v1", "deployments", "deployment", "Deployment")
};

pub static REPLICA_SETS: Row = Row {
    short_names: &["rs"],
    categories: ALL,
    subresources: STATUS,
    generation: true,
    fields: &[("status.replicas", "/status/replicas", "0")],
    columns: columns::REPLICA_SETS,
    prepare: admission::prepare_scaled,
    validate: admission::validate_pod_template,
    ..Row::new::<apps::ReplicaSet>("apps", "v1", "replicasets", "replicaset", "ReplicaSet")
};

pub static DAEMON_SETS: Row = Row {
    short_names: &["ds"],
    categories: ALL,
    subresources: STATUS,
    generation: true,
    columns: columns::DAEMON_SETS,
    prepare: admission::prepare_template,
    validate: admission::validate_pod_template,
    ..Row::new::<apps::DaemonSet>("apps", "v1", "daemonsets", "daemonset", "DaemonSet")
};

pub static STATEFUL_SETS: Row = Row {
    short_names: &["sts"],
    categories: ALL,
    subresources: STATUS,
    generation: true,
    columns: columns::STATEFUL_SETS,
    prepare: admission::prepare_scaled,
    validate: admission::validate_pod_template,
    ..Row::new::<apps::StatefulSet>("apps", "v1", "statefulsets", "statefulset", "StatefulSet")
};

pub static JOBS: Row = Row {
    categories: ALL,
    subresources: STATUS,
    generation: true,
    orphans_dependents: true,
    fields: &[("status.successful", "/status/succeeded", "0")],
    columns: columns::JOBS,
    prepare: admission::prepare_template,
    ..Row::new::<batch::Job>("batch", "v1", "jobs", "job", "Job")
};

pub static CRON_JOBS: Row = Row {
    short_names: &["cj"],
    categories: ALL,
    subresources: STATUS,
    generation: true,
    columns: columns::CRON_JOBS,
    prepare: admission::prepare_cron_job,
    ..Row::new::<batch::CronJob>("batch", "v1", "cronjobs", "cronjob", "CronJob")
};

pub static ROLES: Row = Row {
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    columns: columns::ROLES,
    prepare: access::prepare_role,
    validate: access::validate_role,
    ..Row::new::<rbac::Role>("rbac.authorization.k8s.io", "v1", "roles", "role", "Role")
};

pub static ROLE_BINDINGS: Row = Row {
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    columns: columns::ROLE_BINDINGS,
    prepare: access::prepare_binding,
    validate: access::validate_binding,
    ..Row::new::<rbac::RoleBinding>(
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        "rolebinding",
        "RoleBinding",
    )
};

pub static CLUSTER_ROLES: Row = Row {
    namespaced: false,
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    columns: columns::ROLES,
    prepare: access::prepare_role,
    validate: access::validate_role,
    ..Row::new::<rbac::ClusterRole>(
        "rbac.authorization.k8s.io",
        "v1",
        "clusterroles",
        "clusterrole",
        "ClusterRole",
    )
};

pub static CLUSTER_ROLE_BINDINGS: Row = Row {
    namespaced: false,
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    columns: columns::ROLE_BINDINGS,
    prepare: access::prepare_binding,
    validate: access::validate_binding,
    ..Row::new::<rbac::ClusterRoleBinding>(
        "rbac.authorization.k8s.io",
        "v1",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
    )
};

/// Every resource, the core group first, then in the order in which discovery names the groups.
pub static ROWS: &[&Row] = &[
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &NAMESPACES,
    &NODES,
    &PERSISTENT_VOLUME_CLAIMS,
    &PODS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &DAEMON_SETS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &STATEFUL_SETS,
    &EVENTS_V1,
    &CRON_JOBS,
    &JOBS,
    &NETWORK_POLICIES,
    &POD_DISRUPTION_BUDGETS,
    &CLUSTER_ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &ROLE_BINDINGS,
    &ROLES,
    &LEASES,
    &ENDPOINT_SLICES,
];

/// The row at a path, e.g. `("", "v1", "pods")`.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Row> {
    ROWS.iter()
        .copied()
        .find(|row| row.plural == plural && row.group == group && row.version == version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_path_and_by_no_other() {
        let paths: BTreeSet<_> = ROWS
            .iter()
            .map(|r| (r.group, r.version, r.plural))
            .collect();
        assert_eq!(paths.len(), ROWS.len());
        for row in ROWS {
            let found = find(row.group, row.version, row.plural).map(|r| (r.group, r.kind));
            assert_eq!(found, Some((row.group, row.kind)));
        }
        assert!(find("apps", "v1", "pods").is_none());
    }
}
