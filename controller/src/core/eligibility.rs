//! Which nodes get a job pod: labels match, Ready is True, schedulable unless allowed, and no taint in the way.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;

use super::node_expression::NodeExpression;
use super::state::Reason;
use super::taint::{NO_EXECUTE, NO_SCHEDULE, Taint};
use super::views::NodeView;

/// The rules of one execution, from the keys of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Eligibility {
    /// Labels that a node must carry, with these values.
    pub node_selector: BTreeMap<String, String>,
    /// Expressions on a node's labels, all of which must hold.
    pub node_expressions: Vec<NodeExpression>,
    /// Whether cordoned nodes get a job pod.
    pub run_on_unscheduled_nodes: bool,
    /// What becomes of nodes with a `NoSchedule` taint that the job pod does not tolerate.
    pub untolerated_taints: UntoleratedTaints,
}

/// What becomes of nodes with a `NoSchedule` taint that the job pod does not tolerate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UntoleratedTaints {
    /// They run: job pods name their node and bypass the scheduler.
    #[default]
    Run,
    /// They are left out.
    Skip,
}

/// The taint of a cordoned node: `runOnUnscheduledNodes` decides instead.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// `NoExecute` taints that every pod tolerates for a while (admission plugin `DefaultTolerationSeconds`) and that go
/// with the condition: Ready decides instead.
const FOLLOW_READY: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

impl Eligibility {
    /// Why the node is left out, with a message for people; none where it is eligible. `tolerations` gives those of its
    /// job pod; it is asked only where a taint matters, because the template may have to be rendered for it.
    #[must_use]
    pub fn exclusion(
        &self,
        node: &NodeView,
        tolerations: impl FnOnce() -> Vec<Toleration>,
    ) -> Option<(Reason, String)> {
        if let Some((key, value)) = self.missing_label(node) {
            let found = found_label(node, key);
            return Some((
                Reason::NodeSelector,
                format!("jobNodeSelector wants {key}={value}, {found}"),
            ));
        }
        let mut expressions = self.node_expressions.iter();
        if let Some(failed) = expressions.find(|expression| !expression.matches(&node.labels)) {
            let found = found_label(node, &failed.key);
            return Some((
                Reason::NodeExpression,
                format!("jobNodeExpressions want {failed}, {found}"),
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
        self.untolerated(node, tolerations)
    }

    fn missing_label(&self, node: &NodeView) -> Option<(&String, &String)> {
        self.node_selector
            .iter()
            .find(|(key, value)| node.labels.get(*key) != Some(value))
    }

    fn untolerated(
        &self,
        node: &NodeView,
        tolerations: impl FnOnce() -> Vec<Toleration>,
    ) -> Option<(Reason, String)> {
        let mut taints = node
            .taints
            .iter()
            .filter(|taint| self.counts(taint))
            .peekable();
        taints.peek()?;
        let tolerations = tolerations();
        let taint = taints.find(|taint| !taint.is_tolerated(&tolerations))?;
        let why = if taint.effect == NO_EXECUTE {
            "it would evict the job pod at once"
        } else {
            "untoleratedTaints is skip"
        };
        let message = format!("the pod template does not tolerate the taint {taint}: {why}");
        Some((Reason::Taint, message))
    }

    /// Whether the taint leaves a node out where it is not tolerated.
    fn counts(&self, taint: &Taint) -> bool {
        let key = taint.key.as_str();
        match taint.effect.as_str() {
            NO_EXECUTE => !FOLLOW_READY.contains(&key),
            NO_SCHEDULE => self.untolerated_taints == UntoleratedTaints::Skip && key != CORDONED,
            _ => false,
        }
    }
}

fn found_label(node: &NodeView, key: &str) -> String {
    node.labels.get(key).map_or_else(
        || "the label is missing".to_owned(),
        |found| format!("it is {found:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::node_expression::NodeOperator;
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
        rules.exclusion(node, Vec::new).map(|(reason, _)| reason)
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
            .exclusion(&node(), Vec::new)
            .unwrap_or((Reason::NotReady, String::new()));
        assert_eq!(reason, Reason::NodeSelector);
        assert_eq!(message, "jobNodeSelector wants pool=green, it is \"blue\"");
    }

    #[test]
    fn every_expression_must_hold() {
        let rules = |operator, values: &[&str]| Eligibility {
            node_expressions: vec![NodeExpression {
                key: "pool".to_owned(),
                operator,
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
            ..Eligibility::default()
        };
        assert_eq!(reason(&rules(NodeOperator::Exists, &[]), &node()), None);
        let excluded = rules(NodeOperator::NotIn, &["blue", "red"]).exclusion(&node(), Vec::new);
        let message = "jobNodeExpressions want pool NotIn [blue, red], it is \"blue\"";
        assert_eq!(excluded, Some((Reason::NodeExpression, message.to_owned())));
    }

    fn tainted(key: &str, effect: &str) -> NodeView {
        NodeView {
            taints: vec![Taint {
                key: key.to_owned(),
                value: "db".to_owned(),
                effect: effect.to_owned(),
            }],
            ..node()
        }
    }

    fn tolerating(key: &str) -> Vec<Toleration> {
        vec![Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        }]
    }

    #[test]
    fn an_untolerated_no_schedule_taint_counts_only_where_it_is_skipped() {
        let skip = Eligibility {
            untolerated_taints: UntoleratedTaints::Skip,
            run_on_unscheduled_nodes: true,
            ..Eligibility::default()
        };
        let node = tainted("dedicated", NO_SCHEDULE);
        assert_eq!(reason(&Eligibility::default(), &node), None);
        assert_eq!(
            skip.exclusion(&node, Vec::new),
            Some((
                Reason::Taint,
                "the pod template does not tolerate the taint dedicated=db:NoSchedule: untoleratedTaints is skip"
                    .to_owned()
            ))
        );
        assert_eq!(skip.exclusion(&node, || tolerating("dedicated")), None);
        assert_eq!(reason(&skip, &tainted("x", "PreferNoSchedule")), None);
        assert_eq!(reason(&skip, &tainted(CORDONED, NO_SCHEDULE)), None);
    }

    #[test]
    fn an_untolerated_no_execute_taint_always_counts_unless_the_condition_ready_decides() {
        let rules = Eligibility::default();
        let node = tainted("flaky", NO_EXECUTE);
        assert_eq!(reason(&rules, &node), Some(Reason::Taint));
        assert_eq!(rules.exclusion(&node, || tolerating("flaky")), None);
        assert_eq!(rules.exclusion(&node, || tolerating("")), None);
        assert_eq!(reason(&rules, &tainted(FOLLOW_READY[0], NO_EXECUTE)), None);
    }
}
