//! What people do with kubectl on a served cluster: each command's output and exit code, with the real program.
//!
//! Skipped, and said so, where the variable `KUBECTL` names none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/served.rs"]
mod served;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use simulator::state::resource::ROWS;
use tempfile::TempDir;

use served::Served;

/// A kubectl that knows only the served cluster.
struct Kubectl {
    program: PathBuf,
    cluster: Served,
    directory: TempDir,
}

impl Kubectl {
    fn find(arguments: &[&str]) -> Option<Self> {
        #[allow(
            clippy::disallowed_methods,
            reason = "which kubectl there is, is the machine's affair"
        )]
        let program = std::env::var("KUBECTL").ok();
        let Some(program) = program else {
            println!("skipped: the variable KUBECTL names no kubectl");
            return None;
        };
        Some(Self {
            program: program.into(),
            cluster: Served::start(arguments),
            directory: tempfile::tempdir().unwrap(),
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.cluster.kubeconfig)
            .arg("--cache-dir")
            .arg(self.directory.path())
            .args(arguments)
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Exit code, what it prints, what it complains of.
    fn run(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut child = self.command(arguments).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    #[track_caller]
    fn prints(&self, arguments: &[&str], input: &str, expected: &str) {
        let (code, stdout, stderr) = self.run(arguments, input);
        assert_eq!(
            (code, stdout.trim_end()),
            (0, expected),
            "kubectl {arguments:?}: {stderr}"
        );
    }

    /// What it prints, which has all these parts.
    #[track_caller]
    fn shows(&self, arguments: &[&str], parts: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments, "");
        assert_eq!(code, 0, "kubectl {arguments:?}: {stderr}");
        for part in parts {
            assert!(
                stdout.contains(part),
                "kubectl {arguments:?} does not show {part}:\n{stdout}"
            );
        }
        stdout
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], expected: &str) {
        let (code, _, stderr) = self.run(arguments, "");
        assert_eq!(
            (code, stderr.trim_end()),
            (1, expected),
            "kubectl {arguments:?}"
        );
    }
}

/// One object of a row, called `one`.
fn object(kind: &str, api_version: &str) -> Value {
    let pod = json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]});
    let selector = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let role =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "one"});
    let mut object = match kind {
        "Pod" => json!({"spec": pod}),
        "Event" => {
            json!({"involvedObject": {"kind": "Pod", "name": "one", "namespace": "default"}, "reason": "R",
            "message": "m", "type": "Normal"})
        }
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "Deployment" | "ReplicaSet" | "DaemonSet" => {
            json!({"spec": {"selector": selector, "template": template}})
        }
        "StatefulSet" => {
            json!({"spec": {"serviceName": "one", "selector": selector, "template": template}})
        }
        "Job" => json!({"spec": {"template": once}}),
        "CronJob" => {
            json!({"spec": {"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": once}}}})
        }
        "NetworkPolicy" => json!({"spec": {"podSelector": {}}}),
        "PodDisruptionBudget" => json!({"spec": {"minAvailable": 1, "selector": selector}}),
        "PersistentVolumeClaim" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        "RoleBinding" | "ClusterRoleBinding" => json!({"roleRef": role}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": []}),
        _ => json!({}),
    };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": "one"});
    object
}

