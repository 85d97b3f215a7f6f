//! Label and field selectors: the texts of `labelSelector=` and `fieldSelector=`, parsed and applied.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/labels` and `pkg/fields`.

use serde_json::Value;

use super::object::{Object, StringMap};
use super::resource::Row;
use super::status::Status;

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
}

/// Which objects a list, a watch or a deletecollection is about. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<(String, Operator)>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    path: Path,
    equal: bool,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Path {
    Name,
    Namespace,
    Pointer(&'static str, &'static str),
}

impl Selector {
    /// Parses both texts; empty ones select everything.
    ///
    /// # Errors
    /// 400 when a text does not follow the grammar or names a field that the resource does not select by.
    pub fn parse(row: &'static Row, labels: &str, fields: &str) -> Result<Self, Status> {
        let parsed_labels = parse_labels(labels)
            .map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        let mut selector = Self {
            labels: parsed_labels,
            fields: Vec::new(),
        };
        for (path, equal, value) in parse_fields(fields).map_err(Status::bad_request)? {
            let Some(path) = field_path(row, &path) else {
                let message = format!("field label not supported: {path}");
                return Err(Status::bad_request(message));
            };
            selector.fields.push(Field { path, equal, value });
        }
        Ok(selector)
    }

    /// The selector that an object holds, with `matchLabels` and `matchExpressions`. An operator that there is not
    /// selects nothing.
    pub(super) fn of_object(selector: &Value) -> Self {
        let texts = |value: &Value| -> Vec<String> {
            let values = value.as_array().into_iter().flatten();
            values
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = equal.map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            (key.clone(), Operator::In(vec![value]))
        });
        let expressions = selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten();
        let expressions = expressions.map(|one| {
            let key = one["key"].as_str().unwrap_or_default().to_owned();
            let operator = match one["operator"].as_str() {
                Some("In") => Operator::In(texts(&one["values"])),
                Some("NotIn") => Operator::NotIn(texts(&one["values"])),
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::DoesNotExist,
                _ => Operator::In(Vec::new()),
            };
            (key, operator)
        });
        Self {
            labels: equal.chain(expressions).collect(),
            fields: Vec::new(),
        }
    }

    /// Selects one object by its name.
    #[must_use]
    pub fn name(name: &str) -> Self {
        let field = Field {
            path: Path::Name,
            equal: true,
            value: name.to_owned(),
        };
        Self {
            labels: Vec::new(),
            fields: vec![field],
        }
    }

    /// Also wants this label to have this value.
    #[must_use]
    pub fn with_label(mut self, key: &str, value: &str) -> Self {
        self.labels
            .push((key.to_owned(), Operator::In(vec![value.to_owned()])));
        self
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that can match, where the selector says so.
    pub(super) fn single_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|f| f.equal && f.path == Path::Name)
            .map(|f| f.value.as_str())
    }

    /// Whether the object is selected.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        self.labels
            .iter()
            .all(|(key, operator)| operator.matches(&object.metadata.labels, key))
            && self.fields.iter().all(|field| field.matches(object))
    }
}

