//! `<disk>`.

pub(crate) mod args;

mod check;
mod iotune;

pub(crate) use check::check;

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::refusal;
use super::schema::{
    Attribute, Shape, attribute, content, count, flag, number, on_off, one_of, place, shape, text, yes_no,
};
use super::source;
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const DRIVER: Shape = shape(
    "driver",
    &[
        text("name"),
        attribute("type", Kind::Text),
        attribute(
            "cache",
            Kind::OneOf(&["default", "none", "writethrough", "writeback", "directsync", "unsafe"]),
        )
        .unless("default"),
        one_of("error_policy", &["stop", "report", "ignore", "enospace"]),
        one_of("rerror_policy", &["stop", "report", "ignore"]),
        one_of("io", &["native", "threads", "io_uring"]),
        on_off("ioeventfd"),
        on_off("event_idx"),
        on_off("copy_on_read"),
        one_of("discard", &["unmap", "ignore"]),
        count("iothread"),
        one_of("detect_zeroes", &["off", "on", "unmap"]),
        on_off("discard_no_unref"),
        count("queues"),
        count("queue_size"),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[
        common::IOTHREADS,
        shape("metadata_cache", &[], &[content("max_size", Kind::Text).with(&[text("unit")])]),
    ],
);

const TARGET: Shape = shape(
    "target",
    &[
        text("dev"),
        one_of("bus", &["ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd", "none"]),
        one_of("tray", &["closed", "open"]),
        on_off("removable"),
        count("rotation_rate"),
        on_off("dpofua"),
    ],
    &[],
);

const MODEL: Attribute = one_of("model", &["virtio", "virtio-transitional", "virtio-non-transitional"]);

const DISK: Shape = shape(
    "disk",
    &[
        one_of("type", source::TYPES),
        one_of("device", &["disk", "cdrom", "floppy", "lun"]),
        MODEL,
        yes_no("rawio"),
        one_of("sgio", &["default", "filtered", "unfiltered"]),
        one_of("snapshot", &["no", "internal", "external", "manual"]),
    ],
    &[
        DRIVER,
        place("auth"),
        place("source"),
        place("backingStore"),
        shape("backenddomain", &[text("name")], &[]),
        shape(
            "geometry",
            &[number("cyls"), number("heads"), number("secs"), one_of("trans", &["auto", "none", "lba"])],
            &[],
        ),
        shape(
            "blockio",
            &[number("logical_block_size"), number("physical_block_size"), number("discard_granularity")],
            &[],
        ),
        TARGET,
        place("iotune"),
        shape("throttlefilters", &[], &[shape("throttlefilter", &[text("group").required()], &[]).many()]),
        flag("readonly"),
        flag("shareable"),
        shape("transient", &[yes_no("shareBacking").unless("no")], &[]).kept(),
        content("serial", Kind::Text),
        content("wwn", Kind::Text),
        content("vendor", Kind::Text),
        content("product", Kind::Text),
        place("encryption"),
    ],
);

/// Nothing says where the data is.
pub(crate) const NO_SOURCE: Code = Code(19);
/// Nothing says what the disk is called in the guest.
pub(crate) const NO_TARGET: Code = Code(20);

/// Prefixes of target names and the bus that each stands for.
const BUSES: &[(&str, &str)] =
    &[("fd", "fdc"), ("hd", "ide"), ("sd", "scsi"), ("vd", "virtio"), ("xvd", "xen"), ("ubd", "uml")];

/// What the rest of the driver asks about a disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The name in the guest (`vda`).
    pub(crate) fn target(self) -> &'a str {
        self.0.path_attr("target", "dev").unwrap_or_default()
    }

    /// The bus (`virtio`).
    pub(crate) fn bus(self) -> &'a str {
        self.0.path_attr("target", "bus").unwrap_or_default()
    }

    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub(crate) fn device(self) -> &'a str {
        self.0.attr("device").unwrap_or("disk")
    }

    /// The type of storage.
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or("file")
    }

    /// The format of the image.
    pub(crate) fn format(self) -> &'a str {
        self.0.path_attr("driver", "type").unwrap_or("raw")
    }
}

/// The canonical form of a disk.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut disk = DISK.read(input)?;
    for (name, default) in [("type", "file"), ("device", "disk")] {
        if disk.attr(name).is_none() {
            disk.set(name, default);
        }
    }
    complete_source(input, &mut disk)?;
    complete_target(input, &mut disk)?;
    complete_driver(&mut disk)?;
    if View(&disk).device() == "cdrom" && disk.child("readonly").is_none() {
        disk.push(Element::new("readonly"));
    }
    if matches!(View(&disk).kind(), "vhostuser" | "vhostvdpa") && disk.attr("snapshot").is_none() {
        // Its image belongs to another process.
        disk.set("snapshot", "no");
    }
    if disk.attr("snapshot") == Some("no") && disk.child("readonly").is_some() {
        disk.unset("snapshot");
    }
    if let Some(limits) = input.child("iotune") {
        iotune::append(limits, &mut disk)?;
    }
    complete_identity(&mut disk)?;
    DISK.arrange(&mut disk);
    common::append(input, &mut disk, common::BOOTABLE)?;
    Ok(disk)
}

