//! The untyped side of `config.yaml`: from text to a tree of values, and a reader that takes keys from it one by one.
//!
//! A wrong key is recorded and reading goes on, so that all of them come out in one go. What a user of the original has
//! in the file keeps working: YAML 1.1 booleans and octal numbers, a whole number written as `10.0`, keys that differ
//! in case, keys given twice, further documents behind the first. Which keys there are is not known here.

use std::cell::RefCell;
use std::fmt;

use serde_json::{Map, Value};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

/// How much of a wrong value is repeated in its error, in characters.
const SHOWN_CHARS: usize = 80;

/// A wrong key: what it is, what was found there and what is wanted. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The full path, such as `metrics.gauges.test.labels[1]`.
    pub key: String,
    /// The value as JSON, cut where it is long; `nothing` for a missing key.
    pub found: String,
    /// What would be right.
    pub wanted: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: found {}, want {}",
            self.key, self.found, self.wanted
        )
    }
}

/// All wrong keys of a configuration, in the order of reading. Displayed as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something that does not stop the controller but that its user should know. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The full path of the key it is about.
    pub key: String,
    /// What about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// What reading has found so far. Shared by all sections of a document.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<Warning>>,
    known_keys: RefCell<Vec<Key>>,
    unknown_keys: RefCell<Vec<Key>>,
}

#[derive(Debug, Clone)]
struct Key {
    section: String,
    name: String,
}

impl Findings {
    pub(super) fn error(
        &self,
        key: impl Into<String>,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        self.errors.borrow_mut().push(ConfigError {
            key: printable(key),
            found: printable(found),
            wanted: printable(wanted),
        });
    }

    pub(super) fn wrong_value(
        &self,
        key: impl Into<String>,
        value: &Value,
        wanted: impl Into<String>,
    ) {
        self.error(key, shown(value), wanted);
    }

    pub(super) fn warn(&self, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Warning {
            key: printable(key),
            message: printable(message),
        });
    }

    /// Whether any of these keys is wrong: a rule that joins several is only checked where each is right.
    pub(super) fn any_wrong(&self, keys: &[&str]) -> bool {
        self.errors
            .borrow()
            .iter()
            .any(|error| keys.contains(&error.key.as_str()))
    }

    /// Errors and warnings, the unknown keys among the latter.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<Warning>) {
        let known = self.known_keys.take();
        for key in self.unknown_keys.take() {
            let hint = nearest(&key, &known)
                .map(|near| format!("; the nearest known key is {near}"))
                .unwrap_or_default();
            let key = join(&key.section, &key.name);
            self.warn(key, format!("unknown key, ignored{hint}"));
        }
        (self.errors.into_inner(), self.warnings.into_inner())
    }
}

/// The known key closest in spelling, one of the same section before all others that are as close.
fn nearest(key: &Key, known: &[Key]) -> Option<String> {
    let name = key.name.to_lowercase();
    known
        .iter()
        .min_by_key(|candidate| {
            let distance = strsim::damerau_levenshtein(&name, &candidate.name.to_lowercase());
            (distance, candidate.section != key.section)
        })
        .map(|near| join(&near.section, &near.name))
}

/// Fit for one line: a name of the user's own, and what a parser quotes, may hold anything.
fn printable(text: impl Into<String>) -> String {
    text.into().replace(char::is_control, "\u{fffd}")
}

/// The full path of a key. One that is empty shows as `""`.
pub(super) fn join(section: &str, name: &str) -> String {
    let name = if name.is_empty() { "\"\"" } else { name };
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

/// A value as it is shown in an error: JSON on one line, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    let json = value.to_string();
    match json.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}

