//! `<filesystem>`.

pub(crate) mod args;

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::disk::{NO_SOURCE, NO_TARGET};
use super::refusal;
use super::schema::{Shape, attribute, flag, number, on_off, one_of, place, shape, text};
use super::value::{self, Kind};
use crate::domain::context::Context;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_xml::Element;

const BINARY: Shape = shape(
    "binary",
    &[text("path"), on_off("xattr")],
    &[
        shape("cache", &[one_of("mode", &["none", "always"])], &[]),
        shape("sandbox", &[one_of("mode", &["namespace", "chroot"])], &[]),
        shape("lock", &[on_off("posix"), on_off("flock")], &[]),
        shape("thread_pool", &[number("size")], &[]),
        shape("openfiles", &[number("max")], &[]),
    ],
);

const ID_RANGE: &[super::schema::Attribute] = &[number("start"), number("target"), number("count")];

const FILESYSTEM: Shape = shape(
    "filesystem",
    &[
        one_of("type", &["mount", "block", "file", "template", "ram", "bind", "volume"]),
        one_of("accessmode", &["passthrough", "mapped", "squash"]),
        one_of("multidevs", &["default", "remap", "forbid", "warn"]),
        attribute("fmode", Kind::Text),
        attribute("dmode", Kind::Text),
        one_of("model", &["virtio", "virtio-transitional", "virtio-non-transitional"]),
    ],
    &[
        shape(
            "driver",
            &[
                one_of("type", &["path", "handle", "loop", "nbd", "ploop", "virtiofs", "mtp"]),
                text("format"),
                one_of("wrpolicy", &["immediate"]),
                number("queue"),
                IOMMU,
                ATS,
                PACKED,
                PAGE_PER_VQ,
            ],
            &[],
        ),
        BINARY,
        shape("idmap", &[], &[shape("uid", ID_RANGE, &[]).many(), shape("gid", ID_RANGE, &[]).many()]),
        shape(
            "source",
            &[
                text("dir"),
                text("socket"),
                text("file"),
                text("dev"),
                text("name"),
                text("usage"),
                text("pool"),
                text("volume"),
            ],
            &[],
        ),
        shape("target", &[text("dir")], &[]),
        flag("readonly"),
        place("space_hard_limit"),
        place("space_soft_limit"),
    ],
);

/// What the rest of the driver asks about a shared folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The driver: `path` or `virtiofs`.
    pub(crate) fn driver(self) -> &'a str {
        self.0.path_attr("driver", "type").unwrap_or("path")
    }
}

/// The canonical form of a folder that host and guest share.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut folder = FILESYSTEM.read(input)?;
    if folder.attr("type").is_none() {
        folder.set("type", "mount");
    }
    let virtiofs = View(&folder).driver() == "virtiofs";
    let served = folder.path_attr("source", "socket").is_some();
    if folder.attr("accessmode").is_none() && !served {
        folder.set("accessmode", "passthrough");
    }
    if folder.attr("multidevs") == Some("default") {
        folder.unset("multidevs");
    }
    for name in ["fmode", "dmode"] {
        if let Some(mode) = folder.attr(name) {
            let mode = u32::from_str_radix(mode, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| refusal::value(input, format!("{name} '{mode}' is not an octal file mode")))?;
            folder.set(name, format!("{mode:04o}"));
        }
    }
    if !virtiofs {
        folder.take("binary");
        if let Some(driver) = folder.child_mut("driver") {
            driver.unset("queue");
        }
    }
    let source = folder.child("source").is_some_and(|source| !source.attributes.is_empty());
    if !source {
        return Err(Error::new(
            NO_SOURCE,
            Origin::DOMAIN,
            format!("<filesystem> ({}): it needs a <source>", input.position),
        ));
    }
    if folder.path_attr("target", "dir").is_none() && folder.path_attr("source", "socket").is_none() {
        return Err(Error::new(
            NO_TARGET,
            Origin::DOMAIN,
            format!("<filesystem> ({}): it needs a <target dir=''>", input.position),
        ));
    }
    for name in ["space_hard_limit", "space_soft_limit"] {
        if let Some(limit) = input.child(name) {
            let bytes = value::bytes(&limit.text(), limit.attr("unit"), 1, &format!("<{name}>"))?;
            folder.push(content_element(name, bytes));
        }
    }
    FILESYSTEM.arrange(&mut folder);
    common::append(input, &mut folder, common::BOOTABLE)?;
    Ok(folder)
}

fn content_element(name: &str, bytes: u64) -> Element {
    Element::new(name).with("unit", "bytes").with_text(bytes.to_string())
}

/// Whether QEMU shares it.
pub(crate) fn check(folder: &Element, _context: &Context<'_>) -> Result<(), Error> {
    if folder.attr("type") != Some("mount") {
        return Err(refusal::unsupported_by_qemu(folder, "QEMU shares folders of type 'mount' only"));
    }
    let mode = folder.attr("accessmode").unwrap_or("passthrough");
    if View(folder).driver() == "virtiofs" {
        if mode != "passthrough" {
            return Err(refusal::unsupported_by_qemu(
                folder,
                format!("virtiofs has no accessmode '{mode}'; use 'passthrough'"),
            ));
        }
    } else if (folder.attr("fmode").is_some() || folder.attr("dmode").is_some()) && mode != "mapped" {
        return Err(refusal::unsupported_by_qemu(folder, "fmode and dmode need accessmode 'mapped'"));
    }
    if folder.child("space_hard_limit").is_some() || folder.child("space_soft_limit").is_some() {
        return Err(refusal::unsupported_by_qemu(
            folder,
            "QEMU does not limit the space of shared folders; remove the limits",
        ));
    }
    Ok(())
}
