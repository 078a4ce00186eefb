//! PCI addresses: what is given is checked, what the chip set fixes is put there, the rest gets the next free place.

use super::super::context::Context;
use super::super::{devices, place, refuse};
use super::kinds::{HOST_INTERFACE, ORDER, plug};
use super::slots::{Bus, Buses, Place, Plug, element};
use crate::device::value::any_base;
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};

fn is_controller(device: &Element, kind: &str) -> bool {
    device.name == "controller" && device.attr("type") == Some(kind)
}

fn index_of(device: &Element) -> usize {
    device.attr("index").and_then(|index| index.parse().ok()).unwrap_or(0)
}

/// The PCI address that a device has, if it is complete.
fn given(device: &Element) -> Option<(Place, bool)> {
    let address = device.child("address")?;
    if address.attr("type") != Some("pci") || address.attr("slot").is_none() {
        return None;
    }
    let part = |name| {
        let value = address.attr(name).and_then(any_base).unwrap_or(0);
        usize::try_from(value).unwrap_or(usize::MAX)
    };
    let place = Place { bus: part("bus"), slot: part("slot"), function: part("function") };
    let local = part("domain") == 0;
    // An address of zeroes alone asks for any place.
    (!local || place != at(0, 0, 0)).then_some((place, local))
}

/// Puts an address where the kind of device prints it.
pub(super) fn set_address(device: &mut Element, address: Element) {
    let before: &[&str] = match device.name.as_str() {
        "memballoon" => &["driver"],
        "controller" => &["pcihole64"],
        _ => &[],
    };
    device.take("address");
    let place = device
        .children
        .iter()
        .position(|node| matches!(node, Node::Element(e) if before.contains(&e.name.as_str())))
        .unwrap_or(device.children.len());
    device.children.insert(place, Node::Element(address));
}

/// Gives every PCI device of the guest an address and adds the controllers that this needs.
pub(super) fn assign(all: &mut Element, context: &Context) -> Result<(), Error> {
    let highest = all.elements().filter(|device| is_controller(device, "pci")).map(index_of).max();
    let boards = context.is_arm() || context.is_riscv() || context.arch == "loongarch64";
    if highest.is_none() && boards && !context.is_virt() {
        // Boards without PCI have their devices where they are soldered.
        return Ok(());
    }
    let Some(highest) = highest else {
        return match all.elements().find(|device| plug(device, context).is_some()) {
            Some(device) => Err(refuse::xml(format!(
                "<{}> is a PCI device, but machine type '{}' has no PCI bus",
                device.name, context.machine
            ))),
            None => Ok(()),
        };
    };
    if highest > 255 {
        return Err(refuse::xml(format!("PCI controller {highest}: indexes run up to 255")));
    }
    add_missing_controllers(all, highest)?;
    // A first pass on a copy finds out how many buses are needed.
    let mut trial = all.clone();
    let mut buses = collect(&trial, context, true)?;
    fix_chipset(&mut trial, &mut buses, context)?;
    let express = buses.is_express();
    let given = buses.all.len();
    if !express && !context.is_virt() && !buses.all_reserved() && !context.is_s390() {
        // One place is kept for the bridge that more devices would need.
        buses.next(Plug::Pci)?;
    }
    place_all(&mut trial, &mut buses, context)?;
    if express && highest == 0 && buses.all.len() > 1 {
        // A port to plug in another device later.
        buses.next(Plug::Pcie)?;
    }
    // Controllers that were added need places too, which may need more of them.
    let mut added = given;
    while let Some(bus) = buses.all.get(added) {
        if let Some(kind) = Plug::of_controller(&bus.model) {
            buses.next(kind)?;
        }
        added += 1;
    }
    for (index, bus) in buses.all.iter().enumerate().skip(1) {
        let present = all.elements().any(|device| is_controller(device, "pci") && index_of(device) == index);
        if !present {
            all.push(
                Element::new("controller")
                    .with("type", "pci")
                    .with("index", index.to_string())
                    .with("model", bus.model.as_str()),
            );
        }
    }
    devices::arrange(all);
    let mut buses = collect(all, context, false)?;
    fix_chipset(all, &mut buses, context)?;
    place_all(all, &mut buses, context)?;
    complete_controllers(all);
    mark_multifunction(all);
    Ok(())
}

