//! What networks share with guests' interfaces: bandwidth, VLANs, virtual ports.

use super::text::{given, shared, wrong_value};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_xml::Element;

/// How fast, in kilobytes a second and kilobytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// As a rule.
    pub average: u64,
    /// At most.
    pub peak: u64,
    /// So much may come at the peak.
    pub burst: u64,
    /// At least; of an interface's inbound traffic alone.
    pub floor: u64,
}

/// How fast in each direction, as those who are connected see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards them.
    pub inbound: Option<Rate>,
    /// From them.
    pub outbound: Option<Rate>,
}

impl Bandwidth {
    /// Reads `<bandwidth>`. Only an interface has a floor.
    pub(super) fn read(element: &Element, floor: bool) -> Result<Option<Self>, Error> {
        if given(element, "classID").is_some() {
            return Err(shared(Code::XML_DETAIL, element, "<bandwidth> of a network has no classID"));
        }
        let inbound = element.child("inbound").map(|rate| Rate::read(rate, floor)).transpose()?;
        let outbound = element.child("outbound").map(|rate| Rate::read(rate, false)).transpose()?;
        Ok((inbound.is_some() || outbound.is_some()).then_some(Self { inbound, outbound }))
    }

    /// That of a port, whose class in the kernel is nobody else's business.
    pub(crate) fn of_port(element: &Element) -> Result<Option<Self>, Error> {
        let mut element = element.clone();
        element.unset("classID");
        Self::read(&element, true)
    }

    pub(crate) fn to_element(self, depth: usize) -> Element {
        let mut element = Element::new("bandwidth");
        for (name, rate) in [("inbound", self.inbound), ("outbound", self.outbound)] {
            if let Some(rate) = rate.filter(|rate| rate.average > 0 || rate.floor > 0) {
                element.push(rate.to_element(name));
            }
        }
        super::text::opened(element, depth)
    }
}

impl Rate {
    fn read(element: &Element, may_have_floor: bool) -> Result<Self, Error> {
        let value = |name: &str| match element.attr(name) {
            None => Ok(None),
            Some(text) => text.trim_start().parse().map(Some).map_err(|_| {
                wrong_value(element, format!("<{} {name}='{text}'> is no number of kilobytes", element.name))
            }),
        };
        let (average, peak) = (value("average")?, value("peak")?);
        let (burst, floor) = (value("burst")?, value("floor")?);
        if floor.is_some() && !may_have_floor {
            let message = "floor is for what comes in to an interface of a guest; leave it out";
            return Err(shared(Code::CONFIG_UNSUPPORTED, element, message));
        }
        if average.is_none() && floor.is_none() {
            let message = format!("<{}> has neither average nor floor; give it one", element.name);
            return Err(shared(Code::XML_DETAIL, element, message));
        }
        if average.is_none() && (peak.is_some() || burst.is_some()) {
            let message = format!("<{}> has peak or burst and no average; add it", element.name);
            return Err(shared(Code::CONFIG_UNSUPPORTED, element, message));
        }
        let zero = Option::unwrap_or_default;
        Ok(Self { average: zero(average), peak: zero(peak), burst: zero(burst), floor: zero(floor) })
    }

    fn to_element(self, name: &str) -> Element {
        let mut element = Element::new(name);
        let values =
            [("average", self.average), ("peak", self.peak), ("floor", self.floor), ("burst", self.burst)];
        for (name, value) in values {
            if value > 0 {
                element.set(name, value.to_string());
            }
        }
        element
    }
}

/// Frames without a tag, on a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// They get the tag of the native VLAN, and lose it.
    Untagged,
    /// They belong to the native VLAN, whose frames keep their tag.
    Tagged,
}

/// VLANs of a network or port group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vlan {
    /// Tagged frames pass.
    pub trunk: bool,
    /// Which.
    pub tags: Vec<u16>,
    /// The native one.
    pub native: Option<(u16, Native)>,
}

impl Vlan {
    pub(crate) fn read(element: &Element) -> Result<Self, Error> {
        let wrong = |message: String| shared(Code::XML_ERROR, element, message);
        let mut vlan = Self::default();
        for tag in element.all("tag") {
            let id = tag.attr("id").and_then(|id| id.trim_start().parse::<u32>().ok());
            let id = id.ok_or_else(|| wrong_value(tag, "<tag> has no number (id) of its VLAN"))?;
            let id = u16::try_from(id).ok().filter(|id| *id <= 4095);
            let id = id.ok_or_else(|| wrong("<tag>: the highest number of a VLAN is 4095".to_owned()))?;
            if let Some(mode) = given(tag, "nativeMode") {
                if vlan.native.is_some() {
                    return Err(wrong("<vlan> has two native tags".to_owned()));
                }
                let mode = match mode {
                    "tagged" => Native::Tagged,
                    "untagged" => Native::Untagged,
                    _ => {
                        let message = format!("nativeMode='{mode}': it must be 'tagged' or 'untagged'");
                        return Err(wrong_value(tag, message));
                    }
                };
                vlan.native = Some((id, mode));
            }
            vlan.tags.push(id);
        }
        if vlan.tags.is_empty() {
            return Err(wrong("<vlan> has no <tag id='NUMBER'/>".to_owned()));
        }
        vlan.trunk = vlan.tags.len() > 1;
        if let Some(trunk) = given(element, "trunk") {
            vlan.trunk = trunk.eq_ignore_ascii_case("yes");
            if !vlan.trunk
                && (vlan.tags.len() > 1 || vlan.native.is_some() || !trunk.eq_ignore_ascii_case("no"))
            {
                let message = format!(
                    "<vlan trunk='{trunk}'>: several tags, or a native one, need trunk='yes'; else 'no' is allowed"
                );
                return Err(wrong(message));
            }
        }
        Ok(vlan)
    }

