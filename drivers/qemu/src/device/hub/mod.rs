//! `<hub>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, attribute, shape};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const HUB: Shape = shape("hub", &[attribute("type", Kind::Supported(&["usb"]))], &[]);

/// The canonical form of a hub.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut hub = HUB.read(input)?;
    if hub.attr("type").is_none() {
        return Err(refusal::internal(input, "it needs the attribute 'type'"));
    }
    common::append(input, &mut hub, common::PLAIN)?;
    Ok(hub)
}
