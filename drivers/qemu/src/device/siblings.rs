//! What the devices of one guest must not have in common, and what they need of each other.

use super::refusal;
use super::value::decimal;
use super::{disk, interface, video};
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::collections::{BTreeMap, BTreeSet};

/// A rule of all hypervisors.
type Rule = fn(&Element, &Context<'_>) -> Result<(), Error>;

/// Rules of domain XML, in the order in which stock libvirt finds faults.
const RULES: &[Rule] = &[
    one_balloon,
    one_iommu,
    disk_targets_differ,
    host_devices_differ,
    controllers_differ,
    drive_addresses_differ,
    audio_is_there,
    boot_orders_differ,
    no_video_stands_alone,
    hubs_have_usb,
    pci_roots_fit,
];

/// Rules of QEMU.
const QEMU_RULES: &[Rule] = &[
    usb_is_there,
    io_threads_exist,
    throttle_groups_agree,
    lsilogic_has_no_targets,
    other_video_is_secondary,
    spice_is_there,
    spice_audio_is_heard,
    one_opengl_display,
    mediated_display_is_shown,
    one_tpm,
    watchdogs_agree,
    memory_is_shared,
];

/// Checks the complete devices of a guest against each other, before addresses are assigned.
pub(crate) fn check(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    RULES.iter().try_for_each(|rule| rule(devices, context))
}

/// Checks them against each other as QEMU needs it, after each of them was checked.
pub(crate) fn check_for_qemu(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    QEMU_RULES.iter().try_for_each(|rule| rule(devices, context))
}

fn one_balloon(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    match devices.all("memballoon").nth(1) {
        Some(second) => Err(refusal::internal(second, "a guest has one memory balloon; remove this one")),
        None => Ok(()),
    }
}

fn one_iommu(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    match devices.all("iommu").nth(1) {
        Some(second) => Err(refusal::xml(second, "a guest has one IOMMU; remove this one")),
        None => Ok(()),
    }
}

fn disk_targets_differ(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for device in devices.all("disk") {
        let target = disk::View(device).target();
        if !seen.insert(target) {
            return Err(refusal::xml(device, format!("another disk has the target '{target}' too")));
        }
    }
    Ok(())
}

/// What makes a host device the one that it is.
fn host_identity(device: &Element) -> Option<String> {
    let mut source = device.child("source")?.clone();
    for name in ["startupPolicy", "guestReset", "writeFiltering"] {
        source.unset(name);
    }
    let kind = device.attr("type")?;
    if source.child("vendor").is_some() && source.child("address").is_none() {
        // Two devices of one product may be meant.
        return Some(format!("{kind} {}", source.to_xml()));
    }
    source.take("vendor");
    source.take("product");
    Some(format!("{kind} {}", source.to_xml()))
}

fn host_devices_differ(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for device in devices.all("hostdev") {
        if let Some(identity) = host_identity(device)
            && !seen.insert(identity)
        {
            return Err(refusal::xml(device, "the guest has this device of the host already"));
        }
    }
    Ok(())
}

fn controllers_differ(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for device in devices.all("controller") {
        let (Some(kind), Some(index)) = (device.attr("type"), device.attr("index")) else {
            continue;
        };
        // USB companions share the index of their master.
        if kind != "usb" && !seen.insert((kind, index)) {
            return Err(refusal::xml(
                device,
                format!("another controller of type '{kind}' has the index {index} too"),
            ));
        }
    }
    Ok(())
}

fn drive_address(device: &Element) -> Option<(&str, &str, &str, &str)> {
    let address = device.child("address")?;
    if address.attr("type") != Some("drive") {
        return None;
    }
    Some((address.attr("controller")?, address.attr("bus")?, address.attr("target")?, address.attr("unit")?))
}

fn drive_addresses_differ(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    let disks = devices.all("disk").map(|device| (disk::View(device).bus(), device));
    let hosts = devices
        .all("hostdev")
        .filter(|device| device.attr("type") == Some("scsi"))
        .map(|device| ("scsi", device));
    for (bus, device) in disks.chain(hosts) {
        let Some(address) = drive_address(device) else {
            continue;
        };
        if !seen.insert((bus, address)) {
            return Err(refusal::unsupported(
                device,
                format!("another device on bus '{bus}' has its drive address; change one"),
            ));
        }
    }
    Ok(())
}

fn audio_is_there(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for audio in devices.all("audio") {
        if let Some(id) = audio.attr("id")
            && !seen.insert(id)
        {
            return Err(refusal::xml(audio, format!("another <audio> has the id {id} too")));
        }
    }
    for device in devices.elements().filter(|device| device.name != "audio") {
        if let Some(id) = device.path_attr("audio", "id")
            && !seen.contains(id)
            && id != "0"
        {
            return Err(refusal::xml(device, format!("no <audio> has the id {id}")));
        }
    }
    Ok(())
}

fn boot_orders_differ(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    let os_boot = context.document.at("os/boot").is_some();
    for device in devices.elements() {
        let Some(order) = device.path_attr("boot", "order") else {
            continue;
        };
        if os_boot {
            return Err(refusal::unsupported(
                device,
                "a boot order of devices and <boot> of <os> exclude each other; remove one",
            ));
        }
        if !seen.insert(order) {
            return Err(refusal::unsupported(
                device,
                format!("another device has the boot order {order} too"),
            ));
        }
    }
    Ok(())
}

fn no_video_stands_alone(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if devices.all("video").count() < 2 {
        return Ok(());
    }
    match devices.all("video").find(|device| video::View(device).model() == "none") {
        Some(none) => Err(refusal::unsupported(
            none,
            "model 'none' says that there is no video adapter, but there are others",
        )),
        None => Ok(()),
    }
}

fn has_no_usb(devices: &Element) -> bool {
    devices
        .all("controller")
        .any(|device| device.attr("type") == Some("usb") && device.attr("model") == Some("none"))
}

fn hubs_have_usb(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    match devices.child("hub") {
        Some(hub) if has_no_usb(devices) => Err(refusal::unsupported(
            hub,
            "the guest has no USB; remove the hub, or the controller of model 'none'",
        )),
        _ => Ok(()),
    }
}

fn usb_is_there(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if !has_no_usb(devices) {
        return Ok(());
    }
    let found = devices.elements().find(|device| match device.name.as_str() {
        "redirdev" => true,
        "hostdev" => device.attr("type") == Some("usb"),
        "input" => device.attr("bus") == Some("usb"),
        "sound" => device.attr("model") == Some("usb"),
        "disk" => disk::View(device).bus() == "usb",
        _ => device.path_attr("target", "type") == Some("usb-serial"),
    });
    match found {
        Some(device) => Err(refusal::unsupported_by_qemu(
            device,
            "it needs USB, which the guest does not have; remove it, or the controller of model 'none'",
        )),
        None => Ok(()),
    }
}

/// The PCI controller with index 0 is the one on the board.
fn pci_roots_fit(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    let root = match () {
        () if context.is_q35() || context.is_virt() => "pcie-root",
        () if context.is_i440fx() || context.is_pseries() => "pci-root",
        () => return Ok(()),
    };
    for device in devices.all("controller").filter(|device| device.attr("type") == Some("pci")) {
        let model = device.attr("model").unwrap_or_default();
        let first = device.attr("index") == Some("0");
        let refuse = |message: String| {
            Err(Error::new(
                Code::XML_ERROR,
                Origin::QEMU,
                format!("<controller> ({}): {message}", device.position),
            ))
        };
        if first && model != root {
            return refuse(format!(
                "on machine '{}' the PCI controller with index 0 is a '{root}', not a '{model}'",
                context.machine
            ));
        }
        let indexed = device.attr("index").is_some();
        if indexed && !first && matches!(model, "pci-root" | "pcie-root") && !context.is_pseries() {
            return refuse(format!("a '{model}' has the index 0"));
        }
    }
    Ok(())
}

/// The numbers of the guest's I/O threads.
fn io_threads(document: &Element) -> BTreeSet<u64> {
    let mut ids: BTreeSet<u64> = document
        .child("iothreadids")
        .into_iter()
        .flat_map(|ids| ids.all("iothread"))
        .filter_map(|thread| thread.attr("id").and_then(decimal))
        .collect();
    let count = document.child_text("iothreads").and_then(|count| decimal(count.trim())).unwrap_or(0);
    let mut next = 1;
    while (ids.len() as u64) < count.min(u64::from(u16::MAX)) {
        ids.insert(next);
        next += 1;
    }
    ids
}

fn io_threads_exist(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    let ids = io_threads(context.document);
    for device in devices.elements().filter(|device| matches!(device.name.as_str(), "disk" | "controller")) {
        let Some(driver) = device.child("driver") else {
            continue;
        };
        let several = driver
            .child("iothreads")
            .into_iter()
            .flat_map(|threads| threads.all("iothread"))
            .filter_map(|thread| thread.attr("id"));
        for id in driver.attr("iothread").into_iter().chain(several) {
            if !decimal(id).is_some_and(|id| ids.contains(&id)) {
                return Err(refusal::unsupported_by_qemu(
                    device,
                    format!("I/O thread {id} does not exist; add it to <iothreadids>"),
                ));
            }
        }
    }
    Ok(())
}

fn throttle_groups_agree(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let mut groups: BTreeMap<String, &Element> = BTreeMap::new();
    for device in devices.all("disk") {
        let Some(limits) = device.child("iotune") else {
            continue;
        };
        let Some(group) = limits.child_text("group_name") else {
            continue;
        };
        let earlier = groups.entry(group).or_insert(limits);
        if *earlier != limits {
            return Err(refusal::unsupported_by_qemu(
                device,
                format!("'{}' has other limits than another disk of its group", disk::View(device).target()),
            ));
        }
    }
    Ok(())
}

fn lsilogic_has_no_targets(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let lsilogic: BTreeSet<&str> = devices
        .all("controller")
        .filter(|device| device.attr("type") == Some("scsi") && device.attr("model") == Some("lsilogic"))
        .filter_map(|device| device.attr("index"))
        .collect();
    for device in devices.all("disk").filter(|device| disk::View(device).bus() == "scsi") {
        if let Some((controller, _, target, _)) = drive_address(device)
            && lsilogic.contains(controller)
            && target != "0"
        {
            return Err(refusal::unsupported_by_qemu(
                device,
                "the target of an address on a controller of model 'lsilogic' is 0",
            ));
        }
    }
    Ok(())
}

fn spice_is_there(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if devices.all("graphics").any(|display| display.attr("type") == Some("spice")) {
        return Ok(());
    }
    let kinds = ["serial", "parallel", "console", "channel", "redirdev", "smartcard"];
    let asking = devices
        .elements()
        .filter(|device| kinds.contains(&device.name.as_str()))
        .find(|device| matches!(device.attr("type"), Some("spicevmc" | "spiceport")));
    match asking {
        Some(device) => Err(refusal::unsupported_by_qemu(
            device,
            "its connection is one of SPICE's, but the guest has no <graphics type='spice'>; add one",
        )),
        None => Ok(()),
    }
}

fn spice_audio_is_heard(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if devices.all("graphics").any(|display| display.attr("type") == Some("spice")) {
        return Ok(());
    }
    match devices.all("audio").find(|audio| audio.attr("type") == Some("spice")) {
        Some(audio) => Err(refusal::unsupported_by_qemu(
            audio,
            "audio of type 'spice' needs <graphics type='spice'>; add one",
        )),
        None => Ok(()),
    }
}

/// The adapters that need not be the first are those without a VGA.
fn other_video_is_secondary(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let primary = devices.all("video").position(|device| video::View(device).is_primary()).unwrap_or(0);
    let found = devices.all("video").enumerate().find(|(index, device)| {
        *index != primary && !matches!(video::View(device).model(), "qxl" | "virtio")
    });
    match found {
        Some((_, device)) => Err(refusal::unsupported_by_qemu(
            device,
            format!(
                "video model '{}' can only be the primary one; use 'virtio' for others",
                video::View(device).model()
            ),
        )),
        None => Ok(()),
    }
}

/// Whether a display draws with the host's OpenGL.
fn has_opengl(display: &Element) -> bool {
    match display.attr("type") {
        Some("egl-headless") => true,
        Some("spice" | "sdl" | "dbus") => display.path_attr("gl", "enable") == Some("yes"),
        _ => false,
    }
}

fn one_opengl_display(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    match devices.all("graphics").filter(|display| has_opengl(display)).nth(1) {
        Some(second) => Err(refusal::unsupported_by_qemu(
            second,
            "QEMU draws with OpenGL on one display at most; disable it on this one",
        )),
        None => Ok(()),
    }
}

fn mediated_display_is_shown(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if devices.child("graphics").is_some() {
        return Ok(());
    }
    match devices.all("hostdev").find(|device| device.attr("display") == Some("on")) {
        Some(device) => {
            Err(refusal::unsupported_by_qemu(device, "its display needs a <graphics> device; add one"))
        }
        None => Ok(()),
    }
}

fn one_tpm(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    let proxy = |device: &&Element| device.attr("model") == Some("tpm-spapr-proxy");
    let proxies = devices.all("tpm").filter(proxy).nth(1);
    let others = devices.all("tpm").filter(|device| !proxy(device)).nth(1);
    match proxies.or(others) {
        Some(second) => Err(refusal::unsupported_by_qemu(
            second,
            "a guest has one TPM, and one TPM proxy; remove this one",
        )),
        None => Ok(()),
    }
}

fn watchdogs_agree(devices: &Element, _: &Context<'_>) -> Result<(), Error> {
    if let Some(second) = devices.all("watchdog").filter(|device| device.attr("model") == Some("itco")).nth(1)
    {
        return Err(refusal::unsupported_by_qemu(second, "a guest has one watchdog of model 'itco'"));
    }
    let mut actions = devices.all("watchdog").map(|device| (device, device.attr("action")));
    let Some((_, first)) = actions.next() else {
        return Ok(());
    };
    match actions.find(|(_, action)| *action != first) {
        Some((other, _)) => {
            Err(refusal::unsupported_by_qemu(other, "all watchdogs of a guest take the same action"))
        }
        None => Ok(()),
    }
}

/// Whether other processes can map the guest's memory.
fn shares_memory(context: &Context<'_>) -> bool {
    let document = context.document;
    let shared = |element: &Element, name: &str| element.attr(name) == Some("shared");
    document.at("memoryBacking/access").is_some_and(|access| access.attr("mode") == Some("shared"))
        || document.at("cpu/numa").is_some_and(|numa| {
            numa.all("cell").next().is_some() && numa.all("cell").all(|cell| shared(cell, "memAccess"))
        })
        || context.is_s390()
}

fn memory_is_shared(devices: &Element, context: &Context<'_>) -> Result<(), Error> {
    if shares_memory(context) {
        return Ok(());
    }
    for device in devices.elements() {
        let needs = match device.name.as_str() {
            "interface" => interface::View(device).kind() == "vhostuser",
            "disk" => disk::View(device).kind() == "vhostuser",
            "filesystem" => device.path_attr("driver", "type") == Some("virtiofs"),
            _ => false,
        };
        if needs {
            return Err(refusal::unsupported_by_qemu(
                device,
                "another process serves it, which needs the guest's memory: add <access mode='shared'/> to <memoryBacking>",
            ));
        }
    }
    Ok(())
}
