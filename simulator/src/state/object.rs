//! One object of the API: typed metadata, and every other top-level field as a section that versions share.
//!
//! A write copies the metadata and the sections it changes, nothing else: the spec of a pod is held once for all the
//! versions of its status.
//! Deliberately not here: what a field may contain (`admission`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::event_form;
use super::resource::{EVENTS, EVENTS_V1, Row};
use super::section::Section;
use super::status::Status;
use super::unknown_field::{Step, UnknownField};

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// `metadata` of an object. Fields of `ObjectMeta` that are not here are dropped, as a real server drops unknown ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pub name: Arc<str>,
    pub generate_name: Arc<str>,
    /// Empty for what belongs to the cluster.
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    /// 0 before the object is stored.
    pub resource_version: u64,
    /// 0 for resources without one.
    pub generation: i64,
    pub creation_timestamp: Option<Timestamp>,
    /// When the object is to be gone: the time of the delete plus the grace period.
    pub deletion_timestamp: Option<Timestamp>,
    pub deletion_grace_period_seconds: Option<i64>,
    pub labels: Arc<StringMap>,
    pub annotations: Arc<StringMap>,
    pub owner_references: Arc<Vec<Value>>,
    pub finalizers: Arc<Vec<String>>,
}

impl Metadata {
    /// Holds what is the same in `other` only once.
    pub(super) fn share(&mut self, other: &Self) {
        fn one<T: PartialEq + ?Sized>(ours: &mut Arc<T>, theirs: &Arc<T>) {
            if !Arc::ptr_eq(ours, theirs) && ours == theirs {
                *ours = Arc::clone(theirs);
            }
        }
        one(&mut self.namespace, &other.namespace);
        one(&mut self.generate_name, &other.generate_name);
        one(&mut self.labels, &other.labels);
        one(&mut self.annotations, &other.annotations);
        one(&mut self.owner_references, &other.owner_references);
        one(&mut self.finalizers, &other.finalizers);
    }

    /// Reads a client's `metadata`.
    ///
    /// # Errors
    /// A sentence for a 400 when a field has a wrong type.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return if value.is_null() {
                Ok(Self::default())
            } else {
                Err("metadata: expected an object".to_owned())
            };
        };
        let version = text(map, "resourceVersion")?;
        let resource_version = match &*version {
            "" => 0,
            digits => digits
                .parse()
                .map_err(|_| format!("metadata.resourceVersion: Invalid value: {digits:?}"))?,
        };
        Ok(Self {
            name: text(map, "name")?,
            generate_name: text(map, "generateName")?,
            namespace: text(map, "namespace")?,
            uid: text(map, "uid")?,
            resource_version,
            generation: map
                .get("generation")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            creation_timestamp: time(map, "creationTimestamp")?,
            deletion_timestamp: time(map, "deletionTimestamp")?,
            deletion_grace_period_seconds: map
                .get("deletionGracePeriodSeconds")
                .and_then(Value::as_i64),
            labels: Arc::new(strings(map, "labels")?),
            annotations: Arc::new(strings(map, "annotations")?),
            owner_references: Arc::new(list(map, "ownerReferences")?.to_vec()),
            finalizers: Arc::new(
                list(map, "finalizers")?
                    .iter()
                    .map(|v| {
                        v.as_str()
                            .map(str::to_owned)
                            .ok_or_else(|| wrong(v, "finalizers", "string"))
                    })
                    .collect::<Result<_, _>>()?,
            ),
        })
    }
}

fn wrong(value: &Value, field: &str, wanted: &str) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!(
        "json: cannot unmarshal {found} into Go struct field ObjectMeta.metadata.{field} of type {wanted}"
    )
}

fn text(map: &Map<String, Value>, key: &str) -> Result<Arc<str>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Arc::default()),
        Some(Value::String(s)) => Ok(Arc::from(s.as_str())),
        Some(other) => Err(wrong(other, key, "string")),
    }
}

