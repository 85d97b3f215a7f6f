//! `cargo xtask image`: the controller's image, made of nothing but its static binary and the certificates of this
//! machine.
//!
//! `xtask/image/*.Dockerfile` say what is in an image; this file makes their contexts, and measures and tries the
//! result. What the container tests of `e2e` need (the simulated cluster as an image as well) is built by the same
//! code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, CONTROLLER, Profile, SIMULATOR};
use crate::interrupt::Interrupt;
use crate::tool::{self, Tool};

/// What the image that ships may weigh, unpacked: it is pulled by each node that the controller moves to.
const LIMIT_BYTES: u64 = 15_000_000;

/// Where distributions keep the certificates that programs trust.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Options that do not let a container do more than it needs: as the chart runs it.
const RESTRICTED: &[&str] = &[
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
];

/// Build the controller's image
///
/// From scratch, with a static binary of this machine's architecture, its CA certificates, and nothing else. Runs as
/// user
/// 65532. Prints the size, and fails above 15 MB.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name and tag of the image [default: batch-job-controller and its version, or dev with --dev]
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
    /// Build as the tests do: sooner there, but larger, so that the size is printed and not judged
    #[arg(long)]
    dev: bool,
    /// Test the image in containers, beside a simulated cluster in another
    #[arg(long)]
    test: bool,
    /// Where Docker does not run, say so and succeed
    #[arg(long)]
    skip_without_docker: bool,
    /// The docker to use, or a program with the same commands
    #[arg(long, env = "DOCKER", value_name = "FILE", default_value = "docker")]
    docker: PathBuf,
}

/// Builds the image, and tests it where asked to.
///
/// # Errors
/// If Docker does not answer, something does not build, the image is too large or does not start, or a test fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let docker = Tool::new(&arguments.docker);
    if let Err(error) = answers(&docker) {
        if arguments.skip_without_docker {
            println!("skipped: {error}");
            return Ok(());
        }
        return Err(error);
    }
    let interrupt = Interrupt::install()?;
    let profile = if arguments.dev {
        Profile::Dev
    } else {
        Profile::Dist
    };
    let controller = build(
        &docker,
        Image::Controller,
        arguments.tag.as_deref(),
        profile,
        &interrupt,
    )?;
    if !arguments.test {
        return Ok(());
    }
    let simulator = build(&docker, Image::Simulator, None, profile, &interrupt)?;
    // As a part of the workspace, so that what its other tests are made of is used again.
    let mut tests = cargo::command(
        &cargo::workspace_root(),
        &["test", "--workspace", "--test=containers", "--locked"],
    );
    tests
        .args(["--", "--nocapture"])
        .env("E2E_CONTROLLER_IMAGE", controller)
        .env("E2E_SIMULATOR_IMAGE", simulator);
    tool::run(tests, &interrupt)
}

/// # Errors
/// If Docker is not here or does not answer: with what to do about it.
pub(crate) fn answers(docker: &Tool) -> Result<()> {
    let fix = "install Docker and start it, or name a program with the same commands with --docker";
    ensure!(
        docker.path().is_some(),
        "there is no docker on this machine; {fix}"
    );
    if let Err(error) = docker.output(["info", "--format", "{{.ServerVersion}}"]) {
        bail!("Docker does not answer ({error:#}); {fix}");
    }
    Ok(())
}

/// One of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    Controller,
    Simulator,
}

impl Image {
    fn package(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Simulator => "simulator",
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Controller => CONTROLLER,
            Self::Simulator => SIMULATOR,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Controller => "batch-job-controller",
            Self::Simulator => "batch-job-controller-simulator",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Controller => "Runs a pod on every matching node of a cluster, on a schedule",
            Self::Simulator => "A simulated Kubernetes cluster",
        }
    }

    fn dockerfile(self) -> &'static str {
        match self {
            Self::Controller => include_str!("../image/controller.Dockerfile"),
            Self::Simulator => include_str!("../image/simulator.Dockerfile"),
        }
    }

    /// The name where none is given.
    fn default_tag(self, profile: Profile) -> String {
        let tag = match profile {
            Profile::Dev => "dev",
            _ => env!("CARGO_PKG_VERSION"),
        };
        format!("{}:{tag}", self.title())
    }
}

