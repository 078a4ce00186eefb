//! The types that arguments, replies and events are made of.
//!
//! Their fields stand in the order of libvirt's protocol, so that the same type encodes to bincode and to XDR.

mod guest;
pub mod network;
mod parameters;
pub mod secret;
pub mod storage;

pub use guest::*;
pub use parameters::*;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A universally unique identifier, as 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the usual text form; dashes are optional, as libvirt has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b'-').collect();
        if digits.len() != 32 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A domain as libvirt's clients name it. The uuid is what counts; name and id are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRef {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its number while it runs, else -1.
    pub id: i32,
}

/// libvirt's domain states (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i32)]
pub enum State {
    /// Unknown.
    NoState = 0,
    /// Running.
    Running = 1,
    /// Blocked on something (unused by QEMU guests).
    Blocked = 2,
    /// Suspended.
    Paused = 3,
    /// On its way down.
    Shutdown = 4,
    /// Not running.
    Shutoff = 5,
    /// Crashed.
    Crashed = 6,
    /// Asleep by the guest's own wish.
    Suspended = 7,
}

impl State {
    /// The state of that number; one that libvirt does not have is no state.
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        [
            Self::Running,
            Self::Blocked,
            Self::Paused,
            Self::Shutdown,
            Self::Shutoff,
            Self::Crashed,
            Self::Suspended,
        ]
        .into_iter()
        .find(|state| *state as i32 == number)
        .unwrap_or(Self::NoState)
    }

    /// The word that libvirt's clients show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoState => "no state",
            Self::Running => "running",
            Self::Blocked => "idle",
            Self::Paused => "paused",
            Self::Shutdown => "in shutdown",
            Self::Shutoff => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "pmsuspended",
        }
    }
}

/// State and the reason for it; reasons are numbered per state as libvirt numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainState {
    /// The state, as `virDomainState`.
    pub state: i32,
    /// The reason.
    pub reason: i32,
}

/// What `virDomainGetInfo` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// The state, as `virDomainState`.
    pub state: u8,
    /// Memory that the guest may have, in KiB.
    pub max_memory_kib: u64,
    /// Memory that it has, in KiB.
    pub memory_kib: u64,
    /// Number of virtual CPUs.
    pub vcpus: u16,
    /// CPU time used so far, in ns.
    pub cpu_time_ns: u64,
}

/// A list of domains as libvirt's `connect_list_all_domains` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainList {
    /// The domains, unless only the number was asked for.
    pub domains: Vec<DomainRef>,
    /// How many there are.
    pub count: u32,
}

/// A domain at a glance, for those who keep a picture of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainOverview {
    /// Who.
    pub domain: DomainRef,
    /// The state, as `virDomainState`.
    pub state: i32,
    /// The reason for it.
    pub reason: i32,
    /// Does its definition outlive its run?
    pub persistent: i32,
}

/// Something that happened to a domain, numbered as libvirt's lifecycle events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DomainEvent {
    /// `VIR_DOMAIN_EVENT_ID_LIFECYCLE`.
    Lifecycle {
        /// Who.
        domain: DomainRef,
        /// `virDomainEventType`.
        event: i32,
        /// Its detail.
        detail: i32,
    },
    /// `VIR_DOMAIN_EVENT_ID_REBOOT`.
    Reboot {
        /// Who.
        domain: DomainRef,
    },
    /// `VIR_DOMAIN_EVENT_ID_WATCHDOG`.
    Watchdog {
        /// Who.
        domain: DomainRef,
        /// `virDomainEventWatchdogAction`.
        action: i32,
    },
    /// What QEMU's monitor told, as it told it (the `qemu` program's one event).
    Monitor {
        /// Who.
        domain: DomainRef,
        /// QEMU's name of the event.
        event: String,
        /// When, by QEMU's clock.
        seconds: i64,
        /// Microseconds within that second.
        micros: u32,
        /// What QEMU told with it, as JSON.
        details: Option<String>,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_ADDED`.
    DeviceAdded {
        /// Who.
        domain: DomainRef,
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED`.
    DeviceRemoved {
        /// Who.
        domain: DomainRef,
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED`.
    DeviceRemovalFailed {
        /// Who.
        domain: DomainRef,
        /// The device's alias.
        alias: String,
    },
    /// `VIR_DOMAIN_EVENT_ID_TRAY_CHANGE`.
    TrayChange {
        /// Who.
        domain: DomainRef,
        /// The drive's alias.
        alias: String,
        /// `virDomainEventTrayChangeReason`: opened 0, closed 1.
        reason: i32,
    },
    /// This subscriber was too slow; so many events are lost. It should look at the present state.
    Lagged {
        /// How many.
        missed: u64,
    },
}

impl DomainEvent {
    /// Whom it is about.
    #[must_use]
    pub fn domain(&self) -> Option<&DomainRef> {
        match self {
            Self::Lifecycle { domain, .. }
            | Self::Reboot { domain }
            | Self::Watchdog { domain, .. }
            | Self::DeviceAdded { domain, .. }
            | Self::DeviceRemoved { domain, .. }
            | Self::DeviceRemovalFailed { domain, .. }
            | Self::TrayChange { domain, .. }
            | Self::Monitor { domain, .. } => Some(domain),
            Self::Lagged { .. } => None,
        }
    }
}

/// Bytes of which only their number is known beforehand: a map of CPUs, a piece of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByteString(pub Vec<u8>);

impl Serialize for ByteString {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = ByteString;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<ByteString, E> {
                Ok(ByteString(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<ByteString, E> {
                Ok(ByteString(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// The host's processors and memory (`virNodeInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The architecture, with zeros behind it.
    pub model: [i8; 32],
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// Processors that are online.
    pub cpus: i32,
    /// Their speed.
    pub mhz: i32,
    /// NUMA nodes.
    pub nodes: i32,
    /// Sockets of a node.
    pub sockets: i32,
    /// Cores of a socket.
    pub cores: i32,
    /// Threads of a core.
    pub threads: i32,
}

/// A number with its name, of the host's statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatistic {
    /// Its name (`user`).
    pub field: String,
    /// The number.
    pub value: u64,
}

