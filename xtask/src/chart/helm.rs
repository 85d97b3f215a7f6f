//! Helm: the chart rendered and parsed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::tool::Tool;

/// The release of every rendering.
pub(super) const RELEASE: &str = "batch";

/// Where it is installed.
pub(super) const NAMESPACE: &str = "operations";

/// What a cluster with the Prometheus operator knows.
const APIS: [&str; 3] = [
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
];

/// The end of the names of value sets.
const SET_SUFFIX: &str = "-values.yaml";

/// A helm and the chart that it renders.
#[derive(Debug)]
pub(super) struct Helm {
    tool: Tool,
    chart: PathBuf,
}

/// A value set and what it renders to.
#[derive(Debug)]
pub(super) struct Rendered {
    /// The file's name without its end.
    pub name: String,
    pub documents: Vec<Value>,
}

impl Helm {
    pub(super) fn new(tool: Tool, chart: PathBuf) -> Self {
        Self { tool, chart }
    }

    /// The same helm with another chart.
    pub(super) fn of(&self, chart: &Path) -> Self {
        Self::new(self.tool.clone(), chart.to_owned())
    }

    pub(super) fn chart(&self) -> &Path {
        &self.chart
    }

    /// The value sets: name and file, in the order of their names.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn value_sets(&self) -> Result<Vec<(String, PathBuf)>> {
        let folder = self.chart.join("ci");
        let mut sets = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(SET_SUFFIX).with_context(|| {
                format!(
                    "{} is not named like a value set: *{SET_SUFFIX}",
                    file.display()
                )
            })?;
            sets.push((name.to_owned(), file.clone()));
        }
        sets.sort();
        Ok(sets)
    }

    /// Lints and renders every value set, twice: rendering depends on nothing but values.
    ///
    /// # Errors
    /// With what helm says, or where a document is not what YAML allows.
    pub(super) fn render_all(&self) -> Result<Vec<Rendered>> {
        let mut rendered = Vec::new();
        for (name, file) in self.value_sets()? {
            let file = file.display().to_string();
            self.tool.output([
                "lint",
                "--strict",
                &self.chart_argument(),
                "--values",
                &file,
            ])?;
            let text = self.template(&["--values", &file])?;
            ensure!(
                text == self.template(&["--values", &file])?,
                "value set {name} renders differently the second time"
            );
            let documents = documents(&text).with_context(|| format!("value set {name}"))?;
            rendered.push(Rendered { name, documents });
        }
        Ok(rendered)
    }

    /// What `helm template` prints.
    ///
    /// # Errors
    /// With what helm says.
    pub(super) fn template(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["template", RELEASE, "--namespace", NAMESPACE];
        for api in &APIS {
            all.extend(["--api-versions", api]);
        }
        let chart = self.chart_argument();
        all.push(&chart);
        all.extend(arguments);
        self.tool.output(all)
    }

    /// The documents of a rendering.
    ///
    /// # Errors
    /// As [`Self::template`], or where a document is not what YAML allows.
    pub(super) fn render(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        documents(&self.template(arguments)?)
    }

    /// The sentence with which helm refuses.
    ///
    /// # Errors
    /// If it does not.
    pub(super) fn refusal(&self, arguments: &[&str]) -> Result<String> {
        match self.template(arguments) {
            Ok(_) => bail!("helm template {} is not refused", arguments.join(" ")),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    fn chart_argument(&self) -> String {
        self.chart.display().to_string()
    }
}

/// The documents of a text, without empty ones. A key that is there twice is an error, as it is for the API server.
fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The one YAML document of a file.
///
/// # Errors
/// If it cannot be read or parsed.
pub(super) fn read_yaml(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| file.display().to_string())
}

/// The objects of one kind.
pub(super) fn of_kind<'d>(
    documents: &'d [Value],
    kind: &'d str,
) -> impl Iterator<Item = &'d Value> {
    documents
        .iter()
        .filter(move |document| document["kind"] == kind)
}

/// The one object of a kind.
///
/// # Errors
/// If there is none, or several.
pub(super) fn the<'d>(documents: &'d [Value], kind: &'d str) -> Result<&'d Value> {
    let mut found = of_kind(documents, kind);
    let first = found
        .next()
        .with_context(|| format!("there is no {kind}"))?;
    ensure!(found.next().is_none(), "there are several of kind {kind}");
    Ok(first)
}

/// The ConfigMap that the controller reads.
///
/// # Errors
/// If there is none.
pub(super) fn config_map(documents: &[Value]) -> Result<&Value> {
    of_kind(documents, "ConfigMap")
        .find(|map| map["data"]["config.yaml"].is_string())
        .context("there is no ConfigMap with config.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart_and_a_key_given_twice_is_an_error() {
        let text = "---\n# nothing\n---\nkind: A\n---\nkind: B\n";
        let found = documents(text).unwrap();
        assert_eq!(found.len(), 2);
        assert!(the(&found, "A").is_ok() && the(&found, "C").is_err());
        assert!(documents("a: 1\na: 2\n").is_err());
    }
}
