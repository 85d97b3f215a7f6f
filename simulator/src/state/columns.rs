//! The columns of each resource as `kubectl get` prints them (`k8s.io/kubernetes/pkg/printers/internalversion`).
//!
//! A column is its header and a function from the object and the present time to the cell. Columns of priority 1 are
//! shown by `-o wide` only.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::object::Object;

/// One column of a Table.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `number`.
    pub kind: &'static str,
    /// `name` for the object's name, else empty.
    pub format: &'static str,
    pub priority: u8,
    pub cell: fn(&Object, Timestamp) -> Value,
}

const fn column(name: &'static str, cell: fn(&Object, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        priority: 0,
        cell,
    }
}

const fn count(name: &'static str, cell: fn(&Object, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "integer",
        format: "",
        priority: 0,
        cell,
    }
}

const fn wide(name: &'static str, cell: fn(&Object, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        priority: 1,
        cell,
    }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    cell: |o, _| json!(*o.metadata.name),
};
const AGE: Column = column("Age", |o, now| {
    json!(age(o.metadata.creation_timestamp, now))
});
const CONTAINERS: Column = wide("Containers", |o, _| json!(template(o, "name")));
const IMAGES: Column = wide("Images", |o, _| json!(template(o, "image")));
const SELECTOR: Column = wide("Selector", |o, _| {
    json!(labels(o.pointer("/spec/selector/matchLabels")))
});

pub(super) static NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(super) static NODES: &[Column] = &[
    NAME,
    column("Status", |o, _| json!(node_status(o))),
    column("Roles", |o, _| json!(node_roles(o))),
    AGE,
    column("Version", |o, _| {
        json!(o.text("/status/nodeInfo/kubeletVersion"))
    }),
    wide("Internal-IP", |o, _| json!(node_address(o, "InternalIP"))),
    wide("External-IP", |o, _| json!(node_address(o, "ExternalIP"))),
    wide("OS-Image", |o, _| {
        json!(or(o.text("/status/nodeInfo/osImage"), "<unknown>"))
    }),
    wide("Kernel-Version", |o, _| {
        json!(or(o.text("/status/nodeInfo/kernelVersion"), "<unknown>"))
    }),
    wide("Container-Runtime", |o, _| {
        json!(or(
            o.text("/status/nodeInfo/containerRuntimeVersion"),
            "<unknown>"
        ))
    }),
];

pub(super) static PODS: &[Column] = &[
    NAME,
    column("Ready", |o, _| {
        let ready = o
            .list("/status/containerStatuses")
            .iter()
            .filter(|s| s["ready"] == true)
            .count();
        json!(format!("{ready}/{}", o.list("/spec/containers").len()))
    }),
    column("Status", |o, _| json!(pod_status(o))),
    column("Restarts", |o, _| {
        let restarts: i64 = o
            .list("/status/containerStatuses")
            .iter()
            .filter_map(|s| s["restartCount"].as_i64())
            .sum();
        json!(restarts.to_string())
    }),
    AGE,
    wide("IP", |o, _| json!(or(o.text("/status/podIP"), "<none>"))),
    wide("Node", |o, _| json!(or(o.text("/spec/nodeName"), "<none>"))),
    wide("Nominated Node", |o, _| {
        json!(or(o.text("/status/nominatedNodeName"), "<none>"))
    }),
    wide("Readiness Gates", |_, _| json!("<none>")),
];

pub(super) static EVENTS: &[Column] = &[
    column("Last Seen", |o, now| json!(age(event_last_seen(o), now))),
    column("Type", |o, _| json!(o.text("/type"))),
    column("Reason", |o, _| json!(o.text("/reason"))),
    column("Object", |o, _| {
        let kind = o.text("/involvedObject/kind").to_lowercase();
        let name = o.text("/involvedObject/name");
        json!(if name.is_empty() {
            kind
        } else {
            format!("{kind}/{name}")
        })
    }),
    wide("Subobject", |o, _| {
        json!(o.text("/involvedObject/fieldPath"))
    }),
    wide("Source", |o, _| json!(event_source(o))),
    column("Message", |o, _| json!(o.text("/message").trim())),
    wide("First Seen", |o, now| json!(age(event_first_seen(o), now))),
    Column {
        name: "Count",
        kind: "integer",
        format: "",
        priority: 1,
        cell: |o, _| json!(event_count(o)),
    },
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 1,
        cell: |o, _| json!(*o.metadata.name),
    },
];

pub(super) static CONFIG_MAPS: &[Column] = &[
    NAME,
    count("Data", |o, _| {
        json!(entries(o, "data") + entries(o, "binaryData"))
    }),
    AGE,
];

