//! Conversations with the kernel over netlink: requests, answers, lists, batches. What they are about stands in the modules.

pub(crate) mod address;
pub(crate) mod link;
pub(crate) mod rules;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel answers while it is asked; a time is set all the same, so that nothing here can wait for ever.
const ANSWER_WITHIN_SECONDS: i64 = 5;
/// Larger than any description of one interface without its virtual functions, which are not asked for.
const ANSWER_BYTES: usize = 64 << 10;
/// Bytes of `nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Most objects in one list: no host has more that we could make sense of.
const LIST_MAX: usize = 65_536;

/// Flags of requests.
pub(crate) const ACKNOWLEDGED: u16 = 4;
pub(crate) const LIST: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
const REQUEST: u16 = 1;

/// A socket of one of the kernel's services.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: OwnedFd,
    sequence: u32,
}

impl Conversation {
    /// About interfaces, addresses and routes, in the thread's network namespace.
    pub(crate) fn about_routes() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// About rules for packets, in the thread's network namespace.
    pub(crate) fn about_packets() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_WITHIN_SECONDS, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn number(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads what the kernel says next. Nobody else is listened to.
    fn hear<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            let (count, sender) = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), buffer)?;
            if sender.is_some_and(|sender| sender.pid() == 0) {
                return Ok(buffer.get(..count).unwrap_or_default());
            }
        }
    }

    /// Sends a request; returns the answer's body, or nothing for an acknowledgement.
    pub(crate) fn ask(&mut self, message: Message) -> io::Result<Option<Vec<u8>>> {
        let number = self.number();
        self.send(&message.finish(number))?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let heard = self.hear(&mut buffer)?;
            match answers(heard, number).next() {
                Some(Answer::Errno(0) | Answer::End) => return Ok(None),
                Some(Answer::Errno(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                Some(Answer::Body(body)) => return Ok(Some(body.to_vec())),
                None => {}
            }
        }
    }

    /// Asks for a list; the bodies of what is in it.
    pub(crate) fn list(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let number = self.number();
        self.send(&message.finish(number))?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; ANSWER_BYTES]);
        loop {
            let heard = self.hear(&mut buffer)?;
            for answer in answers(heard, number) {
                match answer {
                    Answer::Errno(0) | Answer::End => return Ok(all),
                    Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Answer::Body(_) if all.len() >= LIST_MAX => {
                        return Err(io::Error::other("the kernel lists more than can be looked at"));
                    }
                    Answer::Body(body) => all.push(body.to_vec()),
                }
            }
        }
    }

    /// Sends several requests in one piece, of which all take effect or none. Each must ask to be acknowledged, but for the
    /// first and the last, which are the frame.
    pub(crate) fn batch(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        let mut bytes = begin.finish(self.number());
        let mut last = self.sequence;
        for message in messages {
            last = self.number();
            bytes.extend(message.finish(last));
        }
        let first = self.sequence;
        bytes.extend(end.finish(self.number()));
        debug_assert_eq!(first, last);
        self.send(&bytes)?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let heard = self.hear(&mut buffer)?;
            let mut rest = heard;
            while let Some((header, body, after)) = next(rest) {
                rest = after;
                let errno = if header.kind == NLMSG_ERROR { errno_of(body) } else { None };
                match errno {
                    Some(0) if header.sequence == last => return Ok(()),
                    Some(0) | None => {}
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A request under construction.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Begins a request of that kind, with what stands before its attributes.
    pub(crate) fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        // The length and the sequence number are filled in at the end.
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(head);
        Self(bytes)
    }

    /// A list of attributes that belongs into another one.
    pub(crate) fn inner() -> Self {
        Self(Vec::new())
    }

    /// Adds an attribute. All of ours are short.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds a text, with the zero at its end.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that consists of others.
    pub(crate) fn nested(&mut self, kind: u16, inner: &Self) {
        /// Tells that it does.
        const NESTED: u16 = 0x8000;
        self.attribute(kind | NESTED, &inner.0);
    }

    #[cfg(test)]
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.splice(0..4, length.to_ne_bytes());
        self.0.splice(8..12, sequence.to_ne_bytes());
        self.0
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// The end, well (0) or not.
    Errno(i32),
    /// The end of a list.
    End,
    /// Something that was asked for.
    Body(&'a [u8]),
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The first message of a datagram: header, body, and what follows. What is cut short is none.
fn next(datagram: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
    let message = datagram.get(..length)?;
    let header = Header { kind: u16_at(message, 4)?, sequence: u32_at(message, 8)? };
    let body = message.get(HEADER_BYTES..)?;
    Some((header, body, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The kernel says minus the errno.
fn errno_of(body: &[u8]) -> Option<i32> {
    u32_at(body, 0).map(|errno| errno.cast_signed().saturating_neg())
}

/// What a datagram answers to the request of that number.
fn answers(datagram: &[u8], sequence: u32) -> impl Iterator<Item = Answer<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let (header, body, after) = next(rest)?;
            rest = after;
            if header.sequence != sequence {
                continue;
            }
            return match header.kind {
                NLMSG_ERROR => errno_of(body).map(Answer::Errno),
                NLMSG_DONE => Some(Answer::End),
                _ => Some(Answer::Body(body)),
            };
        }
    })
}

/// The attributes of a list; it ends where the bytes no longer make one.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Two flags share the number's field.
    const NUMBER: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NUMBER;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A text that may end with a zero.
pub(crate) fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &[0; 16]);
        message.attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes());
        let message = message.finish(1);
        for length in 0..message.len() {
            assert_eq!(answers(&message[..length], 1).count(), 0, "{length}");
        }
        assert_eq!(answers(&message, 2).count(), 0);
        assert!(matches!(answers(&message, 1).next(), Some(Answer::Body(_))));
        // Lengths that lie end the list.
        for list in [[0, 0, 1, 0], [3, 0, 1, 0], [200, 0, 1, 0]] {
            assert_eq!(attributes(&list).count(), 0);
        }
    }

    #[test]
    fn a_datagram_may_hold_several_answers() {
        let mut datagram = Message::new(16, 0, &[1, 2, 3]).finish(7);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        datagram.extend(Message::new(NLMSG_ERROR, 0, &(-17_i32).to_ne_bytes()).finish(7));
        datagram.extend(Message::new(NLMSG_DONE, 0, &[0; 4]).finish(7));
        let heard: Vec<_> = answers(&datagram, 7).collect();
        assert_eq!(heard, [Answer::Body(&[1, 2, 3]), Answer::Errno(17), Answer::End]);
    }
}
