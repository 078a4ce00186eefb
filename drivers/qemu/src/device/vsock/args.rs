//! `<vsock>`.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, number_attr};
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The guest's socket device.
pub(crate) fn build(builder: &mut Builder<'_>, vsock: &Element) -> Result<(), Error> {
    let name = alias(vsock)?;
    let mut object = virtio::device("vhost-vsock", vsock, vsock.attr("model"));
    let cid = vsock.child("cid").map(|cid| number_attr(cid, "address")).transpose()?.flatten();
    object.set("id", name).set("guest-cid", cid.unwrap_or(0));
    let descriptor = if builder.launches() {
        builder.descriptor(Purpose::VhostVsock { alias: name.to_owned() }).to_string()
    } else {
        "-1".to_owned()
    };
    object.set("vhostfd", descriptor);
    builder.address(vsock, &mut object)?;
    builder.device(&object);
    Ok(())
}
