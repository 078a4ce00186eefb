//! A frame: its length, which counts itself, a header of six words, a payload.

/// Bytes of the length.
pub const PREFIX_BYTES: usize = 4;
/// Bytes of the header after the length.
pub const HEADER_BYTES: usize = 24;
/// The shortest frame, its length included.
pub const FRAME_MIN_BYTES: usize = PREFIX_BYTES + HEADER_BYTES;
/// The longest, its length included.
pub const FRAME_MAX_BYTES: usize = PREFIX_BYTES + (32 << 20);

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// A call.
    Call = 0,
    /// Its answer.
    Reply = 1,
    /// An event, or a sign of life.
    Message = 2,
    /// Data of a stream, its end or its failure.
    Stream = 3,
    /// A call with descriptors.
    CallWithFiles = 4,
    /// An answer with descriptors.
    ReplyWithFiles = 5,
    /// A hole in a stream.
    StreamHole = 6,
}

impl Kind {
    fn from_number(number: i32) -> Option<Self> {
        [
            Self::Call,
            Self::Reply,
            Self::Message,
            Self::Stream,
            Self::CallWithFiles,
            Self::ReplyWithFiles,
            Self::StreamHole,
        ]
        .into_iter()
        .find(|kind| *kind as i32 == number)
    }
}

/// How what the frame is about stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Well, or ended well.
    Ok = 0,
    /// Failed; the payload is the error.
    Error = 1,
    /// More follows.
    Continue = 2,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose procedure it is.
    pub program: u32,
    /// The program's version; always 1.
    pub version: u32,
    /// The procedure.
    pub procedure: i32,
    /// What the frame is; `None` is something that does not exist.
    pub kind: Option<Kind>,
    /// Which call it belongs to.
    pub serial: u32,
    /// See [`Status`].
    pub status: i32,
}

/// Why bytes are no frame. Each ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no frame has.
    #[error("frame of {0} bytes, which is none of {FRAME_MIN_BYTES} to {FRAME_MAX_BYTES}")]
    Length(u32),
}

impl Header {
    /// A call.
    #[must_use]
    pub const fn call(program: u32, procedure: i32, serial: u32, kind: Kind) -> Self {
        Self { program, version: 1, procedure, kind: Some(kind), serial, status: Status::Ok as i32 }
    }

    /// The answer to this frame: everything but kind and status is echoed.
    #[must_use]
    pub fn answer(self, kind: Kind, status: Status) -> Self {
        Self { kind: Some(kind), status: status as i32, ..self }
    }

    /// Reads a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |index: usize| {
            let at = 4 * index;
            [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
        };
        Self {
            program: u32::from_be_bytes(word(0)),
            version: u32::from_be_bytes(word(1)),
            procedure: i32::from_be_bytes(word(2)),
            kind: Kind::from_number(i32::from_be_bytes(word(3))),
            serial: u32::from_be_bytes(word(4)),
            status: i32::from_be_bytes(word(5)),
        }
    }
}

/// A frame's length, from its first bytes.
///
/// # Errors
/// A length that no frame has.
pub(crate) fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(prefix);
    let bytes = length as usize;
    if (FRAME_MIN_BYTES..=FRAME_MAX_BYTES).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(FrameError::Length(length))
    }
}

/// A whole frame. `None` for a payload that is too long.
#[must_use]
pub fn frame(header: Header, payload: &[u8]) -> Option<Vec<u8>> {
    let length = FRAME_MIN_BYTES + payload.len();
    if length > FRAME_MAX_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).ok()?.to_be_bytes());
    bytes.extend(header.program.to_be_bytes());
    bytes.extend(header.version.to_be_bytes());
    bytes.extend(header.procedure.to_be_bytes());
    bytes.extend(header.kind.map_or(Kind::Reply as i32, |kind| kind as i32).to_be_bytes());
    bytes.extend(header.serial.to_be_bytes());
    bytes.extend(header.status.to_be_bytes());
    bytes.extend(payload);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_six_words_and_its_payload() {
        let header = Header {
            program: super::super::program::REMOTE,
            version: 1,
            procedure: 60,
            kind: Some(Kind::Call),
            serial: 1,
            status: Status::Ok as i32,
        };
        let bytes = frame(header, &[0, 0, 0, 10]).unwrap();
        let golden = [
            0, 0, 0, 0x20, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 0, 0x3c, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
            0, 0, 0, 0, 10,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(Header::from_bytes(bytes[4..28].try_into().unwrap()), header);
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        for wrong in [0_u32, 4, 27, 33_554_437, u32::MAX] {
            assert_eq!(length(wrong.to_be_bytes()), Err(FrameError::Length(wrong)));
        }
        for right in [28_u32, 33_554_436] {
            assert_eq!(length(right.to_be_bytes()), Ok(right as usize));
        }
    }
}