/// The host's statistics, or, if none were asked for, how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatistics {
    /// They.
    pub parameters: Vec<NodeStatistic>,
    /// How many there are, if they were not asked for.
    pub count: i32,
}

/// Which of the host's processors are there and online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMap {
    /// A bit for each, if wanted.
    pub map: ByteString,
    /// How many are online.
    pub online: u32,
    /// How many there are.
    pub present: i32,
}

/// A security label; text as libvirt has it here, a character each and the zero at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityLabel {
    /// The label.
    pub label: Vec<i8>,
    /// Is it enforced?
    pub enforcing: i32,
}

/// A domain's security labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityLabels {
    /// They.
    pub labels: Vec<SecurityLabel>,
    /// How many.
    pub count: i32,
}

/// The host's security model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityModel {
    /// Its name.
    pub model: Vec<i8>,
    /// Its domain of interpretation.
    pub interpretation: Vec<i8>,
}

/// An answer with an open file in it: a picture.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stream {
    /// What flows through it, where that must be said (`image/png`).
    pub mime: Option<String>,
    /// The stream itself.
    pub file: crate::descriptor::Descriptor,
}

/// A tap that the network driver opened.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tap {
    /// Its name in the network namespace of the network driver.
    pub name: String,
    /// One descriptor for each queue.
    pub queues: Vec<crate::descriptor::Descriptor>,
}

/// One driver as `status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverStatus {
    /// Its name.
    pub name: String,
    /// Process id; `None` while it is not running.
    pub pid: Option<u32>,
    /// Where it is in its life (`ready`, `backoff`, `held`, ...).
    pub state: String,
    /// Which start this is, from 1.
    pub incarnation: u64,
    /// Unplanned ends so far.
    pub restarts: u64,
    /// Milliseconds since it became ready.
    pub uptime_ms: u64,
    /// Resident memory, in KiB.
    pub memory_kib: u64,
    /// The confinement really in force, in a few words.
    pub confinement: Vec<String>,
    /// What could not be had, each with the consequence.
    pub confinement_missing: Vec<String>,
    /// Why it is held, or why it ended last.
    pub reason: Option<String>,
    /// What its objects are busy with.
    pub busy: Vec<Busy>,
    /// Objects set aside because their adoption killed the driver.
    pub set_aside: Vec<String>,
}

/// A domain's lasting work (`virDomainJobInfo`). Times in ms, amounts in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// `virDomainJobType`: 0 none, 1 bounded, 2 unbounded.
    pub kind: i32,
    /// Since it began.
    pub time_elapsed_ms: u64,
    /// Until it will be done; 0 where that can't be told.
    pub time_remaining_ms: u64,
    /// Everything.
    pub data_total_bytes: u64,
    /// Of everything, what is done.
    pub data_processed_bytes: u64,
    /// Of everything, what is left.
    pub data_remaining_bytes: u64,
    /// Memory.
    pub memory_total_bytes: u64,
    /// Memory that is done.
    pub memory_processed_bytes: u64,
    /// Memory that is left.
    pub memory_remaining_bytes: u64,
    /// Files.
    pub file_total_bytes: u64,
    /// Files that are done.
    pub file_processed_bytes: u64,
    /// Files that are left.
    pub file_remaining_bytes: u64,
}

/// One object at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// The object (`domain web`).
    pub object: String,
    /// What it does (`domain_create`).
    pub operation: String,
    /// For how long, in ms.
    pub since_ms: u64,
    /// Calls that wait for it.
    pub waiting: u32,
    /// Of lasting work: bytes done, and bytes in all (0 until that is known).
    pub progress: Option<(u64, u64)>,
}

/// One helper as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperStatus {
    /// Its key (`guest UUID`).
    pub key: String,
    /// Its class (`qemu`).
    pub class: String,
    /// The driver that asked for it.
    pub owner: String,
    /// Process id.
    pub pid: u32,
    /// Resident memory, in KiB.
    pub memory_kib: u64,
    /// The confinement asked for, in a few words.
    pub confinement: Vec<String>,
}

/// A whole stack as `status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StackStatus {
    /// `system`, `session` or `embed`.
    pub mode: String,
    /// The root folder.
    pub root: String,
    /// The broker's process id.
    pub pid: u32,
    /// Our version.
    pub version: String,
    /// The drivers.
    pub drivers: Vec<DriverStatus>,
    /// The helpers.
    pub helpers: Vec<HelperStatus>,
}
