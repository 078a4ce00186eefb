//! `<hostdev>`.

pub(crate) mod args;

mod source;

use super::common;
use super::refusal;
use super::schema::{Shape, flag, on_off, one_of, place, shape, text, yes_no};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const HOSTDEV: Shape = shape(
    "hostdev",
    &[
        one_of("mode", &["subsystem", "capabilities"]),
        one_of("type", &["usb", "pci", "scsi", "scsi_host", "mdev"]),
        yes_no("managed"),
        one_of("sgio", &["filtered", "unfiltered"]),
        yes_no("rawio"),
        one_of(
            "model",
            &["vfio-pci", "vfio-ccw", "vfio-ap", "virtio", "virtio-transitional", "virtio-non-transitional"],
        ),
        on_off("display"),
        on_off("ramfb"),
    ],
    &[
        shape("driver", &[one_of("name", &["kvm", "vfio", "xen"]), text("model")], &[]),
        place("source"),
        shape("teaming", &[one_of("type", &["persistent", "transient"]).required(), text("persistent")], &[]),
        flag("readonly"),
        flag("shareable"),
    ],
);

/// What the rest of the driver asks about a device of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// `pci`, `usb`, `scsi`, `scsi_host` or `mdev`.
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or_default()
    }
}

/// The canonical form of a device of the host.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    if input.attr("mode") == Some("capabilities") {
        // Containers have those; kept as it stands until it is refused.
        return Ok(input.clone());
    }
    let mut device = HOSTDEV.read(input)?;
    if device.attr("mode").is_none() {
        device.set("mode", "subsystem");
    }
    let kind = View(&device).kind().to_owned();
    if kind.is_empty() {
        return Err(refusal::missing_attribute(input, "type"));
    }
    if device.attr("managed").is_none() {
        device.set("managed", "no");
    }
    complete_attributes(input, &mut device, &kind)?;
    let given = input.child("source").ok_or_else(|| refusal::xml(input, "it needs a <source>"))?;
    let source = source::read(&kind, given)?;
    if !source.attributes.is_empty() || !source.children.is_empty() {
        device.push(source);
    }
    HOSTDEV.arrange(&mut device);
    common::append(input, &mut device, common::WITH_ROM)?;
    if kind == "mdev" && device.child("rom").is_some() && device.attr("model") != Some("vfio-pci") {
        device.take("rom");
    }
    Ok(device)
}

/// Which attributes go with which type.
fn complete_attributes(input: &Element, device: &mut Element, kind: &str) -> Result<(), Error> {
    if kind != "scsi" {
        for name in ["sgio", "rawio"] {
            if device.attr(name).is_some() {
                return Err(refusal::xml(
                    input,
                    format!("'{name}' is for SCSI devices of the host; remove it"),
                ));
            }
        }
        device.take("readonly");
        device.take("shareable");
    }
    match kind {
        "mdev" => {
            let Some(model) = device.attr("model").map(str::to_owned) else {
                return Err(refusal::missing_attribute(input, "model"));
            };
            if model == "vfio-pci" {
                if device.attr("display").is_none() {
                    device.set("display", "off");
                }
            } else if device.attr("display") == Some("on") {
                return Err(refusal::xml(
                    input,
                    format!("a mediated device of model '{model}' has no display; remove display='on'"),
                ));
            }
        }
        "scsi_host" => {}
        _ => {
            device.unset("model");
        }
    }
    if kind != "mdev" {
        device.unset("display");
        device.unset("ramfb");
    }
    if kind != "pci" {
        device.take("driver");
        device.take("teaming");
    }
    Ok(())
}

/// Whether QEMU guests can have it.
pub(crate) fn check(device: &Element, _context: &Context<'_>) -> Result<(), Error> {
    if device.attr("mode") == Some("capabilities") {
        return Err(refusal::unsupported_by_qemu(
            device,
            "QEMU guests can't have host devices of mode 'capabilities'; use 'subsystem'",
        ));
    }
    if device.path_attr("source", "writeFiltering").is_some() {
        return Err(refusal::unsupported_by_qemu(
            device,
            "QEMU does not filter writes to a PCI device's configuration; remove writeFiltering",
        ));
    }
    check_address(device, View(device).kind())
}

fn check_address(device: &Element, kind: &str) -> Result<(), Error> {
    let Some(given) = device.path_attr("address", "type") else {
        return Ok(());
    };
    let model = device.attr("model").unwrap_or_default();
    if kind == "pci" && !matches!(given, "pci" | "unassigned") {
        return Err(refusal::internal(
            device,
            format!("an address of type '{given}' does not fit a PCI device; use 'pci'"),
        ));
    }
    let wanted = match (kind, model) {
        ("mdev", "vfio-ccw") => "ccw",
        ("mdev", "vfio-pci") => "pci",
        ("scsi", _) => "drive",
        _ => return Ok(()),
    };
    if given == wanted || given == "unassigned" {
        return Ok(());
    }
    Err(refusal::xml(device, format!("an address of type '{given}' does not fit; use '{wanted}'")))
}
