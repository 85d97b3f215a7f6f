//! Every value has an effect: a value set with it renders something else than the same set without it.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::helm::{Helm, read_yaml};
use super::{refusals, schema, values};

/// Looks for an effect of each of the chart's own values; returns how many there are.
///
/// # Errors
/// With the values that no set under ci/ has otherwise than values.yaml, or that change nothing.
pub(super) fn check(helm: &Helm, chart: &Path) -> Result<usize> {
    let defaults = read_yaml(&chart.join("values.yaml"))?;
    let mut sets = Vec::new();
    for (_, file) in helm.value_sets()? {
        sets.push(read_yaml(&file)?);
    }
    let units = schema::units(chart, &defaults)?;
    let mut without = Vec::new();
    for unit in &units {
        let default = values::at(&defaults, unit);
        let mut has_effect = refusals::mentions(unit);
        for set in &sets {
            let value = values::at(set, unit);
            if !has_effect && value.is_some() && value != default {
                let mut rest = set.clone();
                remove(&mut rest, unit);
                has_effect = render(helm, set)? != render(helm, &rest)?;
            }
        }
        if !has_effect {
            without.push(unit.as_str());
        }
    }
    ensure!(
        without.is_empty(),
        "no value set under ci/ shows an effect of {}",
        without.join(", ")
    );
    Ok(units.len())
}

fn render(helm: &Helm, set: &Value) -> Result<String> {
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    serde_json::to_writer(&file, set)?;
    helm.template(&["--values", &file.path().display().to_string()])
}

fn remove(values: &mut Value, path: &str) {
    match path.split_once('.') {
        Some((key, rest)) => {
            if let Some(inner) = values.get_mut(key) {
                remove(inner, rest);
            }
        }
        None => {
            if let Value::Object(entries) = values {
                entries.shift_remove(path);
            }
        }
    }
}
