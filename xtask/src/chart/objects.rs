//! What must hold between the objects of any rendering: names, labels, ports, Services, environment, monitors.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::helm::{Rendered, config_map, of_kind, the};

/// Kinds that are in no namespace: their names have no limit that matters.
const CLUSTER_WIDE: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];

/// Names of Services, and values of labels.
const LABEL_CHARS: usize = 63;

/// Kinds of the Prometheus operator, whose schemas nothing here knows: which keys their specs and lists may hold.
const FOREIGN: [(&str, &[&str], &str, &[&str]); 3] = [
    (
        "PodMonitor",
        &["sampleLimit", "selector", "podMetricsEndpoints"],
        "/podMetricsEndpoints",
        ENDPOINT,
    ),
    (
        "ServiceMonitor",
        &["sampleLimit", "selector", "endpoints"],
        "/endpoints",
        ENDPOINT,
    ),
    (
        "PrometheusRule",
        &["groups"],
        "/groups/0/rules",
        &["alert", "expr", "for", "labels", "annotations"],
    ),
];

const ENDPOINT: &[&str] = &[
    "port",
    "path",
    "interval",
    "scrapeTimeout",
    "relabelings",
    "metricRelabelings",
];

/// Checks one rendering.
///
/// # Errors
/// At the first thing that does not hold.
pub(super) fn check(set: &Rendered) -> Result<()> {
    let documents = &set.documents;
    check_names(documents)?;
    let deployment = the(documents, "Deployment")?;
    let pod = &deployment["spec"]["template"];
    check_environment(pod)?;
    check_selectors(documents, deployment, pod)?;
    check_strategy(documents, deployment)?;
    check_ports(documents, pod)?;
    for (kind, spec_keys, list, item_keys) in FOREIGN {
        for object in of_kind(documents, kind) {
            only(&object["spec"], spec_keys, kind)?;
            let items = object["spec"].pointer(list).and_then(Value::as_array);
            // A rule file may have no rules, a monitor has an endpoint.
            ensure!(
                items.is_some() || kind == "PrometheusRule",
                "{kind} has no {list}"
            );
            for item in items.into_iter().flatten() {
                only(item, item_keys, kind)?;
            }
        }
    }
    Ok(())
}

