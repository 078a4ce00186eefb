//! Addresses on the smaller buses: virtio-serial ports, smart card slots, channel devices, sPAPR's virtual I/O.

use super::super::context::Context;
use super::super::{place, refuse};
use super::pci::set_address;
use crate::device::value::any_base;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Ports of a virtio-serial controller that does not say how many it has, port 0 included.
const SERIAL_PORTS: u64 = 31;

fn part(element: &Element, name: &str) -> u64 {
    element.attr(name).and_then(any_base).unwrap_or(0)
}

fn is_virtio_serial(device: &Element) -> bool {
    matches!(device.name.as_str(), "channel" | "console")
        && device.path_attr("target", "type") == Some("virtio")
}

/// Whether a guest that runs has a controller for each virtio channel.
pub(super) fn has_controller(devices: &Element) -> Result<(), Error> {
    let controllers: Vec<u64> = devices
        .all("controller")
        .filter(|controller| controller.attr("type") == Some("virtio-serial"))
        .map(|controller| part(controller, "index"))
        .collect();
    for device in devices.elements().filter(|device| is_virtio_serial(device)) {
        let wanted = device.child("address").filter(|address| address.attr("type") == Some("virtio-serial"));
        match wanted.map(|address| part(address, "controller")) {
            Some(wanted) if !controllers.contains(&wanted) => {
                return Err(refuse::xml(format!(
                    "virtio serial controller {wanted} is missing; add it first"
                )));
            }
            None if controllers.is_empty() && device.name == "channel" => {
                return Err(refuse::internal("no virtio-serial controllers are available; add one first"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives virtio channels and consoles their ports.
pub(super) fn assign(devices: &mut Element) -> Result<(), Error> {
    let mut controllers: BTreeMap<u64, u64> = devices
        .all("controller")
        .filter(|controller| controller.attr("type") == Some("virtio-serial"))
        .map(|controller| {
            let ports = controller.attr("ports").and_then(any_base).unwrap_or(SERIAL_PORTS);
            (part(controller, "index"), ports)
        })
        .collect();
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    let complete = |device: &Element| {
        device
            .child("address")
            .filter(|address| {
                address.attr("type") == Some("virtio-serial")
                    && (part(address, "port") > 0
                        || device.name == "console" && address.attr("port").is_some())
            })
            .map(|address| (part(address, "controller"), part(address, "port")))
    };
    for device in devices.elements().filter(|device| is_virtio_serial(device)) {
        if let Some((controller, port)) = complete(device) {
            if controllers.get(&controller).is_some_and(|ports| port >= (*ports).max(SERIAL_PORTS + 1)) {
                let message = format!("there is no port {port} on virtio-serial controller {controller}");
                return Err(place::of_device(device, &refuse::xml(message)));
            }
            if !taken.insert((controller, port)) {
                let message =
                    format!("port {port} of virtio-serial controller {controller} is used twice; change one");
                return Err(place::of_device(device, &refuse::xml(message)));
            }
        }
    }
    {
        for device in devices.elements_mut().filter(|device| {
            is_virtio_serial(device) && (device.name == "channel" || device.child("address").is_some())
        }) {
            let name = device.name.as_str();
            if complete(device).is_some()
                || device.child("address").is_some_and(|a| a.attr("type") != Some("virtio-serial"))
            {
                continue;
            }
            let wanted = device.child("address").map(|address| part(address, "controller"));
            let first = u64::from(name == "channel");
            let free = controllers
                .iter()
                .filter(|(controller, _)| wanted.is_none_or(|wanted| wanted == **controller))
                .find_map(|(controller, ports)| {
                    (first..*ports.max(&1))
                        .find(|port| !taken.contains(&(*controller, *port)))
                        .map(|port| (*controller, port))
                });
            let (controller, port) = match free {
                Some(place) => place,
                None => {
                    let next = controllers.keys().last().map_or(0, |last| last + 1);
                    controllers.insert(next, SERIAL_PORTS);
                    (next, first)
                }
            };
            taken.insert((controller, port));
            set_address(
                device,
                Element::new("address")
                    .with("type", "virtio-serial")
                    .with("controller", controller.to_string())
                    .with("bus", "0")
                    .with("port", port.to_string()),
            );
        }
    }
    for index in controllers.keys() {
        let present = devices
            .all("controller")
            .any(|c| c.attr("type") == Some("virtio-serial") && part(c, "index") == *index);
        if !present {
            devices.push(
                Element::new("controller").with("type", "virtio-serial").with("index", index.to_string()),
            );
        }
    }
    Ok(())
}

/// Smart cards sit in the slots of their readers.
pub(super) fn assign_smartcards(devices: &mut Element) {
    let mut taken: BTreeSet<u64> = devices
        .all("smartcard")
        .filter_map(|card| card.child("address"))
        .map(|address| part(address, "slot"))
        .collect();
    for card in devices.elements_mut().filter(|device| device.name == "smartcard") {
        if card.child("address").is_none() {
            let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or(0);
            taken.insert(slot);
            card.push(
                Element::new("address")
                    .with("type", "ccid")
                    .with("controller", "0")
                    .with("slot", slot.to_string()),
            );
        }
    }
}

/// The order in which kinds get channel device numbers.
const CCW_ORDER: &[&str] = &[
    "disk",
    "interface",
    "sound",
    "hostdev",
    "video",
    "controller",
    "input",
    "filesystem",
    "watchdog",
    "memballoon",
    "rng",
    "memory",
    "iommu",
    "vsock",
    "crypto",
];

fn is_virtio(device: &Element) -> bool {
    let model = device.attr("model").unwrap_or_default();
    match device.name.as_str() {
        "disk" => device.path_attr("target", "bus") == Some("virtio"),
        "interface" => device.path_attr("model", "type") == Some("virtio"),
        "controller" => {
            device.attr("type") == Some("virtio-serial")
                || device.attr("type") == Some("scsi") && model == "virtio-scsi"
        }
        "input" => device.attr("bus") == Some("virtio"),
        "video" => device.path_attr("model", "type") == Some("virtio"),
        "hostdev" => device.attr("type") == Some("scsi_host") || model == "vfio-ccw",
        "memballoon" | "rng" | "sound" => model.starts_with("virtio"),
        "memory" => matches!(model, "virtio-mem" | "virtio-pmem"),
        "filesystem" | "vsock" | "crypto" => true,
        _ => false,
    }
}

/// Channel devices of mainframe guests, MMIO of boards without PCI, virtual I/O of sPAPR guests.
pub(super) fn assign_other_buses(devices: &mut Element, context: &Context) -> Result<(), Error> {
    if context.is_s390() {
        return assign_ccw(devices);
    }
    let has_pci = devices.all("controller").any(|c| c.attr("type") == Some("pci"));
    let told = devices.elements().any(|device| device.path_attr("address", "type") == Some("virtio-mmio"));
    if context.is_arm() && !has_pci || context.is_virt() && told {
        for device in devices.elements_mut().filter(|device| is_virtio(device)) {
            if device.child("address").is_none() {
                set_address(device, Element::new("address").with("type", "virtio-mmio"));
            }
        }
    }
    assign_virtual_io(devices, context)
}

fn assign_ccw(devices: &mut Element) -> Result<(), Error> {
    let mut taken: BTreeSet<u64> = BTreeSet::new();
    for device in devices.elements() {
        if let Some(address) = device.child("address")
            && address.attr("type") == Some("ccw")
            && address.attr("devno").is_some()
        {
            let devno = part(address, "devno");
            if !taken.insert(devno | part(address, "ssid") << 16) {
                let message = format!("CCW device number {devno:#06x} is used twice; change one");
                return Err(place::of_device(device, &refuse::xml(message)));
            }
        }
    }
    for name in CCW_ORDER {
        for node in &mut devices.children {
            let Node::Element(device) = node else { continue };
            if device.name != *name || !is_virtio(device) {
                continue;
            }
            let open = device
                .child("address")
                .is_none_or(|address| address.attr("type") == Some("ccw") && address.attr("devno").is_none());
            if open {
                let devno = (0..).find(|devno| !taken.contains(devno)).unwrap_or(0);
                taken.insert(devno);
                set_address(
                    device,
                    Element::new("address")
                        .with("type", "ccw")
                        .with("cssid", "0xfe")
                        .with("ssid", "0x0")
                        .with("devno", format!("{devno:#06x}")),
                );
            }
        }
    }
    Ok(())
}

/// Registers of virtual I/O: where each kind begins.
fn virtual_io_start(device: &Element) -> Option<u64> {
    match device.name.as_str() {
        "interface" if device.path_attr("model", "type") == Some("spapr-vlan") => Some(0x1000),
        "controller" if device.attr("type") == Some("scsi") && device.attr("model") == Some("ibmvscsi") => {
            Some(0x2000)
        }
        "serial" if device.path_attr("target", "type") == Some("spapr-vio-serial") => Some(0x3000_0000),
        "nvram" => Some(0x3000),
        "tpm" if device.attr("model") == Some("tpm-spapr") => Some(0x4000),
        _ => None,
    }
}

fn assign_virtual_io(devices: &mut Element, context: &Context) -> Result<(), Error> {
    let mut taken: BTreeSet<u64> = BTreeSet::new();
    for device in devices.elements().filter(|device| device.name != "console") {
        if let Some(address) = device.child("address")
            && address.attr("type") == Some("spapr-vio")
            && address.attr("reg").is_some()
            && !taken.insert(part(address, "reg"))
        {
            let message = format!("sPAPR address {:#x} is used twice; change one", part(address, "reg"));
            return Err(place::of_device(device, &Error::new(Code::XML_ERROR, Origin::QEMU, message)));
        }
    }
    for name in ["interface", "controller", "serial", "nvram", "tpm"] {
        for device in devices.elements_mut().filter(|device| device.name == name) {
            let Some(start) = virtual_io_start(device) else {
                continue;
            };
            let elsewhere = device.path_attr("address", "type").is_some_and(|kind| kind != "spapr-vio");
            if !elsewhere && device.path_attr("address", "reg").is_none() {
                let reg =
                    (0..).map(|step| start + 0x1000 * step).find(|reg| !taken.contains(reg)).unwrap_or(start);
                taken.insert(reg);
                set_address(
                    device,
                    Element::new("address").with("type", "spapr-vio").with("reg", format!("{reg:#010x}")),
                );
            }
        }
    }
    let address = devices.child("serial").and_then(|serial| serial.child("address")).cloned();
    if let (Some(address), Some(console)) = (address, devices.child_mut("console"))
        && context.is_pseries()
        && console.path_attr("target", "type") == Some("serial")
    {
        set_address(console, address);
    }
    Ok(())
}
