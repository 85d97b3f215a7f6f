//! `cargo xtask chart`: the chart says what it makes, makes what it says, and gives the controller just what it uses.
//!
//! Each file below checks one thing. Without helm nothing can be checked; other tools that are missing are named, and
//! what they would have checked is skipped.

mod access;
mod alerts;
mod dependency;
mod effects;
mod helm;
mod kubernetes_validate;
mod live;
mod metadata;
mod objects;
mod product;
mod recorder;
mod refusals;
mod restricted;
mod schema;
mod values;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cargo::{self, BinaryOptions, Profile};
use crate::interrupt::Interrupt;
use crate::tool::Tool;
use helm::{Helm, Rendered};

/// The chart, from the workspace root.
const CHART: &str = "charts/batch-job-controller";

/// Check the chart
///
/// Lints and renders it with every value set under its folder ci, holds each document against Kubernetes' schemas
/// (kubernetes-validate, installed below target/ where Python can), values against documentation, templates and schema,
/// alerts against the metrics that the controller exports, its files against `validate` and `render`, and its rights
/// against the requests that a controller makes while it runs an execution on the simulated cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The helm to use [default: the one on the path]
    #[arg(long, env = "HELM", value_name = "FILE")]
    helm: Option<PathBuf>,
    /// The promtool to use [default: the one on the path]
    #[arg(long, env = "PROMTOOL", value_name = "FILE")]
    promtool: Option<PathBuf>,
    /// Write the table of values and the descriptions of the schema, which are taken from values.yaml
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    binaries: BinaryOptions,
}

/// Checks the chart, or says that there is no helm.
///
/// # Errors
/// At the first thing that is wrong.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chart = cargo::workspace_root().join(CHART);
    if arguments.write {
        return values::write(&chart);
    }
    let Some(helm) = tool(arguments.helm.as_ref(), "helm")? else {
        println!(
            "skipped: there is no helm on the path; name one with --helm or the variable HELM"
        );
        return Ok(());
    };
    let interrupt = Interrupt::install()?;
    let helm = Helm::new(helm, chart.clone());

    values::check(&chart)?;
    schema::check(&chart)?;
    done("every value is documented in values.yaml, README.md and values.schema.json");
    let rendered = helm.render_all()?;
    done(&format!(
        "helm lint --strict and helm template: {} value sets, {} documents",
        rendered.len(),
        rendered
            .iter()
            .map(|set| set.documents.len())
            .sum::<usize>()
    ));
    refusals::check(&helm)?;
    done("what must be refused is refused with a sentence, typos with their path");
    for set in &rendered {
        objects::check(set).with_context(|| format!("value set {}", set.name))?;
    }
    restricted::check(default_set(&rendered)?)?;
    metadata::check(&chart, default_set(&rendered)?)?;
    done("names, labels, ports, Services, environment, pod security and images hold together");
    let units = effects::check(&helm, &chart)?;
    done(&format!("each of {units} values has an effect"));
    dependency::check(&helm)?;
    done("the chart works as a dependency, named otherwise and switched off, too");

    let binaries = arguments.binaries.binaries(Profile::Release, &interrupt)?;
    let job_pods = product::check(&binaries, &rendered, &interrupt)?;
    kubernetes_validate::check(&rendered, &job_pods, &interrupt)?;
    let scrape = live::check(&binaries, &helm, &interrupt)?;
    alerts::check(&chart, &rendered, &scrape)?;
    match tool(arguments.promtool.as_ref(), "promtool")? {
        Some(promtool) => alerts::check_with_promtool(&promtool, &helm)?,
        None => println!(
            "skipped: the alerts' unit tests, for there is no promtool on the path; name one with the variable PROMTOOL"
        ),
    }
    Ok(())
}

fn done(what: &str) {
    println!("  {what}");
}

fn default_set(rendered: &[Rendered]) -> Result<&Rendered> {
    rendered
        .iter()
        .find(|set| set.name == "default")
        .context("there is no ci/default-values.yaml")
}

/// A named program must be there; one of the path may be missing.
fn tool(named: Option<&PathBuf>, name: &str) -> Result<Option<Tool>> {
    match named {
        Some(program) => {
            let tool = Tool::new(program);
            tool.path()
                .with_context(|| format!("there is no {}", program.display()))?;
            Ok(Some(tool))
        }
        None => Ok(Tool::new(name).path().map(Tool::new)),
    }
}
