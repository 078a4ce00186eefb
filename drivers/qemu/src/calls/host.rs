//! The host below the guests: its CPUs, its memory, what its hypervisor knows. Read from where the kernel tells it.

use super::unsupported_flags;
use crate::domain::sets;
use crate::driver::Qemu;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    connect_get_cpu_model_names, node_get_cells_free_memory, node_get_cpu_map, node_get_cpu_stats,
    node_get_free_memory, node_get_free_pages, node_get_memory_stats,
};
use bulkhead_wire::types::{Bytes, CpuModels, HostCpuMap, HostStat, HostStats};
use std::collections::BTreeSet;
use std::fs::read_to_string;

/// Clock ticks are 10 ms wherever Linux runs.
const TICK_NS: u64 = 10_000_000;
const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";
/// Of all CPUs, or of all nodes.
const ALL: i32 = -1;
/// The size of ordinary pages on the machines that this runs on, in KiB.
const PAGE_KIB: u32 = 4;
/// Most numbers in one answer about nodes and pages.
const ANSWERS_MAX: usize = 1024;

fn unreadable(what: &str) -> Error {
    Error::new(
        Code::INTERNAL,
        Origin::QEMU,
        format!("The host does not tell {what}; is /proc and /sys there?"),
    )
}

fn invalid(origin: Origin, message: String) -> Error {
    Error::new(Code::INVALID_ARG, origin, message)
}

/// A set that a file of the kernel's holds.
fn set(path: &str) -> Option<BTreeSet<u32>> {
    sets::parse(read_to_string(path).ok()?.trim())
}

/// The host's NUMA nodes; a kernel without them has one.
fn nodes() -> BTreeSet<u32> {
    set(&format!("{NODES}/online")).unwrap_or_else(|| BTreeSet::from([0]))
}

/// A line of a table of memory, in KiB: `MemFree:  123 kB`, or behind `Node 0`.
fn kib(table: &str, name: &str) -> Option<u64> {
    let name = format!("{name}:");
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    })
}

fn node_memory(node: u32) -> Option<String> {
    let own = read_to_string(format!("{NODES}/node{node}/meminfo")).ok();
    own.or_else(|| if node == 0 { read_to_string("/proc/meminfo").ok() } else { None })
}

/// Answers one who was asked for so many values, or for their number.
fn answer(stats: Vec<HostStat>, room: i32) -> Result<HostStats, Error> {
    let count = i32::try_from(stats.len()).unwrap_or(i32::MAX);
    if room == 0 {
        return Ok(HostStats { stats: Vec::new(), count });
    }
    if room != count {
        return Err(invalid(
            Origin::NONE,
            format!("There are {count} values, and not {room}; ask for all of them"),
        ));
    }
    Ok(HostStats { stats, count: 0 })
}

fn stat(field: &str, value: u64) -> HostStat {
    HostStat { field: field.to_owned(), value }
}

/// The times of a line of `/proc/stat`.
fn times(line: &str) -> Option<Vec<HostStat>> {
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = ticks.as_slice() else {
        return None;
    };
    let ns = |parts: &[&u64]| {
        parts.iter().fold(0_u64, |sum, part| sum.saturating_add(**part)).saturating_mul(TICK_NS)
    };
    Some(vec![
        stat("kernel", ns(&[system, irq, softirq])),
        stat("user", ns(&[user, nice])),
        stat("idle", ns(&[idle])),
        stat("iowait", ns(&[iowait])),
    ])
}

pub(super) async fn node_get_cpu_stats(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_get_cpu_stats::Arguments,
) -> Result<HostStats, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let name = match arguments.cpu {
        ALL => "cpu".to_owned(),
        number => format!("cpu{number}"),
    };
    let table = read_to_string("/proc/stat").map_err(|_error| unreadable("what its CPUs do"))?;
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(&name)).ok_or_else(|| {
        invalid(Origin::NONE, format!("The host has no CPU {} that is online", arguments.cpu))
    })?;
    answer(times(line).ok_or_else(|| unreadable("what its CPUs do"))?, arguments.count)
}

pub(super) async fn node_get_memory_stats(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_get_memory_stats::Arguments,
) -> Result<HostStats, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let (table, names) = if arguments.cell == ALL {
        let table = read_to_string("/proc/meminfo").map_err(|_error| unreadable("its memory"))?;
        (
            table,
            [("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached")]
                .as_slice(),
        )
    } else {
        let node = u32::try_from(arguments.cell).ok().filter(|node| nodes().contains(node));
        let table = node
            .and_then(node_memory)
            .ok_or_else(|| invalid(Origin::NONE, format!("The host has no NUMA node {}", arguments.cell)))?;
        (table, [("total", "MemTotal"), ("free", "MemFree")].as_slice())
    };
    let stats = names.iter().filter_map(|(field, name)| Some(stat(field, kib(&table, name)?)));
    answer(stats.collect(), arguments.count)
}

pub(super) async fn node_get_free_memory(
    _driver: &Qemu,
    _call: CallContext,
    _arguments: node_get_free_memory::Arguments,
) -> Result<u64, Error> {
    let table = read_to_string("/proc/meminfo").map_err(|_error| unreadable("its memory"))?;
    kib(&table, "MemFree").map(|free| free.saturating_mul(1024)).ok_or_else(|| unreadable("its memory"))
}

