//! `<nvram>` as a device: the settings of pseries machines.

use super::common;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The canonical form of the NVRAM device.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut nvram = Element::new("nvram");
    common::append(input, &mut nvram, common::PLAIN)?;
    Ok(nvram)
}
