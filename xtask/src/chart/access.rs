//! Rights as data: what the chart's roles grant, what a request needs.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::helm::of_kind;
use super::recorder::Request;

/// One verb on one resource, as RBAC sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    /// Empty for the core group.
    group: String,
    /// With its subresource, as in `pods/log`.
    resource: String,
    verb: String,
    /// None for what is cluster-wide.
    namespace: Option<String>,
    /// The object's; none where any will do, or several are meant.
    name: Option<String>,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        Ok(())
    }
}

impl Access {
    /// What a request needs.
    ///
    /// # Errors
    /// If its path is none of a resource.
    pub(super) fn needed(request: &Request) -> Result<Self> {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let (group, rest) = match segments.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => bail!("{} {path} asks for no resource", request.method),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (resource, name) = match rest {
            [resource] => ((*resource).to_owned(), None),
            [resource, name] => ((*resource).to_owned(), Some(*name)),
            [resource, name, subresource] => (format!("{resource}/{subresource}"), Some(*name)),
            _ => bail!("{} {path} asks for no resource", request.method),
        };
        let is_single = name.is_some();
        // Who selects one object by its name needs no more than the right to that one.
        let name = name.or_else(|| selected_name(query));
        let is_watch = query
            .split('&')
            .any(|pair| pair == "watch=true" || pair == "watch=1");
        let verb = match (request.method.as_str(), is_single) {
            ("GET", _) if is_watch => "watch",
            ("GET", false) => "list",
            ("GET", true) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", false) => "deletecollection",
            ("DELETE", true) => "delete",
            (method, _) => bail!("{method} is no verb"),
        };
        Ok(Self {
            group: group.to_owned(),
            resource,
            verb: verb.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }

    /// Whether this grants what a request needs.
    fn covers(&self, needed: &Self) -> bool {
        self.group == needed.group
            && self.resource == needed.resource
            && self.verb == needed.verb
            && (self.namespace.is_none() || self.namespace == needed.namespace)
            && (self.name.is_none() || self.name == needed.name)
    }
}

/// The one name that a field selector lets through.
fn selected_name(query: &str) -> Option<&str> {
    let selector = (query.split('&')).find_map(|pair| pair.strip_prefix("fieldSelector="))?;
    let field = selector.strip_prefix("metadata.name")?;
    field
        .strip_prefix("%3D")
        .or_else(|| field.strip_prefix('='))
}

/// What the roles of a rendering grant to the account of the controller's pod.
///
/// # Errors
/// If a role grants everything of something, or is bound to somebody else.
pub(super) fn granted(documents: &[Value], account: &str) -> Result<BTreeSet<Access>> {
    let mut granted = BTreeSet::new();
    for (kind, binding) in [
        ("Role", "RoleBinding"),
        ("ClusterRole", "ClusterRoleBinding"),
    ] {
        for role in of_kind(documents, kind) {
            let name = &role["metadata"]["name"];
            let is_bound = of_kind(documents, binding).any(|binding| {
                binding["roleRef"]["name"] == *name
                    && binding["roleRef"]["kind"] == kind
                    && binding["subjects"][0]["name"] == account
            });
            ensure!(is_bound, "{kind} {name} is not bound to {account}");
            let namespace = role["metadata"]["namespace"].as_str().map(str::to_owned);
            for rule in role["rules"].as_array().into_iter().flatten() {
                grant(rule, namespace.as_ref(), &mut granted)?;
            }
        }
    }
    Ok(granted)
}

fn grant(rule: &Value, namespace: Option<&String>, granted: &mut BTreeSet<Access>) -> Result<()> {
    let texts = |key: &str| -> Result<Vec<String>> {
        let items = rule[key]
            .as_array()
            .with_context(|| format!("a rule has no {key}: {rule}"))?;
        let texts = items
            .iter()
            .map(|item| item.as_str().unwrap_or("*").to_owned());
        Ok(texts.collect())
    };
    let names = match rule.get("resourceNames") {
        None => vec![None],
        Some(_) => texts("resourceNames")?.into_iter().map(Some).collect(),
    };
    for group in texts("apiGroups")? {
        for resource in texts("resources")? {
            for verb in texts("verbs")? {
                ensure!(
                    ![&group, &resource, &verb]
                        .iter()
                        .any(|part| part.contains('*')),
                    "a rule grants everything: {rule}"
                );
                granted.extend(names.iter().map(|name| Access {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    namespace: namespace.cloned(),
                    name: name.clone(),
                }));
            }
        }
    }
    Ok(())
}

/// Every request is granted, and everything granted was asked for.
///
/// # Errors
/// With what is missing, or granted for nothing.
pub(super) fn check(granted: &BTreeSet<Access>, needed: &BTreeSet<Access>) -> Result<()> {
    let missing = needed
        .iter()
        .filter(|needed| !granted.iter().any(|granted| granted.covers(needed)));
    let unused = granted
        .iter()
        .filter(|granted| !needed.iter().any(|needed| granted.covers(needed)));
    let lines: Vec<String> =
        missing
            .map(|access| format!("the controller asks for what no role grants: {access}"))
            .chain(unused.map(|access| {
                format!("a role grants what the controller does not ask for: {access}")
            }))
            .collect();
    ensure!(lines.is_empty(), "{}", lines.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn needed(method: &str, target: &str) -> Access {
        Access::needed(&Request {
            method: method.to_owned(),
            target: target.to_owned(),
        })
        .unwrap()
    }

    #[test]
    fn a_request_needs_the_verb_that_kubernetes_sees() {
        for (method, target, access) in [
            ("GET", "/api/v1/nodes?limit=100", "list nodes"),
            (
                "GET",
                "/api/v1/namespaces/a/pods?&watch=true",
                "watch pods in a",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/p/log?container=c",
                "get pods/log named p in a",
            ),
            (
                "POST",
                "/apis/events.k8s.io/v1/namespaces/a/events?",
                "create events.events.k8s.io in a",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods?labelSelector=x",
                "deletecollection pods in a",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods/p",
                "delete pods named p in a",
            ),
            ("GET", "/api/v1/namespaces/a", "get namespaces named a"),
            (
                "GET",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases?&watch=true&fieldSelector=metadata.name%3Dl&resourceVersion=0",
                "watch leases.coordination.k8s.io named l in a",
            ),
        ] {
            assert_eq!(needed(method, target).to_string(), access);
        }
    }

    #[test]
    fn more_and_less_than_needed_is_told_apart() {
        let role = |names: &[&str], verbs: &[&str]| {
            json!({
                "kind": "Role", "metadata": {"name": "r", "namespace": "a"},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "resourceNames": names, "verbs": verbs}],
            })
        };
        let binding = json!({
            "kind": "RoleBinding", "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"name": "me"}],
        });
        let of =
            |names: &[&str], verbs: &[&str]| granted(&[role(names, verbs), binding.clone()], "me");
        let get = BTreeSet::from([needed("GET", "/api/v1/namespaces/a/pods/p")]);
        let told = |names: &[&str], verbs: &[&str]| {
            check(&of(names, verbs).unwrap(), &get)
                .unwrap_err()
                .to_string()
        };
        assert!(check(&of(&["p"], &["get"]).unwrap(), &get).is_ok());
        assert!(told(&["q"], &["get"]).contains("no role grants: get pods named p"));
        assert!(told(&["p"], &["get", "list"]).contains("does not ask for: list pods"));
        assert!(of(&["p"], &["*"]).is_err());
        assert!(granted(&[role(&["p"], &["get"]), binding], "you").is_err());
    }
}
