//! `cargo xtask e2e`: the tests of the `e2e` crate on a cluster: a new one of kind, one that exists, or a simulated
//! one.
//!
//! This file finds the tools, makes the cluster and removes it again, whatever happens; what is installed there and
//! what is looked at is the crate's business.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::cargo::{self, Binaries, Profile};
use crate::image::{self, Image};
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::tool::{self, Tool};

/// How the names of its clusters begin; the crate's tests go by it, too.
const NAME: &str = "batch-job-controller-e2e";

/// The image as the cluster knows it.
const IMAGE: &str = "batch-job-controller:e2e";

/// The node images of kind's releases: kind guarantees nothing for others.
const NODE_IMAGES: &[(&str, &str)] = &[
    (
        "1.36",
        "kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5",
    ),
    (
        "1.35",
        "kindest/node:v1.35.5@sha256:ce977ae6d65918d0b58a5f8b5e940429c2ce42fa3a5619ec2bbc60b949c0ac95",
    ),
    (
        "1.34",
        "kindest/node:v1.34.8@sha256:02722c2dedddcfc00febf5d27fbeb9b7b2c14294c82109ff4a85d89ac9ba3256",
    ),
];

/// How long kind waits for its control plane.
const KIND_WAIT: &str = "180s";

/// A simulated cluster has nothing to load.
const SIMULATOR_READY_WITHIN: Duration = Duration::from_secs(30);

/// Test the chart and the image on a cluster
///
/// Builds the image, creates a cluster of kind with several workers, installs the chart with helm, runs an execution
/// and checks its results, files, events, metrics and logs, and deletes the cluster. On a failure it shows what there
/// was to see, and keeps the logs of the nodes in target/e2e-logs.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option by itself")]
pub(crate) struct Arguments {
    /// Workers of the new cluster
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    nodes: u32,
    /// Leave the new cluster running, and say how to use it
    #[arg(long)]
    keep: bool,
    /// Kubernetes of the new cluster: a minor version, or an exact one
    #[arg(long, default_value = "1.36", value_name = "VERSION", value_parser = node_image)]
    kubernetes: String,
    /// Node image of the new cluster, whatever its version
    #[arg(long, value_name = "IMAGE", conflicts_with = "kubernetes")]
    node_image: Option<String>,
    /// Test on the cluster of this context instead, in a namespace of its own, after asking
    #[arg(long, value_name = "NAME", conflicts_with_all = ["nodes", "keep", "kubernetes", "node_image"])]
    context: Option<String>,
    /// Do not ask
    #[arg(long, requires = "context")]
    yes: bool,
    /// The image to install there, which that cluster can pull
    #[arg(long, value_name = "NAME:TAG", requires = "context")]
    image: Option<String>,
    /// The controller to run as a process beside that cluster, where it runs no pods
    #[arg(
        long,
        value_name = "FILE",
        requires = "context",
        conflicts_with = "image"
    )]
    controller: Option<PathBuf>,
    /// Test on a simulated cluster instead, with the controller as a process
    #[arg(long, conflicts_with_all = ["context", "nodes", "keep", "kubernetes", "node_image"])]
    simulated: bool,
    /// Where a tool is missing, say so and succeed
    #[arg(long)]
    skip_without_tools: bool,
    /// Build as the tests do: sooner there, slower at work
    #[arg(long, conflicts_with = "context")]
    dev: bool,
    #[command(flatten)]
    tools: ToolOptions,
}

/// The tools to use; each by its name on the path, or by its file.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tools")]
struct ToolOptions {
    /// The docker to use
    #[arg(long, env = "DOCKER", value_name = "FILE", default_value = "docker")]
    docker: PathBuf,
    /// The kind to use
    #[arg(long, env = "KIND", value_name = "FILE", default_value = "kind")]
    kind: PathBuf,
    /// The kubectl to use
    #[arg(long, env = "KUBECTL", value_name = "FILE", default_value = "kubectl")]
    kubectl: PathBuf,
    /// The helm to use
    #[arg(long, env = "HELM", value_name = "FILE", default_value = "helm")]
    helm: PathBuf,
}

