//! Fields that the type of an object does not have: found while it is decoded, then dropped, as decoding into Go's
//! types does.
//!
//! The types are those of the oldest release that `k8s-openapi` has: a field that came later counts as unknown.

use std::fmt;

use serde_ignored::Path;

/// A step on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Where such a field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField(pub(super) Vec<Step>);

impl UnknownField {
    pub(super) fn at(path: &Path<'_>) -> Self {
        let mut steps = Vec::new();
        let mut path = path;
        loop {
            path = match path {
                Path::Root => break,
                Path::Seq { parent, index } => {
                    steps.push(Step::Index(*index));
                    parent
                }
                Path::Map { parent, key } => {
                    steps.push(Step::Key(key.clone()));
                    parent
                }
                Path::Some { parent }
                | Path::NewtypeStruct { parent }
                | Path::NewtypeVariant { parent } => parent,
            };
        }
        steps.reverse();
        Self(steps)
    }
}

/// As a real server writes it: `spec.containers[0].imagee`.
impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
