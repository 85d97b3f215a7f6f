//! The binary as its user meets it: what it prints, where, and with which exit status.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = "
name: audit
cronExpression: 42 3 * * *
callbackServiceName: audit-callback
metrics: {gauges: {test: {help: a test, labels: [a]}}}
";

const TEMPLATE: &str = "
spec:
  containers:
    - {name: job, image: 'job:{{ .NodeName }}'}
";

/// How a run ended.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn lines(&self) -> Vec<&str> {
        self.stderr.lines().collect()
    }

    /// Failed, with these lines and nothing on stdout.
    fn assert_errors(&self, lines: &[&str]) {
        assert_eq!(self.lines(), lines);
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""));
    }
}

/// Runs the binary in an environment of its own.
fn run_in(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_batch-job-controller"))
        .env_clear()
        .envs(environment.iter().copied())
        .args(arguments)
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Run {
    run_in(&[], arguments)
}

/// Files of a test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        shown(&self.path(name))
    }
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

// Help.

#[test]
fn help_explains_every_command() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for command in ["run", "validate", "render", "schedule", "mock"] {
        let is_listed = |line: &str| line.trim_start().starts_with(&format!("{command} "));
        assert!(
            help.stdout.lines().any(is_listed),
            "{command}: {}",
            help.stdout
        );
    }
    for (command, words) in [
        (
            "run",
            &[
                "NAMESPACE",
                "CONFIG_MAP_NAME",
                "LISTEN_ADDRESS",
                "KUBECONFIG",
            ][..],
        ),
        (
            "trigger",
            &[
                "--nodes",
                "--from",
                "--only",
                "--namespace",
                "--config-map",
                "annotation",
            ],
        ),
        ("cancel", &["--namespace", "--config-map", "annotation"]),
        (
            "validate",
            &["--config", "--pod-template", "ConfigMap", "Exit status 1"],
        ),
        (
            "render",
            &[
                "--node",
                "--execution-id",
                "--namespace",
                "--callback-address",
                "--config",
                "--pod-template",
                "--output",
            ],
        ),
        (
            "schedule",
            &[
                "--cron",
                "--time-zone",
                "--config",
                "--from",
                "--count",
                "--output",
                "Europe/Zurich",
            ],
        ),
        (
            "mock",
            &[
                "--port",
                "--address",
                "--config",
                "--report-directory",
                "Ctrl-C",
            ],
        ),
    ] {
        let help = run(&[command, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
        for word in words {
            assert!(
                help.stdout.contains(word),
                "{command} {word}: {}",
                help.stdout
            );
        }
    }
    assert_eq!(
        run(&["--version"]).stdout,
        format!("batch-job-controller {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_argument_is_an_error_of_usage() {
    for arguments in [
        &["nope"][..],
        &["render"],
        &["schedule", "--count", "-1"],
        &["schedule", "--from", "yesterday"],
        &["trigger", "--only", "failed"],
        &["trigger", "--from", "yesterday"],
        &["trigger", "--from", "202611240931", "--only", "running"],
    ] {
        let run = run(arguments);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(1), ""),
            "{arguments:?}"
        );
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }
}

#[test]
fn asking_a_controller_names_what_is_missing_and_what_is_wrong() {
    let nobody = run(&["cancel"]);
    for part in [
        "NAMESPACE",
        "--namespace",
        "CONFIG_MAP_NAME",
        "--config-map",
    ] {
        assert!(nobody.stderr.contains(part), "{part}: {}", nobody.stderr);
    }
    let nodes = run(&["trigger", "-n", "a", "--config-map", "b", "--nodes", "a b"]);
    assert_eq!(nodes.code, Some(1));
    assert!(
        nodes.stderr.starts_with("error: --nodes: found \"a b\""),
        "{}",
        nodes.stderr
    );
}

// validate

#[test]
fn a_right_configuration_is_valid() {
    let files = Files::new();
    let config = files.write("config.yaml", CONFIG);
    let template = files.write("pod-template.yaml", TEMPLATE);
    for arguments in [
        &["validate", "--config", &config, "--pod-template", &template][..],
        &["validate", "--config", &config],
        &["validate", "--pod-template", &template],
    ] {
        let run = run(arguments);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (Some(0), "the configuration is valid\n", "")
        );
    }
}

