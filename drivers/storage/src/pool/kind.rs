//! Types of pools: what each is made of, as data.

/// A type of pool.
#[derive(Debug)]
pub struct Kind {
    /// Its name in XML.
    pub name: &'static str,
    /// Its bit among `virConnectListAllStoragePoolsFlags`.
    pub list_flag: u32,
    /// Can it be driven here?
    pub driven: bool,
    /// How many hosts it is on, at least.
    pub host: bool,
    /// Must a device be named?
    pub device: bool,
    /// Must a folder of the host be named?
    pub dir: bool,
    /// Has its source a name, and is that needed, or the pool's own if it has none?
    pub source_name: Name,
    /// Must an initiator be named?
    pub initiator: bool,
    /// Is it made of an adapter?
    pub adapter: bool,
    /// Where it is shown.
    pub target: Target,
    /// Formats that it may have, the default first; those of volumes, the default first.
    pub formats: &'static [&'static str],
    /// What stands for no format.
    pub default_format: Option<&'static str>,
    /// Formats of its volumes.
    pub volume_formats: &'static [&'static str],
    /// The default one.
    pub default_volume_format: Option<&'static str>,
}

/// Whether a source has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// It has none.
    No,
    /// It must have one.
    Needed,
    /// The pool's, if none is given.
    OrPool,
}

/// Where a pool is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    No,
    /// At the path that is given.
    Path,
    /// Below this, by the source's name.
    Below(&'static str),
}

const FILES: &[&str] = &[
    "none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
    "qcow2", "qed", "vmdk",
];
const PARTITIONS: &[&str] =
    &["none", "linux", "fat16", "fat32", "linux-swap", "linux-lvm", "linux-raid", "extended"];

const NONE: Kind = Kind {
    name: "",
    list_flag: 0,
    driven: false,
    host: false,
    device: false,
    dir: false,
    source_name: Name::No,
    initiator: false,
    adapter: false,
    target: Target::Path,
    formats: &[],
    default_format: None,
    volume_formats: &[],
    default_volume_format: None,
};

/// Those whose volumes are files.
const FOLDER: Kind = Kind { volume_formats: FILES, default_volume_format: Some("raw"), ..NONE };

/// All types.
pub static KINDS: &[Kind] = &[
    Kind { name: "dir", list_flag: 1 << 6, driven: true, ..FOLDER },
    Kind {
        name: "fs",
        list_flag: 1 << 7,
        device: true,
        formats: &[
            "auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs",
            "ocfs2", "vmfs",
        ],
        default_format: Some("auto"),
        ..FOLDER
    },
    Kind {
        name: "netfs",
        list_flag: 1 << 8,
        host: true,
        dir: true,
        formats: &["auto", "nfs", "glusterfs", "cifs"],
        default_format: Some("auto"),
        ..FOLDER
    },
    Kind {
        name: "logical",
        list_flag: 1 << 9,
        source_name: Name::OrPool,
        target: Target::Below("/dev"),
        formats: &["unknown", "lvm2"],
        default_format: Some("lvm2"),
        ..NONE
    },
    Kind {
        name: "disk",
        list_flag: 1 << 10,
        device: true,
        formats: &["unknown", "dos", "dvh", "gpt", "mac", "bsd", "pc98", "sun", "lvm2"],
        default_format: Some("unknown"),
        volume_formats: PARTITIONS,
        default_volume_format: Some("none"),
        ..NONE
    },
    Kind { name: "iscsi", list_flag: 1 << 11, host: true, ..NONE },
    Kind {
        name: "iscsi-direct",
        list_flag: 1 << 19,
        host: true,
        device: true,
        initiator: true,
        target: Target::No,
        ..NONE
    },
    Kind { name: "scsi", list_flag: 1 << 12, adapter: true, ..NONE },
    Kind { name: "mpath", list_flag: 1 << 13, ..NONE },
    Kind {
        name: "rbd",
        list_flag: 1 << 14,
        host: true,
        source_name: Name::Needed,
        target: Target::No,
        volume_formats: &["raw"],
        default_volume_format: Some("raw"),
        ..NONE
    },
    Kind {
        name: "sheepdog",
        list_flag: 1 << 15,
        host: true,
        source_name: Name::Needed,
        target: Target::No,
        volume_formats: &["raw"],
        default_volume_format: Some("raw"),
        ..NONE
    },
    Kind {
        name: "gluster",
        list_flag: 1 << 16,
        host: true,
        source_name: Name::Needed,
        target: Target::No,
        ..FOLDER
    },
    Kind {
        name: "zfs",
        list_flag: 1 << 17,
        source_name: Name::Needed,
        target: Target::Below("/dev/zvol"),
        ..NONE
    },
    Kind { name: "vstorage", list_flag: 1 << 18, source_name: Name::Needed, ..FOLDER },
];

/// The type of that name.
#[must_use]
pub fn of(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
