//! What reading a definition needs to know of host and emulators; plain data, so that tests can make it up.

use super::facilities::Facilities;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The facts of Debian's QEMU 10.0, for tests and for hosts that were not probed.
const QEMU_10_0: &str = include_str!("tables/host.txt");

/// A machine type of an emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The name of the version that an alias stands for, if this is an alias.
    pub canonical: Option<String>,
    /// How many vCPUs it takes at most; 0 if that is not known.
    pub maximum_vcpus: u32,
}

/// The emulator of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emulator {
    /// The program that `<emulator>` names if the input does not.
    pub path: String,
    /// The machine type of a definition that names none.
    pub default_machine: String,
    /// All machine types by name.
    pub machines: BTreeMap<String, Machine>,
    /// Whether it can use KVM on this host.
    pub kvm: bool,
}

/// Where new UUIDs and MAC addresses come from.
pub trait Identifiers: Send + Sync + fmt::Debug {
    /// Sixteen bytes that nobody else has.
    fn uuid(&self) -> [u8; 16];
    /// The last three bytes of a MAC address.
    fn mac(&self) -> [u8; 3];
}

/// Identifiers from the keys with which the standard library seeds its hash tables.
#[derive(Debug, Default)]
pub struct RandomIdentifiers {
    state: RandomState,
    count: AtomicU64,
}

impl RandomIdentifiers {
    fn next(&self) -> u64 {
        self.state.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

impl Identifiers for RandomIdentifiers {
    fn uuid(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next().to_be_bytes());
        // Version 4, variant 1.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    }

    fn mac(&self) -> [u8; 3] {
        let [a, b, c, ..] = self.next().to_be_bytes();
        [a, b, c]
    }
}

/// Identifiers that count up: the same input gives the same definition.
#[derive(Debug, Default)]
pub struct CountedIdentifiers(AtomicU64);

impl Identifiers for CountedIdentifiers {
    fn uuid(&self) -> [u8; 16] {
        let mut bytes = *b"\0\0\0\0\0\0\x40\0\x80\0\0\0\0\0\0\0";
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        bytes[10..].copy_from_slice(&count.to_be_bytes()[2..]);
        bytes
    }

    fn mac(&self) -> [u8; 3] {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let [.., a, b, c] = count.to_be_bytes();
        [a, b, c]
    }
}

/// A firmware image that the host offers for `<os firmware='...'>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firmware {
    /// `efi` or `bios`.
    pub kind: String,
    /// The architecture of the guest.
    pub arch: String,
    /// Machine types that it fits, with a `*` at the end for any version.
    pub machines: Vec<String>,
    /// The image.
    pub loader: String,
    /// The image's format (`raw`).
    pub format: String,
    /// How it is given to the guest: `pflash` or `rom`.
    pub loader_type: String,
    /// The variables' template, if it has variables.
    pub template: Option<String>,
    /// Features of the firmware (`secure-boot`, `enrolled-keys`, `requires-smm`, ...).
    pub features: Vec<String>,
}

/// The host, as far as definitions depend on it.
#[derive(Debug, Clone)]
pub struct Host {
    /// The host's own architecture.
    pub arch: String,
    /// Emulators by the guest's architecture.
    pub emulators: BTreeMap<String, Emulator>,
    /// Firmware images in the order of preference.
    pub firmware: Vec<Firmware>,
    /// The folder of guests' lasting state; their firmware variables are in `nvram` below it.
    pub state_folder: String,
    /// What it has for guests to use.
    pub facilities: Facilities,
    /// Numbers for UUIDs and MAC addresses that the input leaves open.
    pub identifiers: Arc<dyn Identifiers>,
    /// Is this what a definition that was accepted before tells of its host? Limits that came later do not hold for it.
    pub told: bool,
}

impl Host {
    /// An x86_64 host without emulators, of which nothing else is known.
    #[must_use]
    pub fn bare(state_folder: String, identifiers: Arc<dyn Identifiers>) -> Self {
        Self {
            arch: "x86_64".to_owned(),
            emulators: BTreeMap::new(),
            firmware: Vec::new(),
            state_folder,
            facilities: Facilities { networks: vec!["default".to_owned()], ..Facilities::default() },
            identifiers,
            told: false,
        }
    }

    /// An x86_64 host with KVM and all emulators of Debian's QEMU 10.0.
    #[must_use]
    pub fn qemu_10_0(identifiers: Arc<dyn Identifiers>) -> Self {
        Self {
            emulators: Self::emulators_of_qemu_10_0(),
            firmware: debian_firmware(),
            ..Self::bare("/var/lib/libvirt/qemu".to_owned(), identifiers)
        }
    }

