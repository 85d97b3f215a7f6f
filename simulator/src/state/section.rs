//! A top-level field of an object: as a tree to work on, or as the JSON text of one.
//!
//! A tree takes three to four times as much memory as its text, and most texts are nearly those of the object written
//! before: job pods are of one template. What is kept for long is kept as what it has of its own; whoever looks into it
//! again gets a tree, which then stays beside it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, BytesMut};
use lz4_flex::block;
use serde_json::Value;

/// A longer text is kept as it is: what follows is too far from the part of it that it is like.
const PACKED_BYTES_MAX: usize = 32 * 1024;

/// The field. At least one of both is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    tree: OnceLock<Value>,
    text: Option<Text>,
}

/// A text in JSON.
#[derive(Debug, Clone, PartialEq)]
enum Text {
    Whole(Arc<str>),
    Packed {
        /// Which whole one it is like.
        like: Arc<str>,
        /// An LZ4 block of which that is the dictionary.
        bytes: Box<[u8]>,
        length: usize,
    },
}

impl Text {
    fn new(text: &str, model: Option<&Self>) -> Self {
        let model = model.map(|(Self::Whole(like) | Self::Packed { like, .. })| like);
        let fits = |text: &str| text.len() <= PACKED_BYTES_MAX;
        if let Some(like) = model.filter(|like| fits(like) && fits(text)) {
            let packed = block::compress_with_dict(text.as_bytes(), like.as_bytes());
            if packed.len() < text.len() / 2 {
                return Self::Packed {
                    like: Arc::clone(like),
                    // A copy: what has been written into has room to spare, which shrinking it does not always give
                    // back.
                    bytes: Box::from(packed.as_slice()),
                    length: text.len(),
                };
            }
        }
        Self::Whole(Arc::from(text))
    }

    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Whole(text) => Cow::Borrowed(text.as_bytes()),
            Self::Packed { length, .. } => {
                let mut bytes = vec![0; *length];
                self.unpack_into(&mut bytes);
                Cow::Owned(bytes)
            }
        }
    }

    fn put(&self, bytes: &mut BytesMut) {
        match self {
            Self::Whole(text) => bytes.put_slice(text.as_bytes()),
            Self::Packed { length, .. } => {
                let start = bytes.len();
                bytes.resize(start + length, 0);
                self.unpack_into(&mut bytes[start..]);
            }
        }
    }

    fn unpack_into(&self, room: &mut [u8]) {
        if let Self::Packed { like, bytes, .. } = self {
            let unpacked = block::decompress_into_with_dict(bytes, room, like.as_bytes());
            debug_assert_eq!(unpacked.ok(), Some(room.len()), "it is our own block");
        }
    }
}

impl Section {
    pub(super) fn new(tree: Value) -> Self {
        Self {
            tree: OnceLock::from(tree),
            text: None,
        }
    }

    pub(super) fn tree(&self) -> &Value {
        self.tree.get_or_init(|| {
            let text = self.text.as_ref().map(Text::bytes);
            // It is our own text.
            text.and_then(|text| serde_json::from_slice(&text).ok())
                .unwrap_or_default()
        })
    }

    /// The tree, to be changed.
    pub(super) fn tree_mut(section: &mut Arc<Self>) -> &mut Value {
        section.tree();
        let own = Arc::make_mut(section);
        own.text = None;
        match own.tree.get_mut() {
            Some(tree) => tree,
            None => unreachable!("made just above"),
        }
    }

    /// Keeps the text only, where no other object shares the tree; of that only what differs from `model`, and nothing
    /// where it is the same.
    pub(super) fn compact(section: &mut Arc<Self>, model: Option<&Arc<Self>>) {
        let Some(own) = Arc::get_mut(section) else {
            return;
        };
        if own.text.is_none()
            && let Some(tree) = own.tree.get()
            && let Ok(text) = serde_json::to_string(tree)
        {
            let text = Text::new(&text, model.and_then(|model| model.text.as_ref()));
            match model.filter(|model| model.text.as_ref() == Some(&text)) {
                Some(same) => *section = Arc::clone(same),
                None => {
                    *own = Self {
                        tree: OnceLock::new(),
                        text: Some(text),
                    }
                }
            }
        }
    }

    /// Writes it as JSON.
    pub(super) fn encode(&self, bytes: &mut BytesMut) {
        match &self.text {
            Some(text) => text.put(bytes),
            None => {
                // Memory takes what is written, and our own values have no keys that are no text.
                let _ = serde_json::to_writer(bytes.writer(), self.tree());
            }
        }
    }

    /// Whether both say the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (&self.text, &other.text) {
            (Some(ours), Some(theirs)) if ours == theirs => true,
            _ => self.tree() == other.tree(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compact(value: Value, model: Option<&Arc<Section>>) -> Arc<Section> {
        let mut section = Arc::new(Section::new(value));
        Section::compact(&mut section, model);
        section
    }

    fn encoded(section: &Section) -> String {
        let mut bytes = BytesMut::from("before ");
        section.encode(&mut bytes);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn spec(node: &str) -> Value {
        let environment: Vec<_> = (0..20)
            .map(|number| json!({"name": format!("VARIABLE_{number}"), "value": "ä \"quoted\" value"}))
            .collect();
        json!({"nodeName": node, "containers": [{"name": "job", "image": "registry/job", "env": environment}]})
    }

    #[test]
    fn what_is_like_another_is_kept_as_what_it_has_of_its_own() {
        let model = compact(spec("node-1"), None);
        let section = compact(spec("another node"), Some(&model));
        let Some(Text::Packed { like, bytes, .. }) = &section.text else {
            panic!("it is whole: {section:?}");
        };
        assert!(bytes.len() < 64, "{} bytes", bytes.len());
        assert_eq!(
            encoded(&section),
            format!("before {}", spec("another node"))
        );
        assert_eq!(section.tree(), &spec("another node"));
        // The next one is like the whole one, too, which is not kept twice.
        let next = compact(spec("node-3"), Some(&section));
        let Some(Text::Packed { like: same, .. }) = &next.text else {
            panic!("it is whole: {next:?}");
        };
        assert!(Arc::ptr_eq(like, same));
        assert_eq!(next.tree(), &spec("node-3"));
    }

    #[test]
    fn what_is_the_same_is_kept_once() {
        let model = compact(json!({"phase": "Pending"}), None);
        assert!(Arc::ptr_eq(
            &model,
            &compact(json!({"phase": "Pending"}), Some(&model))
        ));
        let packed = compact(spec("node-2"), Some(&compact(spec("node-1"), None)));
        assert!(Arc::ptr_eq(
            &packed,
            &compact(spec("node-2"), Some(&packed))
        ));
    }

    #[test]
    fn what_is_unlike_the_one_before_is_kept_whole() {
        let model = compact(spec("node-1"), None);
        for value in [
            json!(null),
            json!({"replicas": 3}),
            json!("x".repeat(PACKED_BYTES_MAX)),
        ] {
            let section = compact(value.clone(), Some(&model));
            assert!(matches!(section.text, Some(Text::Whole(_))), "{section:?}");
            assert_eq!(encoded(&section), format!("before {value}"));
        }
    }

    #[test]
    fn a_change_of_one_object_is_no_change_of_another_that_shares_it() {
        let model = compact(spec("node-1"), None);
        let mut section = compact(spec("node-1"), Some(&model));
        Section::tree_mut(&mut section)["nodeName"] = json!("node-2");
        assert_eq!(section.tree(), &spec("node-2"));
        assert_eq!(model.tree(), &spec("node-1"));
    }
}
