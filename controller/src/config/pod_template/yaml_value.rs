//! YAML and JSON as Kubernetes' own tools read them, up to the untyped tree.
//!
//! Plain scalars are resolved as in YAML 1.1 (`yes` is a boolean, `0644` is octal, `1_000` a thousand), duplicate keys
//! are not an error (the last one wins), and only the first document counts: what `sigs.k8s.io/yaml` does. What a
//! number means for a field that wants a string is the business of `typed_value`.

use granit_parser::{Event, Parser, ScalarStyle, Tag};

/// Collections deeper than this are refused: a pod is nowhere near, and the stack is finite.
const MAX_DEPTH: usize = 100;

/// Nodes of one document, those that aliases repeat included: what an alias bomb may not exceed.
const MAX_NODES: usize = 200_000;

/// A document that could not be read, as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseValueError(String);

/// An untyped value, keys in the order of the document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    String(String),
    Sequence(Vec<Value>),
    Mapping(Vec<(String, Value)>),
}

/// Reads the first document of `text`; `None` where there is nothing at all.
///
/// # Errors
/// One line with the position, where it is not YAML.
pub(crate) fn parse_first_yaml_document(text: &str) -> Result<Option<Value>, ParseValueError> {
    let Some(document) = first_document(text) else {
        return Ok(None);
    };
    let mut builder = Builder::default();
    for next in Parser::new_from_str(&document) {
        let (event, _) = next
            .map_err(|error| ParseValueError(format!("yaml: {}", one_line(&error.to_string()))))?;
        if builder.take(event)? {
            break;
        }
    }
    Ok(Some(builder.root.unwrap_or(Value::Null)))
}

/// Reads the first JSON value of `text`, whatever follows it.
///
/// # Errors
/// One line with the position, where it is not JSON.
pub(crate) fn parse_first_json_value(text: &str) -> Result<Value, ParseValueError> {
    match serde_json::Deserializer::from_str(text)
        .into_iter::<serde_json::Value>()
        .next()
    {
        Some(Ok(value)) => Ok(from_json(value)),
        Some(Err(error)) => Err(ParseValueError(format!("json: {error}"))),
        None => Ok(Value::Null),
    }
}

fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => number.as_i64().map_or_else(
            || {
                number.as_u64().map_or_else(
                    || Value::Float(number.as_f64().unwrap_or_default()),
                    Value::UInt,
                )
            },
            Value::Int,
        ),
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Array(items) => {
            Value::Sequence(items.into_iter().map(from_json).collect())
        }
        serde_json::Value::Object(entries) => Value::Mapping(
            entries
                .into_iter()
                .map(|(key, value)| (key, from_json(value)))
                .collect(),
        ),
    }
}

/// The text up to the first line that begins with `---` and holds nothing else, leading ones skipped.
fn first_document(text: &str) -> Option<String> {
    let mut document = String::new();
    for line in text.split_inclusive('\n') {
        let separates = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim().is_empty());
        if !separates {
            document.push_str(line);
        } else if !document.is_empty() {
            break;
        }
    }
    (!document.is_empty()).then_some(document)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An open collection.
struct Open {
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>),
    Mapping {
        entries: Vec<(String, Value)>,
        key: Option<Key>,
    },
}

/// A key that waits for its value.
enum Key {
    Name(String),
    /// `<<`: the value's entries join the mapping.
    Merge,
}

/// Builds the tree from parser events, without recursion.
#[derive(Default)]
struct Builder {
    root: Option<Value>,
    open: Vec<Open>,
    anchors: std::collections::BTreeMap<usize, Value>,
    nodes: usize,
}

