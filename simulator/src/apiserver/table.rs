//! Tables and partial objects: what `kubectl get` asks for.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::respond::list_metadata;
use crate::state::{List, Object, Row, WatchEvent};

/// What a row carries beside its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    /// Reads the parameter; metadata where it does not say.
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The metadata of an object alone.
pub(super) fn partial(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata})
}

/// A list of partial objects.
pub(super) fn partial_list(list: &List) -> Value {
    let items: Vec<Value> = list.items.iter().map(|o| partial(o)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata(list), "items": items})
}

fn definitions(row: &'static Row) -> Vec<Value> {
    let definition = |c: &crate::state::Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority});
    row.columns.iter().map(definition).collect()
}

fn table_row(row: &'static Row, object: &Object, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = row
        .columns
        .iter()
        .map(|column| (column.cell)(object, now))
        .collect();
    let mut line = json!({ "cells": cells });
    if row.storage == "pods" {
        let ended = match object.text("/status/phase") {
            "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
            "Failed" => Some(("Failed", "The pod failed.")),
            _ => None,
        };
        if let Some((reason, message)) = ended {
            line["conditions"] = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
        }
    }
    match include {
        Include::Nothing => {}
        Include::Metadata => line["object"] = partial(object),
        Include::Object => line["object"] = object.to_value(row),
    }
    line
}

fn table(metadata: Value, definitions: Value, rows: Vec<Value>) -> Value {
    let fields = [
        ("kind", Value::from("Table")),
        ("apiVersion", Value::from("meta.k8s.io/v1")),
        ("metadata", metadata),
        ("columnDefinitions", definitions),
        ("rows", Value::Array(rows)),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A list as a Table.
pub(super) fn of_list(row: &'static Row, list: &List, include: Include, now: Timestamp) -> Value {
    let rows = list
        .items
        .iter()
        .map(|object| table_row(row, object, include, now))
        .collect();
    table(list_metadata(list), Value::Array(definitions(row)), rows)
}

/// One object as a Table.
pub(super) fn of_object(
    row: &'static Row,
    object: &Object,
    include: Include,
    now: Timestamp,
) -> Value {
    let version = json!({"resourceVersion": object.metadata.resource_version.to_string()});
    table(
        version,
        Value::Array(definitions(row)),
        vec![table_row(row, object, include, now)],
    )
}

/// The object of a watch event as a Table; only the first event of a stream defines the columns.
pub(super) fn of_event(
    row: &'static Row,
    event: &WatchEvent,
    include: Include,
    now: Timestamp,
    first: bool,
) -> Option<Value> {
    let definitions = if first {
        Value::Array(definitions(row))
    } else {
        Value::Null
    };
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
            let version = json!({"resourceVersion": object.metadata.resource_version.to_string()});
            Some(table(
                version,
                definitions,
                vec![table_row(row, object, include, now)],
            ))
        }
        WatchEvent::Bookmark {
            version,
            initial_events_end,
        } => {
            let bookmark = bookmark(
                "meta.k8s.io/v1",
                "PartialObjectMetadata",
                *version,
                *initial_events_end,
            );
            let rows = vec![json!({"cells": [], "object": bookmark})];
            Some(table(
                json!({"resourceVersion": version.to_string()}),
                definitions,
                rows,
            ))
        }
        WatchEvent::Error(_) => None,
    }
}

/// The object of a BOOKMARK: nothing but its version, and whether the initial events end here.
pub(super) fn bookmark(
    api_version: &str,
    kind: &str,
    version: u64,
    initial_events_end: bool,
) -> Value {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
}
