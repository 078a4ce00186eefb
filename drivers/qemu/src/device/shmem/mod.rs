//! `<shmem>`.

use super::common;
use super::refusal;
use super::schema::{Shape, number, on_off, one_of, place, shape, text};
use super::value;
use crate::device::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const SHMEM: Shape = shape(
    "shmem",
    &[text("name").required(), one_of("role", &["master", "peer"])],
    &[
        shape(
            "model",
            &[one_of("type", &["ivshmem", "ivshmem-plain", "ivshmem-doorbell"])],
            &[],
        ),
        place("size"),
        shape("server", &[text("path")], &[]).kept(),
        shape("msi", &[number("vectors"), on_off("ioeventfd")], &[]),
    ],
);

const MEBIBYTE: u64 = 1 << 20;

/// The canonical form of memory that guests share.
pub(crate) fn complete(input: &Element, _context: &Context) -> Result<Element, Error> {
    let mut memory = SHMEM.read(input)?;
    let name = memory.attr("name").unwrap_or_default();
    if name.contains('/') || matches!(name, "" | "." | "..") {
        return Err(refusal::unsupported(
            input,
            format!("name '{name}' is not that of a file; it can't be empty, '.', '..' or have a '/'"),
        ));
    }
    if memory.path_attr("model", "type").is_none() {
        let server = memory.child("server").is_some();
        memory.child_or_insert("model").set(
            "type",
            if server {
                "ivshmem-doorbell"
            } else {
                "ivshmem-plain"
            },
        );
    }
    let model = memory.path_attr("model", "type").unwrap_or_default().to_owned();
    if model == "ivshmem" {
        return Err(refusal::unsupported_by_qemu(
            input,
            "this QEMU has no model 'ivshmem'; use 'ivshmem-plain' or 'ivshmem-doorbell'",
        ));
    }
    if model == "ivshmem-doorbell" {
        let interrupts = memory.child_or_insert("msi");
        if interrupts.attr("ioeventfd").is_none() {
            interrupts.set("ioeventfd", "on");
        }
    }
    append_size(input, &mut memory, &model)?;
    if model == "ivshmem-plain" && (memory.child("server").is_some() || input.child("msi").is_some()) {
        return Err(refusal::unsupported_by_qemu(
            input,
            "model 'ivshmem-plain' has neither server nor interrupts; use 'ivshmem-doorbell'",
        ));
    }
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
    if model == "ivshmem-doorbell" {
        return Err(refusal::unsupported_by_qemu(
            input,
            "the server of model 'ivshmem-doorbell' decides its size; remove <size>",
        ));
    }
    if !bytes.is_power_of_two() || bytes < MEBIBYTE {
        return Err(Error::new(
            Code::XML_ERROR,
            Origin::QEMU,
            format!(
                "<shmem> ({}): its size of {bytes} bytes is not a power of 2 of 1 MiB or more",
                input.position
            ),
        ));
    }
    memory.push(
        Element::new("size")
            .with("unit", "M")
            .with_text((bytes / MEBIBYTE).to_string()),
    );
    Ok(())
}
