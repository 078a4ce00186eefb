//! A link: one unix stream socket that carries frames and descriptors, split into a reading and a writing half.
//!
//! A stream, not packets: one path for all sizes, and faster for large XML (a round trip of 128 bytes costs about
//! one microsecond more, eight megabytes cost a quarter). The price is discipline, and it is paid here: descriptors ride
//! with the first byte of their frame, reads are buffered, and a descriptor that no frame announces ends the link.
//!
//! The only module of this crate with `unsafe`: a received descriptor becomes an owned one.
#![expect(unsafe_code, reason = "descriptors received over a socket become owned ones in exactly one place")]

use crate::codec::BODY_MAX_BYTES;
use crate::frame::{FrameError, HEADER_BYTES, Header, Kind};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, recvmsg, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// One frame with all that came with it.
#[derive(Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The body, encoded.
    pub body: Vec<u8>,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end closed it between two frames.
    #[error("closed by the other end")]
    Closed,
    /// The other end closed it within a frame: it died while it wrote, perhaps.
    #[error("closed in the middle of a frame")]
    Truncated,
    /// The socket failed.
    #[error("socket failed: {0}")]
    Io(#[from] io::Error),
    /// The other end sent something that no well-behaved peer sends.
    #[error("protocol violated: {0}")]
    Violation(String),
    /// The other end was built from other tables.
    #[error(
        "peer speaks revision {theirs:016x} ({their_version}), this is revision {ours:016x} ({our_version})"
    )]
    Revision {
        /// Revision of our tables.
        ours: u64,
        /// Our version, for people.
        our_version: &'static str,
        /// Revision of the peer's tables.
        theirs: u64,
        /// The peer's version, for people.
        their_version: String,
    },
}

impl LinkError {
    /// Did the other end break the protocol? Else it has just gone.
    #[must_use]
    pub fn is_breach(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::Revision { .. })
    }
}

impl From<FrameError> for LinkError {
    fn from(error: FrameError) -> Self {
        Self::Violation(error.to_string())
    }
}

const READ_BYTES: usize = 16 << 10;
/// Largest body of a first frame: a version.
const HELLO_MAX_BYTES: usize = 256;
/// Descriptors that the kernel passes with one message at most, whatever a frame may carry.
const KERNEL_MAX: usize = 253;
const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The half that reads frames.
#[derive(Debug)]
pub struct LinkReader {
    socket: Arc<UnixStream>,
    buffer: Vec<u8>,
    begin: usize,
    descriptors: VecDeque<OwnedFd>,
    /// Largest body that is read.
    body_max: usize,
}

/// The half that writes frames.
#[derive(Debug)]
pub struct LinkWriter {
    socket: Arc<UnixStream>,
}

/// Makes a link of a connected socket.
///
/// # Errors
/// When the socket can't be registered with the runtime.
pub fn split(socket: OwnedFd) -> io::Result<(LinkReader, LinkWriter)> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    let reader = LinkReader {
        socket: Arc::clone(&socket),
        buffer: Vec::new(),
        begin: 0,
        descriptors: VecDeque::new(),
        body_max: BODY_MAX_BYTES,
    };
    Ok((reader, LinkWriter { socket }))
}

/// Makes a link and exchanges the first frames: nothing else is read before the revisions are known to be equal.
///
/// # Errors
/// A peer of another revision, or one that says something else first.
pub async fn open(socket: OwnedFd, revision: u64) -> Result<(LinkReader, LinkWriter), LinkError> {
    let (mut reader, mut writer) = split(socket)?;
    let hello = Header { id: revision, ..Header::new(Kind::Hello) };
    writer.write(hello, OUR_VERSION.as_bytes(), &[]).await?;
    reader.expect_hello(revision).await?;
    Ok((reader, writer))
}

impl LinkReader {
    /// From now on a larger body ends the link before it is read.
    pub fn limit_bodies(&mut self, bytes: usize) {
        self.body_max = bytes.min(BODY_MAX_BYTES);
    }

    async fn expect_hello(&mut self, revision: u64) -> Result<(), LinkError> {
        self.limit_bodies(HELLO_MAX_BYTES);
        let frame = self.read().await?;
        self.limit_bodies(BODY_MAX_BYTES);
        if frame.header.kind != Kind::Hello {
            return Err(LinkError::Violation("the first frame is no hello".to_owned()));
        }
        if frame.header.id != revision {
            return Err(LinkError::Revision {
                ours: revision,
                our_version: OUR_VERSION,
                theirs: frame.header.id,
                their_version: String::from_utf8_lossy(
                    frame.body.get(..32.min(frame.body.len())).unwrap_or(&[]),
                )
                .into_owned(),
            });
        }
        Ok(())
    }