impl Operator {
    fn matches(&self, labels: &StringMap, key: &str) -> bool {
        let value = labels.get(key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::Greater(bound) => number().is_some_and(|n| n > *bound),
            Self::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl Field {
    fn matches(&self, object: &Object) -> bool {
        let same = match &self.path {
            Path::Name => *object.metadata.name == self.value,
            Path::Namespace => *object.metadata.namespace == self.value,
            Path::Pointer(pointer, absent) => match object.pointer(pointer) {
                None | Some(Value::Null) => *absent == self.value,
                Some(Value::String(s)) => *s == self.value,
                Some(Value::Bool(b)) => self.value == if *b { "true" } else { "false" },
                Some(Value::Number(n)) => n.as_i64() == self.value.parse().ok(),
                Some(_) => false,
            },
        };
        same == self.equal
    }
}

fn field_path(row: &'static Row, label: &str) -> Option<Path> {
    match label {
        "metadata.name" => Some(Path::Name),
        "metadata.namespace" if row.namespaced => Some(Path::Namespace),
        other => {
            let (_, pointer, absent) = row.fields.iter().find(|(name, ..)| *name == other)?;
            Some(Path::Pointer(pointer, absent))
        }
    }
}

fn parse_fields(text: &str) -> Result<Vec<(String, bool, String)>, String> {
    let mut terms = Vec::new();
    for term in split_escaped(text) {
        if term.is_empty() {
            continue;
        }
        let split = term
            .split_once("!=")
            .map(|(k, v)| (k, false, v))
            .filter(|(k, ..)| !k.contains('='));
        let split = split.or_else(|| {
            term.split_once("==")
                .map(|(k, v)| (k, true, v))
                .filter(|(k, ..)| !k.contains('='))
        });
        let split = split.or_else(|| term.split_once('=').map(|(k, v)| (k, true, v)));
        let Some((key, equal, value)) = split else {
            return Err(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            ));
        };
        terms.push((key.to_owned(), equal, unescape(value)));
    }
    Ok(terms)
}

/// Splits at commas that no backslash escapes.
fn split_escaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' {
            chars.next().unwrap_or('\\')
        } else {
            c
        });
    }
    out
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

fn tokens(text: &str) -> Vec<Token> {
    const SYMBOLS: &[&str] = &["!=", "==", "!", "=", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(symbol));
            rest = rest[symbol.len()..].trim_start();
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "!=(),<>".contains(c))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = rest[end..].trim_start();
        }
    }
    tokens
}

fn parse_labels(text: &str) -> Result<Vec<(String, Operator)>, String> {
    let tokens = tokens(text);
    let mut at = 0;
    let mut terms = Vec::new();
    while at < tokens.len() {
        let (term, next) = parse_requirement(&tokens, at)?;
        terms.push(term);
        at = next;
        match tokens.get(at) {
            None => break,
            Some(Token::Symbol(",")) if at + 1 < tokens.len() => at += 1,
            other => {
                return Err(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    shown(other)
                ));
            }
        }
    }
    Ok(terms)
}

fn shown(token: Option<&Token>) -> String {
    match token {
        None => String::new(),
        Some(Token::Word(word)) => word.clone(),
        Some(Token::Symbol(symbol)) => (*symbol).to_owned(),
    }
}

type Requirement = (String, Operator);

