//! A network's own addresses, and those that it gives away.

use super::address::{self, count, parse, prefix_by_class, prefix_of};
use super::text::{address_of, given, owned, unsupported, word, wrong, wrong_value, yes_no};
use crate::name::Mac;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::net::{IpAddr, Ipv4Addr};

/// In what a lease's time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
}

const UNITS: [(Unit, &str, u64); 3] =
    [(Unit::Seconds, "seconds", 1), (Unit::Minutes, "minutes", 60), (Unit::Hours, "hours", 3600)];

/// How long an address is given away for; 0 is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTime {
    /// So many.
    pub expiry: u64,
    /// Of these.
    pub unit: Unit,
}

impl LeaseTime {
    fn read(parent: &Element) -> Result<Option<Self>, Error> {
        let Some(element) = parent.child("lease") else { return Ok(None) };
        let Some(text) = element.attr("expiry") else { return Ok(None) };
        let expiry = text
            .trim_start()
            .parse()
            .map_err(|_| wrong_value(element, format!("<lease expiry='{text}'> is no number")))?;
        let unit = match element.attr("unit") {
            None => Unit::Minutes,
            Some(word) => {
                let known = UNITS.iter().find(|(_, name, _)| *name == word).map(|(unit, ..)| *unit);
                known.ok_or_else(|| {
                    wrong_value(element, format!("<lease unit='{word}'>: seconds, minutes or hours"))
                })?
            }
        };
        if matches!((unit, expiry), (Unit::Seconds, 1..120) | (Unit::Minutes, 1)) {
            return Err(unsupported(element, "<lease>: two minutes are the shortest time"));
        }
        Ok(Some(Self { expiry, unit }))
    }

    fn to_element(self) -> Element {
        let element = Element::new("lease").with("expiry", self.expiry.to_string());
        match UNITS.iter().find(|(unit, ..)| *unit == self.unit) {
            Some((_, name, _)) if self.expiry > 0 => element.with("unit", *name),
            _ => element,
        }
    }

    /// In seconds; nothing for ever.
    #[must_use]
    pub fn seconds(self) -> Option<u64> {
        let factor = UNITS.iter().find(|(unit, ..)| *unit == self.unit).map_or(60, |(_, _, factor)| *factor);
        (self.expiry > 0).then(|| self.expiry.saturating_mul(factor))
    }
}

/// Addresses to give away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: IpAddr,
    /// The last.
    pub end: IpAddr,
    /// For how long.
    pub lease: Option<LeaseTime>,
}

impl Range {
    pub(super) fn read(element: &Element, ip: &Ip) -> Result<Self, Error> {
        let end_of = |name: &str| {
            let text = element.attr(name);
            let text = text.ok_or_else(|| wrong(element, format!("<range> of <dhcp> has no {name}")))?;
            address_of(element, text)
        };
        let (start, end) = (end_of("start")?, end_of("end")?);
        count(start, end, Some((ip.address, ip.prefix_bits()))).map_err(|mut error| {
            error.message = format!("{}: <range>: {}", element.position, error.message);
            error
        })?;
        Ok(Self { start, end, lease: LeaseTime::read(element)? })
    }
}

/// A machine that is always given the same address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its MAC address, as it was written.
    pub mac: Option<String>,
    /// Its DHCP unique identifier.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The address.
    pub address: Option<IpAddr>,
    /// For how long.
    pub lease: Option<LeaseTime>,
}

