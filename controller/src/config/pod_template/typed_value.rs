//! From an untyped tree to a Kubernetes type, with the leniency of the Go decoder.
//!
//! Where a field wants a string, YAML's numbers and booleans become one (`value: 5` of an environment variable); null
//! leaves a field at its zero value; unknown fields are ignored; quantities take their canonical form. In JSON a number
//! is no string: there the types are strict.

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};

use super::quantity::canonical_quantity;
use super::yaml_value::{Value, scalar_text};

/// How a value of another type than the field's is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leniency {
    /// JSON: a number is no string.
    Strict,
    /// YAML: what looks like a number may have been meant as text.
    NumbersAsText,
}

/// A type that could not be read, with the path of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct TypedValueError {
    path: String,
    message: String,
}

/// Reads a `T` from the tree.
///
/// # Errors
/// The path of the first field that does not fit, and why.
pub(crate) fn from_value<'a, T: serde::Deserialize<'a>>(
    value: &'a Value,
    leniency: Leniency,
) -> Result<T, TypedValueError> {
    serde_path_to_error::deserialize(ValueDeserializer { value, leniency }).map_err(|error| {
        TypedValueError {
            path: error.path().to_string(),
            message: error.inner().to_string(),
        }
    })
}

#[derive(Clone, Copy)]
struct ValueDeserializer<'a> {
    value: &'a Value,
    leniency: Leniency,
}

impl<'a> ValueDeserializer<'a> {
    fn sequence<V: Visitor<'a>>(self, items: &'a [Value], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items {
            items: items.iter(),
            leniency: self.leniency,
        })
    }

    fn mapping<V: Visitor<'a>>(
        self,
        entries: &'a [(String, Value)],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Entries {
            left: entries.iter(),
            value: None,
            leniency: self.leniency,
        })
    }

    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_i64(0),
            // YAML's `1e3` reaches Go's decoder as `1000`.
            #[allow(
                clippy::cast_possible_truncation,
                reason = "checked to be whole and small"
            )]
            Value::Float(number)
                if self.leniency == Leniency::NumbersAsText
                    && number.fract() == 0.0
                    && number.abs() < 1e15 =>
            {
                visitor.visit_i64(*number as i64)
            }
            _ => self.deserialize_any(visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            self.number(visitor)
        })*
    };
}

impl<'a> Deserializer<'a> for ValueDeserializer<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::UInt(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => self.sequence(items, visitor),
            Value::Mapping(entries) => self.mapping(entries, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_)
                if self.leniency == Leniency::NumbersAsText =>
            {
                visitor.visit_string(scalar_text(self.value))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != "Quantity" {
            return visitor.visit_newtype_struct(self);
        }
        match self.value {
            Value::Null => visitor.visit_str("0"),
            Value::Sequence(_) | Value::Mapping(_) => Err(Error::invalid_type(
                Unexpected::Other("a collection"),
                &"a quantity such as 100m or 64Mi",
            )),
            value => {
                let text = scalar_text(value);
                let canonical = canonical_quantity(&text).ok_or_else(|| {
                    Error::invalid_value(Unexpected::Str(&text), &"a quantity such as 100m or 64Mi")
                })?;
                visitor.visit_string(canonical)
            }
        }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.sequence(&[], visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.mapping(&[], visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    leniency: Leniency,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.items
            .next()
            .map(|value| {
                seed.deserialize(ValueDeserializer {
                    value,
                    leniency: self.leniency,
                })
            })
            .transpose()
    }
}

struct Entries<'a> {
    left: std::slice::Iter<'a, (String, Value)>,
    value: Option<&'a Value>,
    leniency: Leniency,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self
            .value
            .take()
            .ok_or_else(|| Error::custom("a value was asked for before its key"))?;
        seed.deserialize(ValueDeserializer {
            value,
            leniency: self.leniency,
        })
    }
}
