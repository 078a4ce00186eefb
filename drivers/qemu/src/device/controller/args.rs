//! Controllers: PCI bridges and ports, USB, SCSI, SATA, virtio-serial, CCID.

use crate::args::builder::{Builder, alias, bytes, number_attr, number_text, switch, unsupported};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use crate::args::virtio;
use crate::device::disk::args::thread_mapping;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Kinds in the order in which they come; within a kind the definition's order holds.
const ORDER: [&str; 9] = ["pci", "usb", "scsi", "ide", "sata", "virtio-serial", "ccid", "xenbus", "fdc"];

/// Settings of host bridges, which come with the machine.
pub(crate) fn globals(builder: &mut Builder<'_>) -> Result<(), Error> {
    for controller in builder.devices("controller") {
        let Some(hole) = controller.child("pcihole64") else {
            continue;
        };
        let property = match controller.attr("model") {
            Some("pci-root") => "i440FX-pcihost.pci-hole64-size",
            Some("pcie-root") => "q35-pcihost.pci-hole64-size",
            _ => continue,
        };
        let size = bytes(hole, number_text(hole)?)? >> 10;
        builder.option("-global", KeyValues::empty().with(property, format!("{size}K")))?;
    }
    Ok(())
}

/// All controllers.
pub(crate) fn build(builder: &mut Builder<'_>) -> Result<(), Error> {
    for kind in ORDER {
        for controller in builder.devices("controller") {
            if controller.attr("type") == Some(kind)
                && let Some(object) = device(builder, controller, kind)?
            {
                builder.device(&object);
            }
        }
    }
    Ok(())
}

/// One controller of a guest that runs.
pub(crate) fn one(builder: &mut Builder<'_>, controller: &Element) -> Result<(), Error> {
    let kind = controller.attr("type").unwrap_or_default();
    if let Some(object) = device(builder, controller, kind)? {
        builder.device(&object);
    }
    Ok(())
}

fn device(builder: &Builder<'_>, controller: &Element, kind: &str) -> Result<Option<Object>, Error> {
    let index = number_attr(controller, "index")?.unwrap_or(0);
    let object = match kind {
        "pci" => pci(builder, controller, index)?,
        "usb" => usb(builder, controller, index)?,
        "scsi" => Some(scsi(builder, controller)?),
        "sata" if index == 0 && builder.is_q35() => None,
        "sata" => Some(Object::new().with("driver", "ahci").with("id", alias(controller)?)),
        "virtio-serial" => {
            let mut object = virtio::device("virtio-serial", controller, controller.attr("model"));
            object
                .set("id", alias(controller)?)
                .set_some("max_ports", number_attr(controller, "ports")?)
                .set_some("vectors", number_attr(controller, "vectors")?);
            Some(object)
        }
        "ccid" => Some(Object::new().with("driver", "usb-ccid").with("id", alias(controller)?)),
        // IDE and floppy controllers are parts of their machines.
        _ => None,
    };
    let Some(mut object) = object else {
        return Ok(None);
    };
    builder.address(controller, &mut object)?;
    Ok(Some(object))
}

fn pci(builder: &Builder<'_>, controller: &Element, index: u64) -> Result<Option<Object>, Error> {
    let target = controller.child("target");
    let number = |name: &str| target.map(|target| number_attr(target, name)).transpose().map(Option::flatten);
    let model = controller.attr("model").unwrap_or_default();
    let name = controller.path_attr("model", "name");
    let id = alias(controller)?;
    let mut object = Object::new();
    match model {
        "pcie-root" => return Ok(None),
        "pci-root" => {
            let own = target
                .and_then(|target| target.attr("index"))
                .map_or(Ok(None), |_| number("index"))?
                .unwrap_or(index);
            if own == 0 || !builder.is_pseries() {
                return Ok(None);
            }
            object
                .set("driver", name.unwrap_or("spapr-pci-host-bridge"))
                .set("index", own)
                .set("id", id)
                .set_some("numa_node", node(target)?);
        }
        "pci-bridge" => {
            object
                .set("driver", name.unwrap_or("pci-bridge"))
                .set_some("chassis_nr", number("chassisNr")?)
                .set("id", id);
        }
        "pci-expander-bus" | "pcie-expander-bus" => {
            let default = if model == "pci-expander-bus" { "pxb" } else { "pxb-pcie" };
            object
                .set("driver", name.unwrap_or(default))
                .set_some("bus_nr", number("busNr")?)
                .set("id", id)
                .set_some("numa_node", node(target)?);
        }
        "dmi-to-pci-bridge" => {
            object.set("driver", name.unwrap_or("i82801b11-bridge")).set("id", id);
        }
        "pcie-to-pci-bridge" => {
            object.set("driver", name.unwrap_or("pcie-pci-bridge")).set("id", id);
        }
        "pcie-switch-upstream-port" => {
            object.set("driver", name.unwrap_or("x3130-upstream")).set("id", id);
        }
        "pcie-root-port" | "pcie-switch-downstream-port" => {
            let default = if model == "pcie-root-port" { "pcie-root-port" } else { "xio3130-downstream" };
            object
                .set("driver", name.unwrap_or(default))
                .set_some("port", number("port")?)
                .set_some("chassis", number("chassis")?)
                .set("id", id);
            if let Some(target) = target {
                let reserve = number_attr(target, "memReserve")?;
                object.set_some("mem-reserve", reserve.map(|kib| kib.saturating_mul(1024)));
            }
            if let Some(hotplug) = target.and_then(|target| switch(target, "hotplug")) {
                object.set("hotplug", hotplug);
            }
        }
        other => {
            return Err(unsupported(format!("PCI controller model '{other}' is not one that QEMU has")));
        }
    }
    Ok(Some(object))
}

