//! A disk's part of the command line: the block nodes of its chain and the device in front of them.

pub(crate) mod chain;
pub(crate) mod source;

use crate::args::Purpose;
use crate::args::alias::disk_index;
use crate::args::builder::{Builder, alias, attr, invalid, number_attr, switch, unsupported};
use crate::args::json::{Json, Object};
use crate::args::nodes::has_source;
use crate::args::option::KeyValues;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Everything of one disk.
pub(crate) fn build(builder: &mut Builder<'_>, disk: &Element) -> Result<(), Error> {
    if disk.attr("type") == Some("vhostuser") {
        return vhost_user(builder, disk);
    }
    // Plugged in once the guest runs: its overlay is made on top of what is open then.
    if disk.path_attr("transient", "shareBacking") == Some("yes") {
        return Ok(());
    }
    if bus(disk)? == "sd" {
        return sd(builder, disk);
    }
    let drive = if has_source(disk) { Some(chain::nodes(builder, disk)?) } else { None };
    let device = device(builder, disk, drive.as_deref())?;
    builder.device(&device);
    Ok(())
}

/// Floppy controllers: their boot order, and the controller itself where the machine has none.
pub(crate) fn floppy_controller(builder: &mut Builder<'_>) -> Result<(), Error> {
    let floppies: Vec<&Element> =
        builder.devices("disk").filter(|disk| disk.path_attr("target", "bus") == Some("fdc")).collect();
    if floppies.is_empty() {
        return Ok(());
    }
    let mut own = Object::new().with("driver", "isa-fdc");
    for disk in floppies {
        let Some(index) = builder.boot.of(disk) else {
            continue;
        };
        let unit = if disk.path_attr("address", "unit") == Some("1") { "B" } else { "A" };
        if builder.is_q35() {
            own.set(&format!("bootindex{unit}"), index);
        } else {
            let list = KeyValues::empty().with(&format!("isa-fdc.bootindex{unit}"), index);
            builder.option("-global", list)?;
        }
    }
    if builder.is_q35() {
        builder.device(&own);
    }
    Ok(())
}

fn bus(disk: &Element) -> Result<&str, Error> {
    disk.path_attr("target", "bus").ok_or_else(|| invalid("<disk> has no target bus"))
}

fn kind(disk: &Element) -> &str {
    disk.attr("device").unwrap_or("disk")
}

/// A card in a slot that is a part of the machine.
fn sd(builder: &mut Builder<'_>, disk: &Element) -> Result<(), Error> {
    let source = disk.child("source").ok_or_else(|| invalid("An SD card has no <source>"))?;
    let mut list = KeyValues::empty();
    match disk.attr("type") {
        Some("file") => {
            list.set("file", attr(source, "file")?);
        }
        Some("block") => {
            list.set("file", attr(source, "dev")?);
        }
        kind => {
            let node = source::protocol(builder, kind.unwrap_or_default(), source, alias(disk)?)?;
            node.flatten("file", &mut list);
        }
    }
    list.set("format", disk.path_attr("driver", "type").unwrap_or("raw"))
        .set("if", "sd")
        .set("index", disk_index(target(disk)?).unwrap_or(0));
    if disk.child("readonly").is_some() {
        list.switch("readonly", true);
    }
    list.set_some("cache", cache_mode(disk));
    builder.option("-drive", list)
}

fn device(builder: &Builder<'_>, disk: &Element, drive: Option<&str>) -> Result<Object, Error> {
    let bus = bus(disk)?;
    let cdrom = kind(disk) == "cdrom";
    let mut device = match bus {
        "virtio" => {
            let mut device = virtio::device("virtio-blk", disk, disk.attr("model"));
            virtio_options(builder, disk, &mut device)?;
            device
        }
        "ide" | "sata" => {
            let mut device = Object::new().with("driver", if cdrom { "ide-cd" } else { "ide-hd" });
            ide_place(builder, disk, bus, &mut device)?;
            device
        }
        "scsi" => {
            let driver = match kind(disk) {
                "cdrom" => "scsi-cd",
                "lun" => "scsi-block",
                _ => "scsi-hd",
            };
            let mut device = Object::new().with("driver", driver);
            scsi_place(builder, disk, &mut device)?;
            device
        }
        "usb" => Object::new().with("driver", "usb-storage"),
        "fdc" => {
            let unit = number_attr(disk.child("address").unwrap_or(disk), "unit")?.unwrap_or(0);
            Object::new().with("driver", "floppy").with("unit", unit)
        }
        other => {
            return Err(unsupported(format!("Disk bus '{other}' is not one that QEMU has here")));
        }
    };
    if matches!(bus, "virtio" | "usb") {
        builder.address(disk, &mut device)?;
    }
    if disk.child("shareable").is_some() {
        device.set("share-rw", true);
    }
    device.set_some("drive", drive);
    device.set("id", alias(disk)?);
    if bus != "fdc" {
        device.set_some("bootindex", builder.boot.of(disk));
    }
    if let Some(loader) = disk.child("boot") {
        device.set_some("loadparm", loader.attr("loadparm"));
    }
    limits(disk, &mut device)?;
    identity(disk, bus, &mut device)?;
    if bus != "fdc" && kind(disk) != "lun" {
        let on = match cache_mode(disk) {
            Some("none" | "writeback" | "unsafe") => Some("on"),
            Some("directsync" | "writethrough") => Some("off"),
            _ => None,
        };
        device.set_some("write-cache", on);
    }
    errors(disk, &mut device);
    Ok(device)
}