impl Host {
    /// Reads `<host>`; what only names what is to be deleted may lack something.
    pub(super) fn read(element: &Element, ip: &Ip, partial: bool) -> Result<Self, Error> {
        let refuse = |message: String| Err(wrong(element, format!("<host> of <dhcp>: {message}")));
        let text = |name: &str| element.attr(name).map(str::to_owned);
        let (mac, id, name) = (text("mac"), text("id"), text("name"));
        if let Some(mac) = &mac {
            if ip.address.is_ipv6() {
                return refuse("hosts are not told by mac in IPv6; give it an id or a name".to_owned());
            }
            match Mac::read(mac) {
                None => {
                    return refuse(format!("mac='{mac}' is none; write six bytes like 52:54:00:12:34:56"));
                }
                Some(mac) if mac.is_group() => return refuse(format!("mac='{mac}' is that of a group")),
                Some(_) => {}
            }
        }
        if let Some(id) = &id
            && id.chars().any(|letter| !letter.is_ascii_hexdigit() && letter != ':')
        {
            return refuse(format!("id='{id}': hexadecimal digits and colons can stand in it"));
        }
        if let Some(name) = &name
            && !name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        {
            return refuse(format!("name='{name}' does not begin with a letter or digit"));
        }
        let address = match element.attr("ip") {
            None => None,
            Some(text) => match parse(text) {
                Some(address) => Some(address),
                None => return refuse(format!("ip='{text}' is no address; write it in numbers")),
            },
        };
        if partial {
            if mac.is_none() && name.is_none() && address.is_none() {
                return refuse("name, mac and ip are missing; give one of them".to_owned());
            }
        } else {
            if ip.address.is_ipv6() && id.is_none() && name.is_none() {
                return refuse("id and name are missing; give one of them".to_owned());
            }
            if !ip.address.is_ipv6() && mac.is_none() && name.is_none() {
                return refuse("mac and name are missing; give one of them".to_owned());
            }
            if address.is_none() {
                return refuse("ip is missing".to_owned());
            }
        }
        Ok(Self { mac, id, name, address, lease: LeaseTime::read(element)? })
    }

    /// Its MAC address.
    pub(crate) fn mac_address(&self) -> Option<Mac> {
        self.mac.as_deref().and_then(Mac::read)
    }
}

/// What a machine that boots from the network is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The file.
    pub file: String,
    /// Who has it; the network itself, if nobody is named.
    pub server: Option<IpAddr>,
}

/// An address of the bridge, with the network around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    family: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The mask, if the definition has one.
    pub netmask: Option<Ipv4Addr>,
    /// The prefix, if the definition has one.
    pub prefix: u32,
    /// Are addresses without a name not asked for elsewhere?
    pub local_ptr: Option<bool>,
    /// The folder that is given away over TFTP.
    pub tftp_root: Option<String>,
    /// Addresses to give away.
    pub ranges: Vec<Range>,
    /// Machines that are known.
    pub hosts: Vec<Host>,
    /// How to boot.
    pub boot: Option<Boot>,
}

impl Ip {
    pub(super) fn read(element: &Element) -> Result<Self, Error> {
        let family = owned(element, "family");
        let Some(text) = given(element, "address") else {
            return Err(wrong(element, "<ip> has no address"));
        };
        let address = parse(text).ok_or_else(|| {
            wrong(element, format!("<ip address='{text}'> is no address; write it in numbers"))
        })?;
        let mask = match given(element, "netmask") {
            None => None,
            Some(text) => Some(parse(text).ok_or_else(|| {
                wrong(element, format!("<ip netmask='{text}'> is none; write it like 255.255.255.0"))
            })?),
        };
        let prefix = match element.attr("prefix") {
            None => 0,
            Some(text) => text
                .trim_start()
                .parse::<u32>()
                .map_err(|_| wrong_value(element, format!("<ip prefix='{text}'> is no number")))?,
        };
        let local_ptr = yes_no(element, "localPtr")?;
        let refuse = |message: String| Err(unsupported(element, format!("<ip>: {message}")));
        let netmask = match family.as_deref() {
            None | Some("ipv4") => {
                if !address.is_ipv4() {
                    return refuse(format!("{address} is not IPv4; give it family='ipv6'"));
                }
                match mask {
                    Some(IpAddr::V6(mask)) => return refuse(format!("netmask {mask} is not IPv4")),
                    Some(_) if prefix > 0 => {
                        return refuse("it can have a prefix or a netmask, not both".to_owned());
                    }
                    None if prefix > 32 => return refuse(format!("prefix {prefix} is above 32")),
                    Some(IpAddr::V4(mask)) => Some(mask),
                    None => None,
                }
            }
            Some("ipv6") => {
                if !address.is_ipv6() {
                    return refuse(format!("{address} is not IPv6, and family='ipv6'"));
                }
                if mask.is_some() {
                    return refuse("IPv6 has no netmask; give a prefix".to_owned());
                }
                if prefix > 128 {
                    return refuse(format!("prefix {prefix} is above 128"));
                }
                None
            }
            Some(other) => {
                return Err(wrong(element, format!("<ip family='{other}'>: it must be 'ipv4' or 'ipv6'")));
            }
        };
        let mut ip = Self {
            family,
            address,
            netmask,
            prefix,
            local_ptr,
            tftp_root: None,
            ranges: Vec::new(),
            hosts: Vec::new(),
            boot: None,
        };
        if let Some(dhcp) = element.child("dhcp") {
            ip.read_dhcp(dhcp)?;
        }
        if let Some(tftp) = element.child("tftp") {
            if address.is_ipv6() {
                return refuse("<tftp> is for IPv4 alone".to_owned());
            }
            ip.tftp_root = owned(tftp, "root");
        }
        Ok(ip)
    }