/// Runs the tests.
///
/// # Errors
/// If a tool is missing, something does not start or a test fails, or when interrupted; the new cluster is deleted
/// then, too.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = arguments.wanted_tools();
    if let Err(missing) = check_tools(&wanted) {
        if arguments.skip_without_tools {
            println!("skipped: {missing}");
            return Ok(());
        }
        return Err(missing);
    }
    let interrupt = Interrupt::install()?;
    let run = std::process::id().to_string();
    let tests = Tests::new(&arguments.tools, &run)?;
    match &arguments.context {
        Some(context) => on_existing(arguments, context, &tests, &interrupt),
        None if arguments.simulated => on_simulated(arguments, &tests, &interrupt),
        None => on_kind(arguments, &tests, &run, &interrupt),
    }
}

/// A tool, and where to get it.
type Wanted<'a> = (&'a Path, &'static str, &'static str);

impl Arguments {
    fn wanted_tools(&self) -> Vec<Wanted<'_>> {
        let tools = &self.tools;
        let mut wanted: Vec<Wanted<'_>> = vec![
            (
                &tools.kubectl,
                "kubectl",
                "https://kubernetes.io/docs/tasks/tools",
            ),
            (&tools.helm, "helm", "https://helm.sh/docs/intro/install"),
        ];
        if self.context.is_none() && !self.simulated {
            wanted.push((
                &tools.docker,
                "docker",
                "https://docs.docker.com/engine/install",
            ));
            wanted.push((
                &tools.kind,
                "kind",
                "https://kind.sigs.k8s.io/docs/user/quick-start#installation",
            ));
        }
        wanted
    }
}

/// # Errors
/// If one is missing: all that are, each with where to get it.
fn check_tools(wanted: &[Wanted<'_>]) -> Result<()> {
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(file, ..)| Tool::new(*file).path().is_none())
        .map(|(file, name, source)| {
            format!(
                "there is no {} (get it from {source}, or name one with --{name})",
                file.display()
            )
        })
        .collect();
    ensure!(missing.is_empty(), "{}", missing.join("; "));
    Ok(())
}

/// The node image of a version.
fn node_image(version: &str) -> Result<String, String> {
    if let Some((_, image)) = NODE_IMAGES.iter().find(|(minor, _)| *minor == version) {
        return Ok((*image).to_owned());
    }
    let numbers: Vec<&str> = version.split('.').collect();
    if numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u16>().is_ok()) {
        return Ok(format!("kindest/node:v{version}"));
    }
    let known: Vec<&str> = NODE_IMAGES.iter().map(|(minor, _)| *minor).collect();
    Err(format!(
        "wanted: {}, an exact version such as 1.36.1, or --node-image",
        known.join(", ")
    ))
}

/// The tests of the crate, as a command.
#[derive(Debug)]
struct Tests {
    kubectl: PathBuf,
    helm: PathBuf,
    run: String,
}

impl Tests {
    fn new(tools: &ToolOptions, run: &str) -> Result<Self> {
        // They run in another folder.
        let absolute = |file: &Path| -> Result<PathBuf> {
            let path = Tool::new(file).path().context("a tool has gone")?;
            Ok(path.canonicalize()?)
        };
        Ok(Self {
            kubectl: absolute(&tools.kubectl)?,
            helm: absolute(&tools.helm)?,
            run: run.to_owned(),
        })
    }

