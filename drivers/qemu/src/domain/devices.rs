//! The devices as a whole: their order, what one needs of another, and what every machine has without being asked.

use super::context::Context;
use super::implicit;
use crate::device;
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};

/// The kinds in the order of printing.
const ORDER: &[&str] = &[
    "emulator",
    "disk",
    "controller",
    "lease",
    "filesystem",
    "interface",
    "smartcard",
    "serial",
    "parallel",
    "console",
    "channel",
    "input",
    "tpm",
    "graphics",
    "sound",
    "audio",
    "video",
    "hostdev",
    "redirdev",
    "redirfilter",
    "hub",
    "watchdog",
    "memballoon",
    "rng",
    "nvram",
    "panic",
    "shmem",
    "memory",
    "iommu",
    "vsock",
    "crypto",
    "pstore",
];

/// All devices in canonical form, without addresses.
pub(super) fn complete(root: &Element, emulator: &str, context: &Context) -> Result<Element, Error> {
    let mut devices = Element::new("devices");
    devices.push(Element::new("emulator").with_text(emulator));
    let given = root.child("devices");
    for kind in ORDER.iter().skip(1) {
        for input in given.iter().flat_map(|given| given.all(kind)) {
            if let Some(mut device) = device::complete(input, context)? {
                device.position = input.position;
                devices.push(device);
            }
        }
    }
    implicit::add(&mut devices, root, context)?;
    Ok(devices)
}

/// Brings the devices into the order of printing; within a kind, disks follow their bus and target, controllers
/// their type and index.
pub(super) fn arrange(devices: &mut Element) {
    let mut all: Vec<Element> = devices
        .children
        .drain(..)
        .filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
        .collect();
    all.sort_by_key(|device| ORDER.iter().position(|kind| *kind == device.name));
    let mut sorted: Vec<Element> = Vec::new();
    for device in all {
        let place = match device.name.as_str() {
            "disk" => insertion(&sorted, &device, disk_key),
            "controller" => insertion(&sorted, &device, controller_key),
            _ => sorted.len(),
        };
        sorted.insert(place.min(sorted.len()), device);
    }
    devices.children = sorted.into_iter().map(Node::Element).collect();
}

/// A group in which devices are ordered, and the place in it.
type Key = (String, u64);

fn disk_key(disk: &Element) -> Option<Key> {
    let target = disk.child("target")?;
    let index = device_number(target.attr("dev")?)?;
    Some((target.attr("bus").unwrap_or_default().to_owned(), index))
}

fn controller_key(controller: &Element) -> Option<Key> {
    let index = controller.attr("index")?.parse().ok()?;
    Some((controller.attr("type").unwrap_or_default().to_owned(), index))
}

/// The number of a disk among those of its prefix (`vda` 0, `vdaa` 26).
pub(super) fn device_number(name: &str) -> Option<u64> {
    let letters =
        ["fd", "hd", "vd", "sd", "xvd", "ubd"].iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let letters = letters.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || letters.len() > 6 {
        return None;
    }
    let mut number = 0_u64;
    for byte in letters.bytes() {
        if !byte.is_ascii_lowercase() {
            return None;
        }
        number = number * 26 + u64::from(byte - b'a') + 1;
    }
    Some(number - 1)
}

/// After the last of its group that comes before it; else before the first of its group; else at the end.
fn insertion(sorted: &[Element], device: &Element, key: fn(&Element) -> Option<Key>) -> usize {
    let Some((group, number)) = key(device) else {
        return sorted.len();
    };
    let mut place = None;
    for (index, other) in sorted.iter().enumerate().rev() {
        if other.name != device.name {
            continue;
        }
        let Some((other_group, other_number)) = key(other) else {
            continue;
        };
        if other_group != group {
            continue;
        }
        if other_number > number {
            place = Some(index);
        } else {
            if place.is_none() {
                place = Some(index + 1);
            }
            break;
        }
    }
    place.unwrap_or(sorted.len())
}
