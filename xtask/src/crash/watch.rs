//! What a watch of the API server has shown, with the time at which it did.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::http;

/// Something that was shown.
#[derive(Debug, Clone)]
pub(super) struct Shown<T> {
    pub at: Instant,
    pub what: T,
}

/// A watch that runs as long as its API server does.
#[derive(Debug)]
pub(super) struct Watch<T>(Arc<Mutex<Vec<Shown<T>>>>);

impl<T: Clone + Send + 'static> Watch<T> {
    /// Watches from what there is now. `note` takes an event's type and object, and returns what is to be remembered of
    /// it.
    pub(super) fn begin(
        api: SocketAddr,
        path: &'static str,
        note: impl Fn(&str, &Value) -> Option<T> + Send + 'static,
    ) -> Self {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let watch = Self(Arc::clone(&shown));
        thread::spawn(move || {
            let mut version = String::new();
            // It ends as servers end watches; then it goes on from there. An error is the server's own end.
            while http::get_lines(
                api,
                &format!("{path}watch=true&resourceVersion={version}"),
                |line| {
                    let event: Value = serde_json::from_str(line)?;
                    let object = &event["object"];
                    let newest = object["metadata"]["resourceVersion"].as_str();
                    newest.unwrap_or_default().clone_into(&mut version);
                    if let Some(what) = note(event["type"].as_str().unwrap_or_default(), object) {
                        let at = Instant::now();
                        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                        shown.push(Shown { at, what });
                    }
                    Ok(())
                },
            )
            .is_ok()
            {}
        });
        watch
    }

    /// Everything so far, in order.
    pub(super) fn shown(&self) -> Vec<Shown<T>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
