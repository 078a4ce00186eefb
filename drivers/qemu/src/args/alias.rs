//! Aliases: the names by which devices are known to QEMU and in a running guest's XML.

use super::builder::{is_family, number_attr};
use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// Gives every device of a `<domain>` that has no `<alias>` the one that libvirt derives.
pub fn assign(root: &mut Element) {
    let guest = Guest::of(root);
    let lsi: Vec<u64> = root
        .child("devices")
        .into_iter()
        .flat_map(|devices| devices.all("controller"))
        .filter(|controller| controller.attr("type") == Some("scsi"))
        .filter(|controller| matches!(controller.attr("model"), Some("lsilogic")))
        .filter_map(|controller| number_attr(controller, "index").ok().flatten())
        .collect();
    let Some(devices) = root.child_mut("devices") else {
        return;
    };
    let mut next = Counters::of(devices);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut serial =
        devices.child("serial").and_then(|first| first.path_attr("alias", "name")).map(str::to_owned);
    for device in devices.elements_mut() {
        let place = seen.entry(device.name.clone()).or_default();
        let number = *place;
        *place += 1;
        if device.path_attr("alias", "name").is_some() {
            continue;
        }
        // The first console of type serial is the first serial device.
        if device.name == "console" && device.path_attr("target", "type") == Some("serial") {
            if let Some(alias) = &serial {
                insert(device, alias);
            }
            continue;
        }
        let Some(alias) = derive(device, number, &guest, &lsi, &mut next) else {
            continue;
        };
        insert(device, &alias);
        if device.name == "serial" {
            serial.get_or_insert(alias);
        }
    }
}

/// Puts `<alias>` where libvirt prints it: before the `<address>`, else at the end.
fn insert(device: &mut Element, alias: &str) {
    device.take("alias");
    let element = Element::new("alias").with("name", alias);
    let place = device
        .children
        .iter()
        .position(|node| matches!(node, bulkhead_xml::Node::Element(child) if child.name == "address"))
        .unwrap_or(device.children.len());
    device.children.insert(place, bulkhead_xml::Node::Element(element));
}

struct Guest {
    q35: bool,
    /// Whether the root PCI bus bears a number.
    numbered_root: bool,
}

impl Guest {
    fn of(root: &Element) -> Self {
        let arch = root.path_attr("os/type", "arch").unwrap_or_default();
        let machine = root.path_attr("os/type", "machine").unwrap_or_default();
        let x86 = matches!(arch, "x86_64" | "i686");
        // The boards of 32-bit ARM have one bus that bears no number.
        let numbered_root = !arch.starts_with("arm") && arch != "aarch64" || is_family(machine, "virt");
        Self { q35: x86 && is_family(machine, "q35"), numbered_root }
    }
}

/// The next free number of each prefix: one above the highest that is in use.
struct Counters(BTreeMap<String, u64>);

impl Counters {
    fn of(devices: &Element) -> Self {
        let mut counters = Self(BTreeMap::new());
        for alias in devices.elements().filter_map(|device| device.path_attr("alias", "name")) {
            let prefix = alias.trim_end_matches(|letter: char| letter.is_ascii_digit());
            if let Ok(number) = alias[prefix.len()..].parse::<u64>() {
                let next = counters.0.entry(prefix.to_owned()).or_default();
                *next = (*next).max(number.saturating_add(1));
            }
        }
        counters
    }

    fn take(&mut self, prefix: &str) -> String {
        self.take_from(prefix, 0)
    }

    /// The next number of a prefix, that or higher.
    fn take_from(&mut self, prefix: &str, least: u64) -> String {
        let next = self.0.entry(prefix.to_owned()).or_default();
        *next = (*next).max(least);
        let alias = format!("{prefix}{next}");
        *next = next.saturating_add(1);
        alias
    }
}

fn derive(device: &Element, place: u64, guest: &Guest, lsi: &[u64], next: &mut Counters) -> Option<String> {
    let prefix = match device.name.as_str() {
        "disk" => return disk(device, lsi),
        "controller" => return controller(device, guest),
        "memory" => return Some(memory(device, next)),
        "interface" if device.attr("type") == Some("hostdev") => "hostdev",
        "interface" => "net",
        "filesystem" => "fs",
        "memballoon" => return Some(next.take_from("balloon", place)),
        "redirdev" => return Some(next.take_from("redir", place)),
        "nvram" => return Some("nvram".to_owned()),
        // These are counted whether their aliases are derived or chosen.
        "serial" | "parallel" | "channel" | "console" | "input" | "hub" | "smartcard" | "sound" | "video"
        | "watchdog" | "tpm" | "panic" | "vsock" | "iommu" | "crypto" | "pstore" | "shmem" => {
            return Some(next.take_from(&device.name, place));
        }
        "hostdev" | "rng" => device.name.as_str(),
        _ => return None,
    };
    Some(next.take(prefix))
}

