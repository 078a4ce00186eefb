//! Changing a part of a definition.

use super::dns::{DnsHost, Service, Text};
use super::forward::Device;
use super::ip::{Host, Ip, Range};
use super::shaping::PortGroup;
use super::text::{plain, wrong};
use super::{Definition, LIMITS};
use crate::error::{error, invalid};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, parse};

/// `virNetworkUpdateCommand`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Replace one.
    Modify,
    /// Remove one.
    Delete,
    /// Put one at the end.
    AddLast,
    /// Put one at the beginning.
    AddFirst,
}

impl Command {
    /// The command of that number.
    ///
    /// # Errors
    /// A number that none has.
    pub fn of(number: u32) -> Result<Self, Error> {
        match number {
            1 => Ok(Self::Modify),
            2 => Ok(Self::Delete),
            3 => Ok(Self::AddLast),
            4 => Ok(Self::AddFirst),
            other => Err(cant(format!("Command {other} is not known; 1 to 4 modify, delete and add"))),
        }
    }

    fn adds(self) -> bool {
        matches!(self, Self::AddLast | Self::AddFirst)
    }

    fn insert<T>(self, list: &mut Vec<T>, item: T) {
        let place = if self == Self::AddFirst { 0 } else { list.len() };
        list.insert(place, item);
    }
}

/// `virNetworkUpdateSection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// A machine that is given an address.
    DhcpHost,
    /// Addresses to give away.
    DhcpRange,
    /// An interface that guests are plugged next to.
    ForwardInterface,
    /// A group of guests.
    PortGroup,
    /// A host of the name service.
    DnsHost,
    /// A text of the name service.
    DnsText,
    /// A service of the name service.
    DnsService,
}

impl Section {
    /// The section of that number.
    ///
    /// # Errors
    /// A section that can't be changed, or that there is not.
    pub fn of(number: u32) -> Result<Self, Error> {
        let fixed = match number {
            4 => return Ok(Self::DhcpHost),
            5 => return Ok(Self::DhcpRange),
            7 => return Ok(Self::ForwardInterface),
            9 => return Ok(Self::PortGroup),
            10 => return Ok(Self::DnsHost),
            11 => return Ok(Self::DnsText),
            12 => return Ok(Self::DnsService),
            1 => "bridge",
            2 => "domain",
            3 => "ip",
            6 => "forward",
            8 => "forward pf",
            other => return Err(cant(format!("Section {other} of a network is not known"))),
        };
        Err(cant(format!(
            "Section '{fixed}' of a network can't be changed piece by piece; define the network anew"
        )))
    }

    /// Does a change of it need another configuration of dnsmasq, not just other files?
    #[must_use]
    pub fn restarts_dnsmasq(self) -> bool {
        matches!(self, Self::DhcpRange | Self::DnsText | Self::DnsService)
    }
}

fn cant(message: String) -> Error {
    error(Code::OPERATION_UNSUPPORTED, message)
}

fn only_add(what: &str) -> Error {
    cant(format!("{what} can't be modified; delete the old one and add the new one"))
}

impl Definition {
    /// The definition with one part changed. `parent` is the number of the `<ip>`, -1 for the one that fits.
    ///
    /// # Errors
    /// A part that is not there, or is there already; XML that is none.
    pub fn updated(&self, command: Command, section: Section, parent: i32, xml: &str) -> Result<Self, Error> {
        let element = parse(xml.as_bytes(), LIMITS, "").map_err(|fault| {
            Error::new(Code::XML_DETAIL, Origin::NETWORK, format!("XML of the change: {fault}"))
        })?;
        let mut changed = self.clone();
        let expect = |name: &str| {
            if element.name == name {
                return plain(&element);
            }
            Err(wrong(
                &element,
                format!("<{}> is not <{name}>, which this section consists of", element.name),
            ))
        };
        let done = match section {
            Section::DhcpHost => expect("host").and_then(|()| changed.update_host(command, parent, &element)),
            Section::DhcpRange => {
                expect("range").and_then(|()| changed.update_range(command, parent, &element))
            }
            Section::ForwardInterface => {
                expect("interface").and_then(|()| changed.update_interface(command, &element))
            }
            Section::PortGroup => expect("portgroup").and_then(|()| changed.update_group(command, &element)),
            Section::DnsHost => expect("host").and_then(|()| changed.update_dns_host(command, &element)),
            Section::DnsText => expect("txt").and_then(|()| changed.update_text(command, &element)),
            Section::DnsService => expect("srv").and_then(|()| changed.update_service(command, &element)),
        };
        done.map_err(|mut fault| {
            fault.message = format!("Network '{}': {}", self.name, fault.message);
            fault
        })?;
        Ok(changed)
    }

