//! A guest's control groups, of version 1 or 2, behind one set of names: what holds it while it runs.
//!
//! The files are opened by the broker, which knows where they are; what is written into them is worked out here.

use bulkhead_actors::stack::Stack;
use bulkhead_wire::error::{Code, Error, Origin};
use std::fs::File;
use std::io::{Read, Write};

/// What nobody limits, in KiB.
pub(crate) const UNLIMITED_KIB: u64 = (1 << 53) - 1;
/// A period that nobody has set, in us.
const PERIOD_US: u64 = 100_000;

/// The way to the groups of one guest.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) key: String,
    pub(crate) name: &'a str,
}

/// Part of its threads, with a share of their own: `vcpu0`, `emulator`, `iothread1`; nothing is the guest as a whole.
pub(crate) type Part<'a> = Option<&'a str>;

/// What can be set of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Hard,
    Soft,
    /// With what is swapped out.
    Swap,
}

/// What can be set for one of the host's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Weight,
    ReadBytes,
    WriteBytes,
    ReadRequests,
    WriteRequests,
}

impl Disk {
    /// The file of version 1.
    fn first(self) -> &'static str {
        match self {
            Self::Weight => "blkio.weight_device",
            Self::ReadBytes => "blkio.throttle.read_bps_device",
            Self::WriteBytes => "blkio.throttle.write_bps_device",
            Self::ReadRequests => "blkio.throttle.read_iops_device",
            Self::WriteRequests => "blkio.throttle.write_iops_device",
        }
    }

    /// The word of version 2.
    fn second(self) -> &'static str {
        match self {
            Self::Weight => "",
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadRequests => "riops",
            Self::WriteRequests => "wiops",
        }
    }
}

/// Reads quota and period as version 2 has them: `max 100000`.
fn parse_max(text: &str) -> (i64, u64) {
    let mut words = text.split_whitespace();
    let quota = words.next().and_then(|quota| quota.parse().ok()).unwrap_or(-1);
    (quota, words.next().and_then(|period| period.parse().ok()).unwrap_or(PERIOD_US))
}

/// Reads a number of bytes, of which some are as many as none.
fn parse_limit(text: &str) -> u64 {
    // Version 1 says the largest number of whole pages, the largest of which have 64 KiB.
    let limited = text.trim().parse::<u64>().ok().map(|bytes| bytes / 1024);
    limited.filter(|kib| *kib < UNLIMITED_KIB - 64).unwrap_or(UNLIMITED_KIB)
}

/// The numbers of a disk of the host, from the kernel's list.
fn numbers_of(path: &str, partitions: &str) -> Option<String> {
    let wanted = path.strip_prefix("/dev/")?;
    partitions.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [major, minor, _, name] if *name == wanted => Some(format!("{major}:{minor}")),
            _ => None,
        }
    })
}

