//! A port: what a guest's interface is plugged into. XML read and written; pure.

use crate::definition::forward::{Device, Mode};
use crate::definition::shaping::{Bandwidth, PciAddress, PortType, Rate, VirtualPort, Vlan};
use crate::definition::{Definition, MacTable, document};
use crate::error::{error, invalid, unsupported};
use crate::name::Mac;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_xml::Element;

/// Where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plug {
    /// Nowhere yet.
    None,
    /// To a bridge: that of the network itself, or another one.
    Bridge { own: bool, name: String, table: Option<MacTable> },
    /// Next to an interface.
    Direct { device: String, mode: String },
    /// To a PCI device.
    Pci { managed: bool, driver: Option<String>, address: PciAddress },
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its identity.
    pub(crate) uuid: Uuid,
    /// Whose it is: name and uuid.
    pub(crate) owner: (String, Uuid),
    pub(crate) group: Option<String>,
    pub(crate) mac: Mac,
    pub(crate) virtual_port: Option<VirtualPort>,
    pub(crate) bandwidth: Option<Bandwidth>,
    pub(crate) vlan: Option<Vlan>,
    pub(crate) isolated: Option<bool>,
    pub(crate) trusts_guest: Option<bool>,
    pub(crate) plug: Plug,
    /// The tap that was made for it.
    pub(crate) tap: Option<String>,
}

fn lacks(what: &str) -> Error {
    error(Code::INTERNAL, format!("A port of a network needs {what}"))
}

fn uuid_of(text: Option<String>, what: &str) -> Result<Uuid, Error> {
    let text = text.filter(|text| !text.is_empty()).ok_or_else(|| lacks(what))?;
    Uuid::parse(&text).ok_or_else(|| {
        error(Code::INTERNAL, format!("A port of a network: '{}' is no uuid", text.escape_debug()))
    })
}

impl Port {
    /// Reads a port. `fresh` is the uuid of one that names none, where it need not.
    pub(crate) fn read(text: &str, fresh: Option<Uuid>) -> Result<Self, Error> {
        let root = document(text, "networkport", "")?;
        Definition::plain(&root)?;
        let text = |path: &str| root.at(path).map(Element::text).filter(|text| !text.is_empty());
        let uuid = match (text("uuid"), fresh) {
            (None, Some(fresh)) => fresh,
            (given, _) => uuid_of(given, "a <uuid>")?,
        };
        let name = text("owner/name").ok_or_else(|| lacks("an owner with a <name>"))?;
        let owner = (name, uuid_of(text("owner/uuid"), "an owner with a <uuid>")?);
        let mac = root.path_attr("mac", "address").filter(|mac| !mac.is_empty());
        let mac = mac.ok_or_else(|| lacks("a <mac address='...'/>"))?;
        let mac = Mac::read(mac).ok_or_else(|| {
            error(Code::INTERNAL, format!("A port of a network: '{}' is no MAC address", mac.escape_debug()))
        })?;
        let virtual_port =
            root.child("virtualport").map(|port| VirtualPort::read(port, false)).transpose()?;
        let bandwidth = root.child("bandwidth").map(Bandwidth::of_port).transpose()?.flatten();
        let vlan = root.child("vlan").map(Vlan::read).transpose()?;
        let choice = |path: &str, name: &str| match root.path_attr(path, name) {
            None => Ok(None),
            Some("yes") => Ok(Some(true)),
            Some("no") => Ok(Some(false)),
            Some(_) => {
                Err(Error::new(Code::XML_ERROR, Origin::XML, format!("<{path} {name}>: 'yes' or 'no'")))
            }
        };
        let (isolated, trusts_guest) = (choice("port", "isolated")?, choice("rxfilters", "trustGuest")?);
        let plug = root.child("plug").map_or(Ok(Plug::None), Plug::read)?;
        Ok(Self {
            uuid,
            owner,
            group: text("group"),
            mac,
            virtual_port,
            bandwidth,
            vlan,
            isolated,
            trusts_guest,
            plug,
            tap: None,
        })
    }