    /// The `<ip>` that a change of its addresses is for.
    fn ip_for(&mut self, parent: i32) -> Result<&mut Ip, Error> {
        let place = match usize::try_from(parent) {
            Ok(place) => Some(place).filter(|place| *place < self.ips.len()),
            Err(_) => {
                let giving = self.ips.iter().position(Ip::gives_addresses);
                giving.or_else(|| self.ips.iter().position(|ip| ip.address.is_ipv4()))
            }
        };
        let place = place.or((parent < 0 && !self.ips.is_empty()).then_some(0));
        place.and_then(|place| self.ips.get_mut(place)).ok_or_else(|| {
            invalid(if parent < 0 {
                "there is no <ip> that could give addresses away".to_owned()
            } else {
                format!("there is no <ip> of number {parent}")
            })
        })
    }

    /// One `<ip>` of a family gives addresses away.
    fn gives_alone(&self, address: std::net::IpAddr) -> Result<(), Error> {
        let other = self.ips.iter().any(|ip| {
            ip.address != address && ip.address.is_ipv4() == address.is_ipv4() && ip.gives_addresses()
        });
        if other {
            return Err(invalid("another <ip> of this family gives addresses away already"));
        }
        Ok(())
    }

    fn update_host(&mut self, command: Command, parent: i32, element: &Element) -> Result<(), Error> {
        let before = self.clone();
        let ip = self.ip_for(parent)?;
        let partial = command == Command::Delete;
        let host = Host::read(element, ip, partial)?;
        if !partial && host.address.is_some_and(|address| address.is_ipv4() != ip.address.is_ipv4()) {
            return Err(invalid("the host's address is of another family than its <ip>"));
        }
        let same_mac =
            |known: &Host| host.mac_address().is_some() && host.mac_address() == known.mac_address();
        let same_name = |known: &Host| host.name.is_some() && host.name == known.name;
        let same_address = |known: &Host| host.address.is_some() && host.address == known.address;
        let any = |known: &Host| same_mac(known) || same_name(known) || same_address(known);
        let shown = || {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            let address = host.address.map(|address| address.to_string());
            format!("mac {}, name {}, ip {}", text(&host.mac), text(&host.name), text(&address))
        };
        match command {
            Command::Modify => {
                let place = ip.hosts.iter_mut().find(|known| any(known));
                let place = place.ok_or_else(|| invalid(format!("no <host> of <dhcp> has {}", shown())))?;
                *place = host.clone();
            }
            Command::Delete => {
                let place = ip.hosts.iter().position(|known| {
                    (host.mac.is_none() || known.mac.is_none() || same_mac(known))
                        && (host.name.is_none() || same_name(known))
                        && (host.address.is_none() || same_address(known))
                });
                let place = place.ok_or_else(|| invalid(format!("no <host> of <dhcp> has {}", shown())))?;
                ip.hosts.remove(place);
            }
            Command::AddLast | Command::AddFirst => {
                before.gives_alone(ip.address)?;
                if ip.hosts.iter().any(any) {
                    let message = format!("a <host> of <dhcp> with one of {} is there already", shown());
                    return Err(invalid(message));
                }
                command.insert(&mut ip.hosts, host);
            }
        }
        Ok(())
    }

    fn update_range(&mut self, command: Command, parent: i32, element: &Element) -> Result<(), Error> {
        let before = self.clone();
        let ip = self.ip_for(parent)?;
        if command == Command::Modify {
            return Err(only_add("a <range>"));
        }
        let range = Range::read(element, ip)?;
        let same = |known: &Range| (known.start, known.end) == (range.start, range.end);
        let place = ip.ranges.iter().position(same);
        if command.adds() {
            before.gives_alone(ip.address)?;
            if place.is_some() {
                return Err(invalid(format!("the range {} to {} is there already", range.start, range.end)));
            }
            command.insert(&mut ip.ranges, range);
        } else {
            let missing = || invalid(format!("there is no range {} to {}", range.start, range.end));
            ip.ranges.remove(place.ok_or_else(missing)?);
        }
        Ok(())
    }

