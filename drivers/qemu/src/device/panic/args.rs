//! `<panic>`.

use crate::args::builder::{Builder, number_attr};
use crate::args::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One way for the guest to say that it has crashed. Those of Hyper-V, s390 and pseries are no devices.
pub(crate) fn build(builder: &mut Builder<'_>, panic: &Element) -> Result<(), Error> {
    match panic.attr("model") {
        Some("isa") => {
            let mut object = Object::new().with("driver", "pvpanic");
            if let Some(address) = panic.child("address") {
                object.set_some("ioport", number_attr(address, "iobase")?);
            }
            builder.device(&object);
        }
        Some("pvpanic") => {
            let mut object = Object::new().with("driver", "pvpanic-pci");
            builder.address(panic, &mut object)?;
            builder.device(&object);
        }
        _ => {}
    }
    Ok(())
}
