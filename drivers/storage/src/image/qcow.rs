//! QEMU's own formats.

use super::{Backing, Bytes, Compat, Encryption, Format, Image};

const MAGIC: u32 = 0x5146_49fb;
/// The header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Extensions of one header that are looked at.
const EXTENSIONS_MAX: usize = 64;
/// Clusters have 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Incompatible feature: subclusters.
const EXTENDED_L2: u64 = 1 << 4;
/// Compatible feature: lazy reference counts.
const LAZY_REFCOUNTS: u64 = 1;

/// qcow2 of both versions.
pub(super) fn qcow2(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    let version = bytes.big32(4)?;
    if bytes.big32(0)? != MAGIC || !matches!(version, 2 | 3) {
        return None;
    }
    let (offset, length) = (bytes.big64(8)?, bytes.big32(16)?);
    let cluster_bits = bytes.big32(20)?;
    let capacity_bytes = bytes.big64(24)?;
    let encryption = match bytes.big32(32)? {
        1 => Some(Encryption::Qcow),
        2 => Some(Encryption::Luks),
        _ => None,
    };
    let later = version == 3;
    let features = |offset| if later { bytes.big64(offset) } else { Some(0) };
    let (incompatible, compatible) = (features(72)?, features(80)?);
    let header_bytes = if later { u64::from(bytes.big32(100)?) } else { 72 };
    let format = extension(bytes, header_bytes, BACKING_FORMAT)
        .and_then(|text| std::str::from_utf8(text).ok())
        .map(|name| if name == "file" { Format::Raw } else { Format::parse(name).unwrap_or_default() });
    let backing = usize::try_from(length).ok().and_then(|length| bytes.text(offset, length));
    Some(Image {
        format: Format::Qcow2,
        capacity_bytes: Some(capacity_bytes),
        compat: Some(if later { Compat::V11 } else { Compat::V010 }),
        cluster_bytes: CLUSTER_BITS.contains(&cluster_bits).then(|| 1 << cluster_bits),
        lazy_refcounts: compatible & LAZY_REFCOUNTS != 0,
        extended_l2: incompatible & EXTENDED_L2 != 0,
        backing: backing.map(|name| Backing { name: name.to_owned(), format }),
        encryption,
    })
}

/// The content of a header extension.
fn extension(bytes: Bytes<'_>, begin: u64, wanted: u32) -> Option<&[u8]> {
    let mut at = usize::try_from(begin).ok()?;
    for _ in 0..EXTENSIONS_MAX {
        let (kind, length) = (bytes.big32(at)?, usize::try_from(bytes.big32(at.checked_add(4)?)?).ok()?);
        let content = at.checked_add(8)?;
        if kind == wanted {
            return bytes.0.get(content..content.checked_add(length)?);
        }
        if kind == 0 {
            return None;
        }
        // Extensions are padded to eight bytes.
        at = content.checked_add(length.checked_next_multiple_of(8)?)?;
    }
    None
}

/// The first qcow.
pub(super) fn qcow(head: &[u8]) -> Option<Image> {
    let bytes = Bytes(head);
    if bytes.big32(0)? != MAGIC || bytes.big32(4)? != 1 {
        return None;
    }
    let (offset, length) = (bytes.big64(8)?, usize::try_from(bytes.big32(16)?).ok()?);
    let encryption = (bytes.big32(36)? == 1).then_some(Encryption::Qcow);
    let backing = bytes.text(offset, length).map(|name| Backing { name: name.to_owned(), format: None });
    Some(Image {
        format: Format::Qcow,
        capacity_bytes: Some(bytes.big64(24)?),
        backing,
        encryption,
        ..Image::default()
    })
}