#[test]
fn every_wrong_key_is_a_line_in_one_run() {
    let files = Files::new();
    let config = files.write(
        "config.yaml",
        "name: Audit\ncronExpression: 61 3 * * *\npodPoolSize: 0\nreportHistory: many\nstartupDelay: soon\nmetrics: {port: 70000}\n\
         poolSize: 5\n",
    );
    let template = files.write("pod-template.yaml", "spec: {containers: []}");
    let run = run(&["validate", "--config", &config, "--pod-template", &template]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let mut lines = run.lines();
    assert_eq!(
        lines.remove(0),
        "warning: poolSize: unknown key, ignored; the nearest known key is podPoolSize"
    );
    let keys: Vec<&str> = lines
        .iter()
        .map(|line| {
            line.strip_prefix("error: ")
                .unwrap()
                .split(": ")
                .next()
                .unwrap()
        })
        .collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "cronExpression",
            "metrics.port",
            "name",
            "pod-template.yaml",
            "podPoolSize",
            "reportHistory",
            "startupDelay"
        ]
    );
    for line in lines {
        assert!(
            line.contains("found ") && line.contains(", want "),
            "{line}"
        );
    }
}

#[test]
fn a_warning_alone_is_no_failure() {
    let files = Files::new();
    let config = files.write(
        "config.yaml",
        &format!("{CONFIG}leaderElectionResourceLock: configmaps\n"),
    );
    let run = run(&["validate", "--config", &config]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "the configuration is valid\n")
    );
    assert_eq!(run.lines().len(), 1);
    assert!(
        run.stderr
            .starts_with("warning: leaderElectionResourceLock: "),
        "{}",
        run.stderr
    );
}

#[test]
fn files_that_cannot_be_read_are_named_beside_what_is_wrong_elsewhere() {
    let files = Files::new();
    let missing = shown(&files.path("missing.yaml"));
    let template = files.write("pod-template.yaml", "spec: {containers: []}");
    run(&[
        "validate",
        "--config",
        &missing,
        "--pod-template",
        &template,
    ])
    .assert_errors(&[
        &format!("error: {missing}: No such file or directory (os error 2)"),
        "error: pod-template.yaml: spec.containers: found none, want at least one container",
    ]);
}

#[test]
fn the_environment_takes_part_in_the_validation() {
    let files = Files::new();
    let config = files.write("config.yaml", CONFIG);
    let run = run_in(
        &[("TZ", "Mars/Olympus")],
        &["validate", "--config", &config],
    );
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("Mars/Olympus") && run.stderr.contains("TZ"),
        "{}",
        run.stderr
    );
}

// render

/// A recorded pod, to be compared without empty fields.
fn without_empty_fields(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    match value {
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, without_empty_fields(value)))
            .filter(|(_, value)| !is_empty(value))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_empty_fields).collect(),
        other => other,
    }
}

#[test]
fn recorded_pods_are_rendered_by_the_binary_in_json_and_yaml() {
    let recording = include_str!("fixtures/pods.jsonl").lines();
    let lines: Vec<BTreeMap<String, Value>> = recording
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut rendered = 0;
    for line in lines {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        if ![
            "plain",
            "go template if eq",
            "two containers and an init container with env",
        ]
        .contains(&text("case").as_str())
        {
            continue;
        }
        let files = Files::new();
        let config = files.write("config.yaml", &text("config.yaml"));
        let template = files.write("pod-template.yaml", &text("pod-template.yaml"));
        let (node, id, namespace, address) = (
            text("node"),
            text("executionID"),
            text("namespace"),
            text("callbackAddress"),
        );
        let arguments = [
            "render",
            "--node",
            &node,
            "--execution-id",
            &id,
            "--namespace",
            &namespace,
            "--callback-address",
            &address,
            "--config",
            &config,
            "--pod-template",
            &template,
        ];
        let wanted = without_empty_fields(line["pod"].clone());
        let json = run(&[&arguments[..], &["-o", "json"]].concat());
        assert_eq!((json.code, json.stderr.as_str()), (Some(0), ""));
        let pod: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(without_empty_fields(pod), wanted, "{}", text("case"));
        let yaml = run(&arguments);
        let pod: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
        assert_eq!(without_empty_fields(pod), wanted, "{}", text("case"));
        rendered += 1;
    }
    assert_eq!(rendered, 3);
}