pub(super) static SECRETS: &[Column] = &[
    NAME,
    column("Type", |o, _| json!(o.text("/type"))),
    count("Data", |o, _| json!(entries(o, "data"))),
    AGE,
];

pub(super) static SERVICE_ACCOUNTS: &[Column] = &[NAME, AGE];

pub(super) static LEASES: &[Column] = &[
    NAME,
    column("Holder", |o, _| json!(o.text("/spec/holderIdentity"))),
    AGE,
];

pub(super) static NAMESPACES: &[Column] = &[
    NAME,
    column("Status", |o, _| json!(o.text("/status/phase"))),
    AGE,
];

pub(super) static SERVICES: &[Column] = &[
    NAME,
    column("Type", |o, _| json!(o.text("/spec/type"))),
    column("Cluster-IP", |o, _| {
        json!(or(o.text("/spec/clusterIP"), "<none>"))
    }),
    column("External-IP", |o, _| json!(service_external(o))),
    column("Port(s)", |o, _| json!(service_ports(o))),
    AGE,
    wide("Selector", |o, _| {
        json!(labels(o.pointer("/spec/selector")))
    }),
];

pub(super) static ENDPOINTS: &[Column] = &[
    NAME,
    column("Endpoints", |o, _| json!(endpoint_addresses(o))),
    AGE,
];

pub(super) static NETWORK_POLICIES: &[Column] = &[
    NAME,
    column("Pod-Selector", |o, _| {
        json!(labels(o.pointer("/spec/podSelector/matchLabels")))
    }),
    AGE,
];

pub(super) static POD_DISRUPTION_BUDGETS: &[Column] = &[
    NAME,
    column("Min Available", |o, _| {
        count_or_share(o, "/spec/minAvailable")
    }),
    column("Max Unavailable", |o, _| {
        count_or_share(o, "/spec/maxUnavailable")
    }),
    column("Allowed Disruptions", |o, _| {
        json!(
            o.pointer("/status/disruptionsAllowed")
                .and_then(Value::as_u64)
                .unwrap_or(0)
        )
    }),
    AGE,
];

/// A number, or text such as `10%`.
fn count_or_share(object: &Object, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(share)) => json!(share),
        Some(number) => json!(number.to_string()),
        None => json!("N/A"),
    }
}

pub(super) static ENDPOINT_SLICES: &[Column] = &[
    NAME,
    column("AddressType", |o, _| json!(o.text("/addressType"))),
    column("Ports", |o, _| {
        json!(shortened(
            o.list("/ports").iter().map(|p| p["port"].to_string()),
            "<unset>"
        ))
    }),
    column("Endpoints", |o, _| {
        let addresses = o
            .list("/endpoints")
            .iter()
            .flat_map(|e| e["addresses"].as_array().into_iter().flatten());
        json!(shortened(
            addresses.filter_map(Value::as_str).map(str::to_owned),
            "<unset>"
        ))
    }),
    AGE,
];

pub(super) static PERSISTENT_VOLUME_CLAIMS: &[Column] = &[
    NAME,
    column("Status", |o, _| json!(o.text("/status/phase"))),
    column("Volume", |o, _| json!(o.text("/spec/volumeName"))),
    column("Capacity", |o, _| json!(o.text("/status/capacity/storage"))),
    column("Access Modes", |o, _| json!(access_modes(o))),
    column("StorageClass", |o, _| {
        json!(o.text("/spec/storageClassName"))
    }),
    column("VolumeAttributesClass", |o, _| {
        json!(or(o.text("/spec/volumeAttributesClassName"), "<unset>"))
    }),
    AGE,
    wide("VolumeMode", |o, _| {
        json!(or(o.text("/spec/volumeMode"), "<unset>"))
    }),
];

