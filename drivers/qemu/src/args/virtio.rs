//! What all virtio devices share: the name of the model and the options of the transport.

use super::builder::switch;
use super::json::Object;
use bulkhead_xml::Element;

/// The properties of a virtio device so far: its driver, named after the transport that the address is of, and the
/// options of its `<driver>`.
pub(crate) fn device(base: &str, device: &Element, model: Option<&str>) -> Object {
    let mut properties = Object::new().with("driver", name(base, device, model));
    options(device, &mut properties);
    properties
}

/// The driver's name.
pub(crate) fn name(base: &str, device: &Element, model: Option<&str>) -> String {
    let transport = match device.path_attr("address", "type") {
        Some("ccw") => "ccw",
        Some("virtio-mmio") => "device",
        _ => "pci",
    };
    match model {
        Some("virtio-transitional") => format!("{base}-{transport}-transitional"),
        Some("virtio-non-transitional") => format!("{base}-{transport}-non-transitional"),
        _ => format!("{base}-{transport}"),
    }
}

/// The options of `<driver>` that every virtio device has.
pub(crate) fn options(device: &Element, properties: &mut Object) {
    let Some(driver) = device.child("driver") else {
        return;
    };
    properties
        .set_some("iommu_platform", switch(driver, "iommu"))
        .set_some("ats", switch(driver, "ats"))
        .set_some("packed", switch(driver, "packed"))
        .set_some("page-per-vq", switch(driver, "page_per_vq"));
}
