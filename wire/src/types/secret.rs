//! What the secret driver's calls are made of.

use super::Uuid;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use zeroize::Zeroize;

/// A secret as libvirt's clients name it. The uuid is what counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// Its identity.
    pub uuid: Uuid,
    /// What it is for, as `virSecretUsageType`.
    pub usage_type: i32,
    /// The thing that it is for; empty for a secret that is for nothing in particular.
    pub usage_id: String,
}

/// A list of secrets as libvirt's `connect_list_all_secrets` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretList {
    /// The secrets, unless only the number was asked for.
    pub secrets: Vec<SecretRef>,
    /// How many there are.
    pub count: u32,
}

/// How another driver names the secret that it needs: both ways that domain and pool XML have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretLookup {
    /// By its identity.
    Uuid(Uuid),
    /// By the thing that it is for.
    Usage(String),
}

/// What came of exchanging the key that values are stored under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation {
    /// Values that are now stored under the new key.
    pub values: u64,
    /// Values that no key at hand opens: they stay as they are, and so do the keys.
    pub unopened: Vec<String>,
}

/// Something that happened to a secret, numbered as libvirt's secret events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretEvent {
    /// `VIR_SECRET_EVENT_ID_LIFECYCLE`.
    Lifecycle {
        /// Which.
        secret: SecretRef,
        /// `virSecretEventLifecycleType`: 0 defined, 1 undefined.
        event: i32,
        /// Always 0.
        detail: i32,
    },
    /// `VIR_SECRET_EVENT_ID_VALUE_CHANGED`.
    ValueChanged {
        /// Which.
        secret: SecretRef,
    },
    /// This subscriber was too slow; so many events are lost. It should look at the present state.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// The value of a secret. Never printed, and wiped when it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes a value over. What grew it before may have left parts of it elsewhere.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The value in the clear.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretValue(..)")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = SecretValue;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<SecretValue, E> {
                Ok(SecretValue(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<SecretValue, E> {
                Ok(SecretValue(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<SecretValue, A::Error> {
                let mut value = SecretValue::default();
                while let Some(byte) = sequence.next_element()? {
                    value.0.push(byte);
                }
                Ok(value)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_printed() {
        let value = SecretValue::new(b"hunter2".to_vec());
        assert_eq!(format!("{value:?} {:?}", Some(&value)), "SecretValue(..) Some(SecretValue(..))");
    }

    #[test]
    fn a_value_of_any_bytes_travels() {
        for bytes in [Vec::new(), vec![0, 255, 0], vec![7; 65_536]] {
            let value = SecretValue::new(bytes.clone());
            let (encoded, _) = crate::codec::encode(&value).unwrap();
            assert_eq!(crate::codec::decode::<SecretValue>(&encoded, Vec::new()).unwrap().expose(), bytes);
            let (encoded, _) = crate::xdr::encode(&value).unwrap();
            let (decoded, used) = crate::xdr::decode::<SecretValue>(&encoded, Vec::new()).unwrap();
            assert_eq!((decoded.expose(), used), (&bytes[..], encoded.len()));
        }
    }
}
