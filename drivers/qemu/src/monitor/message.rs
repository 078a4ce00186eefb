//! What a line means.

use super::error::quote;
use super::event::{Event, Timestamp};
use super::line::check;
use super::options::Limits;
use serde::Deserialize;
use serde_json::{Map, Value};

/// QEMU's version.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
    /// The distribution's name for its build; often empty.
    pub package: String,
}

#[derive(Deserialize)]
struct VersionNumbers {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct VersionAnswer {
    qemu: VersionNumbers,
    #[serde(default)]
    package: String,
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let VersionAnswer { qemu, package } = VersionAnswer::deserialize(deserializer)?;
        Ok(Self { major: qemu.major, minor: qemu.minor, micro: qemu.micro, package })
    }
}

/// QEMU's error answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    pub(super) class: String,
    #[serde(rename = "desc")]
    pub(super) description: String,
}

impl Refusal {
    fn read(value: Value) -> Result<Self, String> {
        let Self { class, description } = Self::deserialize(value)
            .map_err(|error| format!("an error answer: {}", quote(&error.to_string())))?;
        Ok(Self { class: quote(&class), description: quote(&description) })
    }
}

/// A line, understood.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Greeting(Version),
    /// A reply; without an id it answers something that QEMU could not parse.
    Reply {
        id: Option<Value>,
        result: Result<Value, Refusal>,
    },
    Event(Event),
}

impl Message {
    /// Reads a line, or says what is wrong with it.
    pub(super) fn read(line: &[u8], limits: &Limits) -> Result<Self, String> {
        check(line, limits)?;
        let mut fields: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| format!("a line is not a JSON object: {}", quote(&error.to_string())))?;
        let kinds = ["QMP", "return", "error", "event"];
        if kinds.iter().filter(|kind| fields.contains_key(**kind)).count() != 1 {
            return Err("a line is neither greeting, reply nor event".into());
        }
        let id = fields.remove("id");
        if let Some(value) = fields.remove("return") {
            return Ok(Self::Reply { id, result: Ok(value) });
        }
        if let Some(value) = fields.remove("error") {
            let refusal = Refusal::read(value)?;
            return Ok(Self::Reply { id, result: Err(refusal) });
        }
        if let Some(mut greeting) = fields.remove("QMP") {
            let version = greeting.get_mut("version").map(Value::take).unwrap_or_default();
            return Version::deserialize(version)
                .map(Self::Greeting)
                .map_err(|error| format!("the greeting's version: {}", quote(&error.to_string())));
        }
        if line.len() > limits.event {
            return Err(format!("an event is longer than {} bytes", limits.event));
        }
        let Some(Value::String(name)) = fields.remove("event") else {
            return Err("an event's name is not a string".into());
        };
        let at = fields.remove("timestamp").unwrap_or_default();
        let at = Timestamp::deserialize(at)
            .map_err(|error| format!("an event's timestamp: {}", quote(&error.to_string())))?;
        let data = match fields.remove("data") {
            None => Map::new(),
            Some(Value::Object(data)) => data,
            Some(_) => return Err("an event's data is not an object".into()),
        };
        Event::read(at, name, data).map(Self::Event)
    }
}
