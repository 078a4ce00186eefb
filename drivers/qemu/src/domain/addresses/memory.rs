//! Slots of memory modules.

use super::super::context::Context;
use super::pci::set_address;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// Gives every DIMM and NVDIMM without a slot the first one that is free.
pub(super) fn assign(devices: &mut Element, context: &Context) -> Result<(), Error> {
    let slots = context.document.path_attr("maxMemory", "slots").and_then(|slots| slots.parse::<u64>().ok());
    let slot = |module: &Element| module.path_attr("address", "slot")?.parse::<u64>().ok();
    let is_module =
        |device: &Element| device.name == "memory" && matches!(device.attr("model"), Some("dimm" | "nvdimm"));
    let mut taken: BTreeSet<u64> =
        devices.elements().filter(|device| is_module(device)).filter_map(slot).collect();
    for module in devices.elements_mut().filter(|device| is_module(device)) {
        if module.child("address").is_some() {
            continue;
        }
        let Some(free) = (0..slots.unwrap_or(0)).find(|slot| !taken.contains(slot)) else {
            let error = Error::new(
                Code::INTERNAL,
                Origin::QEMU,
                "all slots of <maxMemory> are taken; add slots to it",
            );
            return Err(super::super::place::of_device(module, &error));
        };
        taken.insert(free);
        set_address(module, Element::new("address").with("type", "dimm").with("slot", free.to_string()));
    }
    Ok(())
}
