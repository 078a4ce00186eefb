//! A network's definition: XML read, checked and completed, and written again. Pure.
//!
//! A definition may come from anybody who may define networks, and much of it ends in another program's configuration, in
//! the kernel and in paths: what could mean something else there is refused here, wherever it stands.

pub mod address;
mod check;
pub mod dns;
pub mod forward;
pub mod ip;
pub mod route;
mod schema;
pub mod shaping;
mod text;
mod update;

pub use update::{Command, Section};

use crate::name::Mac;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::network::NetworkRef;
use bulkhead_xml::{Element, Limits, Node, parse};
use dns::Dns;
use forward::Forward;
use ip::Ip;
use route::Route;
use shaping::{Bandwidth, PortGroup, VirtualPort, Vlan};
use text::{given, number, owned, plain, unsupported, word, wrong, yes_no};

/// No network takes more.
const LIMITS: Limits = Limits { total_bytes: 4 << 20, depth: 32, elements: 100_000, attributes: 64 };
/// Longest name of a network: it becomes the name of a file.
const NAME_MAX_BYTES: usize = 240;
/// The namespace of options for dnsmasq.
const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Who keeps the table of which address is at which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacTable {
    /// The kernel, which learns it.
    Kernel,
    /// This driver, which knows it.
    Driver,
}

impl MacTable {
    /// Its name in XML.
    #[must_use]
    pub fn name(self) -> &'static str {
        if self == Self::Kernel { "kernel" } else { "libvirt" }
    }
}

/// The bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name, or a template for one.
    pub name: Option<String>,
    /// Its zone in the host's firewall.
    pub zone: Option<String>,
    /// Does it look for loops?
    pub stp: bool,
    /// Seconds until a port that was plugged in is used.
    pub delay: u64,
    /// Who keeps its table.
    pub table: Option<MacTable>,
}

/// The domain of its guests' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The name.
    pub name: String,
    /// Is nobody else asked about it?
    pub local_only: Option<bool>,
    /// Does the host ask this network about it?
    pub register: Option<bool>,
}

/// What a network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// A few words for people.
    pub title: Option<String>,
    /// More words for people.
    pub description: Option<String>,
    /// What others keep here, as it is.
    metadata: Option<String>,
    /// May guests talk IPv6 to one another where the bridge has no such address?
    pub ipv6: bool,
    /// May guests change what their interfaces let in?
    pub trusts_guests: Option<bool>,
    /// How it reaches others.
    pub forward: Forward,
    /// Its bridge.
    pub bridge: Bridge,
    /// The largest packet.
    pub mtu: Option<u32>,
    /// The bridge's MAC address.
    pub mac: Option<Mac>,
    /// The domain of its guests' names.
    pub domain: Option<Domain>,
    /// Its name service.
    pub dns: Dns,
    /// VLANs of its guests.
    pub vlan: Option<Vlan>,
    /// Its bandwidth.
    pub bandwidth: Option<Bandwidth>,
    /// Are its guests kept from one another?
    pub isolated: Option<bool>,
    /// Its addresses.
    pub ips: Vec<Ip>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// The switch that guests are plugged into.
    pub virtual_port: Option<VirtualPort>,
    /// Groups of its guests.
    pub port_groups: Vec<PortGroup>,
    /// Lines for dnsmasq.
    pub options: Option<Vec<String>>,
}

/// How many ports there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub ports: u32,
    /// At each device of `<forward>`.
    pub devices: Vec<u32>,
}

/// Reads a document whose root must have that name.
pub(crate) fn document(text: &str, root: &str, raw: &str) -> Result<Element, Error> {
    let element = parse(text.as_bytes(), LIMITS, raw)
        .map_err(|fault| Error::new(Code::XML_DETAIL, Origin::NETWORK, format!("Network XML: {fault}")))?;
    if element.name != root {
        let message = format!(
            "Network XML: {}: the root element is <{}>, not <{root}>",
            element.position, element.name
        );
        return Err(Error::new(Code::XML_ERROR, Origin::XML, message));
    }
    Ok(element)
}

