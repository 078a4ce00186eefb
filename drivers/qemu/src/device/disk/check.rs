//! Whether QEMU, and the bus that a disk is on, can do what the disk asks for.

use super::super::refusal;
use super::View;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// Whether QEMU and the bus can do what the disk asks for.
pub(crate) fn check(disk: &Element, _context: &Context<'_>) -> Result<(), Error> {
    let view = View(disk);
    let (bus, target) = (view.bus(), view.target());
    if let Some(model) = disk.attr("model")
        && bus != "virtio"
    {
        return Err(refusal::unsupported(
            disk,
            format!("model '{model}' of '{target}' needs bus 'virtio', not '{bus}'"),
        ));
    }
    if bus == "usb" && disk.child("source").is_none() {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!(
                "'{target}' is an empty drive on bus 'usb', which can hold none; use bus 'sata', 'scsi' or 'ide'"
            ),
        ));
    }
    if let Some(driver) = disk.child("driver") {
        for name in
            ["queues", "queue_size", "ioeventfd", "event_idx", "iommu", "ats", "packed", "page_per_vq"]
        {
            if driver.attr(name).is_some() && bus != "virtio" {
                return Err(refusal::unsupported(
                    disk,
                    format!("driver attribute '{name}' of '{target}' needs bus 'virtio', not '{bus}'"),
                ));
            }
        }
        let threaded = driver.attr("iothread").is_some() || driver.child("iothreads").is_some();
        if threaded && bus != "virtio" {
            return Err(refusal::unsupported_by_qemu(
                disk,
                format!("I/O threads are not to be had for bus '{bus}' of '{target}'"),
            ));
        }
    }
    if disk.child("wwn").is_some() && !matches!(bus, "ide" | "scsi" | "sata") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("a wwn needs bus 'ide', 'sata' or 'scsi', not '{bus}' of '{target}'"),
        ));
    }
    if view.kind() == "vhostvdpa" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("this QEMU has no vhost-vdpa disks, but '{target}' is one"),
        ));
    }
    if view.kind() == "dir" && disk.child("readonly").is_none() {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is a directory, which can't be written to; add <readonly/>"),
        ));
    }
    if disk.child("shareable").is_some() && view.format() != "raw" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is shareable, which only format 'raw' can be"),
        ));
    }
    check_driver(disk)?;
    check_bus(disk)?;
    check_encryption(disk)?;
    check_address(disk)
}

fn check_driver(disk: &Element) -> Result<(), Error> {
    let target = View(disk).target();
    if let Some(name) = disk.path_attr("driver", "name").filter(|name| *name != "qemu") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("driver '{name}' of '{target}' is not QEMU's; use 'qemu'"),
        ));
    }
    if matches!(View(disk).format(), "iso" | "cow" | "dir") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' has a format that QEMU does not open; use 'raw'"),
        ));
    }
    if (View(disk).kind() == "dir") != (View(disk).format() == "fat") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("type 'dir' and format 'fat' need each other, but '{target}' has one of them"),
        ));
    }
    let attribute = |name: &str| disk.path_attr("driver", name);
    if attribute("io") == Some("native") && !matches!(attribute("cache"), Some("none" | "directsync")) {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("io='native' of '{target}' needs cache='none' or 'directsync'"),
        ));
    }
    if attribute("discard_no_unref").is_some() && View(disk).format() != "qcow2" {
        return Err(refusal::unsupported(
            disk,
            format!("discard_no_unref of '{target}' needs format 'qcow2'"),
        ));
    }
    if disk.path_attr("source", "protocol") == Some("tftp") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("QEMU does not read '{target}' over TFTP; use http"),
        ));
    }
    Ok(())
}

/// What only some buses and kinds of drive can do.
fn check_bus(disk: &Element) -> Result<(), Error> {
    let view = View(disk);
    let (bus, target, device) = (view.bus(), view.target(), view.device());
    if bus == "usb" && disk.child("source").is_none() {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!(
                "'{target}' on bus 'usb' must not be empty; empty drives are to be had on 'sata', 'scsi' and 'ide'"
            ),
        ));
    }
    if device == "lun"
        && !matches!(view.kind(), "block" | "volume")
        && disk.path_attr("source", "protocol") != Some("iscsi")
    {
        return Err(refusal::unsupported(
            disk,
            format!("'{target}' is a lun, which needs type 'block' or an iSCSI source"),
        ));
    }
    if disk.at("source/reservations").is_some() && device != "lun" {
        return Err(refusal::unsupported(
            disk,
            format!("only a lun has reservations, but '{target}' is a {device}"),
        ));
    }
    if disk.attr("sgio") == Some("unfiltered") {
        return Err(refusal::unsupported(disk, "unfiltered SCSI commands can't be had; remove 'sgio'"));
    }
    if let Some(policy) = disk.path_attr("source", "startupPolicy") {
        if view.kind() == "network" {
            return Err(refusal::xml(disk, "network storage has no startupPolicy; remove it"));
        }
        if policy == "requisite" && !matches!(device, "cdrom" | "floppy") {
            return Err(refusal::xml(
                disk,
                "only a cdrom or floppy drive can have startupPolicy 'requisite'",
            ));
        }
    }
    if (disk.child("vendor").is_some() || disk.child("product").is_some()) && bus != "scsi" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("vendor and product need bus 'scsi', not '{bus}' of '{target}'"),
        ));
    }
    if disk.path_attr("target", "rotation_rate").is_some() && !matches!(bus, "scsi" | "ide" | "sata") {
        return Err(Error::new(
            Code::INTERNAL,
            Origin::QEMU,
            format!(
                "<disk> ({}): a rotation rate needs bus 'scsi', 'ide' or 'sata', not '{bus}'",
                disk.position
            ),
        ));
    }
    if device == "cdrom" && bus == "virtio" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' on bus 'virtio' can't be a cdrom; use 'sata' or 'scsi'"),
        ));
    }
    Ok(())
}

fn check_encryption(disk: &Element) -> Result<(), Error> {
    let encryption = disk.child("encryption").or_else(|| disk.at("source/encryption"));
    let Some(encryption) = encryption else {
        return Ok(());
    };
    let target = View(disk).target();
    if encryption.attr("engine") == Some("qemu") && !matches!(View(disk).format(), "raw" | "qcow2") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is encrypted, which needs format 'raw' or 'qcow2'"),
        ));
    }
    if matches!(encryption.attr("format"), Some("qcow" | "default")) {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' has QEMU's old encryption, which is no longer read; use 'luks'"),
        ));
    }
    Ok(())
}

/// Whether the type of its address fits its bus.
fn check_address(disk: &Element) -> Result<(), Error> {
    let Some(kind) = disk.path_attr("address", "type") else {
        return Ok(());
    };
    let (bus, target) = (View(disk).bus(), View(disk).target());
    let message = format!("an address of type '{kind}' does not fit '{target}' on bus '{bus}'");
    match bus {
        "ide" | "sata" | "scsi" | "fdc" if kind != "drive" => Err(refusal::unsupported(disk, message)),
        "usb" if kind != "usb" => Err(refusal::unsupported(disk, message)),
        "virtio" if !matches!(kind, "pci" | "ccw" | "virtio-mmio") => {
            Err(refusal::unsupported_by_qemu(disk, message))
        }
        "scsi" if disk.path_attr("address", "bus").is_some_and(|number| number != "0") => Err(Error::new(
            Code::INTERNAL,
            Origin::QEMU,
            format!("<disk> ({}): SCSI controllers have one bus, with number 0", disk.position),
        )),
        _ => Ok(()),
    }
}
