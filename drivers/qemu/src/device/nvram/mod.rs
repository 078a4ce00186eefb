//! `<nvram>` as a device: the settings of pseries machines.

pub(crate) mod args;

use super::common;
use crate::device::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The canonical form of the NVRAM device.
pub(crate) fn complete(input: &Element, _context: &Context) -> Result<Element, Error> {
    let mut nvram = Element::new("nvram");
    common::append(input, &mut nvram, common::PLAIN)?;
    Ok(nvram)
}
