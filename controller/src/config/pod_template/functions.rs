//! Template functions that follow Go where the engine's own do not: comparisons of different kinds are errors, a
//! missing key of a map of strings is the empty string for `index`, and an absent value is spelled as Go spells it.

use std::cmp::Ordering;

use gtmpl_ng::{Func, FuncError, NumberKind, Value};

use crate::core::go_format::sprintf;

/// Longest text that one `printf` makes: a pod is refused long before.
const PRINTF_MAX_BYTES: usize = 1 << 20;

/// What replaces the engine's functions of the same name.
pub(super) const FUNCTIONS: &[(&str, Func)] = &[
    ("eq", eq as Func),
    ("ne", ne as Func),
    ("lt", lt as Func),
    ("le", le as Func),
    ("gt", gt as Func),
    ("ge", ge as Func),
    ("index", index as Func),
    ("printf", printf as Func),
    ("html", html as Func),
    ("js", js as Func),
    ("urlquery", urlquery as Func),
];

fn refuse(message: &str) -> FuncError {
    FuncError::Generic(message.to_owned())
}

/// Go's kinds that can be compared; integers of either sign are one.
fn basic(value: &Value) -> Option<&'static str> {
    match value {
        Value::Bool(_) => Some("bool"),
        Value::String(_) => Some("string"),
        Value::Number(number) => match number.kind() {
            NumberKind::Float(_) => Some("float"),
            NumberKind::Signed(_) | NumberKind::Unsigned(_) => Some("int"),
        },
        _ => None,
    }
}

fn absent(value: &Value) -> bool {
    matches!(value, Value::Nil | Value::NoValue)
}

fn equal(left: &Value, right: &Value) -> Result<bool, FuncError> {
    match (basic(left), basic(right)) {
        (Some(one), Some(other)) if one == other => Ok(left == right),
        _ if absent(left) || absent(right) => Ok(absent(left) && absent(right)),
        (None, None) => Err(refuse("non-comparable types")),
        _ => Err(refuse("incompatible types for comparison")),
    }
}

fn eq(args: &[Value]) -> Result<Value, FuncError> {
    let [first, others @ ..] = args else {
        return Err(refuse("missing argument for comparison"));
    };
    if others.is_empty() {
        return Err(refuse("missing argument for comparison"));
    }
    for other in others {
        if equal(first, other)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn pair(args: &[Value]) -> Result<(&Value, &Value), FuncError> {
    match args {
        [left, right] => Ok((left, right)),
        _ => Err(refuse("wrong number of arguments for a comparison: want 2")),
    }
}

fn ne(args: &[Value]) -> Result<Value, FuncError> {
    let (left, right) = pair(args)?;
    equal(left, right).map(|same| Value::from(!same))
}

fn order(args: &[Value]) -> Result<Ordering, FuncError> {
    let (left, right) = pair(args)?;
    let (Some(one), Some(other)) = (basic(left), basic(right)) else {
        return Err(refuse("invalid type for comparison"));
    };
    if one != other {
        return Err(refuse("incompatible types for comparison"));
    }
    match (left, right) {
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => {
            let ordering = match (left.kind(), right.kind()) {
                (NumberKind::Float(left), NumberKind::Float(right)) => left.partial_cmp(&right),
                _ => integer(&left.kind()).partial_cmp(&integer(&right.kind())),
            };
            ordering.ok_or_else(|| refuse("invalid type for comparison"))
        }
        _ => Err(refuse("invalid type for comparison")),
    }
}

fn integer(number: &NumberKind) -> Option<i128> {
    match number {
        NumberKind::Signed(number) => Some(i128::from(*number)),
        NumberKind::Unsigned(number) => Some(i128::from(*number)),
        NumberKind::Float(_) => None,
    }
}

fn lt(args: &[Value]) -> Result<Value, FuncError> {
    order(args).map(|ordering| Value::from(ordering.is_lt()))
}

fn le(args: &[Value]) -> Result<Value, FuncError> {
    order(args).map(|ordering| Value::from(ordering.is_le()))
}

fn gt(args: &[Value]) -> Result<Value, FuncError> {
    order(args).map(|ordering| Value::from(ordering.is_gt()))
}

fn ge(args: &[Value]) -> Result<Value, FuncError> {
    order(args).map(|ordering| Value::from(ordering.is_ge()))
}

/// The template's data is a map of strings, so that a key it lacks gives the zero value, an empty string.
fn index(args: &[Value]) -> Result<Value, FuncError> {
    if let [Value::Map(map), key, rest @ ..] = args {
        let Value::String(key) = key else {
            return Err(refuse("value has type int; should be string"));
        };
        let value = map.get(key).cloned().unwrap_or_else(|| Value::from(""));
        let args: Vec<Value> = std::iter::once(value).chain(rest.iter().cloned()).collect();
        return gtmpl_ng::funcs::index(&args);
    }
    gtmpl_ng::funcs::index(args)
}

/// Of strings alone, which the data is made of, ours formats more exactly.
fn printf(args: &[Value]) -> Result<Value, FuncError> {
    if let [Value::String(format), values @ ..] = args {
        let texts: Option<Vec<String>> = values
            .iter()
            .map(|value| match value {
                Value::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect();
        if let Some(texts) = texts {
            return Ok(Value::from(sprintf(format, &texts, PRINTF_MAX_BYTES)));
        }
    }
    gtmpl_ng::funcs::printf(args)
}

/// The escapers print an absent value as the template itself would.
fn printable(args: &[Value]) -> Vec<Value> {
    args.iter()
        .map(|arg| {
            if absent(arg) {
                Value::from("<no value>")
            } else {
                arg.clone()
            }
        })
        .collect()
}

fn html(args: &[Value]) -> Result<Value, FuncError> {
    gtmpl_ng::funcs::html(&printable(args))
}

fn js(args: &[Value]) -> Result<Value, FuncError> {
    gtmpl_ng::funcs::js(&printable(args))
}

fn urlquery(args: &[Value]) -> Result<Value, FuncError> {
    gtmpl_ng::funcs::urlquery(&printable(args))
}
