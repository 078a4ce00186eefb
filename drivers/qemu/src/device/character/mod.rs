//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`.

pub(crate) mod args;

use super::chardev::{self, SocketPath};
use super::common;
use super::refusal;
use super::schema::{Attribute, Shape, attribute, place, shape, text};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// What a character device holds besides its connection and its target.
const CHARACTER: Shape = shape(
    "",
    &[attribute("type", chardev::TYPES)],
    &[place("source"), place("log"), place("protocol"), place("target")],
);

/// The number of a device among its kind.
const PORT: Attribute =
    attribute("port", Kind::As(Code::XML_ERROR, Origin::DOMAIN, &Kind::Number(0, i32::MAX as u64)));

const SERIAL_TARGET: Shape = shape(
    "target",
    &[
        attribute(
            "type",
            Kind::Supported(&[
                "isa-serial",
                "usb-serial",
                "pci-serial",
                "spapr-vio-serial",
                "sclp-serial",
                "system-serial",
                "isa-debug",
            ]),
        ),
        PORT,
    ],
    &[shape("model", &[text("name")], &[])],
)
.kept();

const CONSOLE_TARGET: Shape = shape(
    "target",
    &[
        attribute(
            "type",
            Kind::Supported(&["serial", "xen", "uml", "virtio", "lxc", "openvz", "sclp", "sclplm"]),
        ),
        PORT,
    ],
    &[],
)
.kept();

const PARALLEL_TARGET: Shape = shape("target", &[PORT], &[]).kept();

const CHANNEL_TARGET: Shape = shape(
    "target",
    &[
        attribute("type", Kind::Supported(&["guestfwd", "virtio", "xen", "none"])),
        text("name"),
        text("address"),
        attribute("port", Kind::Text),
    ],
    &[],
);

/// The models of serial ports, and the target type that each needs.
const MODELS: &[(&str, &str)] = &[
    ("isa-serial", "isa-serial"),
    ("usb-serial", "usb-serial"),
    ("pci-serial", "pci-serial"),
    ("spapr-vty", "spapr-vio-serial"),
    ("sclpconsole", "sclp-serial"),
    ("sclplmconsole", "sclp-serial"),
    ("pl011", "system-serial"),
    ("16550a", "system-serial"),
    ("isa-debugcon", "isa-debug"),
];

/// What the rest of the driver asks about a character device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The type of the guest's device.
    pub(crate) fn target(self) -> &'a str {
        self.0.path_attr("target", "type").unwrap_or_default()
    }

    /// The number among its kind.
    pub(crate) fn port(self) -> Option<u32> {
        self.0.path_attr("target", "port").and_then(|port| port.parse().ok())
    }
}

/// The canonical form of a character device of any of the four kinds. The port of one that has none is given by
/// [`number_ports`], which knows the others.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut device = CHARACTER.read(input)?;
    device.name.clone_from(&input.name);
    let Some(kind) = device.attr("type").map(str::to_owned) else {
        return complete_untyped(input, context);
    };
    let target = match input.name.as_str() {
        "serial" => serial_target(input, context)?,
        "parallel" => target_of(&PARALLEL_TARGET, input)?,
        "console" => console_target(input)?,
        _ => channel_target(input, &kind)?,
    };
    if kind == "spicevmc" && (input.name != "channel" || target.attr("type") != Some("virtio")) {
        return Err(refusal::unsupported(
            input,
            "a connection of type 'spicevmc' needs a channel with target type 'virtio'",
        ));
    }
    let automatic = input.name == "channel" && matches!(target.attr("type"), Some("virtio" | "xen"));
    let path = if automatic { SocketPath::Automatic } else { SocketPath::Given };
    chardev::append(input, &mut device, &kind, path)?;
    if automatic {
        forget_automatic_path(&mut device, target.attr("name"));
    }
    device.push(target);
    common::append(input, &mut device, common::PLAIN)?;
    if View(&device).target() == "spapr-vio-serial"
        && device.path_attr("address", "type") != Some("spapr-vio")
    {
        // It has no other kind of address, so one that is asked for is replaced.
        device.take("address");
    }
    Ok(device)
}

/// A device without a type is connected to a pseudo terminal.
fn complete_untyped(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut typed = input.clone();
    typed.set("type", "pty");
    complete(&typed, context)
}