/// Gives the PCI devices of a guest that runs, which have no address yet, one on the buses that there are.
pub(super) fn assign_running(all: &mut Element, context: &Context) -> Result<(), Error> {
    if !all.elements().any(|device| is_controller(device, "pci")) {
        return assign(all, context);
    }
    // The new one is the last: what the chip set has in places of its own was there before it.
    let mut known = all.clone();
    known.children.pop();
    let mut buses = collect(&known, context, false)?;
    buses.runs = true;
    fix_chipset(&mut known, &mut buses, context)?;
    if let Some(new) = all.elements().next_back()
        && let Some((place, _)) = given(new)
        && let Some(kind) = plug(new, context)
    {
        buses.reserve(place, kind, true).map_err(|error| place::of_device(new, &error))?;
    }
    place_all(all, &mut buses, context)
}

/// Indexes below the highest one that are not given are plain bridges or ports.
fn add_missing_controllers(all: &mut Element, highest: usize) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for device in all.elements().filter(|device| is_controller(device, "pci")) {
        if !seen.insert(index_of(device)) {
            return Err(refuse::xml(format!(
                "There are two PCI controllers with index {}; change one",
                index_of(device)
            )));
        }
    }
    let express = all
        .elements()
        .any(|device| is_controller(device, "pci") && device.attr("model") == Some("pcie-root"));
    let model = if express { "pcie-root-port" } else { "pci-bridge" };
    for index in (0..=highest).filter(|index| !seen.contains(index)) {
        all.push(
            Element::new("controller")
                .with("type", "pci")
                .with("index", index.to_string())
                .with("model", model),
        );
    }
    devices::arrange(all);
    Ok(())
}

/// The buses with all addresses that are given.
fn collect(all: &Element, context: &Context, may_grow: bool) -> Result<Buses, Error> {
    let mut controllers: Vec<&Element> =
        all.elements().filter(|device| is_controller(device, "pci")).collect();
    controllers.sort_by_key(|device| index_of(device));
    let mut buses = Buses {
        all: controllers
            .iter()
            .map(|controller| Bus::new(controller.attr("model").unwrap_or_default()))
            .collect(),
        may_grow,
        runs: false,
    };
    for device in all.elements() {
        let Some((place, local)) = given(device) else {
            continue;
        };
        if !local {
            let error = refuse::xml("a guest's PCI addresses are in domain 0; change 'domain'");
            return Err(place::of_device(device, &error));
        }
        let Some(kind) = plug(device, context) else {
            continue;
        };
        buses.reserve(place, kind, true).map_err(|error| place::of_device(device, &error))?;
    }
    Ok(buses)
}

fn at(bus: usize, slot: usize, function: usize) -> Place {
    Place { bus, slot, function }
}

/// What the chip set has in a place of its own.
fn fix_chipset(all: &mut Element, buses: &mut Buses, context: &Context) -> Result<(), Error> {
    if context.is_i440fx() {
        fix(all, buses, at(0, 1, 1), |d| is_controller(d, "ide") && index_of(d) == 0)?;
        fix(all, buses, at(0, 1, 2), |d| {
            is_controller(d, "usb") && index_of(d) == 0 && d.attr("model") == Some("piix3-uhci")
        })?;
        reserve_if_free(buses, at(0, 1, 0))?;
        primary_video(all, buses, at(0, 2, 0))?;
    } else if context.is_q35() {
        fix(all, buses, at(0, 0x1f, 2), |d| is_controller(d, "sata") && index_of(d) == 0)?;
        reserve_if_free(buses, at(0, 0x1f, 0))?;
        reserve_if_free(buses, at(0, 0x1f, 3))?;
        ich9_usb(all, buses)?;
        fix_if_free(all, buses, at(0, 0x1b, 0), |d| d.name == "sound" && d.attr("model") == Some("ich9"))?;
        fix_if_free(all, buses, at(0, 0x1e, 0), |d| {
            is_controller(d, "pci") && d.attr("model") == Some("dmi-to-pci-bridge")
        })?;
        primary_video(all, buses, at(0, 1, 0))?;
    }
    Ok(())
}

