//! `<disk>`.

mod iotune;

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::refusal;
use super::schema::{
    Attribute, Shape, attribute, content, flag, number, on_off, one_of, place, shape, text, yes_no,
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
            Kind::OneOf(&[
                "default",
                "none",
                "writethrough",
                "writeback",
                "directsync",
                "unsafe",
            ]),
        ),
        one_of(
            "error_policy",
            &["default", "stop", "report", "ignore", "enospace"],
        ),
        one_of("rerror_policy", &["default", "stop", "report", "ignore"]),
        one_of("io", &["native", "threads", "io_uring"]),
        on_off("ioeventfd"),
        on_off("event_idx"),
        on_off("copy_on_read"),
        one_of("discard", &["default", "unmap", "ignore"]),
        attribute("iothread", Kind::Number(1, u32::MAX as u64)),
        one_of("detect_zeroes", &["default", "off", "on", "unmap"]),
        on_off("discard_no_unref"),
        attribute("queues", Kind::Number(1, u32::MAX as u64)),
        attribute("queue_size", Kind::Number(1, u32::MAX as u64)),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[
        common::IOTHREADS,
        shape(
            "statistics",
            &[],
            &[shape(
                "statistic",
                &[attribute("interval", Kind::Number(1, u32::MAX as u64)).required()],
                &[],
            )
            .many()],
        ),
        shape(
            "metadata_cache",
            &[],
            &[content("max_size", Kind::Text).with(&[text("unit")])],
        ),
    ],
);

const TARGET: Shape = shape(
    "target",
    &[
        text("dev"),
        one_of(
            "bus",
            &[
                "ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd", "none",
            ],
        ),
        one_of("tray", &["closed", "open"]),
        on_off("removable"),
        attribute("rotation_rate", Kind::Number(0, 0xffff)),
        on_off("dpofua"),
    ],
    &[],
);

const MODEL: Attribute = one_of(
    "model",
    &["virtio", "virtio-transitional", "virtio-non-transitional"],
);

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
            &[
                number("cyls"),
                number("heads"),
                number("secs"),
                one_of("trans", &["auto", "none", "lba"]),
            ],
            &[],
        ),
        shape(
            "blockio",
            &[
                number("logical_block_size"),
                number("physical_block_size"),
                number("discard_granularity"),
            ],
            &[],
        ),
        TARGET,
        place("iotune"),
        shape(
            "throttlefilters",
            &[],
            &[shape("throttlefilter", &[text("group").required()], &[]).many()],
        ),
        flag("readonly"),
        flag("shareable"),
        shape("transient", &[yes_no("shareBacking")], &[]).kept(),
        content("serial", Kind::Text),
        content("wwn", Kind::Text),
        content("vendor", Kind::Text),
        content("product", Kind::Text),
        place("encryption"),
    ],
);

/// Prefixes of target names and the bus that each stands for.
const BUSES: &[(&str, &str)] = &[
    ("fd", "fdc"),
    ("hd", "ide"),
    ("sd", "scsi"),
    ("vd", "virtio"),
    ("xvd", "xen"),
    ("ubd", "uml"),
];

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
            && input
                .child("source")
                .is_some_and(|source| source.child(name).is_some());
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
            format!(
                "the secret of its <auth> has type '{}'; use '{wanted}'",
                kind.unwrap_or_default()
            ),
        )),
    }
}

fn complete_target(input: &Element, disk: &mut Element) -> Result<(), Error> {
    let device = View(disk).device().to_owned();
    let removable = matches!(device.as_str(), "cdrom" | "floppy");
    let Some(name) = disk.path_attr("target", "dev").map(str::to_owned) else {
        return Err(Error::new(
            Code(20),
            Origin::DOMAIN,
            format!(
                "<disk> ({}): it needs <target dev=''>, its name in the guest",
                input.position
            ),
        ));
    };
    let known = BUSES.iter().any(|(prefix, _)| name.starts_with(prefix));
    if device == "floppy" && !name.starts_with("fd") || device != "floppy" && name.starts_with("fd") {
        return Err(refusal::xml(
            input,
            format!("a {device} can't have the target name '{name}'"),
        ));
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
    if target.attr("tray") == Some("closed") || !removable {
        target.unset("tray");
    }
    if target.attr("bus") != Some("usb") {
        target.unset("removable");
    }
    if target.attr("rotation_rate") == Some("0") {
        target.unset("rotation_rate");
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
    for name in [
        "cache",
        "error_policy",
        "rerror_policy",
        "discard",
        "detect_zeroes",
    ] {
        if driver.attr(name) == Some("default") {
            driver.unset(name);
        }
    }
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
        None if kind == "dir" => driver.set("type", "fat"),
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
            return Err(refusal::xml(
                disk,
                format!("wwn '{wwn}' is not 16 hexadecimal digits"),
            ));
        }
    }
    for (name, longest) in [("vendor", 8), ("product", 16)] {
        let Some(text) = disk.child_text(name) else {
            continue;
        };
        if text.len() > longest || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(refusal::xml(
                disk,
                format!("{name} '{text}' is not up to {longest} printable ASCII characters"),
            ));
        }
    }
    Ok(())
}

