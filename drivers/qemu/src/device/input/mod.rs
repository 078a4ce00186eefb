//! `<input>`.

pub(crate) mod args;

use super::common::{self, VIRTIO_DRIVER};
use super::refusal;
use super::schema::{Shape, attribute, on_off, one_of, place, shape, text};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const INPUT: Shape = shape(
    "input",
    &[
        attribute("type", Kind::Supported(&["mouse", "tablet", "keyboard", "passthrough", "evdev"])),
        attribute("bus", Kind::Supported(&["ps2", "usb", "xen", "parallels", "virtio", "none"])),
        one_of("model", &["virtio", "virtio-transitional", "virtio-non-transitional"]),
    ],
    &[place("source"), VIRTIO_DRIVER],
);

/// The host's device of a passed through one.
const PASSTHROUGH_SOURCE: Shape = shape("source", &[text("evdev")], &[]);
/// The host's device that QEMU reads as its own keyboard or mouse.
const EVDEV_SOURCE: Shape = shape(
    "source",
    &[
        text("dev"),
        one_of("grab", &["all"]),
        one_of(
            "grabToggle",
            &["ctrl-ctrl", "alt-alt", "shift-shift", "meta-meta", "scrolllock", "ctrl-scrolllock"],
        ),
        on_off("repeat"),
    ],
    &[],
);

/// What the rest of the driver asks about an input device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The type (`mouse`).
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or_default()
    }

    /// The bus (`usb`).
    pub(crate) fn bus(self) -> &'a str {
        self.0.attr("bus").unwrap_or_default()
    }
}

/// The canonical form of an input device.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut device = INPUT.read(input)?;
    let kind = View(&device).kind().to_owned();
    if kind.is_empty() {
        return Err(refusal::internal(input, "it needs the attribute 'type'"));
    }
    if View(&device).bus() == "none" {
        device.unset("bus");
    }
    if device.attr("bus").is_none()
        && let Some(bus) = default_bus(input, &kind, context)
    {
        device.set("bus", bus);
    }
    complete_source(input, &mut device, &kind)?;
    INPUT.arrange(&mut device);
    common::append(input, &mut device, common::PLAIN)?;
    Ok(device)
}

fn default_bus(input: &Element, kind: &str, context: &Context<'_>) -> Option<&'static str> {
    match kind {
        "passthrough" => Some("virtio"),
        "evdev" => None,
        "tablet" if !context.is_s390() => Some("usb"),
        _ if context.is_x86() => Some("ps2"),
        _ if context.is_s390() => Some("virtio"),
        _ => match input.path_attr("address", "type") {
            Some("pci" | "ccw" | "virtio-mmio") => Some("virtio"),
            _ => Some("usb"),
        },
    }
}

/// Whether the guest has the bus, and the bus such a device.
pub(crate) fn check(device: &Element, context: &Context<'_>) -> Result<(), Error> {
    let kind = View(device).kind();
    let bus = View(device).bus();
    match bus {
        "ps2" if !matches!(kind, "mouse" | "keyboard") => {
            return Err(refusal::internal(device, format!("there is no {kind} for bus 'ps2'; use 'usb'")));
        }
        "ps2" if !context.is_x86() => {
            return Err(refusal::unsupported_by_qemu(
                device,
                format!("guests of architecture {} have no PS/2 bus; use 'usb' or 'virtio'", context.arch),
            ));
        }
        "xen" | "parallels" => {
            return Err(refusal::internal(device, format!("QEMU has no input bus '{bus}'")));
        }
        _ => {}
    }
    if kind == "passthrough" && bus != "virtio" {
        return Err(refusal::unsupported(device, "a device of type 'passthrough' needs bus 'virtio'"));
    }
    if kind == "evdev" && !bus.is_empty() {
        return Err(refusal::unsupported(device, "a device of type 'evdev' has no bus; remove it"));
    }
    if let Some(model) = device.attr("model") {
        if bus != "virtio" {
            return Err(refusal::unsupported(
                device,
                format!("model '{model}' needs bus 'virtio', not '{bus}'"),
            ));
        }
        if model != "virtio" && kind != "passthrough" {
            return Err(refusal::unsupported_by_qemu(
                device,
                format!("a {kind} can't have model '{model}'; use 'virtio'"),
            ));
        }
    }
    Ok(())
}

fn complete_source(input: &Element, device: &mut Element, kind: &str) -> Result<(), Error> {
    match kind {
        "passthrough" => PASSTHROUGH_SOURCE.read_child(input, device),
        "evdev" => EVDEV_SOURCE.read_child(input, device),
        _ => Ok(()),
    }
}
