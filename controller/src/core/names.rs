//! Names and labels of job pods.
//!
//! A pod's name is `<name>-job-<node up to its first dot>-<id>`, with `-<attempt>` from the second attempt on, as the
//! original has it; where that is not unique in the node list, is too long or is no pod name, a short hash of the full
//! node name is added. The names of an execution depend on its frozen node list alone, so that every leader computes
//! the same ones. Whose pod holds a name is not decided here.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::hex::lower_hex;
use super::ids::ExecutionId;

/// Label of a job pod: the controller's name.
pub const LABEL_OWNER: &str = "batch-job-controller.bakito.github.com/owner";

/// Label of a job pod: its execution's id.
pub const LABEL_EXECUTION_ID: &str = "batch-job-controller.bakito.github.com/execution-id";

/// Longest name of a pod: a DNS subdomain.
pub const POD_NAME_MAX_LENGTH: usize = 253;

/// Hexadecimal digits of the hash in a name: among 5,000 nodes two share it once in 300 million lists.
const HASH_DIGITS: usize = 12;

/// The names that the pod of one node may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNames {
    /// The name to create it under.
    pub name: String,
    /// The name with the node's hash, for where somebody else's pod holds the first; the same where that has it too.
    pub alternative: String,
}

/// The names of the first attempts of an execution, in the order of the node list.
#[must_use]
pub fn pod_names<'a>(
    controller: &str,
    id: &ExecutionId,
    nodes: impl IntoIterator<Item = &'a str>,
) -> Vec<PodNames> {
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &nodes {
        *holders.entry(host(node)).or_default() += 1;
    }
    nodes
        .iter()
        .map(|node| {
            let alternative = hashed_pod_name(controller, node, id);
            let name = plain_pod_name(controller, node, id);
            let is_shared = holders.get(host(node)).is_some_and(|count| *count > 1);
            let name = if is_shared || !is_dns_subdomain(&name) {
                alternative.clone()
            } else {
                name
            };
            PodNames { name, alternative }
        })
        .collect()
}

/// The name without a hash: what the original would give, whatever else is in the list.
#[must_use]
pub fn plain_pod_name(controller: &str, node: &str, id: &ExecutionId) -> String {
    format!("{controller}-job-{}-{id}", host(node))
}

/// The ConfigMap with the state record of a controller.
#[must_use]
pub fn state_record(controller: &str) -> String {
    format!("{controller}-state")
}

/// The Secret with the key that the replicas of a controller share.
#[must_use]
pub fn callback_secret(controller: &str) -> String {
    format!("{controller}-callback")
}

/// The name of a further attempt; `first` is the name of the first one. Attempts count from 1.
#[must_use]
pub fn attempt_pod_name(first: &str, node: &str, id: &ExecutionId, attempt: u32) -> String {
    if attempt <= 1 {
        return first.to_owned();
    }
    let suffix = format!("-{attempt}");
    if first.len() + suffix.len() <= POD_NAME_MAX_LENGTH {
        return format!("{first}{suffix}");
    }
    // Only a name without hash can be this long: hashed ones leave room.
    with_hash(
        first.strip_suffix(&format!("-{id}")).unwrap_or(first),
        node,
        id,
    ) + &suffix
}

/// The name with the hash of the node; it leaves room for the number of an attempt.
fn hashed_pod_name(controller: &str, node: &str, id: &ExecutionId) -> String {
    with_hash(&format!("{controller}-job-{}", host(node)), node, id)
}

fn with_hash(prefix: &str, node: &str, id: &ExecutionId) -> String {
    /// `-` and the ten digits of the largest attempt.
    const ATTEMPT_LENGTH: usize = 11;
    let ending = format!("-{id}-{}", short_hash(node));
    let cleaned: String = prefix
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .take(POD_NAME_MAX_LENGTH - ATTEMPT_LENGTH - ending.len())
        .collect();
    format!("{}{ending}", cleaned.trim_matches('-'))
}

/// A node's name up to its first dot.
fn host(node: &str) -> &str {
    node.split_once('.').map_or(node, |(host, _)| host)
}

fn short_hash(node: &str) -> String {
    lower_hex(&Sha256::digest(node.as_bytes())[..HASH_DIGITS / 2])
}

/// Whether Kubernetes takes it as the name of a pod or a node: a DNS subdomain.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(is_edge)
            && bytes.last().is_some_and(is_edge)
            && bytes.iter().all(|byte| is_edge(byte) || *byte == b'-')
    };
    name.len() <= POD_NAME_MAX_LENGTH && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn id() -> ExecutionId {
        ExecutionId::parse("202611232359").unwrap()
    }

    fn names(nodes: &[&str]) -> Vec<String> {
        pod_names("audit", &id(), nodes.iter().copied())
            .into_iter()
            .map(|names| names.name)
            .collect()
    }

    #[test]
    fn a_name_is_made_of_controller_host_and_execution() {
        assert_eq!(
            names(&["node-a.example.com"]),
            ["audit-job-node-a-202611232359"]
        );
    }

    #[test]
    fn nodes_that_share_a_host_name_get_their_hash() {
        let names = names(&["a.one", "b", "a.two", "a"]);
        assert_eq!(names[1], "audit-job-b-202611232359");
        for index in [0, 2, 3] {
            assert!(
                names[index].starts_with("audit-job-a-202611232359-"),
                "{names:?}"
            );
        }
        assert_eq!(BTreeSet::from_iter(&names).len(), 4);
    }

    #[test]
    fn a_name_that_is_too_long_gets_the_hash_instead_of_its_end() {
        let node = "n".repeat(250);
        let name = names(&[&node]).remove(0);
        assert!(
            name.len() <= POD_NAME_MAX_LENGTH && is_dns_subdomain(&name),
            "{name}"
        );
        assert!(name.contains("-202611232359-"), "{name}");
    }

    #[test]
    fn the_second_attempt_is_numbered() {
        let first = plain_pod_name("audit", "node-a", &id());
        assert_eq!(attempt_pod_name(&first, "node-a", &id(), 1), first);
        assert_eq!(
            attempt_pod_name(&first, "node-a", &id(), 2),
            "audit-job-node-a-202611232359-2"
        );
        let long = plain_pod_name("audit", &"n".repeat(229), &id());
        assert!(is_dns_subdomain(&attempt_pod_name(
            &long,
            &"n".repeat(229),
            &id(),
            12
        )));
    }

    #[test]
    fn the_alternative_differs_from_a_plain_name() {
        let names = pod_names("audit", &id(), ["node-a"]).remove(0);
        assert_ne!(names.name, names.alternative);
        assert!(is_dns_subdomain(&names.alternative));
    }

    proptest::proptest! {
        #[test]
        fn names_are_unique_and_valid(
            controller in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            nodes in proptest::collection::btree_set("[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?(\\.[a-c]){0,3}", 1..20),
            attempt in 1_u32..,
        ) {
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let names = pod_names(&controller, &id(), nodes.iter().copied());
            let mut seen = BTreeSet::new();
            for (node, names) in nodes.iter().zip(&names) {
                for name in [
                    attempt_pod_name(&names.name, node, &id(), attempt),
                    attempt_pod_name(&names.alternative, node, &id(), attempt),
                ] {
                    proptest::prop_assert!(is_dns_subdomain(&name), "{}", name);
                }
                proptest::prop_assert!(seen.insert(names.name.clone()));
            }
        }
    }
}
