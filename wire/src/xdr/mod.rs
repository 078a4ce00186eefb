//! XDR (RFC 4506) for the very types of the tables: what libvirt's clients speak.
//!
//! Numbers of every width below 64 bits take four bytes, as libvirt has it. What serde's model does not tell apart is told
//! by a newtype's name: [`OPAQUE`] types are bytes one by one, padded; [`crate::descriptor::NAME`] has no bytes at all.
//! Enums but for [`UNIONS`], and maps, have no form here: public types carry libvirt's numbers instead.
//!
//! Nothing is allocated on the word of a count: a count beyond the bytes that are there is refused before its elements are
//! read, and no type of the tables contains itself, so the depth of a call is the depth of its type.

mod read;
mod write;

use crate::descriptor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::os::fd::OwnedFd;

/// Names of the newtypes around `[u8; N]` that are fixed opaque data.
pub const OPAQUE: &[&str] = &["Uuid"];
/// Names of the enums that are unions: the number of a case is its position, from 1.
pub const UNIONS: &[&str] = &["ParameterValue"];
/// Longest string, in bytes.
pub const STRING_MAX_BYTES: usize = 4 << 20;
/// Most elements of a list.
pub const LIST_MAX: usize = 16_384;
/// Largest payload of a message.
pub const PAYLOAD_MAX_BYTES: usize = 32 << 20;

/// Why bytes are no message, or a message has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The bytes end inside of the message.
    #[error("message ends after {0} bytes, in the middle of a value")]
    Truncated(usize),
    /// A string, list or message beyond its bound.
    #[error("{what} of {length}, at most {limit} are allowed")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long it claims to be.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A number that its place does not allow.
    #[error("{value} is no {what}")]
    Value {
        /// What belongs there.
        what: &'static str,
        /// What is there.
        value: u32,
    },
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// A type that has no form in XDR.
    #[error("{0} has no form in XDR")]
    Unsupported(&'static str),
    /// Descriptors and message do not fit.
    #[error("message takes {taken} descriptors and {carried} came with it")]
    Descriptors {
        /// How many the message takes.
        taken: usize,
        /// How many came.
        carried: usize,
    },
    /// What a type itself refuses.
    #[error("{0}")]
    Custom(String),
}

impl XdrError {
    /// Is the message whole, and a descriptor that belongs to it missing?
    #[must_use]
    pub(crate) fn is_missing_descriptor(&self) -> bool {
        matches!(self, Self::Custom(message) if message == descriptor::MISSING)
    }
}

impl serde::ser::Error for XdrError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl serde::de::Error for XdrError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

fn within(what: &'static str, length: usize, limit: usize) -> Result<(), XdrError> {
    if length > limit {
        return Err(XdrError::TooLong { what, length, limit });
    }
    Ok(())
}

/// Encodes a message; the descriptors in it travel beside it and leave no trace in the bytes.
///
/// # Errors
/// A message beyond a bound, or of a type without a form in XDR.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<(Vec<u8>, Vec<OwnedFd>), XdrError> {
    let (bytes, descriptors) = descriptor::collecting(|| {
        let mut writer = write::Writer::default();
        message.serialize(&mut writer).map(|()| writer.into_bytes())
    });
    Ok((bytes?, descriptors))
}

/// Decodes a message and says how many bytes it took: libvirt's peers ignore what follows, so the caller decides.
///
/// # Errors
/// Bytes that are no such message. Descriptors not taken are closed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<(T, usize), XdrError> {
    let carried = descriptors.len();
    let (decoded, taken) = descriptor::supplying(descriptors, || {
        let mut reader = read::Reader::new(bytes);
        T::deserialize(&mut reader).map(|message| (message, reader.used()))
    });
    let decoded = decoded?;
    if taken != carried {
        return Err(XdrError::Descriptors { taken, carried });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;
