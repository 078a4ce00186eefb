//! `<memory>` among the devices: DIMMs, NVDIMMs and virtio memory.

use crate::args::builder::{Builder, alias, attr, invalid, number_text, size_text, switch, unsupported};
use crate::args::json::Object;
use crate::args::memory::{Backend, align_to};
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Memory devices come in whole huge pages of most machines.
const DEVICE_ALIGNMENT: u64 = 2 << 20;

/// The backend and the device.
pub(crate) fn build(builder: &mut Builder<'_>, memory: &Element) -> Result<(), Error> {
    let name = alias(memory)?;
    let id = format!("mem{name}");
    let model = attr(memory, "model")?;
    let target =
        memory.child("target").ok_or_else(|| invalid(format!("Memory device {name} has no <target>")))?;
    let size = target.child("size").ok_or_else(|| invalid(format!("Memory device {name} has no size")))?;
    let node = target.child("node").map(number_text).transpose()?;
    let path =
        memory.at("source/path").map(Element::text).filter(|_| matches!(model, "nvdimm" | "virtio-pmem"));
    let size = size_text(size)?;
    let size = match model {
        _ if !builder.arch.starts_with("ppc64") => align_to(size, DEVICE_ALIGNMENT),
        "nvdimm" => {
            let label = target.at("label/size").map(size_text).transpose()?.unwrap_or(0);
            builder.align(size.saturating_sub(label)).saturating_add(label)
        }
        _ => builder.align(size),
    };
    let mut backend = builder.backend(&Backend {
        id: &id,
        file: name,
        size,
        access: memory.attr("access"),
        discard: memory.attr("discard"),
        node,
        nodes: memory.at("source/nodemask").map(Element::text),
        path,
        device: Some(memory),
    })?;
    if model == "nvdimm" {
        if let Some(alignment) = memory.at("source/alignsize") {
            backend.set("align", size_text(alignment)?);
        }
        if memory.at("source/pmem").is_some() {
            backend.set("pmem", true);
        }
    }
    if model == "virtio-mem" {
        // Most of it may never be used.
        backend.set("reserve", false);
    }
    builder.object(&backend.object());
    let device = device(builder, memory, model, target, node, &id)?;
    builder.device(&device);
    Ok(())
}

fn device(
    builder: &Builder<'_>,
    memory: &Element,
    model: &str,
    target: &Element,
    node: Option<u64>,
    backend: &str,
) -> Result<Object, Error> {
    let name = alias(memory)?;
    let mut object = match model {
        "dimm" => Object::new().with("driver", "pc-dimm"),
        "nvdimm" => Object::new().with("driver", "nvdimm"),
        "virtio-pmem" | "virtio-mem" => virtio::device(model, memory, None),
        other => {
            return Err(unsupported(format!("Memory model '{other}' is not one that we start QEMU with")));
        }
    };
    object.set_some("node", node);
    if model == "nvdimm" {
        if let Some(label) = target.at("label/size") {
            object.set("label-size", size_text(label)?);
        }
        object.set_some("uuid", memory.child_text("uuid").filter(|_| builder.arch.starts_with("ppc64")));
        if target.child("readonly").is_some() {
            object.set("unarmed", true);
        }
    }
    if model == "virtio-mem" {
        if let Some(block) = target.child("block") {
            object.set("block-size", size_text(block)?);
        }
        let requested = target.child("requested").map(size_text).transpose()?;
        object.set_some("requested-size", requested.filter(|size| *size > 0));
        if let Some(on) = switch(target, "dynamicMemslots") {
            object.set("dynamic-memslots", on);
        }
    }
    object.set("memdev", backend);
    if let Some(address) = target.path_attr("address", "base") {
        object.set_some("memaddr", crate::args::builder::number(address));
    }
    object.set("id", name);
    builder.address(memory, &mut object)?;
    Ok(object)
}
