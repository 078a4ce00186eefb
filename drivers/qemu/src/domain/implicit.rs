//! What a machine has though the definition does not name it: root buses, controllers that other devices need,
//! input devices, a memory balloon, consoles' twins.

use super::context::Context;
use super::refuse;
use crate::device;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Adds all that is missing.
pub(super) fn add(devices: &mut Element, root: &Element, context: &Context) -> Result<(), Error> {
    consoles(devices, context)?;
    addresses_of_interfaces(devices, context);
    device::character::number_ports(devices);
    controllers(devices, context)?;
    companions(devices, context)?;
    simple(devices, root, context)?;
    Ok(())
}

fn has(devices: &Element, kind: &str) -> bool {
    devices.child(kind).is_some()
}

fn made(text: Element, context: &Context) -> Result<Element, Error> {
    Ok(device::complete(&text, context)?.unwrap_or(text))
}

/// Every interface has a MAC address.
fn addresses_of_interfaces(devices: &mut Element, context: &Context) {
    for interface in devices.elements_mut().filter(|device| device.name == "interface") {
        if interface.child("mac").is_none() {
            let mac = Element::new("mac").with("address", context.host.new_mac());
            interface.children.insert(0, bulkhead_xml::Node::Element(mac));
        }
    }
}

/// The first console of an x86 guest is its first serial port, and the other way round.
fn consoles(devices: &mut Element, context: &Context) -> Result<(), Error> {
    let first_console = devices.child("console").cloned();
    let is_serial = |console: &Element| matches!(console.path_attr("target", "type"), None | Some("serial"));
    match (first_console, devices.child("serial").cloned()) {
        (Some(console), None) if is_serial(&console) => {
            let mut twin = console.clone();
            twin.name = "serial".to_owned();
            twin.take("target");
            twin.take("address");
            if let Some(address) = console.child("address") {
                twin.push(address.clone());
            }
            let serial = made(twin, context)?;
            devices.push(serial);
        }
        (other, Some(serial)) if !context.is_s390() && other.as_ref().is_none_or(|c| !is_serial(c)) => {
            let kind = serial.path_attr("target", "type").unwrap_or_default();
            if !matches!(kind, "usb-serial" | "pci-serial" | "isa-debug") {
                let mut twin = serial.clone();
                twin.name = "console".to_owned();
                twin.take("target");
                twin.take("address");
                twin.take("alias");
                twin.push(Element::new("target").with("type", "serial").with("port", "0"));
                let twin = made(twin, context)?;
                let place = devices
                    .children
                    .iter()
                    .position(|node| matches!(node, bulkhead_xml::Node::Element(e) if e.name == "console"))
                    .unwrap_or(devices.children.len());
                if other.is_some_and(|console| console.path_attr("target", "port") == Some("0")) {
                    shift_consoles(devices);
                }
                devices.children.insert(place, bulkhead_xml::Node::Element(twin));
            }
        }
        _ => {}
    }
    // The twin shows what its serial port is connected to.
    let serial = devices.child("serial").cloned();
    if let (Some(serial), Some(console)) = (serial, devices.child_mut("console"))
        && is_serial(console)
    {
        let target = console.take("target");
        let kind = serial.attr("type").unwrap_or_default().to_owned();
        console.attributes = vec![("type".to_owned(), kind)];
        console.children.clear();
        for child in serial.elements() {
            match child.name.as_str() {
                "target" => console.push(
                    target
                        .clone()
                        .unwrap_or_else(|| Element::new("target").with("type", "serial").with("port", "0")),
                ),
                _ => console.push(child.clone()),
            }
        }
    }
    Ok(())
}

/// The first console's twin takes port 0; the others move on.
fn shift_consoles(devices: &mut Element) {
    for console in devices.elements_mut().filter(|device| device.name == "console") {
        if let Some(port) = console.path_attr("target", "port").and_then(|port| port.parse::<u32>().ok())
            && let Some(target) = console.child_mut("target")
        {
            target.set("port", port.saturating_add(1).to_string());
        }
    }
}

fn controller(kind: &str, index: u32) -> Element {
    Element::new("controller").with("type", kind).with("index", index.to_string())
}

fn controllers_of<'a>(devices: &'a Element, kind: &'a str) -> impl Iterator<Item = &'a Element> {
    devices.all("controller").filter(move |controller| controller.attr("type") == Some(kind))
}

fn number(element: &Element, name: &str) -> u32 {
    element
        .attr(name)
        .and_then(device::value::any_base)
        .and_then(|value| u32::try_from(value).ok())
        .unwrap_or(0)
}

