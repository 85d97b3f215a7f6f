//! Services: an address of the cluster unless headless, the defaults of their ports, and the rules for both.

use serde_json::{Value, json};

use super::admission::Allocator;
use super::names;
use super::object::Object;
use super::resource::NameRule;
use super::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Services: an address of the cluster unless headless, and the defaults of the ports.
pub(super) fn prepare(object: &mut Object, old: Option<&Object>, allocator: &mut Allocator) {
    let kept = old
        .map(|old| old.text("/spec/clusterIP").to_owned())
        .filter(|ip| !ip.is_empty());
    let spec = object.section_mut("spec");
    spec.entry("type").or_insert(json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert(json!("None"));
    if spec["type"] != "ExternalName" {
        if spec
            .get("clusterIP")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            let address = kept.unwrap_or_else(|| next_address(allocator));
            spec.insert("clusterIP".to_owned(), Value::from(address));
        }
        let address = spec["clusterIP"].clone();
        spec.entry("clusterIPs").or_insert(json!([address]));
        spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
        spec.entry("internalTrafficPolicy")
            .or_insert(json!("Cluster"));
    }
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        spec.entry("externalTrafficPolicy")
            .or_insert(json!("Cluster"));
    }
    if spec["type"] == "LoadBalancer" {
        spec.entry("allocateLoadBalancerNodePorts")
            .or_insert(json!(true));
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.entry("protocol").or_insert(json!("TCP"));
        if let (Some(number), None) = (port.get("port").cloned(), port.get("targetPort")) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if object.get("status").is_none() {
        object.set("status", json!({"loadBalancer": {}}));
    }
}

fn next_address(allocator: &mut Allocator) -> String {
    allocator.service_addresses += 1;
    let [_, b, c, d] = (0x0060_0000 + 1 + allocator.service_addresses).to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

/// Services: a known type, ports in range and named when there are several, an address that is one and stays.
#[must_use]
pub(super) fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ports = object.list("/spec/ports");
    let address = object.text("/spec/clusterIP");
    let kind = object.text("/spec/type");
    if ports.is_empty() && address != "None" && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && object.text("/spec/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    for i in 0..ports.len() {
        port_causes(ports, i, &mut causes);
    }
    if !TYPES.contains(&kind) {
        causes.push(Cause::not_supported("spec.type", kind, TYPES));
    }
    let affinity = object.text("/spec/sessionAffinity");
    if !matches!(affinity, "None" | "ClientIP") {
        let known = ["ClientIP", "None"];
        causes.push(Cause::not_supported(
            "spec.sessionAffinity",
            affinity,
            &known,
        ));
    }
    let mut refuse = |why: &str| {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(address), why));
    };
    let is_address = address.parse::<std::net::IpAddr>().is_ok();
    if !matches!(address, "" | "None") && !is_address {
        refuse("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    let before = old.map(|old| old.text("/spec/clusterIP"));
    if before.is_some_and(|before| !before.is_empty() && before != address) {
        refuse("may not change once set");
    }
    causes
}

fn port_causes(ports: &[Value], i: usize, causes: &mut Vec<Cause>) {
    let port = &ports[i];
    let path = |field: &str| format!("spec.ports[{i}].{field}");
    let name = port["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        if ports.len() > 1 {
            causes.push(Cause::required(path("name"), ""));
        }
    } else if let Some(why) = names::name(NameRule::Label, name) {
        causes.push(Cause::invalid(path("name"), &json!(name), &why));
    } else if ports[..i].iter().any(|other| other["name"] == name) {
        causes.push(Cause::duplicate(path("name"), &json!(name)));
    }
    let number = port["port"].as_i64().unwrap_or_default();
    if !(1..=65535).contains(&number) {
        causes.push(Cause::invalid(path("port"), &json!(number), PORT_RANGE));
    }
    let protocol = port["protocol"].as_str().unwrap_or_default();
    if !PROTOCOLS.contains(&protocol) {
        causes.push(Cause::not_supported(path("protocol"), protocol, PROTOCOLS));
    }
    match &port["targetPort"] {
        Value::Number(target)
            if !target
                .as_i64()
                .is_some_and(|target| (1..=65535).contains(&target)) =>
        {
            let target = json!(target);
            causes.push(Cause::invalid(path("targetPort"), &target, PORT_RANGE));
        }
        Value::String(target) => {
            if let Some(why) = names::port_name(target) {
                causes.push(Cause::invalid(path("targetPort"), &json!(target), why));
            }
        }
        _ => {}
    }
    let same =
        |other: &Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
    if ports[..i].iter().any(same) {
        let shown = json!({"port": port["port"], "protocol": port["protocol"]});
        causes.push(Cause::duplicate(format!("spec.ports[{i}]"), &shown));
    }
}
