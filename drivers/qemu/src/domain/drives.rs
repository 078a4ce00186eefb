//! Addresses of disks and other drives: controller, bus, target and unit, from the target's name.

use super::devices::device_number;
use super::refuse;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// Drives of a SCSI controller, by the names of their targets.
const SCSI_UNITS: u64 = 7;

/// A place on a controller.
type Place = (u64, u64, u64, u64);

fn place(address: &Element) -> Place {
    let part = |name| address.attr(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    (part("controller"), part("bus"), part("target"), part("unit"))
}

fn address((controller, bus, target, unit): Place) -> Element {
    Element::new("address")
        .with("type", "drive")
        .with("controller", controller.to_string())
        .with("bus", bus.to_string())
        .with("target", target.to_string())
        .with("unit", unit.to_string())
}

/// Gives every drive without an address one, and refuses clashes.
pub(super) fn assign(devices: &mut Element) -> Result<(), Error> {
    let mut taken: BTreeSet<(String, Place)> = BTreeSet::new();
    for device in devices.elements_mut() {
        let bus = match device.name.as_str() {
            "disk" => device.path_attr("target", "bus").unwrap_or_default().to_owned(),
            "hostdev" if device.attr("type") == Some("scsi") => "scsi".to_owned(),
            _ => continue,
        };
        if !matches!(bus.as_str(), "ide" | "scsi" | "sata" | "fdc") {
            continue;
        }
        let given = device.child("address").cloned();
        let chosen = match given {
            Some(given) if given.attr("type") == Some("drive") => place(&given),
            Some(given) => {
                return Err(refuse::unsupported(format!(
                    "An address of type '{}' is not for bus '{bus}'; use 'drive'",
                    given.attr("type").unwrap_or_default()
                )));
            }
            None if device.name == "disk" => {
                let target = device.path_attr("target", "dev").unwrap_or_default();
                let Some(number) = device_number(target) else {
                    return Err(refuse::xml(format!(
                        "Disk target '{target}' names no place; use names as vda, or give an <address>"
                    )));
                };
                match bus.as_str() {
                    "ide" => (number / 4, number / 2 % 2, 0, number % 2),
                    "fdc" => (number / 2, 0, 0, number % 2),
                    "sata" => (number / 6, 0, 0, number % 6),
                    _ => (number / SCSI_UNITS, 0, 0, number % SCSI_UNITS),
                }
            }
            None => free_place(&taken),
        };
        taken.insert((bus, chosen));
        if device.child("address").is_none() {
            device.push(address(chosen));
        }
    }
    Ok(())
}

fn free_place(taken: &BTreeSet<(String, Place)>) -> Place {
    for controller in 0..64 {
        for unit in 0..SCSI_UNITS {
            let place = (controller, 0, 0, unit);
            if !taken.contains(&("scsi".to_owned(), place)) {
                return place;
            }
        }
    }
    (64, 0, 0, 0)
}
