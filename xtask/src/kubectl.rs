//! `cargo xtask kubectl`: a real kubectl on the simulated cluster while the controller runs an execution on it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{BinaryOptions, Profile};
use crate::execution::{self, Progress};
use crate::interrupt::Interrupt;
use crate::stack::{PortOptions, Ports, Setup, Stack};

/// Long enough that a pod still runs when kubectl, which takes a second or so for each call, comes to delete it.
const POD_SECONDS: f64 = 12.0;

const NODES: u32 = 4;

/// The label of the sample controller's job pods.
const JOB_PODS: &str = "batch-job-controller.bakito.github.com/owner=demo";

/// How long a job pod may take to run, before it is looked at.
const RUNNING_WITHIN: Duration = Duration::from_secs(30);

/// Check a real kubectl on the simulated cluster
///
/// Lists nodes, pods, events, ConfigMaps and Leases with a real kubectl, reads a job pod's log, deletes a running job
/// pod, and checks that the controller notices, records it and goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The kubectl to use [default: the one on the path]
    #[arg(long, env = "KUBECTL", value_name = "FILE")]
    kubectl: Option<PathBuf>,
    #[command(flatten)]
    binaries: BinaryOptions,
}

/// Checks kubectl, or says that there is none.
///
/// # Errors
/// If a call fails or shows something else than what is there.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(program) = find(arguments)? else {
        println!(
            "skipped: there is no kubectl on the path; name one with --kubectl or the variable KUBECTL"
        );
        return Ok(());
    };
    let interrupt = Interrupt::install()?;
    let setup = Setup {
        nodes: NODES,
        pool: 2,
        pod_seconds: POD_SECONDS,
        failure_share: 0.0,
        seed: 1,
        run_on_startup: true,
        dev_mode: false,
        runs_pods: true,
        config: Vec::new(),
    };
    let binaries = arguments.binaries.binaries(Profile::Release, &interrupt)?;
    let mut stack = Stack::start(
        &binaries,
        &setup,
        Ports::choose(&PortOptions::default())?,
        &interrupt,
    )?;
    let kubectl = Kubectl {
        program,
        kubeconfig: stack.kubeconfig(),
        cache: stack.directory().join("kubectl-cache"),
    };

    let victim = running_pod(&kubectl, &interrupt)?;
    let node = kubectl.run(&["get", "pod", &victim, "-o", "jsonpath={.spec.nodeName}"])?;
    kubectl.run(&["delete", "pod", &victim])?;
    let left = kubectl.run(&["get", "pods", "-o", "name"])?;
    ensure!(
        !left.contains(&victim),
        "pod {victim} is still there after its deletion:\n{left}"
    );
    check_lists(&kubectl)?;

    let scrape = execution::follow(&mut stack, execution::LOOK_EVERY, &interrupt, |progress| {
        println!("  {}", progress.by_state());
        Ok(())
    })?;
    check_outcome(&stack, &Progress::of(&scrape), &node)?;
    check_log_and_events(&kubectl, &node)?;
    println!("kubectl works, and the controller recorded the deleted pod of {node} and went on");
    Ok(())
}

/// The kubectl to use; a named one must be there.
fn find(arguments: &Arguments) -> Result<Option<PathBuf>> {
    if let Some(program) = &arguments.kubectl {
        ensure!(program.is_file(), "there is no {}", program.display());
        return Ok(Some(program.clone()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path)
        .map(|folder| folder.join("kubectl"))
        .find(|program| program.is_file()))
}

/// A kubectl that knows only the simulated cluster.
#[derive(Debug)]
struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// What it prints.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        println!("kubectl {}", arguments.join(" "));
        let option = |name: &str, value: &Path| {
            let mut option = OsString::from(name);
            option.push(value);
            option
        };
        let output = Command::new(&self.program)
            .arg(option("--kubeconfig=", &self.kubeconfig))
            .arg(option("--cache-dir=", &self.cache))
            .arg("--request-timeout=30s")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "kubectl {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                stderr.trim()
            );
        }
        Ok(stdout)
    }

    /// Runs it and wants each of `parts` in what it prints.
    fn shows(&self, arguments: &[&str], parts: &[&str]) -> Result<()> {
        let shown = self.run(arguments)?;
        for part in parts {
            ensure!(
                shown.contains(part),
                "kubectl {} does not show {part}:\n{shown}",
                arguments.join(" ")
            );
        }
        Ok(())
    }
}

