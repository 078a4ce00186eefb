//! The errors with which devices are refused, by libvirt's code and domain.

use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::fmt;

/// The text of a refusal: the device, the place in the document, the cause with its remedy.
fn at(device: &Element, message: impl fmt::Display) -> String {
    format!("<{}> ({}): {message}", device.name, device.position)
}

/// The XML says something wrong.
pub(crate) fn xml(device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::XML_ERROR, Origin::DOMAIN, at(device, message))
}

/// A value that the XML reader refuses.
pub(crate) fn value(device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::XML_ERROR, Origin::XML, at(device, message))
}

/// An attribute that must be there.
pub(crate) fn missing_attribute(device: &Element, name: &str) -> Error {
    value(device, format!("attribute '{name}' is missing; add it"))
}

/// Well-formed XML with a fault that libvirt reports under another origin than the domain.
pub(crate) fn xml_of(origin: Origin, device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::XML_ERROR, origin, at(device, message))
}

/// Domain XML knows it, but not in this combination.
pub(crate) fn unsupported(device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, at(device, message))
}

/// QEMU guests can't have it.
pub(crate) fn unsupported_by_qemu(device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, at(device, message))
}

/// The same, found by another part of the system than the reader of domains.
pub(crate) fn internal_of(origin: Origin, device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::INTERNAL, origin, at(device, message))
}

/// A fault that libvirt reports as its own, though the XML is to blame.
pub(crate) fn internal(device: &Element, message: impl fmt::Display) -> Error {
    Error::new(Code::INTERNAL, Origin::DOMAIN, at(device, message))
}
