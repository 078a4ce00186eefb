//! `<nvram>` among the devices: pseries' own.

use crate::args::builder::{Builder, number_attr};
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The memory is a part of the machine; its place can be set.
pub(crate) fn build(builder: &mut Builder<'_>, nvram: &Element) -> Result<(), Error> {
    let Some(address) = nvram.child("address").filter(|address| address.attr("type") == Some("spapr-vio"))
    else {
        return Ok(());
    };
    match number_attr(address, "reg")? {
        Some(place) => {
            let list = KeyValues::empty().with("spapr-nvram.reg", format!("{place:#x}"));
            builder.option("-global", list)
        }
        None => Ok(()),
    }
}
