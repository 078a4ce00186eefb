//! `<redirdev>` and `<redirfilter>`.

pub(crate) mod args;

use super::chardev::{self, SocketPath};
use super::common;
use super::refusal;
use super::schema::{Shape, attribute, shape, text, yes_no};
use super::value::{self, Kind};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const REDIRDEV: Shape =
    shape("redirdev", &[attribute("bus", Kind::Supported(&["usb"])), attribute("type", chardev::TYPES)], &[]);

const FILTER: Shape = shape(
    "redirfilter",
    &[],
    &[shape(
        "usbdev",
        &[text("class"), text("vendor"), text("product"), text("version"), yes_no("allow").required()],
        &[],
    )
    .many()],
);

/// The canonical form of a redirected USB device.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut device = REDIRDEV.read(input)?;
    if device.attr("bus").is_none() {
        device.attributes.insert(0, ("bus".to_owned(), "usb".to_owned()));
    }
    let Some(kind) = device.attr("type").map(str::to_owned) else {
        return Err(refusal::internal(input, "it needs the type of its connection"));
    };
    chardev::append(input, &mut device, &kind, SocketPath::Given)?;
    common::append(input, &mut device, common::BOOTABLE)?;
    Ok(device)
}

/// The canonical form of the rules that say which USB devices may be redirected.
pub(crate) fn complete_filter(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut filter = FILTER.read(input)?;
    for rule in filter.elements_mut() {
        for (name, digits, maximum) in
            [("class", 2, 0xff), ("vendor", 4, u32::MAX as u64), ("product", 4, u32::MAX as u64)]
        {
            let Some(text) = rule.attr(name) else {
                continue;
            };
            if text == "-1" {
                rule.unset(name);
                continue;
            }
            let number = value::any_base(text)
                .filter(|number| *number <= maximum)
                .ok_or_else(|| refusal::internal(input, format!("{name} '{text}' is not a USB number")))?;
            rule.set(name, format!("0x{number:0digits$X}"));
        }
        if let Some(version) = rule.attr("version") {
            if version == "-1" {
                rule.unset("version");
                continue;
            }
            let canonical = usb_version(version)
                .ok_or_else(|| refusal::xml(input, format!("USB version '{version}' is not like 2.00")))?;
            rule.set("version", canonical);
        }
    }
    Ok(filter)
}

/// `major.minor` in decimal digits, each of one or two.
fn usb_version(text: &str) -> Option<String> {
    let (major, minor) = text.split_once('.')?;
    let fits = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit());
    if !fits(major) || !fits(minor) {
        return None;
    }
    let major: u32 = major.parse().ok()?;
    Some(format!("{major}.{minor:0<2}"))
}
