//! `<memballoon>`.

use crate::args::builder::{Builder, alias, switch};
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The balloon, unless there is none.
pub(crate) fn build(builder: &mut Builder<'_>, balloon: &Element) -> Result<(), Error> {
    if !balloon.attr("model").is_some_and(|model| model.starts_with("virtio")) {
        return Ok(());
    }
    let mut object = virtio::device("virtio-balloon", balloon, balloon.attr("model"));
    object
        .set("id", alias(balloon)?)
        .set_some("deflate-on-oom", switch(balloon, "autodeflate"))
        .set_some("free-page-reporting", switch(balloon, "freePageReporting"));
    builder.address(balloon, &mut object)?;
    builder.device(&object);
    Ok(())
}
