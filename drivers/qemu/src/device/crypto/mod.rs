//! `<crypto>`.

pub(crate) mod args;

use super::common::{self, VIRTIO_DRIVER};
use super::refusal;
use super::schema::{Shape, number, one_of, shape};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const CRYPTO: Shape = shape(
    "crypto",
    &[one_of("model", &["virtio"]).required(), one_of("type", &["qemu"]).required()],
    &[
        shape("backend", &[one_of("model", &["builtin", "lkcf"]).required(), number("queues")], &[]),
        VIRTIO_DRIVER,
    ],
);

/// The canonical form of a crypto device.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut crypto = CRYPTO.read(input)?;
    if crypto.path_attr("backend", "model").is_none() {
        return Err(refusal::xml(input, "it needs a <backend>"));
    }
    if crypto.path_attr("backend", "queues") == Some("0") {
        crypto.child_or_insert("backend").unset("queues");
    }
    common::append(input, &mut crypto, common::PLAIN)?;
    Ok(crypto)
}

/// Whether QEMU has the backend.
pub(crate) fn check(crypto: &Element, _context: &Context<'_>) -> Result<(), Error> {
    if crypto.path_attr("backend", "model") == Some("lkcf") {
        return Err(refusal::unsupported_by_qemu(crypto, "this QEMU has no backend 'lkcf'; use 'builtin'"));
    }
    Ok(())
}