fn complete_source(input: &Element, disk: &mut Element) -> Result<(), Error> {
    let kind = View(disk).kind().to_owned();
    // Keys stand under <disk> or under <source>, and are printed where they were found.
    for name in ["auth", "encryption"] {
        let twice = input.child(name).is_some()
            && input.child("source").is_some_and(|source| source.child(name).is_some());
        if twice {
            return Err(refusal::unsupported(
                input,
                format!("<{name}> stands in <disk> and in <source>; keep one"),
            ));
        }
    }
    if let Some(auth) = input.child("auth") {
        disk.push(source::read_auth(auth)?);
    }
    if let Some(encryption) = input.child("encryption") {
        disk.push(source::read_encryption(encryption)?);
    }
    if let Some(given) = input.child("source")
        && let Some(source) = source::read(&kind, given)?
    {
        disk.push(source);
    }
    if disk.child("source").is_none() && matches!(View(disk).device(), "cdrom" | "floppy") {
        // An empty drive holds no block device.
        disk.set("type", "file");
    }
    if disk.child("source").is_none() && matches!(View(disk).device(), "disk" | "lun") {
        return Err(Error::new(
            NO_SOURCE,
            Origin::DOMAIN,
            format!("<disk> ({}): only a cdrom or floppy drive may be empty; add a <source>", input.position),
        ));
    }
    check_auth(disk)?;
    if let Some(store) = input.child("backingStore") {
        disk.push(source::read_backing_store(store)?);
    }
    Ok(())
}

fn check_auth(disk: &Element) -> Result<(), Error> {
    let wanted = match disk.path_attr("source", "protocol") {
        Some("iscsi") => "iscsi",
        Some("rbd") => "ceph",
        _ => return Ok(()),
    };
    let auth = disk.child("auth").or_else(|| disk.at("source/auth"));
    match auth.map(|auth| auth.path_attr("secret", "type")) {
        None => Ok(()),
        Some(Some(kind)) if kind == wanted => Ok(()),
        Some(kind) => Err(refusal::unsupported(
            disk,
            format!("the secret of its <auth> has type '{}'; use '{wanted}'", kind.unwrap_or_default()),
        )),
    }
}

fn complete_target(input: &Element, disk: &mut Element) -> Result<(), Error> {
    let device = View(disk).device().to_owned();
    let removable = matches!(device.as_str(), "cdrom" | "floppy");
    let Some(name) = disk.path_attr("target", "dev").map(str::to_owned) else {
        return Err(Error::new(
            NO_TARGET,
            Origin::DOMAIN,
            format!("<disk> ({}): it needs <target dev=''>, its name in the guest", input.position),
        ));
    };
    let known = BUSES.iter().any(|(prefix, _)| name.starts_with(prefix));
    if (device == "floppy") != name.starts_with("fd") {
        return Err(refusal::internal(input, format!("a {device} can't have the target name '{name}'")));
    }
    let Some(target) = disk.child_mut("target") else {
        return Ok(());
    };
    if target.attr("bus") == Some("none") {
        target.unset("bus");
    }
    if target.attr("bus").is_none()
        && let Some((_, bus)) = BUSES.iter().find(|(prefix, _)| name.starts_with(prefix))
    {
        target.set("bus", *bus);
    }
    if target.attr("tray").is_some() && !removable {
        return Err(refusal::unsupported(input, "only a cdrom or a floppy has a tray; remove 'tray'"));
    }
    if target.attr("tray") == Some("closed") {
        target.unset("tray");
    }
    if target.attr("bus") != Some("usb") {
        target.unset("removable");
    }
    if !known && input.child("address").is_none() {
        return Err(refusal::xml(
            input,
            format!("target name '{name}' is unknown; use one like vda, sda or hda, or add an <address>"),
        ));
    }
    Ok(())
}

fn complete_driver(disk: &mut Element) -> Result<(), Error> {
    let kind = View(disk).kind().to_owned();
    let target = View(disk).target().to_owned();
    let place = disk.clone();
    let driver = disk.child_or_insert("driver");
    if driver.attr("name").is_none() {
        driver.set("name", "qemu");
    }
    match driver.attr("type") {
        Some("aio") => driver.set("type", "raw"),
        Some(format) if !source::FORMATS.contains(&format) => {
            let message = format!("format '{format}' of '{target}' is unknown; use raw or qcow2");
            return Err(refusal::unsupported(&place, message));
        }
        Some(_) => {}
        // The format of a volume is known when its pool is asked.
        None if kind == "volume" => {}
        None => driver.set("type", "raw"),
    }
    source::complete_metadata_cache(driver)?;
    DRIVER.arrange(driver);
    Ok(())
}

/// Serial number, world wide name, vendor and product.
fn complete_identity(disk: &mut Element) -> Result<(), Error> {
    if let Some(wwn) = disk.child_text("wwn") {
        let bare = wwn.strip_prefix("0x").unwrap_or(&wwn);
        if bare.len() != 16 || !bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::new(
                Code::INTERNAL,
                Origin::NONE,
                format!("<disk> ({}): wwn '{wwn}' is not 16 hexadecimal digits", disk.position),
            ));
        }
    }
    for (name, longest) in [("vendor", 8), ("product", 16)] {
        let Some(text) = disk.child_text(name) else {
            continue;
        };
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(refusal::xml(
                disk,
                format!("{name} '{text}' has characters that are not printable ASCII"),
            ));
        }
        if text.len() > longest {
            return Err(refusal::unsupported(
                disk,
                format!("{name} '{text}' is longer than {longest} characters"),
            ));
        }
    }
    Ok(())
}
