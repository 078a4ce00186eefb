//! `<interface>`.

pub(crate) mod args;

mod source;
mod tables;

use super::common;
use super::refusal;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use tables::{DRIVER, INTERFACE, TARGET};

/// Prefixes of tap names that are made up for one run of a guest, and so are not kept.
const AUTOMATIC_TARGETS: &[&str] = &["vnet", "macvtap", "macvlan"];

/// What the rest of the driver asks about an interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The type (`network`, `bridge`, ...).
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or_default()
    }

    /// The model of the guest's card, if there is one.
    pub(crate) fn model(self) -> Option<&'a str> {
        self.0.path_attr("model", "type")
    }

    /// Whether the card is a virtio one.
    pub(crate) fn is_virtio(self) -> bool {
        matches!(self.model(), Some("virtio" | "virtio-transitional" | "virtio-non-transitional"))
    }
}

/// The canonical form of an interface. An address is made for one that has none by whoever knows the others.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut interface = INTERFACE.read(input)?;
    if interface.attr("type").is_none() {
        interface.set("type", "user");
    }
    let kind = View(&interface).kind().to_owned();
    complete_mac(&mut interface, context)?;
    source::complete(input, &mut interface, &kind)?;
    complete_model(input, &mut interface, &kind, context)?;
    complete_driver(input, &mut interface, &kind)?;
    complete_target(input, &mut interface, &kind)?;
    tables::complete_parts(input, &mut interface, &kind, context)?;
    INTERFACE.arrange(&mut interface);
    if kind == "hostdev"
        && let Some(driver) = interface.take("driver")
    {
        // The driver of a host device says who gives it to the guest, and is printed before the source.
        let place = usize::from(interface.child("mac").is_some());
        interface.children.insert(place, bulkhead_xml::Node::Element(driver));
    }
    common::append(input, &mut interface, common::WITH_ROM)?;
    Ok(interface)
}

/// An interface without an address, or with zeroes for one, gets a new one.
fn complete_mac(interface: &mut Element, context: &Context<'_>) -> Result<(), Error> {
    let address = match interface.path_attr("mac", "address") {
        Some(address) if address != "00:00:00:00:00:00" => address.to_owned(),
        _ => {
            let address = context.host.new_mac();
            interface.child_or_insert("mac").set("address", address);
            return Ok(());
        }
    };
    let first = address.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    if first.is_some_and(|byte| byte & 1 == 1) {
        return Err(refusal::xml(
            interface,
            format!("MAC address '{address}' is a multicast one; use one whose first byte is even"),
        ));
    }
    Ok(())
}

fn complete_model(
    input: &Element,
    interface: &mut Element,
    kind: &str,
    context: &Context<'_>,
) -> Result<(), Error> {
    if View(interface).model() == Some("") {
        interface.take("model");
    }
    if let Some(model) = View(interface).model() {
        let plain = model.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !plain {
            return Err(Error::new(
                Code::INVALID_ARG,
                Origin::DOMAIN,
                format!(
                    "<interface> ({}): model '{model}' has characters other than letters, digits, '-' and '_'",
                    input.position
                ),
            ));
        }
        // Model names of cards that libvirt knows may be written in any case.
        let known = tables::MODELS.iter().find(|known| known.eq_ignore_ascii_case(model));
        if let Some(known) = known {
            interface.child_or_insert("model").set("type", *known);
        }
        return Ok(());
    }
    if kind == "hostdev" {
        interface.take("model");
        return Ok(());
    }
    let default = match kind {
        "vhostuser" | "vdpa" => Some("virtio"),
        _ => default_model(context),
    };
    if let Some(model) = default {
        interface.child_or_insert("model").set("type", model);
    }
    Ok(())
}

