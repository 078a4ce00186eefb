//! How a network reaches others.

use super::address::{count, parse};
use super::shaping::PciAddress;
use super::text::{given, number, owned, unsupported, word, wrong, wrong_detail, wrong_value, yes_no};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::net::{IpAddr, Ipv4Addr};

/// The way out of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// There is none.
    #[default]
    None,
    /// Under the host's address.
    Nat,
    /// Under the guests' own addresses.
    Route,
    /// As the host's owner arranges it: no rules are made.
    Open,
    /// Through a bridge of the host, or next to an interface of it.
    Bridge,
    /// Next to an interface, apart from its other users.
    Private,
    /// Next to an interface, by way of the switch behind it.
    Vepa,
    /// With an interface for each guest alone.
    Passthrough,
    /// With a PCI device for each guest alone.
    Hostdev,
}

const MODES: [(Mode, &str); 9] = [
    (Mode::None, "none"),
    (Mode::Nat, "nat"),
    (Mode::Route, "route"),
    (Mode::Open, "open"),
    (Mode::Bridge, "bridge"),
    (Mode::Private, "private"),
    (Mode::Vepa, "vepa"),
    (Mode::Passthrough, "passthrough"),
    (Mode::Hostdev, "hostdev"),
];

impl Mode {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(mode, _)| *mode == self).map_or("none", |(_, name)| name)
    }

    /// Has the network a bridge of its own, with addresses and services?
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(self, Self::None | Self::Nat | Self::Route | Self::Open)
    }
}

/// What guests are plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// An interface.
    Interface(String),
    /// A PCI device.
    Pci(PciAddress),
}

/// Under which addresses and ports guests are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat {
    /// IPv6 too?
    pub ipv6: Option<bool>,
    /// These addresses.
    pub addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    /// These ports.
    pub ports: (u16, u16),
}

/// A driver that devices are given to: name and module.
pub type Driver = (Option<String>, Option<String>);

/// `<forward>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forward {
    /// How.
    pub mode: Mode,
    /// Are devices taken from the host's drivers, and given back?
    pub managed: bool,
    /// The driver that devices are given to: name and module.
    pub driver: Option<Driver>,
    /// Through these.
    pub devices: Vec<Device>,
    /// Through what this device consists of.
    pub physical: Option<String>,
    /// In mode nat.
    pub nat: Nat,
}

impl Forward {
    pub(super) fn read(element: &Element) -> Result<Self, Error> {
        let mode = match given(element, "mode") {
            None => Mode::Nat,
            Some(word) => {
                let known = MODES.iter().find(|(_, name)| *name == word).map(|(mode, _)| *mode);
                known.ok_or_else(|| {
                    unsupported(element, format!("<forward mode='{word}'> is no known mode; try 'nat'"))
                })?
            }
        };
        let managed = element.attr("managed").is_some_and(|word| word.eq_ignore_ascii_case("yes"));
        let mut forward = Self { mode, managed, ..Self::default() };
        if let Some(driver) = element.child("driver") {
            forward.driver = driver_of(driver)?;
        }
        let mut nats = element.all("nat");
        match (nats.next(), nats.next()) {
            (_, Some(second)) => return Err(wrong(second, "<nat> stands here a second time")),
            (Some(nat), None) => forward.nat = Nat::read(nat, mode)?,
            (None, None) => {}
        }
        let (addresses, physical): (Vec<_>, Vec<_>) =
            (element.all("address").collect(), element.all("pf").collect());
        let first = given(element, "dev");
        if first.is_some() && !(addresses.is_empty() && physical.is_empty()) {
            let message = "<forward> can have dev, or <address> or <pf> in it, not both";
            return Err(wrong(element, message));
        }
        forward.read_interfaces(element, first)?;
        if !forward.devices.is_empty() {
            return Ok(forward);
        }
        for address in &addresses {
            forward.read_address(address)?;
        }
        if addresses.is_empty() {
            match physical.as_slice() {
                [] => {}
                [only] => {
                    let dev = only.attr("dev").ok_or_else(|| wrong(only, "<pf> has no dev"))?;
                    forward.physical = Some(dev.to_owned());
                }
                [_, second, ..] => return Err(wrong(second, "<pf> stands here a second time")),
            }
        }
        Ok(forward)
    }

    fn read_interfaces(&mut self, element: &Element, first: Option<&str>) -> Result<(), Error> {
        self.devices.extend(first.map(|dev| Device::Interface(dev.to_owned())));
        for (number, interface) in element.all("interface").enumerate() {
            let dev = interface.attr("dev").ok_or_else(|| wrong(interface, "<interface> has no dev"))?;
            if let (0, Some(first)) = (number, first) {
                if first != dev {
                    let message = format!(
                        "<forward dev='{first}'> and the first <interface dev='{dev}'> in it must be the same"
                    );
                    return Err(wrong(interface, message));
                }
                continue;
            }
            let device = Device::Interface(dev.to_owned());
            if self.devices.contains(&device) {
                return Err(wrong(interface, format!("<interface dev='{dev}'> stands here a second time")));
            }
            self.devices.push(device);
        }
        Ok(())
    }

