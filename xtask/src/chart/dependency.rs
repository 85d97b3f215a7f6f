//! The chart below another: values by its name or an alias, `global` from the parent, a condition that switches it off.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::helm::{Helm, of_kind, the};

const PARENT: &str = "apiVersion: v2
name: parent
version: 1.0.0
dependencies:
  - name: batch-job-controller
    version: '*'
    alias: checks
    condition: checks.enabled
";

const VALUES: &str = "
global:
  imageRegistry: registry.example.com
  of-another-chart: {kept: true}
checks:
  enabled: true
  config: {cronExpression: '@hourly'}
";

/// Renders it so.
///
/// # Errors
/// If it does not render, or without what the parent says.
pub(super) fn check(helm: &Helm) -> Result<()> {
    let parent = tempfile::tempdir()?;
    fs::write(parent.path().join("Chart.yaml"), PARENT)?;
    fs::write(parent.path().join("values.yaml"), VALUES)?;
    copy(
        helm.chart(),
        &parent.path().join("charts/batch-job-controller"),
    )?;
    let parent = helm.of(parent.path());

    let documents = parent.render(&[])?;
    let deployment = the(&documents, "Deployment")?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap_or_default();
    ensure!(
        image.starts_with("registry.example.com/"),
        "the registry of the parent is not heeded: {image}"
    );
    let configured = of_kind(&documents, "ConfigMap").any(|map| {
        let config = map["data"]["config.yaml"].as_str().unwrap_or_default();
        config.contains("@hourly")
    });
    ensure!(configured, "the values of the parent are not heeded");
    let off = parent.render(&["--set", "checks.enabled=false"])?;
    ensure!(off.is_empty(), "it renders although it is switched off");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