fn target_of(shape: &Shape, input: &Element) -> Result<Element, Error> {
    match input.child("target") {
        Some(target) => shape.read(target),
        None => Ok(Element::new("target")),
    }
}

/// The serial port of an architecture where none is named: target type and model.
fn default_serial(context: &Context<'_>) -> (&'static str, &'static str) {
    let (arch, machine) = (context.arch.as_str(), context.machine.as_str());
    match arch {
        "i686" | "x86_64" => ("isa-serial", "isa-serial"),
        _ if context.is_pseries() => ("spapr-vio-serial", "spapr-vty"),
        _ if context.is_arm() && (context.is_virt() || machine == "versatilepb") => {
            ("system-serial", "pl011")
        }
        _ if context.is_virt() => ("system-serial", "16550a"),
        "s390" | "s390x" => ("sclp-serial", "sclpconsole"),
        _ => ("", ""),
    }
}

/// The model of a target type where none is named.
fn default_model(kind: &str, context: &Context<'_>) -> Option<&'static str> {
    if kind == "system-serial" {
        return match () {
            () if context.is_arm() && (context.is_virt() || context.machine == "versatilepb") => {
                Some("pl011")
            }
            () if context.is_virt() => Some("16550a"),
            () => None,
        };
    }
    MODELS.iter().find(|(_, wanted)| *wanted == kind).map(|(model, _)| *model)
}

fn serial_target(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut target = target_of(&SERIAL_TARGET, input)?;
    let (kind, model) = default_serial(context);
    if target.attr("type").is_none() && !kind.is_empty() {
        target.set("type", kind);
        if target.path_attr("model", "name").is_none() {
            target.child_or_insert("model").set("name", model);
        }
    }
    let kind = target.attr("type").unwrap_or_default().to_owned();
    match target.path_attr("model", "name").map(str::to_owned) {
        None => {
            if let Some(model) = default_model(&kind, context) {
                target.child_or_insert("model").set("name", model);
            }
        }
        Some(model) => {
            if !MODELS.iter().any(|(name, _)| *name == model) {
                return Err(refusal::unsupported(input, format!("serial model '{model}' is unknown")));
            }
        }
    }
    SERIAL_TARGET.arrange(&mut target);
    Ok(target)
}

/// Whether guest and address suit the device.
pub(crate) fn check(device: &Element, context: &Context<'_>) -> Result<(), Error> {
    chardev::check(device)?;
    match device.name.as_str() {
        "serial" => check_serial(device, context),
        "parallel" if context.is_pseries() || context.is_s390() => Err(refusal::unsupported_by_qemu(
            device,
            format!("machine '{}' has no parallel ports", context.machine),
        )),
        "console" => check_console(device, context),
        _ => Ok(()),
    }
}

fn check_console(device: &Element, context: &Context<'_>) -> Result<(), Error> {
    match View(device).target() {
        kind @ ("sclp" | "sclplm") if !context.is_s390() => {
            Err(refusal::unsupported_by_qemu(device, format!("a console '{kind}' exists on s390 only")))
        }
        kind @ ("xen" | "uml" | "lxc" | "openvz") => Err(refusal::unsupported_by_qemu(
            device,
            format!("QEMU has no console '{kind}'; use 'serial' or 'virtio'"),
        )),
        _ => Ok(()),
    }
}

fn check_serial(device: &Element, context: &Context<'_>) -> Result<(), Error> {
    let kind = View(device).target();
    let model = device.at("target/model").and_then(|model| model.attr("name")).unwrap_or_default();
    if let Some((_, wanted)) = MODELS.iter().find(|(name, _)| *name == model)
        && *wanted != kind
    {
        return Err(refusal::unsupported_by_qemu(
            device,
            format!("model '{model}' needs target type '{wanted}', not '{kind}'"),
        ));
    }
    let (arch, machine) = (context.arch.as_str(), context.machine.as_str());
    let fits = match (kind, model) {
        ("isa-serial" | "isa-debug", _) => {
            matches!(arch, "i686" | "x86_64" | "alpha" | "hppa" | "mips" | "mipsel" | "mips64" | "mips64el")
                || machine.starts_with("powernv")
                || machine == "prep"
        }
        (_, "pl011") => context.is_arm() && (context.is_virt() || machine == "versatilepb"),
        (_, "16550a") => !context.is_arm() && context.is_virt(),
        ("spapr-vio-serial", _) => context.is_pseries(),
        ("sclp-serial", _) => context.is_s390(),
        _ => true,
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            device,
            format!(
                "a serial port '{kind}' of model '{model}' does not exist on machine '{machine}' of {arch}"
            ),
        ));
    }
    let wanted = match kind {
        "isa-serial" | "isa-debug" => "isa",
        "usb-serial" => "usb",
        "pci-serial" => "pci",
        "spapr-vio-serial" => "spapr-vio",
        "system-serial" | "sclp-serial" => "none",
        _ => return Ok(()),
    };
    match device.path_attr("address", "type") {
        None => Ok(()),
        Some(given) if given == wanted => Ok(()),
        Some(given) => Err(refusal::unsupported_by_qemu(
            device,
            format!("a serial port '{kind}' needs an address of type '{wanted}', not '{given}'"),
        )),
    }
}

