//! Formats of others.

use super::{Backing, Bytes, Encryption, Format, Image};

const SECTOR_BYTES: u64 = 512;
/// Feature of QED: it stands on another file.
const QED_BACKING: u64 = 1;
/// Feature of QED: that file is raw.
const QED_BACKING_RAW: u64 = 4;

fn image(format: Format, capacity_bytes: Option<u64>) -> Image {
    Image { format, capacity_bytes, ..Image::default() }
}

/// Whatever is not QEMU's qcow.
pub(super) fn other(head: &[u8]) -> Option<Image> {
    qed(head).or_else(|| vmdk(head)).or_else(|| vdi(head)).or_else(|| plain(head))
}

fn qed(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    if head.get(..4)? != b"QED\0" {
        return None;
    }
    let features = bytes.little64(16)?;
    let (offset, length) = (bytes.little32(56)?, usize::try_from(bytes.little32(60)?).ok()?);
    let name = bytes.text(u64::from(offset), length).filter(|_| features & QED_BACKING != 0);
    let format = (features & QED_BACKING_RAW != 0).then_some(Format::Raw);
    let backing = name.map(|name| Backing { name: name.to_owned(), format });
    Some(Image { backing, ..image(Format::Qed, Some(bytes.little64(48)?)) })
}

fn vmdk(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    if head.get(..4)? != b"KDMV" {
        return None;
    }
    let version = bytes.little32(4)?;
    let capacity = bytes.little64(12)?.checked_mul(SECTOR_BYTES);
    // The description follows the header; a parent is named in it.
    let description = head.get(512..).unwrap_or_default();
    let parent = parent_of(description.get(..20 * 512).unwrap_or(description));
    let backing = parent.map(|name| Backing { name, format: Some(Format::Vmdk) });
    (1..=3).contains(&version).then(|| Image { backing, ..image(Format::Vmdk, capacity) })
}

/// `parentFileNameHint="NAME"` on a line of its own.
fn parent_of(description: &[u8]) -> Option<String> {
    const HINT: &[u8] = b"parentFileNameHint=\"";
    let mut lines = description.split(|byte| *byte == b'\n');
    let rest = lines.find_map(|line| line.strip_prefix(HINT))?;
    let length = rest.iter().position(|byte| *byte == b'"')?;
    Bytes(rest).text(0, length).map(str::to_owned)
}

fn vdi(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    (bytes.little32(64)? == 0xbeda_107f)
        .then(|| image(Format::Vdi, bytes.little64(0x170)))
        .filter(|image| image.capacity_bytes.is_some())
}

/// Those of which the mark is all that matters.
fn plain(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    let marks = |offset: usize, mark: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    if marks(0, b"LUKS\xba\xbe") {
        return Some(Image { encryption: Some(Encryption::Luks), ..Image::default() });
    }
    if marks(0, b"conectix") {
        return Some(image(Format::Vpc, bytes.big64(48)));
    }
    if marks(0, b"Bochs Virtual HD Image") {
        return Some(image(Format::Bochs, bytes.little64(84)));
    }
    if marks(0, b"OOOM") {
        return Some(image(Format::Cow, None));
    }
    if marks(0, b"WithoutFreeSpace") || marks(0, b"WithouFreSpacExt") {
        return Some(image(Format::Ploop, bytes.little64(36).and_then(|sectors| sectors.checked_mul(512))));
    }
    if marks(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n") {
        return Some(image(Format::Cloop, None));
    }
    marks(0x8001, b"CD001").then(|| image(Format::Iso, None))
}
