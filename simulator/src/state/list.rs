//! Lists: selected, in pages, of now or of a version that the history still reaches.
//!
//! A continue token names the version of the first page and the last object told; later pages rebuild that version
//! from the history, whatever has been written meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::resource::Row;
use super::selector::Selector;
use super::status::Status;
use super::stored::Stored;
use super::{State, Table};

/// Which version a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AtVersion {
    /// The newest one.
    #[default]
    Newest,
    /// Any at least as new: here the newest, if it has come.
    NotOlderThan(u64),
    /// That one.
    Exact(u64),
}

/// What a list is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListOptions<'a> {
    /// All namespaces where none is given.
    pub namespace: Option<&'a str>,
    pub selector: Selector,
    /// At most that many objects, and a token for the rest.
    pub limit: Option<usize>,
    /// The token of the page before; empty for the first.
    pub continue_token: &'a str,
    pub at: AtVersion,
}

/// One page of a list.
#[derive(Debug)]
pub struct List {
    pub items: Vec<Arc<Stored>>,
    pub resource_version: u64,
    /// The token of the next page, where there is one.
    pub continue_token: Option<String>,
    /// How many follow; known without a selector only.
    pub remaining: Option<usize>,
}

impl State {
    /// The selected objects in order of namespace and name.
    ///
    /// # Errors
    /// 400 for a broken token, 410 for a version that is no longer kept, 504 for one of the future.
    pub fn list(&self, row: &'static Row, options: &ListOptions<'_>) -> Result<List, Status> {
        let (at, start) = if options.continue_token.is_empty() {
            (options.at, None)
        } else {
            let (version, namespace, name) = decode_token(options.continue_token)?;
            (AtVersion::Exact(version), Some((namespace, name)))
        };
        let version = match at {
            AtVersion::NotOlderThan(wanted) if wanted > self.version => {
                return Err(Status::too_large(wanted, self.version, Some(1)));
            }
            AtVersion::Exact(wanted) if wanted > self.version => {
                return Err(Status::too_large(wanted, self.version, None));
            }
            AtVersion::Newest | AtVersion::NotOlderThan(_) => self.version,
            AtVersion::Exact(wanted) => wanted,
        };
        let table = self.table(row);
        if version < table.floor() {
            return Err(expired(options.continue_token, version, table.floor()));
        }
        let start = start
            .as_ref()
            .map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let limit = options.limit.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut objects = objects_at(table, version, options, start);
        while items.len() < limit
            && let Some(object) = objects.next()
        {
            if options.selector.matches(&object) {
                items.push(object);
            }
        }
        // Whether what follows is selected shows on the next page, which may be empty, as of a real server.
        let rest = if options.selector.is_empty() {
            objects.count()
        } else {
            usize::from(objects.next().is_some())
        };
        let last = items.last().filter(|_| rest > 0);
        let continue_token =
            last.map(|last| encode_token(version, &last.metadata.namespace, &last.metadata.name));
        let remaining = (rest > 0 && options.selector.is_empty()).then_some(rest);
        Ok(List {
            items,
            resource_version: version,
            continue_token,
            remaining,
        })
    }
}

/// The objects as they stood at `version`, after `start`.
fn objects_at<'a>(
    table: &'a Table,
    version: u64,
    options: &'a ListOptions<'_>,
    start: Option<(&'a str, &'a str)>,
) -> Box<dyn Iterator<Item = Arc<Stored>> + 'a> {
    let namespace = options.namespace;
    if let (Some(only), Some(name)) = (namespace, options.selector.single_name())
        && version >= table.newest()
        && start.is_none()
    {
        return Box::new(table.get(only, name).cloned().into_iter());
    }
    let now = table.iter(namespace, start);
    let undo = table.undo_to(version);
    if undo.is_empty() {
        return Box::new(now.cloned());
    }
    let mut then: BTreeMap<(&str, &str), &Arc<Stored>> = BTreeMap::new();
    then.extend(now.map(|o| ((&*o.metadata.namespace, &*o.metadata.name), o)));
    for (key, object) in undo {
        let wanted =
            namespace.is_none_or(|only| only == key.0) && start.is_none_or(|start| key > start);
        match object {
            Some(object) if wanted => {
                then.insert(key, object);
            }
            _ => {
                then.remove(&key);
            }
        }
    }
    Box::new(then.into_values().cloned())
}

fn expired(token: &str, version: u64, floor: u64) -> Status {
    if token.is_empty() {
        return Status::too_old(version, floor);
    }
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
}

/// A token in the form of a real server's: the version and the key after which to go on.
fn encode_token(version: u64, namespace: &str, name: &str) -> String {
    let start = if namespace.is_empty() {
        format!("{name}\0")
    } else {
        format!("{namespace}/{name}\0")
    };
    URL_SAFE_NO_PAD
        .encode(json!({"v": "meta.k8s.io/v1", "rv": version, "start": start}).to_string())
}

fn decode_token(token: &str) -> Result<(u64, String, String), Status> {
    let broken = || Status::bad_request("continue key is not valid: illegal base64 data");
    let bytes = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|_| broken())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    let start = value["start"].as_str().ok_or_else(broken)?;
    let start = start.strip_suffix('\0').ok_or_else(broken)?;
    let (namespace, name) = start.split_once('/').unwrap_or(("", start));
    Ok((
        value["rv"].as_u64().ok_or_else(broken)?,
        namespace.to_owned(),
        name.to_owned(),
    ))
}
