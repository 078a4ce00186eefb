//! `<panic>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, attribute, shape};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const PANIC: Shape = shape(
    "panic",
    &[attribute("model", Kind::Supported(&["default", "isa", "pseries", "hyperv", "s390", "pvpanic"]))],
    &[],
);

/// The canonical form of the device that reports the guest's panic.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut panic = PANIC.read(input)?;
    if panic.attr("model").is_none_or(|model| model == "default") {
        panic.set("model", default_model(input, context)?);
    }
    common::append(input, &mut panic, common::PLAIN)?;
    Ok(panic)
}

fn default_model(input: &Element, context: &Context<'_>) -> Result<&'static str, Error> {
    match () {
        () if context.is_pseries() => Ok("pseries"),
        () if context.is_s390() => Ok("s390"),
        () if context.is_x86() => Ok("isa"),
        () if context.is_arm() && context.is_virt() => Ok("pvpanic"),
        () => Err(refusal::unsupported_by_qemu(
            input,
            format!("machine '{}' has no panic device of its own; name a model", context.machine),
        )),
    }
}

/// Whether machine and address suit the model.
pub(crate) fn check(panic: &Element, context: &Context<'_>) -> Result<(), Error> {
    let model = panic.attr("model").unwrap_or_default();
    let arch = context.arch.as_str();
    let fits = match model {
        "isa" | "hyperv" => context.is_x86(),
        "pseries" => context.is_pseries(),
        "s390" => context.is_s390(),
        _ => true,
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            panic,
            format!("panic device '{model}' does not exist on machine '{}' of {arch}", context.machine),
        ));
    }
    let address = panic.path_attr("address", "type");
    let suits = match (model, address) {
        (_, None | Some("unassigned")) => true,
        ("isa", Some(kind)) => kind == "isa",
        ("pvpanic", Some(kind)) => kind == "pci",
        _ => false,
    };
    if !suits {
        return Err(refusal::unsupported_by_qemu(
            panic,
            format!("panic device '{model}' can't have that address; remove it"),
        ));
    }
    Ok(())
}