impl Definition {
    /// Reads a definition and checks all of it that does not depend on others. `fresh` makes the uuid of one that names none;
    /// `strict` refuses what the schema does not have.
    ///
    /// # Errors
    /// XML that is none of a network.
    pub fn read(text: &str, strict: bool, fresh: impl FnOnce() -> Uuid) -> Result<Self, Error> {
        let root = document(text, "network", "network/metadata")?;
        if strict {
            schema::check(&root)?;
        }
        // Elements of other namespaces are none of a network's.
        let name = root.child("name").filter(|name| name.namespace.is_none());
        let named = name.filter(|name| !name.text().is_empty()).ok_or_else(|| {
            let message = format!("Network XML: {}: <network> has no <name>", root.position);
            Error::new(Code::NO_NAME, Origin::NETWORK, message)
        })?;
        let name = check_name(named)?;
        let about = |mut error: Error| {
            error.message = format!("Network '{name}': {}", error.message);
            error
        };
        let uuid = match root.child_text("uuid").filter(|text| !text.is_empty()) {
            Some(text) => Uuid::parse(&text).ok_or_else(|| {
                let message = format!("Network '{name}': <uuid>: '{}' is no uuid", text.escape_debug());
                Error::new(Code::INTERNAL, Origin::NETWORK, message)
            })?,
            None => fresh(),
        };
        let definition = Self::read_rest(&root, name.clone(), uuid).map_err(about)?;
        definition.check().map_err(about)?;
        Ok(definition)
    }

