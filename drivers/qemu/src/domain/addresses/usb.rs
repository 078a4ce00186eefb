//! USB addresses: a bus and the ports from its root, through hubs if need be.

use super::super::{place, refuse};
use super::pci::set_address;
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};
use std::collections::{BTreeMap, BTreeSet};

/// The ports of a hub.
const HUB_PORTS: u32 = 8;

/// The kinds in the order in which they get ports; hubs come before all.
const ORDER: &[&str] =
    &["hub", "disk", "interface", "sound", "hostdev", "controller", "serial", "input", "redirdev"];

fn number(element: &Element, name: &str) -> u32 {
    element.attr(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn is_usb(device: &Element) -> bool {
    if device.path_attr("address", "type").is_some_and(|kind| kind != "usb") {
        return false;
    }
    match device.name.as_str() {
        "hub" => true,
        "disk" => device.path_attr("target", "bus") == Some("usb"),
        "controller" => device.attr("type") == Some("ccid"),
        "interface" => device.path_attr("model", "type") == Some("usb-net"),
        "input" => device.attr("bus") == Some("usb"),
        "sound" => device.attr("model") == Some("usb"),
        "serial" => device.path_attr("target", "type") == Some("usb-serial"),
        "hostdev" => device.attr("type") == Some("usb"),
        "redirdev" => device.attr("bus") == Some("usb"),
        _ => false,
    }
}

fn ports_of(controller: &Element) -> u32 {
    match controller.attr("model").unwrap_or_default() {
        "nec-xhci" | "qemu-xhci" => controller.attr("ports").and_then(|p| p.parse().ok()).unwrap_or(4),
        "ehci" | "ich9-ehci1" => 6,
        "pci-ohci" => 3,
        "none" => 0,
        _ => 2,
    }
}

/// The buses and hubs with the ports that are in use.
struct Topology {
    /// Places that have ports: the bus, and the path of the hub (empty for the root).
    ports: BTreeMap<(u32, Vec<u32>), u32>,
    taken: BTreeSet<(u32, Vec<u32>)>,
}

impl Topology {
    fn take(&mut self, bus: u32, path: Vec<u32>) -> Result<(), Error> {
        let shown = path.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        let Some((last, hub)) = path.split_last() else {
            return Err(refuse::internal("A USB port has no number"));
        };
        let Some(ports) = self.ports.get(&(bus, hub.to_vec())) else {
            let what = if hub.is_empty() { "USB bus" } else { "hub above that port on USB bus" };
            return Err(refuse::xml(format!("USB port {shown} of bus {bus}: there is no {what} {bus}")));
        };
        if *last == 0 || last > ports {
            return Err(refuse::xml(format!("USB port {shown} of bus {bus}: there are {ports} ports")));
        }
        if !self.taken.insert((bus, path)) {
            return Err(refuse::xml(format!("USB port {shown} of bus {bus} is used twice; change one")));
        }
        Ok(())
    }

    /// The first free port, of that bus if one is named.
    fn next(&self, wanted: Option<u32>) -> Option<(u32, Vec<u32>)> {
        self.ports.iter().filter(|((bus, _), _)| wanted.is_none_or(|wanted| wanted == *bus)).find_map(
            |((bus, hub), ports)| {
                (1..=*ports).find_map(|port| {
                    let mut path = hub.clone();
                    path.push(port);
                    let place = (*bus, path);
                    (!self.taken.contains(&place)).then_some(place)
                })
            },
        )
    }
}

fn given(device: &Element) -> Option<(u32, Vec<u32>)> {
    let address = device.child("address")?;
    let path: Option<Vec<u32>> = address.attr("port")?.split('.').map(|port| port.parse().ok()).collect();
    Some((number(address, "bus"), path?)).filter(|(_, path)| path != &[0])
}

/// Gives USB devices their ports. A guest that runs gets no hubs for it.
pub(super) fn assign(devices: &mut Element, runs: bool) -> Result<(), Error> {
    let mut topology = Topology { ports: BTreeMap::new(), taken: BTreeSet::new() };
    for controller in devices.all("controller").filter(|c| c.attr("type") == Some("usb")) {
        let (bus, ports) = (number(controller, "index"), ports_of(controller));
        if ports > 0 {
            let known = topology.ports.entry((bus, Vec::new())).or_insert(ports);
            *known = ports.max(*known);
        }
    }
    if topology.ports.is_empty() {
        return Ok(());
    }
    if !runs {
        add_hubs(devices, &topology);
    }
    // Hubs that hang on others come after them.
    let mut hubs: Vec<(u32, Vec<u32>)> = devices.all("hub").filter_map(given).collect();
    hubs.sort_by_key(|(_, path)| path.len());
    for (bus, path) in hubs {
        topology.take(bus, path.clone())?;
        topology.ports.insert((bus, path), HUB_PORTS);
    }
    for device in devices.elements().filter(|device| is_usb(device) && device.name != "hub") {
        if let Some((bus, path)) = given(device) {
            topology.take(bus, path).map_err(|error| place::of_device(device, &error))?;
        }
    }
    for name in ORDER {
        for node in &mut devices.children {
            let Node::Element(device) = node else { continue };
            if device.name != *name || !is_usb(device) || given(device).is_some() {
                continue;
            }
            let wanted = device.child("address").and_then(|a| a.attr("bus")?.parse().ok());
            let Some((bus, path)) = topology.next(wanted) else {
                if runs {
                    return Err(refuse::no_place(
                        "No free USB ports: add a hub or a controller to the definition",
                    ));
                }
                return Err(refuse::xml(match wanted {
                    Some(bus) => format!("USB bus {bus} is not there or has no free port; add a hub"),
                    None => "No USB bus has a free port; add a controller or a hub".to_owned(),
                }));
            };
            topology.taken.insert((bus, path.clone()));
            if device.name == "hub" {
                topology.ports.insert((bus, path.clone()), HUB_PORTS);
            }
            let port = path.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            set_address(
                device,
                Element::new("address").with("type", "usb").with("bus", bus.to_string()).with("port", port),
            );
        }
    }
    Ok(())
}

/// More devices than ports: hubs make up for it.
fn add_hubs(devices: &mut Element, topology: &Topology) {
    let hubs = u32::try_from(devices.all("hub").count()).unwrap_or(u32::MAX);
    let ports = topology.ports.values().sum::<u32>() + hubs.saturating_mul(HUB_PORTS - 1);
    let wanted = devices.elements().filter(|d| is_usb(d) && d.name != "hub").count();
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    if wanted > ports {
        for _ in 0..(wanted - ports).div_ceil(HUB_PORTS - 1) {
            devices.push(Element::new("hub").with("type", "usb"));
        }
    }
}
