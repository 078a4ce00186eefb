//! What parts of a definition must agree with one another.

use super::address::network_of;
use super::forward::{Device, Mode};
use super::shaping::PortType;
use super::text::wrong;
use super::{Definition, Error};
use crate::error::unsupported;
use bulkhead_xml::Element;

impl Definition {
    /// Routes lead through a gateway that a network of this bridge has.
    pub(super) fn check_gateways(&self) -> Result<(), Error> {
        for route in &self.routes {
            let reached = self.ips.iter().any(|ip| {
                ip.address.is_ipv4() == route.gateway.is_ipv4()
                    && ip.prefix_bits().is_some_and(|prefix| {
                        network_of(ip.address, prefix) == network_of(route.gateway, prefix)
                    })
            });
            if !reached {
                let message = format!(
                    "<route>: gateway {} is in no network of the bridge; give the bridge an <ip> beside it",
                    route.gateway
                );
                return Err(unsupported(message));
            }
        }
        Ok(())
    }

    /// What the mode of `<forward>` does not go with, as far as it is a fault of the XML.
    pub(super) fn check_mode(&self, root: &Element) -> Result<(), Error> {
        let (mode, bridge) = (self.forward.mode, &self.bridge);
        let refuse = |message: &str| Err(wrong(root, format!("in mode '{}' {message}", mode.name())));
        let given = root.child("bridge");
        match mode {
            Mode::None => {}
            Mode::Nat | Mode::Route | Mode::Open => {
                if self.ips.is_empty() {
                    return refuse("a network needs an address; add <ip>");
                }
                if self.forward.devices.len() > 1 {
                    return refuse("there can be one interface in <forward>");
                }
                if mode == Mode::Open && !self.forward.devices.is_empty() {
                    return refuse("nothing is kept from any interface; leave dev out");
                }
            }
            Mode::Private | Mode::Vepa | Mode::Passthrough | Mode::Hostdev | Mode::Bridge => {
                if mode != Mode::Bridge {
                    if bridge.name.is_some() {
                        return refuse("there is no bridge; leave its name out");
                    }
                    if bridge.zone.is_some() {
                        return refuse("there is no bridge; leave its zone out");
                    }
                    if bridge.table.is_some() {
                        return refuse("there is no bridge; leave macTableManager out");
                    }
                }
                let stp = given.and_then(|bridge| bridge.attr("stp")).is_some_and(|stp| !stp.is_empty());
                if bridge.delay > 0 || stp || bridge.zone.is_some() {
                    return refuse("the bridge is somebody else's; leave stp, delay and zone out");
                }
                let devices = !self.forward.devices.is_empty() || self.forward.physical.is_some();
                if bridge.name.is_some() && devices {
                    return refuse("there can be a bridge or an interface, not both");
                }
            }
        }
        if self.mtu.is_some() && !mode.is_own() {
            return refuse("packets have the size that others choose; leave <mtu> out");
        }
        Ok(())
    }

    /// What can't be had.
    pub(super) fn check(&self) -> Result<(), Error> {
        let mode = self.forward.mode;
        let within = |what: &str| {
            Err(unsupported(format!("{what} can't be had in mode '{}'; leave it out", mode.name())))
        };
        if !mode.is_own() {
            if self.mac.is_some() {
                return within("<mac>");
            }
            if !self.ips.is_empty() {
                return within("<ip>");
            }
            let dns = &self.dns;
            if !(dns.texts.is_empty() && dns.hosts.is_empty() && dns.services.is_empty()) {
                return within("<dns>");
            }
            if self.domain.is_some() {
                return within("<domain>");
            }
        }
        let shapes = mode.is_own() || mode == Mode::Bridge && self.bridge.name.is_some();
        if self.bandwidth.is_some() && !shapes {
            return within("<bandwidth>");
        }
        for device in &self.forward.devices {
            match device {
                Device::Interface(name) if mode == Mode::Hostdev => {
                    let message = format!(
                        "mode 'hostdev' takes PCI devices by their address; '{name}' is the name of an interface"
                    );
                    return Err(unsupported(message));
                }
                Device::Pci(_) if mode != Mode::Hostdev => return within("a PCI device in <forward>"),
                _ => {}
            }
        }
        for (family, ipv4) in [("IPv4", true), ("IPv6", false)] {
            let giving = self.ips.iter().filter(|ip| ip.address.is_ipv4() == ipv4 && ip.gives_addresses());
            if giving.count() > 1 {
                return Err(unsupported(format!(
                    "addresses of {family} can be given away by one <dhcp> alone"
                )));
            }
        }
        self.check_groups(shapes)
    }

    fn check_groups(&self, shapes: bool) -> Result<(), Error> {
        let mode = self.forward.mode;
        let is_switch = |port: Option<PortType>| mode == Mode::Bridge && port == Some(PortType::OpenVswitch);
        let allowed = match &self.virtual_port {
            Some(port) => matches!(mode, Mode::Hostdev | Mode::Passthrough) || is_switch(port.kind),
            None => matches!(mode, Mode::Hostdev | Mode::Passthrough | Mode::Bridge),
        };
        let mut bad = false;
        for (number, group) in self.port_groups.iter().enumerate() {
            if self.vlan.is_some() || group.vlan.is_some() {
                bad |= match &group.virtual_port {
                    Some(port) => !is_switch(port.kind),
                    None => !allowed,
                };
            }
            let earlier = self.port_groups.get(..number).unwrap_or_default();
            if let Some(other) = earlier.iter().find(|other| group.default && other.default) {
                let message = format!(
                    "<portgroup> '{}' and '{}' can't both be the default; choose one",
                    other.name, group.name
                );
                return Err(unsupported(message));
            }
            if earlier.iter().any(|other| other.name == group.name) {
                return Err(unsupported(format!("<portgroup name='{}'> stands here twice", group.name)));
            }
            if group.bandwidth.is_some() && !shapes {
                let message = format!(
                    "<bandwidth> of <portgroup name='{}'> can't be had in mode '{}'",
                    group.name,
                    mode.name()
                );
                return Err(unsupported(message));
            }
        }
        let default = self.port_groups.iter().any(|group| group.default);
        if bad || self.vlan.is_some() && !allowed && !default {
            return Err(unsupported(format!(
                "<vlan> can't be had in mode '{}' with this switch; leave it out",
                mode.name()
            )));
        }
        Ok(())
    }
}
