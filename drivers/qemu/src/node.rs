//! The host as clients ask about it: processors, memory, NUMA nodes. Read anew each time; the files say how things are now.

use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::{ByteString, CpuMap, NodeInfo, NodeStatistic, NodeStatistics};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Clock ticks are 10 ms wherever Linux runs: the number is part of its interface to programs.
pub(crate) const TICK_NS: u64 = 10_000_000;
/// The size of ordinary pages on the machines that this runs on.
pub(crate) const PAGE_KIB: u64 = 4;
/// Processors that a map is made for at most.
const CPUS_MAX: usize = 16_384;
/// All processors, or all nodes, in a call for one.
const ALL: i32 = -1;

/// What a file holds; nothing where there is none.
pub(crate) fn content(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number in a file.
pub(crate) fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    content(path).trim().parse().ok()
}

/// Numbers of a list like `0-3,8`.
pub(crate) fn listed(text: &str) -> BTreeSet<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?.min(CPUS_MAX))
    });
    ranges.flatten().collect()
}

/// The processors in one of the kernel's lists (`online`, `present`).
pub(crate) fn cpus(which: &str) -> BTreeSet<usize> {
    listed(&content(format!("/sys/devices/system/cpu/{which}")))
}

/// The NUMA nodes; a host without has one.
pub(crate) fn nodes() -> BTreeSet<usize> {
    let nodes = listed(&content("/sys/devices/system/node/online"));
    if nodes.is_empty() { BTreeSet::from([0]) } else { nodes }
}

fn count<T: TryFrom<usize> + Default>(count: usize) -> T {
    T::try_from(count).unwrap_or_default()
}

/// The value of a line like `MemTotal:  123 kB`, also with `Node 0` in front.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let name = format!("{name}:");
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    })
}

/// Processors, their arrangement, and memory.
pub(crate) fn info(arch: &str) -> NodeInfo {
    let online = cpus("online");
    let nodes = nodes().len();
    let (mut packages, mut cores, mut threads) = (BTreeSet::new(), BTreeSet::new(), 1);
    for cpu in &online {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let package: i64 = number(format!("{topology}/physical_package_id")).unwrap_or(0);
        let core: i64 = number(format!("{topology}/core_id")).unwrap_or(0);
        packages.insert(package);
        cores.insert((package, core));
        threads = threads.max(listed(&content(format!("{topology}/thread_siblings_list"))).len());
    }
    let sockets = (packages.len() / nodes).max(1);
    let of_socket = (cores.len() / packages.len().max(1)).max(1);
    // An arrangement that does not multiply to all of them (some are offline, say) is told as one row.
    let regular = nodes * sockets * of_socket * threads == online.len();
    let (nodes, sockets, of_socket, threads) =
        if regular { (nodes, sockets, of_socket, threads) } else { (1, 1, online.len(), 1) };
    let mut model = [0; 32];
    for (letter, byte) in model.iter_mut().take(31).zip(arch.bytes()) {
        *letter = i8::try_from(byte).unwrap_or(0);
    }
    NodeInfo {
        model,
        memory_kib: meminfo(&content("/proc/meminfo"), "MemTotal").unwrap_or(0),
        cpus: count(online.len()),
        mhz: mhz(&content("/proc/cpuinfo")),
        nodes: count(nodes),
        sockets: count(sockets),
        cores: count(of_socket),
        threads: count(threads),
    }
}

/// What `/proc/cpuinfo` tells of the first processor under this name.
pub(crate) fn of_processor(cpuinfo: &str, name: &str) -> Option<String> {
    let mut lines = cpuinfo.lines().take_while(|line| !line.trim().is_empty());
    let line = lines.find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn mhz(cpuinfo: &str) -> i32 {
    let value = of_processor(cpuinfo, "cpu MHz").unwrap_or_default();
    value.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0)
}

/// Does the host let its processor be used?
pub(crate) fn has_kvm() -> bool {
    content("/proc/misc").lines().any(|line| line.split_whitespace().nth(1) == Some("kvm"))
}

/// How many bits the processors' physical addresses have.
pub(crate) fn physical_bits() -> Option<u32> {
    let sizes = of_processor(&content("/proc/cpuinfo"), "address sizes")?;
    sizes.split_whitespace().next()?.parse().ok()
}

/// Free memory, in bytes.
pub(crate) fn free_memory() -> u64 {
    meminfo(&content("/proc/meminfo"), "MemFree").unwrap_or(0) << 10
}

/// Free memory of so many NUMA nodes from the first on, in bytes.
pub(crate) fn cells_free_memory(first: i32, most: i32) -> Result<Vec<u64>, Error> {
    let nodes = nodes();
    let last = nodes.last().copied().unwrap_or(0);
    let begin = usize::try_from(first).ok().filter(|begin| *begin <= last).ok_or_else(|| {
        let message = format!("start cell {first} out of range (0-{last})");
        Error::new(Code::INTERNAL, Origin::NONE, message)
    })?;
    let wanted = nodes.range(begin..).take(usize::try_from(most).unwrap_or(0));
    Ok(wanted.map(|node| node_meminfo(*node, "MemFree").unwrap_or(0) << 10).collect())
}

