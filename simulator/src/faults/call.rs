//! A call as faults see it: who asks, for what, and what the call is about.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, header::USER_AGENT};

use crate::apiserver::{Place, Query, Route, parse_route};
use crate::state::Subresource;

/// What a call does, in the words of Kubernetes' authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }

    /// As RBAC spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One call of a client.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its `User-Agent`; `anonymous` where it has none.
    pub client: Arc<str>,
    pub verb: Verb,
    /// The plural name of the resource.
    pub resource: &'static str,
    /// The group of the resource; empty for the core.
    pub group: &'static str,
    /// Empty for what belongs to the cluster, and for all namespaces.
    pub namespace: String,
    /// The object, that of a create included; empty for a collection.
    pub name: String,
    /// The token of the page before; empty for the first page.
    pub continue_token: String,
    /// `resourceVersion`; 0 where there is none.
    pub version: u64,
    /// Whether any version will do: `resourceVersion=0`.
    pub is_any_version: bool,
}

impl Call {
    /// A call without parameters, as the controller's port makes it.
    #[must_use]
    pub fn new(client: &Arc<str>, verb: Verb, resource: &'static str, name: &str) -> Self {
        Self {
            client: Arc::clone(client),
            verb,
            resource,
            group: "",
            namespace: String::new(),
            name: name.to_owned(),
            continue_token: String::new(),
            version: 0,
            is_any_version: false,
        }
    }

    /// Reads a request; none for what is no resource (discovery, health).
    pub(crate) fn of_request(parts: &Parts) -> Option<Self> {
        let Ok(Route::Resource(place)) = parse_route(parts.uri.path()) else {
            return None;
        };
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let agent = parts.headers.get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        Some(Self {
            client: agent.unwrap_or("anonymous").into(),
            verb: verb(&parts.method, &place, query.flag("watch"))?,
            resource: place.row.plural,
            group: place.row.group,
            namespace: place.namespace.unwrap_or_default(),
            name: place.name.unwrap_or_default(),
            continue_token: query.get("continue").to_owned(),
            version: query.get("resourceVersion").parse().unwrap_or(0),
            is_any_version: query.get("resourceVersion") == "0",
        })
    }

    /// Whether both are about the same collection, as the same client sees it.
    pub(super) fn shares_collection(&self, other: &Self) -> bool {
        (&self.client, self.resource, &self.namespace)
            == (&other.client, other.resource, &other.namespace)
    }

    /// Whether this has the purpose of an earlier call: the same again, or a read of what that was about.
    pub(super) fn repeats(&self, earlier: &Self) -> bool {
        let reads = matches!(self.verb, Verb::Get | Verb::List);
        let may_settle = reads || self.verb == earlier.verb;
        may_settle && self.name == earlier.name && self.shares_collection(earlier)
    }

    /// Whether the client begins from everything that there is: a first page, or a watch that lists first.
    pub(super) fn begins_anew(&self) -> bool {
        match self.verb {
            Verb::List => self.continue_token.is_empty(),
            Verb::Watch => self.version == 0,
            _ => false,
        }
    }

    pub(super) fn is_cached_list(&self) -> bool {
        self.verb == Verb::List && self.is_any_version && self.continue_token.is_empty()
    }

    /// The resource with its group, as messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

fn verb(method: &Method, place: &Place, watch: bool) -> Option<Verb> {
    let named = place.name.is_some();
    Some(match *method {
        Method::GET if place.subresource == Some(Subresource::Log) => return None,
        Method::GET if named => Verb::Get,
        Method::GET if watch => Verb::Watch,
        Method::GET => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn call(method: &str, uri: &str) -> Option<Call> {
        let request = Request::builder().method(method).uri(uri);
        Call::of_request(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn requests_are_told_apart_as_authorization_does() {
        let verb = |method: &str, uri: &str| call(method, uri).map(|call| call.verb.name());
        let pods = "/api/v1/namespaces/n/pods";
        let pod = "/api/v1/namespaces/n/pods/p";
        assert_eq!(verb("GET", pods), Some("list"));
        assert_eq!(verb("GET", &format!("{pods}?watch=true")), Some("watch"));
        assert_eq!(verb("GET", pod), Some("get"));
        assert_eq!(verb("POST", pods), Some("create"));
        assert_eq!(verb("PATCH", pod), Some("patch"));
        assert_eq!(verb("DELETE", pod), Some("delete"));
        assert_eq!(verb("DELETE", pods), Some("deletecollection"));
        assert_eq!(verb("GET", &format!("{pod}/log")), None);
        assert_eq!(verb("GET", "/version"), None);
    }

    #[test]
    fn a_read_repeats_the_write_that_it_settles_and_a_list_the_watch() {
        let pods = "/api/v1/namespaces/n/pods";
        let pod = "/api/v1/namespaces/n/pods/p";
        let of = |method, uri: &str| call(method, uri).unwrap();
        assert!(of("GET", pod).repeats(&of("DELETE", pod)));
        let watch = of("GET", &format!("{pods}?watch=1"));
        assert!(of("GET", pods).repeats(&watch) && !watch.repeats(&of("GET", pods)));
        assert!(of("GET", pods).repeats(&of("DELETE", pods)));
        assert!(!of("DELETE", pod).repeats(&of("GET", pod)));
        assert!(!of("GET", pods).repeats(&of("DELETE", pod)));
        assert!(!of("GET", "/api/v1/namespaces/m/pods/p").repeats(&of("DELETE", pod)));
    }
}
