//! A network in the kernel: bridge, addresses, routes, rules. Each step can be repeated, and what is ours is known by the
//! bridge's address, which no other one has.

use crate::definition::Definition;
use crate::definition::address::network_of;
use crate::error::{error, system};
use crate::firewall::Table;
use crate::name;
use crate::netlink::Conversation;
use crate::netlink::address::Known;
use crate::netlink::link::{Change, Link, Netlink, NewBridge};
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error};
use std::collections::BTreeMap;

/// The bridge's name, if the network has one of its own.
pub(crate) fn bridge_of(definition: &Definition) -> Option<&str> {
    definition.bridge.name.as_deref().filter(|_| definition.forward.mode.is_own())
}

fn netlink() -> Result<Netlink, Error> {
    Netlink::open().map_err(|cause| system("Route netlink can't be reached", &cause))
}

fn packets() -> Result<Conversation, Error> {
    Conversation::about_packets().map_err(|cause| system("Packet filtering can't be reached", &cause))
}

/// Is there an interface of that name?
pub(crate) fn exists(name: &str) -> bool {
    name::check(name).is_ok() && netlink().is_ok_and(|mut netlink| matches!(netlink.find(name), Ok(Some(_))))
}

/// Is this our bridge?
fn is_ours(definition: &Definition, link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge") && link.mac.is_some() && link.mac == definition.mac
}

/// What can't be, said before anything is done.
pub(crate) fn check(definition: &Definition, bridge: &str) -> Result<(), Error> {
    let network = &definition.name;
    let about = |cause: Error| Error { message: format!("Network '{network}': {}", cause.message), ..cause };
    name::check(bridge).map_err(about)?;
    for ip in &definition.ips {
        if ip.prefix_bits().is_none() {
            let message = format!("Network '{network}': {} has no prefix that makes sense", ip.address);
            return Err(error(Code::INTERNAL, message));
        }
    }
    let mut netlink = netlink()?;
    let failed =
        |cause| system(format!("Network '{network}': the host's interfaces can't be listed"), &cause);
    let links = netlink.all().map_err(failed)?;
    if links.iter().any(|link| link.name == bridge) {
        let message = format!(
            "Network '{network}': the host has an interface '{bridge}' already; remove it, or choose another bridge name"
        );
        return Err(error(Code::INTERNAL, message));
    }
    let routes = netlink.conversation().routes().map_err(failed)?;
    for ip in &definition.ips {
        let Some(prefix) = ip.prefix_bits() else { continue };
        let own = network_of(ip.address, prefix);
        if let Some(route) = routes.iter().find(|route| (route.address, route.prefix) == (own, prefix)) {
            let over = links.iter().find(|link| link.index == route.index);
            let over = over.map_or("another interface", |link| link.name.as_str());
            let message = format!(
                "Network '{network}': {own}/{prefix} is already in use by interface {over}, which has a route there; choose \
                 another network"
            );
            return Err(error(Code::INTERNAL, message));
        }
    }
    Ok(())
}

/// Makes the bridge, which must not be there yet. It is not up, and has no address.
pub(crate) fn make_bridge(definition: &Definition, bridge: &str) -> Result<(), Error> {
    let mac =
        definition.mac.ok_or_else(|| error(Code::INTERNAL, "A network without an address of its bridge"))?;
    let new = NewBridge {
        name: bridge,
        mac,
        mtu: definition.mtu,
        // Nothing but guests' taps is plugged in, none of which leads back here: looking for loops would only keep
        // each guest waiting for its first packet.
        stp: false,
        delay: 0,
    };
    netlink()?.make_bridge(new).map_err(|cause| {
        let mut failed =
            system(format!("Network '{}': bridge '{bridge}' can't be made", definition.name), &cause);
        if cause.raw_os_error() == Some(libc::EPERM) {
            failed.message.push_str("; the network driver lacks CAP_NET_ADMIN over this network namespace");
        }
        failed
    })
}