/// A value of a node's memory, in KiB.
pub(crate) fn node_meminfo(node: usize, name: &str) -> Option<u64> {
    let whole = format!("/sys/devices/system/node/node{node}/meminfo");
    let found = meminfo(&content(whole), name);
    // A host without NUMA has one node and no files about it.
    found.or_else(|| meminfo(&content("/proc/meminfo"), name).filter(|_| node == 0))
}

fn statistics(wanted: i32, all: Vec<(&str, u64)>) -> Result<NodeStatistics, Error> {
    let all: Vec<NodeStatistic> =
        all.into_iter().map(|(field, value)| NodeStatistic { field: field.to_owned(), value }).collect();
    match usize::try_from(wanted) {
        Ok(0) => Ok(NodeStatistics { count: count(all.len()), parameters: Vec::new() }),
        Ok(wanted) if wanted == all.len() => Ok(NodeStatistics { parameters: all, count: 0 }),
        _ => {
            let message = format!("invalid argument: nparams must be equal to {}", all.len());
            Err(Error::new(Code::INVALID_ARG, Origin::NONE, message))
        }
    }
}

/// What one processor, or with -1 all of them, did since the host booted.
pub(crate) fn cpu_statistics(cpu: i32, wanted: i32) -> Result<NodeStatistics, Error> {
    let name = if cpu == ALL { "cpu".to_owned() } else { format!("cpu{cpu}") };
    let stat = content("/proc/stat");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
    let line = line.ok_or_else(|| {
        let message = format!("invalid argument: there is no processor {cpu} that is online");
        Error::new(Code::INVALID_ARG, Origin::NONE, message)
    })?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let of = |index: usize| ticks.get(index).copied().unwrap_or(0).saturating_mul(TICK_NS);
    // The kernel's columns: user, nice, system, idle, iowait, irq, softirq.
    let all =
        vec![("kernel", of(2) + of(5) + of(6)), ("user", of(0) + of(1)), ("idle", of(3)), ("iowait", of(4))];
    statistics(wanted, all)
}

/// Memory of one NUMA node, or with -1 of the host.
pub(crate) fn memory_statistics(node: i32, wanted: i32) -> Result<NodeStatistics, Error> {
    if node == ALL {
        let text = content("/proc/meminfo");
        let of = |name| meminfo(&text, name).unwrap_or(0);
        let all = vec![
            ("total", of("MemTotal")),
            ("free", of("MemFree")),
            ("buffers", of("Buffers")),
            ("cached", of("Cached")),
        ];
        return statistics(wanted, all);
    }
    let node = usize::try_from(node).ok().filter(|node| nodes().contains(node)).ok_or_else(|| {
        let message = format!("invalid argument: there is no NUMA node {node}");
        Error::new(Code::INVALID_ARG, Origin::NONE, message)
    })?;
    let of = |name| node_meminfo(node, name).unwrap_or(0);
    statistics(wanted, vec![("total", of("MemTotal")), ("free", of("MemFree"))])
}

/// Which processors are there and online.
pub(crate) fn cpu_map(with_map: bool) -> CpuMap {
    let (present, online) = (cpus("present"), cpus("online"));
    let length = present.last().map_or(0, |last| last + 1);
    let mut map = vec![0; if with_map { length.div_ceil(8) } else { 0 }];
    for cpu in &online {
        if let Some(byte) = map.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    CpuMap { map: ByteString(map), online: count(online.len()), present: count(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(listed("0-2,5\n").into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert!(listed("").is_empty());
        assert_eq!(meminfo("MemTotal:  12 kB\nMemFree: 7 kB\n", "MemFree"), Some(7));
        assert_eq!(meminfo("Node 0 MemTotal:  12 kB\n", "MemTotal"), Some(12));
        assert_eq!(meminfo("Node 0 MemTotal:  7 kB\nNode 0 MemFree: 6 kB\n", "MemFree"), Some(6));
        assert_eq!(meminfo("MemTotal:  7 kB\n", "MemFree"), None);
        assert_eq!(mhz("model name : x\ncpu MHz\t\t: 2445.406\n"), 2445);
    }

    #[test]
    fn a_count_is_told_first_and_must_be_the_right_one_then() {
        let all = || vec![("a", 1), ("b", 2)];
        assert_eq!(statistics(0, all()).unwrap().count, 2);
        assert_eq!(statistics(2, all()).unwrap().parameters.len(), 2);
        assert_eq!(statistics(1, all()).unwrap_err().code, Code::INVALID_ARG);
    }

    #[test]
    fn this_host_has_processors_and_memory() {
        let info = info("x86_64");
        assert!(info.cpus >= 1 && info.memory_kib > 0, "{info:?}");
        assert_eq!(info.nodes * info.sockets * info.cores * info.threads, info.cpus);
        assert_eq!(cpu_map(true).online, u32::try_from(info.cpus).unwrap());
        assert!(cpu_statistics(ALL, 4).unwrap().parameters.iter().any(|one| one.value > 0));
    }
}