fn console_target(input: &Element) -> Result<Element, Error> {
    let mut target = target_of(&CONSOLE_TARGET, input)?;
    if target.attr("type").is_none() {
        target.set("type", "serial");
    }
    CONSOLE_TARGET.arrange(&mut target);
    Ok(target)
}

fn channel_target(input: &Element, connection: &str) -> Result<Element, Error> {
    let mut target = target_of(&CHANNEL_TARGET, input)?;
    let Some(kind) = target.attr("type").map(str::to_owned) else {
        return Err(if input.child("target").is_some() {
            refusal::unsupported(input, "its target needs a type; use 'virtio'")
        } else {
            refusal::xml(input, "a channel needs <target type=''>")
        });
    };
    match kind.as_str() {
        "guestfwd" => {
            target.unset("name");
            let Some(port) = target.attr("port") else {
                return Err(refusal::missing_attribute(&target, "port"));
            };
            let port = super::value::decimal(port)
                .ok_or_else(|| refusal::value(&target, format!("port '{port}' is not a number")))?;
            target.set("port", port.to_string());
            let Some(address) = target.attr("address") else {
                return Err(refusal::xml(input, "a guestfwd channel needs the address that it listens on"));
            };
            if address.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::new(
                    Code::SYSTEM_ERROR,
                    Origin::NONE,
                    format!("<target> ({}): '{address}' is not an IP address", target.position),
                ));
            }
        }
        "virtio" | "xen" => {
            target.unset("address");
            target.unset("port");
            if target.attr("name").is_none() {
                let name = (connection == "spicevmc").then_some("com.redhat.spice.0");
                if let Some(name) = name {
                    target.set("name", name);
                }
            }
        }
        _ => {}
    }
    CHANNEL_TARGET.arrange(&mut target);
    Ok(target)
}

/// The sockets of channels that were made up for an earlier run of the guest lie in a folder of ours; such a path is
/// not kept, so that the next run makes its own.
fn forget_automatic_path(device: &mut Element, name: Option<&str>) {
    let made_up = device.path_attr("source", "path").is_some_and(|path| {
        let Some(rest) = path
            .strip_prefix("/var/lib/libvirt/qemu/channel/target/")
            .or_else(|| path.strip_prefix("/var/lib/libvirt/qemu/channel/"))
            .or_else(|| path.strip_prefix("/run/libvirt/qemu/channel/"))
        else {
            return false;
        };
        let Some(name) = name else {
            return false;
        };
        rest.strip_suffix(name).is_some_and(|front| {
            let folder = front.strip_suffix('/').filter(|folder| !folder.contains('/'));
            folder.is_some_and(is_guest_folder) || front.ends_with('.') && !front.contains('/')
        })
    });
    if made_up {
        device.take("source");
    }
}

/// Whether a folder bears the name of one run of a guest: `domain-NAME` or `7-NAME`.
fn is_guest_folder(name: &str) -> bool {
    let number = name.split('-').next().unwrap_or_default();
    name.starts_with("domain-")
        || name.contains('-') && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Gives a port to each serial port, parallel port and console that has none: the next after the highest of its kind.
pub(crate) fn number_ports(devices: &mut Element) {
    for kind in ["serial", "parallel", "console"] {
        let mut next = devices
            .all(kind)
            .filter_map(|device| View(device).port())
            .max()
            .map_or(0, |port| port.saturating_add(1));
        for device in devices.elements_mut().filter(|device| device.name == kind) {
            if View(device).port().is_some() {
                continue;
            }
            let target = device.child_or_insert("target");
            target.set("port", next.to_string());
            next = next.saturating_add(1);
        }
    }
}
