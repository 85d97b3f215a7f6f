//! Random operations on the state agree with a naive model, and every watcher reconstructs what a list shows.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use simulator::state::{
    AtVersion, DeleteOptions, ListOptions, Options, Part, Patch, Selector, State, Target,
    WatchCursor, WatchEvent, WatchFrom, WriteOptions, resource,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

#[derive(Debug, Clone)]
enum Operation {
    Create {
        namespace: usize,
        name: u8,
        label: u8,
    },
    /// With the right version, with an older one, or with none.
    Update {
        namespace: usize,
        name: u8,
        label: u8,
        version: Option<bool>,
    },
    Label {
        namespace: usize,
        name: u8,
        label: u8,
    },
    Delete {
        namespace: usize,
        name: u8,
    },
    DeleteSelected {
        namespace: usize,
        label: u8,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = || (0..2_usize, 0..5_u8, 0..3_u8);
    prop_oneof![
        4 => place().prop_map(|(namespace, name, label)| Operation::Create { namespace, name, label }),
        2 => (place(), any::<Option<bool>>()).prop_map(|((namespace, name, label), version)| Operation::Update { namespace, name, label, version }),
        3 => place().prop_map(|(namespace, name, label)| Operation::Label { namespace, name, label }),
        2 => place().prop_map(|(namespace, name, _)| Operation::Delete { namespace, name }),
        1 => place().prop_map(|(namespace, _, label)| Operation::DeleteSelected { namespace, label }),
    ]
}

/// What the state must hold: label and version by namespace and name.
type Model = BTreeMap<(String, String), (u8, u64)>;

fn object(name: u8, label: u8, version: &str) -> Value {
    json!({"metadata": {"name": format!("o{name}"), "labels": {"l": label.to_string()}, "resourceVersion": version}})
}

/// Does the operation on both; the answers must agree.
fn step(state: &mut State, model: &mut Model, operation: &Operation) {
    let row = &resource::CONFIG_MAPS;
    match *operation {
        Operation::Create {
            namespace,
            name,
            label,
        } => {
            let key = (NAMESPACES[namespace].to_owned(), format!("o{name}"));
            let created = state.create(
                NOW,
                Target::new(row, &key.0, ""),
                object(name, label, ""),
                WriteOptions::default(),
            );
            assert_eq!(
                created.as_ref().map_err(|s| s.code).err(),
                model.contains_key(&key).then_some(409)
            );
            if let Ok(created) = created {
                model.insert(key, (label, created.metadata.resource_version));
            }
        }
        Operation::Update {
            namespace,
            name,
            label,
            version,
        } => {
            let key = (NAMESPACES[namespace].to_owned(), format!("o{name}"));
            let standing = model.get(&key).copied();
            let sent = version.map_or(String::new(), |right| {
                standing
                    .map_or(1, |(_, v)| if right { v } else { v - 1 })
                    .to_string()
            });
            let put = state.update(
                NOW,
                Target::new(row, &key.0, &key.1),
                Part::Whole,
                object(name, label, &sent),
                WriteOptions::default(),
            );
            let wanted = match (standing, version) {
                (None, _) => Some(404),
                (Some(_), Some(false)) => Some(409),
                _ => None,
            };
            assert_eq!(put.as_ref().map_err(|s| s.code).err(), wanted);
            if let Ok(put) = put {
                model.insert(key, (label, put.object.metadata.resource_version));
            }
        }
        Operation::Label {
            namespace,
            name,
            label,
        } => {
            let key = (NAMESPACES[namespace].to_owned(), format!("o{name}"));
            let patch = Patch::Merge(json!({"metadata": {"labels": {"l": label.to_string()}}}));
            let patched = state.patch(
                NOW,
                Target::new(row, &key.0, &key.1),
                Part::Whole,
                &patch,
                WriteOptions::default(),
            );
            assert_eq!(patched.is_ok(), model.contains_key(&key));
            if let Ok(patched) = patched {
                model.insert(key, (label, patched.object.metadata.resource_version));
            }
        }
        Operation::Delete { namespace, name } => {
            let key = (NAMESPACES[namespace].to_owned(), format!("o{name}"));
            let deleted = state.delete(
                NOW,
                Target::new(row, &key.0, &key.1),
                &DeleteOptions::default(),
            );
            assert_eq!(deleted.is_ok(), model.remove(&key).is_some());
        }
        Operation::DeleteSelected { namespace, label } => {
            let selector = Selector::default().with_label("l", &label.to_string());
            let selected = ListOptions {
                namespace: Some(NAMESPACES[namespace]),
                selector,
                ..ListOptions::default()
            };
            state
                .delete_collection(NOW, row, &selected, &DeleteOptions::default())
                .unwrap();
            model.retain(|key, (l, _)| key.0 != NAMESPACES[namespace] || *l != label);
        }
    }
}

fn listed(state: &State, options: &ListOptions<'_>) -> Model {
    let list = state.list(&resource::CONFIG_MAPS, options).unwrap();
    let entry = |o: &std::sync::Arc<simulator::state::Stored>| {
        let meta = &o.metadata;
        (
            (meta.namespace.to_string(), meta.name.to_string()),
            (meta.labels["l"].parse().unwrap(), meta.resource_version),
        )
    };
    list.items.iter().map(entry).collect()
}

/// What a watcher believes, from the events alone.
struct Watcher {
    cursor: WatchCursor,
    believed: Model,
    selector: Selector,
    newest: u64,
}

impl Watcher {
    fn catch_up(&mut self, state: &State, batch: usize) {
        loop {
            let events = state.poll(&mut self.cursor, batch);
            if events.is_empty() {
                return;
            }
            for event in events {
                self.take(&event);
            }
        }
    }