fn parse_requirement(tokens: &[Token], at: usize) -> Result<(Requirement, usize), String> {
    let (negated, at) = if tokens.get(at) == Some(&Token::Symbol("!")) {
        (true, at + 1)
    } else {
        (false, at)
    };
    let Some(Token::Word(key)) = tokens.get(at) else {
        return Err(format!(
            "found '{}', expected: identifier",
            shown(tokens.get(at))
        ));
    };
    if let Some(why) = super::names::label_key(key) {
        return Err(format!("key: Invalid value: {key:?}: {why}"));
    }
    let end = matches!(tokens.get(at + 1), None | Some(Token::Symbol(",")));
    if negated || end {
        let operator = if negated {
            Operator::DoesNotExist
        } else {
            Operator::Exists
        };
        return Ok(((key.clone(), operator), at + 1));
    }
    let value = || match tokens.get(at + 2) {
        Some(Token::Word(word)) => (word.clone(), at + 3),
        _ => (String::new(), at + 2),
    };
    let (operator, next) = match tokens.get(at + 1) {
        Some(Token::Symbol("=" | "==")) => {
            let (value, next) = value();
            (Operator::In(vec![checked(value)?]), next)
        }
        Some(Token::Symbol("!=")) => {
            let (value, next) = value();
            (Operator::NotIn(vec![checked(value)?]), next)
        }
        Some(Token::Symbol(symbol @ (">" | "<"))) => {
            let (value, next) = value();
            let bound = value.parse().map_err(|_| format!("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))?;
            (
                if *symbol == ">" {
                    Operator::Greater(bound)
                } else {
                    Operator::Less(bound)
                },
                next,
            )
        }
        Some(Token::Word(word)) if word == "in" || word == "notin" => {
            let (values, next) = parse_set(tokens, at + 2)?;
            (
                if word == "in" {
                    Operator::In(values)
                } else {
                    Operator::NotIn(values)
                },
                next,
            )
        }
        other => {
            return Err(format!(
                "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                shown(other)
            ));
        }
    };
    Ok(((key.clone(), operator), next))
}

fn checked(value: String) -> Result<String, String> {
    match super::names::label_value(&value) {
        Some(why) => Err(format!("values[0]: Invalid value: {value:?}: {why}")),
        None => Ok(value),
    }
}

fn parse_set(tokens: &[Token], at: usize) -> Result<(Vec<String>, usize), String> {
    if tokens.get(at) != Some(&Token::Symbol("(")) {
        return Err(format!("found '{}' expected: '('", shown(tokens.get(at))));
    }
    let (mut values, mut at, mut wants_value) = (Vec::new(), at + 1, true);
    loop {
        match tokens.get(at) {
            Some(Token::Word(word)) if wants_value => {
                values.push(checked(word.clone())?);
                wants_value = false;
            }
            Some(Token::Symbol(",")) => {
                if wants_value {
                    values.push(String::new());
                }
                wants_value = true;
            }
            Some(Token::Symbol(")")) => {
                if wants_value {
                    values.push(String::new());
                }
                return Ok((values, at + 1));
            }
            other => return Err(format!("found '{}', expected: ',' or ')'", shown(other))),
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::resource;
    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "1", "example.com/b": "x"}},
            "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}});
        let pod = Object::from_value(&resource::PODS, pod).unwrap();
        Selector::parse(&resource::PODS, labels, fields)
            .unwrap()
            .matches(&pod)
    }

    #[test]
    fn every_label_operator_selects() {
        let yes = [
            "",
            "a",
            "a=1",
            "a==1",
            "a!=2",
            "c!=2",
            "!c",
            "a in (1,2)",
            "a notin (2)",
            "c notin (2)",
            "a>0",
            "a<2",
            "example.com/b=x, a",
        ];
        let no = [
            "c",
            "a=2",
            "a!=1",
            "!a",
            "a in (2,3)",
            "a notin (1,2)",
            "a>1",
            "c>0",
            "example.com/b>1",
            "a,c",
        ];
        for text in yes {
            assert!(selects(text, ""), "{text}");
        }
        for text in no {
            assert!(!selects(text, ""), "{text}");
        }
    }

    #[test]
    fn fields_are_compared_by_their_text() {
        let yes = [
            "spec.nodeName=node-1",
            "spec.nodeName==node-1",
            "spec.nodeName!=node-2,status.phase=Running",
            "metadata.namespace=n",
            "spec.hostNetwork=false",
        ];
        for text in yes {
            assert!(selects("", text), "{text}");
        }
        for text in ["metadata.name=q", "metadata.name!=p", "status.phase="] {
            assert!(!selects("", text), "{text}");
        }
    }

    #[test]
    fn broken_selectors_are_refused() {
        for text in [
            "==", "a in", "a in (", "a in 1", "a,", ",a", "a b", "a>x", "a/b/c=1", "!",
        ] {
            assert_eq!(
                Selector::parse(&resource::PODS, text, "").unwrap_err().code,
                400,
                "{text}"
            );
        }
        for text in ["spec.nope=1", "metadata.name"] {
            assert_eq!(
                Selector::parse(&resource::PODS, "", text).unwrap_err().code,
                400,
                "{text}"
            );
        }
        assert_eq!(
            Selector::parse(&resource::NODES, "", "metadata.namespace=x")
                .unwrap_err()
                .code,
            400
        );
    }
}
