//! The header in front of every message on a channel between our processes: fixed, hand-coded, so that a
//! mismatch can be reported instead of misread.

use crate::codec::BODY_MAX_BYTES;
use crate::descriptor::DESCRIPTORS_MAX;

/// "BKHD", read as a little-endian number.
const MAGIC: u32 = u32::from_le_bytes(*b"BKHD");

/// Bytes of a header.
pub const HEADER_BYTES: usize = 48;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame each way: `id` is the revision of the tables, the body the version for people.
    Hello = 1,
    /// A call; the body is its arguments.
    Call = 2,
    /// The answer to the call of that id; the body is its reply.
    Reply = 3,
    /// The answer to the call of that id; the body is an error.
    Failure = 4,
    /// The caller of that id has lost interest.
    Cancel = 5,
    /// Something that happened; the body is the driver's event type.
    Event = 6,
    /// A message between broker and driver.
    Control = 7,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Hello, Self::Call, Self::Reply, Self::Failure, Self::Cancel, Self::Event, Self::Control]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Proof of who a call is made for. The broker makes one for each client and tells both ends of the channel;
/// it can't be guessed. All zero stands for the process at the other end itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Token(pub [u8; 16]);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token is a secret: logs get no more than what tells two apart.
        write!(formatter, "Token({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Descriptors that travel with the frame's first byte.
    pub descriptors: u8,
    /// The call's number in its driver's table.
    pub operation: u16,
    /// The call's id, chosen by the caller and unique among its open calls.
    pub id: u64,
    /// Follows a request through all processes, for logs.
    pub trace: u32,
    /// Who the call is made for.
    pub token: Token,
    /// Milliseconds that the caller will still wait; 0 is "no deadline" (class `job`).
    pub time_left_ms: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
}

/// Why a header is refused. Each closes the channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not ours.
    #[error("not a frame of this protocol (begins with {0:#010x})")]
    Magic(u32),
    /// A kind that does not exist.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// More descriptors than a frame may carry.
    #[error("frame announces {0} descriptors, at most {DESCRIPTORS_MAX} may travel")]
    Descriptors(u8),
    /// A body larger than allowed.
    #[error("frame announces {0} bytes, at most {BODY_MAX_BYTES} are allowed")]
    TooLarge(u32),
}

impl Header {
    /// A header with everything but the kind at rest.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            descriptors: 0,
            operation: 0,
            id: 0,
            trace: 0,
            token: Token::default(),
            time_left_ms: 0,
            body_bytes: 0,
        }
    }

    /// The header as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.descriptors;
        bytes[6..8].copy_from_slice(&self.operation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.trace.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.time_left_ms.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[28..44].copy_from_slice(&self.token.0);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if number(0) != MAGIC {
            return Err(FrameError::Magic(number(0)));
        }
        let kind = Kind::from_number(bytes[4]).ok_or(FrameError::Kind(bytes[4]))?;
        let descriptors = bytes[5];
        if usize::from(descriptors) > DESCRIPTORS_MAX {
            return Err(FrameError::Descriptors(descriptors));
        }
        let body_bytes = number(24);
        if body_bytes as usize > BODY_MAX_BYTES {
            return Err(FrameError::TooLarge(body_bytes));
        }
        let mut token = Token::default();
        token.0.copy_from_slice(&bytes[28..44]);
        Ok(Self {
            kind,
            descriptors,
            operation: u16::from_le_bytes([bytes[6], bytes[7]]),
            id: u64::from(number(8)) | u64::from(number(12)) << 32,
            trace: number(16),
            token,
            time_left_ms: number(20),
            body_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_call() {
        let header = Header {
            operation: 0x0102,
            id: 0x0304_0506_0708_090a,
            trace: 0x0b0c_0d0e,
            descriptors: 2,
            time_left_ms: 60_000,
            body_bytes: 7,
            token: Token([0xaa; 16]),
            ..Header::new(Kind::Call)
        };
        let mut golden = b"BKHD\x02\x02\x02\x01\x0a\x09\x08\x07\x06\x05\x04\x03\x0e\x0d\x0c\x0b\x60\xea\x00\x00\x07\x00\x00\x00".to_vec();
        golden.extend([0xaa; 16]);
        golden.extend([0; 4]);
        assert_eq!(header.to_bytes().as_slice(), golden);
        assert_eq!(Header::from_bytes(&header.to_bytes()), Ok(header));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_refused(bytes in proptest::array::uniform32(any::<u8>())) {
            let mut whole = [0; HEADER_BYTES];
            whole[..4].copy_from_slice(b"BKHD");
            whole[4..36].copy_from_slice(&bytes);
            if let Ok(header) = Header::from_bytes(&whole) {
                prop_assert!(header.body_bytes as usize <= BODY_MAX_BYTES);
                prop_assert!(usize::from(header.descriptors) <= DESCRIPTORS_MAX);
            }
        }
    }
}
