//! What an image's header says. Guests write headers, so nothing here follows, allocates or repeats by their word: a header is
//! looked at within a fixed number of bytes, and what makes no sense is raw.

mod headers;
mod qcow;

use serde::{Deserialize, Serialize};

/// Bytes of a file's beginning that are looked at: the mark of an ISO image is the last thing that may matter.
pub const HEAD_BYTES: usize = 33_280;
/// Longest name of a file that an image stands on; QEMU's own limit.
const BACKING_MAX_BYTES: usize = 1023;

/// What is in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Format {
    /// What a guest sees, byte for byte.
    #[default]
    Raw,
    /// A folder.
    Dir,
    /// Of Bochs.
    Bochs,
    /// A compressed loop device.
    Cloop,
    /// Of macOS.
    Dmg,
    /// A CD.
    Iso,
    /// Of Virtual PC.
    Vpc,
    /// Of `VirtualBox`.
    Vdi,
    /// A FAT file system made of a folder.
    Fat,
    /// A VHD.
    Vhd,
    /// Of Parallels.
    Ploop,
    /// Of User Mode Linux.
    Cow,
    /// QEMU's first.
    Qcow,
    /// QEMU's own.
    Qcow2,
    /// QEMU's enhanced one, since given up.
    Qed,
    /// Of `VMware`.
    Vmdk,
}

impl Format {
    /// All, in libvirt's order.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("raw", Self::Raw),
        ("dir", Self::Dir),
        ("bochs", Self::Bochs),
        ("cloop", Self::Cloop),
        ("dmg", Self::Dmg),
        ("iso", Self::Iso),
        ("vpc", Self::Vpc),
        ("vdi", Self::Vdi),
        ("fat", Self::Fat),
        ("vhd", Self::Vhd),
        ("ploop", Self::Ploop),
        ("cow", Self::Cow),
        ("qcow", Self::Qcow),
        ("qcow2", Self::Qcow2),
        ("qed", Self::Qed),
        ("vmdk", Self::Vmdk),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("raw", |(name, _)| name)
    }

    /// The format of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

/// The file that an image stands on, as its header names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// The name, as it stands there: a path, or anything else.
    pub name: String,
    /// Its format, if the header says.
    pub format: Option<Format>,
}

/// What a header says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The format.
    pub format: Format,
    /// Bytes that a guest sees, where that is not the file's size.
    pub capacity_bytes: Option<u64>,
    /// The version of qcow2, as libvirt calls it.
    pub compat: Option<Compat>,
    /// Bytes of a cluster.
    pub cluster_bytes: Option<u64>,
    /// Are reference counts written late?
    pub lazy_refcounts: bool,
    /// Are clusters made of subclusters?
    pub extended_l2: bool,
    /// The file that it stands on.
    pub backing: Option<Backing>,
    /// Is it encrypted, and how (`luks`, `qcow`)?
    pub encryption: Option<Encryption>,
}

/// Versions of qcow2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    /// Version 2.
    V010,
    /// Version 3.
    V11,
}

impl Compat {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V010 => "0.10",
            Self::V11 => "1.1",
        }
    }
}

/// Ways of encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// LUKS.
    Luks,
    /// The one of qcow and early qcow2.
    Qcow,
}

impl Encryption {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Luks => "luks",
            Self::Qcow => "qcow",
        }
    }
}

/// Reads a header. `head` is the file's beginning, at most [`HEAD_BYTES`] of it.
#[must_use]
pub fn probe(head: &[u8]) -> Image {
    let head = head.get(..HEAD_BYTES).unwrap_or(head);
    qcow::qcow2(head).or_else(|| qcow::qcow(head)).or_else(|| headers::other(head)).unwrap_or_default()
}

/// A view of bytes in which nothing is out of range.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn at<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn big32(self, offset: usize) -> Option<u32> {
        self.at(offset).map(u32::from_be_bytes)
    }

    fn big64(self, offset: usize) -> Option<u64> {
        self.at(offset).map(u64::from_be_bytes)
    }

    fn little32(self, offset: usize) -> Option<u32> {
        self.at(offset).map(u32::from_le_bytes)
    }

    fn little64(self, offset: usize) -> Option<u64> {
        self.at(offset).map(u64::from_le_bytes)
    }

    /// A text of that length, if it is one and fits into what is there.
    fn text(self, offset: u64, length: usize) -> Option<&'a str> {
        let offset = usize::try_from(offset).ok()?;
        if length == 0 || length > BACKING_MAX_BYTES {
            return None;
        }
        let text = std::str::from_utf8(self.0.get(offset..offset.checked_add(length)?)?).ok()?;
        (!text.chars().any(char::is_control)).then_some(text)
    }
}