    /// Reads the next frame. Safe to drop half-way: what has been received stays for the next call.
    ///
    /// # Errors
    /// See [`LinkError`]; after any error the link must be dropped.
    pub async fn read(&mut self) -> Result<Frame, LinkError> {
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&self.buffered(HEADER_BYTES).await?[..HEADER_BYTES]);
        let header = Header::from_bytes(&bytes)?;
        if header.body_bytes as usize > self.body_max {
            return Err(LinkError::Violation(format!(
                "frame announces {} bytes, at most {} are allowed here",
                header.body_bytes, self.body_max
            )));
        }
        let length = HEADER_BYTES + header.body_bytes as usize;
        let body = self.buffered(length).await?[HEADER_BYTES..length].to_vec();
        let descriptors = self.consume(length, usize::from(header.descriptors))?;
        Ok(Frame { header, body, descriptors })
    }

    /// Waits until something is buffered or can be read.
    pub(crate) async fn ready(&self) -> Result<(), LinkError> {
        if self.buffer.len() > self.begin {
            return Ok(());
        }
        // What the runtime believes of a socket is only found wrong by trying.
        let look = || {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            recv(self.socket.as_raw_fd(), &mut [0], flags).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::READABLE, look).await?;
        Ok(())
    }

    /// At least so many bytes that came and were not consumed. Safe to drop half-way.
    pub(crate) async fn buffered(&mut self, wanted: usize) -> Result<&[u8], LinkError> {
        self.fill(wanted).await?;
        Ok(self.buffer.get(self.begin..).unwrap_or_default())
    }

    /// Drops buffered bytes, and gives the descriptors that came with them.
    pub(crate) fn consume(&mut self, bytes: usize, descriptors: usize) -> Result<Vec<OwnedFd>, LinkError> {
        self.begin = (self.begin + bytes).min(self.buffer.len());
        if self.descriptors.len() < descriptors {
            return Err(LinkError::Violation(format!(
                "frame announces {descriptors} descriptors, {} came",
                self.descriptors.len()
            )));
        }
        let taken = self.descriptors.drain(..descriptors).collect();
        if self.begin == self.buffer.len() {
            // It may have been a secret's value.
            self.buffer.fill(0);
            self.buffer.clear();
            self.begin = 0;
            // One large message must not keep its memory for ever.
            self.buffer.shrink_to(READ_BYTES);
            if !self.descriptors.is_empty() {
                return Err(LinkError::Violation("descriptors came that no frame announced".to_owned()));
            }
        }
        Ok(taken)
    }

    /// Reads until `wanted` bytes are buffered. Memory grows with what arrives, not with what is announced.
    async fn fill(&mut self, wanted: usize) -> Result<(), LinkError> {
        while self.buffer.len() - self.begin < wanted {
            self.socket.readable().await?;
            // From here to the end of the turn nothing waits, so the buffer is never seen half-changed.
            if self.begin > 0 {
                self.buffer.drain(..self.begin);
                self.begin = 0;
            }
            let missing = wanted.saturating_sub(self.buffer.len()).clamp(READ_BYTES, 256 << 10);
            let old_length = self.buffer.len();
            if self.buffer.capacity() < old_length + missing {
                // By hand, so that the smaller buffer does not stay behind with what is in it.
                let mut larger = Vec::with_capacity((old_length + missing).max(2 * self.buffer.capacity()));
                larger.extend_from_slice(&self.buffer);
                self.buffer.fill(0);
                self.buffer = larger;
            }
            self.buffer.resize(old_length + missing, 0);
            let (socket, target) = (&self.socket, &mut self.buffer[old_length..]);
            let received = socket.try_io(Interest::READABLE, || receive(socket.as_raw_fd(), target));
            let (count, descriptors) = match received {
                Ok(received) => received,
                Err(error) => {
                    self.buffer.truncate(old_length);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        continue;
                    }
                    return Err(error.into());
                }
            };
            self.buffer.truncate(old_length + count);
            self.descriptors.extend(descriptors);
            if self.descriptors.len() > 2 * crate::descriptor::DESCRIPTORS_MAX {
                return Err(LinkError::Violation("descriptors came faster than frames".to_owned()));
            }
            if count == 0 {
                if self.buffer.is_empty() {
                    return Err(LinkError::Closed);
                }
                return Err(LinkError::Truncated);
            }
        }
        Ok(())
    }
}

