//! Typed parameters: named values, as libvirt passes what may grow in number.

use serde::{Deserialize, Serialize};

/// A value that says what it is (`virTypedParameterType`, whose numbers count these variants from 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ParameterValue {
    /// A signed number of 32 bits.
    Int(i32),
    /// An unsigned number of 32 bits.
    UnsignedInt(u32),
    /// A signed number of 64 bits.
    Long(i64),
    /// An unsigned number of 64 bits.
    UnsignedLong(u64),
    /// A number with a fraction.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// Text.
    Text(String),
}

impl ParameterValue {
    /// What libvirt calls a value of this kind, in error texts.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::UnsignedInt(_) => "uint",
            Self::Long(_) => "llong",
            Self::UnsignedLong(_) => "ullong",
            Self::Double(_) => "double",
            Self::Boolean(_) => "boolean",
            Self::Text(_) => "string",
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for ParameterValue {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

from!(i32 => Int, u32 => UnsignedInt, i64 => Long, u64 => UnsignedLong, f64 => Double, bool => Boolean, String => Text);

impl From<&str> for ParameterValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub field: String,
    /// Its value.
    pub value: ParameterValue,
}

impl Parameter {
    /// A value under a name.
    #[must_use]
    pub fn new(field: impl Into<String>, value: impl Into<ParameterValue>) -> Self {
        Self { field: field.into(), value: value.into() }
    }
}

/// What many calls answer that are first asked with no room, to learn how much is needed: the values, or their number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParameterList {
    /// The values; none when only their number was asked for.
    pub parameters: Vec<Parameter>,
    /// Their number when only that was asked for, else 0.
    pub count: i32,
}

impl ParameterList {
    /// The answer to somebody who has room for so many.
    #[must_use]
    pub fn answer(mut parameters: Vec<Parameter>, room: i32) -> Self {
        let Ok(room) = usize::try_from(room) else {
            return Self { parameters: Vec::new(), count: 0 };
        };
        if room == 0 {
            return Self {
                count: i32::try_from(parameters.len()).unwrap_or(i32::MAX),
                parameters: Vec::new(),
            };
        }
        parameters.truncate(room);
        Self { parameters, count: 0 }
    }
}
