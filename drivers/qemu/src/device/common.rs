//! What any device may have besides its own: boot order, alias, option ROM, ACPI index, address.

use super::address;
use super::refusal;
use super::schema::{Attribute, Shape, attribute, number, on_off, shape, text, yes_no};
use super::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Which of the optional parts a kind of device has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    /// `<boot order=''/>`.
    pub(crate) boot: bool,
    /// `<rom/>`.
    pub(crate) rom: bool,
}

/// A device without boot order and ROM.
pub(crate) const PLAIN: Parts = Parts { boot: false, rom: false };
/// A device that can be booted from.
pub(crate) const BOOTABLE: Parts = Parts { boot: true, rom: false };
/// A device that can be booted from and has a ROM.
pub(crate) const WITH_ROM: Parts = Parts { boot: true, rom: true };

const BOOT: Shape =
    shape("boot", &[attribute("order", Kind::Number(1, u32::MAX as u64)).required(), text("loadparm")], &[]);
const MASTER: Shape = shape("master", &[number("startport")], &[]);
const ROM: Shape = shape("rom", &[yes_no("enabled"), on_off("bar"), text("file")], &[]);
const ACPI: Shape = shape("acpi", &[attribute("index", Kind::Number(1, u32::MAX as u64))], &[]);

/// The options that every virtio device's `<driver>` has, in the order in which they are printed: through an IOMMU,
pub(crate) const IOMMU: Attribute = on_off("iommu");
/// with address translation services,
pub(crate) const ATS: Attribute = on_off("ats");
/// with packed queues,
pub(crate) const PACKED: Attribute = on_off("packed");
/// with a page for each queue's notifications.
pub(crate) const PAGE_PER_VQ: Attribute = on_off("page_per_vq");

/// `<driver>` of a virtio device that has no options but those of every virtio device.
pub(crate) const VIRTIO_DRIVER: Shape = shape("driver", &[IOMMU, ATS, PACKED, PAGE_PER_VQ], &[]);

/// The I/O threads that serve a device's queues.
pub(crate) const IOTHREADS: Shape = shape(
    "iothreads",
    &[],
    &[shape(
        "iothread",
        &[number("id").required()],
        &[shape("queue", &[number("id").required()], &[]).many()],
    )
    .many()],
);

/// Reads the common parts and appends them in libvirt's order.
pub(crate) fn append(input: &Element, device: &mut Element, parts: Parts) -> Result<(), Error> {
    if parts.boot {
        append_boot(input, device)?;
    }
    // Only aliases that a client chose are kept; the others are libvirt's own and belong to one run of the guest.
    if let Some(name) = input.path_attr("alias", "name")
        && is_user_alias(name)
    {
        device.push(Element::new("alias").with("name", name));
    }
    MASTER.read_child(input, device)?;
    if parts.rom {
        append_rom(input, device)?;
    }
    ACPI.read_child(input, device)?;
    if let Some(given) = input.child("address") {
        let address = address::read(given)?;
        device.push(address);
    }
    Ok(())
}

/// An alias of a client's own: `ua-` and then letters, digits, `_` and `-`.
fn is_user_alias(name: &str) -> bool {
    name.starts_with("ua-")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn append_boot(input: &Element, device: &mut Element) -> Result<(), Error> {
    let Some(boot) = input.child("boot") else {
        return Ok(());
    };
    let mut boot = BOOT.read(boot)?;
    if let Some(parameter) = boot.unset("loadparm") {
        let parameter = parameter.to_ascii_uppercase();
        let fits = (1..=8).contains(&parameter.len())
            && parameter.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b' '));
        if !fits {
            return Err(refusal::internal(
                input,
                format!("loadparm '{parameter}' is not 1 to 8 letters, digits, dots or blanks"),
            ));
        }
        boot.set("loadparm", parameter);
    }
    device.push(boot);
    Ok(())
}

fn append_rom(input: &Element, device: &mut Element) -> Result<(), Error> {
    let Some(rom) = input.child("rom") else {
        return Ok(());
    };
    let rom = ROM.read(rom)?;
    if rom.attr("enabled") == Some("no") && (rom.attr("bar").is_some() || rom.attr("file").is_some()) {
        return Err(refusal::unsupported(
            input,
            "a ROM that is not enabled can have neither 'bar' nor 'file'; remove them",
        ));
    }
    if !rom.attributes.is_empty() {
        device.push(rom);
    }
    Ok(())
}
