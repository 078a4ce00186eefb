//! `<memballoon>`.

pub(crate) mod args;

use super::common::{self, VIRTIO_DRIVER};
use super::schema::{Shape, number, on_off, one_of, shape};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const MEMBALLOON: Shape = shape(
    "memballoon",
    &[
        one_of("model", &["virtio", "xen", "none", "virtio-transitional", "virtio-non-transitional"])
            .required(),
        on_off("autodeflate"),
        on_off("freePageReporting"),
    ],
    &[shape("stats", &[number("period")], &[]), VIRTIO_DRIVER],
);

/// The canonical form of the memory balloon.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut balloon = MEMBALLOON.read(input)?;
    if balloon.path_attr("stats", "period") == Some("0") {
        balloon.take("stats");
    }
    if balloon.attr("model") == Some("none") {
        balloon.take("driver");
        return Ok(balloon);
    }
    let driver = balloon.take("driver");
    common::append(input, &mut balloon, common::PLAIN)?;
    // The only device whose driver stands behind its address.
    balloon.children.extend(driver.map(bulkhead_xml::Node::Element));
    Ok(balloon)
}
