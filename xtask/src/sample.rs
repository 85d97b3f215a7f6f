//! The sample ConfigMap in `xtask/demo/`, with some values replaced, and the objects that stand around it in a cluster.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http;
use crate::stack::Ports;

/// Where everything lives.
pub(crate) const NAMESPACE: &str = "default";

/// The ConfigMap and, as usual, the Service of the controller.
pub(crate) const NAME: &str = "batch-job-controller";

/// What the sample names its controller: the prefix of metrics and pods.
pub(crate) const METRICS_PREFIX: &str = "demo";

const CONFIG: &str = include_str!("../demo/config.yaml");
const POD_TEMPLATE: &str = include_str!("../demo/pod-template.yaml");

/// The sample `config.yaml` with other values at `keys`; a key within `metrics` is written `metrics.port`.
///
/// # Errors
/// If the sample has no such key: the two belong together.
pub(crate) fn config(values: &[(&str, String)]) -> Result<String> {
    let mut lines: Vec<String> = CONFIG.lines().map(str::to_owned).collect();
    for (key, value) in values {
        let mut depth = 0;
        let mut at = 0;
        for part in key.split('.') {
            let start = format!("{}{part}:", "  ".repeat(depth));
            let found = lines[at..].iter().position(|line| line.starts_with(&start));
            at += found.with_context(|| format!("xtask/demo/config.yaml has no key {key}"))?;
            depth += 1;
        }
        let name = key.rsplit('.').next().unwrap_or_default();
        lines[at] = format!("{}{name}: {value}", "  ".repeat(depth - 1));
    }
    Ok(lines.join("\n") + "\n")
}

/// The gauges that the sample configures, without prefix.
pub(crate) fn gauges() -> Vec<&'static str> {
    CONFIG
        .lines()
        .skip_while(|line| *line != "  gauges:")
        .skip(1)
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(':'))
        .filter(|name| !name.starts_with(' '))
        .collect()
}

/// Applies what a chart and its controllers would: the ConfigMap, the controller's Deployment with a pod at each of the
/// addresses, the Service that job pods call back to, and the EndpointSlice that says where it is.
///
/// The Service's address is nobody's: like kube-proxy, the simulated nodes look up its EndpointSlices, so that job pods
/// outlive the controller's pod as they do in a cluster.
///
/// # Errors
/// If the API server refuses.
pub(crate) fn apply(
    api_server: SocketAddr,
    ports: &Ports,
    config: &str,
    addresses: &[&str],
) -> Result<()> {
    let core = format!("/api/v1/namespaces/{NAMESPACE}");
    let apps = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
    http::post_json(
        api_server,
        &format!("{core}/configmaps"),
        &config_map(config),
    )?;
    http::post_json(api_server, &format!("{core}/services"), &service(ports))?;
    let deployment = http::post_json(api_server, &format!("{apps}/deployments"), &deployment())?;
    run_deployment(api_server, &deployment, NAME, ports.callback, addresses)
}

/// Does what the controllers of a cluster do for a Deployment: its ReplicaSet and a pod Running at each address of this
/// machine, named as [`pod_name`] says; the Service `callback_service` leads to them, in this order.
///
/// # Errors
/// If the API server refuses.
pub(crate) fn run_deployment(
    api_server: SocketAddr,
    deployment: &Value,
    callback_service: &str,
    callback_port: u16,
    addresses: &[&str],
) -> Result<()> {
    let namespace = deployment["metadata"]["namespace"].as_str();
    let namespace = namespace.context("the Deployment has no namespace")?;
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let replica_set = http::post_json(
        api_server,
        &format!("/apis/apps/v1/namespaces/{namespace}/replicasets"),
        &replica_set(deployment),
    )?;
    for (number, address) in addresses.iter().enumerate() {
        let pod_name = pod_name(name, number);
        http::post_json(api_server, &pods, &pod(&replica_set, &pod_name))?;
        let container = json!({"name": "controller", "image": NAME, "imageID": "", "ready": true, "restartCount": 0});
        let status = json!({"status": {"phase": "Running", "podIP": address, "containerStatuses": [container]}});
        http::merge_json(api_server, &format!("{pods}/{pod_name}/status"), &status)?;
    }
    http::post_json(
        api_server,
        &format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        &endpoint_slice(namespace, callback_service, callback_port, addresses),
    )?;
    Ok(())
}

/// The pod of that number of a Deployment, counted from 0.
pub(crate) fn pod_name(deployment: &str, number: usize) -> String {
    format!("{deployment}-1-{number}")
}

fn config_map(config: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"config.yaml": config, "pod-template.yaml": POD_TEMPLATE},
    })
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": NAME})
}

fn pod_template() -> Value {
    json!({
        "metadata": {"labels": labels()},
        "spec": {"containers": [{"name": "controller", "image": NAME}]},
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels()},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels()}, "template": pod_template()},
    })
}

fn replica_set(deployment: &Value) -> Value {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let spec = &deployment["spec"];
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{name}-1"), "namespace": deployment["metadata"]["namespace"],
            "labels": spec["template"]["metadata"]["labels"],
            "ownerReferences": [owned_by(deployment, "Deployment")],
        },
        "spec": {"replicas": 1, "selector": spec["selector"], "template": spec["template"]},
    })
}

fn pod(replica_set: &Value, name: &str) -> Value {
    let template = &replica_set["spec"]["template"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": replica_set["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owned_by(replica_set, "ReplicaSet")],
        },
        "spec": template["spec"],
    })
}

fn owned_by(owner: &Value, kind: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind, "controller": true, "blockOwnerDeletion": true,
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
    })
}

fn service(ports: &Ports) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP",
            // An address of the range that clusters give to Services.
            "clusterIP": "10.96.0.90", "clusterIPs": ["10.96.0.90"],
            "selector": labels(),
            "ports": [{"name": "callback", "port": ports.callback, "targetPort": ports.callback, "protocol": "TCP"}],
        },
    })
}

fn endpoint_slice(namespace: &str, service: &str, port: u16, addresses: &[&str]) -> Value {
    let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "callback", "port": port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_replaces_the_sample_s_at_its_key_only() {
        let changed = config(&[
            ("podPoolSize", "3".to_owned()),
            ("metrics.port", "1".to_owned()),
        ])
        .unwrap();
        let differing: Vec<(&str, &str)> = CONFIG
            .lines()
            .zip(changed.lines())
            .filter(|(old, new)| old != new)
            .collect();
        let new: Vec<&str> = differing.iter().map(|(_, new)| *new).collect();
        assert_eq!(new, ["podPoolSize: 3", "  port: 1"]);
        assert_eq!(CONFIG.lines().count(), changed.lines().count());
    }

    #[test]
    fn a_key_that_the_sample_lacks_is_an_error() {
        let error = config(&[("metrics.absent", "1".to_owned())]).unwrap_err();
        assert!(error.to_string().contains("metrics.absent"), "{error}");
    }

    #[test]
    fn the_gauges_are_those_of_the_sample() {
        assert_eq!(gauges(), ["disk_used_ratio", "clock_offset_seconds"]);
        for gauge in gauges() {
            assert!(
                POD_TEMPLATE.contains(gauge),
                "the sample script posts {gauge}"
            );
        }
    }

    #[test]
    fn the_sample_is_named_as_the_commands_expect() {
        assert!(CONFIG.contains(&format!("callbackServiceName: {NAME}\n")));
        assert!(CONFIG.contains(&format!("  prefix: {METRICS_PREFIX}\n")));
    }
}
