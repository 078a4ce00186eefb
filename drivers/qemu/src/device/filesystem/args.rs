//! `<filesystem>`.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, invalid, number_attr, unsupported};
use crate::args::option::KeyValues;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One shared folder.
pub(crate) fn build(builder: &mut Builder<'_>, share: &Element) -> Result<(), Error> {
    match share.path_attr("driver", "type") {
        Some("virtiofs") => virtiofs(builder, share),
        Some("mtp") => Err(unsupported("Folders over MTP are not yet to be had; use virtiofs")),
        _ => plan9(builder, share),
    }
}

fn plan9(builder: &mut Builder<'_>, share: &Element) -> Result<(), Error> {
    let name = alias(share)?;
    let id = format!("fsdev-{name}");
    let source =
        share.path_attr("source", "dir").ok_or_else(|| invalid(format!("{name} has no source folder")))?;
    let tag = share.path_attr("target", "dir").ok_or_else(|| invalid(format!("{name} has no target")))?;
    let driver = share.child("driver");
    let handle = driver.and_then(|driver| driver.attr("type")) == Some("handle");
    let mut list = KeyValues::new(if handle { "handle" } else { "local" });
    if !handle {
        let model = match share.attr("accessmode") {
            Some("mapped") => "mapped",
            Some("squash") => "none",
            _ => "passthrough",
        };
        list.set("security_model", model);
        list.set_some("multidevs", share.attr("multidevs").filter(|mode| *mode != "default"));
    }
    for (attribute, property) in [("fmode", "fmode"), ("dmode", "dmode")] {
        list.set_some(property, share.attr(attribute));
    }
    list.set_some("writeout", driver.and_then(|driver| driver.attr("wrpolicy")));
    list.set("id", &id).set("path", source);
    if share.child("readonly").is_some() {
        list.word("readonly");
    }
    builder.option("-fsdev", list)?;
    let mut device = virtio::device("virtio-9p", share, share.attr("model"));
    device.set("id", name).set("fsdev", id).set("mount_tag", tag);
    builder.address(share, &mut device)?;
    builder.device(&device);
    Ok(())
}

fn virtiofs(builder: &mut Builder<'_>, share: &Element) -> Result<(), Error> {
    let name = alias(share)?;
    let id = format!("chr-vu-{name}");
    let tag = share.path_attr("target", "dir").ok_or_else(|| invalid(format!("{name} has no target")))?;
    let mut list = KeyValues::new("socket");
    list.set("id", &id);
    if builder.launches() {
        let number = builder.descriptor(Purpose::Character { alias: name.to_owned() });
        list.set("fd", number);
    } else {
        let path = match share.path_attr("source", "socket") {
            Some(path) => path.to_owned(),
            None => format!("{}/{name}-fs.sock", builder.paths.guest),
        };
        list.set("path", path);
    }
    builder.option("-chardev", list)?;
    let mut device = virtio::device("vhost-user-fs", share, share.attr("model"));
    device.set("id", name).set("chardev", id);
    if let Some(driver) = share.child("driver") {
        device.set_some("queue-size", number_attr(driver, "queue")?);
    }
    device.set("tag", tag).set_some("bootindex", builder.boot.of(share));
    builder.address(share, &mut device)?;
    builder.device(&device);
    Ok(())
}
