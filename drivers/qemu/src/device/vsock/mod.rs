//! `<vsock>`.

pub(crate) mod args;

use super::common::{self, VIRTIO_DRIVER};
use super::refusal;
use super::schema::{Shape, attribute, one_of, shape, yes_no};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const VSOCK: Shape = shape(
    "vsock",
    &[one_of("model", &["virtio", "virtio-transitional", "virtio-non-transitional"])],
    &[
        shape("cid", &[yes_no("auto"), attribute("address", Kind::Number(0, u32::MAX as u64))], &[]),
        VIRTIO_DRIVER,
    ],
);

/// The canonical form of the sockets between guest and host.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut vsock = VSOCK.read(input)?;
    if vsock.attr("model").is_none() {
        vsock.set("model", "virtio");
    }
    let driver = vsock.take("driver");
    let cid = vsock.child_or_insert("cid");
    if cid.attr("auto").is_none() {
        let auto = if cid.attr("address").is_some() { "no" } else { "yes" };
        cid.set("auto", auto);
    }
    VSOCK.arrange(&mut vsock);
    common::append(input, &mut vsock, common::PLAIN)?;
    vsock.children.extend(driver.map(bulkhead_xml::Node::Element));
    Ok(vsock)
}

/// Whether the guest's number is one of a guest.
pub(crate) fn check(vsock: &Element, _context: &Context<'_>) -> Result<(), Error> {
    // Numbers below 3 mean any host, the hypervisor and the host itself.
    match vsock.path_attr("cid", "address") {
        Some(address @ ("0" | "1" | "2")) => {
            Err(refusal::unsupported(vsock, format!("CID {address} is not one of a guest; use 3 or more")))
        }
        _ => Ok(()),
    }
}