    fn update_interface(&mut self, command: Command, element: &Element) -> Result<(), Error> {
        if command == Command::Modify {
            return Err(only_add("an <interface> of <forward>"));
        }
        let name = element.attr("dev").ok_or_else(|| wrong(element, "<interface> has no dev"))?;
        let device = Device::Interface(name.to_owned());
        let place = self.forward.devices.iter().position(|known| *known == device);
        match (command.adds(), place) {
            (true, Some(_)) => Err(invalid(format!("<interface dev='{name}'> is there already"))),
            (true, None) => {
                command.insert(&mut self.forward.devices, device);
                Ok(())
            }
            (false, Some(place)) => {
                self.forward.devices.remove(place);
                Ok(())
            }
            (false, None) => Err(invalid(format!("there is no <interface dev='{name}'>"))),
        }
    }

    fn update_group(&mut self, command: Command, element: &Element) -> Result<(), Error> {
        let group = PortGroup::read(element)?;
        let name = group.name.clone();
        let place = self.port_groups.iter().position(|known| known.name == name);
        let default = self.port_groups.iter().position(|known| known.default);
        if command.adds() && place.is_some() {
            return Err(invalid(format!("<portgroup name='{name}'> is there already")));
        }
        if command != Command::Delete && group.default && default.is_some() && default != place {
            return Err(invalid("another <portgroup> is the default already; change that one first"));
        }
        let missing = || invalid(format!("there is no <portgroup name='{name}'>"));
        match command {
            Command::AddLast | Command::AddFirst => command.insert(&mut self.port_groups, group),
            Command::Modify => {
                let place = place.and_then(|place| self.port_groups.get_mut(place));
                *place.ok_or_else(missing)? = group;
            }
            Command::Delete => drop(self.port_groups.remove(place.ok_or_else(missing)?)),
        }
        Ok(())
    }

    fn update_dns_host(&mut self, command: Command, element: &Element) -> Result<(), Error> {
        if command == Command::Modify {
            return Err(only_add("a <host> of <dns>"));
        }
        let host = DnsHost::read(element, !command.adds())?;
        let matches = |known: &DnsHost| {
            let named = !command.adds() && host.names.iter().any(|name| known.names.contains(name));
            host.address.is_some() && host.address == known.address || named
        };
        record(command, &mut self.dns.hosts, "a <host> of <dns>", matches, host.clone())
    }

    fn update_service(&mut self, command: Command, element: &Element) -> Result<(), Error> {
        if command == Command::Modify {
            return Err(only_add("a <srv>"));
        }
        let service = Service::read(element, !command.adds())?;
        let matches = |known: &Service| {
            let fits = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
            fits(&service.domain, &known.domain)
                && fits(&service.service, &known.service)
                && fits(&service.protocol, &known.protocol)
                && fits(&service.target, &known.target)
        };
        record(command, &mut self.dns.services, "a <srv>", matches, service.clone())
    }

    fn update_text(&mut self, command: Command, element: &Element) -> Result<(), Error> {
        if command == Command::Modify {
            return Err(only_add("a <txt>"));
        }
        let text = Text::read(element, !command.adds())?;
        let place = self.dns.texts.iter().position(|known| known.name == text.name);
        match (command.adds(), place) {
            (true, Some(_)) => Err(invalid(format!("<txt name='{}'> is there already", text.name))),
            (true, None) => {
                command.insert(&mut self.dns.texts, text);
                Ok(())
            }
            (false, Some(place)) => {
                self.dns.texts.remove(place);
                Ok(())
            }
            (false, None) => Err(invalid(format!("there is no <txt name='{}'>", text.name))),
        }
    }
}

/// Adds a record that none is like, or removes the only one that fits.
fn record<T>(
    command: Command,
    list: &mut Vec<T>,
    what: &str,
    matches: impl Fn(&T) -> bool,
    item: T,
) -> Result<(), Error> {
    let fitting: Vec<usize> =
        list.iter().enumerate().filter(|(_, known)| matches(known)).map(|(place, _)| place).collect();
    match (command.adds(), fitting.as_slice()) {
        (true, []) => command.insert(list, item),
        (true, _) => return Err(invalid(format!("{what} like this is there already"))),
        (false, [place]) => drop(list.remove(*place)),
        (false, []) => return Err(invalid(format!("there is no such record: {what}"))),
        (false, _) => return Err(invalid(format!("several fit: {what}; say more of the one that is meant"))),
    }
    Ok(())
}
