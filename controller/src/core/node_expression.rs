//! One expression of `jobNodeExpressions` on a node's labels, with the meaning of Kubernetes' `matchExpressions`
//! (`nodeSelectorTerms`). Whether an expression is well formed is the configuration's business.

use std::collections::BTreeMap;
use std::fmt;

/// One expression on node labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExpression {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: NodeOperator,
    /// At least one with `In` and `NotIn`, none with `Exists` and `DoesNotExist`, one integer with `Gt` and `Lt`.
    pub values: Vec<String>,
}

/// How a node expression compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer greater than the value.
    Gt,
    /// The label is an integer less than the value.
    Lt,
}

impl NodeExpression {
    /// Whether these labels fulfil it. A label that `Gt` and `Lt` cannot read as an integer does not.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        let is_listed = |label: &String| self.values.contains(label);
        let numbers = || {
            let wanted: i64 = self.values.first()?.parse().ok()?;
            Some((label?.parse::<i64>().ok()?, wanted))
        };
        match self.operator {
            NodeOperator::In => label.is_some_and(is_listed),
            NodeOperator::NotIn => !label.is_some_and(is_listed),
            NodeOperator::Exists => label.is_some(),
            NodeOperator::DoesNotExist => label.is_none(),
            NodeOperator::Gt => numbers().is_some_and(|(label, wanted)| label > wanted),
            NodeOperator::Lt => numbers().is_some_and(|(label, wanted)| label < wanted),
        }
    }
}

/// `disk In [ssd, nvme]`, `gpu Exists`.
impl fmt::Display for NodeExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.key, self.operator)?;
        if !self.values.is_empty() {
            write!(f, " [{}]", self.values.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a node whose label `l` has that value (none: has no such label) matches.
    fn matches(operator: NodeOperator, values: &[&str], label: Option<&str>) -> bool {
        let expression = NodeExpression {
            key: "l".to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let labels = label.map(|value| ("l".to_owned(), value.to_owned()));
        expression.matches(&labels.into_iter().collect())
    }

    #[test]
    fn every_operator_means_what_kubernetes_means() {
        use NodeOperator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
        for (operator, values, label, expected) in [
            (In, &["a", "b"][..], Some("b"), true),
            (In, &["a", "b"], Some("c"), false),
            (In, &["a"], None, false),
            (NotIn, &["a"], Some("b"), true),
            (NotIn, &["a"], Some("a"), false),
            (NotIn, &["a"], None, true),
            (Exists, &[], Some(""), true),
            (Exists, &[], None, false),
            (DoesNotExist, &[], None, true),
            (DoesNotExist, &[], Some("a"), false),
            (Gt, &["4"], Some("5"), true),
            (Gt, &["4"], Some("4"), false),
            (Gt, &["4"], Some("16"), true),
            (Gt, &["4"], Some("many"), false),
            (Gt, &["4"], None, false),
            (Lt, &["4"], Some("-1"), true),
            (Lt, &["4"], Some("4"), false),
            (Lt, &["4"], Some("3.5"), false),
            (Lt, &["4"], None, false),
        ] {
            assert_eq!(
                matches(operator, values, label),
                expected,
                "{operator:?} {values:?} of {label:?}"
            );
        }
    }
}