    fn read_rest(root: &Element, name: String, uuid: Uuid) -> Result<Self, Error> {
        plain(root)?;
        let text = |name: &str| root.child_text(name).filter(|text| !text.is_empty());
        let title = text("title");
        if title.as_ref().is_some_and(|title| title.contains('\n')) {
            return Err(wrong(root, "<title> has a line break; put more into <description>"));
        }
        let ipv6 = match given(root, "ipv6") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => {
                return Err(wrong(root, format!("<network ipv6='{other}'>: it must be 'yes' or 'no'")));
            }
        };
        let trusts_guests = yes_no(root, "trustGuestRxFilters")?;
        let domain = root.child("domain").map(read_domain).transpose()?.flatten();
        let bandwidth = root.child("bandwidth").map(|width| Bandwidth::read(width, false)).transpose()?;
        let vlan = root.child("vlan").map(Vlan::read).transpose()?;
        let isolated = match root.child("port") {
            Some(port) => yes_no(port, "isolated")?,
            None => None,
        };
        let empty = Element::new("bridge");
        let bridge = read_bridge(root.child("bridge").unwrap_or(&empty))?;
        let mac = root.child("mac").map(read_mac).transpose()?.flatten();
        let mtu = root.child("mtu").map(read_mtu).transpose()?.flatten();
        let dns = root.child("dns").map(Dns::read).transpose()?.unwrap_or_default();
        let port = root.child("virtualport").map(|port| VirtualPort::read(port, true)).transpose()?;
        let groups = root.all("portgroup").map(PortGroup::read).collect::<Result<_, _>>()?;
        let ips = root.all("ip").map(Ip::read).collect::<Result<_, _>>()?;
        let routes: Vec<Route> = root.all("route").map(Route::read).collect::<Result<_, _>>()?;
        let mut definition = Self {
            name,
            uuid,
            title,
            description: text("description"),
            metadata: root.child("metadata").map(raw_of).filter(|markup| !markup.is_empty()),
            ipv6,
            trusts_guests,
            forward: Forward::default(),
            bridge,
            mtu,
            mac,
            domain,
            dns,
            vlan,
            bandwidth: bandwidth.flatten(),
            isolated,
            ips,
            routes,
            virtual_port: port,
            port_groups: groups,
            options: None,
        };
        definition.check_gateways()?;
        if let Some(forward) = root.child("forward") {
            definition.forward = Forward::read(forward)?;
        }
        definition.check_mode(root)?;
        definition.options = read_options(root)?;
        Ok(definition)
    }

    /// The definition as XML.
    #[must_use]
    pub fn to_xml(&self) -> String {
        self.live_xml(&Usage::default())
    }

    /// The same, with how many use it.
    #[must_use]
    pub fn live_xml(&self, usage: &Usage) -> String {
        let mut root = Element::new("network");
        if self.options.is_some() {
            root.set("xmlns:dnsmasq", DNSMASQ);
        }
        if usage.ports > 0 {
            root.set("connections", usage.ports.to_string());
        }
        if self.ipv6 {
            root.set("ipv6", "yes");
        }
        if let Some(trusts) = self.trusts_guests {
            root.set("trustGuestRxFilters", word(trusts));
        }
        let leaf = |name: &str, text: &str| Element::new(name).with_text(text);
        root.push(leaf("name", &self.name));
        root.push(leaf("uuid", &self.uuid.to_string()));
        for (name, text) in [("title", &self.title), ("description", &self.description)] {
            if let Some(text) = text {
                root.push(leaf(name, text));
            }
        }
        if let Some(metadata) = &self.metadata {
            let mut element = Element::new("metadata");
            element.children.push(Node::Raw(metadata.clone()));
            root.push(element);
        }
        let mut push = |element: Option<Element>| element.into_iter().for_each(|element| root.push(element));
        push(self.forward.to_element(&usage.devices));
        push(self.bridge_element());
        push(self.mtu.map(|mtu| Element::new("mtu").with("size", mtu.to_string())));
        push(self.mac.map(|mac| Element::new("mac").with("address", mac.to_string())));
        push(self.domain.as_ref().map(domain_element));
        push(self.dns.to_element());
        push(self.vlan.as_ref().map(Vlan::to_element));
        push(self.bandwidth.map(|bandwidth| bandwidth.to_element(1)));
        push(self.isolated.map(|yes| Element::new("port").with("isolated", word(yes))));
        self.ips.iter().for_each(|ip| push(Some(ip.to_element())));
        self.routes.iter().for_each(|route| push(Some(route.to_element())));
        push(self.virtual_port.as_ref().and_then(VirtualPort::to_element));
        self.port_groups.iter().for_each(|group| push(Some(group.to_element())));
        push(self.options.as_ref().map(|options| {
            let option = |value: &String| Element::new("dnsmasq:option").with("value", value);
            options.iter().map(option).fold(Element::new("dnsmasq:options"), Element::with_child)
        }));
        root.to_xml()
    }

    fn bridge_element(&self) -> Option<Element> {
        let own = self.forward.mode.is_own();
        let Bridge { name, zone, stp, delay, table } = &self.bridge;
        if !own && name.is_none() && table.is_none() {
            return None;
        }
        let mut element = Element::new("bridge");
        for (attribute, text) in [("name", name), ("zone", zone)] {
            if let Some(text) = text {
                element.set(attribute, text);
            }
        }
        if own {
            element.set("stp", if *stp { "on" } else { "off" });
            element.set("delay", delay.to_string());
        }
        if let Some(table) = table {
            element.set("macTableManager", table.name());
        }
        Some(element)
    }

    /// How clients name it.
    #[must_use]
    pub fn to_ref(&self) -> NetworkRef {
        NetworkRef { name: self.name.clone(), uuid: self.uuid }
    }

    /// The group of an interface that names this one, or none.
    #[must_use]
    pub fn port_group(&self, name: Option<&str>) -> Option<&PortGroup> {
        self.port_groups.iter().find(|group| match name {
            Some(name) => group.name == name,
            None => group.default,
        })
    }

    /// Do its parts agree with one another, after a change?
    pub(crate) fn agrees(&self) -> Result<(), Error> {
        self.check().map_err(|mut fault| {
            fault.message = format!("Network '{}': {}", self.name, fault.message);
            fault
        })
    }

    /// Refuses control characters in what is read for a network.
    pub(crate) fn plain(element: &Element) -> Result<(), Error> {
        plain(element)
    }

    /// What others keep here.
    pub(crate) fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    /// Replaces what others keep here.
    pub(crate) fn set_metadata(&mut self, markup: Option<String>) {
        self.metadata = markup;
    }
}

fn check_name(element: &Element) -> Result<String, Error> {
    let name = element.text();
    let refuse = |code, why: &str| {
        let shown = name.escape_debug();
        Err(Error::new(
            code,
            Origin::XML,
            format!("Network XML: {}: <name>{shown}</name>: {why}", element.position),
        ))
    };
    if name.contains('/') || name.chars().any(char::is_control) {
        return refuse(
            Code::XML_DETAIL,
            "slashes, line breaks and other control characters can't stand in it",
        );
    }
    if name == "." || name == ".." {
        return refuse(Code::XML_DETAIL, "it stands for something else; use letters");
    }
    if name.len() > NAME_MAX_BYTES {
        return refuse(
            Code::XML_DETAIL,
            &format!("it has more than {NAME_MAX_BYTES} bytes; use a shorter one"),
        );
    }
    Ok(name)
}

