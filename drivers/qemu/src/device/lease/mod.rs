//! `<lease>`.

use super::refusal;
use super::schema::{Shape, attribute, content, shape, text};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const LEASE: Shape = shape(
    "lease",
    &[],
    &[
        content("lockspace", Kind::Text),
        content("key", Kind::Text),
        shape("target", &[text("path"), attribute("offset", Kind::Number(0, u64::MAX))], &[]),
    ],
);

/// The canonical form of a lease.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut lease = LEASE.read(input)?;
    if lease.child("key").is_none() {
        return Err(refusal::xml(input, "it needs a <key>"));
    }
    if lease.path_attr("target", "path").is_none() {
        return Err(refusal::xml(input, "it needs <target path=''>"));
    }
    if lease.path_attr("target", "offset") == Some("0") {
        lease.child_or_insert("target").unset("offset");
    }
    Ok(lease)
}
