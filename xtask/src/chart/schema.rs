//! values.schema.json: as tight as helm allows, in step with values.yaml.
//!
//! Types are written by hand; descriptions of what values.yaml describes are taken from there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::helm::read_yaml;
use super::values::{Comments, is_below};

/// The file's name.
pub(super) const FILE: &str = "values.schema.json";

/// Sections whose description tells of all their keys.
const ONE_DESCRIPTION: [&str; 1] = ["prometheusRule.alerts"];

/// Whether a node lists all keys that there may be: the chart's own structure, as opposed to values handed on whole.
fn is_closed(node: &Value) -> bool {
    node["additionalProperties"] == false
}

/// The schema's text with the descriptions of `comments`.
///
/// # Errors
/// If a described value is not in the schema.
pub(super) fn with_descriptions(text: &str, comments: &Comments) -> Result<String> {
    let mut schema: Value = serde_json::from_str(text).context(FILE)?;
    for key in &comments.documented {
        let mut node = Some(&mut schema);
        for name in key.path.split('.') {
            node = node.and_then(|node| node.get_mut("properties")?.get_mut(name));
        }
        let Some(Value::Object(node)) = node else {
            bail!("{FILE} has no {}", key.path);
        };
        // First, so that a reader meets it first.
        let mut described = Map::new();
        described.insert("description".to_owned(), key.description.clone().into());
        node.shift_remove("description");
        described.append(node);
        *node = described;
    }
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// The schema is closed where the chart has keys of its own, and describes each.
///
/// # Errors
/// With what is missing.
pub(super) fn check(chart: &Path) -> Result<()> {
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart.join(FILE))?)?;
    let values = read_yaml(&chart.join("values.yaml"))?;
    ensure!(is_closed(&schema), "{FILE} is open at the root");
    for name in ["global", "enabled"] {
        ensure!(
            !schema["properties"][name].is_null() && !is_closed(&schema["properties"][name]),
            "{FILE}: a parent chart may not set {name}"
        );
    }
    check_node(&schema, &values, "", false)
}

/// Looks below a node that lists the chart's own keys; what it leaves open is Kubernetes' or the user's.
fn check_node(node: &Value, value: &Value, path: &str, is_described: bool) -> Result<()> {
    if !is_closed(node) && path != "global" {
        return Ok(());
    }
    let empty = Map::new();
    let properties = node["properties"].as_object().unwrap_or(&empty);
    for key in value.as_object().into_iter().flat_map(Map::keys) {
        let path = join(path, key);
        ensure!(properties.contains_key(key), "{FILE} does not know {path}");
    }
    for (key, property) in properties {
        let path = join(path, key);
        let default = value.get(key);
        // What config.yaml may hold beyond the chart's defaults is the controller's to say.
        ensure!(
            default.is_some() || path.starts_with("config.") || path == "enabled",
            "values.yaml has no {path}, which {FILE} knows"
        );
        // The description of a section tells nothing of its keys, unless it is all that there is.
        let is_described = is_described || property["description"].is_string();
        let is_section = is_closed(property);
        ensure!(
            is_described || is_section,
            "{FILE} does not describe {path}"
        );
        let tells_all = default.is_none()
            || ONE_DESCRIPTION
                .iter()
                .any(|section| path == *section || is_below(&path, section));
        let default = default.unwrap_or(&Value::Null);
        check_node(property, default, &path, is_described && tells_all)?;
    }
    Ok(())
}

/// The values that are the chart's own structure: paths of everything that is not a closed mapping.
///
/// # Errors
/// If the schema cannot be read.
pub(super) fn units(chart: &Path, values: &Value) -> Result<Vec<String>> {
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart.join(FILE))?)?;
    let mut units = Vec::new();
    collect(&schema, values, "", &mut units);
    Ok(units)
}

fn collect(node: &Value, value: &Value, path: &str, units: &mut Vec<String>) {
    match value {
        Value::Object(entries) if is_closed(node) || path == "global" => {
            for (key, value) in entries {
                collect(&node["properties"][key], value, &join(path, key), units);
            }
        }
        _ => units.push(path.to_owned()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn units_end_where_values_are_handed_on_whole() {
        let schema = json!({"additionalProperties": false, "properties": {
            "a": {"additionalProperties": false, "properties": {"b": {"type": "string"}}},
            "c": {"type": "object"},
        }});
        let mut units = Vec::new();
        let values = json!({"a": {"b": ""}, "c": {"d": 1}});
        collect(&schema, &values, "", &mut units);
        assert_eq!(units, ["a.b", "c"]);
    }

    #[test]
    fn descriptions_come_first_and_are_replaced() {
        let comments = Comments::parse("# New.\na: 1\n");
        let old = r#"{"properties": {"a": {"type": "integer", "description": "Old."}}}"#;
        let new = with_descriptions(old, &comments).unwrap();
        assert!(new.contains("New.") && !new.contains("Old."));
        assert!(new.find("description") < new.find("type"));
        assert!(with_descriptions("{}", &comments).is_err());
    }

    #[test]
    fn a_key_that_only_one_side_knows_is_an_error() {
        let schema = json!({"additionalProperties": false, "properties": {
            "a": {"type": "string", "description": "A."},
        }});
        assert!(check_node(&schema, &json!({"a": ""}), "", false).is_ok());
        assert!(check_node(&schema, &json!({}), "", false).is_err());
        assert!(check_node(&schema, &json!({"a": "", "b": ""}), "", false).is_err());
    }
}
