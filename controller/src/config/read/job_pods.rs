//! What job pods get and on which nodes they run: service account, pull secrets, node labels. Names follow Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LocalObjectReference;
use serde_json::Value;

use super::super::raw::{Findings, Section, join, shown};
use super::super::values;
use super::super::{NodeExpression, NodeOperator};

const LABEL_KEY: &str = "a label key, such as disk or example.com/disk";
const LABEL_VALUE: &str =
    "a label value: at most 63 letters, digits, -, _ and ., a letter or digit at both ends";

/// An empty one is none.
pub(super) fn read_service_account(root: &mut Section<'_>) -> Option<String> {
    let wanted = "an object's name (lower-case letters, digits, - and .) or an empty text";
    let name = root.optional("jobServiceAccount", wanted, |value| {
        values::text(value).filter(|name| name.is_empty() || values::is_object_name(name))
    });
    name.filter(|name| !name.is_empty())
}

/// Both spellings: the sample of the original has the one, its code read the other.
pub(super) fn read_pull_secrets(
    root: &mut Section<'_>,
    findings: &Findings,
) -> Vec<LocalObjectReference> {
    let current = read_secrets(root, "jobImagePullSecrets", findings);
    let original = read_secrets(root, "imagePullSecrets", findings);
    if original.is_empty() || original == current {
        return current;
    }
    if !current.is_empty() {
        let message = "ignored, since imagePullSecrets is set too and is what counted so far";
        findings.warn("jobImagePullSecrets", message);
    }
    original
}

/// An empty mapping, as in the original's sample, is an empty list.
fn read_secrets(
    root: &mut Section<'_>,
    name: &str,
    findings: &Findings,
) -> Vec<LocalObjectReference> {
    let items = root.optional(name, "a list of {name: …}", |value| match value {
        Value::Array(items) => Some(items.clone()),
        Value::Object(entries) if entries.is_empty() => Some(Vec::new()),
        _ => None,
    });
    let items = items.unwrap_or_default().into_iter().enumerate();
    items
        .filter_map(|(index, item)| read_secret(&format!("{name}[{index}]"), item, findings))
        .collect()
}

fn read_secret(path: &str, item: Value, findings: &Findings) -> Option<LocalObjectReference> {
    let mut section = item_section(path, item, "a mapping {name: …}", findings)?;
    let name = section.required("name", "the name of a Secret", |value| {
        values::text(value).filter(|name| values::is_object_name(name))
    });
    name.map(|name| LocalObjectReference { name })
}

pub(super) fn read_node_selector(
    root: &mut Section<'_>,
    findings: &Findings,
) -> BTreeMap<String, String> {
    let path = root.path_of("jobNodeSelector");
    let mut selector = BTreeMap::new();
    for (key, value) in root.mapping("jobNodeSelector", "a mapping of label keys to values") {
        let key_path = join(&path, &key);
        if !values::is_label_key(&key) {
            let found = format!("the key {}", shown(&Value::String(key)));
            findings.error(key_path, found, LABEL_KEY);
            continue;
        }
        match values::scalar_as_text(&value).filter(|value| values::is_label_value(value)) {
            Some(value) => _ = selector.insert(key, value),
            None => findings.wrong_value(key_path, &value, LABEL_VALUE),
        }
    }
    selector
}

pub(super) fn read_node_expressions(
    root: &mut Section<'_>,
    findings: &Findings,
) -> Vec<NodeExpression> {
    let items = root.list("jobNodeExpressions", "a list of {key, operator, values}");
    items
        .into_iter()
        .filter_map(|(path, item)| read_node_expression(&path, item, findings))
        .collect()
}

fn read_node_expression(path: &str, item: Value, findings: &Findings) -> Option<NodeExpression> {
    let mut section = item_section(path, item, "a mapping {key, operator, values}", findings)?;
    let key = section.required("key", LABEL_KEY, |value| {
        values::text(value).filter(|key| values::is_label_key(key))
    });
    let operators = "In, NotIn, Exists, DoesNotExist, Gt or Lt";
    let operator = section.required("operator", operators, |value| operator(value.as_str()?));
    let values_path = section.path_of("values");
    let items = section.optional("values", "a list of label values", |value| {
        value.as_array().cloned()
    });
    let values = read_label_values(&values_path, items.as_deref().unwrap_or_default(), findings);
    let (key, operator, values) = (key?, operator?, values?);
    if let Some(wanted) = wanted_values(operator, &values)
        && !findings.any_wrong(&[&values_path])
    {
        let found = items.map_or_else(|| "nothing".to_owned(), |items| shown(&Value::Array(items)));
        findings.error(values_path, found, wanted);
    }
    Some(NodeExpression {
        key,
        operator,
        values,
    })
}

fn operator(spelling: &str) -> Option<NodeOperator> {
    Some(match spelling {
        "In" => NodeOperator::In,
        "NotIn" => NodeOperator::NotIn,
        "Exists" => NodeOperator::Exists,
        "DoesNotExist" => NodeOperator::DoesNotExist,
        "Gt" => NodeOperator::Gt,
        "Lt" => NodeOperator::Lt,
        _ => return None,
    })
}

/// `None` if one of them is wrong.
fn read_label_values(path: &str, items: &[Value], findings: &Findings) -> Option<Vec<String>> {
    let mut values = Some(Vec::new());
    for (index, item) in items.iter().enumerate() {
        let text = values::scalar_as_text(item)
            .filter(|text| !item.is_null() && values::is_label_value(text));
        if text.is_none() {
            findings.wrong_value(format!("{path}[{index}]"), item, LABEL_VALUE);
        }
        values = values.zip(text).map(|(mut values, text)| {
            values.push(text);
            values
        });
    }
    values
}

/// What this operator wants of its values, if they are not it.
fn wanted_values(operator: NodeOperator, values: &[String]) -> Option<&'static str> {
    let (right, wanted) = match operator {
        NodeOperator::In | NodeOperator::NotIn => (
            !values.is_empty(),
            "at least one value for the operators In and NotIn",
        ),
        NodeOperator::Exists | NodeOperator::DoesNotExist => (
            values.is_empty(),
            "no values for the operators Exists and DoesNotExist",
        ),
        NodeOperator::Gt | NodeOperator::Lt => (
            matches!(values, [value] if value.parse::<i64>().is_ok()),
            "exactly one integer for the operators Gt and Lt",
        ),
    };
    (!right).then_some(wanted)
}

/// An item of a list that must be a mapping.
fn item_section<'a>(
    path: &str,
    item: Value,
    wanted: &str,
    findings: &'a Findings,
) -> Option<Section<'a>> {
    match item {
        Value::Object(entries) => Some(Section::new(path, entries, findings)),
        other => {
            findings.wrong_value(path, &other, wanted);
            None
        }
    }
}