fn only(object: &Value, keys: &[&str], what: &str) -> Result<()> {
    let entries = object
        .as_object()
        .with_context(|| format!("{what} has no mapping where it must"))?;
    for key in entries.keys() {
        ensure!(
            keys.contains(&key.as_str()),
            "{what} has {key}, of which nothing is known"
        );
    }
    Ok(())
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn check_names(documents: &[Value]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for document in documents {
        let kind = text(document, "/kind");
        let name = text(document, "/metadata/name");
        let what = format!("{kind} {name}");
        ensure!(
            !kind.is_empty() && !name.is_empty(),
            "a document has no kind or no name: {document}"
        );
        ensure!(seen.insert(what.clone()), "{what} is there twice");
        let is_cluster_wide = CLUSTER_WIDE.contains(&kind);
        ensure!(
            is_cluster_wide || name.len() <= LABEL_CHARS,
            "{what} has a name of {} characters",
            name.len()
        );
        let is_own = document["metadata"]["labels"]["helm.sh/chart"].is_string();
        if is_own {
            let has_namespace = document["metadata"]["namespace"].is_string();
            ensure!(
                has_namespace != is_cluster_wide,
                "{what} has the wrong scope"
            );
        }
        let labels = document["metadata"]["labels"].as_object();
        for (label, value) in labels.into_iter().flatten() {
            let value = value
                .as_str()
                .with_context(|| format!("{what}: label {label} is no text"))?;
            ensure!(
                value.len() <= LABEL_CHARS,
                "{what}: label {label} is too long"
            );
        }
    }
    Ok(())
}

/// Server-side apply refuses two entries of one name.
fn check_environment(pod: &Value) -> Result<()> {
    for container in list(pod, "/spec/containers") {
        let mut seen = BTreeSet::new();
        for entry in list(container, "/env") {
            let name = text(entry, "/name");
            ensure!(seen.insert(name), "the environment has {name} twice");
        }
    }
    let names: BTreeSet<&str> = list(pod, "/spec/containers/0/env")
        .map(|entry| text(entry, "/name"))
        .collect();
    for name in ["NAMESPACE", "CONFIG_MAP_NAME", "POD_NAME", "POD_IP"] {
        ensure!(names.contains(name), "the environment lacks {name}");
    }
    Ok(())
}

/// Whatever selects the controller's pods selects them, and never job pods.
fn check_selectors(documents: &[Value], deployment: &Value, pod: &Value) -> Result<()> {
    let template = text(config_map(documents)?, "/data/pod-template.yaml");
    let job: Value = serde_saphyr::from_str(template).context("pod-template.yaml")?;
    let mut selectors = vec![("Deployment", &deployment["spec"]["selector"]["matchLabels"])];
    for (kind, path) in [
        ("Service", "/spec/selector"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("PodMonitor", "/spec/selector/matchLabels"),
    ] {
        let found = of_kind(documents, kind).filter_map(|object| object.pointer(path));
        selectors.extend(found.map(|selector| (kind, selector)));
    }
    for (kind, selector) in selectors {
        ensure!(
            selects(selector, &pod["metadata"]["labels"]),
            "a {kind} misses the controller's pods"
        );
        ensure!(
            !selects(selector, &job["metadata"]["labels"]),
            "a {kind} selects job pods"
        );
    }
    for monitor in of_kind(documents, "ServiceMonitor") {
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        let selected = of_kind(documents, "Service")
            .filter(|service| selects(selector, &service["metadata"]["labels"]));
        ensure!(
            selected.count() == 1,
            "a ServiceMonitor does not select one Service"
        );
    }
    Ok(())
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object();
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// Two pods run at a time only where both can have the volume, and then without a pause between them.
fn check_strategy(documents: &[Value], deployment: &Value) -> Result<()> {
    for claim in of_kind(documents, "PersistentVolumeClaim") {
        let is_shared = text(claim, "/spec/accessModes/0") == "ReadWriteMany";
        let strategy = text(deployment, "/spec/strategy/type");
        ensure!(
            is_shared == (strategy == "RollingUpdate"),
            "the strategy is {strategy}, and whether two pods can have the volume at a time: {is_shared}"
        );
        let replicas = deployment["spec"]["replicas"].as_u64();
        ensure!(
            is_shared || replicas <= Some(1),
            "{replicas:?} replicas have a volume for one"
        );
    }
    Ok(())
}

/// The ports of config.yaml are those of the container, each Service leads to one, each is in the network policy.
fn check_ports(documents: &[Value], pod: &Value) -> Result<()> {
    let config: Value = serde_saphyr::from_str(text(config_map(documents)?, "/data/config.yaml"))?;
    let port = |name: &str| {
        let mut ports = list(pod, "/spec/containers/0/ports");
        let port = ports.find(|port| port["name"] == name);
        port.map(|port| port["containerPort"].clone())
    };
    let wanted = [
        ("callback", "/callbackServicePort"),
        ("reports", "/fileServerPort"),
        ("metrics", "/metrics/port"),
        ("health", "/healthProbePort"),
    ];
    for (name, key) in wanted {
        ensure!(
            port(name).as_ref() == config.pointer(key),
            "the container's port {name} is not config.yaml's {key}"
        );
    }
    let count = list(pod, "/spec/containers/0/ports").count();
    ensure!(count == wanted.len(), "the container has {count} ports");

    for service in of_kind(documents, "Service") {
        let entry = &service["spec"]["ports"][0];
        let target = text(entry, "/targetPort");
        ensure!(
            port(target).as_ref() == Some(&entry["port"]),
            "Service {} leads to no port of the container",
            text(service, "/metadata/name")
        );
    }
    let callback = text(&config, "/callbackServiceName");
    let service =
        of_kind(documents, "Service").find(|service| text(service, "/metadata/name") == callback);
    let Some(service) = service else {
        bail!("config.yaml names the Service {callback:?}, which is not rendered");
    };
    // Its selector alone would give job pods a wrong port.
    ensure!(
        text(service, "/spec/ports/0/targetPort") == "callback",
        "Service {callback} is not for callbacks"
    );

    for policy in of_kind(documents, "NetworkPolicy") {
        let let_in: BTreeSet<&str> = list(policy, "/spec/ingress")
            .flat_map(|rule| list(rule, "/ports"))
            .map(|port| text(port, "/port"))
            .collect();
        let serving: BTreeSet<&str> = wanted.iter().map(|(name, _)| *name).collect();
        ensure!(
            let_in == serving,
            "the network policy lets in {let_in:?}, served are {serving:?}"
        );
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let port = text(pod, &format!("/spec/containers/0/{probe}/httpGet/port"));
        ensure!(port == "health", "{probe} asks port {port:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(kind: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
    }

    #[test]
    fn a_name_is_refused_that_is_too_long_or_taken() {
        assert!(check_names(&[document("Service", "a"), document("Secret", "a")]).is_ok());
        assert!(check_names(&[document("Service", "a"), document("Service", "a")]).is_err());
        let long = "a".repeat(LABEL_CHARS + 1);
        assert!(check_names(&[document("Service", &long)]).is_err());
        assert!(check_names(&[document("ClusterRole", &long)]).is_ok());
    }

    #[test]
    fn an_environment_with_a_name_given_twice_is_refused() {
        let names = ["NAMESPACE", "CONFIG_MAP_NAME", "POD_NAME", "POD_IP"];
        let mut env: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        let pod = |env: &[Value]| json!({"spec": {"containers": [{"env": env}]}});
        assert!(check_environment(&pod(&env)).is_ok());
        env.push(json!({"name": "POD_IP"}));
        assert!(check_environment(&pod(&env)).is_err());
    }

    #[test]
    fn an_empty_selector_selects_nothing_here() {
        let labels = json!({"a": "b", "c": "d"});
        assert!(selects(&json!({"a": "b"}), &labels));
        assert!(!selects(&json!({"a": "x"}), &labels));
        assert!(!selects(&json!({}), &labels));
    }
}
