//! What is changed of how the host treats a guest that runs.

use crate::guest::Guest;
use crate::guest::group::{Disk, Memory};
use crate::guest::tuning::Kind;
use bulkhead_wire::error::{Code, Error, Origin};
use std::collections::BTreeSet;

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    /// Of the scheduler's parameters, by their elements.
    Scheduler(Vec<(&'static str, i64)>),
    /// Of limits of memory, in KiB.
    Memory(Vec<(Memory, u64)>),
    /// Of the share of the disks, and of limits for single ones.
    Disks { weight: Option<u32>, disks: Vec<(Disk, String, u64)> },
    /// Of the nodes that memory comes from.
    Nodes { mode: Option<&'static str>, nodes: Option<String> },
    /// Of where a virtual CPU runs.
    PinCpu(u32, BTreeSet<u32>),
    /// Of where an I/O thread runs.
    PinIo(u32, BTreeSet<u32>),
    /// Of where all other threads run.
    PinEmulator(BTreeSet<u32>),
}

impl Change {
    /// Makes it hold.
    pub(super) async fn make(&self, guest: &Guest) -> Result<(), Error> {
        match self {
            Self::Scheduler(values) => scheduler(guest, values).await,
            Self::Memory(limits) => memory(guest, limits).await,
            Self::Disks { weight, disks } => {
                if let Some(weight) = weight {
                    guest.group().set_weight(*weight).await?;
                }
                for (disk, path, value) in disks {
                    guest.group().set_disk(*disk, path, *value).await?;
                }
                Ok(())
            }
            Self::Nodes { mode, nodes } => {
                let root = guest.active()?.live_root();
                let now = root.path_attr("numatune/memory", "mode");
                if mode.is_some_and(|mode| mode != now.unwrap_or("strict")) {
                    return Err(guest.invalid("can't change numatune mode for running domain"));
                }
                // With the mode strict QEMU itself was told at its start, and keeps to it.
                if now == Some("strict") && nodes.is_some() {
                    return Err(guest.invalid("can't change nodeset for strict mode for running domain"));
                }
                match nodes {
                    Some(nodes) => guest.group().set_nodes(nodes).await,
                    None => Ok(()),
                }
            }
            Self::PinCpu(number, set) => {
                let threads = guest.own_threads().await?;
                let thread = threads.cpus.get(number).copied().ok_or_else(|| {
                    wrong(guest, &format!("vcpu {number} is out of range of live cpu count"))
                })?;
                guest.pin(&[thread], set)
            }
            Self::PinIo(number, set) => {
                let threads = guest.own_threads().await?;
                let thread = threads.io.get(number).copied();
                let thread = thread.ok_or_else(|| wrong(guest, &format!("iothread {number} not found")))?;
                guest.pin(&[thread], set)
            }
            Self::PinEmulator(set) => guest.pin(&guest.own_threads().await?.others, set),
        }
    }
}

fn wrong(guest: &Guest, why: &str) -> Error {
    let message = format!("Domain '{}': {why}", guest.view().name);
    Error::new(Code::INVALID_ARG, Origin::QEMU, message)
}

async fn scheduler(guest: &Guest, values: &[(&'static str, i64)]) -> Result<(), Error> {
    let value = |name: &str| values.iter().find(|(element, _)| *element == name).map(|(_, value)| *value);
    let group = guest.group();
    if let Some(shares) = value("shares").and_then(|shares| u64::try_from(shares).ok()) {
        group.set_shares(shares).await?;
    }
    let kinds = [
        ("global_", None, None),
        ("", Some(Kind::Cpu), Some("vcpu0")),
        ("emulator_", Some(Kind::Emulator), Some("emulator")),
        ("iothread_", Some(Kind::Io), Some("iothread1")),
    ];
    for (prefix, kind, part) in kinds {
        let (quota, period) = (value(&format!("{prefix}quota")), value(&format!("{prefix}period")));
        if quota.is_none() && period.is_none() {
            continue;
        }
        let (now_quota, now_period) = group.quota(part).await.unwrap_or((-1, 100_000));
        // 0 leaves it as it is.
        let quota = quota.filter(|quota| *quota != 0).unwrap_or(now_quota);
        let period = period.and_then(|period| u64::try_from(period).ok()).filter(|period| *period > 0);
        let period = period.unwrap_or(now_period);
        match kind {
            None => group.set_quota(None, quota, period).await?,
            Some(kind) => guest.set_quotas(&guest.own_threads().await?, kind, quota, period).await?,
        }
    }
    Ok(())
}

async fn memory(guest: &Guest, limits: &[(Memory, u64)]) -> Result<(), Error> {
    let group = guest.group();
    let wanted = |limit| limits.iter().find(|(kind, _)| *kind == limit).map(|(_, kib)| *kib);
    if let Some(kib) = wanted(Memory::Soft) {
        group.set_memory(Memory::Soft, kib).await?;
    }
    // The one with what is swapped out is never the lower one, not even for a moment.
    let (hard, swap) = (wanted(Memory::Hard), wanted(Memory::Swap));
    let now = group.memory(Memory::Swap).await.unwrap_or(0);
    let order = if swap.is_some_and(|swap| swap > now) {
        [(Memory::Swap, swap), (Memory::Hard, hard)]
    } else {
        [(Memory::Hard, hard), (Memory::Swap, swap)]
    };
    for (limit, kib) in order {
        if let Some(kib) = kib {
            group.set_memory(limit, kib).await?;
        }
    }
    Ok(())
}