/// Gives the bridge its rules, addresses and routes, and sets it up. What is there already stays.
pub(crate) fn furnish(definition: &Definition, bridge: &str) -> Result<(), Error> {
    let what = |what: &str, cause: &std::io::Error| {
        system(format!("Network '{}': bridge '{bridge}' can't {what}", definition.name), cause)
    };
    // Rules before addresses: nothing passes that shall not.
    set_rules(definition, bridge)?;
    fault::point("network_start", "after_rules");
    let mut netlink = netlink()?;
    let link = netlink.find(bridge).map_err(|cause| what("be found", &cause))?;
    let gone = || error(Code::OPERATION_FAILED, format!("Bridge '{bridge}' was removed while it was set up"));
    let index = link.ok_or_else(gone)?.index;
    for ip in &definition.ips {
        let Some(prefix) = ip.prefix_bits() else { continue };
        netlink
            .conversation()
            .add_address(index, ip.address, prefix)
            .map_err(|cause| what(&format!("have the address {}/{prefix}", ip.address), &cause))?;
    }
    netlink
        .change(index, Change { up: true, ..Change::default() })
        .map_err(|cause| what("be set up", &cause))?;
    for route in &definition.routes {
        let Some(prefix) = route.prefix_bits() else { continue };
        netlink
            .conversation()
            .add_route(index, route.address, prefix, route.gateway, route.metric)
            .map_err(|cause| what(&format!("have the route to {}/{prefix}", route.address), &cause))?;
    }
    Ok(())
}

/// Puts the network's rules in force, in one piece.
pub(crate) fn set_rules(definition: &Definition, bridge: &str) -> Result<(), Error> {
    let table = Table::of(definition, bridge);
    packets()?.set_table(&table).map_err(|cause| {
        system(format!("Network '{}': its rules for packets can't be set", definition.name), &cause)
    })
}

/// What there is in the kernel, of all networks.
#[derive(Debug)]
pub(crate) struct Seen {
    links: Vec<Link>,
    addresses: Vec<Known>,
    tables: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    /// Looks once.
    pub(crate) fn look() -> Result<Self, Error> {
        let failed = |cause| system("What networks have in the kernel can't be looked at", &cause);
        let mut netlink = netlink()?;
        Ok(Self {
            links: netlink.all().map_err(failed)?,
            addresses: netlink.conversation().addresses().map_err(failed)?,
            tables: packets()?.tables().map_err(failed)?,
        })
    }

    /// What is missing of a network.
    pub(crate) fn lack(&self, definition: &Definition, bridge: &str) -> Lack {
        let ours = self.links.iter().find(|link| link.name == bridge && is_ours(definition, link));
        let Some(link) = ours else { return Lack::Bridge };
        let has = |address| {
            self.addresses.iter().any(|known| known.index == link.index && known.address == address)
        };
        let table = Table::of(definition, bridge);
        let rules = match self.tables.get(&table.name) {
            Some(note) => *note == table.note(),
            None => table.chains.is_empty(),
        };
        let furnished = link.up && rules && definition.ips.iter().all(|ip| has(ip.address));
        if furnished { Lack::Nothing } else { Lack::Furniture }
    }
}

/// What is missing of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Nothing.
    Nothing,
    /// Rules, addresses, routes.
    Furniture,
    /// All of it.
    Bridge,
}

/// Removes all of it; goes on after an error, and tells them all.
pub(crate) fn remove(definition: &Definition, bridge: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    let failed = |what: &str, cause: &std::io::Error| {
        system(format!("Network '{}': {what} can't be removed", definition.name), cause)
    };
    match packets() {
        Ok(mut packets) => {
            let removed = packets.set_table(&Table::empty(bridge));
            errors.extend(removed.err().map(|cause| failed("its rules for packets", &cause)));
        }
        Err(cause) => errors.push(cause),
    }
    fault::point("network_stop", "after_rules");
    let removed = netlink().and_then(|mut netlink| {
        let found = netlink.find(bridge).map_err(|cause| failed("its bridge", &cause))?;
        match found.filter(|link| is_ours(definition, link)) {
            Some(link) => netlink.remove(link.index).map_err(|cause| failed("its bridge", &cause)),
            None => Ok(()),
        }
    });
    errors.extend(removed.err());
    errors
}
