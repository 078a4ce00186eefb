//! `<shmem>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, count, on_off, one_of, place, shape, text};
use super::value;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const SHMEM: Shape = shape(
    "shmem",
    &[text("name"), one_of("role", &["master", "peer"])],
    &[
        shape("model", &[one_of("type", &["ivshmem", "ivshmem-plain", "ivshmem-doorbell"])], &[]),
        place("size"),
        shape("server", &[text("path")], &[]).kept(),
        shape("msi", &[count("vectors"), on_off("ioeventfd")], &[]),
    ],
);

const MEBIBYTE: u64 = 1 << 20;

/// The canonical form of memory that guests share.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut memory = SHMEM.read(input)?;
    let Some(name) = memory.attr("name") else {
        return Err(refusal::xml(input, "it needs the attribute 'name'"));
    };
    if name.contains('/') || matches!(name, "" | "." | "..") {
        return Err(refusal::unsupported(
            input,
            format!("name '{name}' is not that of a file; it can't be empty, '.', '..' or have a '/'"),
        ));
    }
    if memory.path_attr("model", "type").is_none() {
        // An old model that QEMU has no more, as the check says.
        memory.child_or_insert("model").set("type", "ivshmem");
    }
    let model = memory.path_attr("model", "type").unwrap_or_default().to_owned();
    if model == "ivshmem-doorbell" {
        let interrupts = memory.child_or_insert("msi");
        if interrupts.attr("ioeventfd").is_none() {
            interrupts.set("ioeventfd", "on");
        }
    }
    append_size(input, &mut memory, &model)?;
    SHMEM.arrange(&mut memory);
    common::append(input, &mut memory, common::PLAIN)?;
    Ok(memory)
}

fn append_size(input: &Element, memory: &mut Element, model: &str) -> Result<(), Error> {
    let bytes = match input.child("size") {
        Some(size) => value::bytes(&size.text(), size.attr("unit"), 1, "<size>")?,
        None if model == "ivshmem-plain" => 4 * MEBIBYTE,
        None => 0,
    };
    if bytes == 0 {
        return Ok(());
    }
    memory.push(Element::new("size").with("unit", "M").with_text((bytes / MEBIBYTE).to_string()));
    Ok(())
}

/// Whether QEMU has the model with these parts.
pub(crate) fn check(memory: &Element, _context: &Context<'_>) -> Result<(), Error> {
    let size = memory.child_text("size").and_then(|size| value::decimal(&size));
    match memory.path_attr("model", "type").unwrap_or_default() {
        "ivshmem-plain" => {
            if memory.child("server").is_some() || memory.child("msi").is_some() {
                return Err(refusal::unsupported_by_qemu(
                    memory,
                    "model 'ivshmem-plain' has neither server nor interrupts; use 'ivshmem-doorbell'",
                ));
            }
        }
        "ivshmem-doorbell" => {
            if memory.child("server").is_none() {
                return Err(refusal::unsupported_by_qemu(
                    memory,
                    "model 'ivshmem-doorbell' needs a <server>",
                ));
            }
            if size.is_some() {
                return Err(refusal::unsupported_by_qemu(
                    memory,
                    "the server of model 'ivshmem-doorbell' decides its size; remove <size>",
                ));
            }
        }
        model => {
            return Err(refusal::unsupported_by_qemu(
                memory,
                format!("this QEMU has no model '{model}'; use 'ivshmem-plain' or 'ivshmem-doorbell'"),
            ));
        }
    }
    match size {
        Some(size) if !size.is_power_of_two() => Err(Error::new(
            Code::XML_ERROR,
            Origin::QEMU,
            format!("<shmem> ({}): its size of {size} MiB is not a power of 2", memory.position),
        )),
        _ => Ok(()),
    }
}
