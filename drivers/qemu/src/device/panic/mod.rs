//! `<panic>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, one_of, shape};
use crate::device::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const PANIC: Shape = shape(
    "panic",
    &[one_of(
        "model",
        &["default", "isa", "pseries", "hyperv", "s390", "pvpanic"],
    )],
    &[],
);

/// The canonical form of the device that reports the guest's panic.
pub(crate) fn complete(input: &Element, context: &Context) -> Result<Element, Error> {
    let mut panic = PANIC.read(input)?;
    if panic.attr("model").is_none_or(|model| model == "default") {
        panic.set("model", default_model(context));
    }
    let model = panic.attr("model").unwrap_or_default();
    let arch = context.arch.as_str();
    let fits = match model {
        "isa" | "hyperv" => matches!(arch, "i686" | "x86_64"),
        "pseries" => arch.starts_with("ppc64") && context.machine.starts_with("pseries"),
        "s390" => arch.starts_with("s390"),
        _ => true,
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            input,
            format!(
                "panic device '{model}' does not exist on machine '{}' of {arch}",
                context.machine
            ),
        ));
    }
    let address = input.path_attr("address", "type");
    let suits = match (model, address) {
        (_, None | Some("unassigned")) => true,
        ("isa", Some(kind)) => kind == "isa",
        ("pvpanic", Some(kind)) => kind == "pci",
        _ => false,
    };
    if !suits {
        return Err(refusal::unsupported_by_qemu(
            input,
            format!("panic device '{model}' can't have that address; remove it"),
        ));
    }
    common::append(input, &mut panic, common::PLAIN)?;
    Ok(panic)
}

fn default_model(context: &Context) -> &'static str {
    match context.arch.as_str() {
        arch if arch.starts_with("ppc64") => "pseries",
        arch if arch.starts_with("s390") => "s390",
        "i686" | "x86_64" => "isa",
        _ => "pvpanic",
    }
}