    fn read_address(&mut self, address: &Element) -> Result<(), Error> {
        match address.attr("type") {
            None => return Err(wrong(address, "<address> has no type; give it type='pci'")),
            Some("pci") => {}
            Some(other @ ("none" | "netdev")) => {
                return Err(wrong(address, format!("<address type='{other}'>: it must be 'pci' here")));
            }
            Some(other) => {
                return Err(unsupported(address, format!("<address type='{other}'>: it must be 'pci'")));
            }
        }
        let pci = PciAddress::read(address)?;
        if self.devices.contains(&Device::Pci(pci)) {
            return Err(wrong(address, format!("PCI device {} stands here a second time", pci.name())));
        }
        self.devices.push(Device::Pci(pci));
        Ok(())
    }

    /// Its first interface.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self.devices.first() {
            Some(Device::Interface(name)) => Some(name),
            _ => None,
        }
    }

    /// `<forward>`, with the number of ports that use each device.
    pub(super) fn to_element(&self, connections: &[u32]) -> Option<Element> {
        if self.mode == Mode::None {
            return None;
        }
        let mut element = Element::new("forward");
        if let Some(dev) = self.interface().filter(|_| self.physical.is_none()) {
            element.set("dev", dev);
        }
        element.set("mode", self.mode.name());
        if self.mode == Mode::Hostdev {
            element.set("managed", word(self.managed));
        }
        if let Some((name, model)) = &self.driver {
            let mut driver = Element::new("driver");
            for (attribute, text) in [("name", name), ("model", model)] {
                if let Some(text) = text {
                    driver.set(attribute, text);
                }
            }
            element.push(driver);
        }
        if let Some(nat) = self.nat.to_element().filter(|_| self.mode == Mode::Nat) {
            element.push(nat);
        }
        if let Some(physical) = &self.physical {
            element.push(Element::new("pf").with("dev", physical));
        }
        for (number, device) in self.devices.iter().enumerate() {
            let child = match device {
                Device::Pci(address) => address.to_element(),
                Device::Interface(name) => {
                    let child = Element::new("interface").with("dev", name);
                    match connections.get(number).filter(|count| **count > 0) {
                        Some(count) => child.with("connections", count.to_string()),
                        None => child,
                    }
                }
            };
            element.push(child);
        }
        Some(element)
    }
}

fn driver_of(element: &Element) -> Result<Option<Driver>, Error> {
    let name = match element.attr("name") {
        None => None,
        Some(name @ ("vfio" | "kvm" | "xen")) => Some(name.to_owned()),
        Some(other) => {
            return Err(wrong_value(element, format!("<driver name='{other}'> is none; try 'vfio'")));
        }
    };
    let model = owned(element, "model");
    Ok((name.is_some() || model.is_some()).then_some((name, model)))
}

impl Nat {
    fn read(element: &Element, mode: Mode) -> Result<Self, Error> {
        if mode != Mode::Nat {
            let message = format!("<nat> is for mode 'nat', and this is mode '{}'", mode.name());
            return Err(wrong(element, message));
        }
        let mut nat = Self { ipv6: yes_no(element, "ipv6")?, ..Self::default() };
        let only = |name: &'static str| {
            let mut all = element.all(name);
            match (all.next(), all.next()) {
                (_, Some(second)) => Err(wrong(second, format!("<{name}> stands here a second time"))),
                (first, None) => Ok(first),
            }
        };
        if let Some(range) = only("address")? {
            let end_of = |name: &str| match range.attr(name).map(parse) {
                None => Err(wrong(range, format!("<address> of <nat> has no {name}"))),
                Some(Some(IpAddr::V4(address))) => Ok(address),
                Some(_) => Err(wrong(range, format!("<address> of <nat>: {name} is no address of IPv4"))),
            };
            let (start, end) = (end_of("start")?, end_of("end")?);
            count(start.into(), end.into(), None)?;
            nat.addresses = Some((start, end));
        }
        if let Some(range) = only("port")? {
            let end_of = |name: &str| {
                let value = number::<u16>(range, name).ok().flatten();
                value.ok_or_else(|| {
                    wrong_detail(range, format!("<port> of <nat>: {name} is no number from 0 to 65535"))
                })
            };
            nat.ports = (end_of("start")?, end_of("end")?);
            if nat.ports.1 < nat.ports.0 {
                return Err(wrong_detail(range, "<port> of <nat>: end is below start"));
            }
        }
        Ok(nat)
    }

    fn to_element(self) -> Option<Element> {
        let mut element = Element::new("nat");
        if let Some(yes) = self.ipv6 {
            element.set("ipv6", word(yes));
        }
        if let Some((start, end)) = self.addresses {
            let range = Element::new("address").with("start", start.to_string());
            element.push(range.with("end", end.to_string()));
        }
        let (start, end) = self.ports;
        if end > 0 {
            element.push(Element::new("port").with("start", start.to_string()).with("end", end.to_string()));
        }
        (self != Self::default()).then_some(element)
    }
}