impl Builder {
    /// Takes one event; true at the end of the first document.
    fn take(&mut self, event: Event<'_>) -> Result<bool, ParseValueError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if self.awaits_key() && style == ScalarStyle::Plain && text == "<<" {
                    self.set_key(Key::Merge);
                } else {
                    self.node(resolve_scalar(&text, style, tag.as_deref()), anchor)?;
                }
            }
            Event::SequenceStart(_, anchor, _) => {
                self.start(anchor, Content::Sequence(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, _) => {
                self.start(
                    anchor,
                    Content::Mapping {
                        entries: Vec::new(),
                        key: None,
                    },
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { anchor, content }) = self.open.pop() {
                    let value = match content {
                        Content::Sequence(items) => Value::Sequence(items),
                        Content::Mapping { entries, .. } => Value::Mapping(entries),
                    };
                    self.node(value, anchor)?;
                }
            }
            Event::Alias(id) => {
                let value = self.anchors.get(&id).cloned();
                let value = value
                    .ok_or_else(|| ParseValueError("yaml: anchor value contains itself".into()))?;
                self.nodes += count_nodes(&value);
                self.node(value, 0)?;
            }
            Event::DocumentEnd | Event::StreamEnd => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn start(&mut self, anchor: usize, content: Content) -> Result<(), ParseValueError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(ParseValueError(format!(
                "yaml: nested more than {MAX_DEPTH} levels deep"
            )));
        }
        if self.awaits_key() {
            return Err(ParseValueError("yaml: a collection cannot be a key".into()));
        }
        self.open.push(Open { anchor, content });
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: Content::Mapping { key: None, .. },
                ..
            })
        )
    }

    fn set_key(&mut self, name: Key) {
        if let Some(Open {
            content: Content::Mapping { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some(name);
        }
    }

    /// Places a finished value: as key, entry, item or root.
    fn node(&mut self, value: Value, anchor: usize) -> Result<(), ParseValueError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ParseValueError(format!(
                "yaml: more than {MAX_NODES} values"
            )));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(value),
            Some(Content::Sequence(items)) => items.push(value),
            Some(Content::Mapping { entries, key }) => match key.take() {
                None => *key = Some(Key::Name(key_text(&value)?)),
                Some(Key::Name(name)) => set_entry(entries, name, value),
                Some(Key::Merge) => merge(entries, value)?,
            },
        }
        Ok(())
    }
}

fn count_nodes(value: &Value) -> usize {
    match value {
        Value::Sequence(items) => 1 + items.iter().map(count_nodes).sum::<usize>(),
        Value::Mapping(entries) => {
            1 + entries
                .iter()
                .map(|(_, value)| count_nodes(value))
                .sum::<usize>()
        }
        _ => 1,
    }
}

fn set_entry(entries: &mut Vec<(String, Value)>, name: String, value: Value) {
    match entries.iter_mut().find(|(known, _)| *known == name) {
        Some((_, slot)) => *slot = value,
        None => entries.push((name, value)),
    }
}

/// Joins what `<<` names; of several mappings the earlier ones win.
fn merge(entries: &mut Vec<(String, Value)>, value: Value) -> Result<(), ParseValueError> {
    match value {
        Value::Mapping(merged) => {
            for (name, value) in merged {
                set_entry(entries, name, value);
            }
            Ok(())
        }
        Value::Sequence(items) if items.iter().all(|item| matches!(item, Value::Mapping(_))) => {
            items
                .into_iter()
                .rev()
                .try_for_each(|item| merge(entries, item))
        }
        _ => Err(ParseValueError(
            "yaml: map merge requires map or sequence of maps as the value".into(),
        )),
    }
}

/// A key as text: JSON knows no other, so numbers and booleans are spelled out.
fn key_text(value: &Value) -> Result<String, ParseValueError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) => Ok(scalar_text(value)),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => Err(ParseValueError(
            "yaml: only strings, numbers and booleans can be keys".into(),
        )),
    }
}

/// A number or boolean as the string that Go makes of it; a string as it is; empty otherwise.
pub(crate) fn scalar_text(value: &Value) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => float_text(*number),
        Value::String(text) => text.clone(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => String::new(),
    }
}

