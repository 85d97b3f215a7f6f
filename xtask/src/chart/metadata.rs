//! Chart.yaml: the version of the product, and the images that the defaults run.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::helm::{Rendered, config_map, read_yaml, the};

/// Where Artifact Hub looks for the images.
const IMAGES: &str = "artifacthub.io/images";

/// Compares Chart.yaml with the workspace and with what the defaults render to.
///
/// # Errors
/// With what differs.
pub(super) fn check(chart: &Path, defaults: &Rendered) -> Result<()> {
    let chart = read_yaml(&chart.join("Chart.yaml"))?;
    let version = env!("CARGO_PKG_VERSION");
    ensure!(
        chart["appVersion"] == version,
        "Chart.yaml: appVersion is {}, the workspace's version {version}",
        chart["appVersion"]
    );
    let annotation = chart["annotations"][IMAGES].as_str();
    let images: Value = serde_saphyr::from_str(annotation.unwrap_or_default())?;
    let listed: BTreeSet<&str> = (images.as_array().into_iter().flatten())
        .filter_map(|image| image["image"].as_str())
        .collect();

    let deployment = the(&defaults.documents, "Deployment")?;
    let template = config_map(&defaults.documents)?["data"]["pod-template.yaml"].as_str();
    let job: Value = serde_saphyr::from_str(template.unwrap_or_default())?;
    let image = |pod: &Value| {
        let image = pod.pointer("/spec/containers/0/image");
        let image = image.and_then(Value::as_str).map(str::to_owned);
        image.context("a pod has no image")
    };
    let (controller, job) = (image(&deployment["spec"]["template"])?, image(&job)?);
    let run = BTreeSet::from([controller.as_str(), job.as_str()]);
    ensure!(
        listed == run,
        "Chart.yaml: {IMAGES} lists {listed:?}, the defaults run {run:?}"
    );
    Ok(())
}
