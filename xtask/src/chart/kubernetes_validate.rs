//! Every document, and every job pod, against Kubernetes' own schemas: the program kubernetes-validate of the Python
//! package index, in an environment of its own below target/.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::helm::Rendered;
use crate::cargo;
use crate::interrupt::Interrupt;
use crate::tool::{self, Tool};

/// Which one: its version is that of the newest Kubernetes it knows.
const PACKAGE: &str = "kubernetes-validate==1.37.0";

/// The Kubernetes versions to hold documents against: the oldest that the chart wants of those it knows, and the
/// newest.
const VERSIONS: [&str; 2] = ["1.27", "1.37"];

/// The API group of the kinds that it does not know; `objects` looks at those.
const UNKNOWN_GROUP: &str = "monitoring.coreos.com/";

/// Holds the documents against the schemas, or says that the program cannot be had.
///
/// # Errors
/// With what it says of a document.
pub(super) fn check(
    rendered: &[Rendered],
    job_pods: &[Value],
    interrupt: &Interrupt,
) -> Result<()> {
    let Some(program) = installed(interrupt)? else {
        println!("skipped: Kubernetes' schemas, for {PACKAGE} cannot be installed with python3");
        return Ok(());
    };
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    let mut count = 0;
    let documents = rendered.iter().flat_map(|set| &set.documents);
    for document in documents.chain(job_pods) {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        if !version.starts_with(UNKNOWN_GROUP) {
            write_document(&mut file, document)?;
            count += 1;
        }
    }
    validate(&program, file.path())?;
    super::done(&format!(
        "kubernetes-validate --strict: {count} documents and job pods against Kubernetes {}",
        VERSIONS.join(" and ")
    ));
    Ok(())
}

fn write_document(file: &mut impl Write, document: &Value) -> Result<()> {
    // JSON is YAML.
    writeln!(file, "---\n{document}")?;
    Ok(())
}

fn validate(program: &Tool, file: &Path) -> Result<()> {
    for version in VERSIONS {
        let file = file.display().to_string();
        let output = program
            .command([
                "--strict",
                "--quiet",
                "--kubernetes-version",
                version,
                &file,
            ])
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // What it does not know it only warns of.
        ensure!(
            output.status.success() && said.trim().is_empty(),
            "kubernetes-validate, version {version}: {}",
            said.trim()
        );
    }
    Ok(())
}

/// The program, installed at the first call; none where that does not work.
fn installed(interrupt: &Interrupt) -> Result<Option<Tool>> {
    let folder: PathBuf = cargo::workspace_root().join("target/kubernetes-validate");
    let program = Tool::new(folder.join("bin/kubernetes-validate"));
    if program.path().is_some() {
        return Ok(Some(program));
    }
    if Tool::new("python3").path().is_none() {
        return Ok(None);
    }
    let folder = folder.to_str().context("the project's path is no text")?;
    let pip = Tool::new(format!("{folder}/bin/pip"));
    let made = tool::run(
        Tool::new("python3").command(["-m", "venv", folder]),
        interrupt,
    )
    .and_then(|()| tool::run(pip.command(["install", "--quiet", PACKAGE]), interrupt));
    if let Err(error) = made {
        interrupt.check()?;
        eprintln!("warning: {error:#}");
        return Ok(None);
    }
    Ok(Some(program))
}
