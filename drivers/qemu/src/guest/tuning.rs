//! What a definition says of how the host treats a guest is made to hold: shares, limits, places.

use super::group::{Disk, Group, Memory};
use super::{COMMAND_WITHIN, Guest};
use crate::domain::sets;
use crate::monitor::Monitor;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_xml::Element;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The threads of a guest's QEMU: those of virtual CPUs and of I/O, by number, and all others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Threads {
    pub(crate) cpus: BTreeMap<u32, u32>,
    pub(crate) io: BTreeMap<u32, u32>,
    pub(crate) others: Vec<u32>,
}

/// Kinds of threads that have quotas of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cpu,
    Emulator,
    Io,
}

impl Threads {
    /// The parts of a guest's group that a kind of threads has, each with its threads.
    pub(crate) fn parts(&self, kind: Kind) -> Vec<(String, Vec<u32>)> {
        let numbered = |name: &str, threads: &BTreeMap<u32, u32>| {
            threads.iter().map(|(number, thread)| (format!("{name}{number}"), vec![*thread])).collect()
        };
        match kind {
            Kind::Cpu => numbered("vcpu", &self.cpus),
            Kind::Io => numbered("iothread", &self.io),
            Kind::Emulator => vec![("emulator".to_owned(), self.others.clone())],
        }
    }
}

/// Has a thread run on these processors of the host alone.
pub(crate) fn pin(thread: u32, set: &BTreeSet<u32>) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    for cpu in set {
        // Those that the kernel's type has no room for no host has either.
        let _ = cpus.set(usize::try_from(*cpu).unwrap_or(usize::MAX));
    }
    sched_setaffinity(Pid::from_raw(thread.cast_signed()), &cpus)
}

