//! The defaults pass the restricted Pod Security level: its rules for the fields that the chart's pods have
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::helm::{Rendered, config_map, the};

/// Volumes that the level allows.
const VOLUMES: [&str; 7] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
];

/// The controller's pod and the job pods.
///
/// # Errors
/// With the rule that does not hold.
pub(super) fn check(set: &Rendered) -> Result<()> {
    let deployment = the(&set.documents, "Deployment")?;
    check_pod(&deployment["spec"]["template"]["spec"]).context("the controller's pod")?;
    let map = config_map(&set.documents)?;
    let template = map["data"]["pod-template.yaml"]
        .as_str()
        .unwrap_or_default();
    let job: Value = serde_saphyr::from_str(template)?;
    check_pod(&job["spec"]).context("the job pods")
}

fn check_pod(spec: &Value) -> Result<()> {
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(spec[name].is_null(), "{name} is set");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let entries = volume.as_object().context("a volume is no mapping")?;
        let mut kinds = entries.keys().filter(|key| *key != "name");
        ensure!(
            kinds.all(|kind| VOLUMES.contains(&kind.as_str())),
            "a volume of a kind that is not allowed: {volume}"
        );
    }
    let pod = &spec["securityContext"];
    ensure!(pod["runAsNonRoot"] == true, "runAsNonRoot is not true");
    ensure!(
        pod["runAsUser"].as_u64().is_some_and(|user| user > 0),
        "runAsUser is no user but root"
    );
    ensure!(
        pod["seccompProfile"]["type"] == "RuntimeDefault",
        "seccompProfile is not RuntimeDefault"
    );
    for container in spec["containers"].as_array().into_iter().flatten() {
        let context = &container["securityContext"];
        ensure!(
            context["allowPrivilegeEscalation"] == false,
            "allowPrivilegeEscalation is not false"
        );
        ensure!(
            context["capabilities"] == json!({"drop": ["ALL"]}),
            "capabilities are not dropped"
        );
        // Beyond the level: nothing but the volumes can be written.
        ensure!(
            context["readOnlyRootFilesystem"] == true,
            "readOnlyRootFilesystem is not true"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_looked_at() {
        let good = json!({
            "volumes": [{"name": "a", "emptyDir": {}}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            }}],
        });
        assert!(check_pod(&good).is_ok());
        for (pointer, value) in [
            ("/hostNetwork", json!(true)),
            ("/volumes/0/hostPath", json!({})),
            ("/securityContext/runAsNonRoot", json!(false)),
            ("/securityContext/runAsUser", json!(0)),
            ("/securityContext/seccompProfile/type", json!("Unconfined")),
            (
                "/containers/0/securityContext/allowPrivilegeEscalation",
                json!(true),
            ),
            (
                "/containers/0/securityContext/readOnlyRootFilesystem",
                json!(false),
            ),
            (
                "/containers/0/securityContext/capabilities/add",
                json!(["NET_RAW"]),
            ),
        ] {
            let mut bad = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            bad.pointer_mut(parent).unwrap()[key] = value;
            assert!(check_pod(&bad).is_err(), "{pointer}");
        }
    }
}
