//! `simulator run` as a process: its figures beside the known ones of a small run, its options, and what it says when
//! they are wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = "\
name: mine
cronExpression: '@every 5m'
podPoolSize: 20%
reportHistory: 2
latestMetricsLabel: true
savePodLog: true
jobNodeSelector: {pool: batch}
callbackServiceName: mine
metrics:
  gauges:
    load: {help: h, labels: [kind]}
";

const POD_TEMPLATE: &str = "\
kind: Pod
apiVersion: v1
spec:
  containers:
    - {name: job, image: i, args: ['{{ .NodeName }}']}
";

fn simulator(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulator"));
    command.arg("run").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn figures(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o", "json"]].concat();
    serde_json::from_str(&stdout(&simulator(&arguments))).unwrap()
}

/// What it says when it refuses to run.
fn refusal(arguments: &[&str]) -> String {
    let output = simulator(arguments);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// Files in a temporary directory.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// 12 nodes, 4 at a time, 10 s each, twice.
const SMALL: &[&str] = &[
    "--nodes",
    "12",
    "--pool",
    "4",
    "--pod-seconds",
    "10",
    "--executions",
    "2",
];

fn requests(figures: &Value, verb: &str, resource: &str) -> u64 {
    let kinds = figures["apiRequests"].as_array().unwrap();
    let kind = kinds
        .iter()
        .find(|kind| kind["verb"] == verb && kind["resource"] == resource);
    kind.map_or(0, |kind| kind["requests"].as_u64().unwrap())
}

#[test]
fn the_figures_of_a_small_run_are_the_known_ones() {
    let figures = figures(SMALL);
    assert_eq!(figures["schemaVersion"], 1);
    assert_eq!(
        figures["makespan"],
        json!({"idealSeconds": 30.0, "meanSeconds": 30.0, "longestSeconds": 30.0})
    );
    assert_eq!(
        figures["window"],
        json!({"seconds": 3600.0, "smallestPool": 1})
    );
    // The ended pods of the first execution go as the second begins.
    assert_eq!(figures["jobPods"], json!({"peak": 4, "storedPeak": 12}));
    for execution in figures["executions"].as_array().unwrap() {
        assert_eq!(
            (&execution["succeeded"], &execution["failed"]),
            (&json!(12), &json!(0))
        );
    }
    assert_eq!(requests(&figures, "create", "pods"), 24);
    assert_eq!(requests(&figures, "create", "events"), 24);
    // Each execution lists them, and watches them from there on.
    assert_eq!(requests(&figures, "list", "nodes"), 2);
    assert_eq!(requests(&figures, "watch", "nodes"), 2);
    assert_eq!(requests(&figures, "watch", "pods"), 1);
    assert_eq!(requests(&figures, "deletecollection", "pods"), 1);
    // Created, being created, running, ended; those of the first execution are told to go, and go.
    assert_eq!(figures["watchEvents"], 24 * 4 + 12 * 2);
    let answered = |kind| json!({"kind": kind, "accepted": 24, "refused": 0});
    assert_eq!(
        figures["callbacks"],
        json!([answered("event"), answered("file"), answered("result")])
    );
    // A result and a file a node, the summary, and the journal.
    assert_eq!(figures["reports"]["execution"]["files"], 26);
    let allocated = (24 + 2) * 4096 + 4096;
    assert_eq!(figures["reports"]["execution"]["allocatedBytes"], allocated);
    assert_eq!(figures["reports"]["all"]["files"], 78);
    // Three gauges, `processing` and `duration` a node; of three executions that are exported two have run.
    let series = |field: &str| figures["metrics"][field].as_u64().unwrap();
    assert_eq!(series("seriesInTime"), series("series") + 12 * 5);
    assert!(series("series") > 12 * 5 * 2);
    assert!(series("scrapeBytesInTime") > series("scrapeBytes"));
    assert!(figures["cost"]["wallSeconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_json_has_these_fields() {
    let figures = figures(&["--nodes", "3", "--pod-seconds", "1"]);
    let names =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let expected = [
        "schemaVersion",
        "command",
        "nodes",
        "pool",
        "podSecondsMin",
        "podSecondsMax",
        "seed",
        "executions",
        "makespan",
        "window",
        "jobPods",
        "apiRequests",
        "watchEvents",
        "callbacks",
        "reports",
        "metrics",
        "virtualSeconds",
        "events",
        "digest",
        "cost",
    ];
    assert_eq!(names(&figures), expected);
    let inner = [
        ("/executions/0", "id makespanSeconds succeeded failed"),
        ("/makespan", "idealSeconds meanSeconds longestSeconds"),
        ("/window", "seconds smallestPool"),
        ("/jobPods", "peak storedPeak"),
        ("/apiRequests/0", "verb resource requests"),
        ("/callbacks/0", "kind accepted refused"),
        ("/reports", "execution history all"),
        ("/reports/execution", "files bytes allocatedBytes"),
        (
            "/metrics",
            "series scrapeBytes seriesInTime scrapeBytesInTime",
        ),
        ("/cost", "wallSeconds memoryPeakBytes"),
    ];
    for (pointer, expected) in inner {
        let found = names(figures.pointer(pointer).unwrap());
        assert_eq!(found.join(" "), expected, "{pointer}");
    }
}

#[test]
fn two_runs_differ_in_what_they_cost_alone() {
    let without_cost = |mut figures: Value| {
        figures.as_object_mut().unwrap().remove("cost");
        figures
    };
    let run = |seed| {
        let arguments = [
            SMALL,
            &[
                "--pod-seconds",
                "5..15",
                "--failure-share",
                "0.3",
                "--seed",
                seed,
            ],
        ]
        .concat();
        let arguments: Vec<&str> = (arguments.iter().copied().enumerate())
            .filter(|(at, _)| *at != 4 && *at != 5)
            .map(|(_, argument)| argument)
            .collect();
        without_cost(figures(&arguments))
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1")["digest"], run("2")["digest"]);
}

#[test]
fn the_table_of_a_small_run_is_as_it_was() {
    // What the run costs, and what any metric of the controller's own adds to.
    const OTHERWISE: [&str; 3] = ["wall time", "memory, peak", "metric series"];
    let table = stdout(&simulator(SMALL));
    let stable: Vec<&str> = (table.lines())
        .filter(|line| !OTHERWISE.iter().any(|name| line.contains(name)))
        .collect();
    let expected = include_str!("fixtures/run_table.txt");
    assert_eq!(
        stable.join("\n"),
        expected.trim_end(),
        "the table is now:\n{table}"
    );
}

#[test]
fn the_users_own_configuration_decides() {
    let files = Files::new();
    let config = files.with("config file.yaml", CONFIG);
    let template = files.with("template.yaml", POD_TEMPLATE);
    let arguments = [
        "--nodes",
        "10",
        "--config",
        &config,
        "--pod-template",
        &template,
        "--executions",
        "3",
    ];
    let own = figures(&arguments);
    assert_eq!(own["pool"], 2);
    assert_eq!(own["window"]["seconds"], 300.0);
    // Every node carries the labels of jobNodeSelector, so none is left out.
    assert_eq!(own["executions"][2]["succeeded"], 10);
    assert_eq!(own["jobPods"]["peak"], 2);
    assert_eq!(requests(&own, "get", "pods/log"), 30);
    assert_eq!(requests(&own, "get", "services"), 3);
    // A result, a file and a log a node, the summary and the journal; two executions are kept.
    assert_eq!(own["reports"]["execution"]["files"], 32);
    assert_eq!(own["reports"]["all"]["files"], 64);
    // One gauge, `processing` and `duration` a node, for two executions and `latest`: all there after three.
    assert_eq!(own["metrics"]["seriesInTime"], own["metrics"]["series"]);
    assert!(own["metrics"]["series"].as_u64().unwrap() > 10 * 3 * 3);
    let command = own["command"].as_str().unwrap();
    assert!(
        command.contains("config file.yaml' --pod-template"),
        "{command}"
    );
    let larger = figures(&[&arguments[..], &["--pool", "5"]].concat());
    assert_eq!(
        (&larger["pool"], &larger["jobPods"]["peak"]),
        (&json!(5), &json!(5))
    );
}

#[test]
fn a_window_of_ones_own_says_how_much_of_it_is_used_and_which_pool_is_enough() {
    let figures = figures(&[
        "--nodes",
        "100",
        "--pool",
        "50",
        "--pod-seconds",
        "40",
        "--window",
        "101",
    ]);
    assert_eq!(
        figures["window"],
        json!({"seconds": 101.0, "smallestPool": 50})
    );
    assert!(
        figures["command"]
            .as_str()
            .unwrap()
            .ends_with(" --window 101")
    );
}

#[test]
fn the_first_line_repeats_the_run() {
    let output = simulator(&["--nodes", "3", "--pool", "50%", "--pod-seconds", "1"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    let first = "simulator run --nodes 3 --pool 50% --executions 1 --seed 1 --pod-seconds 1 --failure-share 0";
    assert_eq!(errors.lines().next(), Some(first));
}

#[test]
fn a_wrong_option_is_named_with_what_is_wanted() {
    let cases: [(&[&str], &[&str]); 7] = [
        (
            &["--nodes", "5", "--pool", "0"],
            &["--pool", "1 or more", "10%"][..2],
        ),
        (&["--nodes", "5", "--pool", "200%"], &["--pool", "100%"]),
        (&["--nodes", "0"], &["--nodes", "1..=1000000"]),
        (
            &["--nodes", "5", "--pod-seconds", "60..20"],
            &["--pod-seconds", "20..60"],
        ),
        (
            &["--nodes", "5", "--output", "xml"],
            &["--output", "table, json"],
        ),
        (
            &["--nodes", "5", "--config", "/nowhere.yaml"],
            &["--config /nowhere.yaml", "No such file"],
        ),
        (
            &[
                "--nodes",
                "100",
                "--pool",
                "1",
                "--pod-seconds",
                "40",
                "--executions",
                "2",
            ],
            &["4000 s at least", "every 3600 s", "choose --pool 2 or more"],
        ),
    ];
    for (arguments, expected) in cases {
        let errors = refusal(arguments);
        for part in expected {
            assert!(
                errors.contains(part),
                "{arguments:?} lacks {part:?}:\n{errors}"
            );
        }
    }
}

#[test]
fn every_wrong_key_of_the_files_is_said_in_one_go() {
    let files = Files::new();
    let config = files.with("config.yaml", "name: mine\npodPoolSize: 0\n");
    let template = files.with("template.yaml", "{{ .Nope");
    let errors = refusal(&[
        "--nodes",
        "5",
        "--config",
        &config,
        "--pod-template",
        &template,
    ]);
    for part in [
        "--config",
        "podPoolSize",
        "cronExpression",
        "pod-template.yaml",
    ] {
        assert!(errors.contains(part), "{part}:\n{errors}");
    }
}

#[test]
fn a_pod_that_the_api_server_refuses_ends_the_run_with_its_words() {
    let files = Files::new();
    let template = POD_TEMPLATE.replace("name: job", "name: Not_A_Label");
    let template = files.with("template.yaml", &template);
    let errors = refusal(&["--nodes", "5", "--pod-template", &template]);
    for part in [
        "refuses the pod of node-1",
        "Not_A_Label",
        "repeat it with: simulator run",
    ] {
        assert!(errors.contains(part), "{part}:\n{errors}");
    }
}

#[test]
fn an_execution_that_outlasts_the_window_is_told_so_and_which_pool_fits() {
    let table = stdout(&simulator(&[
        "--nodes",
        "100",
        "--pool",
        "1",
        "--pod-seconds",
        "40",
    ]));
    assert!(
        table.contains("TOO SHORT; it takes a pool of 2 at least"),
        "{table}"
    );
}
