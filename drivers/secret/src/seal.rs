//! Keys, and what is sealed with them.
//!
//! XChaCha20-Poly1305 with a random nonce for each sealing, long enough that no two ever meet. What a value belongs to, its
//! secret's uuid, generation and definition, is bound in: a sealed value opens in its own place or not at all.

use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::SecretValue;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use std::fmt::Write;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Keys of one file: the present one, and those before it whose values are not sealed anew yet.
const KEYS_MAX: usize = 64;

/// What tells keys apart and reveals nothing of them.
pub(crate) type KeyId = [u8; 16];

/// A key.
pub(crate) struct Key {
    id: KeyId,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

/// The keys at hand; the first one is the one to seal with.
#[derive(Default)]
pub(crate) struct Keys(Vec<Key>);

/// A sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key: KeyId,
    pub(crate) nonce: [u8; NONCE_BYTES],
    pub(crate) bytes: Vec<u8>,
}

/// What a value belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) generation: u64,
    pub(crate) definition: &'a str,
}

impl Place<'_> {
    fn bound(&self, key: &KeyId) -> Vec<u8> {
        let mut bound = b"bulkhead secret 1\0".to_vec();
        bound.extend_from_slice(key);
        bound.extend_from_slice(&self.uuid.0);
        bound.extend_from_slice(&self.generation.to_le_bytes());
        bound.extend_from_slice(self.definition.as_bytes());
        bound
    }
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(bytes)
}

/// A random uuid, marked as one.
pub(crate) fn random_uuid() -> Result<Uuid, String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid(bytes))
}

impl Key {
    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, String> {
        // A tag over nothing, under a nonce that no value gets but by a chance that never comes.
        let nonce = XNonce::from([0; NONCE_BYTES]);
        let nothing = Payload { msg: b"", aad: b"bulkhead secret key" };
        let tag = cipher(&bytes)?.encrypt(&nonce, nothing).map_err(|_| "the cipher refuses".to_owned())?;
        let id = tag.try_into().map_err(|_| "the cipher's tag has another length".to_owned())?;
        Ok(Self { id, bytes })
    }

    pub(crate) fn random() -> Result<Self, String> {
        Self::new(Zeroizing::new(random()?))
    }

    pub(crate) const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn seal(&self, place: Place<'_>, value: &SecretValue) -> Result<Sealed, String> {
        let nonce = random()?;
        let bound = place.bound(&self.id);
        let payload = Payload { msg: value.expose(), aad: &bound };
        let sealed = cipher(&self.bytes)?.encrypt(&XNonce::from(nonce), payload);
        let bytes = sealed.map_err(|_| "the cipher refuses".to_owned())?;
        Ok(Sealed { key: self.id, nonce, bytes })
    }
}

fn cipher(bytes: &[u8; KEY_BYTES]) -> Result<XChaCha20Poly1305, String> {
    XChaCha20Poly1305::new_from_slice(bytes).map_err(|_| "the key has another length".to_owned())
}

impl Keys {
    /// Reads keys: a line of 64 hexadecimal digits for each.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            let bytes = from_hex(line)
                .map(Zeroizing::new)
                .and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok())
                .ok_or_else(|| format!("line {} is not a key of 64 hexadecimal digits", number + 1))?;
            keys.push(Key::new(Zeroizing::new(bytes))?);
        }
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(format!("it holds {} keys; 1 to {KEYS_MAX} belong there", keys.len()));
        }
        Ok(Self(keys))
    }

    /// The text that [`Keys::parse`] reads.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        // Grown once: growing leaves parts behind.
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * (2 * KEY_BYTES + 1)));
        for key in &self.0 {
            push_hex(&mut text, key.bytes.as_slice());
            text.push('\n');
        }
        text
    }

    pub(crate) fn current(&self) -> Option<&Key> {
        self.0.first()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Seals with this key from now on.
    pub(crate) fn push_current(&mut self, key: Key) {
        self.0.insert(0, key);
    }

    /// Forgets all but the present one.
    pub(crate) fn forget_older(&mut self) {
        self.0.truncate(1);
    }

    /// Opens a sealed value. `Err` says why it stays closed.
    pub(crate) fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretValue, String> {
        let key = self.0.iter().find(|key| key.id == sealed.key).ok_or_else(|| {
            format!(
                "it is sealed with key {}, which this host does not have; it may come from another host",
                to_hex(&sealed.key)
            )
        })?;
        let bound = place.bound(&key.id);
        let payload = Payload { msg: &sealed.bytes, aad: &bound };
        let opened = cipher(&key.bytes)?.decrypt(&XNonce::from(sealed.nonce), payload);
        opened
            .map(SecretValue::new)
            .map_err(|_| "its file is damaged, or was changed by somebody else than this driver".to_owned())
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let digit = |index: usize| pair.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { uuid: Uuid([1; 16]), generation: 3, definition: "<secret/>" };

    #[test]
    fn a_value_opens_in_its_place_alone() {
        let keys = Keys(vec![Key::random().unwrap()]);
        let value = SecretValue::new(b"hunter2".to_vec());
        let sealed = keys.current().unwrap().seal(PLACE, &value).unwrap();
        assert!(keys.open(PLACE, &sealed).unwrap() == value);
        for other in [
            Place { uuid: Uuid([2; 16]), ..PLACE },
            Place { generation: 4, ..PLACE },
            Place { definition: "<secret private='no'/>", ..PLACE },
        ] {
            assert!(keys.open(other, &sealed).unwrap_err().contains("damaged"));
        }
        let stranger = Keys(vec![Key::random().unwrap()]);
        assert!(stranger.open(PLACE, &sealed).unwrap_err().contains("another host"));
        for index in 0..sealed.bytes.len() {
            let mut damaged = sealed.clone();
            damaged.bytes[index] ^= 1;
            assert!(keys.open(PLACE, &damaged).is_err());
        }
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let mut keys = Keys(vec![Key::random().unwrap()]);
        keys.push_current(Key::random().unwrap());
        let again = Keys::parse(keys.to_text().as_bytes()).unwrap();
        assert_eq!(again.to_text(), keys.to_text());
        assert_eq!(again.0[0].id, keys.0[0].id);
        for bad in ["", "\n", "zz", &"0".repeat(63), &format!("{}\nnot", "0".repeat(64))] {
            assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