/// The card that a guest gets where none is named.
fn default_model(context: &Context<'_>) -> Option<&'static str> {
    match context.arch.as_str() {
        "s390" | "s390x" | "riscv32" | "riscv64" | "loongarch64" => Some("virtio"),
        "i686" | "x86_64" | "alpha" | "ppc" | "sh4" | "sh4eb" | "mips" | "mipsel" | "mips64" | "mips64el"
        | "hppa" | "ppc64" | "ppc64le" => Some("rtl8139"),
        "armv6l" | "armv7l" | "aarch64" => Some(match context.machine.as_str() {
            "versatilepb" => "smc91c111",
            _ if context.is_virt() => "virtio",
            _ => "lan9118",
        }),
        _ => None,
    }
}

fn complete_driver(input: &Element, interface: &mut Element, kind: &str) -> Result<(), Error> {
    let given = input.child("driver").and_then(|driver| driver.attr("name"));
    if kind == "hostdev" {
        interface.take("driver");
        if let Some(name) = given {
            if !matches!(name, "vfio" | "kvm" | "xen") {
                return Err(refusal::value(input, format!("host device driver '{name}' is unknown")));
            }
            let mut driver = Element::new("driver").with("name", name);
            if let Some(model) = input.path_attr("driver", "model") {
                driver.set("model", model);
            }
            interface.push(driver);
        }
        return Ok(());
    }
    if !View(interface).is_virtio() {
        interface.take("driver");
        return Ok(());
    }
    let Some(driver) = interface.child_mut("driver") else {
        return Ok(());
    };
    if let Some(name) = given {
        if !matches!(name, "qemu" | "vhost") {
            return Err(refusal::value(
                input,
                format!("interface driver '{name}' is unknown; use 'vhost' or 'qemu'"),
            ));
        }
        driver.set("name", name);
    }
    for (name, unset) in [("queues", "1"), ("queues", "0"), ("rx_queue_size", "0"), ("tx_queue_size", "0")] {
        if driver.attr(name) == Some(unset) {
            driver.unset(name);
        }
    }
    DRIVER.arrange(driver);
    if driver.attributes.is_empty() && driver.children.is_empty() {
        interface.take("driver");
    }
    Ok(())
}

fn complete_target(input: &Element, interface: &mut Element, kind: &str) -> Result<(), Error> {
    let Some(given) = input.child("target") else {
        return Ok(());
    };
    let mut target = TARGET.read(given)?;
    let made_up = |name: &str| AUTOMATIC_TARGETS.iter().any(|prefix| name.starts_with(prefix));
    let managed_elsewhere = target.attr("managed") == Some("no");
    let dropped = target.attr("dev").is_some_and(|name| !managed_elsewhere && made_up(name));
    if dropped {
        target.unset("dev");
    }
    if kind != "ethernet" {
        target.unset("managed");
    }
    if kind == "hostdev" {
        return Ok(());
    }
    if !target.attributes.is_empty() {
        interface.push(target);
    }
    Ok(())
}

/// Whether QEMU can connect it like that.
pub(crate) fn check(interface: &Element, _context: &Context<'_>) -> Result<(), Error> {
    let kind = View(interface).kind();
    if kind == "vhostuser" && !View(interface).is_virtio() {
        return Err(refusal::unsupported_by_qemu(interface, "a vhost-user interface needs model 'virtio'"));
    }
    if interface.child("mtu").is_some() && !matches!(kind, "network" | "bridge" | "ethernet" | "vhostuser") {
        return Err(refusal::unsupported_by_qemu(
            interface,
            format!("the MTU of an interface of type '{kind}' can't be set; remove <mtu>"),
        ));
    }
    check_addresses(interface, kind)?;
    check_teaming(interface, kind)?;
    if interface.child("coalesce").is_some() && !matches!(kind, "network" | "bridge" | "ethernet" | "direct")
    {
        return Err(refusal::unsupported_by_qemu(
            interface,
            format!("coalescing can't be set for an interface of type '{kind}'; remove <coalesce>"),
        ));
    }
    Ok(())
}

/// What the guest shall find configured, which only user networking tells it.
fn check_addresses(interface: &Element, kind: &str) -> Result<(), Error> {
    let passt = tables::is_passt(interface);
    if passt && !matches!(kind, "user" | "vhostuser") {
        return Err(refusal::unsupported(
            interface,
            format!("passt serves interfaces of type 'user' and 'vhostuser', not '{kind}'"),
        ));
    }
    if interface.child("portForward").is_some() && !passt {
        return Err(refusal::unsupported(interface, "<portForward> needs <backend type='passt'/>"));
    }
    if interface.path_attr("port", "isolated") == Some("yes") && !matches!(kind, "network" | "bridge") {
        return Err(refusal::unsupported(
            interface,
            format!("ports of interfaces of type '{kind}' can't be isolated; remove <port>"),
        ));
    }
    if interface.child("route").is_some() {
        return Err(refusal::unsupported_by_qemu(
            interface,
            "QEMU can't set routes in the guest; remove <route>",
        ));
    }
    if interface.child("ip").is_some() && !matches!(kind, "user" | "vhostuser") {
        return Err(refusal::unsupported_by_qemu(
            interface,
            format!("QEMU can't set addresses in the guest for type '{kind}'; remove <ip>"),
        ));
    }
    Ok(())
}

fn check_teaming(interface: &Element, kind: &str) -> Result<(), Error> {
    let Some(teaming) = interface.child("teaming") else {
        return Ok(());
    };
    let transient = teaming.attr("type") == Some("transient");
    if transient != teaming.attr("persistent").is_some() {
        return Err(refusal::unsupported(
            interface,
            "<teaming> of type 'transient', and no other, names the persistent interface",
        ));
    }
    if transient && kind != "hostdev" {
        return Err(refusal::unsupported_by_qemu(
            interface,
            format!("the transient part of a team has type 'hostdev', not '{kind}'"),
        ));
    }
    Ok(())
}