    /// All emulators of Debian's QEMU 10.0.
    #[must_use]
    pub fn emulators_of_qemu_10_0() -> BTreeMap<String, Emulator> {
        let mut emulators: BTreeMap<String, Emulator> = BTreeMap::new();
        let mut current = String::new();
        for line in QEMU_10_0.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["arch", name, path, machine] => {
                    current = name.to_owned();
                    let emulator = Emulator {
                        path: path.to_owned(),
                        default_machine: machine.to_owned(),
                        machines: BTreeMap::new(),
                        kvm: matches!(name, "x86_64" | "i686"),
                    };
                    emulators.insert(current.clone(), emulator);
                }
                ["machine" | "alias", vcpus, name, ..] => {
                    if let Some(emulator) = emulators.get_mut(&current) {
                        let machine = Machine {
                            canonical: words.get(3).map(|canonical| (*canonical).to_owned()),
                            maximum_vcpus: vcpus.parse().unwrap_or(0),
                        };
                        emulator.machines.insert(name.to_owned(), machine);
                    }
                }
                _ => {}
            }
        }
        emulators
    }

    /// The host that a complete definition tells of: its emulator is there and has the machine, its firmware is installed.
    #[must_use]
    pub fn as_told(&self, root: &bulkhead_xml::Element) -> Self {
        let attribute = |path: &str, name: &str| root.path_attr(path, name).unwrap_or_default().to_owned();
        let arch = attribute("os/type", "arch");
        let machine = attribute("os/type", "machine");
        let emulator = Emulator {
            path: root.at("devices/emulator").map(bulkhead_xml::Element::text).unwrap_or_default(),
            default_machine: machine.clone(),
            machines: BTreeMap::from([(machine.clone(), Machine { canonical: None, maximum_vcpus: 0 })]),
            kvm: true,
        };
        let features = root.at("os/firmware").into_iter().flat_map(|firmware| firmware.all("feature"));
        let features = features.filter(|feature| feature.attr("enabled") == Some("yes"));
        let mut features: Vec<String> =
            features.filter_map(|feature| feature.attr("name").map(str::to_owned)).collect();
        if root.at("features/smm").is_some_and(|smm| smm.attr("state") != Some("off")) {
            features.push("requires-smm".to_owned());
        }
        let firmware = Firmware {
            kind: attribute("os", "firmware"),
            arch: arch.clone(),
            machines: vec![machine],
            loader: root.at("os/loader").map(bulkhead_xml::Element::text).unwrap_or_default(),
            format: attribute("os/loader", "format"),
            loader_type: attribute("os/loader", "type"),
            template: root.path_attr("os/nvram", "template").map(str::to_owned),
            features,
        };
        Self {
            emulators: BTreeMap::from([(arch, emulator)]),
            firmware: if firmware.kind.is_empty() { Vec::new() } else { vec![firmware] },
            told: true,
            ..self.clone()
        }
    }

    /// The emulator of that architecture.
    #[must_use]
    pub fn emulator(&self, arch: &str) -> Option<&Emulator> {
        self.emulators.get(arch)
    }

    /// The name of the version that a machine type stands for; a name that is no alias stands for itself.
    #[must_use]
    pub fn canonical_machine(&self, arch: &str, name: &str) -> Option<String> {
        let machine = self.emulator(arch)?.machines.get(name)?;
        Some(machine.canonical.clone().unwrap_or_else(|| name.to_owned()))
    }

    /// A new UUID in its usual spelling.
    #[must_use]
    pub fn new_uuid(&self) -> String {
        let hex = self.identifiers.uuid().map(|byte| format!("{byte:02x}")).concat();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// A new MAC address of QEMU's range.
    #[must_use]
    pub fn new_mac(&self) -> String {
        let [a, b, c] = self.identifiers.mac();
        format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
    }
}

/// The images of Debian's package `ovmf`.
fn debian_firmware() -> Vec<Firmware> {
    let ovmf = |code: &str, template: &str, machines: &[&str], features: &[&str]| Firmware {
        kind: "efi".to_owned(),
        arch: "x86_64".to_owned(),
        machines: machines.iter().map(|&machine| machine.to_owned()).collect(),
        loader: format!("/usr/share/OVMF/{code}"),
        format: "raw".to_owned(),
        loader_type: "pflash".to_owned(),
        template: Some(format!("/usr/share/OVMF/{template}")),
        features: features.iter().map(|&feature| feature.to_owned()).collect(),
    };
    vec![
        ovmf(
            "OVMF_CODE_4M.ms.fd",
            "OVMF_VARS_4M.ms.fd",
            &["pc-q35-*"],
            &["enrolled-keys", "requires-smm", "secure-boot"],
        ),
        ovmf("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd", &["pc-q35-*"], &["requires-smm", "secure-boot"]),
        ovmf("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", &["pc-i440fx-*", "pc-q35-*"], &[]),
    ]
}
