//! An object as it is kept, and as JSON for whoever reads it.
//!
//! An object is encoded once for all watchers of a version.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use serde::ser::Serialize;

use super::object::Object;
use super::resource::{EVENTS_V1, Row};
use super::section::Section;

/// One version of an object as it is kept: never changed, shared by store, history and readers.
#[derive(Debug)]
pub struct Stored {
    object: Object,
    /// Kept while it is news: all watchers of a version get the same bytes.
    encoded: Mutex<Option<Bytes>>,
}

impl Stored {
    pub(super) fn new(object: Object) -> Arc<Self> {
        Arc::new(Self {
            object,
            encoded: Mutex::default(),
        })
    }

    /// As [`Stored::new`], in as little memory as it takes beside `model`, which is likely to be much the same.
    pub(super) fn compact(mut object: Object, model: Option<&Object>) -> Arc<Self> {
        if let Some(model) = model {
            object.metadata.share(&model.metadata);
        }
        for (key, section) in &mut object.sections {
            let mut sections = model.into_iter().flat_map(|model| &model.sections);
            let found = sections.find(|(name, _)| name == key);
            if let Some((name, _)) = found {
                *key = Arc::clone(name);
            }
            Section::compact(section, found.map(|(_, section)| section));
        }
        object.sections.shrink_to_fit();
        Self::new(object)
    }

    /// The object as JSON in the form of `row`, made once for all who ask while it is news.
    #[must_use]
    pub fn encoded(&self, row: &'static Row) -> Bytes {
        let make = || {
            let mut bytes = BytesMut::new();
            self.encode(row, &mut bytes);
            bytes.freeze()
        };
        if std::ptr::eq(row, &raw const EVENTS_V1) {
            return make();
        }
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.get_or_insert_with(make).clone()
    }

    /// It is no news any more.
    pub(super) fn forget_encoded(&self) {
        *self.encoded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Writes the object as JSON in the form of `row`, `{"kind":…,"apiVersion":…` first.
    pub fn encode(&self, row: &'static Row, bytes: &mut BytesMut) {
        bytes.put_slice(br#"{"kind":"#);
        encode_into(bytes, row.kind);
        bytes.put_slice(br#","apiVersion":"#);
        encode_into(bytes, &row.api_version());
        bytes.put_u8(b',');
        self.encode_item(row, bytes);
    }

    /// Writes what follows `kind` and `apiVersion`, which the items of a list do not have, with the closing brace.
    pub fn encode_item(&self, row: &'static Row, bytes: &mut BytesMut) {
        bytes.put_slice(br#""metadata":"#);
        encode_into(bytes, &self.metadata);
        if std::ptr::eq(row, &raw const EVENTS_V1) {
            let fields = self.to_value(row);
            for (key, value) in fields.as_object().into_iter().flatten() {
                if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                    bytes.put_u8(b',');
                    encode_into(bytes, key);
                    bytes.put_u8(b':');
                    encode_into(bytes, value);
                }
            }
        } else {
            for (key, section) in &self.object.sections {
                bytes.put_u8(b',');
                encode_into(bytes, &**key);
                bytes.put_u8(b':');
                section.encode(bytes);
            }
        }
        bytes.put_u8(b'}');
    }
}

fn encode_into(bytes: &mut BytesMut, value: &(impl Serialize + ?Sized)) {
    // Memory takes what is written, and our own values have no keys that are no text.
    let _ = serde_json::to_writer(bytes.writer(), value);
}

impl Deref for Stored {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}
