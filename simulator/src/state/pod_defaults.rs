//! The defaults of a pod's spec (`k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`), for pods and for templates.

use serde_json::{Map, Value, json};

use super::object::Object;

/// Fills in what a client left out. Idempotent.
pub(super) fn default_pod_spec(spec: &mut Map<String, Value>) {
    for list in ["initContainers", "containers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            default_container(container);
        }
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        default_volume(volume);
    }
    spec.entry("restartPolicy").or_insert(json!("Always"));
    spec.entry("terminationGracePeriodSeconds")
        .or_insert(json!(30));
    spec.entry("dnsPolicy").or_insert(json!("ClusterFirst"));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec.entry("serviceAccount").or_insert(account);
    }
    spec.entry("securityContext").or_insert(json!({}));
    spec.entry("schedulerName")
        .or_insert(json!("default-scheduler"));
    spec.entry("enableServiceLinks").or_insert(json!(true));
}

fn default_container(container: &mut Map<String, Value>) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let policy = if pulls_always(image) {
        "Always"
    } else {
        "IfNotPresent"
    };
    for port in container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        port.entry("protocol").or_insert(json!("TCP"));
    }
    for variable in container
        .get_mut("env")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(source) = variable
            .pointer_mut("/valueFrom/fieldRef")
            .and_then(Value::as_object_mut)
        {
            source.entry("apiVersion").or_insert(json!("v1"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            for (key, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                probe.entry(key).or_insert(json!(value));
            }
        }
    }
    default_requests(container.entry("resources").or_insert(json!({})));
    container
        .entry("terminationMessagePath")
        .or_insert(json!("/dev/termination-log"));
    container
        .entry("terminationMessagePolicy")
        .or_insert(json!("File"));
    container.entry("imagePullPolicy").or_insert(json!(policy));
}

/// A limit without a request is the request too.
fn default_requests(resources: &mut Value) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let Some(resources) = resources.as_object_mut() else {
        return;
    };
    if let Some(requests) = resources
        .entry("requests")
        .or_insert(json!({}))
        .as_object_mut()
    {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// An image without a tag, or tagged latest, is pulled each time; one named by digest is not.
fn pulls_always(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_volume(volume: &mut Map<String, Value>) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            source.entry("defaultMode").or_insert(json!(420));
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        path.entry("type").or_insert(json!(""));
    }
    if volume.len() == 1 {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}

/// Guaranteed, Burstable or `BestEffort`, from the requests and limits of the containers.
pub(super) fn quality_of_service(pod: &Object) -> &'static str {
    let containers = || {
        pod.list("/spec/containers")
            .iter()
            .chain(pod.list("/spec/initContainers"))
    };
    let filled = |container: &Value, of: &str| {
        container["resources"][of]
            .as_object()
            .is_some_and(|m| !m.is_empty())
    };
    if !containers().any(|c| filled(c, "requests") || filled(c, "limits")) {
        return "BestEffort";
    }
    let guaranteed = |container: &Value| {
        let limits = &container["resources"]["limits"];
        ["cpu", "memory"].iter().all(|r| {
            limits.get(r).is_some() && container["resources"]["requests"].get(r) == limits.get(r)
        })
    };
    if containers().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::resource::PODS;
    use super::*;

    #[test]
    fn only_untagged_and_latest_images_are_always_pulled() {
        for image in ["busybox", "busybox:latest", "host:5000/a/b"] {
            assert!(pulls_always(image), "{image}");
        }
        for image in ["busybox:1", "host:5000/a/b:2", "a@sha256:0"] {
            assert!(!pulls_always(image), "{image}");
        }
    }

    #[test]
    fn defaults_are_idempotent() {
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}]});
        let spec = spec.as_object_mut().unwrap();
        default_pod_spec(spec);
        let once = spec.clone();
        default_pod_spec(spec);
        assert_eq!(*spec, once);
        assert_eq!(spec["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
                "Guaranteed",
            ),
        ] {
            let pod = json!({"spec": {"containers": [{"resources": resources}]}});
            assert_eq!(
                quality_of_service(&Object::from_value(&PODS, pod).unwrap()),
                class
            );
        }
    }
}