/// Nodes from one on, so many at most. The first must be there.
fn cells(first: i32, most: usize) -> Result<Vec<u32>, Error> {
    let there = nodes();
    let last = there.last().copied().unwrap_or(0);
    let first = u32::try_from(first).ok().filter(|first| *first <= last).ok_or_else(|| {
        Error::new(
            Code::OPERATION_FAILED,
            Origin::NONE,
            format!("The host has NUMA nodes up to {last}, not {first}"),
        )
    })?;
    let range = (first..=last).take(most.min(ANSWERS_MAX));
    Ok(range.collect())
}

pub(super) async fn node_get_cells_free_memory(
    _driver: &Qemu,
    _call: CallContext,
    arguments: node_get_cells_free_memory::Arguments,
) -> Result<Vec<u64>, Error> {
    let most = usize::try_from(arguments.max_cells).ok().filter(|most| *most > 0).ok_or_else(|| {
        invalid(Origin::NONE, format!("{} NUMA nodes can't be told of", arguments.max_cells))
    })?;
    let free = |node: u32| {
        let free = node_memory(node).and_then(|table| kib(&table, "MemFree"));
        free.unwrap_or(0).saturating_mul(1024)
    };
    Ok(cells(arguments.start_cell, most)?.into_iter().map(free).collect())
}

pub(super) async fn node_get_cpu_map(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_get_cpu_map::Arguments,
) -> Result<HostCpuMap, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let present = set(&format!("{CPUS}/present")).ok_or_else(|| unreadable("its CPUs"))?;
    let online = set(&format!("{CPUS}/online")).unwrap_or_else(|| present.clone());
    let count = present.last().map_or(0, |last| last + 1);
    let mut map = vec![0_u8; usize::try_from(count.div_ceil(8)).unwrap_or(0)];
    for cpu in &online {
        if let Some(byte) = usize::try_from(cpu / 8).ok().and_then(|byte| map.get_mut(byte)) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Ok(HostCpuMap {
        map: Bytes(if arguments.need_map != 0 { map } else { Vec::new() }),
        online: if arguments.need_online != 0 { u32::try_from(online.len()).unwrap_or(u32::MAX) } else { 0 },
        count: i32::try_from(count).unwrap_or(i32::MAX),
    })
}

fn free_pages(node: u32, size: u32) -> Option<u64> {
    if size == PAGE_KIB {
        return Some(kib(&node_memory(node)?, "MemFree")? / u64::from(PAGE_KIB));
    }
    let path = format!("{NODES}/node{node}/hugepages/hugepages-{size}kB/free_hugepages");
    read_to_string(path).ok()?.trim().parse().ok()
}

pub(super) async fn node_get_free_pages(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_get_free_pages::Arguments,
) -> Result<Vec<u64>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    if arguments.pages.is_empty() || arguments.cells == 0 {
        return Err(invalid(Origin::NONE, "Name at least one size of pages and one NUMA node".to_owned()));
    }
    let most = usize::try_from(arguments.cells).unwrap_or(ANSWERS_MAX);
    let mut counts = Vec::new();
    for node in cells(arguments.start_cell, most)? {
        for size in &arguments.pages {
            if counts.len() >= ANSWERS_MAX {
                let message =
                    format!("More than {ANSWERS_MAX} numbers are not told at once; ask for fewer nodes");
                return Err(invalid(Origin::NONE, message));
            }
            counts.push(free_pages(node, *size).ok_or_else(|| {
                let message = format!("NUMA node {node} of the host has no pages of {size} KiB");
                Error::new(Code::OPERATION_FAILED, Origin::NONE, message)
            })?);
        }
    }
    Ok(counts)
}

pub(super) async fn connect_get_cpu_model_names(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_get_cpu_model_names::Arguments,
) -> Result<CpuModels, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let environment = &driver.environment;
    let emulator = environment.host.emulator(&arguments.arch).ok_or_else(|| {
        let message = format!("There is no emulator for architecture '{}' here", arguments.arch);
        invalid(Origin::QEMU, message)
    })?;
    let path = emulator.path.clone();
    let capabilities = environment.probe(&path, crate::probe::host_facts(false)).await?;
    // Names that stand for whatever the host has are no models.
    let special = ["base", "host", "max"];
    let models = capabilities.cpus.iter().map(|cpu| cpu.name.clone());
    let names: Vec<String> = models.filter(|name| !special.contains(&name.as_str())).collect();
    let count = i32::try_from(names.len()).unwrap_or(i32::MAX);
    Ok(CpuModels { names: if arguments.need_results != 0 { names } else { Vec::new() }, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_hosts_table_and_from_a_nodes() {
        assert_eq!(kib("MemTotal:  7 kB\nMemFree:   5 kB\n", "MemFree"), Some(5));
        assert_eq!(kib("Node 0 MemTotal:  7 kB\nNode 0 MemFree: 6 kB\n", "MemFree"), Some(6));
        assert_eq!(kib("MemTotal:  7 kB\n", "MemFree"), None);
    }

    #[test]
    fn times_are_added_up_as_libvirt_does() {
        let stats = times("cpu0 1 2 4 8 16 32 64 0 0 0").unwrap();
        let values: Vec<u64> = stats.iter().map(|stat| stat.value / TICK_NS).collect();
        assert_eq!(values, [4 + 32 + 64, 3, 8, 16]);
        assert_eq!(times("cpu0 1 2"), None);
    }

    #[test]
    fn who_asks_for_another_number_of_values_than_there_are_is_refused() {
        let stats = || vec![stat("total", 1)];
        assert_eq!(answer(stats(), 0).unwrap().count, 1);
        assert_eq!(answer(stats(), 1).unwrap().stats, stats());
        assert!(answer(stats(), 2).is_err());
    }
}
