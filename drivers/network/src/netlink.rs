//! Interfaces as the kernel knows them, asked for and changed through route netlink.

use crate::name::Mac;
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
/// Bytes of `nlmsghdr` and of `ifinfomsg`.
const HEADER_BYTES: usize = 16;
const INTERFACE_BYTES: usize = 16;

/// What a tap was made as (`IFLA_TUN_*`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tun {
    /// Frames (a tap) and not packets.
    pub(crate) tap: bool,
    /// Only this user may attach, as far as this user namespace can name it.
    pub(crate) owner: Option<u32>,
    /// Only this group may attach.
    pub(crate) group: Option<u32>,
    /// Outlives those who are attached.
    pub(crate) persistent: bool,
    /// More than one may attach.
    pub(crate) multi_queue: bool,
    /// How many are; known for multi-queue ones only.
    pub(crate) queues: u32,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number, which no other interface of its namespace ever has.
    pub(crate) index: i32,
    /// What it is (`bridge`, `tun`, `macvtap`); hardware has no word for itself.
    pub(crate) kind: Option<String>,
    /// Largest packet.
    pub(crate) mtu: u32,
    /// What a tap (or tun) was made as.
    pub(crate) tun: Option<Tun>,
    /// What has gone through it.
    pub(crate) counters: Option<Counters>,
}

/// What has gone through an interface, as the host sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Packets: received, sent.
    pub(crate) packets: [u64; 2],
    /// Bytes: received, sent.
    pub(crate) bytes: [u64; 2],
    /// Errors: on receiving, on sending.
    pub(crate) errors: [u64; 2],
    /// Packets dropped: on receiving, on sending.
    pub(crate) drops: [u64; 2],
}

/// What is to be changed about an interface.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    /// Its address.
    pub(crate) mac: Option<Mac>,
    /// Largest packet.
    pub(crate) mtu: Option<u32>,
    /// The number of the bridge it becomes a port of.
    pub(crate) bridge: Option<i32>,
    /// Set it up.
    pub(crate) up: bool,
}

/// A conversation with the kernel about interfaces.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_WITHIN_SECONDS, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Looks for an interface by its name.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, 0, 0);
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        message.attribute(libc::IFLA_IFNAME, &text);
        match self.ask(message) {
            Ok(Some(body)) => parse_link(&body)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable answer of the kernel")),
            Ok(None) => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered nothing")),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes an interface.
    pub(crate) fn change(&mut self, index: i32, change: Change) -> io::Result<()> {
        let up = if change.up { libc::IFF_UP.unsigned_abs() } else { 0 };
        let acknowledged = u16::try_from(libc::NLM_F_ACK).map_err(io::Error::other)?;
        let mut message = Message::new(libc::RTM_NEWLINK, acknowledged, index, up);
        if let Some(mac) = change.mac {
            message.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = change.mtu {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(bridge) = change.bridge {
            message.attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        }
        self.ask(message).map(drop)
    }

    /// Sends a request; returns the answer's body, or nothing for an acknowledgement.
    fn ask(&mut self, message: Message) -> io::Result<Option<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message.finish(self.sequence);
        sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (count, sender) = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer)?;
            // Only the kernel is listened to, and only to what it says to this request.
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            match answer(buffer.get(..count).unwrap_or_default(), self.sequence) {
                Answer::Other => {}
                Answer::Errno(0) => return Ok(None),
                Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Answer::Body(body) => return Ok(Some(body)),
            }
        }
    }
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    /// Begins a request about the interface of that number (0: named by an attribute).
    fn new(kind: u16, flags: u16, index: i32, interface_flags: u32) -> Self {
        let request = u16::try_from(libc::NLM_F_REQUEST).unwrap_or_default();
        let mut bytes = Vec::with_capacity(128);
        // The length and the sequence number are filled in at the end.
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((request | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        // Family and type of hardware: any.
        bytes.extend([0; 4]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(interface_flags.to_ne_bytes());
        // The mask of the flags that are to be changed.
        bytes.extend(interface_flags.to_ne_bytes());
        Self(bytes)
    }

    /// Adds an attribute. All of ours are short.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.splice(0..4, length.to_ne_bytes());
        self.0.splice(8..12, sequence.to_ne_bytes());
        self.0
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Not to this request.
    Other,
    /// The end, well (0) or not.
    Errno(i32),
    /// An interface.
    Body(Vec<u8>),
}

/// Reads one datagram.
fn answer(datagram: &[u8], sequence: u32) -> Answer {
    let length = u32_at(datagram, 0).and_then(|length| usize::try_from(length).ok());
    let Some(message) = length.and_then(|length| datagram.get(..length)) else {
        return Answer::Other;
    };
    if u32_at(message, 8) != Some(sequence) {
        return Answer::Other;
    }
    let Some(body) = message.get(HEADER_BYTES..) else {
        return Answer::Other;
    };
    match u16_at(message, 4) {
        Some(libc::RTM_NEWLINK) => Answer::Body(body.to_vec()),
        Some(kind) if i32::from(kind) == libc::NLMSG_ERROR => match u32_at(body, 0) {
            // The kernel says minus the errno.
            Some(errno) => Answer::Errno(errno.cast_signed().saturating_neg()),
            None => Answer::Other,
        },
        _ => Answer::Other,
    }
}

/// Reads the description of an interface.
fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(body, 4)?.cast_signed(), ..Link::default() };
    for (kind, value) in attributes(body.get(INTERFACE_BYTES..)?) {
        match kind {
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_LINKINFO => parse_info(value, &mut link)?,
            libc::IFLA_STATS64 => link.counters = parse_counters(value),
            _ => {}
        }
    }
    Some(link)
}

