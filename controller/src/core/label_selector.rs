//! A label selector as kubectl takes it (`disk=ssd,zone in (a,b),!virtual`), read into expressions on a node's labels.
//!
//! Deliberately not here: what an expression means; that is `node_expression`, which `jobNodeExpressions` shares.

use super::node_expression::{NodeExpression, NodeOperator};

/// Longest name and value of a label, in bytes.
const LABEL_MAX: usize = 63;

/// Signs between a key and its value; those that hold another come first.
const SIGNS: [(&str, NodeOperator); 5] = [
    ("!=", NodeOperator::NotIn),
    ("==", NodeOperator::In),
    ("=", NodeOperator::In),
    (">", NodeOperator::Gt),
    ("<", NodeOperator::Lt),
];

/// Reads a selector. Every expression must hold; an empty text selects everything.
///
/// # Errors
/// A line that names the part which is none.
pub fn parse(text: &str) -> Result<Vec<NodeExpression>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split(text).into_iter().map(requirement).collect()
}

/// At commas outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .collect()
}

fn requirement(part: &str) -> Result<NodeExpression, String> {
    let unreadable = || {
        format!(
            "found {:?}, want a label selector such as disk=ssd, zone in (a,b) or !virtual",
            part.trim()
        )
    };
    let (key, operator, values) = operation(part.trim()).ok_or_else(unreadable)?;
    let values: Vec<String> = values.iter().map(|value| value.trim().to_owned()).collect();
    let is_number = |value: &String| value.parse::<i64>().is_ok();
    let is_compared = matches!(operator, NodeOperator::Gt | NodeOperator::Lt);
    if !is_key(key) || !values.iter().all(|value| is_label(value)) {
        return Err(unreadable());
    }
    if is_compared && !values.iter().all(is_number) {
        return Err(unreadable());
    }
    Ok(NodeExpression {
        key: key.to_owned(),
        operator,
        values,
    })
}

/// Key, operator and values, none of them checked.
fn operation(part: &str) -> Option<(&str, NodeOperator, Vec<&str>)> {
    if let Some(key) = part.strip_prefix('!') {
        return Some((key.trim(), NodeOperator::DoesNotExist, Vec::new()));
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        let operator = match operator {
            "in" => NodeOperator::In,
            "notin" => NodeOperator::NotIn,
            _ => return None,
        };
        return Some((key.trim(), operator, list.split(',').collect()));
    }
    for (sign, operator) in SIGNS {
        if let Some((key, value)) = part.split_once(sign) {
            return Some((key.trim(), operator, vec![value]));
        }
    }
    Some((part, NodeOperator::Exists, Vec::new()))
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("", key));
    let is_prefix = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    prefix.bytes().all(is_prefix) && !name.is_empty() && is_label(name)
}

fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= LABEL_MAX && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> = (labels.iter())
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let expressions = parse(selector).unwrap();
        expressions
            .iter()
            .all(|expression| expression.matches(&labels))
    }

    #[test]
    fn a_selector_means_what_it_means_to_kubectl() {
        let labels = [("disk", "ssd"), ("example.com/zone", "a"), ("cores", "16")];
        for (selector, expected) in [
            ("", true),
            ("disk=ssd", true),
            ("disk == ssd , example.com/zone=a", true),
            ("disk=ssd,example.com/zone=b", false),
            ("disk!=ssd", false),
            ("gpu!=none", true),
            ("disk", true),
            ("gpu", false),
            ("!gpu", true),
            ("! disk", false),
            ("disk in (nvme, ssd),cores>8", true),
            ("disk notin (nvme,ssd)", false),
            ("gpu notin (none)", true),
            ("cores<16", false),
            ("disk=", false),
        ] {
            assert_eq!(selects(selector, &labels), expected, "{selector:?}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_part_that_is_not() {
        for (selector, part) in [
            ("disk=ssd,", "\"\""),
            ("=ssd", "\"=ssd\""),
            ("disk ssd", "\"disk ssd\""),
            ("disk=s s", "\"disk=s s\""),
            ("disk within (ssd)", "within"),
            ("disk in (ssd", "in (ssd"),
            ("cores>many", "cores>many"),
            ("a/b/c=d", "a/b/c"),
        ] {
            let error = parse(selector).unwrap_err();
            assert!(
                error.contains(part) && error.contains("want"),
                "{selector:?}: {error}"
            );
        }
    }
}
