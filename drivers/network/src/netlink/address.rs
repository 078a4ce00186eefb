//! Addresses and routes.

use super::{ACKNOWLEDGED, CREATE, Conversation, LIST, Message, REPLACE, attributes, u32_at};
use crate::definition::address::{broadcast_of, network_of};
use std::io;
use std::net::IpAddr;

/// `ifaddrmsg`'s and `rtmsg`'s bytes.
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
/// `IFA_F_NODAD`: nobody else has the address of our own bridge.
const UNDOUBTED: u8 = 0x02;

/// An address of an interface, or a way to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The interface's number.
    pub(crate) index: i32,
    /// The address.
    pub(crate) address: IpAddr,
    /// Its prefix.
    pub(crate) prefix: u8,
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

impl Conversation {
    /// Gives an interface an address; one that it has already is none the worse for it.
    pub(crate) fn add_address(&mut self, index: i32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut head = [0; ADDRESS_BYTES];
        head[0] = family(address);
        head[1] = prefix;
        head[2] = if address.is_ipv6() { UNDOUBTED } else { 0 };
        head[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(libc::RTM_NEWADDR, ACKNOWLEDGED | CREATE | REPLACE, &head);
        message.attribute(libc::IFA_LOCAL, &bytes(address));
        message.attribute(libc::IFA_ADDRESS, &bytes(address));
        if let IpAddr::V4(address) = address
            && prefix < 31
        {
            message.attribute(libc::IFA_BROADCAST, &broadcast_of(address, prefix).octets());
        }
        self.ask(message).map(drop)
    }

    /// Makes a route over an interface.
    pub(crate) fn add_route(
        &mut self,
        index: i32,
        network: IpAddr,
        prefix: u8,
        gateway: IpAddr,
        metric: Option<u32>,
    ) -> io::Result<()> {
        let mut head = [0; ROUTE_BYTES];
        head[0] = family(network);
        head[1] = prefix;
        head[4] = libc::RT_TABLE_MAIN;
        head[5] = libc::RTPROT_STATIC;
        head[6] = libc::RT_SCOPE_UNIVERSE;
        head[7] = libc::RTN_UNICAST;
        let mut message = Message::new(libc::RTM_NEWROUTE, ACKNOWLEDGED | CREATE | REPLACE, &head);
        message.attribute(libc::RTA_DST, &bytes(network));
        message.attribute(libc::RTA_GATEWAY, &bytes(gateway));
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        if let Some(metric) = metric {
            message.attribute(libc::RTA_PRIORITY, &metric.to_ne_bytes());
        }
        self.ask(message).map(drop)
    }

    /// All addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<Known>> {
        let bodies = self.list(Message::new(libc::RTM_GETADDR, LIST, &[0; ADDRESS_BYTES]))?;
        Ok(bodies.iter().filter_map(|body| parse_address(body)).collect())
    }

    /// All routes of the main table to networks, with the interface that they lead over.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Known>> {
        let bodies = self.list(Message::new(libc::RTM_GETROUTE, LIST, &[0; ROUTE_BYTES]))?;
        Ok(bodies.iter().filter_map(|body| parse_route(body)).collect())
    }
}

fn parse_address(body: &[u8]) -> Option<Known> {
    let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?.cast_signed());
    let (mut local, mut other) = (None, None);
    for (kind, value) in attributes(body.get(ADDRESS_BYTES..)?) {
        match kind {
            libc::IFA_LOCAL => local = address_of(value),
            libc::IFA_ADDRESS => other = address_of(value),
            _ => {}
        }
    }
    Some(Known { index, address: local.or(other)?, prefix })
}

fn parse_route(body: &[u8]) -> Option<Known> {
    let (prefix, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
    if table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST || prefix == 0 {
        return None;
    }
    let (mut address, mut index) = (None, None);
    for (kind, value) in attributes(body.get(ROUTE_BYTES..)?) {
        match kind {
            libc::RTA_DST => address = address_of(value),
            libc::RTA_OIF => index = u32_at(value, 0).map(u32::cast_signed),
            _ => {}
        }
    }
    let address = address?;
    Some(Known { index: index?, address: network_of(address, prefix), prefix })
}
