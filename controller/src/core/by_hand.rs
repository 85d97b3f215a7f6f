//! What people ask for with annotations of the ConfigMap: an execution now, or the end of the one in progress.
//!
//! A value that differs from the last one handled asks once. Any text is a plain trigger, such as the time that `date`
//! prints; one that begins with a brace is JSON and says over which nodes. How a value is carried out is not decided
//! here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ids::ExecutionId;
use super::label_selector;
use super::node_expression::NodeExpression;
use super::state::NodeState;
use super::summary::ExecutionSummary;

/// Annotation of the ConfigMap: a new value asks for an execution.
pub const ANNOTATION_TRIGGER: &str = "batch-job-controller.bakito.github.com/trigger";

/// Annotation of the ConfigMap: a new value asks for the end of the execution in progress.
pub const ANNOTATION_CANCEL: &str = "batch-job-controller.bakito.github.com/cancel";

/// The nodes of an earlier execution that are run again where nothing else is said: all that did not succeed.
const AGAIN: [NodeState; 3] = [NodeState::Failed, NodeState::Lost, NodeState::NotStarted];

/// The last values that were handled: carried out or refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handled {
    /// Of [`ANNOTATION_TRIGGER`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trigger: Option<String>,
    /// Of [`ANNOTATION_CANCEL`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel: Option<String>,
}

impl Handled {
    /// The values that the annotations of a ConfigMap have.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        Self {
            trigger: annotations.get(ANNOTATION_TRIGGER).cloned(),
            cancel: annotations.get(ANNOTATION_CANCEL).cloned(),
        }
    }
}

/// Over which of the eligible nodes an execution goes; nothing in it means all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selection {
    /// A label selector.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nodes: Option<String>,
    /// A kept execution, whose nodes in one of the states `only` it takes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<ExecutionId>,
    /// With `from`; empty means failed, lost and notStarted.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub only: Vec<NodeState>,
    /// Makes a value of the annotation differ from the one before; means nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
}

/// A [`Selection`] that can be applied to nodes.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    expressions: Vec<NodeExpression>,
    text: String,
    earlier: Option<(ExecutionId, BTreeSet<String>)>,
}

impl Selection {
    /// Reads a value of [`ANNOTATION_TRIGGER`].
    ///
    /// # Errors
    /// A line that names the field.
    pub fn parse(value: &str) -> Result<Self, String> {
        let value = value.trim();
        if !value.starts_with('{') {
            return Ok(Self::default());
        }
        let selection: Self = serde_json::from_str(value).map_err(|error| error.to_string())?;
        selection.check()?;
        Ok(selection)
    }

    /// Whether it can be applied.
    ///
    /// # Errors
    /// A line that names the field.
    pub fn check(&self) -> Result<(), String> {
        label_selector::parse(self.nodes.as_deref().unwrap_or_default())
            .map_err(|error| format!("nodes: {error}"))?;
        if self.from.is_none() && !self.only.is_empty() {
            return Err("only: found without from, want the id of an execution there".to_owned());
        }
        let running = self.only.iter().find(|state| !state.is_final());
        if let Some(state) = running {
            let state = state.as_str();
            return Err(format!(
                "only: found {state}, want states that a node can end in, such as failed,notStarted"
            ));
        }
        Ok(())
    }

    /// The value of [`ANNOTATION_TRIGGER`] that asks for this.
    #[must_use]
    pub fn value(&self) -> String {
        // Plain data: it always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What it selects. `earlier` is the summary of the execution `from`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn selected(&self, earlier: Option<&ExecutionSummary>) -> Result<Selected, String> {
        self.check()?;
        let text = self.nodes.clone().unwrap_or_default();
        let states = if self.only.is_empty() {
            &AGAIN[..]
        } else {
            &self.only
        };
        let named = earlier.map(|summary| {
            let nodes = summary.nodes.iter();
            let nodes = nodes.filter(|node| states.contains(&node.state));
            nodes.map(|node| node.node.clone()).collect()
        });
        Ok(Selected {
            expressions: label_selector::parse(&text).map_err(|error| format!("nodes: {error}"))?,
            text,
            earlier: self.from.clone().zip(named),
        })
    }
}

impl Selected {
    /// Why a node with these labels is left out; none where it is not.
    #[must_use]
    pub fn exclusion(&self, node: &str, labels: &BTreeMap<String, String>) -> Option<String> {
        let is_fulfilled = |expression: &NodeExpression| expression.matches(labels);
        if !self.expressions.iter().all(is_fulfilled) {
            return Some(format!("triggered for the nodes {}", self.text));
        }
        match &self.earlier {
            Some((id, nodes)) if !nodes.contains(node) => {
                Some(format!("triggered for some nodes of the execution {id}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_plain_trigger_and_a_brace_begins_json() {
        for plain in ["", "now", "Tue Nov 24 10:00:00 UTC 2026", "1"] {
            assert_eq!(Selection::parse(plain), Ok(Selection::default()), "{plain}");
        }
        let selection = Selection {
            nodes: Some("disk=ssd".to_owned()),
            from: ExecutionId::parse("202611240931"),
            only: vec![NodeState::Failed, NodeState::NotStarted],
            id: Some("7".to_owned()),
        };
        let value =
            r#"{"nodes":"disk=ssd","from":"202611240931","only":["failed","notStarted"],"id":"7"}"#;
        assert_eq!(selection.value(), value);
        assert_eq!(Selection::parse(value), Ok(selection));
    }

    #[test]
    fn a_value_that_cannot_be_carried_out_names_the_field() {
        for (value, part) in [
            (r#"{"nodes":"a b"}"#, "nodes: "),
            (r#"{"node":"a"}"#, "node"),
            (r#"{"from":"yesterday"}"#, "yesterday"),
            (r#"{"only":["failed"]}"#, "only: found without from"),
            (
                r#"{"from":"202611240931","only":["running"]}"#,
                "only: found running",
            ),
            (r#"{"from":"202611240931","only":["broken"]}"#, "broken"),
            ("{", "EOF"),
        ] {
            let error = Selection::parse(value).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
