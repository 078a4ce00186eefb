//! What stands in a secret's file: its definition and its sealed value. One file, so that no crash tears them apart.

use crate::definition::Definition;
use crate::seal::{Place, Sealed, from_hex, to_hex};
use bulkhead_wire::types::Uuid;
use serde::{Deserialize, Serialize};

/// The format that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// A secret as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) definition: Definition,
    /// The definition as it was sealed with the value.
    xml: String,
    /// Rises with each change.
    pub(crate) generation: u64,
    pub(crate) value: Option<Sealed>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    generation: u64,
    definition: String,
    value: Option<StoredValue>,
}

#[derive(Serialize, Deserialize)]
struct StoredValue {
    key: String,
    nonce: String,
    sealed: String,
}

impl Record {
    /// A record that has no value yet.
    pub(crate) fn new(definition: Definition, generation: u64) -> Self {
        let xml = definition.to_xml();
        Self { definition, xml, generation, value: None }
    }

    /// Where its value belongs.
    pub(crate) fn place(&self) -> Place<'_> {
        Place { uuid: self.definition.uuid, generation: self.generation, definition: &self.xml }
    }

    /// Reads the file of the secret with that uuid.
    pub(crate) fn parse(uuid: Uuid, text: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if stored.format != FORMAT {
            return Err(format!("it has format {}, and this version reads {FORMAT}", stored.format));
        }
        let definition = Definition::read(stored.definition.as_bytes(), false, || Ok(Uuid::default()))
            .map_err(|error| error.message)?;
        if definition.uuid != uuid {
            return Err(format!("it holds secret {}", definition.uuid));
        }
        let value = match stored.value {
            Some(value) => {
                let bytes = |text: &str| from_hex(text).ok_or("its value is not hexadecimal");
                Some(Sealed {
                    key: bytes(&value.key)?.try_into().map_err(|_| "its key has another length")?,
                    nonce: bytes(&value.nonce)?.try_into().map_err(|_| "its nonce has another length")?,
                    bytes: bytes(&value.sealed)?,
                })
            }
            None => None,
        };
        Ok(Self { definition, xml: stored.definition, generation: stored.generation, value })
    }

    /// The file's content.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let value = self.value.as_ref().map(|value| StoredValue {
            key: to_hex(&value.key),
            nonce: to_hex(&value.nonce),
            sealed: to_hex(&value.bytes),
        });
        let stored =
            Stored { format: FORMAT, generation: self.generation, definition: self.xml.clone(), value };
        serde_json::to_vec_pretty(&stored).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_under_its_own_name_alone() {
        let uuid = Uuid([7; 16]);
        let definition = Definition::read(b"<secret private='yes'/>", false, || Ok(uuid)).unwrap();
        let mut record = Record::new(definition, 5);
        record.value = Some(Sealed { key: [1; 16], nonce: [2; 24], bytes: vec![3; 40] });
        let bytes = record.to_bytes().unwrap();
        let again = Record::parse(uuid, &bytes).unwrap();
        assert_eq!((again.generation, again.definition, again.value), (5, record.definition, record.value));
        assert!(Record::parse(Uuid([8; 16]), &bytes).unwrap_err().contains("it holds secret"));
        for end in 0..bytes.len() {
            assert!(Record::parse(uuid, &bytes[..end]).is_err(), "{end}");
        }
    }
}