    /// Runs them on the cluster of `context`.
    fn run(
        &self,
        context: &str,
        kubeconfig: Option<&Path>,
        subject: (&str, &str),
        interrupt: &Interrupt,
    ) -> Result<()> {
        let arguments = [
            "test",
            "--workspace",
            "--test=cluster",
            "--locked",
            "--",
            "--nocapture",
        ];
        let mut tests = cargo::command(&cargo::workspace_root(), &arguments);
        tests
            .env("E2E_CONTEXT", context)
            .env("E2E_RUN", &self.run)
            .env("KUBECTL", &self.kubectl)
            .env("HELM", &self.helm)
            .env_remove("E2E_IMAGE")
            .env_remove("E2E_CONTROLLER")
            .env(subject.0, subject.1);
        if let Some(kubeconfig) = kubeconfig {
            tests.env("KUBECONFIG", kubeconfig);
        }
        tool::run(tests, interrupt)
    }
}

/// Builds the image, creates a cluster, tests there.
fn on_kind(arguments: &Arguments, tests: &Tests, run: &str, interrupt: &Interrupt) -> Result<()> {
    let docker = Tool::new(&arguments.tools.docker);
    image::answers(&docker)?;
    let profile = if arguments.dev {
        Profile::Dev
    } else {
        Profile::Dist
    };
    image::build(&docker, Image::Controller, Some(IMAGE), profile, interrupt)?;
    let node_image = arguments
        .node_image
        .as_ref()
        .unwrap_or(&arguments.kubernetes);
    let mut cluster = Kind::create(
        Tool::new(&arguments.tools.kind),
        &format!("{NAME}-{run}"),
        arguments.nodes,
        node_image,
        interrupt,
    )?;
    let result = cluster
        .load(IMAGE, interrupt)
        .and_then(|()| cluster.test(tests, interrupt));
    if result.is_err() && !interrupt.is_set() {
        cluster.export_logs(interrupt);
    }
    if arguments.keep {
        cluster.keep();
    }
    result
}

/// A cluster of kind; dropping it deletes the cluster.
#[derive(Debug)]
struct Kind {
    tool: Tool,
    name: String,
    /// Holds its kubeconfig: nobody's own is touched.
    directory: TempDir,
    is_kept: bool,
}