#[test]
fn render_fills_in_what_it_is_not_told() {
    let files = Files::new();
    let config = files.write("config.yaml", CONFIG);
    let template = files.write("pod-template.yaml", TEMPLATE);
    let arguments = [
        "render",
        "--node",
        "node-a",
        "--config",
        &config,
        "--pod-template",
        &template,
        "-o",
        "json",
    ];
    let render = |environment: &[(&str, &str)]| -> Value {
        serde_json::from_str(&run_in(environment, &arguments).stdout).unwrap()
    };
    let variable = |pod: &Value, name: &str| {
        let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap();
        let found = variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap();
        found["value"].as_str().unwrap().to_owned()
    };
    let pod = render(&[]);
    assert_eq!(pod["metadata"]["namespace"], "default");
    assert_eq!(pod["spec"]["containers"][0]["image"], "job:node-a");
    assert_eq!(variable(&pod, "CALLBACK_SERVICE_NAME"), "audit-callback");
    let id = variable(&pod, "EXECUTION_ID");
    assert!(id.len() == 12 && id.starts_with("20"), "{id}");
    let pod = render(&[("NAMESPACE", "batch"), ("POD_IP", "10.1.2.3")]);
    assert_eq!(pod["metadata"]["namespace"], "batch");
    assert_eq!(variable(&pod, "CALLBACK_SERVICE_NAME"), "audit-callback");
    files.write(
        "config.yaml",
        &CONFIG.replace("callbackServiceName: audit-callback", ""),
    );
    let pod = render(&[("POD_IP", "10.1.2.3")]);
    assert_eq!(variable(&pod, "CALLBACK_SERVICE_NAME"), "10.1.2.3");
}

#[test]
fn render_refuses_what_is_no_node_or_execution() {
    let files = Files::new();
    let config = files.write("config.yaml", CONFIG);
    let template = files.write("pod-template.yaml", TEMPLATE);
    let sources = ["--config", &config, "--pod-template", &template];
    run(&[&["render", "--node", "Node_A"][..], &sources].concat()).assert_errors(&[
        "error: --node: found \"Node_A\", want a node's name such as node-a.example.com",
    ]);
    run(&[
        &["render", "--node", "a", "--execution-id", "latest"][..],
        &sources,
    ]
    .concat())
    .assert_errors(&[
        "error: --execution-id: found \"latest\", want a time as yyyyMMddHHmm or yyyyMMddHHmmss",
    ]);
}

// schedule

#[test]
fn schedule_prints_instants_as_json() {
    let arguments = [
        "schedule",
        "--cron",
        "42 3 * * *",
        "--time-zone",
        "Europe/Zurich",
        "--from",
        "2026-03-28T00:00:00Z",
        "--count",
        "2",
        "-o",
        "json",
    ];
    let run = run(&arguments);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let instants: Vec<String> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(instants, ["2026-03-28T02:42:00Z", "2026-03-29T01:42:00Z"]);
}