/// The first eight of the kernel's `rtnl_link_stats64`.
fn parse_counters(data: &[u8]) -> Option<Counters> {
    let pair = |index: usize| -> Option<[u64; 2]> {
        let at = |index: usize| {
            let bytes = data.get(8 * index..)?.first_chunk()?;
            Some(u64::from_ne_bytes(*bytes))
        };
        Some([at(2 * index)?, at(2 * index + 1)?])
    };
    Some(Counters { packets: pair(0)?, bytes: pair(1)?, errors: pair(2)?, drops: pair(3)? })
}

fn parse_info(info: &[u8], link: &mut Link) -> Option<()> {
    let mut data = None;
    for (kind, value) in attributes(info) {
        match kind {
            libc::IFLA_INFO_KIND => {
                let text = value.split(|byte| *byte == 0).next()?;
                link.kind = Some(String::from_utf8_lossy(text).into_owned());
            }
            libc::IFLA_INFO_DATA => data = Some(value),
            _ => {}
        }
    }
    if link.kind.as_deref() == Some("tun") {
        link.tun = Some(parse_tun(data.unwrap_or_default())?);
    }
    Some(())
}

fn parse_tun(data: &[u8]) -> Option<Tun> {
    let mut tun = Tun::default();
    for (kind, value) in attributes(data) {
        let yes = || value.first().map(|byte| *byte != 0);
        // IFLA_TUN_*, which the C library's headers do not number.
        match kind {
            1 => tun.owner = Some(u32_at(value, 0)?),
            2 => tun.group = Some(u32_at(value, 0)?),
            3 => tun.tap = i32::from(*value.first()?) == libc::IFF_TAP,
            6 => tun.persistent = yes()?,
            7 => tun.multi_queue = yes()?,
            8 | 9 => tun.queues = tun.queues.saturating_add(u32_at(value, 0)?),
            _ => {}
        }
    }
    Some(tun)
}

/// The attributes of a list; it ends where the bytes no longer make one.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_read_from_its_attributes() {
        let mut tun = Message(Vec::new());
        tun.attribute(1, &1000_u32.to_ne_bytes());
        tun.attribute(3, &[2]);
        tun.attribute(6, &[1]);
        tun.attribute(7, &[1]);
        tun.attribute(8, &2_u32.to_ne_bytes());
        tun.attribute(9, &1_u32.to_ne_bytes());
        let mut info = Message(Vec::new());
        info.attribute(libc::IFLA_INFO_KIND, b"tun\0");
        info.attribute(libc::IFLA_INFO_DATA, &tun.0);
        let mut message = Message::new(libc::RTM_NEWLINK, 0, 7, 0);
        message.attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes());
        message.attribute(libc::IFLA_LINKINFO, &info.0);
        let message = message.finish(3);
        assert_eq!(answer(&message, 2), Answer::Other);
        let Answer::Body(body) = answer(&message, 3) else {
            panic!("no interface");
        };
        let link = parse_link(&body).unwrap();
        assert_eq!((link.index, link.mtu), (7, 1400));
        let expected =
            Tun { tap: true, owner: Some(1000), group: None, persistent: true, multi_queue: true, queues: 3 };
        assert_eq!(link.tun, Some(expected));
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, 7, 0);
        message.attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes());
        let message = message.finish(1);
        for length in 0..message.len() {
            assert_eq!(answer(&message[..length], 1), Answer::Other, "{length}");
        }
        for body in [&[][..], &[0; 15]] {
            assert_eq!(parse_link(body), None);
        }
        // Lengths that lie end the list.
        for list in [[0, 0, 1, 0], [3, 0, 1, 0], [200, 0, 1, 0]] {
            assert_eq!(attributes(&list).count(), 0);
        }
    }
}