fn raw_of(element: &Element) -> String {
    let markup = element.children.iter().filter_map(|node| match node {
        Node::Raw(markup) => Some(markup.as_str()),
        _ => None,
    });
    markup.collect()
}

fn read_domain(element: &Element) -> Result<Option<Domain>, Error> {
    let (local_only, register) = (yes_no(element, "localOnly")?, yes_no(element, "register")?);
    if register == Some(true) && local_only != Some(true) {
        let message = "<domain register='yes'> needs localOnly='yes', or questions would go round in circles";
        return Err(unsupported(element, message));
    }
    let name = element.attr("name").map(str::to_owned);
    Ok(name.map(|name| Domain { name, local_only, register }))
}

fn domain_element(domain: &Domain) -> Element {
    let mut element = Element::new("domain").with("name", &domain.name);
    for (name, choice) in [("localOnly", domain.local_only), ("register", domain.register)] {
        if let Some(yes) = choice {
            element.set(name, word(yes));
        }
    }
    element
}

fn read_bridge(element: &Element) -> Result<Bridge, Error> {
    let name = owned(element, "name");
    if let Some(name) = &name
        && (matches!(name.as_str(), "." | "..") || name.contains('/'))
    {
        let message = format!("<bridge name='{name}'>: slashes can't stand in the name of an interface");
        return Err(wrong(element, message));
    }
    let delay = match given(element, "delay").map(|text| text.trim_start().parse::<u64>()) {
        None => 0,
        Some(Ok(delay)) => delay,
        Some(Err(_)) => return Err(wrong(element, "<bridge>: delay is no number of seconds")),
    };
    let table = match given(element, "macTableManager") {
        None => None,
        Some("kernel") => Some(MacTable::Kernel),
        Some("libvirt") => Some(MacTable::Driver),
        Some(other) => {
            let message = format!("<bridge macTableManager='{other}'>: it must be 'kernel' or 'libvirt'");
            return Err(wrong(element, message));
        }
    };
    Ok(Bridge { name, zone: owned(element, "zone"), stp: element.attr("stp") != Some("off"), delay, table })
}

fn read_mac(element: &Element) -> Result<Option<Mac>, Error> {
    let Some(text) = given(element, "address") else { return Ok(None) };
    let mac = Mac::read(text).ok_or_else(|| {
        wrong(element, format!("<mac address='{text}'>: write six bytes like 52:54:00:12:34:56"))
    })?;
    if mac.is_group() {
        let message = format!("<mac address='{text}'> is that of a group; use one whose first byte is even");
        return Err(wrong(element, message));
    }
    Ok(Some(mac))
}

/// A negative size is a huge one, as in C; the kernel has the last word on it.
fn read_mtu(element: &Element) -> Result<Option<u32>, Error> {
    let wrong = || wrong(element, "<mtu>: size is no number of bytes");
    let Some(text) = given(element, "size") else { return Ok(None) };
    let size = match number::<u32>(element, "size") {
        Ok(Some(size)) => size,
        _ => text.trim_start().parse::<i32>().map_err(|_| wrong())?.cast_unsigned(),
    };
    Ok((size > 0).then_some(size))
}

fn read_options(root: &Element) -> Result<Option<Vec<String>>, Error> {
    let of = |element: &Element, name: &str| {
        let local = element.name.rsplit_once(':').map_or(element.name.as_str(), |(_, local)| local);
        local == name && element.namespace.as_deref() == Some(DNSMASQ)
    };
    let lists = root.elements().filter(|element| of(element, "options"));
    let options = lists.flat_map(Element::elements).filter(|element| of(element, "option"));
    let read = |option: &Element| {
        let value = option.attr("value").map(str::to_owned);
        value.ok_or_else(|| {
            Error::new(
                Code::INTERNAL,
                Origin::NETWORK,
                format!("{}: <dnsmasq:option> has no value", option.position),
            )
        })
    };
    let options: Vec<String> = options.map(read).collect::<Result<_, _>>()?;
    Ok((!options.is_empty()).then_some(options))
}
