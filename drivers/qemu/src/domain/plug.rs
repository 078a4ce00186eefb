//! One device on its own, beside a guest that runs or a definition that it is added to.

use super::host::Host;
use super::machine::Settled;
use super::{Definition, addresses, devices, drives, machine, refuse};
use crate::device::{self, controller, siblings};
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};

/// A guest with a device that was added to it.
#[derive(Debug, Clone)]
pub(crate) struct Plugged {
    /// The guest's tree with it.
    pub(crate) root: Element,
    /// The alias of the new one; a lease has none.
    pub(crate) alias: String,
}

/// Completes a device that a client sent, for a guest of that tree. It has no address yet unless the client gave one.
///
/// # Errors
/// What is no device, contradicts itself, or does not suit the guest.
pub(crate) fn complete(root: &Element, given: &Element, host: &Host) -> Result<Element, Error> {
    let device = read(root, given, host)?;
    let Settled { context, .. } = machine::settle(root, host)?;
    if device.name == "memory" && root.child("maxMemory").is_none() {
        return Err(refuse::unsupported(
            "cannot use/hotplug a memory device when domain 'maxMemory' is not defined; define it",
        ));
    }
    device::check(&device, &context)?;
    if device.child("boot").is_some() && root.at("os/boot").is_some() {
        return Err(refuse::unsupported(format!(
            "<{}>: per-device boot elements cannot be used together with os/boot elements; remove one",
            device.name
        )));
    }
    Ok(device)
}

/// Reads a device that a client sent, which need not suit the guest.
///
/// # Errors
/// What is no device, or contradicts itself.
pub(crate) fn read(root: &Element, given: &Element, host: &Host) -> Result<Element, Error> {
    let Settled { context, .. } = machine::settle(root, host)?;
    let unknown = || refuse::unsupported(format!("unknown device type '{}'", given.name));
    if given.name == "redirfilter" {
        return Err(unknown());
    }
    let mut device = device::complete(given, &context)?.ok_or_else(unknown)?;
    device.position = given.position;
    if device.name == "interface" && device.child("mac").is_none() {
        let mac = Element::new("mac").with("address", host.new_mac());
        device.children.insert(0, Node::Element(mac));
    }
    Ok(device)
}

/// Adds a complete device to a guest that runs, with an address and an alias.
///
/// # Errors
/// What clashes with the guest's other devices, and that there is no place for it.
pub(crate) fn plug(root: &Element, device: Element, host: &Host) -> Result<Plugged, Error> {
    let Settled { context, .. } = machine::settle(root, host)?;
    let mut root = root.clone();
    let before: Vec<String> = aliases(&root);
    let own = device.path_attr("alias", "name").map(str::to_owned);
    if own.as_ref().is_some_and(|own| before.contains(own)) {
        return Err(refuse::unsupported(format!(
            "alias '{}' is another device's already; choose another",
            own.unwrap_or_default()
        )));
    }
    let name = device.name.clone();
    let mut device = device;
    if name == "controller" && device.attr("index").is_none() {
        let kind = device.attr("type");
        let taken: Vec<&str> = root
            .child("devices")
            .into_iter()
            .flat_map(|devices| devices.all("controller"))
            .filter(|other| other.attr("type") == kind)
            .filter_map(|other| other.attr("index"))
            .collect();
        let free =
            (0..=taken.len()).map(|index| index.to_string()).find(|index| !taken.contains(&index.as_str()));
        let place = usize::from(kind.is_some()).min(device.attributes.len());
        device.attributes.insert(place, ("index".to_owned(), free.unwrap_or_default()));
    }
    let mut all = root.take("devices").unwrap_or_else(|| Element::new("devices"));
    all.push(device);
    drives::assign(&mut all)?;
    device::character::number_ports(&mut all);
    siblings::check(&all, &context)?;
    siblings::check_for_qemu(&all, &context)?;
    addresses::plug(&mut all, &context)?;
    devices::arrange(&mut all);
    let mut place = root.children.len();
    if let Some(found) = root
        .children
        .iter()
        .position(|node| matches!(node, Node::Element(e) if AFTER_DEVICES.contains(&e.name.as_str())))
    {
        place = found;
    }
    root.children.insert(place, Node::Element(all));
    crate::args::alias::assign(&mut root);
    let is_new = |alias: &&str| !before.iter().any(|known| known == alias);
    let alias = {
        let devices = root.child("devices").into_iter().flat_map(|devices| devices.all(&name));
        let mut aliases = devices.filter_map(|device| device.path_attr("alias", "name"));
        aliases.find(is_new).map(str::to_owned).unwrap_or_default()
    };
    Ok(Plugged { root, alias })
}

