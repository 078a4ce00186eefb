//! `<crypto>`.

use crate::args::builder::{Builder, alias, number_attr, unsupported};
use crate::args::json::Object;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The backend and the device.
pub(crate) fn build(builder: &mut Builder<'_>, crypto: &Element) -> Result<(), Error> {
    let name = alias(crypto)?;
    let id = format!("obj{name}");
    let backend = crypto.child("backend");
    let kind = match backend.and_then(|backend| backend.attr("model")) {
        Some("builtin") => "cryptodev-backend-builtin",
        Some("lkcf") => "cryptodev-backend-lkcf",
        other => {
            return Err(unsupported(format!(
                "Crypto backend '{}' is not one that QEMU has",
                other.unwrap_or_default()
            )));
        }
    };
    let queues = backend.map(|backend| number_attr(backend, "queues")).transpose()?.flatten();
    let object = Object::new().with("qom-type", kind).with("id", id.as_str()).with_some("queues", queues);
    builder.object(&object);
    let mut device = virtio::device("virtio-crypto", crypto, None);
    device.set("cryptodev", id).set("id", name);
    builder.address(crypto, &mut device)?;
    builder.device(&device);
    Ok(())
}
