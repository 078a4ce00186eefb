//! `<hostdev>`: devices of the host that the guest gets.

use crate::args::builder::{Builder, alias, attr, invalid, number_attr, switch, unsupported};
use crate::args::json::Object;
use crate::device::disk::args::source;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One device.
pub(crate) fn build(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    if device.attr("mode") == Some("capabilities") {
        return Err(unsupported("Host devices by capability are for containers, not for QEMU"));
    }
    match attr(device, "type")? {
        "pci" => pci(builder, device),
        "usb" => usb(builder, device),
        "mdev" => mediated(builder, device),
        "scsi" => scsi(builder, device),
        "scsi_host" => scsi_host(builder, device),
        other => Err(unsupported(format!("Host device type '{other}' is not one that QEMU has"))),
    }
}

fn source(device: &Element) -> Result<&Element, Error> {
    device.child("source").ok_or_else(|| invalid("<hostdev> has no <source>"))
}

/// The address of a PCI device on the host.
fn host_address(device: &Element) -> Result<String, Error> {
    let address =
        source(device)?.child("address").ok_or_else(|| invalid("A PCI <hostdev> has no host address"))?;
    let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
    Ok(format!("{:04x}:{:02x}:{:02x}.{:x}", part("domain")?, part("bus")?, part("slot")?, part("function")?))
}

/// A PCI device, also one that an `<interface type='hostdev'>` is about.
pub(crate) fn pci(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let mut object = Object::new()
        .with("driver", "vfio-pci")
        .with("host", host_address(device)?)
        .with("id", alias(device)?);
    object.set_some("bootindex", builder.boot.of(device));
    object.set_some("failover_pair_id", device.path_attr("teaming", "persistent"));
    object.set_some("display", device.attr("display"));
    if switch(device, "ramfb") == Some(true) {
        object.set("driver", "vfio-pci-nohotplug").set("ramfb", true);
    }
    builder.address(device, &mut object)?;
    Builder::rom(device, &mut object);
    builder.device(&object);
    Ok(())
}

fn usb(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let source = source(device)?;
    let mut object = Object::new().with("driver", "usb-host");
    if let Some(address) = source.child("address") {
        let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
        let path = format!("/dev/bus/usb/{:03}/{:03}", part("bus")?, part("device")?);
        object.set("hostdevice", path);
    } else {
        // The number on its bus is found when the guest is started.
        for (element, property) in [("vendor", "vendorid"), ("product", "productid")] {
            let id = source.child(element).map(|element| number_attr(element, "id")).transpose()?;
            object.set_some(property, id.flatten());
        }
    }
    if let Some(reset) = source.attr("guestReset") {
        match reset {
            "off" => object.set("guest-reset", false),
            "uninitialized" => object.set("guest-reset", true).set("guest-resets-all", false),
            _ => object.set("guest-reset", true).set("guest-resets-all", true),
        };
    }
    object.set("id", alias(device)?).set_some("bootindex", builder.boot.of(device));
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}

fn mediated(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let id = source(device)?
        .path_attr("address", "uuid")
        .ok_or_else(|| invalid("A mediated <hostdev> has no UUID"))?;
    let model = attr(device, "model")?;
    let ramfb = switch(device, "ramfb") == Some(true);
    let driver = if ramfb && model == "vfio-pci" { "vfio-pci-nohotplug" } else { model };
    let mut object = Object::new()
        .with("driver", driver)
        .with("id", alias(device)?)
        .with("sysfsdev", format!("/sys/bus/mdev/devices/{id}"));
    object.set_some("display", device.attr("display").filter(|_| model == "vfio-pci"));
    if ramfb {
        object.set("ramfb", true);
    }
    object.set_some("bootindex", builder.boot.of(device));
    object.set_some("loadparm", device.path_attr("boot", "loadparm"));
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}

fn scsi(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let described = source(device)?;
    let number = builder.nodes.first(device).ok_or_else(|| invalid("A SCSI <hostdev> has no block node"))?;
    let node = format!("libvirt-{number}-backend");
    let mut storage = if described.attr("protocol") == Some("iscsi") {
        let mut storage = source::protocol(builder, "network", described, &node)?;
        source::secrets(builder, described, described.child("auth"), &node, &node, &mut storage)?;
        storage
    } else {
        return Err(unsupported(
            "A SCSI unit of a host adapter must be found before the guest is started; its <source> has no device",
        ));
    };
    let read_only = device.child("readonly").is_some();
    storage.set("node-name", node.as_str()).set("read-only", read_only);
    builder.json("-blockdev", &storage);
    let mut object = Object::new().with("driver", "scsi-generic");
    if device.child("shareable").is_some() {
        object.set("share-rw", true);
    }
    object.set("drive", node).set("id", alias(device)?);
    if let Some(address) = device.child("address") {
        let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
        object
            .set("bus", format!("{}.0", builder.controller("scsi", part("controller")?)?))
            .set("channel", part("bus")?)
            .set("scsi-id", part("target")?)
            .set("lun", part("unit")?);
    }
    object.set_some("bootindex", builder.boot.of(device));
    builder.device(&object);
    Ok(())
}

fn scsi_host(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let name = attr(source(device)?, "wwpn")?;
    let mut object = crate::args::virtio::device("vhost-scsi", device, device.attr("model"));
    object.set("wwpn", name).set("id", alias(device)?).set_some("bootindex", builder.boot.of(device));
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}