fn reserve_if_free(buses: &mut Buses, place: Place) -> Result<(), Error> {
    match buses.reserve(place, Plug::Integrated, false) {
        // Whoever sits there was put there by the definition.
        Err(_) => Ok(()),
        done => done,
    }
}

fn fix(
    all: &mut Element,
    buses: &mut Buses,
    place: Place,
    wanted: impl Fn(&Element) -> bool,
) -> Result<(), Error> {
    let Some(device) = all.elements_mut().find(|device| wanted(device)) else {
        return Ok(());
    };
    if given(device).is_some() || device.child("address").is_some_and(|a| a.attr("type") != Some("pci")) {
        return Ok(());
    }
    buses.reserve(place, Plug::Integrated, false)?;
    set_address(device, element(place, false));
    Ok(())
}

fn fix_if_free(
    all: &mut Element,
    buses: &mut Buses,
    place: Place,
    wanted: impl Fn(&Element) -> bool,
) -> Result<(), Error> {
    if buses.is_free(place) { fix(all, buses, place, wanted) } else { Ok(()) }
}

fn primary_video(all: &mut Element, buses: &mut Buses, place: Place) -> Result<(), Error> {
    let Some(video) = all.child("video") else {
        return Ok(());
    };
    if matches!(video.path_attr("model", "type"), Some("none" | "ramfb")) {
        return Ok(());
    }
    fix_if_free(all, buses, place, |device| {
        device.name == "video" && device.path_attr("model", "primary") == Some("yes")
    })
}

/// The functions of an ICH9 USB controller and its companions.
fn ich9_function(model: Option<&str>) -> Option<usize> {
    Some(match model? {
        "ich9-uhci1" => 0,
        "ich9-uhci2" => 1,
        "ich9-uhci3" => 2,
        "ich9-ehci1" => 7,
        _ => return None,
    })
}

/// On Q35, the first two sets of ICH9 USB controllers are where the real chip has them.
fn ich9_usb(all: &mut Element, buses: &mut Buses) -> Result<(), Error> {
    for (group, slot) in [(0, 0x1d), (1, 0x1a)] {
        let members = |device: &Element| {
            is_controller(device, "usb")
                && index_of(device) == group
                && ich9_function(device.attr("model")).is_some()
        };
        let placed = all.elements().any(|device| members(device) && given(device).is_some());
        if placed || !buses.is_free(at(0, slot, 0)) {
            continue;
        }
        for function in [7, 0, 1, 2] {
            fix(all, buses, at(0, slot, function), |device| {
                members(device) && ich9_function(device.attr("model")) == Some(function)
            })?;
        }
    }
    Ok(())
}

/// All devices that have no address yet, in their order.
fn place_all(all: &mut Element, buses: &mut Buses, context: &Context) -> Result<(), Error> {
    let next = |device: &mut Element, buses: &mut Buses, kind: Plug| -> Result<(), Error> {
        let place = buses.next(kind)?;
        set_address(device, element(place, false));
        Ok(())
    };
    for device in all.elements_mut().filter(|device| is_controller(device, "pci")) {
        if let Some(kind) = plug(device, context)
            && given(device).is_none()
        {
            next(device, buses, kind)?;
        }
    }
    for name in ORDER {
        for position in 0..all.children.len() {
            let Some(Node::Element(device)) = all.children.get(position) else {
                continue;
            };
            // A host's network device is an interface to the guest and a host device to the bus.
            let passed = device.name == "interface" && device.attr("type") == Some("hostdev");
            if passed != (*name == HOST_INTERFACE) || !passed && device.name != *name {
                continue;
            }
            if is_controller(device, "pci") || given(device).is_some() {
                continue;
            }
            let Some(kind) = plug(device, context) else {
                continue;
            };
            let shared = companion_place(all, device);
            let place = match shared {
                Some(place) => {
                    buses.reserve(place, kind, false)?;
                    place
                }
                None => {
                    let function =
                        ich9_function(device.attr("model")).filter(|_| is_controller(device, "usb"));
                    match function {
                        Some(function) => buses.next_slot(kind, function)?,
                        None => buses.next(kind)?,
                    }
                }
            };
            if let Some(Node::Element(device)) = all.children.get_mut(position) {
                set_address(device, element(place, false));
            }
        }
    }
    Ok(())
}