#[test]
fn every_served_resource_is_created_and_shown_in_every_form() {
    let Some(kubectl) = Kubectl::find(&["--nodes", "0"]) else {
        return;
    };
    // The other form of an event shows the same objects.
    let rows = || ROWS.iter().filter(|row| row.group != "events.k8s.io");
    let items: Vec<String> = rows()
        .map(|row| object(row.kind, &row.api_version()).to_string())
        .collect();
    let (code, created, stderr) = kubectl.run(&["create", "-f", "-"], &items.join("\n---\n"));
    assert_eq!(
        (code, created.lines().count()),
        (0, items.len()),
        "{stderr}"
    );
    let names: Vec<String> = rows().map(|row| row.qualified()).collect();
    let everything = names.join(",");
    let shown: Vec<String> = rows()
        .map(|row| match row.group {
            // An event is shown by what it is about.
            "" if row.kind == "Event" => "pod/one".to_owned(),
            "" => format!("{}/one", row.singular),
            group => format!("{}.{group}/one", row.singular),
        })
        .collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    kubectl.shows(&["get", &everything], &shown);
    kubectl.shows(&["get", &everything, "-o", "wide"], &shown);
    kubectl.shows(
        &["get", "pods,nodes", "-o", "wide"],
        &["NOMINATED NODE", "CONTAINER-RUNTIME"],
    );
    let yaml = kubectl.shows(&["get", &everything, "-o", "yaml"], &["kind: List"]);
    let listed = kubectl.shows(&["get", &everything, "-o", "json"], &[]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for row in rows() {
        assert!(
            yaml.contains(&format!("kind: {}\n", row.kind)),
            "no {} in the YAML",
            row.kind
        );
        let mut found = listed["items"].as_array().unwrap().iter();
        assert!(found.any(|item| item["kind"] == row.kind && item["metadata"]["name"] == "one"));
    }
    kubectl.shows(&["get", "events.events.k8s.io"], &["one"]);
    kubectl.fails(
        &["get", "pod", "two"],
        "Error from server (NotFound): pods \"two\" not found",
    );
    kubectl.shows(
        &["describe", "pod", "one"],
        &[
            "Name:",
            "Status:",
            "Pending",
            "QoS Class:        BestEffort",
        ],
    );
    kubectl.shows(&["describe", "configmap", "one"], &["Name:         one"]);
}

#[test]
fn objects_are_applied_changed_watched_and_deleted() {
    let Some(kubectl) = Kubectl::find(&["--nodes", "0"]) else {
        return;
    };
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}}).to_string()
    };
    kubectl.prints(&["apply", "-f", "-"], &map("1"), "configmap/a created");
    kubectl.prints(&["apply", "-f", "-"], &map("1"), "configmap/a unchanged");
    kubectl.prints(&["apply", "-f", "-"], &map("2"), "configmap/a configured");
    let value = ["get", "configmap", "a", "-o", "jsonpath={.data.k}"];
    kubectl.prints(&value, "", "2");
    let (code, _, stderr) = kubectl.run(&["create", "-f", "-"], &map("3"));
    assert_eq!(code, 1);
    assert!(
        stderr.contains("configmaps \"a\" already exists"),
        "{stderr}"
    );
    kubectl.prints(
        &["patch", "configmap", "a", "-p", r#"{"data":{"k":"4"}}"#],
        "",
        "configmap/a patched",
    );
    kubectl.prints(&value, "", "4");
    kubectl.prints(
        &["label", "configmap", "a", "x=y"],
        "",
        "configmap/a labeled",
    );
    kubectl.prints(
        &["annotate", "configmap", "a", "x=y"],
        "",
        "configmap/a annotated",
    );
    kubectl.prints(
        &["get", "configmap", "-l", "x=y", "-o", "name"],
        "",
        "configmap/a",
    );

    let mut watching = kubectl
        .command(&["get", "configmaps", "-w", "-o", "name"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "configmap/a");
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}});
    kubectl.prints(
        &["create", "-f", "-"],
        &other.to_string(),
        "configmap/b created",
    );
    assert_eq!(lines.next().unwrap().unwrap(), "configmap/b");
    watching.kill().unwrap();
    watching.wait().unwrap();

    kubectl.prints(&["delete", "configmap", "a", "b"], "", "configmap \"a\" deleted from default namespace\nconfigmap \"b\" deleted from default namespace");
    kubectl.fails(
        &["delete", "configmap", "a"],
        "Error from server (NotFound): configmaps \"a\" not found",
    );
}

#[test]
fn a_pod_of_a_node_is_waited_for_and_its_log_followed() {
    let Some(kubectl) = Kubectl::find(&["--nodes", "2", "--pod-seconds", "3"]) else {
        return;
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "node-1", "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    kubectl.prints(&["create", "-f", "-"], &pod.to_string(), "pod/p created");
    kubectl.prints(
        &["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"],
        "",
        "pod/p condition met",
    );
    kubectl.shows(&["logs", "-f", "p"], &["started", "exit code 0"]);
    kubectl.shows(&["get", "pods"], &["NAME", "Completed"]);
    kubectl.prints(
        &["wait", "--for=delete", "pod/other", "--timeout=1s"],
        "",
        "",
    );
    kubectl.prints(
        &["delete", "pod", "p"],
        "",
        "pod \"p\" deleted from default namespace",
    );

    kubectl.prints(&["cordon", "node-2"], "", "node/node-2 cordoned");
    kubectl.prints(&["cordon", "node-2"], "", "node/node-2 already cordoned");
    kubectl.shows(&["get", "nodes"], &["Ready,SchedulingDisabled"]);
    kubectl.prints(&["uncordon", "node-2"], "", "node/node-2 uncordoned");
    kubectl.shows(
        &["describe", "node", "node-1"],
        &["KubeletReady", "kubernetes.io/hostname=node-1"],
    );
}
