//! What calls about one guest, and about the host below it, answer.

use super::{ByteString, DomainRef, Parameter};
use serde::{Deserialize, Serialize};

/// The statistics of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainStats {
    /// Who.
    pub domain: DomainRef,
    /// What.
    pub parameters: Vec<Parameter>,
}

/// One of a guest's memory statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStat {
    /// `virDomainMemoryStatTags`.
    pub tag: i32,
    /// KiB, but for faults (a number) and the last update (seconds since 1970).
    pub value: u64,
}

/// What a disk has done (`virDomainBlockStatsStruct`); -1 is "not known".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStats {
    /// Reads.
    pub read_requests: i64,
    /// ByteString read.
    pub read_bytes: i64,
    /// Writes.
    pub write_requests: i64,
    /// ByteString written.
    pub write_bytes: i64,
    /// Errors.
    pub errors: i64,
}

/// What an interface has done (`virDomainInterfaceStatsStruct`), as the guest sees it; -1 is "not known".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// ByteString received.
    pub received_bytes: i64,
    /// Packets received.
    pub received_packets: i64,
    /// Packets received with errors.
    pub received_errors: i64,
    /// Packets that should have been received and were dropped.
    pub received_drops: i64,
    /// ByteString sent.
    pub sent_bytes: i64,
    /// Packets sent.
    pub sent_packets: i64,
    /// Packets sent with errors.
    pub sent_errors: i64,
    /// Packets that should have been sent and were dropped.
    pub sent_drops: i64,
}

/// The sizes of a disk (`virDomainBlockInfo`), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// What is used of it: for formats that grow, the highest place that was written.
    pub allocation: u64,
    /// What the guest sees.
    pub capacity: u64,
    /// What it takes on the host.
    pub physical: u64,
}

/// One virtual CPU (`virVcpuInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Its number.
    pub number: u32,
    /// `virVcpuState`: 0 offline, 1 running, 2 blocked.
    pub state: i32,
    /// CPU time, in ns.
    pub cpu_time_ns: u64,
    /// The host's CPU that it was on last; -1 when it is on none.
    pub cpu: i32,
}

/// All virtual CPUs, and where they may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpus {
    /// The CPUs.
    pub info: Vec<VcpuInfo>,
    /// A map for each of them, end to end.
    pub maps: ByteString,
}

/// Maps of CPUs, end to end, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMaps {
    /// The maps.
    pub maps: ByteString,
    /// How many.
    pub count: i32,
}

/// How a domain's monitor does (`virDomainControlInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlInfo {
    /// 0 ready, 1 at lasting work, 2 occupied by a command, 3 error.
    pub state: u32,
    /// Of an error: 0 none, 1 unknown, 2 the monitor failed, 3 an internal fault.
    pub details: u32,
    /// For how long, in ms.
    pub state_time_ms: u64,
}

/// A domain's lasting work, in named values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStats {
    /// `virDomainJobType`.
    pub kind: i32,
    /// The values.
    pub parameters: Vec<Parameter>,
}

/// A time of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And so many ns.
    pub nanoseconds: u32,
}

/// A scheduler, and how many parameters it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerType {
    /// Its name.
    pub name: String,
    /// How many parameters.
    pub parameters: i32,
}

/// A disk that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskError {
    /// Its target.
    pub disk: String,
    /// `virDomainDiskErrorCode`: 1 unspecified, 2 no space.
    pub error: i32,
}

/// The disks that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskErrors {
    /// The disks; none when only their number was asked for.
    pub errors: Vec<DiskError>,
    /// How many.
    pub count: i32,
}

/// An I/O thread, and where it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoThread {
    /// Its number.
    pub id: u32,
    /// The host's CPUs.
    pub map: ByteString,
}

/// All I/O threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoThreads {
    /// The threads.
    pub threads: Vec<IoThread>,
    /// How many.
    pub count: u32,
}

/// A file system in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount_point: String,
    /// The device's name in the guest.
    pub name: String,
    /// What kind it is.
    pub kind: String,
    /// The disks below it, by their targets.
    pub devices: Vec<String>,
}

/// All file systems of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystems {
    /// The file systems.
    pub systems: Vec<FileSystem>,
    /// How many.
    pub count: u32,
}

/// An address of an interface in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAddress {
    /// 0 IPv4, 1 IPv6.
    pub kind: i32,
    /// The address.
    pub address: String,
    /// Length of its prefix.
    pub prefix: u32,
}

/// An interface in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterface {
    /// Its name in the guest.
    pub name: String,
    /// Its hardware address.
    pub hardware_address: Option<String>,
    /// Its addresses.
    pub addresses: Vec<GuestAddress>,
}

/// Names of CPU models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuModels {
    /// The names; none when only their number was asked for.
    pub names: Vec<String>,
    /// How many.
    pub count: i32,
}