fn node(target: Option<&Element>) -> Result<Option<u64>, Error> {
    target.and_then(|target| target.child("node")).map(number_text).transpose()
}

fn usb(builder: &Builder<'_>, controller: &Element, index: u64) -> Result<Option<Object>, Error> {
    let model = controller.attr("model").unwrap_or_default();
    let driver = match model {
        "none" => return Ok(None),
        "piix3-uhci" => "piix3-usb-uhci",
        "piix4-uhci" => "piix4-usb-uhci",
        "vt82c686b-uhci" => "vt82c686b-usb-uhci",
        "ehci" => "usb-ehci",
        "ich9-ehci1" => "ich9-usb-ehci1",
        "ich9-uhci1" => "ich9-usb-uhci1",
        "ich9-uhci2" => "ich9-usb-uhci2",
        "ich9-uhci3" => "ich9-usb-uhci3",
        "nec-xhci" => "nec-usb-xhci",
        "qemu-xhci" => "qemu-xhci",
        "pci-ohci" => "pci-ohci",
        other => {
            return Err(unsupported(format!("USB controller model '{other}' is not one that QEMU has")));
        }
    };
    let mut object = Object::new().with("driver", driver);
    if let Some(ports) = number_attr(controller, "ports")? {
        object.set("p2", ports).set("p3", ports);
    }
    match controller.child("master") {
        Some(master) => {
            object
                .set("masterbus", format!("{}.0", builder.controller("usb", index)?))
                .set_some("firstport", number_attr(master, "startport")?);
        }
        None => {
            object.set("id", alias(controller)?);
        }
    }
    Ok(Some(object))
}

fn scsi(builder: &Builder<'_>, controller: &Element) -> Result<Object, Error> {
    let model = controller.attr("model").unwrap_or_default();
    let id = alias(controller)?;
    let driver = match model {
        "virtio-scsi" | "virtio-transitional" | "virtio-non-transitional" => {
            let mut object = virtio::device("virtio-scsi", controller, controller.attr("model"));
            if let Some(driver) = controller.child("driver") {
                if let Some(thread) = number_attr(driver, "iothread")? {
                    object.set("iothread", format!("iothread{thread}"));
                }
                object.set("id", id);
                object
                    .set_some("ioeventfd", switch(driver, "ioeventfd"))
                    .set_some("num_queues", number_attr(driver, "queues")?)
                    .set_some("cmd_per_lun", number_attr(driver, "cmd_per_lun")?)
                    .set_some("max_sectors", number_attr(driver, "max_sectors")?);
                if let Some(threads) = driver.child("iothreads") {
                    builder.require(
                        "virtio-scsi-pci",
                        "iothread-vq-mapping",
                        "A SCSI controller with several I/O threads",
                    )?;
                    object.set("iothread-vq-mapping", thread_mapping(threads)?);
                }
            }
            object.set("id", id);
            return Ok(object);
        }
        "lsilogic" => "lsi",
        "lsisas1068" => "mptsas1068",
        "lsisas1078" => "megasas",
        "vmpvscsi" => "pvscsi",
        "ibmvscsi" => "spapr-vscsi",
        "am53c974" => "am53c974",
        "dc390" => "dc-390",
        "ncr53c90" => "esp",
        other => {
            return Err(unsupported(format!("SCSI controller model '{other}' is not one that QEMU has")));
        }
    };
    Ok(Object::new().with("driver", driver).with("id", id))
}