impl Kind {
    fn create(
        kind: Tool,
        name: &str,
        workers: u32,
        node_image: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("kind.yaml");
        fs::write(&config, kind_config(workers))?;
        // Before it is created: what an interrupted creation leaves is deleted as well.
        let cluster = Self {
            tool: kind,
            name: name.to_owned(),
            directory,
            is_kept: false,
        };
        let kubeconfig = cluster.kubeconfig();
        let (config, kubeconfig) = (config.to_string_lossy(), kubeconfig.to_string_lossy());
        let arguments = [
            "create",
            "cluster",
            "--name",
            name,
            "--image",
            node_image,
            "--config",
            &config,
            "--kubeconfig",
            &kubeconfig,
            "--wait",
            KIND_WAIT,
        ];
        tool::run(cluster.tool.command(arguments), interrupt)?;
        Ok(cluster)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn load(&self, image: &str, interrupt: &Interrupt) -> Result<()> {
        let arguments = ["load", "docker-image", image, "--name", &self.name];
        tool::run(self.tool.command(arguments), interrupt)
    }

    fn test(&self, tests: &Tests, interrupt: &Interrupt) -> Result<()> {
        let context = format!("kind-{}", self.name);
        tests.run(
            &context,
            Some(&self.kubeconfig()),
            ("E2E_IMAGE", IMAGE),
            interrupt,
        )
    }

    /// Keeps the logs of its nodes.
    fn export_logs(&self, interrupt: &Interrupt) {
        let directory = cargo::workspace_root().join("target/e2e-logs");
        let directory = directory.to_string_lossy();
        let arguments = ["export", "logs", &directory, "--name", &self.name];
        if let Err(error) = tool::run(self.tool.command(arguments), interrupt) {
            eprintln!("the nodes' logs cannot be kept: {error:#}");
        }
    }

    /// Leaves it running.
    fn keep(&mut self) {
        self.is_kept = true;
        println!(
            "The cluster is still there:\n  kind export kubeconfig --name {name}\n  kind delete cluster --name {name}",
            name = self.name
        );
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let kubeconfig = self.kubeconfig();
        let kubeconfig = kubeconfig.to_string_lossy();
        let arguments = [
            "delete",
            "cluster",
            "--name",
            &self.name,
            "--kubeconfig",
            &kubeconfig,
        ];
        if let Err(error) = self.tool.output(arguments) {
            eprintln!(
                "the cluster cannot be deleted ({error:#}); delete it with: kind delete cluster --name {}",
                self.name
            );
        }
    }
}

fn kind_config(workers: u32) -> String {
    let workers = "  - role: worker\n".repeat(workers as usize);
    format!(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n  - role: control-plane\n{workers}"
    )
}

/// Tests on a cluster of somebody, and leaves nothing there.
fn on_existing(
    arguments: &Arguments,
    context: &str,
    tests: &Tests,
    interrupt: &Interrupt,
) -> Result<()> {
    let subject = match (&arguments.image, &arguments.controller) {
        (Some(image), _) => ("E2E_IMAGE", image.clone()),
        (None, Some(controller)) => {
            let controller = controller
                .canonicalize()
                .with_context(|| format!("there is no {}", controller.display()))?;
            ("E2E_CONTROLLER", controller.to_string_lossy().into_owned())
        }
        (None, None) => bail!(
            "say what to test on it: --image NAME:TAG, which it can pull, or --controller FILE, to run as a process beside \
             it"
        ),
    };
    if !arguments.yes {
        ask(context)?;
    }
    let result = tests.run(context, None, (subject.0, &subject.1), interrupt);
    if result.is_err() {
        // What a test that was cut off has left.
        let kubectl = Tool::new(&arguments.tools.kubectl);
        let selector = format!("--selector={NAME}={}", tests.run);
        let kinds = "clusterrolebindings,clusterroles,namespaces";
        if let Err(error) = kubectl.output(["--context", context, "delete", kinds, &selector]) {
            eprintln!("{error:#}");
        }
    }
    result
}

/// # Errors
/// Unless the answer is yes.
fn ask(context: &str) -> Result<()> {
    let mut input = std::io::stdin().lock();
    ensure!(
        input.is_terminal(),
        "this installs something on the cluster of {context}, and there is no terminal to ask at; --yes answers"
    );
    print!(
        "Install the chart in a namespace of its own on the cluster of {context}, with a cluster role to list its nodes, \
         run a pod on each node, and remove everything again? [y/N] "
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    ensure!(is_yes(&answer), "nothing is installed");
    Ok(())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Tests on a simulated cluster, as far as it goes: it runs job pods, but not the controller's.
fn on_simulated(arguments: &Arguments, tests: &Tests, interrupt: &Interrupt) -> Result<()> {
    let profile = if arguments.dev {
        Profile::Dev
    } else {
        Profile::Release
    };
    let binaries = Binaries::build(profile, interrupt)?;
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    let mut command = Command::new(&binaries.simulator);
    command
        .args(["serve", "--nodes=4", "--pod-seconds=1", "--kubeconfig"])
        .arg(&kubeconfig);
    let mut simulator = Process::start_logged("simulator", command, directory.path())?;
    let end = Instant::now() + SIMULATOR_READY_WITHIN;
    let output = directory.path().join("simulator.out");
    while !fs::read_to_string(&output)?.starts_with("ready ") {
        simulator.check_alive()?;
        ensure!(
            Instant::now() < end,
            "the simulated cluster does not get ready{}",
            simulator.last_lines()
        );
        interrupt.sleep(Duration::from_millis(50))?;
    }
    let controller = binaries.controller.to_string_lossy();
    tests.run(
        "simulator",
        Some(&kubeconfig),
        ("E2E_CONTROLLER", &controller),
        interrupt,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tool that writes down how it is called.
    struct StandIn {
        directory: TempDir,
        program: PathBuf,
    }

    impl StandIn {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let program = directory.path().join("kind");
            // A link: a program that has just been written may still be open for writing in another test's child.
            symlink(
                cargo::workspace_root().join("xtask/e2e/stand-in.sh"),
                &program,
            )
            .unwrap();
            Self { directory, program }
        }

        fn fails_at(&self, word: &str) {
            fs::write(self.directory.path().join("kind.fails"), word).unwrap();
        }

        fn wrote(&self, name: &str) -> String {
            fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
        }

        fn create(&self) -> Result<Kind> {
            Kind::create(
                Tool::new(&self.program),
                "test-1",
                3,
                "node:v1",
                &Interrupt::never(),
            )
        }
    }

    #[test]
    fn a_cluster_is_created_with_its_workers_gets_the_image_and_is_deleted() {
        let stand_in = StandIn::new();
        let cluster = stand_in.create().unwrap();
        cluster.load("image:e2e", &Interrupt::never()).unwrap();
        let kubeconfig = cluster.kubeconfig();
        drop(cluster);
        let calls = stand_in.wrote("kind.calls");
        let calls: Vec<&str> = calls.lines().collect();
        assert!(calls[0].starts_with("create cluster --name test-1 --image node:v1 --config "));
        let kubeconfig = format!("--kubeconfig {}", kubeconfig.display());
        assert!(calls[0].contains(&kubeconfig), "{calls:?}");
        assert_eq!(calls[1], "load docker-image image:e2e --name test-1");
        assert_eq!(
            calls[2],
            format!("delete cluster --name test-1 {kubeconfig}")
        );
        assert_eq!(calls.len(), 3);
        let config = stand_in.wrote("kind.config");
        assert_eq!(config.matches("role: worker").count(), 3, "{config}");
        assert_eq!(config.matches("role: control-plane").count(), 1, "{config}");
    }

    #[test]
    fn what_a_failed_or_interrupted_creation_leaves_is_deleted() {
        let stand_in = StandIn::new();
        stand_in.fails_at("create");
        let error = stand_in.create().unwrap_err().to_string();
        assert!(error.contains("create cluster"), "{error}");
        let calls = stand_in.wrote("kind.calls");
        assert!(calls.ends_with(&format!(
            "--kubeconfig {}\n",
            calls.rsplit(' ').next().unwrap().trim()
        )));
        assert_eq!(
            calls
                .lines()
                .filter(|call| call.starts_with("delete cluster"))
                .count(),
            1
        );
    }

    #[test]
    fn a_kept_cluster_is_not_deleted() {
        let stand_in = StandIn::new();
        let mut cluster = stand_in.create().unwrap();
        cluster.keep();
        drop(cluster);
        assert!(!stand_in.wrote("kind.calls").contains("delete"));
    }

    #[test]
    fn every_missing_tool_is_named_with_where_to_get_it() {
        let missing = Path::new("/no/such");
        let wanted = [
            (Path::new("sh"), "sh", "nowhere"),
            (missing, "kind", "https://kind.example"),
            (missing, "helm", "https://helm.example"),
        ];
        let message = check_tools(&wanted).unwrap_err().to_string();
        for part in [
            "https://kind.example",
            "--kind",
            "https://helm.example",
            "--helm",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("nowhere"), "{message}");
    }

    #[test]
    fn a_version_is_a_known_minor_one_or_an_exact_one() {
        assert!(
            node_image("1.36")
                .unwrap()
                .starts_with("kindest/node:v1.36.1@sha256:")
        );
        assert_eq!(node_image("1.33.7").unwrap(), "kindest/node:v1.33.7");
        for wrong in ["1", "1.2", "latest", "1.36.x"] {
            assert!(node_image(wrong).unwrap_err().contains("1.36"), "{wrong}");
        }
    }

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes("Yes\n"));
        assert!(!is_yes("\n") && !is_yes("no\n") && !is_yes("yesterday\n"));
    }
}
