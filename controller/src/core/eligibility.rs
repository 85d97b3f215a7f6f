//! Which nodes get a job pod: labels match, Ready is True, and schedulable unless allowed.

use std::collections::BTreeMap;

use super::state::Reason;
use super::views::NodeView;

/// The rules of one execution, from `jobNodeSelector` and `runOnUnscheduledNodes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Eligibility {
    /// Labels that a node must carry, with these values.
    pub node_selector: BTreeMap<String, String>,
    /// Whether cordoned nodes get a job pod.
    pub run_on_unscheduled_nodes: bool,
}

impl Eligibility {
    /// Why the node is left out, with a message for people; none where it is eligible.
    #[must_use]
    pub fn exclusion(&self, node: &NodeView) -> Option<(Reason, String)> {
        if let Some((key, value)) = self.missing_label(node) {
            let found = node.labels.get(key).map_or_else(
                || "the label is missing".to_owned(),
                |found| format!("it is {found:?}"),
            );
            return Some((
                Reason::NodeSelector,
                format!("jobNodeSelector wants {key}={value}, {found}"),
            ));
        }
        if !node.ready {
            return Some((Reason::NotReady, "condition Ready is not True".to_owned()));
        }
        if node.unschedulable && !self.run_on_unscheduled_nodes {
            return Some((
                Reason::Unschedulable,
                "cordoned, and runOnUnscheduledNodes is false".to_owned(),
            ));
        }
        None
    }

    fn missing_label(&self, node: &NodeView) -> Option<(&String, &String)> {
        self.node_selector
            .iter()
            .find(|(key, value)| node.labels.get(*key) != Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeView {
        NodeView {
            name: "node-a".to_owned(),
            labels: BTreeMap::from([("pool".to_owned(), "blue".to_owned())]),
            ready: true,
            ..NodeView::default()
        }
    }

    fn reason(rules: &Eligibility, node: &NodeView) -> Option<Reason> {
        rules.exclusion(node).map(|(reason, _)| reason)
    }

    #[test]
    fn a_ready_schedulable_node_is_eligible() {
        assert_eq!(reason(&Eligibility::default(), &node()), None);
    }

    #[test]
    fn a_node_that_is_not_ready_is_excluded_even_when_cordoned_nodes_are_allowed() {
        let rules = Eligibility {
            run_on_unscheduled_nodes: true,
            ..Eligibility::default()
        };
        let node = NodeView {
            ready: false,
            unschedulable: true,
            ..node()
        };
        assert_eq!(reason(&rules, &node), Some(Reason::NotReady));
    }

    #[test]
    fn a_cordoned_node_is_excluded_unless_allowed() {
        let cordoned = NodeView {
            unschedulable: true,
            ..node()
        };
        let allowed = Eligibility {
            run_on_unscheduled_nodes: true,
            ..Eligibility::default()
        };
        assert_eq!(
            reason(&Eligibility::default(), &cordoned),
            Some(Reason::Unschedulable)
        );
        assert_eq!(reason(&allowed, &cordoned), None);
    }

    #[test]
    fn every_label_of_the_selector_must_match() {
        let rules = |value: &str| Eligibility {
            node_selector: BTreeMap::from([("pool".to_owned(), value.to_owned())]),
            ..Eligibility::default()
        };
        assert_eq!(reason(&rules("blue"), &node()), None);
        let (reason, message) = rules("green")
            .exclusion(&node())
            .unwrap_or((Reason::NotReady, String::new()));
        assert_eq!(reason, Reason::NodeSelector);
        assert_eq!(message, "jobNodeSelector wants pool=green, it is \"blue\"");
    }
}
