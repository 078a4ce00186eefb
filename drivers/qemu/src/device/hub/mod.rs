//! `<hub>`.

use super::common;
use super::schema::{Shape, one_of, shape};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const HUB: Shape = shape("hub", &[one_of("type", &["usb"]).required()], &[]);

/// The canonical form of a hub.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut hub = HUB.read(input)?;
    common::append(input, &mut hub, common::PLAIN)?;
    Ok(hub)
}
