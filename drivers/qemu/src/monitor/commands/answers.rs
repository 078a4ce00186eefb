//! What the commands take and answer. Fields that are absent from QEMU 7.2, or only sometimes there, are
//! optional; fields that a newer QEMU adds are ignored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the processors run.
    pub running: bool,
    /// QEMU's `RunState`, such as `paused` or `prelaunch`.
    pub status: String,
}

/// The state's way out or in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Migration {
    /// QEMU's `MigrationStatus`, such as `active` or `completed`; absent before the first.
    pub status: Option<String>,
    /// The memory's part of it.
    pub ram: Option<MigratedMemory>,
    /// Why it failed.
    pub error_desc: Option<String>,
}

impl Migration {
    /// Is it under way?
    #[must_use]
    pub fn is_active(&self) -> bool {
        !matches!(self.status.as_deref(), None | Some("none" | "completed" | "failed" | "cancelled"))
    }
}

/// How much memory is on its way. Bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MigratedMemory {
    /// All of it.
    pub total: u64,
    /// What is left.
    pub remaining: u64,
}

/// A processor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cpu {
    /// Its number.
    pub cpu_index: u32,
    /// Its path in the object tree.
    pub qom_path: String,
    /// The host's thread that runs it.
    pub thread_id: i32,
    /// Its architecture.
    pub target: String,
    /// Its place: `socket-id`, `core-id` and so on.
    #[serde(default)]
    pub props: Value,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockDevice {
    /// The drive's name; empty with `-blockdev`.
    pub device: String,
    /// The device's id or path.
    pub qdev: Option<String>,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether the guest locked the tray.
    pub locked: bool,
    /// Whether the tray is open, if there is one.
    pub tray_open: Option<bool>,
    /// `ok`, `failed` or `nospace`, where errors are watched for.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
    /// The medium, if there is one.
    pub inserted: Option<Value>,
}

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CharacterDevice {
    /// Its id.
    pub label: String,
    /// Where it leads, such as `pty:/dev/pts/3`.
    pub filename: String,
    /// Whether the guest's side is open.
    pub frontend_open: bool,
}

/// A type of objects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ObjectType {
    /// Its name.
    pub name: String,
    /// Whether there can be objects of a subtype only.
    #[serde(default, rename = "abstract")]
    pub is_abstract: bool,
    /// What it is derived from.
    pub parent: Option<String>,
}

/// A property of a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub description: Option<String>,
    /// What it is when not given.
    pub default_value: Option<Value>,
}

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Another name for it, such as `q35`.
    pub alias: Option<String>,
    /// Whether it is the one that QEMU takes when none is given.
    #[serde(default)]
    pub is_default: bool,
    /// Most processors.
    pub cpu_max: u32,
    /// Whether processors can be plugged while it runs.
    pub hotpluggable_cpus: bool,
    /// Whether it can have NUMA nodes.
    pub numa_mem_supported: bool,
    /// Whether it will be gone one day.
    pub deprecated: bool,
    /// The CPU model that it takes when none is given.
    pub default_cpu_type: Option<String>,
    /// The id of its main memory.
    pub default_ram_id: Option<String>,
    /// Whether it can have ACPI (QEMU 8.0 and newer tell).
    pub acpi: Option<bool>,
}

/// A CPU model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuDefinition {
    /// Its name.
    pub name: String,
    /// Its type in the object tree.
    pub typename: String,
    /// Whether guests with it can move between hosts.
    pub migration_safe: Option<bool>,
    /// Whether it is the same in every QEMU and for every machine type.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// What the host or the accelerator lacks of it.
    #[serde(default)]
    pub unavailable_features: Vec<String>,
    /// The model that this is another name for.
    pub alias_of: Option<String>,
    /// Whether it will be gone one day.
    #[serde(default)]
    pub deprecated: bool,
}

/// What there is of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Kvm {
    /// Whether the guest runs with it.
    pub enabled: bool,
    /// Whether this binary was built with it.
    pub present: bool,
}

/// A descriptor that QEMU holds in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DescriptorInSet {
    /// The set.
    pub fdset_id: u32,
    /// QEMU's number of the descriptor.
    pub fd: i32,
}

/// The VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Vnc {
    /// Whether there is one.
    pub enabled: bool,
    /// Its address.
    pub host: Option<String>,
    /// `ipv4`, `ipv6`, `unix`...
    pub family: Option<String>,
    /// Its port, or the socket's path.
    pub service: Option<String>,
    /// How clients prove who they are.
    pub auth: Option<String>,
    /// Who is connected.
    #[serde(default)]
    pub clients: Vec<VncClient>,
}

/// A client of the VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VncClient {
    /// Its address.
    pub host: String,
    /// `ipv4`, `ipv6`, `unix`...
    pub family: String,
    /// Its port.
    pub service: String,
}

/// The protocol of a display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// VNC.
    Vnc,
    /// SPICE.
    Spice,
}

/// Which picture to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Screendump<'a> {
    /// The file that QEMU writes; `/dev/fdset/N` for a descriptor given with `add-fd`.
    pub file: &'a str,
    /// The display device's id; the first one when not given.
    pub device: Option<&'a str>,
    /// Its head; only with a device.
    pub head: Option<u32>,
    /// `ppm` or `png`.
    pub format: Option<&'a str>,
}

/// What follows on what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions<'a> {
    /// `reset` or `shutdown`.
    pub reboot: Option<&'a str>,
    /// `poweroff` or `pause`.
    pub shutdown: Option<&'a str>,
    /// `pause`, `shutdown`, `exit-failure` or `none`.
    pub panic: Option<&'a str>,
    /// `reset`, `shutdown`, `poweroff`, `pause`, `debug`, `none` or `inject-nmi`.
    pub watchdog: Option<&'a str>,
}