fn time(map: &Map<String, Value>, key: &str) -> Result<Option<Timestamp>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => s
            .parse()
            .map(Some)
            .map_err(|_| format!("parsing time {s:?} of metadata.{key}")),
        Some(other) => Err(wrong(other, key, "Time")),
    }
}

fn strings(map: &Map<String, Value>, key: &str) -> Result<StringMap, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(StringMap::new()),
        Some(Value::Object(entries)) => {
            let entry = |(k, v): (&String, &Value)| match v {
                Value::String(s) => Ok((k.clone(), s.clone())),
                Value::Null => Ok((k.clone(), String::new())),
                other => Err(wrong(other, key, "string")),
            };
            entries.iter().map(entry).collect()
        }
        Some(other) => Err(wrong(other, key, "map[string]string")),
    }
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(wrong(other, key, "array")),
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in [
            ("name", &self.name),
            ("generateName", &self.generate_name),
            ("namespace", &self.namespace),
            ("uid", &self.uid),
        ] {
            if !value.is_empty() {
                map.serialize_entry(key, &**value)?;
            }
        }
        if self.resource_version != 0 {
            map.serialize_entry("resourceVersion", &self.resource_version.to_string())?;
        }
        if self.generation != 0 {
            map.serialize_entry("generation", &self.generation)?;
        }
        if self.creation_timestamp.is_some() {
            map.serialize_entry("creationTimestamp", &self.creation_timestamp)?;
        }
        if self.deletion_timestamp.is_some() {
            map.serialize_entry("deletionTimestamp", &self.deletion_timestamp)?;
        }
        if self.deletion_grace_period_seconds.is_some() {
            map.serialize_entry(
                "deletionGracePeriodSeconds",
                &self.deletion_grace_period_seconds,
            )?;
        }
        for (key, value) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !value.is_empty() {
                map.serialize_entry(key, &**value)?;
            }
        }
        if !self.owner_references.is_empty() {
            map.serialize_entry("ownerReferences", &*self.owner_references)?;
        }
        if !self.finalizers.is_empty() {
            map.serialize_entry("finalizers", &*self.finalizers)?;
        }
        map.end()
    }
}

/// An object as the verbs work on it. Cloning one is cheap: sections are shared until they are changed.
#[derive(Debug, Clone)]
pub struct Object {
    /// The storage form; what `events.k8s.io` writes is kept in core/v1 form.
    pub row: &'static Row,
    pub metadata: Metadata,
    pub(super) sections: Vec<(Arc<str>, Arc<Section>)>,
}