    fn take(&mut self, event: &WatchEvent) {
        let object = event.object().expect("no error and no bookmark here");
        let meta = &object.metadata;
        let key = (meta.namespace.to_string(), meta.name.to_string());
        assert!(
            meta.resource_version > self.newest,
            "events come once and in order"
        );
        self.newest = meta.resource_version;
        let known = match event {
            WatchEvent::Deleted(_) => self.believed.remove(&key),
            _ => self.believed.insert(
                key,
                (meta.labels["l"].parse().unwrap(), meta.resource_version),
            ),
        };
        assert_eq!(
            known.is_some(),
            !matches!(event, WatchEvent::Added(_)),
            "{event:?}"
        );
    }
}

proptest! {
    #[test]
    fn state_agrees_with_the_model_and_every_watcher_with_the_list(
        operations in prop::collection::vec(operation(), 1..60),
        batch in 1..5_usize,
        compact: bool,
    ) {
        let mut state = State::new(&Options { compact, ..Options::default() });
        let mut model = Model::new();
        let mut watchers = Vec::new();
        let mut version = state.version();
        let mut given = BTreeSet::new();
        for (i, operation) in operations.iter().enumerate() {
            let labels = if i % 2 == 0 { "l" } else { "l=1" };
            let selector = Selector::parse(&resource::CONFIG_MAPS, labels, "").unwrap();
            let options = ListOptions { selector: selector.clone(), ..ListOptions::default() };
            let cursor = state.watch(&resource::CONFIG_MAPS, None, selector.clone(), WatchFrom::Version(state.version()));
            let watcher = Watcher { cursor, believed: listed(&state, &options), selector, newest: state.version() };
            let late = (watcher.believed.clone(), watcher.selector.clone(), watcher.newest);
            watchers.push((watcher, late));
            let before = model.clone();
            step(&mut state, &mut model, operation);
            prop_assert!(state.version() >= version, "versions do not go back");
            for (key, (_, written)) in model.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
                prop_assert!(*written > version && given.insert(*written), "{key:?} has a version that there was before");
            }
            version = state.version();
            prop_assert_eq!(listed(&state, &ListOptions::default()), model.clone());
            for (watcher, _) in watchers.iter_mut().step_by(2) {
                watcher.catch_up(&state, batch);
            }
        }
        for (watcher, (believed, selector, from)) in &mut watchers {
            watcher.catch_up(&state, batch);
            let options = ListOptions { selector: watcher.selector.clone(), ..ListOptions::default() };
            prop_assert_eq!(&watcher.believed, &listed(&state, &options));
            // One that begins only now, from what was listed then.
            let cursor = state.watch(&resource::CONFIG_MAPS, None, selector.clone(), WatchFrom::Version(*from));
            let mut late = Watcher { cursor, believed: believed.clone(), selector: selector.clone(), newest: *from };
            late.catch_up(&state, batch);
            prop_assert_eq!(&late.believed, &watcher.believed);
        }
    }

    #[test]
    fn pages_and_old_versions_show_one_snapshot_whatever_is_written_meanwhile(
        before in prop::collection::vec(operation(), 1..30),
        after in prop::collection::vec(operation(), 1..30),
        limit in 1..4_usize,
    ) {
        let mut state = State::new(&Options::default());
        let mut model = Model::new();
        for operation in &before {
            step(&mut state, &mut model, operation);
        }
        let snapshot = model.clone();
        let version = state.version();
        let (mut pages, mut token, mut rest) = (Model::new(), String::new(), after.iter());
        loop {
            let options = ListOptions { limit: Some(limit), continue_token: &token, ..ListOptions::default() };
            let page = state.list(&resource::CONFIG_MAPS, &options).unwrap();
            prop_assert_eq!(page.resource_version, version);
            pages.extend(page.items.iter().map(|o| {
                let meta = &o.metadata;
                ((meta.namespace.to_string(), meta.name.to_string()), (meta.labels["l"].parse().unwrap(), meta.resource_version))
            }));
            for operation in rest.by_ref().take(3) {
                step(&mut state, &mut model, operation);
            }
            match page.continue_token {
                Some(next) => token = next,
                None => break,
            }
        }
        prop_assert_eq!(&pages, &snapshot);
        for operation in rest {
            step(&mut state, &mut model, operation);
        }
        let exact = ListOptions { at: AtVersion::Exact(version), ..ListOptions::default() };
        prop_assert_eq!(listed(&state, &exact), snapshot);
    }
}
