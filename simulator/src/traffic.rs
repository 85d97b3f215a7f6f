//! What the controller asks of the API server, counted as the server's audit log would: requests by verb and resource,
//! and what its watch is told.
//!
//! A list counts a request a page, as the real client makes them. Deliberately not here: what the simulated nodes and
//! the job pods ask, which is the cluster's own business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controller::ports::cluster::LIST_PAGE_SIZE;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// As RBAC calls it: `create`, `list`, `deletecollection`, …
    pub verb: &'static str,
    /// The resource's plural, with the subresource where there is one: `pods/log`.
    pub resource: &'static str,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many requests of each kind, in the order of their names. A watch counts once, when it begins.
    pub requests: BTreeMap<Request, u64>,
    /// Changes that the watch was told.
    pub watch_events: u64,
}

impl Counts {
    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |request| earlier.requests.get(request).copied().unwrap_or_default();
        let requests = self.requests.iter();
        let more = requests.map(|(request, times)| (*request, times - before(request)));
        Self {
            requests: more.filter(|(_, times)| *times > 0).collect(),
            watch_events: self.watch_events - earlier.watch_events,
        }
    }
}

/// The counters. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Mutex<Counts>>);

impl Traffic {
    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub(crate) fn request(&self, verb: &'static str, resource: &'static str) {
        self.add(verb, resource, 1);
    }

    /// A list that had so many objects: at least one page.
    pub(crate) fn list(&self, resource: &'static str, objects: usize) {
        let pages = objects.div_ceil(LIST_PAGE_SIZE as usize).max(1);
        self.add("list", resource, pages as u64);
    }

    pub(crate) fn watch_events(&self, events: usize) {
        self.lock().watch_events += events as u64;
    }

    fn add(&self, verb: &'static str, resource: &'static str, requests: u64) {
        *self
            .lock()
            .requests
            .entry(Request { verb, resource })
            .or_default() += requests;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_its_pages_and_an_empty_one_is_a_page_too() {
        let traffic = Traffic::default();
        traffic.list("nodes", 0);
        traffic.list("nodes", LIST_PAGE_SIZE as usize);
        traffic.list("nodes", LIST_PAGE_SIZE as usize + 1);
        traffic.request("create", "pods");
        let counts = traffic.counts();
        let told: Vec<String> = (counts.requests.iter())
            .map(|(request, times)| format!("{request}: {times}"))
            .collect();
        assert_eq!(told, ["create pods: 1", "list nodes: 4"]);
    }
}