/// A companion of a USB controller sits in the slot of the others of its index.
fn companion_place(all: &Element, device: &Element) -> Option<Place> {
    if !is_controller(device, "usb") {
        return None;
    }
    let function = ich9_function(device.attr("model"))?;
    let (other, _) = all
        .elements()
        .filter(|other| {
            is_controller(other, "usb")
                && index_of(other) == index_of(device)
                && ich9_function(other.attr("model")).is_some()
        })
        .find_map(given)?;
    Some(Place { function, ..other })
}

/// Model names, numbers of chassis and ports.
fn complete_controllers(all: &mut Element) {
    let mut lowest_root = 256_usize;
    for device in all.elements_mut().filter(|device| is_controller(device, "pci")) {
        let index = index_of(device);
        let downstream = device.attr("model") == Some("pcie-switch-downstream-port");
        let port = given(device)
            .map(|(place, _)| if downstream { place.slot } else { (place.slot << 3) | place.function });
        let (name, numbered): (&str, &[&str]) = match device.attr("model").unwrap_or_default() {
            "pci-bridge" => ("pci-bridge", &["chassisNr"]),
            "pcie-root-port" => ("pcie-root-port", &["chassis", "port"]),
            "pcie-switch-upstream-port" => ("x3130-upstream", &[]),
            "pcie-switch-downstream-port" => ("xio3130-downstream", &["chassis", "port"]),
            "dmi-to-pci-bridge" => ("i82801b11-bridge", &[]),
            "pcie-to-pci-bridge" => ("pcie-pci-bridge", &[]),
            "pci-expander-bus" => ("pxb", &["busNr"]),
            "pcie-expander-bus" => ("pxb-pcie", &["busNr"]),
            _ => continue,
        };
        if device.child("model").is_none() {
            let model = Element::new("model").with("name", name);
            device.children.insert(0, Node::Element(model));
        }
        for attribute in numbered {
            if let Some(given) = device.path_attr("target", attribute) {
                if *attribute == "busNr" {
                    lowest_root = lowest_root.min(given.parse().unwrap_or(256));
                }
                continue;
            }
            let value = match *attribute {
                "port" => format!("0x{:x}", port.unwrap_or(0)),
                "busNr" => {
                    lowest_root = lowest_root.saturating_sub(2);
                    lowest_root.to_string()
                }
                _ => index.to_string(),
            };
            if device.child("target").is_none() {
                device.children.insert(1, Node::Element(Element::new("target")));
            }
            if let Some(target) = device.child_mut("target") {
                target.set(attribute, value);
                const ATTRIBUTES: &[&str] = &["chassisNr", "chassis", "port", "busNr", "index", "hotplug"];
                target.attributes.sort_by_key(|(name, _)| ATTRIBUTES.iter().position(|known| known == name));
            }
        }
    }
}

/// Function 0 says so where a slot has more than one function that was put there by us.
fn mark_multifunction(all: &mut Element) {
    let places: Vec<Place> = all.elements().filter_map(given).map(|(place, _)| place).collect();
    for device in all.elements_mut() {
        let Some((place, _)) = given(device) else {
            continue;
        };
        let siblings = places
            .iter()
            .any(|other| other.bus == place.bus && other.slot == place.slot && other.function != 0);
        if place.function == 0
            && siblings
            && let Some(address) = device.child_mut("address")
            && address.attr("multifunction").is_none()
        {
            address.set("multifunction", "on");
        }
    }
}