/// The model of a USB controller of which none is named.
fn usb_model(context: &Context, explicit: bool) -> Option<&'static str> {
    if context.is_q35() {
        return Some(if explicit { "piix3-uhci" } else { "qemu-xhci" });
    }
    if context.is_x86() || context.arch == "ppc" {
        return Some("piix3-uhci");
    }
    if context.arch.starts_with("ppc64") || context.machine == "mac99" || context.is_virt() {
        return Some("qemu-xhci");
    }
    match context.machine.as_str() {
        "versatilepb" if explicit => Some("piix3-uhci"),
        "realview-pbx-a9" if explicit => Some("qemu-xhci"),
        "versatilepb" | "realview-pbx-a9" | "realview-eb" => Some("pci-ohci"),
        _ => None,
    }
}

/// Indexes and models of controllers that are given, and those that the machine always has.
fn controllers(devices: &mut Element, context: &Context) -> Result<(), Error> {
    index_controllers(devices);
    for controller in devices.elements_mut().filter(|device| device.name == "controller") {
        let model = match controller.attr("type") {
            Some("usb") if controller.attr("model").is_none() => usb_model(context, true),
            _ => None,
        };
        if let Some(model) = model {
            controller.set("model", model);
            arrange_controller(controller);
        }
    }
    let explicit_usb = controllers_of(devices, "usb").next().is_some();
    let default_usb = context.is_i440fx()
        || context.is_q35()
        || context.arch.starts_with("ppc")
        || matches!(context.machine.as_str(), "versatilepb" | "realview-pbx-a9" | "realview-eb");
    if !explicit_usb
        && default_usb
        && let Some(model) = usb_model(context, false)
    {
        devices.push(controller("usb", 0).with("model", model));
    }
    if context.is_q35() && controllers_of(devices, "sata").next().is_none() {
        devices.push(controller("sata", 0));
    }
    let root_model = if context.is_q35() || context.is_virt() {
        Some("pcie-root")
    } else if context.is_i440fx()
        || context.is_s390()
        || context.arch.starts_with("ppc")
        || context.machine == "versatilepb"
    {
        Some("pci-root")
    } else {
        None
    };
    if let Some(model) = root_model {
        add_root(devices, model, context)?;
    }
    Ok(())
}

fn arrange_controller(controller: &mut Element) {
    const ATTRIBUTES: &[&str] = &["type", "index", "model"];
    controller.attributes.sort_by_key(|(name, _)| {
        ATTRIBUTES.iter().position(|known| known == name).unwrap_or(ATTRIBUTES.len())
    });
}

/// A controller without an index gets the lowest free one of its type. Companions of a USB controller share its.
fn index_controllers(devices: &mut Element) {
    let mut taken: std::collections::BTreeMap<String, std::collections::BTreeSet<u32>> =
        std::collections::BTreeMap::new();
    for controller in devices.all("controller").filter(|c| c.attr("index").is_some()) {
        let kind = controller.attr("type").unwrap_or_default().to_owned();
        taken.entry(kind).or_default().insert(number(controller, "index"));
    }
    // The set of ICH9 controllers that is being read: its index and the models that it has.
    let mut set: Option<(u32, Vec<String>)> = None;
    for controller in devices.elements_mut().filter(|device| device.name == "controller") {
        let model = controller.attr("model").unwrap_or_default().to_owned();
        let companion = controller.attr("type") == Some("usb") && model.starts_with("ich9-");
        if controller.attr("index").is_some() {
            if companion {
                let index = number(controller, "index");
                match &mut set {
                    Some((current, models)) if *current == index => models.push(model),
                    _ => set = Some((index, vec![model])),
                }
            }
            continue;
        }
        if companion
            && let Some((index, models)) = &mut set
            && !models.contains(&model)
        {
            models.push(model);
            controller.set("index", index.to_string());
            arrange_controller(controller);
            continue;
        }
        let used = taken.entry(controller.attr("type").unwrap_or_default().to_owned()).or_default();
        let free = (0..).find(|index| !used.contains(index)).unwrap_or(0);
        used.insert(free);
        if companion {
            set = Some((free, vec![model]));
        }
        controller.set("index", free.to_string());
        arrange_controller(controller);
    }
}