/// Reads the first document of a YAML text, as the original did.
///
/// Errors are recorded under `document_name`, syntax errors with line and column.
pub(super) fn document(
    yaml: &str,
    document_name: &str,
    findings: &Findings,
) -> Option<Map<String, Value>> {
    let mut documents = match read_documents(yaml, DuplicateKeyPolicy::Error) {
        Ok(documents) => documents,
        Err(strict) => match read_documents(yaml, DuplicateKeyPolicy::LastWins) {
            Ok(documents) => {
                findings.warn(
                    document_name,
                    format!("{}; the last one counts", one_line(&strict)),
                );
                documents
            }
            Err(error) => {
                findings.error(document_name, one_line(&error), "valid YAML");
                return None;
            }
        },
    };
    if documents.len() > 1 {
        findings.warn(document_name, "only the first YAML document is read");
    }
    let first = if documents.is_empty() {
        Value::Null
    } else {
        documents.swap_remove(0)
    };
    match first {
        Value::Object(entries) => Some(entries),
        Value::Null => {
            findings.error(document_name, "nothing", "a mapping of keys to values");
            None
        }
        other => {
            findings.wrong_value(document_name, &other, "a mapping of keys to values");
            None
        }
    }
}

fn read_documents(
    yaml: &str,
    duplicate_keys: DuplicateKeyPolicy,
) -> Result<Vec<Value>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(yaml, options)
}

fn one_line(error: &serde_saphyr::Error) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The keys of one mapping, taken one by one; what is left when it is dropped is unknown.
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: String,
    entries: Map<String, Value>,
    findings: &'a Findings,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        path: impl Into<String>,
        entries: Map<String, Value>,
        findings: &'a Findings,
    ) -> Section<'a> {
        Section {
            path: path.into(),
            entries,
            findings,
        }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Takes a key out; null is as good as absent. A key that differs only in case was good enough for the original.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.findings.known_keys.borrow_mut().push(Key {
            section: self.path.clone(),
            name: name.to_owned(),
        });
        if let Some(value) = self.entries.shift_remove(name) {
            return Some(value).filter(|value| !value.is_null());
        }
        let other_case = self
            .entries
            .keys()
            .find(|key| key.eq_ignore_ascii_case(name))?
            .clone();
        self.findings.warn(
            self.path_of(&other_case),
            format!("taken for {}; spell it so", self.path_of(name)),
        );
        self.entries
            .shift_remove(&other_case)
            .filter(|value| !value.is_null())
    }

    /// Takes a key and reads it; `None` if it is absent, or wrong, which is then recorded.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let typed = read(&value);
        if typed.is_none() {
            self.findings
                .wrong_value(self.path_of(name), &value, wanted);
        }
        typed
    }

    /// As [`optional`](Self::optional), where the text `none`, as the documentation writes it, is as good as absent.
    pub(super) fn unless_none<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let is_none = |value: &Value| value == "none";
        self.optional(name, wanted, |value| {
            if is_none(value) {
                Some(None)
            } else {
                read(value).map(Some)
            }
        })
        .flatten()
    }

    /// Takes a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = self.take(name) else {
            self.findings.error(self.path_of(name), "nothing", wanted);
            return None;
        };
        let typed = read(&value);
        if typed.is_none() {
            self.findings
                .wrong_value(self.path_of(name), &value, wanted);
        }
        typed
    }

    /// Takes a mapping of known keys. Absent or wrong, it has none.
    pub(super) fn section(&mut self, name: &str) -> Section<'a> {
        let entries = self.optional(name, "a mapping", |value| value.as_object().cloned());
        Section::new(
            self.path_of(name),
            entries.unwrap_or_default(),
            self.findings,
        )
    }

    /// Takes a mapping with keys of the user's own.
    pub(super) fn mapping(&mut self, name: &str, wanted: &str) -> Map<String, Value> {
        self.optional(name, wanted, |value| value.as_object().cloned())
            .unwrap_or_default()
    }

    /// Takes a list. Absent or wrong, it is empty. Its items come with their paths.
    pub(super) fn list(&mut self, name: &str, wanted: &str) -> Vec<(String, Value)> {
        let path = self.path_of(name);
        let items = self
            .optional(name, wanted, |value| value.as_array().cloned())
            .unwrap_or_default();
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| (format!("{path}[{index}]"), item))
            .collect()
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let unknown = self.entries.keys().map(|name| Key {
            section: self.path.clone(),
            name: name.clone(),
        });
        self.findings.unknown_keys.borrow_mut().extend(unknown);
    }
}
