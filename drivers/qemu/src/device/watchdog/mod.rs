//! `<watchdog>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, one_of, shape};
use crate::device::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const WATCHDOG: Shape = shape(
    "watchdog",
    &[
        one_of("model", &["i6300esb", "ib700", "diag288", "itco"]).required(),
        one_of(
            "action",
            &[
                "reset",
                "shutdown",
                "poweroff",
                "pause",
                "dump",
                "none",
                "inject-nmi",
            ],
        ),
    ],
    &[],
);

/// The canonical form of a watchdog.
pub(crate) fn complete(input: &Element, context: &Context) -> Result<Element, Error> {
    let mut watchdog = WATCHDOG.read(input)?;
    if watchdog.attr("action").is_none() {
        watchdog.set("action", "reset");
    }
    let model = watchdog.attr("model").unwrap_or_default();
    let arch = context.arch.as_str();
    let address = input.path_attr("address", "type");
    let (fits, may_have) = match model {
        "diag288" => (arch.starts_with("s390"), None),
        "ib700" => (matches!(arch, "i686" | "x86_64"), Some("isa")),
        "itco" => (
            matches!(arch, "i686" | "x86_64") && context.machine.contains("q35"),
            None,
        ),
        _ => (true, Some("pci")),
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            input,
            format!(
                "watchdog '{model}' does not exist on machine '{}' of {arch}",
                context.machine
            ),
        ));
    }
    if let Some(address) = address
        && address != "unassigned"
        && may_have != Some(address)
    {
        return Err(refusal::unsupported_by_qemu(
            input,
            format!("watchdog '{model}' can't have an address of type '{address}'; remove it"),
        ));
    }
    common::append(input, &mut watchdog, common::PLAIN)?;
    Ok(watchdog)
}
