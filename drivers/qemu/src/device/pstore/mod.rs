//! `<pstore>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, content, one_of, place, shape};
use super::value::{self, Kind};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const PSTORE: Shape = shape(
    "pstore",
    &[one_of("backend", &["acpi-erst"]).required()],
    &[content("path", Kind::Text), place("size")],
);

/// Where the files of guests that name none are kept.
const FOLDER: &str = "/var/lib/libvirt/qemu/nvram";

/// The canonical form of storage for a crashed kernel's last words.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut store = PSTORE.read(input)?;
    let size = input.child("size").ok_or_else(|| refusal::value(input, "it needs a <size>"))?;
    let bytes = value::bytes(&size.text(), size.attr("unit"), 1024, "<size>")?;
    store.push(Element::new("size").with("unit", "KiB").with_text(bytes.div_ceil(1024).to_string()));
    if store.child("path").is_none() {
        let guest = context.document.child_text("name").unwrap_or_default();
        store.push(Element::new("path").with_text(format!("{FOLDER}/{guest}_PSTORE.raw")));
    }
    PSTORE.arrange(&mut store);
    common::append(input, &mut store, common::PLAIN)?;
    Ok(store)
}