impl Group<'_> {
    fn absent(&self, controller: &str) -> Error {
        let message = format!(
            "Domain '{}': there is no cgroup with the {controller} controller for it, so that nothing of this holds while it runs; give the stack the right to make cgroups, or ask for its definition (--config)",
            self.name
        );
        Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
    }

    async fn open(&self, part: Part<'_>, file: &str) -> Option<File> {
        let file = part.map_or_else(|| file.to_owned(), |part| format!("{part}/{file}"));
        self.stack.open_group(&self.key, &file, None).await.ok().map(File::from)
    }

    async fn read(&self, part: Part<'_>, file: &str) -> Option<String> {
        let mut file = self.open(part, file).await?;
        let mut text = String::new();
        // The kernel makes these texts: they are short, and reading them waits for nothing.
        file.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn put(&self, mut file: File, name: &str, value: &str) -> Result<(), Error> {
        file.write_all(value.as_bytes()).map_err(|error| {
            let what = format!("Domain '{}': cgroup limit {name} can't be {value}", self.name);
            Error::system(Origin::QEMU, what, &error)
        })
    }

    /// Writes into the first of these files that there is.
    async fn write(&self, part: Part<'_>, controller: &str, files: &[(&str, String)]) -> Result<(), Error> {
        for (name, value) in files {
            if let Some(file) = self.open(part, name).await {
                return self.put(file, name, value);
            }
        }
        Err(self.absent(controller))
    }

    /// Puts a thread into a part.
    pub(crate) async fn put_thread(&self, part: &str, thread: u32) -> Result<(), Error> {
        for name in ["cpu.max", "cpu.cfs_quota_us"] {
            let file = format!("{part}/{name}");
            match self.stack.open_group(&self.key, &file, Some(thread)).await {
                Ok(_) => return Ok(()),
                // It has ended meanwhile.
                Err(error) if error.int1 == nix::errno::Errno::ESRCH as i32 => return Ok(()),
                Err(error) if error.int1 == nix::errno::Errno::ENOENT as i32 => {}
                Err(error) => {
                    return Err(Error {
                        message: format!("Domain '{}': {}", self.name, error.message),
                        ..error
                    });
                }
            }
        }
        Err(self.absent("cpu"))
    }

    /// The share of the processors.
    pub(crate) async fn shares(&self) -> Option<u64> {
        for name in ["cpu.weight", "cpu.shares"] {
            if let Some(text) = self.read(None, name).await {
                return text.trim().parse().ok();
            }
        }
        None
    }

    /// Sets the share of the processors.
    pub(crate) async fn set_shares(&self, shares: u64) -> Result<(), Error> {
        let text = shares.to_string();
        self.write(None, "cpu", &[("cpu.weight", text.clone()), ("cpu.shares", text)]).await
    }

    /// How long it may use the processors within a period, both in us; -1 is without a limit.
    pub(crate) async fn quota(&self, part: Part<'_>) -> Option<(i64, u64)> {
        if let Some(text) = self.read(part, "cpu.max").await {
            return Some(parse_max(&text));
        }
        let quota = self.read(part, "cpu.cfs_quota_us").await?.trim().parse().ok()?;
        let period = self.read(part, "cpu.cfs_period_us").await?.trim().parse().ok()?;
        Some((quota, period))
    }

    /// Sets that.
    pub(crate) async fn set_quota(&self, part: Part<'_>, quota: i64, period: u64) -> Result<(), Error> {
        let quota = quota.max(-1);
        if let Some(file) = self.open(part, "cpu.max").await {
            let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            return self.put(file, "cpu.max", &format!("{quota} {period}"));
        }
        // A period that is too long for the quota there is would be refused.
        self.write(part, "cpu", &[("cpu.cfs_quota_us", "-1".to_owned())]).await?;
        self.write(part, "cpu", &[("cpu.cfs_period_us", period.to_string())]).await?;
        self.write(part, "cpu", &[("cpu.cfs_quota_us", quota.to_string())]).await
    }

    fn memory_files(limit: Memory) -> [&'static str; 2] {
        match limit {
            Memory::Hard => ["memory.max", "memory.limit_in_bytes"],
            Memory::Soft => ["memory.high", "memory.soft_limit_in_bytes"],
            Memory::Swap => ["memory.swap.max", "memory.memsw.limit_in_bytes"],
        }
    }

    /// A limit of memory, in KiB.
    pub(crate) async fn memory(&self, limit: Memory) -> Option<u64> {
        for name in Self::memory_files(limit) {
            if let Some(text) = self.read(None, name).await {
                return Some(parse_limit(&text));
            }
        }
        None
    }

    /// Sets a limit of memory, in KiB.
    pub(crate) async fn set_memory(&self, limit: Memory, kib: u64) -> Result<(), Error> {
        let [second, first] = Self::memory_files(limit);
        let unlimited = kib >= UNLIMITED_KIB;
        let text =
            |word: &str| if unlimited { word.to_owned() } else { kib.saturating_mul(1024).to_string() };
        self.write(None, "memory", &[(second, text("max")), (first, text("-1"))]).await
    }

    /// The share of the disks.
    pub(crate) async fn weight(&self) -> Option<u32> {
        for name in ["io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"] {
            if let Some(text) = self.read(None, name).await {
                let first = text.lines().next().unwrap_or_default();
                return first.trim_start_matches("default").trim().parse().ok();
            }
        }
        None
    }

    /// Sets the share of the disks.
    pub(crate) async fn set_weight(&self, weight: u32) -> Result<(), Error> {
        let second = format!("default {weight}");
        let (first, files) = (weight.to_string(), ["io.weight", "io.bfq.weight"]);
        let [io, bfq] = files.map(|name| (name, second.clone()));
        let older = ["blkio.weight", "blkio.bfq.weight"].map(|name| (name, first.clone()));
        let [blkio, blkio_bfq] = older;
        self.write(None, "io", &[io, bfq, blkio, blkio_bfq]).await
    }

    /// Sets something for one of the host's disks; 0 is without a limit.
    pub(crate) async fn set_disk(&self, disk: Disk, path: &str, value: u64) -> Result<(), Error> {
        let partitions = crate::node::content("/proc/partitions");
        let numbers = numbers_of(path, &partitions).ok_or_else(|| {
            let message = format!(
                "Domain '{}': '{path}' is no disk of the host; name one as /proc/partitions does (/dev/sda)",
                self.name
            );
            Error::new(Code::INVALID_ARG, Origin::QEMU, message)
        })?;
        let first = (disk.first(), format!("{numbers} {value}"));
        if disk == Disk::Weight {
            let second = ("io.weight", format!("{numbers} {value}"));
            return self.write(None, "io", &[second, first]).await;
        }
        let word = if value == 0 { "max".to_owned() } else { value.to_string() };
        let second = ("io.max", format!("{numbers} {}={word}", disk.second()));
        self.write(None, "io", &[second, first]).await
    }

    /// Sets the NUMA nodes that its memory comes from.
    pub(crate) async fn set_nodes(&self, nodes: &str) -> Result<(), Error> {
        self.write(None, "cpuset", &[("cpuset.mems", nodes.to_owned())]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_versions_are_read() {
        assert_eq!(parse_max("max 100000\n"), (-1, 100_000));
        assert_eq!(parse_max("50000 200000\n"), (50_000, 200_000));
        assert_eq!(parse_max(""), (-1, PERIOD_US));
        assert_eq!(parse_limit("max\n"), UNLIMITED_KIB);
        assert_eq!(parse_limit("9223372036854771712\n"), UNLIMITED_KIB);
        assert_eq!(parse_limit("2097152\n"), 2048);
    }

    #[test]
    fn disks_are_found_by_the_kernels_list() {
        let list = "major minor  #blocks  name\n\n   8        0  100 sda\n 259        1  100 nvme0n1p1\n";
        assert_eq!(numbers_of("/dev/sda", list), Some("8:0".to_owned()));
        assert_eq!(numbers_of("/dev/nvme0n1p1", list), Some("259:1".to_owned()));
        assert_eq!(numbers_of("/dev/sd", list), None);
        assert_eq!(numbers_of("/srv/sda", list), None);
    }
}
