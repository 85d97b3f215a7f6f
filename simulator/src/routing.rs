//! Where a fake pod's request to a Service goes, as kube-proxy and the cluster's DNS would decide.
//!
//! Pure: it is given the Services and EndpointSlices. A Service's cluster address, or its DNS name, leads to the ready
//! endpoints of its slices with the slice's port; a headless Service's name to their addresses with the port asked for.
//! Any other host is reached as it is. Loopback addresses are accepted in EndpointSlices, which a real API server
//! refuses: that is how processes of one host stand in for pods.

use serde_json::Value;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The host and port of the request.
    Direct,
    /// One of these `address:port`; none: the connection is refused, as kube-proxy rejects for a Service without
    /// endpoints.
    Backends(Vec<String>),
}

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What routing reads of a Service.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `spec`.
    pub spec: &'a Value,
}

/// What routing reads of an EndpointSlice.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// The value of [`SERVICE_NAME_LABEL`].
    pub service: &'a str,
    /// `ports`.
    pub ports: &'a [Value],
    /// `endpoints`.
    pub endpoints: &'a [Value],
}

/// The route of a request to `host:port` made in `namespace`.
pub fn route<'a>(
    host: &str,
    port: u16,
    namespace: &str,
    mut services: impl Iterator<Item = Service<'a>>,
    slices: impl Iterator<Item = Slice<'a>>,
) -> Route {
    let Some(service) = services.find(|service| answers_to(service, host, namespace)) else {
        return Route::Direct;
    };
    let slices = slices
        .filter(|slice| slice.service == service.name && slice.namespace == service.namespace);
    let port = if service.spec["clusterIP"] == "None" {
        Port::AsAsked(port)
    } else {
        match service_port(service.spec, port) {
            Some(name) => Port::Named(name),
            None => return Route::Backends(Vec::new()),
        }
    };
    Route::Backends(backends(slices, &port))
}

enum Port<'a> {
    AsAsked(u16),
    Named(&'a str),
}

fn answers_to(service: &Service<'_>, host: &str, namespace: &str) -> bool {
    if service.spec["clusterIP"] == host {
        return true;
    }
    let home = service.namespace;
    let Some(rest) = host.strip_prefix(service.name) else {
        return false;
    };
    match rest.strip_prefix('.') {
        None => rest.is_empty() && home == namespace,
        Some(rest) => rest.strip_prefix(home).is_some_and(|rest| {
            matches!(
                rest.trim_end_matches('.'),
                "" | ".svc" | ".svc.cluster.local"
            )
        }),
    }
}

/// The name of the Service's port `number`; a single port may have none.
fn service_port(spec: &Value, number: u16) -> Option<&str> {
    let ports = spec["ports"].as_array()?;
    let port = ports.iter().find(|port| port["port"] == number)?;
    Some(port["name"].as_str().unwrap_or_default())
}

/// The ready endpoints; those still serving while terminating where none is ready.
fn backends<'a>(slices: impl Iterator<Item = Slice<'a>>, port: &Port<'_>) -> Vec<String> {
    let mut ready = Vec::new();
    let mut draining = Vec::new();
    for slice in slices {
        let Some(port) = slice_port(slice.ports, port) else {
            continue;
        };
        for endpoint in slice.endpoints {
            let condition = |name: &str| endpoint["conditions"][name].as_bool();
            let is_ready = condition("ready").unwrap_or(true);
            let is_draining =
                condition("serving") == Some(true) && condition("terminating") == Some(true);
            let list = match (is_ready, is_draining) {
                (true, _) => &mut ready,
                (false, true) => &mut draining,
                (false, false) => continue,
            };
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            // An address beyond the first means nothing to kube-proxy either.
            list.extend(
                addresses
                    .take(1)
                    .filter_map(Value::as_str)
                    .map(|address| join(address, port)),
            );
        }
    }
    if ready.is_empty() { draining } else { ready }
}

fn slice_port(ports: &[Value], port: &Port<'_>) -> Option<u16> {
    match port {
        Port::AsAsked(port) => Some(*port),
        Port::Named(name) => {
            let port = ports
                .iter()
                .find(|port| port["name"].as_str().unwrap_or_default() == *name)?;
            u16::try_from(port["port"].as_u64()?).ok()
        }
    }
}

fn join(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(host: &str, port: u16, cluster_ip: &str, endpoints: &Value, expected: &Route) {
        let spec = json!({"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80, "targetPort": 8090}]});
        let service = Service {
            name: "callback",
            namespace: "batch",
            spec: &spec,
        };
        let slice = Slice {
            namespace: "batch",
            service: "callback",
            ports: &[json!({"name": "http", "port": 8090})],
            endpoints: endpoints.as_array().unwrap(),
        };
        let route = route(
            host,
            port,
            "batch",
            [service].into_iter(),
            [slice].into_iter(),
        );
        assert_eq!(route, *expected, "{host}:{port}");
    }

    fn to(backends: &[&str]) -> Route {
        Route::Backends(
            backends
                .iter()
                .map(|backend| (*backend).to_owned())
                .collect(),
        )
    }

    #[test]
    fn a_cluster_address_leads_to_the_ready_endpoints_and_their_port() {
        let endpoints = json!([
            {"addresses": ["127.0.0.2"]},
            {"addresses": ["127.0.0.3"], "conditions": {"ready": false}},
            {"addresses": ["127.0.0.4"], "conditions": {"ready": true}},
        ]);
        check(
            "10.96.0.7",
            80,
            "10.96.0.7",
            &endpoints,
            &to(&["127.0.0.2:8090", "127.0.0.4:8090"]),
        );
    }

    #[test]
    fn a_service_without_endpoints_or_without_that_port_refuses() {
        check("10.96.0.7", 80, "10.96.0.7", &json!([]), &to(&[]));
        let endpoints = json!([{"addresses": ["127.0.0.2"]}]);
        check("10.96.0.7", 81, "10.96.0.7", &endpoints, &to(&[]));
    }

    #[test]
    fn a_headless_name_leads_to_the_addresses_with_the_port_asked_for() {
        let endpoints = json!([{"addresses": ["127.0.0.2"]}]);
        for host in [
            "callback",
            "callback.batch",
            "callback.batch.svc",
            "callback.batch.svc.cluster.local",
        ] {
            check(host, 8090, "None", &endpoints, &to(&["127.0.0.2:8090"]));
        }
    }

    #[test]
    fn any_other_host_is_reached_as_it_is() {
        let endpoints = json!([{"addresses": ["127.0.0.2"]}]);
        for host in [
            "127.0.0.1",
            "callback.other",
            "callback-2",
            "call",
            "callback.batches",
        ] {
            check(host, 80, "10.96.0.7", &endpoints, &Route::Direct);
        }
    }

    #[test]
    fn endpoints_that_still_serve_are_the_last_resort() {
        let endpoints = json!([
            {"addresses": ["127.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["::1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]);
        check(
            "10.96.0.7",
            80,
            "10.96.0.7",
            &endpoints,
            &to(&["127.0.0.2:8090", "[::1]:8090"]),
        );
    }
}
