//! `<video>`.

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::refusal;
use super::schema::{Shape, number, on_off, one_of, shape, text, yes_no};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
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
        number("heads"),
        yes_no("primary"),
        on_off("blob"),
        on_off("edid"),
    ],
    &[
        shape(
            "acceleration",
            &[yes_no("accel2d"), yes_no("accel3d"), text("rendernode")],
            &[],
        ),
        shape(
            "resolution",
            &[number("x").required(), number("y").required()],
            &[],
        ),
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
                one_of("name", &["default", "qemu", "vhostuser"]),
                one_of("vgaconf", &["io", "on", "off"]),
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
    if video.path_attr("driver", "name") == Some("default") {
        video.child_or_insert("driver").unset("name");
    }
    if video
        .child("driver")
        .is_some_and(|driver| driver.attributes.is_empty())
    {
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
    } else if model.attr("heads").is_none_or(|heads| heads == "0") {
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
    let (arch, machine) = (context.arch.as_str(), context.machine.as_str());
    match arch {
        "ppc64" | "ppc64le" if machine.starts_with("pseries") => "vga",
        "aarch64" | "armv6l" | "armv7l" | "riscv32" | "riscv64" | "loongarch64" | "s390" | "s390x" => {
            "virtio"
        }
        "ppc64" | "ppc64le" | "ppc" => "vga",
        _ => "cirrus",
    }
}

fn memory(model: &Element, name: &str) -> Option<u64> {
    model
        .attr(name)
        .and_then(|size| size.parse::<u64>().ok())
        .filter(|size| *size > 0)
}

fn complete_memory(place: &Element, model: &mut Element, kind: &str) -> Result<(), Error> {
    if kind != "qxl" {
        for name in ["ram", "vram64", "vgamem"] {
            if model.attr(name).is_some() {
                return Err(refusal::xml(
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
        return Err(refusal::unsupported_by_qemu(
            video,
            format!("QEMU has no video model '{model}'"),
        ));
    }
    if !matches!(model, "virtio" | "qxl" | "none")
        && video
            .path_attr("model", "heads")
            .is_some_and(|heads| heads != "1")
    {
        return Err(refusal::unsupported(
            video,
            format!("video model '{model}' has one head; only 'virtio' and 'qxl' have more"),
        ));
    }
    Ok(())
}