/// Go's `strconv.FormatFloat(x, 'g', -1, 64)`: the shortest digits, an exponent below 1e-4 and from 1e6 on.
fn float_text(number: f64) -> String {
    /// Where Go's shortest form switches to an exponent.
    const EXPONENT_FROM: i32 = 6;
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "+Inf".into()
        } else {
            "-Inf".into()
        };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..EXPONENT_FROM).contains(&exponent) {
        format!("{number}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// What a scalar means: plain ones by their looks, quoted ones are strings, tagged ones as told.
fn resolve_scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    match tag {
        None if style == ScalarStyle::Plain => resolve_plain(text),
        None => Value::String(text.to_owned()),
        Some(tag) => match tag.core_suffix() {
            Some("int" | "float" | "bool" | "null") => resolve_plain(text),
            _ => Value::String(text.to_owned()),
        },
    }
}

fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    resolve_number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn resolve_number(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let plain = text.replace('_', "");
    if first != b'.'
        && let Some(integer) = resolve_integer(&plain)
    {
        return Some(integer);
    }
    is_float(&plain)
        .then(|| plain.parse().ok().map(Value::Float))
        .flatten()
}

/// Go's `strconv.ParseInt(text, 0, 64)`: `0x`, `0o`, `0b` and a leading zero choose the base.
fn resolve_integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    let number = if negative { -magnitude } else { magnitude };
    i64::try_from(number).map(Value::Int).ok().or_else(|| {
        (!text.starts_with('+'))
            .then(|| u64::try_from(number).ok().map(Value::UInt))
            .flatten()
    })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        ),
        None => (unsigned, None),
    };
    let all_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|digits| !digits.is_empty() && all_digits(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: Value) {
        assert_eq!(
            parse_first_yaml_document(yaml).unwrap(),
            Some(expected),
            "{yaml}"
        );
    }

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        for text in ["yes", "on", "y", "True"] {
            check(text, Value::Bool(true));
        }
        for text in ["no", "OFF", "n", "false"] {
            check(text, Value::Bool(false));
        }
        check("0644", Value::Int(0o644));
        check("0o644", Value::Int(0o644));
        check("0x1F", Value::Int(31));
        check("-0b11", Value::Int(-3));
        check("1_000", Value::Int(1000));
        check("08", Value::Float(8.0));
        check("1e3", Value::Float(1000.0));
        check(".5", Value::Float(0.5));
        check("18446744073709551615", Value::UInt(u64::MAX));
        check("2001-01-01", Value::String("2001-01-01".into()));
        check("1.2.3", Value::String("1.2.3".into()));
        check("'5'", Value::String("5".into()));
        check("!!str 5", Value::String("5".into()));
        check("!!int '5'", Value::Int(5));
        check("~", Value::Null);
    }

    #[test]
    fn floats_become_text_as_in_go() {
        let text = |number| scalar_text(&Value::Float(number));
        assert_eq!(text(1.1), "1.1");
        assert_eq!(text(8.0), "8");
        assert_eq!(text(123_456.5), "123456.5");
        assert_eq!(text(1_234_567.0), "1.234567e+06");
        assert_eq!(text(0.00001), "1e-05");
    }

    #[test]
    fn only_the_first_document_counts() {
        check(
            "---\na: 1\n---\na: 2\n",
            Value::Mapping(vec![("a".into(), Value::Int(1))]),
        );
        assert_eq!(parse_first_yaml_document("").unwrap(), None);
        check("# nothing\n", Value::Null);
    }

    #[test]
    fn merges_aliases_and_repeated_keys_resolve() {
        let merged =
            parse_first_yaml_document("base: &b {x: 1, z: 2}\nuse: {<<: *b, z: 3, z: 4}\n")
                .unwrap();
        let Some(Value::Mapping(entries)) = merged else {
            panic!("{merged:?}")
        };
        assert_eq!(
            entries[1].1,
            Value::Mapping(vec![
                ("x".into(), Value::Int(1)),
                ("z".into(), Value::Int(4))
            ])
        );
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(parse_first_yaml_document(&deep).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            use std::fmt::Write as _;
            let below = format!("*a{}", level - 1);
            writeln!(bomb, "a{level}: &a{level} [{}]", vec![below; 10].join(",")).unwrap();
        }
        assert!(parse_first_yaml_document(&bomb).is_err());
    }
}
