//! The rules for names, labels and keys (`k8s.io/apimachinery/pkg/util/validation`), with a real server's texts.
//!
//! Each function answers `None` when the value is good, else why it is not.

use super::resource::NameRule;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const DATA_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if lower_alphanumeric(a) && lower_alphanumeric(z))
        && bytes.iter().all(|&b| lower_alphanumeric(b) || b == b'-')
}

fn too_long(name: &str, most: usize) -> Option<String> {
    (name.len() > most).then(|| format!("must be no more than {most} characters"))
}

/// A DNS subdomain.
pub(super) fn subdomain(name: &str) -> Option<String> {
    too_long(name, 253).or_else(|| (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()))
}

/// A name by the rule of its resource.
pub(super) fn name(rule: NameRule, name: &str) -> Option<String> {
    match rule {
        NameRule::Subdomain => subdomain(name),
        NameRule::Label => {
            too_long(name, 63).or_else(|| (!is_label(name)).then(|| LABEL.to_owned()))
        }
        NameRule::Label1035 => too_long(name, 63).or_else(|| {
            let good = is_label(name) && name.as_bytes()[0].is_ascii_lowercase();
            (!good).then(|| LABEL_1035.to_owned())
        }),
        NameRule::PathSegment => match name {
            "." | ".." => Some(format!("may not be '{name}'")),
            other => ['/', '%']
                .iter()
                .find(|c| other.contains(**c))
                .map(|c| format!("may not contain '{c}'")),
        },
    }
}

fn is_qualified_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A label's or annotation's key: `name` or `prefix/name`.
pub(super) fn label_key(key: &str) -> Option<String> {
    let (prefix, part) = match key.split_once('/') {
        None => (None, key),
        Some((prefix, part)) => (Some(prefix), part),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if part.contains('/') {
            return Some("a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".to_owned());
        }
        if let Some(why) = subdomain(prefix) {
            return Some(format!("prefix part {why}"));
        }
    }
    if part.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if part.len() > 63 {
        return Some("name part must be no more than 63 characters".to_owned());
    }
    (!is_qualified_part(part)).then(|| QUALIFIED.to_owned())
}

/// A label's value.
pub(super) fn label_value(value: &str) -> Option<String> {
    too_long(value, 63).or_else(|| {
        (!value.is_empty() && !is_qualified_part(value)).then(|| LABEL_VALUE.to_owned())
    })
}

/// A key of a `ConfigMap` or Secret.
pub(super) fn data_key(key: &str) -> Option<String> {
    let good = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    too_long(key, 253).or_else(|| match key {
        "." | ".." => Some(format!("must not be '{key}'")),
        _ => (!good).then(|| DATA_KEY.to_owned()),
    })
}

/// The name of a container's port, as a Service may name it (RFC 6335).
pub(super) fn port_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 15 {
        return Some("must be no more than 15 characters");
    }
    let is_good = |b: u8| lower_alphanumeric(b) || b == b'-';
    if !name.bytes().all(is_good) {
        return Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens");
    }
    (name.starts_with('-') || name.ends_with('-')).then_some("must not begin or end with a hyphen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_their_resource() {
        let long = "x".repeat(64);
        for (rule, good, bad) in [
            (
                NameRule::Subdomain,
                vec!["a", "1.b-c", long.as_str()],
                vec!["", "A", "a_b", "-a", "a.", ".a", "a..b"],
            ),
            (
                NameRule::Label,
                vec!["a", "1b"],
                vec!["", "a.b", "a-", long.as_str()],
            ),
            (NameRule::Label1035, vec!["a1"], vec!["1a", "a.b", ""]),
            (
                NameRule::PathSegment,
                vec!["system:node", "A"],
                vec!["a/b", "..", "%"],
            ),
        ] {
            for text in good {
                assert_eq!(name(rule, text), None, "{text}");
            }
            for text in bad {
                assert!(name(rule, text).is_some(), "{text}");
            }
        }
    }

    #[test]
    fn label_keys_may_have_one_prefix() {
        for key in ["a", "A_b.c", "example.com/a"] {
            assert_eq!(label_key(key), None, "{key}");
        }
        for key in ["", "a b", "/a", "a/", "a/b/c", "A.com/b", "_a"] {
            assert!(label_key(key).is_some(), "{key}");
        }
    }
}
