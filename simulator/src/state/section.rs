//! A top-level field of an object: as a tree to work on, or as the JSON text of one.
//!
//! A tree takes three to four times as much memory as its text. What is kept for long is kept as text; whoever looks into it
//! again gets a tree, which then stays beside it.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// The field. At least one of both is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    tree: OnceLock<Value>,
    text: Option<Box<str>>,
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
            let text = self.text.as_deref().unwrap_or("null");
            // It is our own text.
            serde_json::from_str(text).unwrap_or_default()
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

    /// Keeps the text only, where no other object shares the tree.
    pub(super) fn compact(section: &mut Arc<Self>) {
        let Some(own) = Arc::get_mut(section) else {
            return;
        };
        if own.text.is_none()
            && let Some(tree) = own.tree.get()
            && let Ok(text) = serde_json::to_string(tree)
        {
            *own = Self {
                tree: OnceLock::new(),
                // A copy: a string that has grown has room to spare, which shrinking it does not always give back.
                text: Some(Box::from(text.as_str())),
            };
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether both say the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (&self.text, &other.text) {
            (Some(ours), Some(theirs)) if ours == theirs => true,
            _ => self.tree() == other.tree(),
        }
    }
}