/// The name of a job pod that runs.
fn running_pod(kubectl: &Kubectl, interrupt: &Interrupt) -> Result<String> {
    let arguments = [
        "get",
        "pods",
        "--selector",
        JOB_PODS,
        "--field-selector",
        "status.phase=Running",
        "-o",
        "name",
    ];
    let end = Instant::now() + RUNNING_WITHIN;
    while Instant::now() < end {
        let names = kubectl.run(&arguments)?;
        if let Some(name) = names.lines().find_map(|line| line.strip_prefix("pod/")) {
            return Ok(name.to_owned());
        }
        interrupt.sleep(Duration::from_millis(200))?;
    }
    bail!(
        "kubectl shows no running job pod within {} s",
        RUNNING_WITHIN.as_secs()
    )
}

fn check_lists(kubectl: &Kubectl) -> Result<()> {
    let nodes: Vec<String> = (1..=NODES).map(|node| format!("node-{node} ")).collect();
    let nodes: Vec<&str> = ["NAME", "STATUS", "Ready"]
        .into_iter()
        .chain(nodes.iter().map(String::as_str))
        .collect();
    kubectl.shows(&["get", "nodes"], &nodes)?;
    kubectl.shows(&["get", "namespaces"], &["default", "kube-system"])?;
    kubectl.shows(
        &["get", "pods"],
        &["NAME", "READY", "STATUS", "demo-job-node-"],
    )?;
    kubectl.shows(&["get", "configmaps"], &["batch-job-controller"])?;
    kubectl.shows(
        &["get", "configmap", "batch-job-controller", "-o", "yaml"],
        &["config.yaml: |", "pod-template.yaml: |"],
    )
}

/// Three nodes succeeded, the one of the deleted pod failed, and its record says why.
fn check_outcome(stack: &Stack, progress: &Progress, node: &str) -> Result<()> {
    let failed = progress.count("failed");
    ensure!(
        failed == 1,
        "{failed} nodes failed instead of one: {}{}",
        progress.by_state(),
        stack.controller_log()
    );
    let succeeded = progress.count("succeeded");
    ensure!(
        succeeded == u64::from(NODES) - 1,
        "the execution did not go on: {}",
        progress.by_state()
    );
    let record = stack.newest_record()?;
    let nodes = record["nodes"]
        .as_array()
        .context("the record of the execution has no nodes")?;
    let entry = nodes
        .iter()
        .find(|entry| entry["node"] == node)
        .with_context(|| format!("the record has no {node}"))?;
    ensure!(
        entry["state"] == "failed" && entry["reason"] == "Deleted",
        "the record does not say that the pod of {node} was deleted: {entry}"
    );
    Ok(())
}

fn check_log_and_events(kubectl: &Kubectl, deleted: &str) -> Result<()> {
    let node = (1..=NODES)
        .map(|node| format!("node-{node}"))
        .find(|node| node != deleted)
        .unwrap_or_default();
    let names = kubectl.run(&["get", "pods", "-o", "name"])?;
    let pod = names
        .lines()
        .find(|line| line.contains(&format!("-job-{node}-")))
        .context("an ended pod has gone")?;
    let log = kubectl.run(&["logs", pod])?;
    ensure!(!log.trim().is_empty(), "the log of {pod} is empty");
    kubectl.shows(
        &["get", "events"],
        &["LAST SEEN", "REASON", "demo-job-node-"],
    )?;
    kubectl.shows(
        &["get", "leases", "--all-namespaces"],
        &["HOLDER", "kube-node-lease   node-1 "],
    )
}