/// The SCSI controllers that a device of a guest that runs needs and that are not there: below the one that is named there are
/// none missing.
///
/// # Errors
/// A controller beyond reason.
pub(crate) fn missing_controllers(
    root: &Element,
    device: &Element,
    host: &Host,
) -> Result<Vec<Element>, Error> {
    let scsi = device.name == "disk" && device.path_attr("target", "bus") == Some("scsi")
        || device.name == "hostdev" && device.attr("type") == Some("scsi");
    if !scsi {
        return Ok(Vec::new());
    }
    let Settled { context, .. } = machine::settle(root, host)?;
    let mut alone = Element::new("devices").with_child(device.clone());
    drives::assign(&mut alone)?;
    let placed = alone.elements().next();
    let last =
        placed.and_then(|placed| placed.path_attr("address", "controller")?.parse::<u32>().ok()).unwrap_or(0);
    if last > 64 {
        return Err(refuse::xml(format!("SCSI controller {last} is beyond reason")));
    }
    let devices = root.child("devices");
    let is_there = |index: &str| {
        let mut controllers = devices.into_iter().flat_map(|devices| devices.all("controller"));
        controllers.any(|other| other.attr("type") == Some("scsi") && other.attr("index") == Some(index))
    };
    let indexes = (0..=last).map(|index| index.to_string()).filter(|index| !is_there(index));
    let made = indexes.map(|index| {
        let made = Element::new("controller").with("type", "scsi").with("index", index);
        match controller::default_model("scsi", &context) {
            Some(model) => made.with("model", model),
            None => made,
        }
    });
    Ok(made.collect())
}

/// Puts a device into a tree where libvirt prints it.
pub(crate) fn add(root: &mut Element, device: Element) {
    if let Some(all) = root.child_mut("devices") {
        all.push(device);
        devices::arrange(all);
    }
}

/// What stands behind the devices of a domain.
const AFTER_DEVICES: &[&str] = &["seclabel", "keywrap", "launchSecurity", "qemu:commandline"];

fn aliases(root: &Element) -> Vec<String> {
    let devices = root.child("devices").into_iter().flat_map(Element::elements);
    devices.filter_map(|device| device.path_attr("alias", "name")).map(str::to_owned).collect()
}

impl Definition {
    /// A device of a definition as it is in the live tree, without what belongs to one run of the guest.
    pub(crate) fn inactive_device(live: &Element) -> Element {
        let mut device = live.clone();
        let alias = live.path_attr("alias", "name").unwrap_or_default();
        let own = alias.starts_with("ua-");
        // A socket that was made for this run.
        let made = format!("/{alias}.sock");
        if device.path_attr("source", "path").is_some_and(|path| path.ends_with(&made)) {
            device.take("source");
        }
        if !own {
            device.take("alias");
        }
        if let Some(target) = device.child_mut("target") {
            target.unset("state");
        }
        if device.attr("type") == Some("pty") {
            device.take("source");
            device.unset("tty");
        }
        if let Some(source) = device.child_mut("source") {
            source.unset("index");
        }
        if device.name == "disk"
            && device
                .child("source")
                .is_some_and(|source| source.attributes.is_empty() && source.children.is_empty())
        {
            device.take("source");
        }
        device
    }
}
