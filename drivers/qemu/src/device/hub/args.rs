//! `<hub>`.

use crate::args::builder::{Builder, alias};
use crate::args::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// A USB hub.
pub(crate) fn build(builder: &mut Builder<'_>, hub: &Element) -> Result<(), Error> {
    let mut object = Object::new().with("driver", "usb-hub").with("id", alias(hub)?);
    builder.address(hub, &mut object)?;
    builder.device(&object);
    Ok(())
}