pub(super) static DEPLOYMENTS: &[Column] = &[
    NAME,
    column("Ready", |o, _| {
        json!(format!(
            "{}/{}",
            number(o, "/status/readyReplicas"),
            number(o, "/spec/replicas")
        ))
    }),
    count("Up-to-date", |o, _| {
        json!(number(o, "/status/updatedReplicas"))
    }),
    count("Available", |o, _| {
        json!(number(o, "/status/availableReplicas"))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) static REPLICA_SETS: &[Column] = &[
    NAME,
    count("Desired", |o, _| json!(number(o, "/spec/replicas"))),
    count("Current", |o, _| json!(number(o, "/status/replicas"))),
    count("Ready", |o, _| json!(number(o, "/status/readyReplicas"))),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) static DAEMON_SETS: &[Column] = &[
    NAME,
    count("Desired", |o, _| {
        json!(number(o, "/status/desiredNumberScheduled"))
    }),
    count("Current", |o, _| {
        json!(number(o, "/status/currentNumberScheduled"))
    }),
    count("Ready", |o, _| json!(number(o, "/status/numberReady"))),
    count("Up-to-date", |o, _| {
        json!(number(o, "/status/updatedNumberScheduled"))
    }),
    count("Available", |o, _| {
        json!(number(o, "/status/numberAvailable"))
    }),
    column("Node Selector", |o, _| {
        json!(labels(o.pointer("/spec/template/spec/nodeSelector")))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) static STATEFUL_SETS: &[Column] = &[
    NAME,
    column("Ready", |o, _| {
        json!(format!(
            "{}/{}",
            number(o, "/status/readyReplicas"),
            number(o, "/spec/replicas")
        ))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) static JOBS: &[Column] = &[
    NAME,
    column("Status", |o, _| json!(job_status(o))),
    column("Completions", |o, _| {
        let wanted = o
            .pointer("/spec/completions")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        json!(format!("{}/{wanted}", number(o, "/status/succeeded")))
    }),
    column("Duration", |o, now| {
        match time(o.text("/status/startTime")) {
            None => json!(""),
            start => json!(age(
                start,
                time(o.text("/status/completionTime")).unwrap_or(now)
            )),
        }
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) static CRON_JOBS: &[Column] = &[
    NAME,
    column("Schedule", |o, _| json!(o.text("/spec/schedule"))),
    column("Timezone", |o, _| {
        json!(or(o.text("/spec/timeZone"), "<none>"))
    }),
    column("Suspend", |o, _| {
        json!(if o.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
            "True"
        } else {
            "False"
        })
    }),
    count("Active", |o, _| json!(o.list("/status/active").len())),
    column("Last Schedule", |o, now| {
        match time(o.text("/status/lastScheduleTime")) {
            None => json!("<none>"),
            last => json!(age(last, now)),
        }
    }),
    AGE,
];

pub(super) static ROLES: &[Column] = &[
    NAME,
    column("Created At", |o, _| json!(o.metadata.creation_timestamp)),
];

pub(super) static ROLE_BINDINGS: &[Column] = &[
    NAME,
    column("Role", |o, _| {
        json!(format!(
            "{}/{}",
            o.text("/roleRef/kind"),
            o.text("/roleRef/name")
        ))
    }),
    AGE,
    wide("Users", |o, _| json!(subjects(o, "User"))),
    wide("Groups", |o, _| json!(subjects(o, "Group"))),
    wide("ServiceAccounts", |o, _| {
        json!(subjects(o, "ServiceAccount"))
    }),
];

fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

fn number(object: &Object, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

fn entries(object: &Object, section: &str) -> usize {
    object
        .get(section)
        .and_then(Value::as_object)
        .map_or(0, Map::len)
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// The time from `from` to `now` as `k8s.io/apimachinery/pkg/util/duration.HumanDuration` writes it.
pub(super) fn age(from: Option<Timestamp>, now: Timestamp) -> String {
    let Some(from) = from else {
        return "<unknown>".to_owned();
    };
    let seconds = now.as_second() - from.as_second();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

fn template(object: &Object, field: &str) -> String {
    let containers = object.list("/spec/template/spec/containers");
    let names: Vec<&str> = containers
        .iter()
        .filter_map(|c| c[field].as_str())
        .collect();
    names.join(",")
}

fn labels(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object).filter(|m| !m.is_empty()) else {
        return "<none>".to_owned();
    };
    let mut pairs: Vec<String> = map
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// At most three, then how many more.
fn shortened(texts: impl Iterator<Item = String>, absent: &str) -> String {
    let texts: Vec<String> = texts.collect();
    match texts.len() {
        0 => absent.to_owned(),
        1..=3 => texts.join(","),
        more => format!("{} + {} more...", texts[..3].join(","), more - 3),
    }
}

fn node_status(node: &Object) -> String {
    let ready = node
        .list("/status/conditions")
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Object) -> String {
    let roles = node.metadata.labels.iter().filter_map(|(key, value)| {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ => (key == "kubernetes.io/role" && !value.is_empty()).then_some(value.as_str()),
        }
    });
    let roles: Vec<&str> = roles.collect();
    or(&roles.join(","), "<none>").to_owned()
}

fn node_address<'a>(node: &'a Object, kind: &str) -> &'a str {
    let address = node
        .list("/status/addresses")
        .iter()
        .find(|a| a["type"] == kind);
    address
        .and_then(|a| a["address"].as_str())
        .unwrap_or("<none>")
}

/// The STATUS of a pod: the phase, unless a container or the delete says something more precise.
pub(super) fn pod_status(pod: &Object) -> String {
    let phase = pod.text("/status/phase");
    let mut status = or(pod.text("/status/reason"), phase).to_owned();
    for container in pod.list("/status/containerStatuses").iter().rev() {
        let (waiting, ended) = (
            &container["state"]["waiting"],
            &container["state"]["terminated"],
        );
        if let Some(reason) = waiting["reason"].as_str().filter(|r| !r.is_empty()) {
            reason.clone_into(&mut status);
        } else if ended.is_object() {
            status = match (
                ended["reason"].as_str().unwrap_or_default(),
                ended["signal"].as_i64().unwrap_or_default(),
            ) {
                ("", 0) => format!("ExitCode:{}", ended["exitCode"]),
                ("", signal) => format!("Signal:{signal}"),
                (reason, _) => reason.to_owned(),
            };
        }
    }
    if pod.metadata.deletion_timestamp.is_some() && pod.text("/status/reason") == "NodeLost" {
        return "Unknown".to_owned();
    }
    if pod.metadata.deletion_timestamp.is_some() && !matches!(phase, "Succeeded" | "Failed") {
        return "Terminating".to_owned();
    }
    status
}

fn event_count(event: &Object) -> i64 {
    let series = event
        .pointer("/series/count")
        .or_else(|| event.get("count"));
    series
        .and_then(Value::as_i64)
        .filter(|n| *n > 0)
        .unwrap_or(1)
}

fn event_first_seen(event: &Object) -> Option<Timestamp> {
    time(event.text("/firstTimestamp")).or_else(|| time(event.text("/eventTime")))
}

fn event_last_seen(event: &Object) -> Option<Timestamp> {
    let series = time(event.text("/series/lastObservedTime"));
    series
        .or_else(|| time(event.text("/lastTimestamp")))
        .or_else(|| event_first_seen(event))
}

fn event_source(event: &Object) -> String {
    let component = or(
        event.text("/source/component"),
        event.text("/reportingComponent"),
    );
    let host = or(event.text("/source/host"), event.text("/reportingInstance"));
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}

fn service_external(service: &Object) -> String {
    let addresses = service
        .list("/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    match service.text("/spec/type") {
        "ExternalName" => service.text("/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = service.list("/status/loadBalancer/ingress").iter();
            shortened(
                ingress
                    .filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()))
                    .map(str::to_owned)
                    .chain(addresses),
                "<pending>",
            )
        }
        _ => shortened(addresses, "<none>"),
    }
}

fn service_ports(service: &Object) -> String {
    let mut text = String::new();
    for port in service.list("/spec/ports") {
        let separator = if text.is_empty() { "" } else { "," };
        let node_port = port["nodePort"]
            .as_i64()
            .map(|n| format!(":{n}"))
            .unwrap_or_default();
        let _ = write!(
            text,
            "{separator}{}{node_port}/{}",
            port["port"],
            port["protocol"].as_str().unwrap_or("TCP")
        );
    }
    or(&text, "<none>").to_owned()
}

fn endpoint_addresses(endpoints: &Object) -> String {
    let subsets = endpoints.list("/subsets").iter();
    let all = subsets.flat_map(|subset| {
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        let ports: Vec<String> = subset["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| p["port"].to_string())
            .collect();
        addresses.flat_map(move |address| {
            let ip = address["ip"].as_str().unwrap_or_default().to_owned();
            ports
                .clone()
                .into_iter()
                .map(move |port| format!("{ip}:{port}"))
                .collect::<Vec<_>>()
        })
    });
    shortened(all, "<none>")
}

fn access_modes(claim: &Object) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = claim
        .list("/status/accessModes")
        .iter()
        .map(short)
        .collect();
    modes.join(",")
}

fn job_status(job: &Object) -> &'static str {
    let holds = |kind: &str| {
        job.list("/status/conditions")
            .iter()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    for (condition, status) in [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
    ] {
        if holds(condition) {
            return status;
        }
    }
    if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else {
        "Running"
    }
}

fn subjects(binding: &Object, kind: &str) -> String {
    let matching = binding
        .list("/subjects")
        .iter()
        .filter(|s| s["kind"] == kind);
    let names: Vec<String> = matching
        .map(|s| match s["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", s["name"].as_str().unwrap_or_default()),
            None => s["name"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::resource;
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let start = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (49 * 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (800 * 86_400, "2y70d"),
        ] {
            let now = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!(age(Some(start), now), text, "{seconds}");
        }
    }

    #[test]
    fn pod_status_prefers_what_the_container_says() {
        let status = |status: Value| {
            pod_status(&Object::from_value(&resource::PODS, json!({ "status": status })).unwrap())
        };
        assert_eq!(status(json!({"phase": "Running"})), "Running");
        assert_eq!(
            status(json!({"phase": "Failed", "reason": "Evicted"})),
            "Evicted"
        );
        let waiting = json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
        assert_eq!(status(waiting), "ImagePullBackOff");
        let ended = json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]});
        assert_eq!(status(ended), "Completed");
    }
}