/// The cache mode, if one is set.
pub(crate) fn cache_mode(disk: &Element) -> Option<&str> {
    disk.path_attr("driver", "cache").filter(|mode| *mode != "default")
}

fn virtio_options(builder: &Builder<'_>, disk: &Element, device: &mut Object) -> Result<(), Error> {
    let Some(driver) = disk.child("driver") else {
        return Ok(());
    };
    if let Some(thread) = number_attr(driver, "iothread")? {
        device.set("iothread", format!("iothread{thread}"));
    }
    device
        .set_some("ioeventfd", switch(driver, "ioeventfd"))
        .set_some("event_idx", switch(driver, "event_idx"))
        .set_some("num-queues", number_attr(driver, "queues")?)
        .set_some("queue-size", number_attr(driver, "queue_size")?);
    if let Some(threads) = driver.child("iothreads") {
        builder.require("virtio-blk-pci", "iothread-vq-mapping", "A disk with several I/O threads")?;
        device.set("iothread-vq-mapping", thread_mapping(threads)?);
    }
    Ok(())
}

/// Which I/O thread serves which queues.
pub(crate) fn thread_mapping(threads: &Element) -> Result<Vec<Json>, Error> {
    threads
        .all("iothread")
        .map(|thread| {
            let id = number_attr(thread, "id")?.ok_or_else(|| invalid("<iothread> has no id"))?;
            let mut entry = Object::new().with("iothread", format!("iothread{id}"));
            let queues = thread
                .all("queue")
                .map(|queue| Ok(number_attr(queue, "id")?.unwrap_or(0).into()))
                .collect::<Result<Vec<Json>, Error>>()?;
            if !queues.is_empty() {
                entry.set("vqs", queues);
            }
            Ok(entry.into())
        })
        .collect()
}

fn ide_place(builder: &Builder<'_>, disk: &Element, bus: &str, device: &mut Object) -> Result<(), Error> {
    let address = disk.child("address").ok_or_else(|| invalid("<disk> has no address on its controller"))?;
    let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
    let controller = builder.ide_bus(bus, part("controller")?)?;
    if bus == "sata" {
        device.set("bus", format!("{controller}.{}", part("unit")?));
    } else {
        device.set("bus", format!("{controller}.{}", part("bus")?)).set("unit", part("unit")?);
    }
    Ok(())
}

/// Where a SCSI disk sits. Old adapters have no channels and one unit number.
fn scsi_place(builder: &Builder<'_>, disk: &Element, device: &mut Object) -> Result<(), Error> {
    let address =
        disk.child("address").ok_or_else(|| invalid("<disk> has no address on its SCSI controller"))?;
    let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
    let index = part("controller")?;
    device.set("bus", format!("{}.0", builder.controller("scsi", index)?));
    if matches!(builder.controller_model("scsi", index), Some("lsilogic" | "am53c974" | "dc390" | "ncr53c90"))
    {
        device.set("scsi-id", part("unit")?);
    } else {
        device.set("channel", part("bus")?).set("scsi-id", part("target")?).set("lun", part("unit")?);
    }
    if kind(disk) != "lun" {
        let serial = disk.child_text("serial").filter(|serial| !serial.is_empty());
        let name = match serial {
            Some(serial) => serial,
            None => format!("drive-{}", alias(disk)?),
        };
        device.set("device_id", name);
    }
    Ok(())
}

