//! `<memory>` devices: DIMM, NVDIMM, virtio-mem, virtio-pmem, SGX pages.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, attribute, flag, one_of, place, shape, yes_no};
use super::value::{self, Kind};
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const MEMORY: Shape = shape(
    "memory",
    &[
        one_of("model", &["dimm", "nvdimm", "virtio-pmem", "virtio-mem", "sgx-epc"]).required(),
        one_of("access", &["shared", "private"]),
        yes_no("discard"),
    ],
    &[place("uuid"), place("source"), place("target")],
);

const TARGET: Shape = shape(
    "target",
    &[yes_no("dynamicMemslots")],
    &[
        place("size"),
        place("node"),
        place("label"),
        flag("readonly"),
        place("block"),
        place("requested"),
        shape("address", &[attribute("base", Kind::Hex(1, u64::MAX))], &[]),
    ],
);

/// What the rest of the driver asks about a memory device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The model (`dimm`).
    pub(crate) fn model(self) -> &'a str {
        self.0.attr("model").unwrap_or_default()
    }

    /// Its size in KiB.
    pub(crate) fn size(self) -> u64 {
        self.0.at("target/size").and_then(|size| value::decimal(&size.text())).unwrap_or(0)
    }
}

/// The canonical form of a memory device.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut memory = MEMORY.read(input)?;
    let model = View(&memory).model().to_owned();
    if model == "virtio-pmem" {
        memory.set("access", "shared");
    }
    if model == "nvdimm"
        && let Some(uuid) = input.child_text("uuid")
    {
        let uuid =
            value::uuid(&uuid).ok_or_else(|| refusal::xml(input, format!("'{uuid}' is not a UUID")))?;
        memory.push(Element::new("uuid").with_text(uuid));
    }
    let source = source(input, &model)?;
    if !source.children.is_empty() {
        memory.push(source);
    }
    let mut target = target(input, &model)?;
    align(&mut target, &model, context);
    if matches!(model.as_str(), "dimm" | "nvdimm")
        && target.child("node").is_none()
        && context.document.at("cpu/numa").is_none()
    {
        target.push(Element::new("node").with_text("0"));
        TARGET.arrange(&mut target);
    }
    memory.push(target);
    MEMORY.arrange(&mut memory);
    common::append(input, &mut memory, common::PLAIN)?;
    Ok(memory)
}

fn kibibytes(parent: &Element, name: &str) -> Result<Option<Element>, Error> {
    let Some(size) = parent.child(name) else {
        return Ok(None);
    };
    let bytes = value::bytes(&size.text(), size.attr("unit"), 1024, &format!("<{name}>"))?;
    Ok(Some(Element::new(name).with("unit", "KiB").with_text(bytes.div_ceil(1024).to_string())))
}

/// The text of a child as it stands.
fn text_child(parent: &Element, name: &str) -> Option<Element> {
    parent.child_text(name).filter(|text| !text.is_empty()).map(|text| Element::new(name).with_text(text))
}

/// Parts of a memory device that do not fit each other.
fn detail(device: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(Code::XML_DETAIL, Origin::DOMAIN, format!("<memory> ({}): {message}", device.position))
}

fn source(input: &Element, model: &str) -> Result<Element, Error> {
    let mut source = Element::new("source");
    let Some(given) = input.child("source") else {
        if matches!(model, "nvdimm" | "virtio-pmem") {
            return Err(detail(input, format!("memory of model '{model}' needs the <path> of its source")));
        }
        return Ok(source);
    };
    if matches!(model, "nvdimm" | "virtio-pmem") {
        let path = text_child(given, "path").ok_or_else(|| {
            detail(input, format!("memory of model '{model}' needs the <path> of its source"))
        })?;
        source.push(path);
        if model == "nvdimm" {
            if let Some(size) = kibibytes(given, "alignsize")? {
                source.push(size);
            }
            if given.child("pmem").is_some() {
                source.push(Element::new("pmem"));
            }
        }
        return Ok(source);
    }
    if let Some(nodes) = given.child_text("nodemask").filter(|nodes| !nodes.is_empty()) {
        let nodes = value::number_set(&nodes).ok_or_else(|| {
            Error::new(
                Code::INVALID_ARG,
                Origin::NONE,
                format!("<memory> ({}): nodemask '{nodes}' is not a set like 0-1,3", input.position),
            )
        })?;
        source.push(Element::new("nodemask").with_text(nodes));
    }
    if let Some(size) = kibibytes(given, "pagesize")? {
        source.push(size);
    }
    Ok(source)
}