    pub(crate) fn to_element(&self) -> Element {
        let mut element = Element::new("vlan");
        if self.trunk {
            element.set("trunk", "yes");
        }
        for id in &self.tags {
            let mut tag = Element::new("tag").with("id", id.to_string());
            if let Some((_, mode)) = self.native.filter(|(native, _)| native == id) {
                tag.set("nativeMode", if mode == Native::Tagged { "tagged" } else { "untagged" });
            }
            element.push(tag);
        }
        element
    }
}

/// Whose switch a port is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortType {
    /// IEEE 802.1Qbg.
    Qbg,
    /// IEEE 802.1Qbh.
    Qbh,
    /// Open vSwitch.
    OpenVswitch,
    /// `MidoNet`.
    Midonet,
}

const PORT_TYPES: [(PortType, &str); 4] = [
    (PortType::Qbg, "802.1Qbg"),
    (PortType::Qbh, "802.1Qbh"),
    (PortType::OpenVswitch, "openvswitch"),
    (PortType::Midonet, "midonet"),
];

/// Longest profile's name, in bytes.
const PROFILE_BYTES: usize = 39;

/// A port at a switch that wants to know more than an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// Whose switch.
    pub kind: Option<PortType>,
    /// `managerid`, `typeid`, `typeidversion`.
    pub numbers: [Option<u32>; 3],
    /// Of 802.1Qbg.
    pub instance: Option<Uuid>,
    /// The profile.
    pub profile: Option<String>,
    /// Of Open vSwitch and `MidoNet`.
    pub interface: Option<Uuid>,
}

impl VirtualPort {
    pub(crate) fn read(element: &Element, needs_type: bool) -> Result<Self, Error> {
        let wrong = |message: String| shared(Code::XML_ERROR, element, message);
        let kind = match element.attr("type") {
            None => None,
            Some(word) => {
                let known = PORT_TYPES.iter().find(|(_, name)| *name == word);
                Some(known.map(|(kind, _)| *kind).ok_or_else(|| {
                    let message = format!("<virtualport type='{word}'> is no known type; try 'openvswitch'");
                    shared(Code::CONFIG_UNSUPPORTED, element, message)
                })?)
            }
        };
        if kind.is_none() && needs_type {
            return Err(wrong("<virtualport> has no type; try type='openvswitch'".to_owned()));
        }
        let mut port = Self { kind, ..Self::default() };
        if let Some(parameters) = element.child("parameters") {
            let limits = [("managerid", 0xff), ("typeid", 0x00ff_ffff), ("typeidversion", 0xff)];
            for (place, (name, most)) in port.numbers.iter_mut().zip(limits) {
                let Some(text) = parameters.attr(name) else { continue };
                let value = c_number(text).filter(|value| *value <= most);
                *place =
                    Some(value.ok_or_else(|| wrong(format!("{name}='{text}' is no number up to {most}")))?);
            }
            let uuid = |name: &str| match parameters.attr(name) {
                None => Ok(None),
                Some(text) => {
                    Uuid::parse(text).map(Some).ok_or_else(|| wrong(format!("{name}='{text}' is no uuid")))
                }
            };
            (port.instance, port.interface) = (uuid("instanceid")?, uuid("interfaceid")?);
            port.profile = parameters.attr("profileid").filter(|text| !text.is_empty()).map(str::to_owned);
            if port.profile.as_ref().is_some_and(|profile| profile.len() > PROFILE_BYTES) {
                return Err(wrong(format!("profileid is longer than {PROFILE_BYTES} bytes")));
            }
        }
        port.check_extra(element)?;
        Ok(port)
    }