fn add_root(devices: &mut Element, model: &str, context: &Context) -> Result<(), Error> {
    let mut found = None;
    for pci in devices
        .elements_mut()
        .filter(|device| device.name == "controller" && device.attr("type") == Some("pci"))
    {
        let index = number(pci, "index");
        let given = pci.attr("model").unwrap_or_default().to_owned();
        let is_root = given == "pci-root" || given == "pcie-root";
        if index == 0 {
            if given != model {
                return Err(Error::new(
                    bulkhead_wire::error::Code::XML_ERROR,
                    bulkhead_wire::error::Origin::QEMU,
                    format!("The PCI controller with index 0 is '{given}', but this machine has '{model}'"),
                ));
            }
            found = Some(());
        } else if is_root && !context.is_pseries() {
            return Err(Error::new(
                bulkhead_wire::error::Code::XML_ERROR,
                bulkhead_wire::error::Origin::QEMU,
                format!("A controller of model '{given}' has index 0, not {index}"),
            ));
        }
    }
    if found.is_none() {
        devices.push(controller("pci", 0).with("model", model));
    }
    if context.is_pseries() {
        complete_host_bridges(devices)?;
    }
    Ok(())
}

/// The host bridges of sPAPR guests carry a number.
fn complete_host_bridges(devices: &mut Element) -> Result<(), Error> {
    let mut used: std::collections::BTreeSet<u32> =
        devices.all("controller").filter_map(|c| c.path_attr("target", "index")?.parse().ok()).collect();
    for bridge in devices
        .elements_mut()
        .filter(|device| device.name == "controller" && device.attr("model") == Some("pci-root"))
    {
        let index = number(bridge, "index");
        if bridge.child("model").is_none() {
            let model = Element::new("model").with("name", "spapr-pci-host-bridge");
            bridge.children.insert(0, bulkhead_xml::Node::Element(model));
        }
        if bridge.path_attr("target", "index").is_none() {
            let free = if index == 0 { 0 } else { (1..).find(|number| !used.contains(number)).unwrap_or(0) };
            used.insert(free);
            if bridge.child("target").is_none() {
                bridge.children.insert(1, bulkhead_xml::Node::Element(Element::new("target")));
            }
            bridge.child_or_insert("target").set("index", free.to_string());
        } else if (bridge.path_attr("target", "index") == Some("0")) != (index == 0) {
            return Err(refuse::unsupported(
                "Only the PCI controller with index 0 has target index 0, and no other",
            ));
        }
    }
    Ok(())
}