fn memory(device: &Element, next: &mut Counters) -> String {
    let prefix = match device.attr("model") {
        Some("virtio-pmem") => "virtiopmem",
        Some("virtio-mem") => "virtiomem",
        Some("sgx-epc") => "epc",
        Some("nvdimm") => "nvdimm",
        _ => "dimm",
    };
    match device.path_attr("address", "slot") {
        Some(slot) if device.path_attr("address", "type") == Some("dimm") => {
            let alias = format!("{prefix}{slot}");
            if let Ok(number) = slot.parse::<u64>() {
                let entry = next.0.entry(prefix.to_owned()).or_default();
                *entry = (*entry).max(number.saturating_add(1));
            }
            alias
        }
        _ => next.take(prefix),
    }
}

fn disk(device: &Element, lsi: &[u64]) -> Option<String> {
    let target = device.child("target")?;
    let bus = target.attr("bus")?;
    let part = |name: &str| device.path_attr("address", name).unwrap_or("0");
    if !matches!(bus, "ide" | "sata" | "fdc" | "scsi") {
        return Some(format!("{bus}-disk{}", disk_index(target.attr("dev")?)?));
    }
    let (controller, bus_number, unit) = (part("controller"), part("bus"), part("unit"));
    if bus != "scsi" || controller.parse().is_ok_and(|index| lsi.contains(&index)) {
        return Some(format!("{bus}{controller}-{bus_number}-{unit}"));
    }
    Some(format!("scsi{controller}-{bus_number}-{}-{unit}", part("target")))
}

/// The number in a target's name: `vda` is 0, `vdz` 25, `vdaa` 26; a partition's number does not count.
pub(crate) fn disk_index(name: &str) -> Option<u64> {
    let letters = ["fd", "hd", "vd", "sd", "xvd", "ubd"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?
        .trim_end_matches(|letter: char| letter.is_ascii_digit());
    if letters.is_empty() || !letters.bytes().all(|letter| letter.is_ascii_lowercase()) {
        return None;
    }
    letters
        .bytes()
        .try_fold(0_u64, |sum, letter| sum.checked_mul(26)?.checked_add(u64::from(letter - b'a') + 1))
        .map(|sum| sum - 1)
}

fn controller(device: &Element, guest: &Guest) -> Option<String> {
    let index = number_attr(device, "index").ok()??;
    let kind = device.attr("type")?;
    Some(match (kind, device.attr("model")) {
        ("pci", Some("pcie-root")) => format!("pcie.{index}"),
        ("pci", Some("pci-root")) if !guest.numbered_root => "pci".to_owned(),
        ("pci", _) => format!("pci.{index}"),
        ("usb", _) if index == 0 => "usb".to_owned(),
        ("sata", _) if index == 0 && guest.q35 => "ide".to_owned(),
        // The machine's own.
        ("ide", _) if index == 0 => "ide".to_owned(),
        (kind, _) => format!("{kind}{index}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(devices: &str) -> Element {
        let text = format!(
            "<domain><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><devices>{devices}</devices></domain>"
        );
        bulkhead_xml::parse(text.as_bytes(), bulkhead_xml::Limits::default(), "domain/metadata").unwrap()
    }

    fn aliases(devices: &str) -> Vec<String> {
        let mut root = domain(devices);
        assign(&mut root);
        root.child("devices")
            .unwrap()
            .elements()
            .map(|device| device.path_attr("alias", "name").unwrap_or("-").to_owned())
            .collect()
    }

    #[test]
    fn numbers_disks_by_target_or_place() {
        assert_eq!(disk_index("vda"), Some(0));
        assert_eq!(disk_index("sdab1"), Some(27));
        assert_eq!(disk_index("vd"), None);
        assert_eq!(disk_index("vdzzzzzzzzzzzzzzzzzzzzzzzz"), None);
        assert_eq!(
            aliases(
                "<disk><target dev='vdb' bus='virtio'/></disk><disk><target dev='sda' bus='sata'/>\
                 <address type='drive' controller='0' bus='0' target='0' unit='3'/></disk>\
                 <disk><target dev='sdb' bus='scsi'/><address type='drive' controller='1' bus='0' target='2' unit='3'/></disk>"
            ),
            ["virtio-disk1", "sata0-0-3", "scsi1-0-2-3"]
        );
    }

    #[test]
    fn keeps_what_is_there_and_counts_past_it() {
        assert_eq!(
            aliases(
                "<interface/><interface><alias name='net7'/></interface><interface/><interface><alias name='ua-x'/></interface>"
            ),
            ["net8", "net7", "net9", "ua-x"]
        );
    }

    #[test]
    fn names_controllers_after_their_buses() {
        assert_eq!(
            aliases(
                "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' index='2'/>\
                 <controller type='usb' index='0'/><controller type='usb' index='1'/><controller type='sata' index='0'/>\
                 <controller type='scsi' index='0'/><emulator/>"
            ),
            ["pcie.0", "pci.2", "usb", "usb1", "ide", "scsi0", "-"]
        );
    }

    #[test]
    fn a_serial_console_is_the_serial_device() {
        assert_eq!(
            aliases(
                "<serial/><serial/><console><target type='serial'/></console><console><target type='virtio'/></console>"
            ),
            ["serial0", "serial1", "serial0", "console1"]
        );
    }

    #[test]
    fn stands_before_the_address() {
        let mut root = domain("<rng><address type='pci'/></rng>");
        assign(&mut root);
        let rng = root.at("devices/rng").unwrap();
        assert_eq!(rng.elements().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["alias", "address"]);
    }
}