    fn read_dhcp(&mut self, dhcp: &Element) -> Result<(), Error> {
        for range in dhcp.all("range") {
            let range = Range::read(range, self)?;
            self.ranges.push(range);
        }
        for host in dhcp.all("host") {
            let host = Host::read(host, self, false)?;
            self.hosts.push(host);
        }
        if let Some(boot) = dhcp.child("bootp").filter(|_| self.address.is_ipv4()) {
            let file = owned(boot, "file").ok_or_else(|| wrong_value(boot, "<bootp> has no file"))?;
            let server = boot.attr("server").map(|text| address_of(boot, text)).transpose()?;
            self.boot = Some(Boot { file, server });
        }
        Ok(())
    }

    /// Are addresses given away?
    #[must_use]
    pub fn gives_addresses(&self) -> bool {
        !self.ranges.is_empty() || !self.hosts.is_empty()
    }

    /// Its prefix, given or by its class; nothing for a mask with holes, and for an address of no network.
    #[must_use]
    pub fn prefix_bits(&self) -> Option<u8> {
        match (self.prefix, self.netmask) {
            (0, Some(mask)) => prefix_of(mask),
            (0, None) => prefix_by_class(self.address),
            (prefix, _) => u8::try_from(prefix).ok(),
        }
    }

    /// How many addresses are given away at most.
    pub(crate) fn addresses(&self) -> u32 {
        let sizes = self.ranges.iter().map(|range| count(range.start, range.end, None).unwrap_or(0));
        sizes.fold(0, u32::saturating_add)
    }

    pub(super) fn to_element(&self) -> Element {
        let mut element = Element::new("ip");
        if let Some(family) = &self.family {
            element.set("family", family);
        }
        element.set("address", address::text(self.address));
        if let Some(mask) = self.netmask {
            element.set("netmask", mask.to_string());
        }
        if self.prefix > 0 {
            element.set("prefix", self.prefix.to_string());
        }
        if let Some(yes) = self.local_ptr {
            element.set("localPtr", word(yes));
        }
        if let Some(root) = &self.tftp_root {
            element.push(Element::new("tftp").with("root", root));
        }
        if self.gives_addresses() {
            element.push(self.dhcp());
        }
        super::text::opened(element, 1)
    }

    fn dhcp(&self) -> Element {
        let mut dhcp = Element::new("dhcp");
        for range in &self.ranges {
            let mut child = Element::new("range")
                .with("start", address::text(range.start))
                .with("end", address::text(range.end));
            if let Some(lease) = range.lease {
                child.push(lease.to_element());
            }
            dhcp.push(child);
        }
        for host in &self.hosts {
            let mut child = Element::new("host");
            let address = host.address.map(address::text);
            for (name, text) in [("mac", &host.mac), ("id", &host.id), ("name", &host.name), ("ip", &address)]
            {
                if let Some(text) = text {
                    child.set(name, text);
                }
            }
            if let Some(lease) = host.lease {
                child.push(lease.to_element());
            }
            dhcp.push(child);
        }
        if let Some(boot) = &self.boot {
            let mut child = Element::new("bootp").with("file", &boot.file);
            if let Some(server) = boot.server {
                child.set("server", address::text(server));
            }
            dhcp.push(child);
        }
        dhcp
    }
}