    /// Parameters that the type of switch does not know.
    fn check_extra(&self, element: &Element) -> Result<(), Error> {
        let Some(kind) = self.kind else { return Ok(()) };
        let bridges = self.numbers.iter().any(Option::is_some) || self.instance.is_some();
        let extra = match kind {
            PortType::Qbg => self.profile.is_some() || self.interface.is_some(),
            PortType::Qbh => bridges || self.interface.is_some(),
            PortType::OpenVswitch => bridges,
            PortType::Midonet => bridges,
        };
        if extra {
            let message = "<virtualport> has parameters that its type does not know";
            return Err(Error { origin: Origin::NET, ..shared(Code::XML_ERROR, element, message) });
        }
        Ok(())
    }

    pub(crate) fn to_element(&self) -> Option<Element> {
        let mut parameters = Element::new("parameters");
        for (name, number) in ["managerid", "typeid", "typeidversion"].iter().zip(self.numbers) {
            if let Some(number) = number {
                parameters.set(name, number.to_string());
            }
        }
        if let Some(instance) = self.instance {
            parameters.set("instanceid", instance.to_string());
        }
        if let Some(interface) = self.interface {
            parameters.set("interfaceid", interface.to_string());
        }
        let given = !parameters.attributes.is_empty() || self.profile.is_some();
        if let Some(profile) = self.profile.as_ref().filter(|_| self.kind != Some(PortType::Midonet)) {
            parameters.set("profileid", profile);
        }
        let mut element = Element::new("virtualport");
        if let Some(kind) = self.kind {
            let name = PORT_TYPES.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| name);
            element.set("type", name);
        }
        if given {
            element.push(parameters);
        }
        (self.kind.is_some() || !element.children.is_empty()).then_some(element)
    }
}

/// A number as C writes it.
fn c_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

/// Interfaces that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGroup {
    /// Its name.
    pub name: String,
    /// Is it that of interfaces which name none?
    pub default: bool,
    /// May a guest change what its interface lets in?
    pub trusts_guests: Option<bool>,
    /// Its switch.
    pub virtual_port: Option<VirtualPort>,
    /// Its bandwidth, for each interface.
    pub bandwidth: Option<Bandwidth>,
    /// Its VLANs.
    pub vlan: Option<Vlan>,
}

impl PortGroup {
    pub(super) fn read(element: &Element) -> Result<Self, Error> {
        let name = super::text::owned(element, "name")
            .ok_or_else(|| super::text::wrong(element, "<portgroup> has no name"))?;
        let default = element.attr("default").is_some_and(|word| word.eq_ignore_ascii_case("yes"));
        let trusts_guests = super::text::yes_no(element, "trustGuestRxFilters")?;
        let port = element.child("virtualport").map(|port| VirtualPort::read(port, false)).transpose()?;
        let bandwidth = element.child("bandwidth").map(|width| Bandwidth::read(width, false)).transpose()?;
        let vlan = element.child("vlan").map(Vlan::read).transpose()?;
        Ok(Self { name, default, trusts_guests, virtual_port: port, bandwidth: bandwidth.flatten(), vlan })
    }

    pub(super) fn to_element(&self) -> Element {
        let mut element = Element::new("portgroup").with("name", &self.name);
        if self.default {
            element.set("default", "yes");
        }
        if let Some(trusts) = self.trusts_guests {
            element.set("trustGuestRxFilters", super::text::word(trusts));
        }
        element.children.extend(self.vlan.iter().map(|vlan| bulkhead_xml::Node::Element(vlan.to_element())));
        if let Some(port) = self.virtual_port.as_ref().and_then(VirtualPort::to_element) {
            element.push(port);
        }
        if let Some(bandwidth) = self.bandwidth {
            element.push(bandwidth.to_element(2));
        }
        super::text::opened(element, 1)
    }
}

/// An address on the bus of PCI devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciAddress {
    /// Its parts: domain, bus, slot, function.
    pub parts: [u32; 4],
}

const PCI_PARTS: [(&str, u32); 4] = [("domain", 0xffff_ffff), ("bus", 0xff), ("slot", 0x1f), ("function", 7)];

impl PciAddress {
    pub(crate) fn read(element: &Element) -> Result<Self, Error> {
        let mut parts = [0; 4];
        for (part, (name, most)) in parts.iter_mut().zip(PCI_PARTS) {
            let Some(text) = element.attr(name) else { continue };
            let message = || format!("<address {name}='{text}'> is no number up to {most:#x}");
            *part = c_number(text).ok_or_else(|| wrong_value(element, message()))?;
            if *part > most {
                return Err(shared(Code::XML_ERROR, element, message()));
            }
        }
        Ok(Self { parts })
    }

    pub(crate) fn to_element(self) -> Element {
        let [domain, bus, slot, function] = self.parts;
        Element::new("address")
            .with("type", "pci")
            .with("domain", format!("{domain:#06x}"))
            .with("bus", format!("{bus:#04x}"))
            .with("slot", format!("{slot:#04x}"))
            .with("function", format!("{function:#x}"))
    }

    /// Its name in the kernel's folders.
    #[must_use]
    pub fn name(self) -> String {
        let [domain, bus, slot, function] = self.parts;
        format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}