#[test]
fn schedule_points_out_a_clock_change() {
    let arguments = [
        "schedule",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Europe/Zurich",
        "--from",
        "2026-03-28T12:00:00Z",
        "--count",
        "1",
    ];
    let run = run(&arguments);
    assert_eq!(run.code, Some(0));
    assert!(
        run.stdout.contains("2026-03-29") && run.stdout.contains("01:00:00"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout
            .contains("02:30 does not exist, runs once at 03:00"),
        "{}",
        run.stdout
    );
}

#[test]
fn schedule_takes_the_zone_of_the_configuration_and_of_the_environment() {
    let files = Files::new();
    let config = files.write("config.yaml", &format!("{CONFIG}timeZone: Asia/Tokyo\n"));
    let next = |environment: &[(&str, &str)], source: &[&str]| {
        let arguments = [
            &["schedule"][..],
            source,
            &[
                "--from",
                "2026-01-01T00:00:00Z",
                "--count",
                "1",
                "-o",
                "json",
            ],
        ]
        .concat();
        let run = run_in(environment, &arguments);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        serde_json::from_str::<Vec<String>>(&run.stdout)
            .unwrap()
            .remove(0)
    };
    let from_config = ["--config", config.as_str()];
    assert_eq!(next(&[], &from_config), "2026-01-01T18:42:00Z");
    assert_eq!(
        next(&[], &[&from_config[..], &["--time-zone", "UTC"]].concat()),
        "2026-01-01T03:42:00Z"
    );
    assert_eq!(
        next(&[("TZ", "Asia/Tokyo")], &["--cron", "42 3 * * *"]),
        "2026-01-01T18:42:00Z"
    );
}

#[test]
fn schedule_names_what_it_cannot_read() {
    for (arguments, part) in [
        (&["schedule", "--cron", "61 * * * *"][..], "--cron: "),
        (
            &[
                "schedule",
                "--cron",
                "@daily",
                "--time-zone",
                "Mars/Olympus",
            ],
            "--time-zone: ",
        ),
    ] {
        let run = run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        assert_eq!(run.lines().len(), 1, "{}", run.stderr);
        assert!(
            run.stderr.starts_with(&format!("error: {part}")),
            "{}",
            run.stderr
        );
    }
}

// run

/// The lines of errors; what is logged before them aside.
fn errors(run: &Run) -> Vec<&str> {
    run.stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect()
}

#[test]
fn run_names_every_missing_variable_at_once() {
    for arguments in [
        &[][..],
        &["run"],
        &["validate"],
        &["render", "--node", "a"],
        &["schedule"],
    ] {
        let run = run(arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}");
        let lines = errors(&run);
        assert_eq!(lines.len(), 2, "{}", run.stderr);
        assert!(
            lines[0].starts_with("error: environment variable NAMESPACE: not set, want "),
            "{}",
            lines[0]
        );
        assert!(
            lines[1].starts_with("error: environment variable CONFIG_MAP_NAME: not set, want "),
            "{}",
            lines[1]
        );
    }
}

#[test]
fn run_names_a_listen_address_that_is_none_beside_a_missing_variable() {
    let run = run_in(
        &[("NAMESPACE", "batch"), ("LISTEN_ADDRESS", "localhost")],
        &[],
    );
    assert_eq!(run.code, Some(1));
    let lines = errors(&run);
    assert_eq!(lines.len(), 2, "{}", run.stderr);
    assert!(lines[0].contains("CONFIG_MAP_NAME"), "{}", lines[0]);
    assert_eq!(
        lines[1],
        "error: environment variable LISTEN_ADDRESS: found \"localhost\", want an IP address such as 127.0.0.1"
    );
}

#[test]
fn an_unusable_kubeconfig_is_a_clear_error() {
    let files = Files::new();
    let broken = files.write("broken", "clusters: 5\n");
    let missing = shown(&files.path("missing"));
    for kubeconfig in [&broken, &missing] {
        let environment = [
            ("NAMESPACE", "batch"),
            ("CONFIG_MAP_NAME", "audit"),
            ("KUBECONFIG", kubeconfig.as_str()),
        ];
        for arguments in [&[][..], &["validate"]] {
            let run = run_in(&environment, arguments);
            assert_eq!(run.code, Some(1));
            let lines = errors(&run);
            assert_eq!(lines.len(), 1, "{}", run.stderr);
            assert!(
                lines[0].starts_with("error: no usable access to a cluster: "),
                "{}",
                lines[0]
            );
            assert!(lines[0].contains("KUBECONFIG"), "{}", lines[0]);
        }
    }
}

#[test]
fn render_names_a_file_it_cannot_read_beside_what_the_cluster_lacks() {
    let run = run(&["render", "--node", "n", "--config", "absent.yaml"]);
    let lines = run.lines();
    assert_eq!((run.code, lines.len()), (Some(1), 3), "{lines:?}");
    for (line, part) in lines
        .iter()
        .zip(["absent.yaml", "NAMESPACE", "CONFIG_MAP_NAME"])
    {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_signal_ends_a_start_that_waits_for_the_cluster() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let files = Files::new();
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}], users: [{{name: u, user: {{}}}}]}}",
        silent.local_addr().unwrap()
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_batch-job-controller"))
        .env_clear()
        .env("KUBECONFIG", files.write("kubeconfig", &kubeconfig))
        .env("NAMESPACE", "ns")
        .env("CONFIG_MAP_NAME", "c")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let unanswered = silent.accept().unwrap();
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(unanswered);
}
