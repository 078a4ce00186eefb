//! What the host has for guests: free pages, CPU models.

use super::unsupported_flags;
use crate::driver::Qemu;
use crate::node;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{connect_get_cpu_model_names, node_get_free_pages};
use bulkhead_wire::types::CpuModels;

/// Most numbers in one answer about nodes and pages.
const ANSWERS_MAX: usize = 1024;

pub(super) fn invalid(origin: Origin, message: String) -> Error {
    Error::new(Code::INVALID_ARG, origin, message)
}

/// Nodes from one on, so many at most. The first must be there.
pub(super) fn cells(first: i32, most: usize) -> Result<Vec<usize>, Error> {
    let there = node::nodes();
    let last = there.last().copied().unwrap_or(0);
    let first = usize::try_from(first).ok().filter(|first| *first <= last).ok_or_else(|| {
        Error::new(
            Code::OPERATION_FAILED,
            Origin::NONE,
            format!("The host has NUMA nodes up to {last}, not {first}"),
        )
    })?;
    let range = (first..=last).take(most.min(ANSWERS_MAX));
    Ok(range.collect())
}

fn free_pages(node: usize, size: u32) -> Option<u64> {
    if u64::from(size) == node::PAGE_KIB {
        return Some(node::node_meminfo(node, "MemFree")? / node::PAGE_KIB);
    }
    node::number(format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB/free_hugepages"))
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
