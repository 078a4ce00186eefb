//! Which device gets which place in the boot order.

use super::builder::{invalid, number};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// Boot indexes by alias.
#[derive(Debug, Default)]
pub(crate) struct BootOrder(BTreeMap<String, u64>);

impl BootOrder {
    /// Reads `<boot order=>` of each device, and with `kinds` `<os><boot dev=>` where no device has an order.
    pub(crate) fn new(root: &Element, kinds: bool) -> Result<Self, Error> {
        let mut order = Self::default();
        let Some(devices) = root.child("devices") else {
            return Ok(order);
        };
        for device in devices.elements() {
            if let (Some(text), Some(alias)) =
                (device.path_attr("boot", "order"), device.path_attr("alias", "name"))
            {
                let index = number(text)
                    .ok_or_else(|| invalid(format!("Boot order of {alias} is not a number: '{text}'")))?;
                order.0.insert(alias.to_owned(), index);
            }
        }
        let os = root.child("os").filter(|_| kinds);
        let kinds = os.into_iter().flat_map(|os| os.all("boot"));
        for (index, kind) in (1..).zip(kinds) {
            let first = match kind.attr("dev") {
                Some("network") => devices.all("interface").next(),
                Some("hd") => devices
                    .all("disk")
                    .find(|disk| matches!(disk.attr("device"), None | Some("disk" | "lun"))),
                Some("cdrom") => devices.all("disk").find(|disk| disk.attr("device") == Some("cdrom")),
                Some("fd") => devices.all("disk").find(|disk| disk.attr("device") == Some("floppy")),
                _ => None,
            };
            if let Some(alias) = first.and_then(|device| device.path_attr("alias", "name")) {
                order.0.entry(alias.to_owned()).or_insert(index);
            }
        }
        Ok(order)
    }

    /// The device's place, from 1.
    pub(crate) fn of(&self, device: &Element) -> Option<u64> {
        self.0.get(device.path_attr("alias", "name")?).copied()
    }
}