/// Controllers that disks, channels and hostdevs need.
fn companions(devices: &mut Element, context: &Context) -> Result<(), Error> {
    super::drives::assign(devices)?;
    let mut wanted: Vec<(&'static str, u32)> = Vec::new();
    for device in devices.elements() {
        let address = device.child("address");
        let index = |name| address.map_or(0, |address| number(address, name));
        match device.name.as_str() {
            "disk" => {
                let kind = match device.path_attr("target", "bus") {
                    Some("ide") => "ide",
                    Some("scsi") => "scsi",
                    Some("sata") => "sata",
                    Some("fdc") => "fdc",
                    _ => continue,
                };
                wanted.push((kind, index("controller")));
            }
            "hostdev" if device.attr("type") == Some("scsi") => wanted.push(("scsi", index("controller"))),
            "smartcard" => wanted.push(("ccid", index("controller"))),
            "channel" if device.path_attr("target", "type") == Some("virtio") => {
                wanted.push(("virtio-serial", index("controller")));
            }
            "console" if device.path_attr("target", "type") == Some("virtio") => {
                wanted.push(("virtio-serial", index("controller")));
            }
            _ => {}
        }
    }
    for kind in ["scsi", "fdc", "ide", "sata", "virtio-serial", "ccid"] {
        let Some(last) = wanted.iter().filter(|(k, _)| *k == kind).map(|(_, i)| *i).max() else {
            continue;
        };
        if last > 64 {
            return Err(refuse::xml(format!("Controller {last} of type '{kind}' is beyond reason")));
        }
        // Of buses for disks there are none missing below the last one.
        let disks = !matches!(kind, "virtio-serial" | "ccid");
        for index in 0..=last {
            let present =
                controllers_of(devices, kind).any(|controller| number(controller, "index") == index);
            if !present && (disks || wanted.contains(&(kind, index))) {
                devices.push(controller(kind, index));
            }
        }
    }
    if controllers_of(devices, "ide").next().is_some() && !context.is_i440fx() && context.machine != "isapc" {
        return Err(refuse::unsupported_by_qemu(format!(
            "Machine type '{}' has no IDE controller; use bus 'sata' or 'virtio'",
            context.machine
        )));
    }
    if controllers_of(devices, "ide").any(|ide| number(ide, "index") > 0) {
        return Err(refuse::unsupported_by_qemu("This machine has one IDE controller, index 0"));
    }
    for scsi in devices
        .elements_mut()
        .filter(|d| d.name == "controller" && d.attr("type") == Some("scsi") && d.attr("model").is_none())
    {
        if let Some(model) = device::controller::default_model("scsi", context) {
            scsi.set("model", model);
            arrange_controller(scsi);
        }
    }
    Ok(())
}

/// Devices that are there unless the definition says otherwise.
fn simple(devices: &mut Element, root: &Element, context: &Context) -> Result<(), Error> {
    let ps2 = root.path_attr("features/ps2", "state") != Some("off");
    let graphical = has(devices, "graphics");
    if context.is_x86() && ps2 && context.machine != "microvm" {
        for kind in ["mouse", "keyboard"] {
            let present = devices
                .all("input")
                .any(|input| input.attr("type") == Some(kind) && input.attr("bus") == Some("ps2"));
            if !present {
                devices.push(Element::new("input").with("type", kind).with("bus", "ps2"));
            }
        }
    }
    if graphical && !has(devices, "video") {
        let video = made(Element::new("video"), context)?;
        devices.push(video);
    }
    mark_primary(devices)?;
    audio(devices);
    let pc = context.is_i440fx() || context.is_q35();
    let balloon = if context.is_x86() { pc } else { !context.is_arm() && context.arch != "loongarch64" };
    if balloon && !has(devices, "memballoon") {
        devices.push(Element::new("memballoon").with("model", "virtio"));
    }
    if context.is_q35() && !devices.all("watchdog").any(|w| w.attr("model") == Some("itco")) {
        let action = devices
            .child("watchdog")
            .and_then(|watchdog| watchdog.attr("action"))
            .unwrap_or("reset")
            .to_owned();
        devices.push(Element::new("watchdog").with("model", "itco").with("action", action));
    }
    let panic = if context.is_pseries() {
        Some("pseries")
    } else if context.is_s390() {
        Some("s390")
    } else {
        None
    };
    if let Some(model) = panic
        && !devices.all("panic").any(|panic| panic.attr("model") == Some(model))
    {
        devices.push(Element::new("panic").with("model", model));
    }
    Ok(())
}

/// One video adapter is the primary one, and stands first.
fn mark_primary(devices: &mut Element) -> Result<(), Error> {
    let videos: Vec<Element> = devices.all("video").cloned().collect();
    if videos.is_empty() {
        return Ok(());
    }
    let none = videos.iter().any(|video| video.path_attr("model", "type") == Some("none"));
    if none {
        if videos.len() > 1 {
            return Err(refuse::unsupported("A video adapter 'none' is the only one; remove the others"));
        }
        return Ok(());
    }
    let primaries = videos.iter().filter(|video| video.path_attr("model", "primary") == Some("yes")).count();
    if primaries > 1 {
        return Err(refuse::internal("Two video adapters are primary; there is one"));
    }
    let first =
        videos.iter().position(|video| video.path_attr("model", "primary") == Some("yes")).unwrap_or(0);
    let mut sorted = videos;
    let mut primary = sorted.remove(first);
    if let Some(model) = primary.child_mut("model")
        && model.attr("primary").is_none()
    {
        let place = ["blob", "edid"]
            .iter()
            .filter_map(|name| model.attributes.iter().position(|(known, _)| known == name))
            .min()
            .unwrap_or(model.attributes.len());
        model.attributes.insert(place, ("primary".to_owned(), "yes".to_owned()));
    }
    sorted.insert(0, primary);
    let mut sorted = sorted.into_iter();
    for video in devices.elements_mut().filter(|device| device.name == "video") {
        if let Some(next) = sorted.next() {
            *video = next;
        }
    }
    Ok(())
}

/// Guests have a backend for sound even if there is nothing to hear; which, says the last of the displays that have sound.
/// Displays that have none, alone, leave a silent guest without a backend.
fn audio(devices: &mut Element) {
    if has(devices, "audio") {
        return;
    }
    let displays: Vec<&str> = devices.all("graphics").filter_map(|g| g.attr("type")).collect();
    let last = displays.iter().rev().copied().find(|kind| matches!(*kind, "vnc" | "spice" | "sdl"));
    let kind = match last {
        Some("spice") => "spice",
        Some("sdl") | None if !displays.is_empty() && !has(devices, "sound") => return,
        _ => "none",
    };
    devices.push(Element::new("audio").with("id", "1").with("type", kind));
}
