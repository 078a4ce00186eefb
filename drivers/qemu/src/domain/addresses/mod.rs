//! Addresses of devices on the guest's buses, chosen as libvirt chooses them.

mod kinds;
mod memory;
mod pci;
mod serial;
mod slots;
mod usb;

use super::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Gives every device that needs one an address.
pub(super) fn assign(devices: &mut Element, context: &Context) -> Result<(), Error> {
    serial::assign(devices)?;
    serial::assign_smartcards(devices);
    memory::assign(devices, context)?;
    serial::assign_other_buses(devices, context)?;
    pci::assign(devices, context)?;
    usb::assign(devices, false)?;
    Ok(())
}

/// Gives a device that is added to a guest that runs an address on the buses that there are.
pub(super) fn plug(devices: &mut Element, context: &Context) -> Result<(), Error> {
    serial::has_controller(devices)?;
    serial::assign(devices)?;
    memory::assign(devices, context)?;
    serial::assign_other_buses(devices, context)?;
    pci::assign_running(devices, context)?;
    usb::assign(devices, true)?;
    Ok(())
}
