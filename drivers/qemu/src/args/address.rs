//! Where a device sits.

use super::builder::{Builder, alias, attr, invalid, number_attr, switch};
use super::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

impl Builder<'_> {
    /// Adds the properties of the device's `<address>`, and of its option ROM.
    pub(crate) fn address(&self, device: &Element, properties: &mut Object) -> Result<(), Error> {
        let Some(address) = device.child("address") else {
            return Ok(());
        };
        match address.attr("type") {
            Some("pci") => self.pci(device, address, properties)?,
            Some("ccw") => {
                properties.set("devno", devno(address)?);
            }
            Some("spapr-vio") => {
                properties.set_some("reg", number_attr(address, "reg")?);
            }
            Some("usb") => {
                let bus = number_attr(address, "bus")?.unwrap_or(0);
                properties.set("bus", format!("{}.0", self.controller("usb", bus)?));
                properties.set_some("port", address.attr("port"));
            }
            Some("isa") => {
                properties
                    .set_some("iobase", number_attr(address, "iobase")?)
                    .set_some("irq", number_attr(address, "irq")?);
            }
            Some("dimm") => {
                properties
                    .set_some("slot", number_attr(address, "slot")?)
                    .set_some("addr", number_attr(address, "base")?);
            }
            Some("ccid") => {
                let bus = number_attr(address, "controller")?.unwrap_or(0);
                properties.set("bus", format!("{}.0", self.controller("ccid", bus)?));
            }
            _ => {}
        }
        Ok(())
    }

    fn pci(&self, device: &Element, address: &Element, properties: &mut Object) -> Result<(), Error> {
        let bus = number_attr(address, "bus")?.unwrap_or(0);
        let slot = number_attr(address, "slot")?.unwrap_or(0);
        let function = number_attr(address, "function")?.unwrap_or(0);
        properties.set("bus", self.pci_bus(bus)?);
        properties.set_some("multifunction", switch(address, "multifunction"));
        let place = if function == 0 { format!("{slot:#x}") } else { format!("{slot:#x}.{function:#x}") };
        properties.set("addr", place);
        if let Some(acpi) = device.child("acpi") {
            properties.set_some("acpi-index", number_attr(acpi, "index")?);
        }
        Ok(())
    }

    /// The option ROM of a device that has one.
    pub(crate) fn rom(device: &Element, properties: &mut Object) {
        let Some(rom) = device.child("rom") else {
            return;
        };
        if switch(rom, "enabled") == Some(false) {
            properties.set("romfile", "");
            return;
        }
        if let Some(bar) = switch(rom, "bar") {
            properties.set("rombar", i32::from(bar));
        }
        properties.set_some("romfile", rom.attr("file"));
    }

    /// The name of the PCI bus with that index. The root bus has the machine's name for it, whatever alias it bears.
    fn pci_bus(&self, index: u64) -> Result<String, Error> {
        let controller = self.controller_element("pci", index)?;
        let name = alias(controller)?;
        Ok(match controller.attr("model") {
            Some("pcie-root") => "pcie.0".to_owned(),
            Some("pci-root") if index == 0 && name.starts_with("ua-") => "pci.0".to_owned(),
            Some("pci-root") if index > 0 => format!("{name}.0"),
            _ => name.to_owned(),
        })
    }

    /// The name of an IDE or SATA controller's buses without their numbers.
    pub(crate) fn ide_bus(&self, kind: &str, index: u64) -> Result<&str, Error> {
        let own = index == 0 && (kind == "ide" || self.is_q35());
        Ok(if own { "ide" } else { self.controller(kind, index)? })
    }

    fn controller_element(&self, kind: &str, index: u64) -> Result<&Element, Error> {
        self.devices("controller")
            .find(|controller| {
                controller.attr("type") == Some(kind)
                    && number_attr(controller, "index").is_ok_and(|found| found == Some(index))
            })
            .ok_or_else(|| {
                invalid(format!(
                    "A device is on the {kind} controller {index}, which the definition does not have"
                ))
            })
    }

    /// The alias of a controller.
    pub(crate) fn controller(&self, kind: &str, index: u64) -> Result<&str, Error> {
        alias(self.controller_element(kind, index)?)
    }

    /// The model of a controller.
    pub(crate) fn controller_model(&self, kind: &str, index: u64) -> Option<&str> {
        self.controller_element(kind, index).ok()?.attr("model")
    }
}

/// The device number of a channel subsystem, as QEMU writes it.
pub(crate) fn devno(address: &Element) -> Result<String, Error> {
    let part = |name: &str| {
        attr(address, name)?;
        Ok::<_, Error>(number_attr(address, name)?.unwrap_or(0))
    };
    Ok(format!("{:x}.{:x}.{:04x}", part("cssid")?, part("ssid")?, part("devno")?))
}
