//! `<pstore>`.

use crate::args::builder::{Builder, alias, invalid, size_text};
use crate::args::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The memory behind it and the device.
pub(crate) fn build(builder: &mut Builder<'_>, pstore: &Element) -> Result<(), Error> {
    let name = alias(pstore)?;
    let id = format!("mem{name}");
    let size = pstore.child("size").ok_or_else(|| invalid(format!("{name} has no size")))?;
    let path = pstore.child_text("path").ok_or_else(|| invalid(format!("{name} has no path")))?;
    let object = Object::new()
        .with("qom-type", "memory-backend-file")
        .with("id", id.as_str())
        .with("mem-path", path)
        .with("size", size_text(size)?)
        .with("share", true);
    builder.object(&object);
    let mut device = Object::new().with("driver", "acpi-erst").with("id", name).with("memdev", id);
    builder.address(pstore, &mut device)?;
    builder.device(&device);
    Ok(())
}
