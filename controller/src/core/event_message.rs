//! Events that job pods post: their document, what is valid, and the message with its arguments filled in.
//!
//! The document is read as Go's `encoding/json` reads it (null leaves a field empty, unknown keys are ignored), but
//! keys are matched exactly and nothing may follow the value. The message follows Go's `fmt.Sprintf` with string
//! arguments; without arguments it is literal text. Limits are those of the `events.k8s.io/v1` API: a reason or an
//! action that is too long is refused, a note that is too long is cut, because it is made of arguments that a script
//! does not measure.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::go_format::sprintf;
use super::report::{JsonError, parse_document};

/// Longest `reason` and `action` that the Events API takes, in bytes.
pub const REASON_MAX_BYTES: usize = 128;

/// Longest `note` that the Events API takes, in bytes.
pub const NOTE_MAX_BYTES: usize = 1024;

/// What is made of a format at most: a little more than shows.
const NOTE_FORMAT_MAX_BYTES: usize = 2 * NOTE_MAX_BYTES;

/// What stands at the end of a note that was cut.
const CUT_MARK: &str = "…";

/// The action of an event that names none.
const ACTION_NOT_AVAILABLE: &str = "n/a";

/// A valid event, ready to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReport {
    /// Whether its type is `Warning` rather than `Normal`.
    pub warning: bool,
    /// A short `UpperCamelCase` word.
    pub reason: String,
    /// What was done; `n/a` where the report does not say.
    pub action: String,
    /// The message, arguments filled in.
    pub note: String,
}

impl EventReport {
    /// The type of the Kubernetes event.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        if self.warning { "Warning" } else { "Normal" }
    }
}

/// Why an event is refused; one line that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The body is not the document.
    #[error("event: {0}")]
    Json(#[from] JsonError),
    /// A required field is missing or empty.
    #[error("event: {0}: must not be empty")]
    Missing(&'static str),
    /// The reason does not begin with a capital letter.
    #[error("event: reason: must begin with a capital letter")]
    ReasonNotCapitalized,
    /// A field is longer than Kubernetes takes.
    #[error("event: {field}: must be at most {REASON_MAX_BYTES} bytes long, is {length}")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

/// The document as it came; of a repeated key the last one that is not null counts.
#[derive(Default)]
struct Document {
    warning: bool,
    action: String,
    reason: String,
    message: String,
    args: Vec<Option<String>>,
}

/// Reads and checks the body of an event report.
///
/// # Errors
/// The first fault, in one line.
pub fn parse_event(body: &[u8]) -> Result<EventReport, EventError> {
    let document: Option<Document> = parse_document(body)?;
    let Document {
        warning,
        action,
        reason,
        message,
        args,
    } = document.unwrap_or_default();
    let action = if action.is_empty() {
        ACTION_NOT_AVAILABLE.to_owned()
    } else {
        action
    };
    if reason.is_empty() {
        return Err(EventError::Missing("reason"));
    }
    if !begins_with_capital(&reason) {
        return Err(EventError::ReasonNotCapitalized);
    }
    if message.is_empty() {
        return Err(EventError::Missing("message"));
    }
    check_length("reason", &reason)?;
    check_length("action", &action)?;
    let args: Vec<String> = args.into_iter().map(Option::unwrap_or_default).collect();
    let note = if args.is_empty() {
        message
    } else {
        sprintf(&message, &args, NOTE_FORMAT_MAX_BYTES)
    };
    Ok(EventReport {
        warning,
        reason,
        action,
        note: cut(note),
    })
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

/// By hand: a derived one would take a list for the document and refuse a repeated key.
struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event such as {\"reason\": \"Checked\", \"message\": \"all good\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "warning" => replace(&mut document.warning, entries.next_value()?),
                "action" => replace(&mut document.action, entries.next_value()?),
                "reason" => replace(&mut document.reason, entries.next_value()?),
                "message" => replace(&mut document.message, entries.next_value()?),
                "args" => document.args = entries.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(document)
    }
}

/// Null changes nothing.
fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// As the original has it: the first *byte*, read as a character, is a capital letter (so `Ä` is one, by its 0xC3).
fn begins_with_capital(reason: &str) -> bool {
    reason
        .bytes()
        .next()
        .is_some_and(|byte| char::from(byte).is_uppercase())
}

fn check_length(field: &'static str, text: &str) -> Result<(), EventError> {
    if text.len() > REASON_MAX_BYTES {
        return Err(EventError::TooLong {
            field,
            length: text.len(),
        });
    }
    Ok(())
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_MAX_BYTES {
        note.truncate(note.floor_char_boundary(NOTE_MAX_BYTES - CUT_MARK.len()));
        note.push_str(CUT_MARK);
    }
    note
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(body: &str) -> Result<EventReport, String> {
        parse_event(body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_without_arguments_is_literal() {
        let event = parse(r#"{"reason":"R","message":"100% done","args":[]}"#).unwrap();
        assert_eq!(
            (
                event.note.as_str(),
                event.action.as_str(),
                event.event_type()
            ),
            ("100% done", "n/a", "Normal")
        );
    }

    #[test]
    fn nulls_are_zero_values_and_unknown_keys_are_ignored() {
        let event = parse(
            r#"{"reason":"R","message":"m %s|","args":[null],"warning":null,"action":null,"Reason":"x","z":[1]}"#,
        );
        let event = event.unwrap();
        assert_eq!(
            (event.note.as_str(), event.warning, event.reason.as_str()),
            ("m |", false, "R")
        );
        assert!(parse("null").unwrap_err().contains("reason"));
    }

    #[test]
    fn an_invalid_event_names_its_field() {
        for (body, part) in [
            ("", "event:"),
            ("foo", "event:"),
            ("[]", "event:"),
            (r#"{"reason":"R","message":"m"} x"#, "event:"),
            (r#"{"message":"m"}"#, "reason"),
            (r#"{"reason":"","message":"m"}"#, "reason"),
            (r#"{"reason":"lower","message":"m"}"#, "reason"),
            (r#"{"reason":"1","message":"m"}"#, "reason"),
            (r#"{"reason":"R"}"#, "message"),
            (r#"{"reason":"R","message":"m","args":[1]}"#, "args"),
            (r#"{"reason":"R","message":"m","args":"x"}"#, "args"),
            (
                r#"{"reason":"R","message":"m","warning":"true"}"#,
                "warning",
            ),
            (r#"{"reason":1,"message":"m"}"#, "reason"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(
                error.contains(part) && !error.contains('\n'),
                "{body}: {error}"
            );
        }
        let long = "R".repeat(129);
        assert!(
            parse(&format!(r#"{{"reason":"{long}","message":"m"}}"#))
                .unwrap_err()
                .contains("reason")
        );
        assert!(
            parse(&format!(
                r#"{{"reason":"R","action":"{long}","message":"m"}}"#
            ))
            .unwrap_err()
            .contains("action")
        );
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let event = parse(&format!(
            r#"{{"reason":"Ä","message":"a{}"}}"#,
            "é".repeat(1000)
        ))
        .unwrap();
        assert!(event.note.len() <= NOTE_MAX_BYTES && event.note.ends_with('…'));
        let event =
            parse(r#"{"reason":"R","message":"%1000000s%1000000s","args":["a","b"]}"#).unwrap();
        assert!(event.note.len() <= NOTE_MAX_BYTES);
    }
}
