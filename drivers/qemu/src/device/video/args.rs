//! `<video>`.

use crate::args::builder::{Builder, alias, number_attr, switch, unsupported};
use crate::args::json::Object;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One video device.
pub(crate) fn build(builder: &mut Builder<'_>, video: &Element) -> Result<(), Error> {
    let Some(model) = video.child("model") else {
        return Ok(());
    };
    let kind = model.attr("type").unwrap_or_default();
    if matches!(kind, "none") {
        return Ok(());
    }
    let primary = switch(model, "primary") == Some(true);
    let size = |name: &str| number_attr(model, name);
    let accelerated =
        model.child("acceleration").and_then(|acceleration| switch(acceleration, "accel3d")) == Some(true);
    let arch = builder.arch;
    let vga = primary && (builder.is_x86() || arch.starts_with("ppc") || arch.starts_with("riscv"));
    let mut object = match kind {
        "virtio" => {
            let base = match (vga, accelerated) {
                (true, true) => "virtio-vga-gl".to_owned(),
                (true, false) => "virtio-vga".to_owned(),
                (false, true) => virtio::name("virtio-gpu-gl", video, None),
                (false, false) => virtio::name("virtio-gpu", video, None),
            };
            let mut object = Object::new().with("driver", base);
            virtio::options(video, &mut object);
            object
        }
        "qxl" => Object::new().with("driver", if primary { "qxl-vga" } else { "qxl" }),
        "vga" => Object::new().with("driver", if primary { "VGA" } else { "secondary-vga" }),
        "cirrus" => Object::new().with("driver", "cirrus-vga"),
        "vmvga" => Object::new().with("driver", "vmware-svga"),
        "bochs" => Object::new().with("driver", "bochs-display"),
        "ramfb" => Object::new().with("driver", "ramfb"),
        other => {
            return Err(unsupported(format!("Video model '{other}' is not one that QEMU has")));
        }
    };
    object.set("id", alias(video)?);
    match kind {
        "virtio" => {
            object.set_some("max_outputs", size("heads")?);
            if let Some(blob) = switch(model, "blob") {
                builder.require("virtio-gpu-pci", "blob", "A video device with blob resources")?;
                object.set("blob", blob);
            }
            resolution(model, &mut object)?;
        }
        "qxl" => {
            object
                .set_some("max_outputs", size("heads")?)
                .set_some("ram_size", size("ram")?.map(|kib| kib.saturating_mul(1024)))
                .set_some("vram_size", size("vram")?.map(|kib| kib.saturating_mul(1024)))
                .set("vram64_size_mb", size("vram64")?.unwrap_or(0) / 1024)
                .set_some("vgamem_mb", size("vgamem")?.map(|kib| kib / 1024));
            resolution(model, &mut object)?;
        }
        "vga" | "vmvga" => {
            object.set_some("vgamem_mb", size("vram")?.map(|kib| kib / 1024));
            resolution(model, &mut object)?;
        }
        "bochs" => {
            object.set_some("vgamem", size("vram")?.map(|kib| kib.saturating_mul(1024)));
            resolution(model, &mut object)?;
        }
        _ => {}
    }
    builder.address(video, &mut object)?;
    builder.device(&object);
    Ok(())
}

fn resolution(model: &Element, object: &mut Object) -> Result<(), Error> {
    if let Some(resolution) = model.child("resolution") {
        object
            .set_some("xres", number_attr(resolution, "x")?)
            .set_some("yres", number_attr(resolution, "y")?);
    }
    Ok(())
}