fn target(input: &Element, model: &str) -> Result<Element, Error> {
    let given = input.child("target").ok_or_else(|| refusal::xml(input, "it needs a <target>"))?;
    let mut target = TARGET.read(given)?;
    let size =
        kibibytes(given, "size")?.ok_or_else(|| refusal::value(input, "its <target> needs a <size>"))?;
    target.push(size);
    if let Some(node) = given.child_text("node") {
        let node = value::decimal(&node)
            .ok_or_else(|| refusal::xml(input, format!("node '{node}' is not a number")))?;
        target.push(Element::new("node").with_text(node.to_string()));
    }
    match model {
        "nvdimm" => {
            if let Some(label) = given.child("label")
                && let Some(size) = kibibytes(label, "size")?
            {
                target.push(Element::new("label").with_child(size));
            }
        }
        "virtio-mem" => {
            for name in ["block", "requested"] {
                if let Some(size) = kibibytes(given, name)? {
                    target.push(size);
                }
            }
        }
        _ => {}
    }
    if model != "nvdimm" {
        target.take("readonly");
    }
    if model != "virtio-mem" {
        target.unset("dynamicMemslots");
        if model != "virtio-pmem" {
            target.take("address");
        }
    }
    TARGET.arrange(&mut target);
    Ok(target)
}

/// Modules of pseries machines come in multiples of 256 MiB, not counting the label of an NVDIMM.
fn align(target: &mut Element, model: &str, context: &Context<'_>) {
    if !context.is_pseries() {
        return;
    }
    let step = 256 * 1024;
    let number = |element: Option<&Element>| element.and_then(|size| value::decimal(&size.text()));
    let label = number(target.at("label/size")).unwrap_or(0);
    let Some(size) = target.child_mut("size") else {
        return;
    };
    let given = number(Some(size)).unwrap_or(0);
    let aligned = match model {
        "nvdimm" => {
            let pages = given.saturating_sub(label) / step;
            pages.max(1).saturating_mul(step).saturating_add(label)
        }
        "dimm" => given.div_ceil(step).saturating_mul(step),
        _ => given,
    };
    size.set_text(aligned.to_string());
}

/// Whether the sizes fit each other and the guest has the node.
fn check_sizes(memory: &Element, context: &Context<'_>) -> Result<(), Error> {
    let number = |path: &str| memory.at(path).and_then(|size| value::decimal(&size.text()));
    let size = View(memory).size();
    if let Some(label) = number("target/label/size") {
        if label < 128 {
            return Err(refusal::xml(memory, "the label of an NVDIMM has 128 KiB at least"));
        }
        if label >= size {
            return Err(refusal::xml(memory, "the label of an NVDIMM is smaller than the NVDIMM"));
        }
    }
    let node = number("target/node");
    match View(memory).model() {
        "virtio-pmem" if node.is_some() => {
            return Err(refusal::unsupported(memory, "virtio-pmem belongs to no NUMA node; remove <node>"));
        }
        "virtio-mem" => {
            let block = number("target/block").unwrap_or(0);
            if !block.is_power_of_two() {
                return Err(detail(memory, "its <block> is not a power of 2"));
            }
            if number("target/requested").unwrap_or(0) > size {
                return Err(detail(memory, "it can't be requested to have more than its <size>"));
            }
        }
        _ => {}
    }
    let cells = context.document.at("cpu/numa").map_or(0, |numa| numa.all("cell").count() as u64);
    match node {
        Some(node) if cells > 0 && node >= cells => {
            Err(detail(memory, format!("the guest has no NUMA node {node}; add it to <cpu><numa>")))
        }
        None if View(memory).model() != "virtio-pmem" => {
            Err(refusal::unsupported_by_qemu(memory, "its <target> needs the <node> that it belongs to"))
        }
        _ => Ok(()),
    }
}

/// Whether the guest can have it.
pub(crate) fn check(memory: &Element, context: &Context<'_>) -> Result<(), Error> {
    if memory.child("uuid").is_some() && !context.is_pseries() {
        return Err(refusal::unsupported(memory, "an NVDIMM has a UUID on pseries machines only; remove it"));
    }
    if context.document.child("maxMemory").is_none() && View(memory).model() != "virtio-pmem" {
        return Err(refusal::unsupported_by_qemu(
            memory,
            "memory devices need <maxMemory> in the domain; add it",
        ));
    }
    if View(memory).model() == "sgx-epc" {
        return Err(refusal::unsupported_by_qemu(memory, "this QEMU has no SGX memory"));
    }
    check_sizes(memory, context)
}
