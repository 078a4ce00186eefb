//! `<source>` of an interface, by its type.

use super::super::address;
use super::super::refusal;
use super::super::schema::{Attribute, Shape, attribute, number, one_of, shape, text, yes_no};
use super::super::value::Kind;
use super::tables::{IP, ROUTE, complete_addresses, is_passt};
use bulkhead_wire::error::{Error, Origin};
use bulkhead_xml::Element;

const PORT: Attribute = attribute("port", Kind::Number(0, 65535));
const LOCAL: Shape = shape("local", &[text("address"), PORT], &[]);
const RECONNECT: Shape = shape("reconnect", &[yes_no("enabled").required(), number("timeout")], &[]);

/// What `<source>` holds, and which attributes it can't do without.
const SOURCES: &[(&str, Shape, &[&str])] = &[
    ("network", shape("source", &[text("network"), text("portgroup")], &[]), &["network"]),
    ("bridge", shape("source", &[text("bridge")], &[]), &["bridge"]),
    ("internal", shape("source", &[text("name")], &[]), &["name"]),
    (
        "direct",
        shape("source", &[text("dev"), one_of("mode", &["vepa", "private", "bridge", "passthrough"])], &[]),
        &["dev"],
    ),
    ("ethernet", shape("source", &[], &[IP, ROUTE]), &[]),
    ("user", shape("source", &[text("dev")], &[]), &[]),
    (
        "vhostuser",
        shape(
            "source",
            &[
                attribute("type", Kind::Supported(&["unix"])),
                text("path"),
                one_of("mode", &["server", "client"]),
            ],
            &[RECONNECT],
        ),
        &["type", "path"],
    ),
    ("server", shape("source", &[text("address"), PORT], &[]), &["port"]),
    ("client", shape("source", &[text("address"), PORT], &[]), &["port", "address"]),
    ("mcast", shape("source", &[text("address"), PORT], &[]), &["port", "address"]),
    ("udp", shape("source", &[text("address"), PORT], &[LOCAL]), &["port", "address"]),
    ("vdpa", shape("source", &[text("dev")], &[]), &["dev"]),
    (
        "vds",
        shape(
            "source",
            &[
                attribute("switchid", Kind::Uuid),
                attribute("portid", Kind::Number(0, i64::MAX as u64)),
                text("portgroupid"),
                attribute("connectionid", Kind::Number(0, i64::MAX as u64)),
            ],
            &[],
        ),
        &["switchid"],
    ),
];

const PASST: Shape = shape("source", &[text("dev")], &[]);

/// Reads the source and appends it.
pub(super) fn complete(input: &Element, interface: &mut Element, kind: &str) -> Result<(), Error> {
    if kind == "hostdev" {
        return complete_host_device(input, interface);
    }
    let Some((_, shape, required)) = SOURCES.iter().find(|(name, ..)| *name == kind) else {
        return Ok(());
    };
    // A vhost-user interface of passt has no socket of the client's choice, but an interface of the host.
    let (shape, required) =
        if kind == "vhostuser" && is_passt(interface) { (&PASST, [].as_slice()) } else { (shape, *required) };
    if input.child("source").is_none() && !required.is_empty() {
        return Err(refusal::xml(input, format!("an interface of type '{kind}' needs a <source>")));
    }
    let empty = Element::new("source");
    let mut source = shape.read(input.child("source").unwrap_or(&empty))?;
    for name in required {
        if source.attr(name).is_none() {
            // The socket of vhost-user is looked for by the qemu driver.
            let origin = if *name == "path" { Origin::QEMU } else { Origin::XML };
            return Err(refusal::xml_of(
                origin,
                input,
                format!("an interface of type '{kind}' needs '{name}' in its <source>"),
            ));
        }
    }
    match kind {
        "direct" if source.attr("mode").is_none() => source.set("mode", "vepa"),
        "udp" if source.child("local").is_none_or(|local| local.attr("port").is_none()) => {
            return Err(refusal::xml(
                input,
                "an interface of type 'udp' needs a <local> with a port in its <source>",
            ));
        }
        "vhostuser" if !is_passt(interface) => check_vhost_user(&mut source)?,
        _ => {}
    }
    complete_addresses(&mut source);
    if !source.attributes.is_empty() || !source.children.is_empty() {
        interface.push(source);
    }
    Ok(())
}

fn check_vhost_user(source: &mut Element) -> Result<(), Error> {
    if source.attr("mode").is_none() {
        source.set("mode", "client");
    }
    let Some(reconnect) = source.child_mut("reconnect") else {
        return Ok(());
    };
    let enabled = reconnect.attr("enabled") == Some("yes");
    if !enabled {
        reconnect.unset("timeout");
    }
    if enabled && reconnect.attr("timeout").is_none() {
        return Err(refusal::missing_attribute(reconnect, "timeout"));
    }
    if enabled && source.attr("mode") == Some("server") {
        return Err(refusal::unsupported_by_qemu(
            source,
            "only a client reconnects; remove <reconnect> or use mode 'client'",
        ));
    }
    Ok(())
}

fn complete_host_device(input: &Element, interface: &mut Element) -> Result<(), Error> {
    let address = input
        .at("source/address")
        .filter(|address| matches!(address.attr("type"), Some("pci" | "usb")))
        .ok_or_else(|| {
            refusal::unsupported(
                input,
                "an interface of type 'hostdev' needs <address type='pci'> in its <source>",
            )
        })?;
    if address.attr("type") == Some("usb") {
        const USB: Shape = shape("address", &[text("type"), number("bus"), number("device")], &[]);
        interface.push(Element::new("source").with_child(USB.read(address)?));
        return Ok(());
    }
    let mut place = Element::new("address").with("type", "pci");
    place.attributes.extend(address::read_host_pci(address)?.attributes);
    interface.push(Element::new("source").with_child(place));
    if interface.attr("managed") != Some("yes") {
        interface.unset("managed");
    }
    Ok(())
}
