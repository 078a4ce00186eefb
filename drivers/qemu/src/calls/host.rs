//! What the host has for guests: free pages, CPU models.

use super::unsupported_flags;
use crate::domain::sets;
use crate::driver::Qemu;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{connect_get_cpu_model_names, node_get_free_pages};
use bulkhead_wire::types::CpuModels;
use std::collections::BTreeSet;
use std::fs::read_to_string;

const NODES: &str = "/sys/devices/system/node";
/// The size of ordinary pages on the machines that this runs on, in KiB.
const PAGE_KIB: u32 = 4;
/// Most numbers in one answer about nodes and pages.
const ANSWERS_MAX: usize = 1024;

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
    let host = environment.installed.usual();
    let emulator = host.emulator(&arguments.arch).ok_or_else(|| {
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
}
