//! `<address>` of a device: reading, checking, spelling. Assigning addresses is the domain's task.

use super::refusal;
use super::schema::{Attribute, Shape, attribute, number, on_off, shape, text};
use super::value::Kind;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// The attributes of a PCI address, of the guest's or the host's.
const PCI_PARTS: &[Attribute] = &[
    attribute("domain", Kind::Hex(4, 0xffff_ffff)),
    attribute("bus", Kind::Hex(2, 0xffff_ffff)),
    attribute("slot", Kind::Hex(2, 0xffff_ffff)),
    attribute("function", Kind::Hex(1, 0xffff_ffff)),
    on_off("multifunction"),
];

const ZPCI: Shape = shape(
    "zpci",
    &[attribute("uid", Kind::Hex(4, 0xffff_ffff)), attribute("fid", Kind::Hex(8, 0xffff_ffff))],
    &[],
);

/// The types of addresses and what each holds.
const TYPES: &[(&str, Shape)] = &[
    ("pci", shape("address", PCI_PARTS, &[ZPCI])),
    (
        "drive",
        shape("address", &[number("controller"), number("bus"), number("target"), number("unit")], &[]),
    ),
    ("virtio-serial", shape("address", &[number("controller"), number("bus"), number("port")], &[])),
    ("ccid", shape("address", &[number("controller"), number("slot")], &[])),
    ("usb", shape("address", &[number("bus"), text("port")], &[])),
    ("spapr-vio", shape("address", &[attribute("reg", Kind::Hex(8, u64::MAX))], &[])),
    (
        "ccw",
        shape(
            "address",
            &[
                attribute("cssid", Kind::Hex(1, 0xffff_ffff)),
                attribute("ssid", Kind::Hex(1, 0xffff_ffff)),
                attribute("devno", Kind::Hex(4, 0xffff_ffff)),
            ],
            &[],
        ),
    ),
    ("virtio-mmio", shape("address", &[], &[])),
    (
        "isa",
        shape(
            "address",
            &[attribute("iobase", Kind::Hex(1, 0xffff_ffff)), attribute("irq", Kind::Hex(1, 0xffff_ffff))],
            &[],
        ),
    ),
    ("dimm", shape("address", &[number("slot"), attribute("base", Kind::Hex(1, u64::MAX))], &[])),
    ("unassigned", shape("address", &[], &[])),
];

/// Parts that count as 0 when they are not given, once any address is.
const ZEROES: &[(&str, &[(&str, &str)])] = &[
    ("pci", &[("domain", "0x0000"), ("bus", "0x00"), ("slot", "0x00"), ("function", "0x0")]),
    ("drive", &[("controller", "0"), ("bus", "0"), ("target", "0"), ("unit", "0")]),
    ("virtio-serial", &[("controller", "0"), ("bus", "0"), ("port", "0")]),
    ("ccid", &[("controller", "0"), ("slot", "0")]),
    ("usb", &[("bus", "0")]),
    ("dimm", &[("slot", "0")]),
];

/// The canonical form of a device's address. A PCI or CCW address that names only its type asks for any free place
/// and stays like that.
pub(crate) fn read(input: &Element) -> Result<Element, Error> {
    let Some(kind) = input.attr("type") else {
        return Err(refusal::missing_attribute(input, "type"));
    };
    let Some((_, shape)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        return Err(refusal::value(input, format!("address type '{kind}' is unknown")));
    };
    let mut parts = shape.read(input)?;
    let any_place = matches!(kind, "pci" | "spapr-vio" | "isa")
        && parts.attributes.iter().all(|(name, _)| name == "multifunction");
    if !any_place && let Some((_, zeroes)) = ZEROES.iter().find(|(name, _)| *name == kind) {
        for (name, zero) in *zeroes {
            if parts.attr(name).is_none() {
                parts.set(name, *zero);
            }
        }
        shape.arrange(&mut parts);
    }
    match kind {
        "pci" => {
            check_pci(&parts)?;
            check_zpci(&parts)?;
        }
        "ccw" => check_ccw(&parts)?,
        "usb" => {
            if let Some(port) = parts.attr("port") {
                parts.set("port", usb_port(&parts, port)?);
            }
        }
        _ => {}
    }
    let mut address = Element::new("address").with("type", kind);
    address.position = input.position;
    address.attributes.append(&mut parts.attributes);
    address.children = parts.children;
    Ok(address)
}

/// The address of a PCI device of the host, which has no type.
pub(crate) fn read_host_pci(input: &Element) -> Result<Element, Error> {
    const HOST: Shape = shape("address", PCI_PARTS, &[]);
    let mut address = HOST.read(input)?;
    address.unset("multifunction");
    for (name, zero) in [("domain", "0x0000"), ("bus", "0x00"), ("slot", "0x00"), ("function", "0x0")] {
        if address.attr(name).is_none() {
            address.set(name, zero);
        }
    }
    HOST.arrange(&mut address);
    check_pci(&address)?;
    Ok(address)
}

fn hex_of(address: &Element, name: &str) -> u64 {
    address.attr(name).and_then(super::value::any_base).unwrap_or(0)
}

fn check_pci(address: &Element) -> Result<(), Error> {
    for (name, maximum) in [("domain", 0xffff), ("bus", 0xff), ("slot", 0x1f), ("function", 7)] {
        let given = hex_of(address, name);
        if given > maximum {
            return Err(Error::new(
                Code::XML_ERROR,
                Origin::NONE,
                format!("PCI address ({}): {name} {given:#x} is above {maximum:#x}", address.position),
            ));
        }
    }
    Ok(())
}

/// A PCI device of a mainframe has a user-defined identifier of 16 bits, and not 0.
fn check_zpci(address: &Element) -> Result<(), Error> {
    match address.child("zpci").filter(|zpci| zpci.attr("uid").is_some()) {
        Some(zpci) if !(1..=0xffff).contains(&hex_of(zpci, "uid")) => Err(Error::new(
            Code::XML_ERROR,
            Origin::QEMU,
            format!("<zpci> ({}): its uid is not from 0x0001 to 0xffff", zpci.position),
        )),
        _ => Ok(()),
    }
}

fn check_ccw(address: &Element) -> Result<(), Error> {
    let given = ["cssid", "ssid", "devno"].iter().filter(|name| address.attr(name).is_some()).count();
    if given == 0 {
        return Ok(());
    }
    if given < 3
        || hex_of(address, "cssid") > 0xfe
        || hex_of(address, "ssid") > 3
        || hex_of(address, "devno") > 0xffff
    {
        return Err(Error::new(
            Code::INTERNAL,
            Origin::DEVICE,
            format!(
                "CCW address ({}): cssid up to 0xfe, ssid up to 3 and devno up to 0xffff are needed together",
                address.position
            ),
        ));
    }
    Ok(())
}

/// `1.2.3`: up to four numbers.
fn usb_port(address: &Element, port: &str) -> Result<String, Error> {
    let numbers: Option<Vec<String>> =
        port.split('.').map(|part| super::value::decimal(part).map(|number| number.to_string())).collect();
    match numbers {
        Some(numbers) if numbers.len() <= 4 => Ok(numbers.join(".")),
        _ => Err(Error::new(
            Code::INTERNAL,
            Origin::DEVICE,
            format!(
                "<address> ({}): USB port '{port}' is not up to four numbers with dots between them",
                address.position
            ),
        )),
    }
}
