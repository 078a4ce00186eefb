//! JSON with its properties in the order they were given, as options and their readers expect it.

use super::option::KeyValues;
use std::fmt;

/// A JSON value whose objects keep their order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(i128),
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

/// The properties of a JSON object, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object(Vec<(String, Json)>);

impl Object {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets a property, keeping its place if it is there already.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Json>) -> &mut Self {
        let value = value.into();
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
        self
    }

    /// Sets a property if there is a value for it.
    pub(crate) fn set_some(&mut self, name: &str, value: Option<impl Into<Json>>) -> &mut Self {
        if let Some(value) = value {
            self.set(name, value);
        }
        self
    }

    /// For building in one expression.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn with_some(mut self, name: &str, value: Option<impl Into<Json>>) -> Self {
        self.set_some(name, value);
        self
    }

    /// The same properties in QEMU's older form, `prefix.name=value,prefix.list.0=value`.
    pub(crate) fn flatten(&self, prefix: &str, list: &mut KeyValues) {
        for (name, value) in &self.0 {
            value.flatten(&format!("{prefix}.{name}"), list);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Json {
    fn flatten(&self, key: &str, list: &mut KeyValues) {
        match self {
            Self::Null => {}
            Self::Bool(value) => {
                list.switch(key, *value);
            }
            Self::Number(value) => {
                list.set(key, value);
            }
            Self::Text(text) => {
                list.set(key, text);
            }
            Self::List(values) => {
                for (index, value) in values.iter().enumerate() {
                    value.flatten(&format!("{key}.{index}"), list);
                }
            }
            Self::Object(object) => object.flatten(key, list),
        }
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

macro_rules! from_number {
    ($($type:ty)*) => { $(impl From<$type> for Json {
        fn from(value: $type) -> Self {
            Self::Number(i128::from(value))
        }
    })* };
}

from_number!(i32 u32 i64 u64);

impl From<&str> for Json {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<Json>> for Json {
    fn from(value: Vec<Json>) -> Self {
        Self::List(value)
    }
}

impl From<Object> for Json {
    fn from(value: Object) -> Self {
        Self::Object(value)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("null"),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Number(value) => write!(formatter, "{value}"),
            Self::Text(text) => quote(formatter, text),
            Self::List(values) => {
                formatter.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        formatter.write_str(",")?;
                    }
                    write!(formatter, "{value}")?;
                }
                formatter.write_str("]")
            }
            Self::Object(object) => write!(formatter, "{object}"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            quote(formatter, name)?;
            write!(formatter, ":{value}")?;
        }
        formatter.write_str("}")
    }
}

fn quote(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    formatter.write_str("\"")?;
    for letter in text.chars() {
        match letter {
            '"' => formatter.write_str("\\\"")?,
            '\\' => formatter.write_str("\\\\")?,
            '\n' => formatter.write_str("\\n")?,
            '\r' => formatter.write_str("\\r")?,
            '\t' => formatter.write_str("\\t")?,
            control if u32::from(control) < 0x20 => write!(formatter, "\\u{:04x}", u32::from(control))?,
            other => write!(formatter, "{other}")?,
        }
    }
    formatter.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_quotes() {
        let object = Object::new()
            .with("z", "a\"b\\c\nd,e")
            .with("a", 3_u64)
            .with("list", vec![Json::Null, true.into()])
            .with("inner", Object::new().with("x", -1));
        assert_eq!(object.to_string(), r#"{"z":"a\"b\\c\nd,e","a":3,"list":[null,true],"inner":{"x":-1}}"#);
        let parsed: serde_json::Value = serde_json::from_str(&object.to_string()).unwrap();
        assert_eq!(parsed["z"], "a\"b\\c\nd,e");
    }

    #[test]
    fn set_replaces_in_place() {
        let object = Object::new().with("a", 1).with("b", 2).with("a", 3);
        assert_eq!(object.to_string(), r#"{"a":3,"b":2}"#);
    }
}
