//! Taints of nodes and whether a pod's tolerations tolerate them, as Kubernetes' scheduler and taint eviction decide it
//! (`ToleratesTaint` of k8s.io/component-helpers). Which untolerated taint leaves a node out is decided by
//! `eligibility`.

use std::fmt;

use k8s_openapi::api::core::v1::Toleration;

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; empty where it has none.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// The effect of a taint that keeps pods away.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// The effect of a taint that also evicts pods that are there.
pub const NO_EXECUTE: &str = "NoExecute";

impl Taint {
    /// Whether one of these tolerations tolerates it. For how long (`tolerationSeconds`) does not count.
    #[must_use]
    pub fn is_tolerated(&self, tolerations: &[Toleration]) -> bool {
        tolerations
            .iter()
            .any(|toleration| self.matches(toleration))
    }

    /// An empty key or effect of a toleration matches every one.
    fn matches(&self, toleration: &Toleration) -> bool {
        let fits = |wanted: &Option<String>, found: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted.is_empty() || wanted == found)
        };
        fits(&toleration.effect, &self.effect)
            && fits(&toleration.key, &self.key)
            && match toleration.operator.as_deref() {
                None | Some("" | "Equal") => {
                    toleration.value.as_deref().unwrap_or_default() == self.value
                }
                Some(operator) => operator == "Exists",
            }
    }
}

/// As kubectl writes it: `key=value:effect`, or `key:effect` without a value.
impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a toleration of key, operator, value and effect tolerates the taint `dedicated=db:NoSchedule`.
    fn tolerates([key, operator, value, effect]: [&str; 4]) -> bool {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let taint = Taint {
            key: "dedicated".to_owned(),
            value: "db".to_owned(),
            effect: NO_SCHEDULE.to_owned(),
        };
        taint.is_tolerated(&[Toleration {
            key: given(key),
            operator: given(operator),
            value: given(value),
            effect: given(effect),
            ..Toleration::default()
        }])
    }

    #[test]
    fn a_toleration_matches_as_in_kubernetes() {
        for (toleration, expected) in [
            (["dedicated", "Equal", "db", "NoSchedule"], true),
            (["dedicated", "", "db", "NoSchedule"], true),
            (["dedicated", "Equal", "db", ""], true),
            (["dedicated", "Equal", "web", "NoSchedule"], false),
            (["dedicated", "Equal", "", "NoSchedule"], false),
            (["dedicated", "Equal", "db", "NoExecute"], false),
            (["dedicated", "Exists", "", "NoSchedule"], true),
            (["dedicated", "Exists", "", ""], true),
            (["dedicated", "Exists", "web", ""], true),
            (["other", "Exists", "", ""], false),
            (["", "Exists", "", ""], true),
            (["", "Exists", "", "NoExecute"], false),
            (["dedicated", "Gt", "db", ""], false),
        ] {
            assert_eq!(tolerates(toleration), expected, "{toleration:?}");
        }
    }

    #[test]
    fn a_taint_reads_as_kubectl_writes_it() {
        let taint = |value: &str| Taint {
            key: "k".to_owned(),
            value: value.to_owned(),
            effect: NO_EXECUTE.to_owned(),
        };
        assert_eq!(taint("v").to_string(), "k=v:NoExecute");
        assert_eq!(taint("").to_string(), "k:NoExecute");
    }
}
