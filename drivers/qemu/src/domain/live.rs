//! The XML of a running guest: its number, and the name by which QEMU knows each device.

use super::devices::device_number;
use bulkhead_xml::{Element, Node};
use std::collections::BTreeMap;

/// The definition with the guest's number and all aliases.
pub(super) fn live(root: &Element, id: u32) -> Element {
    let mut root = root.clone();
    root.attributes.retain(|(name, _)| name != "id");
    let place = usize::from(root.attr("type").is_some());
    root.attributes.insert(place, ("id".to_owned(), id.to_string()));
    if let Some(devices) = root.child_mut("devices") {
        name_devices(devices);
    }
    root
}

fn name_devices(devices: &mut Element) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut serial = None;
    for device in devices.elements_mut() {
        if device.child("alias").is_some() {
            continue;
        }
        let twin = device.name == "console"
            && matches!(device.path_attr("target", "type"), Some("serial") | None)
            && device.path_attr("target", "port") == Some("0");
        let alias = match serial.clone().filter(|_| twin) {
            Some(alias) => alias,
            None => match alias(device, &mut counts) {
                Some(alias) => alias,
                None => continue,
            },
        };
        if device.name == "serial" && serial.is_none() {
            serial = Some(alias.clone());
        }
        let place = device
            .children
            .iter()
            .position(|node| {
                matches!(node, Node::Element(e)
                    if matches!(e.name.as_str(), "master" | "rom" | "acpi" | "address" | "pcihole64"))
            })
            .unwrap_or(device.children.len());
        device
            .children
            .insert(place, Node::Element(Element::new("alias").with("name", alias)));
    }
}

/// The alias of a device: that of its place where it has one, else the next of its kind.
fn alias(device: &Element, counts: &mut BTreeMap<String, u32>) -> Option<String> {
    let prefix = match device.name.as_str() {
        "disk" => return disk_alias(device),
        "controller" => return controller_alias(device),
        "interface" => "net",
        "filesystem" => "fs",
        "memballoon" => "balloon",
        "redirdev" => "redir",
        name @ ("smartcard" | "serial" | "parallel" | "console" | "channel" | "input" | "sound" | "video"
        | "hostdev" | "hub" | "watchdog" | "rng" | "panic" | "shmem" | "vsock" | "crypto" | "tpm"
        | "iommu") => name,
        "memory" => match device.attr("model")? {
            "virtio-pmem" => "virtiopmem",
            "virtio-mem" => "virtiomem",
            "sgx-epc" => "epc",
            model => model,
        },
        "audio" => return Some(format!("audio{}", device.attr("id")?)),
        _ => return None,
    };
    let count = counts.entry(prefix.to_owned()).or_insert(0);
    let alias = format!("{prefix}{count}");
    *count += 1;
    Some(alias)
}

fn disk_alias(disk: &Element) -> Option<String> {
    let bus = disk.path_attr("target", "bus")?;
    let part = |name| disk.path_attr("address", name).unwrap_or("0");
    Some(match bus {
        "virtio" | "usb" | "sd" => format!("{bus}-disk{}", device_number(disk.path_attr("target", "dev")?)?),
        "scsi" => format!(
            "scsi{}-{}-{}-{}",
            part("controller"),
            part("bus"),
            part("target"),
            part("unit")
        ),
        _ => format!("{bus}{}-{}-{}", part("controller"), part("bus"), part("unit")),
    })
}

fn controller_alias(controller: &Element) -> Option<String> {
    let index = controller.attr("index")?;
    let root = |model| controller.attr("model") == Some(model);
    Some(match controller.attr("type")? {
        "pci" if root("pcie-root") => "pcie.0".to_owned(),
        "pci" if index == "0" => "pci.0".to_owned(),
        "pci" => format!("pci.{index}"),
        "usb" | "ide" if index == "0" => controller.attr("type")?.to_owned(),
        "sata" if index == "0" => "ide".to_owned(),
        kind => format!("{kind}{index}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_xml::{Limits, parse};

    #[test]
    fn devices_get_the_names_that_qemu_knows_them_by() {
        let text = b"<domain type='qemu'><devices><disk><target dev='vdb' bus='virtio'/><address type='pci'/></disk>\
            <controller type='pci' index='0' model='pcie-root'/><serial type='pty'><target port='0'/></serial>\
            <console type='pty'><target type='serial' port='0'/></console><interface type='user'><alias name='ua-n'/>\
            </interface></devices></domain>";
        let root = parse(text, Limits::default(), "").unwrap();
        let live = live(&root, 7);
        assert_eq!(live.attr("id"), Some("7"));
        let names: Vec<Option<&str>> = live
            .child("devices")
            .unwrap()
            .elements()
            .map(|device| device.path_attr("alias", "name"))
            .collect();
        let expected = ["virtio-disk1", "pcie.0", "serial0", "serial0", "ua-n"].map(Some);
        assert_eq!(names, expected);
        assert!(
            live.to_xml()
                .contains("<alias name='virtio-disk1'/>\n      <address")
        );
    }
}
