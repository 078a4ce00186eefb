//! `<shmem>`.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, attr, invalid, number_attr, size_text, switch, unsupported};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Without a size it is this.
const DEFAULT_SIZE: u64 = 4 << 20;
/// Where servers of shared memory listen if the definition does not say.
const SERVERS: &str = "/var/lib/libvirt";

/// One region.
pub(crate) fn build(builder: &mut Builder<'_>, region: &Element) -> Result<(), Error> {
    let name = attr(region, "name")?;
    if name.contains('/') || name == ".." {
        return Err(invalid(format!("'{name}' can't name shared memory")));
    }
    match region.path_attr("model", "type") {
        Some("ivshmem-plain") => plain(builder, region, name),
        Some("ivshmem-doorbell") => doorbell(builder, region, name),
        other => Err(unsupported(format!(
            "Shared memory model '{}' is gone from QEMU; use ivshmem-plain or ivshmem-doorbell",
            other.unwrap_or_default()
        ))),
    }
}

fn plain(builder: &mut Builder<'_>, region: &Element, name: &str) -> Result<(), Error> {
    let own = alias(region)?;
    let id = format!("shmmem-{own}");
    let size = region.child("size").map(size_text).transpose()?.unwrap_or(DEFAULT_SIZE);
    let object = Object::new()
        .with("qom-type", "memory-backend-file")
        .with("id", id.as_str())
        .with("mem-path", format!("/dev/shm/{name}"))
        .with("size", size)
        .with("share", true);
    builder.object(&object);
    let mut device = Object::new().with("driver", "ivshmem-plain").with("id", own).with("memdev", id);
    match region.attr("role") {
        Some("master") => {
            device.set("master", "on");
        }
        Some("peer") => {
            device.set("master", "off");
        }
        _ => {}
    }
    builder.address(region, &mut device)?;
    builder.device(&device);
    Ok(())
}

fn doorbell(builder: &mut Builder<'_>, region: &Element, name: &str) -> Result<(), Error> {
    let own = alias(region)?;
    let id = format!("char{own}");
    let mut device =
        Object::new().with("driver", "ivshmem-doorbell").with("id", own).with("chardev", id.as_str());
    if let Some(interrupts) = region.child("msi") {
        device
            .set_some("vectors", number_attr(interrupts, "vectors")?)
            .set_some("ioeventfd", switch(interrupts, "ioeventfd"));
    }
    builder.address(region, &mut device)?;
    builder.device(&device);
    let mut list = KeyValues::new("socket");
    list.set("id", id);
    if builder.launches() {
        let number = builder.descriptor(Purpose::Character { alias: own.to_owned() });
        list.set("fd", number);
    } else {
        let path = match region.path_attr("server", "path") {
            Some(path) => path.to_owned(),
            None => format!("{SERVERS}/shmem-{name}-sock"),
        };
        list.set("path", path);
    }
    builder.option("-chardev", list)
}
