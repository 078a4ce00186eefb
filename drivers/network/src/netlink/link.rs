//! Interfaces as the kernel knows them, asked for and changed through route netlink.

use super::{ACKNOWLEDGED, CREATE, Conversation, EXCLUSIVE, LIST, Message, attributes, text_of, u32_at};
use crate::name::Mac;
use std::io;

/// Bytes of `ifinfomsg`.
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
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) mac: Option<Mac>,
    /// Is it up?
    pub(crate) up: bool,
    /// The number of the bridge that it is a port of.
    pub(crate) bridge: Option<i32>,
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

/// A bridge that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewBridge<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) mtu: Option<u32>,
    /// Does it look for loops?
    pub(crate) stp: bool,
    /// Until a port is used, in seconds.
    pub(crate) delay: u64,
}

/// A conversation with the kernel about interfaces.
#[derive(Debug)]
pub(crate) struct Netlink(Conversation);

/// `ifinfomsg`.
fn head(index: i32, flags: u32) -> [u8; INTERFACE_BYTES] {
    let mut head = [0; INTERFACE_BYTES];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    // The mask of the flags that are to be changed.
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}

impl Netlink {
    /// Opens a socket in the thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Conversation::about_routes().map(Self)
    }

    /// The way to ask about other things than interfaces.
    pub(crate) fn conversation(&mut self) -> &mut Conversation {
        &mut self.0
    }

    /// Looks for an interface by its name.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &head(0, 0));
        message.text(libc::IFLA_IFNAME, name);
        match self.0.ask(message) {
            Ok(Some(body)) => parse_link(&body)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable answer of the kernel")),
            Ok(None) => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered nothing")),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces.
    pub(crate) fn all(&mut self) -> io::Result<Vec<Link>> {
        let bodies = self.0.list(Message::new(libc::RTM_GETLINK, LIST, &head(0, 0)))?;
        Ok(bodies.iter().filter_map(|body| parse_link(body)).collect())
    }

    /// Changes an interface.
    pub(crate) fn change(&mut self, index: i32, change: Change) -> io::Result<()> {
        let up = if change.up { libc::IFF_UP.unsigned_abs() } else { 0 };
        let mut message = Message::new(libc::RTM_NEWLINK, ACKNOWLEDGED, &head(index, up));
        if let Some(mac) = change.mac {
            message.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = change.mtu {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(bridge) = change.bridge {
            message.attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        }
        self.0.ask(message).map(drop)
    }

    /// Makes a bridge, which must not exist yet.
    pub(crate) fn make_bridge(&mut self, bridge: NewBridge<'_>) -> io::Result<()> {
        // IFLA_BR_FORWARD_DELAY and IFLA_BR_STP_STATE.
        const FORWARD_DELAY: u16 = 1;
        const STP_STATE: u16 = 5;
        /// The kernel counts in hundredths.
        const A_SECOND: u64 = 100;
        let mut message = Message::new(libc::RTM_NEWLINK, ACKNOWLEDGED | CREATE | EXCLUSIVE, &head(0, 0));
        message.text(libc::IFLA_IFNAME, bridge.name);
        message.attribute(libc::IFLA_ADDRESS, &bridge.mac.0);
        if let Some(mtu) = bridge.mtu {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        let mut data = Message::inner();
        if bridge.stp {
            data.attribute(STP_STATE, &1_u32.to_ne_bytes());
        } else {
            let delay = u32::try_from(bridge.delay.saturating_mul(A_SECOND)).unwrap_or(u32::MAX);
            data.attribute(FORWARD_DELAY, &delay.to_ne_bytes());
        }
        let mut info = Message::inner();
        info.text(libc::IFLA_INFO_KIND, "bridge");
        info.nested(libc::IFLA_INFO_DATA, &data);
        message.nested(libc::IFLA_LINKINFO, &info);
        self.0.ask(message).map(drop)
    }

    /// Keeps a port of a bridge from others that are kept from it too.
    pub(crate) fn isolate(&mut self, index: i32) -> io::Result<()> {
        // AF_BRIDGE, IFLA_PROTINFO, IFLA_BRPORT_ISOLATED.
        const ISOLATED: u16 = 33;
        let mut head = head(index, 0);
        head[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
        let mut message = Message::new(libc::RTM_SETLINK, ACKNOWLEDGED, &head);
        let mut port = Message::inner();
        port.attribute(ISOLATED, &[1]);
        message.nested(libc::IFLA_PROTINFO, &port);
        self.0.ask(message).map(drop)
    }

    /// Removes an interface.
    pub(crate) fn remove(&mut self, index: i32) -> io::Result<()> {
        self.0.ask(Message::new(libc::RTM_DELLINK, ACKNOWLEDGED, &head(index, 0))).map(drop)
    }
}

/// Reads the description of an interface.
fn parse_link(body: &[u8]) -> Option<Link> {
    let up = u32_at(body, 8)? & libc::IFF_UP.unsigned_abs() != 0;
    let mut link = Link { index: u32_at(body, 4)?.cast_signed(), up, ..Link::default() };
    for (kind, value) in attributes(body.get(INTERFACE_BYTES..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text_of(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MASTER => link.bridge = u32_at(value, 0).map(u32::cast_signed),
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
            libc::IFLA_INFO_KIND => link.kind = Some(text_of(value)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_read_from_its_attributes() {
        let mut tun = Message::inner();
        tun.attribute(1, &1000_u32.to_ne_bytes());
        tun.attribute(3, &[2]);
        tun.attribute(6, &[1]);
        tun.attribute(7, &[1]);
        tun.attribute(8, &2_u32.to_ne_bytes());
        tun.attribute(9, &1_u32.to_ne_bytes());
        let mut info = Message::inner();
        info.text(libc::IFLA_INFO_KIND, "tun");
        info.nested(libc::IFLA_INFO_DATA, &tun);
        let mut message = Message::inner();
        message.attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes());
        message.text(libc::IFLA_IFNAME, "vnet3");
        message.nested(libc::IFLA_LINKINFO, &info);
        let link = parse_link(&[&head(7, 1), message.bytes()].concat()).unwrap();
        assert_eq!((link.index, link.mtu, link.name.as_str(), link.up), (7, 1400, "vnet3", true));
        let expected =
            Tun { tap: true, owner: Some(1000), group: None, persistent: true, multi_queue: true, queues: 3 };
        assert_eq!(link.tun, Some(expected));
    }

    #[test]
    fn what_is_cut_short_is_no_interface() {
        for body in [&[][..], &[0; 15]] {
            assert_eq!(parse_link(body), None);
        }
    }
}
