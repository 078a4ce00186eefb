//! `<iommu>`.

use crate::args::builder::{Builder, alias, number_attr, switch};
use crate::args::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The IOMMU; ARM's is a property of the machine.
pub(crate) fn build(builder: &mut Builder<'_>, iommu: &Element) -> Result<(), Error> {
    let mut object = Object::new();
    match iommu.attr("model") {
        Some("intel") => {
            object.set("driver", "intel-iommu").set("id", alias(iommu)?);
            if let Some(driver) = iommu.child("driver") {
                for (attribute, property) in [
                    ("intremap", "intremap"),
                    ("caching_mode", "caching-mode"),
                    ("eim", "eim"),
                    ("iotlb", "device-iotlb"),
                ] {
                    if let Some(on) = switch(driver, attribute) {
                        if matches!(attribute, "intremap" | "eim") {
                            object.set(property, if on { "on" } else { "off" });
                        } else {
                            object.set(property, on);
                        }
                    }
                }
                object.set_some("aw-bits", number_attr(driver, "aw_bits")?);
                object.set_some("dma-translation", switch(driver, "dma_translation"));
            }
        }
        Some("virtio") => {
            object.set("driver", "virtio-iommu").set("id", alias(iommu)?);
            builder.address(iommu, &mut object)?;
        }
        Some("amd") => {
            object.set("driver", "amd-iommu").set("id", alias(iommu)?);
            if let Some(driver) = iommu.child("driver") {
                object
                    .set_some("intremap", driver.attr("intremap"))
                    .set_some("pt", switch(driver, "passthrough"))
                    .set_some("xtsup", switch(driver, "xtsup"))
                    .set_some("device-iotlb", switch(driver, "iotlb"));
            }
        }
        _ => return Ok(()),
    }
    builder.device(&object);
    Ok(())
}