impl Guest {
    /// The way to its control groups.
    pub(crate) fn group(&self) -> Group<'_> {
        Group { stack: &self.environment.stack, key: self.uuid.to_string(), name: &self.name }
    }

    /// The threads of its QEMU.
    pub(crate) async fn threads(&self, monitor: &Monitor, pid: u32) -> Result<Threads, Error> {
        let failed = |error| self.monitor_error(&error);
        let number = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
        };
        let mut threads = Threads::default();
        let cpus = monitor.execute("query-cpus-fast", Value::Null, COMMAND_WITHIN).await.map_err(failed)?;
        for cpu in cpus.as_array().into_iter().flatten() {
            if let (Some(index), Some(thread)) = (number(cpu, "cpu-index"), number(cpu, "thread-id")) {
                threads.cpus.insert(index, thread);
            }
        }
        let io = monitor.execute("query-iothreads", Value::Null, COMMAND_WITHIN).await.map_err(failed)?;
        for thread in io.as_array().into_iter().flatten() {
            let id = thread.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix("iothread"));
            if let (Some(id), Some(thread)) = (id.and_then(|id| id.parse().ok()), number(thread, "thread-id"))
            {
                threads.io.insert(id, thread);
            }
        }
        // An emulator without a thread for each virtual CPU has them all in one, which is pinned as the first of them.
        let known: BTreeSet<u32> = threads.cpus.values().chain(threads.io.values()).copied().collect();
        let all = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        threads.others = all.filter(|thread| !known.contains(thread)).collect();
        Ok(threads)
    }

    /// The threads of its QEMU, while it runs.
    pub(crate) async fn own_threads(&self) -> Result<Threads, Error> {
        let (monitor, pid) = (self.monitor()?, self.active()?.pid);
        self.threads(&monitor, pid).await
    }

    /// Pins threads.
    pub(crate) fn pin(&self, threads: &[u32], set: &BTreeSet<u32>) -> Result<(), Error> {
        for thread in threads {
            match pin(*thread, set) {
                // It has ended meanwhile.
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(errno) => {
                    let what = format!("Domain '{}': processors {}", self.name, sets::format(set));
                    return Err(Error::system(Origin::QEMU, what, &errno.into()));
                }
            }
        }
        Ok(())
    }

    /// Gives a kind of threads a quota; each of them has it for itself.
    pub(crate) async fn set_quotas(
        &self,
        threads: &Threads,
        kind: Kind,
        quota: i64,
        period: u64,
    ) -> Result<(), Error> {
        let group = self.group();
        for (part, threads) in threads.parts(kind) {
            for thread in threads {
                group.put_thread(&part, thread).await?;
            }
            group.set_quota(Some(&part), quota, period).await?;
        }
        Ok(())
    }

    /// Makes all of it hold, on a QEMU whose CPUs do not run yet.
    pub(super) async fn tune(&self, monitor: &Monitor, pid: u32, live: &Element) -> Result<(), Error> {
        let (cpu, memory, disks) = (live.child("cputune"), live.child("memtune"), live.child("blkiotune"));
        let everywhere = live.path_attr("vcpu", "cpuset").and_then(sets::parse);
        if cpu.is_none() && memory.is_none() && disks.is_none() && everywhere.is_none() {
            return Ok(());
        }
        self.tune_processors(monitor, pid, cpu, everywhere).await?;
        let group = self.group();
        let number = |element: Option<&Element>, name: &str| -> Option<u64> {
            element?.child_text(name)?.trim().parse().ok()
        };
        for (name, limit) in
            [("hard_limit", Memory::Hard), ("soft_limit", Memory::Soft), ("swap_hard_limit", Memory::Swap)]
        {
            if let Some(kib) = number(memory, name) {
                group.set_memory(limit, kib).await?;
            }
        }
        if let Some(weight) = number(disks, "weight").and_then(|weight| u32::try_from(weight).ok()) {
            group.set_weight(weight).await?;
        }
        for device in disks.into_iter().flat_map(|disks| disks.all("device")) {
            let path = device.child_text("path").unwrap_or_default();
            for (name, limit) in [
                ("weight", Disk::Weight),
                ("read_iops_sec", Disk::ReadRequests),
                ("write_iops_sec", Disk::WriteRequests),
                ("read_bytes_sec", Disk::ReadBytes),
                ("write_bytes_sec", Disk::WriteBytes),
            ] {
                if let Some(value) = number(Some(device), name) {
                    group.set_disk(limit, path.trim(), value).await?;
                }
            }
        }
        Ok(())
    }

    async fn tune_processors(
        &self,
        monitor: &Monitor,
        pid: u32,
        tune: Option<&Element>,
        everywhere: Option<BTreeSet<u32>>,
    ) -> Result<(), Error> {
        let threads = self.threads(monitor, pid).await?;
        if let Some(set) = &everywhere {
            let all: Vec<u32> =
                threads.cpus.values().chain(threads.io.values()).chain(&threads.others).copied().collect();
            self.pin(&all, set)?;
        }
        let Some(tune) = tune else { return Ok(()) };
        for pin in tune.elements() {
            let Some(set) = pin.attr("cpuset").and_then(sets::parse) else { continue };
            let numbered = |known: &BTreeMap<u32, u32>, names: &str| -> Vec<u32> {
                let numbers = pin.attr(names).and_then(sets::parse).unwrap_or_default();
                numbers.iter().filter_map(|number| known.get(number).copied()).collect()
            };
            match pin.name.as_str() {
                "vcpupin" => self.pin(&numbered(&threads.cpus, "vcpu"), &set)?,
                "iothreadpin" => self.pin(&numbered(&threads.io, "iothread"), &set)?,
                "emulatorpin" => self.pin(&threads.others, &set)?,
                _ => {}
            }
        }
        let number = |name: &str| -> Option<i64> { tune.child_text(name)?.trim().parse().ok() };
        let group = self.group();
        if let Some(shares) = number("shares").and_then(|shares| u64::try_from(shares).ok()) {
            group.set_shares(shares).await?;
        }
        for (prefix, kind) in [
            ("global_", None),
            ("", Some(Kind::Cpu)),
            ("emulator_", Some(Kind::Emulator)),
            ("iothread_", Some(Kind::Io)),
        ] {
            let (quota, period) = (number(&format!("{prefix}quota")), number(&format!("{prefix}period")));
            if quota.is_none() && period.is_none() {
                continue;
            }
            let period = period.and_then(|period| u64::try_from(period).ok()).unwrap_or(100_000);
            let quota = quota.unwrap_or(-1);
            match kind {
                None => group.set_quota(None, quota, period).await?,
                Some(kind) => self.set_quotas(&threads, kind, quota, period).await?,
            }
        }
        Ok(())
    }
}