/// Sizes and geometry.
fn limits(disk: &Element, device: &mut Object) -> Result<(), Error> {
    if let Some(blocks) = disk.child("blockio") {
        device
            .set_some("logical_block_size", number_attr(blocks, "logical_block_size")?)
            .set_some("physical_block_size", number_attr(blocks, "physical_block_size")?)
            .set_some("discard_granularity", number_attr(blocks, "discard_granularity")?);
    }
    if let Some(geometry) = disk.child("geometry") {
        device
            .set_some("cyls", number_attr(geometry, "cyls")?)
            .set_some("heads", number_attr(geometry, "heads")?)
            .set_some("secs", number_attr(geometry, "secs")?)
            .set_some("bios-chs-trans", geometry.attr("trans").filter(|mode| *mode != "default"));
    }
    Ok(())
}

/// What the disk says it is.
fn identity(disk: &Element, bus: &str, device: &mut Object) -> Result<(), Error> {
    let target = disk.child("target");
    if bus == "usb" {
        let removable = target.and_then(|target| switch(target, "removable"));
        device.set("removable", removable.unwrap_or(false));
    } else if bus == "scsi" {
        device.set_some("removable", target.and_then(|target| switch(target, "removable")));
    }
    if let Some(target) = target {
        device.set_some("rotation_rate", number_attr(target, "rotation_rate")?);
    }
    if let Some(name) = disk.child_text("wwn") {
        let hexadecimal = format!("0x{}", name.trim().trim_start_matches("0x"));
        let number = crate::args::builder::number(&hexadecimal)
            .ok_or_else(|| invalid(format!("World-wide name '{name}' is not a number of 16 digits")))?;
        device.set("wwn", number);
    }
    device
        .set_some("vendor", disk.child_text("vendor"))
        .set_some("product", disk.child_text("product"))
        .set_some(
            "serial",
            disk.child_text("serial").filter(|serial| !serial.is_empty()).map(|serial| escape(&serial)),
        );
    Ok(())
}

/// A serial number as guests have always seen it: spaces with a backslash before them.
fn escape(serial: &str) -> String {
    serial.replace('\\', "\\\\").replace(' ', "\\ ")
}

/// What happens on errors of the host.
fn errors(disk: &Element, device: &mut Object) {
    let Some(driver) = disk.child("driver") else {
        return;
    };
    let policy = |name: &str| driver.attr(name).filter(|policy| *policy != "default");
    let write = policy("error_policy").map(|policy| match policy {
        "enospace" => "enospc",
        other => other,
    });
    let read =
        policy("rerror_policy").or_else(|| policy("error_policy").filter(|policy| *policy != "enospace"));
    device.set_some("werror", write).set_some("rerror", read);
}

/// A disk that another process serves over shared memory.
fn vhost_user(builder: &mut Builder<'_>, disk: &Element) -> Result<(), Error> {
    let name = alias(disk)?;
    let id = format!("chr-vu-{name}");
    let source = disk.child("source").ok_or_else(|| invalid(format!("Disk {name} has no <source>")))?;
    let mut list = KeyValues::new("socket");
    list.set("id", &id);
    let reconnect = source.child("reconnect").filter(|reconnect| switch(reconnect, "enabled") == Some(true));
    if builder.launches() && reconnect.is_none() {
        let number = builder.descriptor(Purpose::Character { alias: name.to_owned() });
        list.set("fd", number);
    } else {
        list.set("path", attr(source, "path")?);
    }
    if let Some(reconnect) = reconnect {
        crate::device::character::args::reconnect(builder, reconnect, &mut list)?;
    }
    builder.option("-chardev", list)?;
    let mut device = virtio::device("vhost-user-blk", disk, disk.attr("model"));
    if let Some(driver) = disk.child("driver") {
        device
            .set_some("num-queues", number_attr(driver, "queues")?)
            .set_some("queue-size", number_attr(driver, "queue_size")?);
    }
    builder.address(disk, &mut device)?;
    device.set("chardev", id).set("id", name).set_some("bootindex", builder.boot.of(disk));
    builder.device(&device);
    Ok(())
}

/// A disk's number on its bus, for nodes that are named after it.
pub(crate) fn target(disk: &Element) -> Result<&str, Error> {
    let name = disk.path_attr("target", "dev").ok_or_else(|| invalid("<disk> has no target name"))?;
    if disk_index(name).is_none() {
        return Err(invalid(format!("'{name}' is not a target name for a disk")));
    }
    Ok(name)
}