/// Whether QEMU and the bus can do what the disk asks for.
pub(crate) fn check(disk: &Element, _context: &Context<'_>) -> Result<(), Error> {
    let view = View(disk);
    let (bus, target) = (view.bus(), view.target());
    if let Some(model) = disk.attr("model")
        && bus != "virtio"
    {
        return Err(refusal::unsupported(
            disk,
            format!("model '{model}' of '{target}' needs bus 'virtio', not '{bus}'"),
        ));
    }
    if let Some(driver) = disk.child("driver") {
        for name in [
            "queues",
            "queue_size",
            "ioeventfd",
            "event_idx",
            "iommu",
            "ats",
            "packed",
            "page_per_vq",
        ] {
            if driver.attr(name).is_some() && bus != "virtio" {
                return Err(refusal::unsupported(
                    disk,
                    format!("driver attribute '{name}' of '{target}' needs bus 'virtio', not '{bus}'"),
                ));
            }
        }
        let threaded = driver.attr("iothread").is_some() || driver.child("iothreads").is_some();
        if threaded && bus != "virtio" {
            return Err(refusal::unsupported_by_qemu(
                disk,
                format!("I/O threads are not to be had for bus '{bus}' of '{target}'"),
            ));
        }
    }
    if disk.child("wwn").is_some() && !matches!(bus, "ide" | "scsi" | "sata") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("a wwn needs bus 'ide', 'sata' or 'scsi', not '{bus}' of '{target}'"),
        ));
    }
    if view.kind() == "vhostvdpa" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("this QEMU has no vhost-vdpa disks, but '{target}' is one"),
        ));
    }
    if view.kind() == "dir" && disk.child("readonly").is_none() {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is a directory, which can't be written to; add <readonly/>"),
        ));
    }
    if disk.child("shareable").is_some() && view.format() != "raw" {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is shareable, which only format 'raw' can be"),
        ));
    }
    check_driver(disk)?;
    check_encryption(disk)?;
    check_address(disk)
}

fn check_driver(disk: &Element) -> Result<(), Error> {
    let target = View(disk).target();
    if let Some(name) = disk.path_attr("driver", "name").filter(|name| *name != "qemu") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("driver '{name}' of '{target}' is not QEMU's; use 'qemu'"),
        ));
    }
    if matches!(
        View(disk).format(),
        "iso" | "bochs" | "cloop" | "dmg" | "vhd" | "ploop" | "cow" | "dir"
    ) {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' has a format that QEMU does not open; use 'raw'"),
        ));
    }
    Ok(())
}

fn check_encryption(disk: &Element) -> Result<(), Error> {
    let encryption = disk.child("encryption").or_else(|| disk.at("source/encryption"));
    let Some(encryption) = encryption else {
        return Ok(());
    };
    let target = View(disk).target();
    if encryption.attr("engine") == Some("qemu") && !matches!(View(disk).format(), "raw" | "qcow2") {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' is encrypted, which needs format 'raw' or 'qcow2'"),
        ));
    }
    if matches!(encryption.attr("format"), Some("qcow" | "default")) {
        return Err(refusal::unsupported_by_qemu(
            disk,
            format!("'{target}' has QEMU's old encryption, which is no longer read; use 'luks'"),
        ));
    }
    Ok(())
}

/// The types of addresses that fit a bus.
fn check_address(disk: &Element) -> Result<(), Error> {
    let Some(kind) = disk.path_attr("address", "type") else {
        return Ok(());
    };
    let fits = match View(disk).bus() {
        "ide" | "sata" | "scsi" | "fdc" => kind == "drive",
        "usb" => kind == "usb",
        "virtio" => !matches!(kind, "drive" | "usb"),
        _ => true,
    };
    if fits || kind == "unassigned" {
        return Ok(());
    }
    Err(refusal::unsupported(
        disk,
        format!(
            "an address of type '{kind}' does not fit '{}' on bus '{}'",
            View(disk).target(),
            View(disk).bus()
        ),
    ))
}