    /// The port as XML.
    pub(crate) fn to_xml(&self) -> String {
        let leaf = |name: &str, text: &str| Element::new(name).with_text(text);
        let mut root = Element::new("networkport").with_child(leaf("uuid", &self.uuid.to_string()));
        root.push(
            Element::new("owner")
                .with_child(leaf("name", &self.owner.0))
                .with_child(leaf("uuid", &self.owner.1.to_string())),
        );
        if let Some(group) = &self.group {
            root.push(leaf("group", group));
        }
        root.push(Element::new("mac").with("address", self.mac.to_string()));
        let mut push = |element: Option<Element>| element.into_iter().for_each(|element| root.push(element));
        push(self.virtual_port.as_ref().and_then(VirtualPort::to_element));
        push(self.bandwidth.map(|bandwidth| bandwidth.to_element(1)));
        push(self.vlan.as_ref().map(Vlan::to_element));
        let choice = |name: &str, attribute: &str, yes: bool| {
            Element::new(name).with(attribute, if yes { "yes" } else { "no" })
        };
        push(self.isolated.map(|yes| choice("port", "isolated", yes)));
        push(self.trusts_guest.map(|yes| choice("rxfilters", "trustGuest", yes)));
        push(self.plug.to_element());
        root.to_xml()
    }

    /// Plugs a new port into a network: what it does not say, its group or the network does. `used` counts the ports at each
    /// device of the network.
    pub(crate) fn plug_into(&mut self, network: &Definition, used: &[u32]) -> Result<(), Error> {
        let name = &network.name;
        let group = network.port_group(self.group.as_deref());
        if self.group.is_some() && group.is_none() {
            tracing::warn!(network = name, group = self.group, "there is no such port group");
        }
        self.bandwidth = self.bandwidth.or(group.and_then(|group| group.bandwidth));
        let vlan = group.and_then(|group| group.vlan.clone()).or_else(|| network.vlan.clone());
        self.vlan = self.vlan.take().or(vlan);
        self.trusts_guest =
            self.trusts_guest.or(group.and_then(|group| group.trusts_guests)).or(network.trusts_guests);
        self.isolated = self.isolated.or(network.isolated);
        let profile =
            group.and_then(|group| group.virtual_port.clone()).or_else(|| network.virtual_port.clone());
        self.virtual_port = self.virtual_port.take().or(profile);
        let kind = self.virtual_port.as_ref().and_then(|port| port.kind);
        let refuse = |with: &str| {
            Err(unsupported(format!(
                "Network '{name}': <virtualport> can't be had with {with}; leave it out"
            )))
        };
        let mode = network.forward.mode;
        match (mode, &network.bridge.name) {
            (Mode::None | Mode::Nat | Mode::Route | Mode::Open, bridge) => {
                if self.virtual_port.is_some() {
                    return refuse("a bridge of its own");
                }
                let bridge = bridge.clone().unwrap_or_default();
                self.plug = Plug::Bridge { own: true, name: bridge, table: network.bridge.table };
            }
            (Mode::Bridge, Some(bridge)) => {
                if self.virtual_port.is_some() && kind != Some(PortType::OpenVswitch) {
                    return refuse("a bridge, but for type 'openvswitch'");
                }
                self.plug = Plug::Bridge { own: false, name: bridge.clone(), table: network.bridge.table };
            }
            (Mode::Hostdev, _) => {
                let device = free(network, used, true)?;
                let Some(Device::Pci(address)) = network.forward.devices.get(device) else {
                    return Err(error(Code::INTERNAL, format!("Network '{name}' has no PCI devices")));
                };
                let driver = network.forward.driver.as_ref().and_then(|(name, _)| name.clone());
                self.plug = Plug::Pci { managed: network.forward.managed, driver, address: *address };
            }
            (Mode::Bridge | Mode::Private | Mode::Vepa | Mode::Passthrough, _) => {
                if self.virtual_port.is_some() && !matches!(kind, Some(PortType::Qbg | PortType::Qbh)) {
                    return refuse("a macvtap, but for types '802.1Qbg' and '802.1Qbh'");
                }
                let alone = mode == Mode::Passthrough || mode == Mode::Private && kind == Some(PortType::Qbh);
                let device = free(network, used, alone)?;
                let Some(Device::Interface(device)) = network.forward.devices.get(device) else {
                    return Err(error(Code::INTERNAL, format!("Network '{name}' has no interfaces")));
                };
                self.plug = Plug::Direct { device: device.clone(), mode: mode.name().to_owned() };
            }
        }
        Ok(())
    }

    /// The device of the network that it is plugged into.
    pub(crate) fn device(&self, network: &Definition) -> Option<usize> {
        let device = match &self.plug {
            Plug::Direct { device, .. } => Device::Interface(device.clone()),
            Plug::Pci { address, .. } => Device::Pci(*address),
            Plug::None | Plug::Bridge { .. } => return None,
        };
        network.forward.devices.iter().position(|known| *known == device)
    }
}

