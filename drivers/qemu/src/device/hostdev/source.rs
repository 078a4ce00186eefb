//! `<source>` of a host device: which device of the host it is.

use super::super::address;
use super::super::refusal;
use super::super::schema::{Attribute, Shape, attribute, one_of, shape, text, yes_no};
use super::super::source as storage;
use super::super::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// A number of vendor or product.
const USB_ID: Attribute = attribute("id", Kind::Hex(4, u32::MAX as u64)).required();

const USB: Shape = shape(
    "source",
    &[
        one_of("startupPolicy", &["mandatory", "requisite", "optional"]),
        one_of("guestReset", &["off", "uninitialized", "on"]),
    ],
    &[
        shape("vendor", &[USB_ID], &[]),
        shape("product", &[USB_ID], &[]),
        shape(
            "address",
            &[
                attribute("bus", Kind::AnyBase(u32::MAX as u64)),
                attribute("device", Kind::AnyBase(u32::MAX as u64)),
                attribute("port", Kind::Text),
            ],
            &[],
        ),
    ],
);

const SCSI: Shape = shape(
    "source",
    &[one_of("protocol", &["adapter", "iscsi"]), text("name")],
    &[
        shape("adapter", &[text("name")], &[]),
        shape(
            "address",
            &[
                attribute("bus", Kind::AnyBase(u32::MAX as u64)),
                attribute("target", Kind::AnyBase(u32::MAX as u64)),
                attribute("unit", Kind::AnyBase(u64::MAX)),
            ],
            &[],
        ),
        shape("host", &[text("name"), text("port")], &[]).many(),
    ],
);

const SCSI_HOST: Shape = shape("source", &[one_of("protocol", &["vhost"]).required(), text("wwpn")], &[]);

/// Reads the source of a type of host device.
pub(super) fn read(kind: &str, given: &Element) -> Result<Element, Error> {
    match kind {
        "pci" => pci(given),
        "usb" => usb(given),
        "scsi" => scsi(given),
        "scsi_host" => scsi_host(given),
        _ => mediated(given),
    }
}

fn pci(given: &Element) -> Result<Element, Error> {
    const PCI: Shape = shape("source", &[yes_no("writeFiltering")], &[]);
    let mut source = PCI.read(given)?;
    let nowhere = Element::new("address");
    let address = given.child("address").unwrap_or(&nowhere);
    source.push(address::read_host_pci(address)?);
    Ok(source)
}

fn usb(given: &Element) -> Result<Element, Error> {
    let mut source = USB.read(given)?;
    let (vendor, product) = (source.child("vendor").is_some(), source.child("product").is_some());
    if vendor != product {
        return Err(refusal::internal(given, "<vendor> and <product> need one another"));
    }
    for name in ["vendor", "product"] {
        if source.path_attr(name, "id") == Some("0x0000") {
            return Err(refusal::value(given, format!("no {name} has the id 0")));
        }
    }
    if let Some(address) = source.child_mut("address") {
        address.unset("port");
        for name in ["bus", "device"] {
            if address.attr(name).is_none() {
                return Err(refusal::missing_attribute(given, name));
            }
        }
    }
    Ok(source)
}

fn scsi(given: &Element) -> Result<Element, Error> {
    let mut source = SCSI.read(given)?;
    if source.attr("protocol") == Some("iscsi") {
        source.take("adapter");
        source.take("address");
        if source.attr("name").is_none() {
            return Err(refusal::xml(given, "an iSCSI device needs its name"));
        }
        if source.child("host").is_none() {
            return Err(refusal::xml(given, "an iSCSI device needs the <host> that serves it"));
        }
        if let Some(name) = source.attr("name").filter(|name| !name.contains('/')) {
            let name = format!("{name}/0");
            source.set("name", name);
        }
        if let Some(auth) = given.child("auth") {
            source.push(storage::read_auth(auth)?);
        }
        if let Some(initiator) = given.child("initiator") {
            const INITIATOR: Shape = shape("initiator", &[], &[shape("iqn", &[text("name")], &[])]);
            INITIATOR.read_into(initiator, &mut source)?;
        }
        return Ok(source);
    }
    source.unset("protocol");
    source.unset("name");
    source
        .children
        .retain(|child| !matches!(child, bulkhead_xml::Node::Element(child) if child.name == "host"));
    let complete = source.path_attr("adapter", "name").is_some()
        && source
            .child("address")
            .is_some_and(|address| ["bus", "target", "unit"].iter().all(|name| address.attr(name).is_some()));
    if !complete {
        return Err(refusal::xml(
            given,
            "a SCSI device of the host needs <adapter name=''/> and <address bus='' target='' unit=''/>",
        ));
    }
    Ok(source)
}

fn scsi_host(given: &Element) -> Result<Element, Error> {
    let source = SCSI_HOST.read(given)?;
    let digits = source.attr("wwpn").and_then(|wwpn| wwpn.strip_prefix("naa."));
    if !digits
        .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    {
        return Err(refusal::xml(given, "its wwpn is not 'naa.' and 16 hexadecimal digits"));
    }
    Ok(source)
}

fn mediated(given: &Element) -> Result<Element, Error> {
    let uuid = given
        .path_attr("address", "uuid")
        .and_then(super::super::value::uuid)
        .ok_or_else(|| refusal::internal(given, "a mediated device needs <address uuid=''/> with a UUID"))?;
    Ok(Element::new("source").with_child(Element::new("address").with("uuid", uuid)))
}