impl Object {
    /// Reads a client's object in the form of `row`.
    ///
    /// # Errors
    /// 400 when it is no object, of another kind, or its metadata has a field of a wrong type.
    pub fn from_value(row: &'static Row, value: Value) -> Result<Self, Status> {
        let Value::Object(mut map) = value else {
            return Err(Status::bad_request(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string; Kind string }}",
                if value.is_array() { "array" } else { "value" }
            )));
        };
        let kind = map.shift_remove("kind");
        let version = map.shift_remove("apiVersion");
        check_kind(row, kind.as_ref(), version.as_ref())?;
        let metadata = map.shift_remove("metadata").unwrap_or_default();
        let metadata = Metadata::from_value(&metadata).map_err(|why| {
            let (kind, version) = (row.kind, row.version);
            Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
            ))
        })?;
        let row = if std::ptr::eq(row, &raw const EVENTS_V1) {
            event_form::to_core(&mut map);
            &EVENTS
        } else {
            row
        };
        let sections = map
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (Arc::from(k), Arc::new(Section::new(v))))
            .collect();
        Ok(Self {
            row,
            metadata,
            sections,
        })
    }

    /// A top-level field other than `metadata`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.sections
            .iter()
            .find(|(k, _)| &**k == key)
            .map(|(_, section)| section.tree())
    }

    /// The value at a JSON pointer below a top-level field other than `metadata`, e.g. `/status/phase`. Fields with a
    /// `/` or a `~` in their names cannot be reached: none that is asked for has one, and unescaping would cost a copy
    /// a step.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let mut steps = pointer.strip_prefix('/')?.split('/');
        let section = self.get(steps.next()?)?;
        steps.try_fold(section, |value, step| match value {
            Value::Object(map) => map.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The text at a JSON pointer; empty where there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The list at a JSON pointer; empty where there is none.
    #[must_use]
    pub fn list(&self, pointer: &str) -> &[Value] {
        self.pointer(pointer)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// The map at a top-level field, made where it is missing or no map.
    pub fn section_mut(&mut self, key: &str) -> &mut Map<String, Value> {
        let index = self
            .sections
            .iter()
            .position(|(k, _)| &**k == key)
            .unwrap_or_else(|| {
                self.sections
                    .push((Arc::from(key), Arc::new(Section::new(Value::Null))));
                self.sections.len() - 1
            });
        let value = Section::tree_mut(&mut self.sections[index].1);
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(map) => map,
            _ => unreachable!("made an object just above"),
        }
    }

    /// Sets a top-level field.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.sections.iter_mut().find(|(k, _)| &**k == key) {
            Some((_, old)) => *old = Arc::new(Section::new(value)),
            None => self
                .sections
                .push((Arc::from(key), Arc::new(Section::new(value)))),
        }
    }

    /// Removes a top-level field.
    pub fn remove(&mut self, key: &str) {
        self.sections.retain(|(k, _)| &**k != key);
    }

    /// Takes a top-level field over from another object, or its absence.
    pub(super) fn take_section(&mut self, key: &str, from: &Self) {
        let theirs = from.sections.iter().find(|(k, _)| &**k == key);
        match (self.sections.iter_mut().find(|(k, _)| &**k == key), theirs) {
            (Some((_, ours)), Some((_, theirs))) => *ours = Arc::clone(theirs),
            (None, Some((key, theirs))) => {
                self.sections.push((Arc::clone(key), Arc::clone(theirs)));
            }
            (_, None) => self.remove(key),
        }
    }

    /// Takes every top-level field but one over from another object.
    pub(super) fn take_all_but(&mut self, key: &str, from: &Self) {
        let ours = self.sections.iter().find(|(k, _)| &**k == key).cloned();
        let mut sections: Vec<_> = from
            .sections
            .iter()
            .filter(|(k, _)| &**k != key)
            .cloned()
            .collect();
        sections.extend(ours);
        self.sections = sections;
    }

    /// The sections that are not the very same as in `old`, to be looked at after a write.
    pub(super) fn changed_sections<'a>(
        &'a mut self,
        old: Option<&'a Self>,
    ) -> impl Iterator<Item = &'a mut Value> {
        self.sections.iter_mut().filter_map(move |(key, value)| {
            let same = old.is_some_and(|old| {
                old.sections
                    .iter()
                    .any(|(k, v)| k == key && Arc::ptr_eq(v, value))
            });
            (!same).then(|| Section::tree_mut(value))
        })
    }

    /// Whether a top-level field is held once for both: known to be the same without a look.
    pub(super) fn shares(&self, other: &Self, key: &str) -> bool {
        let find = |object: &'_ Self| {
            object
                .sections
                .iter()
                .find(|(k, _)| &**k == key)
                .map(|(_, v)| Arc::as_ptr(v))
        };
        find(self).is_some_and(|ours| find(other) == Some(ours))
    }

    /// Whether a top-level field is the same in both.
    pub(super) fn same_section(&self, other: &Self, key: &str) -> bool {
        let find = |object: &'_ Self| {
            object
                .sections
                .iter()
                .find(|(k, _)| &**k == key)
                .map(|(_, v)| Arc::clone(v))
        };
        match (find(self), find(other)) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a, &b) || a.same(&b),
            _ => false,
        }
    }

    /// Whether everything is the same in both, `metadata` included; the order of fields does not count.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.metadata == other.metadata
            && self.sections.len() == other.sections.len()
            && self
                .sections
                .iter()
                .all(|(key, _)| self.same_section(other, key))
    }

    /// The whole object as one value, in the form of `row`.
    #[must_use]
    pub fn to_value(&self, row: &'static Row) -> Value {
        let mut map = Map::new();
        map.insert("kind".to_owned(), Value::from(row.kind));
        map.insert("apiVersion".to_owned(), Value::from(row.api_version()));
        map.insert(
            "metadata".to_owned(),
            serde_json::to_value(&self.metadata).unwrap_or_default(),
        );
        let mut rest: Map<String, Value> = self
            .sections
            .iter()
            .map(|(key, section)| (key.to_string(), section.tree().clone()))
            .collect();
        if std::ptr::eq(row, &raw const EVENTS_V1) {
            event_form::from_core(&mut rest);
        }
        map.extend(rest);
        Value::Object(map)
    }

    /// Decodes the object into a type of the client, such as `k8s_openapi`'s, without a detour over text.
    ///
    /// # Errors
    /// What the type does not accept.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.fields_for(|fields| T::deserialize(fields))
    }

    /// As [`Object::decode`], and tells of the fields that the type does not have. It is told by one type of function
    /// only: what reads a field of many types is compiled once.
    pub(super) fn decode_noting<T: DeserializeOwned>(
        &self,
        note: &mut dyn FnMut(serde_ignored::Path<'_>),
    ) -> Result<T, serde_json::Error> {
        self.fields_for(|fields| serde_ignored::deserialize(fields, note))
    }

    fn fields_for<T>(
        &self,
        decode: impl FnOnce(Fields<'_>) -> Result<T, serde_json::Error>,
    ) -> Result<T, serde_json::Error> {
        let kind = Value::from(self.row.kind);
        let version = Value::from(self.row.api_version());
        let metadata = serde_json::to_value(&self.metadata)?;
        let head = [
            ("kind", &kind),
            ("apiVersion", &version),
            ("metadata", &metadata),
        ];
        let sections = self
            .sections
            .iter()
            .map(|(key, section)| (&**key, section.tree()));
        let all: Vec<_> = head.into_iter().chain(sections).collect();
        decode(MapDeserializer::new(all.into_iter()))
    }

    /// Removes a field at any depth; its place goes with it, nothing else.
    pub(super) fn remove_field(&mut self, field: &UnknownField) {
        let Some((Step::Key(key), rest)) = field.0.split_first() else {
            return;
        };
        let Some((last, parents)) = rest.split_last() else {
            self.remove(key);
            return;
        };
        let Some((_, section)) = self.sections.iter_mut().find(|(name, _)| **name == **key) else {
            return;
        };
        let parent =
            parents
                .iter()
                .try_fold(Section::tree_mut(section), |value, step| match step {
                    Step::Key(key) => value.get_mut(key),
                    Step::Index(index) => value.get_mut(index),
                });
        if let (Some(Value::Object(fields)), Step::Key(key)) = (parent, last) {
            fields.shift_remove(key);
        }
    }
}

/// The top-level fields of an object, to be decoded.
type Fields<'a> = MapDeserializer<'a, std::vec::IntoIter<(&'a str, &'a Value)>, serde_json::Error>;

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.row.kind)?;
        map.serialize_entry("apiVersion", &self.row.api_version())?;
        map.serialize_entry("metadata", &self.metadata)?;
        for (key, section) in &self.sections {
            map.serialize_entry(&**key, section.tree())?;
        }
        map.end()
    }
}

fn check_kind(row: &Row, kind: Option<&Value>, version: Option<&Value>) -> Result<(), Status> {
    let kind = kind.and_then(Value::as_str).unwrap_or_default();
    let version = version.and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && kind != row.kind {
        let version = version.rsplit('/').next().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}",
            row.kind
        )));
    }
    if !version.is_empty() && version != row.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            row.api_version()
        )));
    }
    Ok(())
}
