//! `<rng>`.

use crate::args::builder::{Builder, alias, invalid, number_attr, unsupported};
use crate::args::json::Object;
use crate::args::virtio;
use crate::device::character;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The source of randomness and the device.
pub(crate) fn build(builder: &mut Builder<'_>, rng: &Element) -> Result<(), Error> {
    let name = alias(rng)?;
    let backend = rng.child("backend").ok_or_else(|| invalid(format!("{name} has no <backend>")))?;
    let id = format!("obj{name}");
    let mut object = Object::new();
    match backend.attr("model") {
        Some("random") => {
            object.set("qom-type", "rng-random").set("id", id.as_str()).set("filename", backend.text());
        }
        Some("builtin") => {
            object.set("qom-type", "rng-builtin").set("id", id.as_str());
        }
        Some("egd") => {
            let mut device = backend.clone();
            device.push(Element::new("alias").with("name", name));
            let chardev = character::args::backend(builder, &device)?;
            object.set("qom-type", "rng-egd").set("id", id.as_str()).set("chardev", chardev);
        }
        other => {
            return Err(unsupported(format!(
                "Source of randomness '{}' is not one that QEMU has",
                other.unwrap_or_default()
            )));
        }
    }
    builder.object(&object);
    let mut device = virtio::device("virtio-rng", rng, rng.attr("model"));
    device.set("rng", id).set("id", name);
    if let Some(rate) = rng.child("rate") {
        device.set_some("max-bytes", number_attr(rate, "bytes")?);
        device.set("period", number_attr(rate, "period")?.unwrap_or(1000));
    }
    builder.address(rng, &mut device)?;
    builder.device(&device);
    Ok(())
}
