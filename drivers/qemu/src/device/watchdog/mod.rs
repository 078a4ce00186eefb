//! `<watchdog>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, one_of, shape};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const WATCHDOG: Shape = shape(
    "watchdog",
    &[
        one_of("model", &["i6300esb", "ib700", "diag288", "itco"]).required(),
        one_of("action", &["reset", "shutdown", "poweroff", "pause", "dump", "none", "inject-nmi"]),
    ],
    &[],
);

/// The canonical form of a watchdog.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut watchdog = WATCHDOG.read(input)?;
    if watchdog.attr("action").is_none() {
        watchdog.set("action", "reset");
    }
    common::append(input, &mut watchdog, common::PLAIN)?;
    Ok(watchdog)
}

/// Whether machine and address suit the model.
pub(crate) fn check(watchdog: &Element, context: &Context<'_>) -> Result<(), Error> {
    let model = watchdog.attr("model").unwrap_or_default();
    let arch = context.arch.as_str();
    let address = watchdog.path_attr("address", "type");
    let (fits, may_have) = match model {
        "diag288" => (context.is_s390(), None),
        "ib700" => (context.is_i440fx(), Some("isa")),
        "itco" => (context.is_x86() && context.is_q35(), None),
        _ => (true, Some("pci")),
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            watchdog,
            format!("watchdog '{model}' does not exist on machine '{}' of {arch}", context.machine),
        ));
    }
    if let Some(address) = address
        && address != "unassigned"
        && may_have != Some(address)
    {
        return Err(refusal::unsupported_by_qemu(
            watchdog,
            format!("watchdog '{model}' can't have an address of type '{address}'; remove it"),
        ));
    }
    Ok(())
}
