//! Frames over a socket. Each descriptor follows its frame in a message of its own: one byte that no length counts.

use super::DESCRIPTORS_MAX;
use super::frame::{FRAME_MIN_BYTES, HEADER_BYTES, Header, Kind, PREFIX_BYTES, length};
use crate::link::{self, LinkError, LinkReader, LinkWriter};
use std::io;
use std::os::fd::OwnedFd;

/// A frame that came.
#[derive(Debug)]
pub struct Incoming {
    /// Its header.
    pub header: Header,
    /// What follows the header, and the count of descriptors where there is one.
    pub payload: Vec<u8>,
    /// The descriptors.
    pub files: Vec<OwnedFd>,
}

/// The half that reads.
#[derive(Debug)]
pub struct Reader(LinkReader);

/// The half that writes.
#[derive(Debug)]
pub struct Writer(LinkWriter);

/// Makes both halves of a connected socket.
///
/// # Errors
/// When the socket can't be registered with the runtime.
pub fn split(socket: OwnedFd) -> io::Result<(Reader, Writer)> {
    let (reader, writer) = link::split(socket)?;
    Ok((Reader(reader), Writer(writer)))
}

impl Reader {
    /// Waits until there is something to read, and reads nothing. Safe to drop.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn ready(&self) -> Result<(), LinkError> {
        self.0.ready().await
    }

    /// The next frame's header and length, as soon as they are there; the frame stays. Safe to drop half-way.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn peek(&mut self) -> Result<(Header, usize), LinkError> {
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(&self.0.buffered(PREFIX_BYTES).await?[..PREFIX_BYTES]);
        let length = length(prefix).map_err(|error| LinkError::Violation(error.to_string()))?;
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&self.0.buffered(FRAME_MIN_BYTES).await?[PREFIX_BYTES..FRAME_MIN_BYTES]);
        Ok((Header::from_bytes(&head), length))
    }

    /// Reads the next frame. Safe to drop half-way: what has been received stays for the next call.
    ///
    /// # Errors
    /// See [`LinkError`]; after any error the connection must be dropped.
    pub async fn read(&mut self) -> Result<Incoming, LinkError> {
        let violation = |error: String| LinkError::Violation(error);
        let (header, length) = self.peek().await?;
        let frame = self.0.buffered(length).await?;
        let mut begin = FRAME_MIN_BYTES;
        let mut count = 0;
        if matches!(header.kind, Some(Kind::CallWithFiles | Kind::ReplyWithFiles)) {
            let word = frame.get(begin..begin + 4).and_then(|word| word.try_into().ok());
            count = u32::from_be_bytes(word.ok_or_else(|| violation("no count of descriptors".to_owned()))?)
                as usize;
            if count > DESCRIPTORS_MAX {
                return Err(violation(format!("{count} descriptors, at most {DESCRIPTORS_MAX} may travel")));
            }
            begin += 4;
        }
        let frame = self.0.buffered(length + count).await?;
        let payload = frame.get(begin..length).unwrap_or_default().to_vec();
        let files = self.0.consume(length + count, count)?;
        Ok(Incoming { header, payload, files })
    }
}

impl Writer {
    /// Writes a frame whole, and the descriptors after it.
    ///
    /// # Errors
    /// When the socket fails; the connection must then be dropped.
    pub async fn write(&mut self, frame: &[u8], files: &[OwnedFd]) -> Result<(), LinkError> {
        self.0.write_bytes(frame, &[]).await?;
        for file in files {
            self.0.write_bytes(&[0], std::slice::from_ref(file)).await?;
        }
        Ok(())
    }
}
