//! Paths of the API and what they name.

use percent_encoding::percent_decode_str;

use crate::state::{Row, Status, Subresource, resource};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Version,
    Root,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources(&'static str, &'static str),
    OpenApiIndex,
    /// `/openapi/v3/{api/v1, apis/…}`
    OpenApi(String),
    Resource(Place),
    Unknown,
}

/// A collection, an object or a subresource.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) row: &'static Row,
    /// None for all namespaces, and for what belongs to the cluster.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<Subresource>,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.row, other.row)
            && (&self.namespace, &self.name, self.subresource)
                == (&other.namespace, &other.name, other.subresource)
    }
}

impl Eq for Place {}

/// Reads a path.
///
/// # Errors
/// A 404 Status for a resource that its group does not have; paths outside the API are [`Route::Unknown`].
pub(crate) fn parse(path: &str) -> Result<Route, Status> {
    let decoded: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| percent_decode_str(s).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
    Ok(match segments.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => resource_route("", version, rest)?,
        ["apis", group] if has_group(group) => Route::Group((*group).to_owned()),
        ["apis", group, version, rest @ ..] => resource_route(group, version, rest)?,
        _ => Route::Unknown,
    })
}

fn has_group(group: &str) -> bool {
    !group.is_empty() && resource::ROWS.iter().any(|row| row.group == group)
}

fn resource_route(group: &str, version: &str, rest: &[&str]) -> Result<Route, Status> {
    let Some(any) = resource::ROWS
        .iter()
        .find(|row| row.group == group && row.version == version)
    else {
        // A real server looks for what is below the paths of its groups, and says so of those only.
        return if group.is_empty() || has_group(group) {
            Err(Status::no_such_resource())
        } else {
            Ok(Route::Unknown)
        };
    };
    let find =
        |plural: &str| resource::find(group, version, plural).ok_or_else(Status::no_such_resource);
    let (namespace, plural, tail) = match rest {
        [] => return Ok(Route::Resources(any.group, any.version)),
        ["namespaces", namespace, plural, tail @ ..]
            if !(group.is_empty() && matches!(*plural, "status" | "finalize")) =>
        {
            (Some((*namespace).to_owned()), *plural, tail)
        }
        [plural, tail @ ..] => (None, *plural, tail),
    };
    let row = find(plural)?;
    if namespace.is_some() && !row.namespaced {
        return Err(Status::no_such_resource());
    }
    let (name, subresource) = match tail {
        [] => (None, None),
        [name] => (Some((*name).to_owned()), None),
        [name, sub] => {
            let found = row.subresources.iter().copied().find(|s| s.name() == *sub);
            (
                Some((*name).to_owned()),
                Some(found.ok_or_else(Status::no_such_resource)?),
            )
        }
        _ => return Err(Status::no_such_resource()),
    };
    if name.is_some() && row.namespaced && namespace.is_none() {
        return Err(Status::no_such_resource());
    }
    Ok(Route::Resource(Place {
        row,
        namespace,
        name,
        subresource,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(
        path: &str,
    ) -> (
        Option<String>,
        &'static str,
        Option<String>,
        Option<Subresource>,
    ) {
        match parse(path).unwrap() {
            Route::Resource(place) => (
                place.namespace,
                place.row.plural,
                place.name,
                place.subresource,
            ),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        let s = |text: &str| Some(text.to_owned());
        assert_eq!(place("/api/v1/pods"), (None, "pods", None, None));
        assert_eq!(
            place("/api/v1/namespaces/n/pods/p/log"),
            (s("n"), "pods", s("p"), Some(Subresource::Log))
        );
        assert_eq!(
            place("/api/v1/namespaces/n"),
            (None, "namespaces", s("n"), None)
        );
        assert_eq!(
            place("/api/v1/namespaces/n/status"),
            (None, "namespaces", s("n"), Some(Subresource::Status))
        );
        assert_eq!(
            place("/apis/coordination.k8s.io/v1/namespaces/n/leases/a%20b"),
            (s("n"), "leases", s("a b"), None)
        );
    }

    #[test]
    fn what_is_not_served_is_told_apart_from_what_is_no_path() {
        for path in [
            "/api/v1/nopes",
            "/api/v1/namespaces/n/nodes",
            "/api/v1/namespaces/n/pods/p/nope",
            "/api/v1/pods/p",
            "/api/v2/pods",
            "/apis/apps/v2/deployments",
        ] {
            assert_eq!(parse(path).unwrap_err().code, 404, "{path}");
        }
        for path in ["/nope", "/apis/nope.example.com/v1/nopes", "/apis/nope"] {
            assert_eq!(parse(path).unwrap(), Route::Unknown, "{path}");
        }
    }
}
