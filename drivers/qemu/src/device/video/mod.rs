//! `<video>`.

pub(crate) mod args;

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::refusal;
use super::schema::{Shape, count, number, on_off, one_of, shape, text, yes_no};
use crate::domain::context::Context;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_xml::Element;

const MODEL: Shape = shape(
    "model",
    &[
        one_of(
            "type",
            &[
                "vga",
                "cirrus",
                "vmvga",
                "xen",
                "vbox",
                "qxl",
                "parallels",
                "virtio",
                "gop",
                "none",
                "bochs",
                "ramfb",
            ],
        ),
        number("ram"),
        number("vram"),
        number("vram64"),
        number("vgamem"),
        count("heads"),
        yes_no("primary"),
        on_off("blob"),
    ],
    &[
        shape("acceleration", &[yes_no("accel3d"), yes_no("accel2d"), text("rendernode")], &[]),
        shape("resolution", &[number("x").required(), number("y").required()], &[]),
    ],
);

const VIDEO: Shape = shape(
    "video",
    &[],
    &[
        shape(
            "driver",
            &[
                IOMMU,
                ATS,
                PACKED,
                PAGE_PER_VQ,
                one_of("name", &["default", "qemu", "vhostuser"]).unless("default"),
            ],
            &[],
        ),
        MODEL,
    ],
);

/// QXL's memories in KiB.
const QXL_RAM: u64 = 65536;
const QXL_VGA_MEMORY: u64 = 16384;
/// The memory of the other adapters in KiB, and the least that they have.
const MEMORY: u64 = 16384;
const LEAST_MEMORY: u64 = 1024;

/// What the rest of the driver asks about a video adapter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The model (`virtio`).
    pub(crate) fn model(self) -> &'a str {
        self.0.path_attr("model", "type").unwrap_or_default()
    }

    /// Whether it is the one that firmware and boot loader use.
    pub(crate) fn is_primary(self) -> bool {
        self.0.path_attr("model", "primary") == Some("yes")
    }
}

/// The canonical form of a video adapter. Which one is primary is the domain's to say, as it knows them all.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut video = VIDEO.read(input)?;
    let place = video.clone();
    // No heads at all is what libvirt keeps as "unknown".
    let asked_for_none = input.path_attr("model", "heads").is_some();
    if video.child("driver").is_some_and(|driver| driver.attributes.is_empty()) {
        video.take("driver");
    }
    let model = video.child_or_insert("model");
    if model.attr("type").is_none() {
        model.set("type", default_model(context));
    }
    let kind = model.attr("type").unwrap_or_default().to_owned();
    complete_memory(&place, model, &kind)?;
    if model.attr("primary") == Some("no") {
        model.unset("primary");
    }
    if kind == "none" {
        model.unset("heads");
    } else if place.path_attr("model", "heads").is_none() && !asked_for_none {
        model.set("heads", "1");
    }
    if let Some(acceleration) = model.child("acceleration")
        && acceleration.attributes.is_empty()
    {
        model.take("acceleration");
    }
    VIDEO.arrange(&mut video);
    common::append(input, &mut video, common::PLAIN)?;
    Ok(video)
}

/// The adapter of an architecture where none is named.
fn default_model(context: &Context<'_>) -> &'static str {
    match () {
        () if context.is_virt() || context.is_s390() => "virtio",
        () if context.arch.starts_with("ppc") => "vga",
        () => "cirrus",
    }
}

fn memory(model: &Element, name: &str) -> Option<u64> {
    model.attr(name).and_then(|size| size.parse::<u64>().ok()).filter(|size| *size > 0)
}

fn complete_memory(place: &Element, model: &mut Element, kind: &str) -> Result<(), Error> {
    if kind != "qxl" {
        for name in ["ram", "vram64", "vgamem"] {
            if model.attr(name).is_some() {
                return Err(refusal::unsupported(
                    place,
                    format!("only video model 'qxl' has '{name}', not '{kind}'"),
                ));
            }
        }
    }
    match kind {
        "qxl" => {
            let ram = memory(model, "ram").unwrap_or(QXL_RAM);
            let vram = memory(model, "vram").unwrap_or(QXL_RAM);
            let vgamem = memory(model, "vgamem").unwrap_or(QXL_VGA_MEMORY);
            model.set("ram", rounded(ram).to_string());
            model.set("vram", rounded(vram.max(LEAST_MEMORY)).to_string());
            model.set("vgamem", rounded(vgamem).to_string());
            match memory(model, "vram64") {
                Some(size) => model.set("vram64", rounded(size).to_string()),
                None => {
                    model.unset("vram64");
                }
            }
        }
        "vga" | "vmvga" | "bochs" | "cirrus" => {
            let size = memory(model, "vram").unwrap_or(MEMORY).max(LEAST_MEMORY);
            model.set("vram", rounded(size).to_string());
        }
        _ => {
            if memory(model, "vram").is_none() {
                model.unset("vram");
            }
        }
    }
    Ok(())
}

/// The next power of two.
fn rounded(size: u64) -> u64 {
    size.checked_next_power_of_two().unwrap_or(size)
}

/// Whether QEMU has the adapter.
pub(crate) fn check(video: &Element, _context: &Context<'_>) -> Result<(), Error> {
    let model = View(video).model();
    if matches!(model, "xen" | "vbox" | "parallels" | "gop") {
        return Err(refusal::unsupported_by_qemu(video, format!("QEMU has no video model '{model}'")));
    }
    if !matches!(model, "virtio" | "qxl" | "none")
        && video.path_attr("model", "heads").is_some_and(|heads| heads != "1")
    {
        return Err(refusal::unsupported_by_qemu(
            video,
            format!("video model '{model}' has one head; only 'virtio' and 'qxl' have more"),
        ));
    }
    let model_element = video.child("model");
    let attribute = |name: &str| model_element.and_then(|element| element.path_attr("acceleration", name));
    if attribute("accel2d") == Some("yes") {
        return Err(refusal::unsupported_by_qemu(video, "QEMU has no accel2d; remove it"));
    }
    if attribute("accel3d") == Some("yes") && model != "virtio" {
        return Err(refusal::unsupported_by_qemu(
            video,
            format!("only video model 'virtio' has 3D acceleration, not '{model}'"),
        ));
    }
    if video.at("model/resolution").is_some()
        && !matches!(model, "vga" | "qxl" | "virtio" | "bochs" | "ramfb")
    {
        return Err(refusal::xml_of(
            Origin::QEMU,
            video,
            format!("the resolution of video model '{model}' can't be set"),
        ));
    }
    let options = ["iommu", "ats", "packed", "page_per_vq"];
    if model != "virtio" && options.iter().any(|name| video.path_attr("driver", name).is_some()) {
        return Err(refusal::unsupported(
            video,
            format!("the <driver> options need video model 'virtio', not '{model}'"),
        ));
    }
    Ok(())
}