/// Builds an image, says its size, tries it; returns its name.
///
/// # Errors
/// If something does not build, the image is too large or does not start, or when interrupted.
pub(crate) fn build(
    docker: &Tool,
    image: Image,
    tag: Option<&str>,
    profile: Profile,
    interrupt: &Interrupt,
) -> Result<String> {
    ensure!(
        cfg!(target_os = "linux"),
        "an image holds a Linux binary, and this machine cannot build one: build it on Linux"
    );
    let certificates = certificates(CERTIFICATES)?;
    let binary = cargo::build_static(image.package(), image.binary(), profile, interrupt)?;
    let context = tempfile::tempdir()?;
    fill(context.path(), image, &binary, &certificates)?;
    let name = tag.map_or_else(|| image.default_tag(profile), str::to_owned);
    let mut arguments = vec!["build".to_owned(), "--quiet".to_owned()];
    arguments.extend(["--tag".to_owned(), name.clone()]);
    for (label, value) in labels(image, revision().as_deref()) {
        arguments.push("--label".to_owned());
        arguments.push(format!("org.opencontainers.image.{label}={value}"));
    }
    arguments.push(context.path().to_string_lossy().into_owned());
    docker.output(&arguments)?;

    let size = docker.output(["image", "inspect", "--format", "{{.Size}}", &name])?;
    let size = size.parse().context("docker does not tell the size")?;
    println!("{}", in_words(&name, size, profile));
    if matches!(profile, Profile::Dist) && image == Image::Controller {
        ensure!(
            size <= LIMIT_BYTES,
            "{name} is too large: {}, which is more than {}",
            megabytes(size),
            megabytes(LIMIT_BYTES)
        );
    }
    let mut try_it = vec!["run", "--rm"];
    try_it.extend(RESTRICTED);
    try_it.extend([name.as_str(), "--version"]);
    println!("{}", docker.output(&try_it)?);
    Ok(name)
}

/// The certificates of this machine.
fn certificates(places: &[&str]) -> Result<PathBuf> {
    let found = places.iter().map(PathBuf::from).find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "this machine has no bundle of CA certificates for the image; install the package ca-certificates (looked \
             for: {})",
            places.join(", ")
        )
    })
}

/// The context of a Dockerfile: itself and every file that it may copy, with the modes that they have in the image.
fn fill(context: &Path, image: Image, binary: &Path, certificates: &Path) -> Result<()> {
    let with_mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot change {}", path.display()))
    };
    let copy = |from: &Path, name: &str, mode: u32| {
        let to = context.join(name);
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        with_mode(&to, mode)
    };
    fs::write(context.join("Dockerfile"), image.dockerfile())?;
    copy(binary, image.binary(), 0o755)?;
    copy(certificates, "ca-certificates.crt", 0o644)?;
    fs::create_dir(context.join("reports"))?;
    with_mode(&context.join("reports"), 0o755)
}

/// The labels of the [image specification](https://specs.opencontainers.org/image-spec/annotations/). No time of
/// creation: the same source gives the same image.
fn labels(image: Image, revision: Option<&str>) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("title", image.title().to_owned()),
        ("description", image.description().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
    ];
    labels.extend(revision.map(|revision| ("revision", revision.to_owned())));
    labels
}

/// The commit, where this is a checkout without changes.
fn revision() -> Option<String> {
    let root = cargo::workspace_root();
    let root = root.to_string_lossy();
    let git = Tool::new("git");
    let changes = git.output(["-C", &root, "status", "--porcelain"]).ok()?;
    if !changes.is_empty() {
        return None;
    }
    git.output(["-C", &root, "rev-parse", "HEAD"]).ok()
}

fn in_words(name: &str, size: u64, profile: Profile) -> String {
    let size = megabytes(size);
    match profile {
        Profile::Dist => format!("{name}: {size} of at most {}", megabytes(LIMIT_BYTES)),
        _ => format!("{name}: {size}, for tests; what ships is smaller"),
    }
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_dockerfile_copies_is_in_its_context() {
        for image in [Image::Controller, Image::Simulator] {
            let here = tempfile::tempdir().unwrap();
            let file = here.path().join("file");
            fs::write(&file, "").unwrap();
            let context = tempfile::tempdir().unwrap();
            fill(context.path(), image, &file, &file).unwrap();
            let copied = image
                .dockerfile()
                .lines()
                .filter_map(|line| line.strip_prefix("COPY "))
                .map(|line| line.split(' ').find(|word| !word.starts_with("--")));
            let mut count = 0;
            for source in copied.map(Option::unwrap) {
                count += 1;
                assert!(context.path().join(source).exists(), "{source}");
            }
            assert!(count > 0);
        }
    }

    #[test]
    fn images_are_from_scratch_and_not_of_root() {
        for image in [Image::Controller, Image::Simulator] {
            let text = image.dockerfile();
            assert!(text.contains("\nFROM scratch\n") && text.contains("\nUSER 65532:65532\n"));
            assert!(text.contains(&format!("[\"/usr/bin/{}\"]", image.binary())));
        }
    }

    #[test]
    fn missing_certificates_are_said_with_the_package_to_install() {
        let message = certificates(&["/no/such/bundle"]).unwrap_err().to_string();
        assert!(
            message.contains("/no/such/bundle") && message.contains("package ca-certificates"),
            "{message}"
        );
    }

    #[test]
    fn a_docker_that_is_not_there_or_does_not_answer_is_said_with_what_to_do() {
        let absent = answers(&Tool::new("/no/such/docker")).unwrap_err();
        assert!(absent.to_string().contains("--docker"), "{absent}");
        let silent = answers(&Tool::new("false")).unwrap_err().to_string();
        assert!(
            silent.contains("does not answer") && silent.contains("--docker"),
            "{silent}"
        );
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(megabytes(14_900_001), "15.0 MB");
        assert_eq!(megabytes(9_840_000), "9.9 MB");
    }
}