/// The device that fewest ports use, or one that none uses.
fn free(network: &Definition, used: &[u32], alone: bool) -> Result<usize, Error> {
    let count = network.forward.devices.len();
    let least = (0..count).min_by_key(|device| used.get(*device).copied().unwrap_or_default());
    let least = least.ok_or_else(|| {
        let message = format!("Network '{}' has no interfaces that ports could use", network.name);
        error(Code::INTERNAL, message)
    })?;
    if alone && used.get(least).is_some_and(|used| *used > 0) {
        let message = format!(
            "Network '{}': each of its {count} devices is for one port, and all are taken",
            network.name
        );
        return Err(error(Code::INTERNAL, message));
    }
    Ok(least)
}

impl Plug {
    fn read(element: &Element) -> Result<Self, Error> {
        let wrong = |what: &str| error(Code::XML_ERROR, format!("<plug> of a port: {what}"));
        let table = match element.attr("macTableManager") {
            None => None,
            Some("kernel") => Some(MacTable::Kernel),
            Some("libvirt") => Some(MacTable::Driver),
            Some(_) => return Err(wrong("macTableManager must be 'kernel' or 'libvirt'")),
        };
        let bridge = |own| {
            let name = element.attr("bridge").ok_or_else(|| wrong("bridge is missing"))?;
            Ok(Self::Bridge { own, name: name.to_owned(), table })
        };
        match element.attr("type") {
            None | Some("none") => Ok(Self::None),
            Some("network") => bridge(true),
            Some("bridge") => bridge(false),
            Some("direct") => {
                let device = element.attr("dev").ok_or_else(|| wrong("dev is missing"))?;
                let mode = element.attr("mode").unwrap_or("vepa");
                Ok(Self::Direct { device: device.to_owned(), mode: mode.to_owned() })
            }
            Some("hostdev-pci") => {
                let address = element.child("address").ok_or_else(|| wrong("<address> is missing"))?;
                Ok(Self::Pci {
                    managed: element.attr("managed") == Some("yes"),
                    driver: element.path_attr("driver", "name").map(str::to_owned),
                    address: PciAddress::read(address)?,
                })
            }
            Some(_) => Err(Error { origin: Origin::XML, ..wrong("its type is not known") }),
        }
    }

    fn to_element(&self) -> Option<Element> {
        let plug = |kind: &str| Element::new("plug").with("type", kind);
        match self {
            Self::None => None,
            Self::Bridge { own, name, table } => {
                let element = plug(if *own { "network" } else { "bridge" }).with("bridge", name);
                Some(match table {
                    Some(table) => element.with("macTableManager", table.name()),
                    None => element,
                })
            }
            Self::Direct { device, mode } => Some(plug("direct").with("dev", device).with("mode", mode)),
            Self::Pci { managed, driver, address } => {
                let mut element = plug("hostdev-pci").with("managed", if *managed { "yes" } else { "no" });
                if let Some(driver) = driver {
                    element.push(Element::new("driver").with("name", driver));
                }
                let mut address = address.to_element();
                address.unset("type");
                element.push(address);
                Some(element)
            }
        }
    }
}

/// The floors of a network's ports must fit into what comes in.
pub(crate) fn check_floor(
    network: &Definition,
    port: &Port,
    wanted: Option<Bandwidth>,
    others: u64,
) -> Result<(), Error> {
    let floor = wanted.and_then(|wanted| wanted.inbound).map_or(0, |rate: Rate| rate.floor);
    if floor == 0 {
        return Ok(());
    }
    let cant = |why: &str| {
        let message = format!("Network '{}': floor for {}: {why}", network.name, port.mac);
        Err(error(Code::OPERATION_UNSUPPORTED, message))
    };
    if !network.forward.mode.is_own() {
        return cant("it takes a network with a bridge of its own");
    }
    let Some(inbound) = network.bandwidth.and_then(|bandwidth| bandwidth.inbound) else {
        return cant("the network has no inbound bandwidth; give it one");
    };
    let most = if inbound.peak > 0 { inbound.peak } else { inbound.average };
    if others.saturating_add(floor) > most {
        let message = format!(
            "Network '{}': the floors of its ports would come to {}, and {most} can come in at most",
            network.name,
            others.saturating_add(floor)
        );
        return Err(invalid(message));
    }
    Ok(())
}
