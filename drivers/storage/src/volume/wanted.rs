//! What a volume's definition asks for.

use crate::error::{error, invalid, unsupported, wrong_xml};
use crate::image::{Compat, Format};
use crate::protocol::{Permissions, UNFINISHED};
use crate::xml::{self, bytes_of, permissions_of, text_of};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use nix::errno::Errno;

/// Types of volumes.
const TYPES: &[&str] = &["file", "block", "dir", "network", "netdir", "ploop"];

/// The file that a volume is to stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingWanted {
    /// Its path.
    pub path: String,
    /// Its format.
    pub format: Format,
}

/// What a definition asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The volume's name.
    pub name: String,
    /// Bytes that a guest is to see; those of what it stands on or is copied from if it does not say.
    pub capacity_bytes: Option<u64>,
    /// Bytes that are to be allocated; all if it does not say.
    pub allocation_bytes: Option<u64>,
    /// Its format.
    pub format: Format,
    /// Is the format named?
    pub format_named: bool,
    /// Owner and mode.
    pub permissions: Permissions,
    /// The version of qcow2.
    pub compat: Option<String>,
    /// Bytes of a cluster.
    pub cluster_bytes: Option<u64>,
    /// Lazy reference counts and subclusters, if features are named.
    pub features: Option<(bool, bool)>,
    /// What it is to stand on.
    pub backing: Option<BackingWanted>,
}

impl Wanted {
    /// Reads a definition.
    ///
    /// # Errors
    /// XML that is none of a volume, or of one that can't be made.
    pub fn read(text: &str) -> Result<Self, Error> {
        let root = xml::read(text, "volume")?;
        let kind = root.attr("type").unwrap_or("file");
        if !TYPES.contains(&kind) {
            return Err(unsupported(format!("<volume type='{kind}'> is no type of volume; try 'file'")));
        }
        let name = text_of(&root, "name").ok_or_else(|| wrong_xml("The volume has no <name>"))?;
        let backing = backing(&root)?;
        let size = |name: &str| root.child(name).map(bytes_of).transpose();
        let (capacity_bytes, allocation_bytes) = (size("capacity")?, size("allocation")?);
        let target = root.child("target");
        let named = target.and_then(|target| target.path_attr("format", "type"));
        let mut format = named.map_or(Ok(Format::Raw), format_of)?;
        if matches!(kind, "dir" | "netdir") {
            format = Format::Dir;
        }
        let (permissions, _label) = permissions_of(target)?;
        let compat = target.and_then(|target| text_of(target, "compat"));
        if compat
            .as_ref()
            .is_some_and(|compat| !compat.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        {
            return Err(wrong_xml("<compat> holds more than digits and dots"));
        }
        let cluster_bytes =
            target.and_then(|target| target.child("clusterSize")).map(bytes_of).transpose()?;
        let features = target.and_then(|target| target.child("features")).map(|features| {
            (features.child("lazy_refcounts").is_some(), features.child("extended_l2").is_some())
        });
        if let Some((lazy, extended)) = features
            && (lazy || extended)
            && compat.as_deref() == Some(Compat::V010.name())
        {
            return Err(unsupported(
                "Neither lazy_refcounts nor extended_l2 goes with <compat>0.10</compat>",
            ));
        }
        let wanted = Self {
            name,
            capacity_bytes,
            allocation_bytes,
            format,
            format_named: named.is_some(),
            permissions,
            compat,
            cluster_bytes,
            features,
            backing,
        };
        wanted.check(target)?;
        Ok(wanted)
    }

    fn check(&self, target: Option<&Element>) -> Result<(), Error> {
        if self.name.contains('/') {
            return Err(invalid(format!(
                "The volume's name '{}' holds a '/', which no name of a volume may",
                self.name
            )));
        }
        if matches!(self.name.as_str(), "." | "..") || self.name.starts_with(UNFINISHED) {
            return Err(invalid(format!(
                "'{}' is there already, and is no volume; take another name",
                self.name
            )));
        }
        if self.name.contains('\0') {
            return Err(wrong_xml("The volume's name holds a zero byte"));
        }
        if self.backing.is_some() && matches!(self.format, Format::Raw | Format::Dir) {
            let message =
                format!("Volume '{}' is raw, and so can't stand on another file; try qcow2", self.name);
            return Err(error(Code::NO_SUPPORT, message));
        }
        if self.format == Format::Ploop {
            return Err(error(
                Code::INTERNAL,
                "Volumes of format ploop take the ploop tools, which are not supported",
            ));
        }
        if let Some(encryption) = target.and_then(|target| target.child("encryption")) {
            if encryption.attr("format") == Some("qcow") {
                return Err(unsupported("Volumes with qcow encryption are no longer made; try luks"));
            }
            if encryption.all("secret").count() != 1 {
                return Err(error(
                    Code::INVALID_ARG,
                    "<encryption> needs exactly one <secret type='passphrase'>",
                ));
            }
            return Err(unsupported("Encrypted volumes can't be made yet: leave <encryption> out"));
        }
        if target.is_some_and(|target| target.child("nocow").is_some()) {
            let message = format!("Volume '{}': copy on write can be switched off on btrfs alone", self.name);
            return Err(Error {
                code: Code::SYSTEM_ERROR,
                origin: Origin::NONE,
                message,
                int1: Errno::ENOSYS as i32,
            });
        }
        Ok(())
    }
}

fn format_of(name: &str) -> Result<Format, Error> {
    Format::parse(name).ok_or_else(|| {
        let known: Vec<_> = Format::ALL.iter().map(|(name, _)| *name).collect();
        unsupported(format!("'{name}' is no format of a volume; those are {}", known.join(", ")))
    })
}

fn backing(root: &Element) -> Result<Option<BackingWanted>, Error> {
    let Some(element) = root.child("backingStore") else { return Ok(None) };
    let Some(path) = text_of(element, "path") else { return Ok(None) };
    let format = element.path_attr("format", "type").map_or(Ok(Format::Raw), format_of)?;
    Ok(Some(BackingWanted { path, format }))
}
