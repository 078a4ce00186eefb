//! The private wire's encoding. The only file that knows bincode, so that it can be exchanged.
//!
//! What bincode would let through is refused here: bytes left over, and lengths beyond the message.
//! Wire types avoid what it can't carry: no `skip_serializing_if`, `flatten` or `untagged`, no elements of size
//! zero, no recursion (XML travels as text).

use crate::descriptor::{self, Descriptor};
use bincode::config::{Configuration, Fixint, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

/// Largest body of a frame: libvirt's own limit for a message.
pub const BODY_MAX_BYTES: usize = 32 << 20;

/// A body that is not what the table says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes do not decode to the type.
    #[error("message does not decode: {0}")]
    Malformed(String),
    /// The bytes decode, but more follow.
    #[error("message has {0} bytes too many")]
    Trailing(usize),
    /// Descriptors and message do not fit.
    #[error("message names {named} descriptors and carries {carried}")]
    Descriptors {
        /// How many the message names.
        named: usize,
        /// How many came with it.
        carried: usize,
    },
    /// The encoded message would be larger than a frame may be.
    #[error("message of {0} bytes is larger than a frame may be")]
    TooLarge(usize),
}

fn configuration() -> Configuration<LittleEndian, Fixint, bincode::config::Limit<BODY_MAX_BYTES>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<BODY_MAX_BYTES>()
}

/// Encodes a message; the descriptors in it leave it and travel beside it.
///
/// # Errors
/// A message larger than [`BODY_MAX_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<(Vec<u8>, Vec<OwnedFd>), CodecError> {
    let (bytes, descriptors) =
        descriptor::collecting(|| bincode::serde::encode_to_vec(message, configuration()));
    let bytes = bytes.map_err(|error| CodecError::Malformed(error.to_string()))?;
    if bytes.len() > BODY_MAX_BYTES {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok((bytes, descriptors))
}

/// Decodes a message and puts the descriptors that came beside it back into it.
///
/// # Errors
/// Anything but exactly one message with exactly its descriptors. Descriptors not taken are closed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<T, CodecError> {
    let carried = descriptors.len();
    let (decoded, taken) =
        descriptor::supplying(descriptors, || bincode::serde::decode_from_slice(bytes, configuration()));
    let (message, used): (T, usize) = decoded.map_err(|error| CodecError::Malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    if taken != carried {
        return Err(CodecError::Descriptors { named: taken, carried });
    }
    Ok(message)
}

const _: () = assert!(size_of::<Descriptor>() > 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_left_over_are_refused() {
        let (mut bytes, _) = encode(&7u32).unwrap();
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes, Vec::new()), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let bytes = u64::MAX.to_le_bytes();
        assert!(matches!(decode::<Vec<u8>>(&bytes, Vec::new()), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn descriptors_nobody_named_are_refused() {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (bytes, _) = encode(&7u32).unwrap();
        let refused = decode::<u32>(&bytes, vec![end.into()]);
        assert_eq!(refused, Err(CodecError::Descriptors { named: 0, carried: 1 }));
    }

    #[test]
    fn a_descriptor_travels_beside_its_message() {
        let (end, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (bytes, descriptors) = encode(&(3u8, Descriptor::new(end.into()))).unwrap();
        assert_eq!(descriptors.len(), 1);
        let (number, descriptor): (u8, Descriptor) = decode(&bytes, descriptors).unwrap();
        assert_eq!(number, 3);
        let mut end = std::os::unix::net::UnixStream::from(descriptor.into_owned().unwrap());
        std::io::Write::write_all(&mut end, b"x").unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut &other, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