impl LinkWriter {
    /// Writes one frame whole.
    ///
    /// # Errors
    /// When the socket fails; the link must then be dropped.
    pub async fn write(
        &mut self,
        header: Header,
        body: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<(), LinkError> {
        let mut header = header;
        header.body_bytes = u32::try_from(body.len())
            .ok()
            .filter(|bytes| *bytes as usize <= BODY_MAX_BYTES)
            .ok_or_else(|| LinkError::Violation(format!("a body of {} bytes can't be sent", body.len())))?;
        header.descriptors = u8::try_from(descriptors.len())
            .ok()
            .filter(|count| usize::from(*count) <= crate::descriptor::DESCRIPTORS_MAX)
            .ok_or_else(|| LinkError::Violation("too many descriptors to send".to_owned()))?;
        self.write_parts(&header.to_bytes(), body, descriptors).await
    }

    /// Writes bytes whole, with descriptors beside the first of them.
    pub(crate) async fn write_bytes(
        &mut self,
        bytes: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<(), LinkError> {
        self.write_parts(bytes, &[], descriptors).await
    }

    async fn write_parts(
        &mut self,
        head: &[u8],
        body: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<(), LinkError> {
        let total = head.len() + body.len();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < total {
            let first: &[u8] = head.get(sent..).unwrap_or(&[]);
            let second = &body[sent.saturating_sub(head.len())..];
            let files: &[RawFd] = if sent == 0 { &raw } else { &[] };
            let socket = &self.socket;
            sent += socket
                .async_io(Interest::WRITABLE, || send(socket.as_raw_fd(), first, second, files))
                .await?;
        }
        Ok(())
    }
}

/// Watches a descriptor (a pidfd, say) for readability.
///
/// # Errors
/// When it can't be registered with the runtime.
pub fn watch(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the result, which keeps it open for as long as it is registered.
    let watched = unsafe { AsyncFd::register(file) };
    watched.map_err(|error| io::Error::other(error.to_string()))
}

fn send(socket: RawFd, first: &[u8], second: &[u8], files: &[RawFd]) -> io::Result<usize> {
    let slices = [IoSlice::new(first), IoSlice::new(second)];
    let rights = [ControlMessage::ScmRights(files)];
    let control: &[ControlMessage<'_>] = if files.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket, &slices, control, flags, None).map_err(Into::into)
}

fn receive(socket: RawFd, target: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = vec![0; cmsg_space!([RawFd; KERNEL_MAX]).capacity()];
    let mut slices = [IoSliceMut::new(target)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut control), flags)?;
    let (bytes, flags) = (message.bytes, message.flags);
    // Read by hand: of a message that was cut short, for want of room in our table of descriptors, say, nix shows
    // nothing, and what did come would stay open for ever.
    let files = rights(&control)
        .into_iter()
        // SAFETY: the kernel has just put this descriptor into our table for us, and nobody else knows it.
        .map(|file| unsafe { OwnedFd::from_raw_fd(file) })
        .collect();
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors came than fit"));
    }
    Ok((bytes, files))
}

/// The descriptors in a buffer of control messages, which was zero before the kernel wrote into it: each a length with
/// its header, a level, a type and the data, then padding.
fn rights(control: &[u8]) -> Vec<RawFd> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (WORD + 8).next_multiple_of(WORD);
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = control;
    while let Some((length, kind)) = rest.split_first_chunk::<WORD>() {
        let length = usize::from_ne_bytes(*length);
        let (Some(data), Some(level), Some(kind)) = (rest.get(HEADER..length), kind.get(..4), kind.get(4..8))
        else {
            break;
        };
        if (number(level), number(kind)) == (nix::libc::SOL_SOCKET, nix::libc::SCM_RIGHTS) {
            found.extend(data.chunks_exact(4).map(number));
        }
        rest = rest.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use tokio::io::AsyncWriteExt;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn frames_and_their_descriptors_arrive_in_order() {
        let (one, other) = pair();
        let (mut reader, _keep) = split(one).unwrap();
        let (_reader, mut writer) = split(other).unwrap();
        let (file, _) = pair();
        let big = vec![7; 3 << 20];
        let sending = tokio::spawn(async move {
            writer.write(Header::new(Kind::Event), b"a", &[]).await.unwrap();
            writer.write(Header::new(Kind::Event), &big, &[file]).await.unwrap();
            writer.write(Header::new(Kind::Event), b"c", &[]).await.unwrap();
            writer
        });
        assert_eq!(reader.read().await.unwrap().body, b"a");
        let second = reader.read().await.unwrap();
        assert_eq!((second.body.len(), second.descriptors.len()), (3 << 20, 1));
        assert_eq!(reader.read().await.unwrap().body, b"c");
        drop(sending.await.unwrap());
        drop(_reader);
        assert!(matches!(reader.read().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn another_revision_is_refused_and_both_are_named() {
        let (one, other) = pair();
        let (ours, theirs) = tokio::join!(open(one, 1), open(other, 2));
        assert!(matches!(ours, Err(LinkError::Revision { ours: 1, theirs: 2, .. })));
        let text = theirs.unwrap_err().to_string();
        assert!(text.contains("0000000000000001") && text.contains("0000000000000002"), "{text}");
    }

    async fn refused(bytes: &[u8], files: &[RawFd]) -> String {
        let (one, other) = pair();
        let (mut reader, _keep) = split(one).unwrap();
        if files.is_empty() {
            let socket = std::os::unix::net::UnixStream::from(other);
            socket.set_nonblocking(true).unwrap();
            UnixStream::from_std(socket).unwrap().write_all(bytes).await.unwrap();
        } else {
            send(other.as_raw_fd(), bytes, &[], files).unwrap();
        }
        reader.read().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_no_peer_may_send_ends_the_link() {
        assert!(refused(&[0; 64], &[]).await.contains("not a frame"));
        let mut oversized = Header::new(Kind::Call).to_bytes();
        oversized[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(refused(&oversized, &[]).await.contains("at most 33554432"));
        let truncated = Header { body_bytes: 10, ..Header::new(Kind::Call) }.to_bytes();
        assert!(refused(&truncated, &[]).await.contains("middle of a frame"));
        let greedy = Header { descriptors: 1, ..Header::new(Kind::Call) }.to_bytes();
        assert!(refused(&greedy, &[]).await.contains("0 came"));
        let (file, _other) = pair();
        let smuggled = Header::new(Kind::Call).to_bytes();
        assert!(refused(&smuggled, &[file.as_raw_fd()]).await.contains("no frame announced"));
    }

    #[tokio::test]
    async fn a_first_frame_is_small() {
        let (one, other) = pair();
        let long = Header { body_bytes: 257, id: 1, ..Header::new(Kind::Hello) }.to_bytes();
        send(other.as_raw_fd(), &long, &[], &[]).unwrap();
        let refused = open(one, 1).await.unwrap_err().to_string();
        assert!(refused.contains("at most 256"), "{refused}");
    }

    #[tokio::test]
    async fn descriptors_of_a_refused_frame_are_closed() {
        for count in [1, 65, 129, KERNEL_MAX] {
            let (file, witness) = pair();
            let raw = vec![file.as_raw_fd(); count];
            refused(&Header::new(Kind::Call).to_bytes(), &raw).await;
            drop(file);
            // The end of the stream is there when the last copy of its other side has been closed.
            let mut witness = std::os::unix::net::UnixStream::from(witness);
            witness.set_nonblocking(true).unwrap();
            assert_eq!(io::Read::read(&mut witness, &mut [0]).unwrap(), 0, "{count}");
        }
    }

    #[test]
    fn control_messages_of_any_bytes_are_read() {
        assert!(rights(&[0; 64]).is_empty());
        assert!(rights(&[0xff; 64]).is_empty());
        assert!(rights(&[1, 0, 0, 0, 0, 0, 0, 0, 1]).is_empty());
        let mut control = Vec::new();
        control.extend(24usize.to_ne_bytes());
        control.extend(nix::libc::SOL_SOCKET.to_ne_bytes());
        control.extend(nix::libc::SCM_RIGHTS.to_ne_bytes());
        control.extend(7i32.to_ne_bytes());
        control.extend(8i32.to_ne_bytes());
        control.extend([0; 8]);
        assert_eq!(rights(&control), [7, 8]);
    }
}
