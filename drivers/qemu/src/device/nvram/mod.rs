//! `<nvram>` as a device: the settings of pseries machines.

pub(crate) mod args;

use super::common;
use super::refusal;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The canonical form of the NVRAM device.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut nvram = Element::new("nvram");
    common::append(input, &mut nvram, common::PLAIN)?;
    Ok(nvram)
}

/// Whether the machine has it.
pub(crate) fn check(nvram: &Element, context: &Context<'_>) -> Result<(), Error> {
    if context.is_pseries() {
        return Ok(());
    }
    Err(refusal::unsupported_by_qemu(nvram, "only pseries machines have it; remove it"))
}
