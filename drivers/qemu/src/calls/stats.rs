//! What single parts of a guest have done: memory, disks, interfaces, CPUs, lasting work.

use super::observed::Observed;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::blocks::{self, Figures};
use crate::guest::has_balloon;
use crate::guest::not_running;
use crate::guest::process;
use bulkhead_actors::job::Progress;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::domain::{
    domain_block_stats, domain_block_stats_flags, domain_get_block_info, domain_get_control_info,
    domain_get_cpu_stats, domain_get_job_stats, domain_interface_stats, domain_memory_stats,
};
use bulkhead_wire::table::{CallContext, Driver, network};
use bulkhead_wire::types::{
    BlockInfo, BlockStats, ControlInfo, InterfaceStats, JobStats, MemoryStat, Parameter, ParameterList,
};
use bulkhead_xml::Element;
use serde_json::{Value, json};

/// Whoever asks understands text among typed parameters (`VIR_TYPED_PARAM_STRING_OKAY`).
pub(super) const TEXT_OKAY: u32 = 4;
/// Of the last work that ended, and not of what is under way (`VIR_DOMAIN_JOB_STATS_COMPLETED`).
const JOB_COMPLETED: u32 = 1;
/// And do not forget it (`VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED`).
const JOB_KEEP: u32 = 2;

/// The balloon's name of a statistic, libvirt's in bulk statistics, its tag, and whether QEMU counts it in bytes.
const MEMORY: [(&str, &str, i32, bool); 11] = [
    ("stat-swap-in", "swap_in", 0, true),
    ("stat-swap-out", "swap_out", 1, true),
    ("stat-major-faults", "major_fault", 2, false),
    ("stat-minor-faults", "minor_fault", 3, false),
    ("stat-free-memory", "unused", 4, true),
    ("stat-total-memory", "available", 5, true),
    ("stat-available-memory", "usable", 8, true),
    ("", "last-update", 9, false),
    ("stat-disk-caches", "disk_caches", 10, true),
    ("stat-htlb-pgalloc", "hugetlb_pgalloc", 11, false),
    ("stat-htlb-pgfail", "hugetlb_pgfail", 12, false),
];
/// What the guest has now.
const TAG_ACTUAL: i32 = 6;
/// What QEMU takes on the host.
const TAG_RESIDENT: i32 = 7;

/// What a guest says of its memory through its balloon: libvirt's name, tag and value. Nothing without a balloon, or while
/// QEMU does not answer.
pub(super) async fn balloon(guest: &Observed<'_>) -> Vec<(&'static str, i32, u64)> {
    let balloon = guest.root().child("devices").and_then(|devices| devices.child("memballoon"));
    let Some(balloon) = balloon.filter(|balloon| balloon.attr("model") != Some("none")) else {
        return Vec::new();
    };
    let Some(alias) = balloon.path_attr("alias", "name") else { return Vec::new() };
    let arguments = json!({ "path": format!("/machine/peripheral/{alias}"), "property": "guest-stats" });
    let Ok(answer) = guest.ask("qom-get", arguments).await else { return Vec::new() };
    let known = |(theirs, name, tag, bytes): (&str, &'static str, i32, bool)| {
        let value = match theirs {
            "" => answer.get("last-update")?.as_u64()?,
            theirs => answer.get("stats")?.get(theirs)?.as_u64().filter(|value| *value != u64::MAX)?,
        };
        Some((name, tag, if bytes { value / 1024 } else { value }))
    };
    MEMORY.into_iter().filter_map(known).collect()
}

pub(super) async fn domain_memory_stats(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_memory_stats::Arguments,
) -> Result<Vec<MemoryStat>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let live = guest.live();
    let mut stats = Vec::new();
    if has_balloon(guest.root()) {
        stats.push(MemoryStat { tag: TAG_ACTUAL, value: live.memory_kib });
    }
    stats.extend(balloon(&guest).await.into_iter().map(|(_, tag, value)| MemoryStat { tag, value }));
    if let Some(usage) = process::usage(live.pid) {
        stats.push(MemoryStat { tag: TAG_RESIDENT, value: usage.resident_kib });
    }
    stats.truncate(usize::try_from(arguments.max).unwrap_or(usize::MAX));
    Ok(stats)
}

/// The figures of one disk, or the sum over all disks for the empty path.
async fn figures(guest: &Observed<'_>, path: &str) -> Result<Figures, Error> {
    let wanted: Vec<&Element> = match path {
        "" => blocks::disks(guest.root()).collect(),
        path => blocks::find(guest.root(), path).into_iter().collect(),
    };
    if wanted.is_empty() {
        return Err(guest.wrong(Code::INVALID_ARG, &format!("no disk has the target or source '{path}'")));
    }
    let stats = guest.ask("query-blockstats", Value::Null).await?;
    let mut sum: Option<Figures> = None;
    for disk in wanted {
        let alias = disk.path_attr("alias", "name").unwrap_or_default();
        match blocks::figures(&stats, &Value::Null, alias) {
            Some(figures) => sum = Some(sum.map_or(figures, |sum| sum.plus(figures))),
            None if path.is_empty() => {}
            None => {
                let why = format!("QEMU has no drive '{alias}' for disk '{path}'");
                return Err(guest.wrong(Code::INTERNAL, &why));
            }
        }
    }
    Ok(sum.unwrap_or_default())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) async fn domain_block_stats(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_block_stats::Arguments,
) -> Result<BlockStats, Error> {
    let figures = figures(&driver.observed(&arguments.domain)?, &arguments.path).await?;
    Ok(BlockStats {
        read_requests: signed(figures.read_requests),
        read_bytes: signed(figures.read_bytes),
        write_requests: signed(figures.write_requests),
        write_bytes: signed(figures.write_bytes),
        errors: -1,
    })
}

pub(super) async fn domain_block_stats_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_block_stats_flags::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, TEXT_OKAY)?;
    let figures = figures(&driver.observed(&arguments.domain)?, &arguments.path).await?;
    let parameters = [
        ("wr_bytes", figures.write_bytes),
        ("wr_operations", figures.write_requests),
        ("rd_bytes", figures.read_bytes),
        ("rd_operations", figures.read_requests),
        ("flush_operations", figures.flush_requests),
        ("wr_total_times", figures.write_ns),
        ("rd_total_times", figures.read_ns),
        ("flush_total_times", figures.flush_ns),
    ];
    let parameters = parameters.into_iter().map(|(name, value)| Parameter::new(name, signed(value)));
    Ok(ParameterList::answer(parameters.collect(), arguments.count))
}

/// What has gone through an interface of a guest, as the guest sees it.
pub(super) async fn interface(guest: &Observed<'_>, tap: &str) -> Result<InterfaceStats, Error> {
    let network = network::Client(guest.environment().stack.peer(Driver::Network));
    let host = network.interface_counters(tap.to_owned()).await?;
    Ok(InterfaceStats {
        received_bytes: host.sent_bytes,
        received_packets: host.sent_packets,
        received_errors: host.sent_errors,
        received_drops: host.sent_drops,
        sent_bytes: host.received_bytes,
        sent_packets: host.received_packets,
        sent_errors: host.received_errors,
        sent_drops: host.received_drops,
    })
}

/// The name on the host of an interface that has one.
pub(super) fn tap(interface: &Element) -> Option<&str> {
    let on_host = matches!(interface.attr("type"), Some("ethernet" | "bridge" | "network" | "direct"));
    interface.path_attr("target", "dev").filter(|_| on_host)
}

pub(super) async fn domain_interface_stats(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_interface_stats::Arguments,
) -> Result<InterfaceStats, Error> {
    let guest = driver.observed(&arguments.domain)?;
    let wanted = arguments.device.as_str();
    let mut interfaces =
        guest.root().child("devices").into_iter().flat_map(|devices| devices.all("interface"));
    let found = interfaces.find(|interface| {
        let mac = interface.path_attr("mac", "address");
        mac.is_some_and(|mac| mac.eq_ignore_ascii_case(wanted)) || tap(interface) == Some(wanted)
    });
    let found = found.ok_or_else(|| {
        let message = format!(
            "Domain '{}': '{wanted}' is no interface of it; name a tap or a MAC address",
            guest.name()
        );
        Error::new(Code::INVALID_ARG, Origin::DOMAIN, message)
    })?;
    let tap = tap(found).ok_or_else(|| {
        let kind = found.attr("type").unwrap_or_default();
        let message = format!(
            "Domain '{}': interface '{wanted}' is of type '{kind}', which has no name on the host that could be counted on",
            guest.name()
        );
        Error::new(Code::INTERNAL, Origin::NONE, message)
    })?;
    interface(&guest, tap).await
}

pub(super) async fn domain_get_block_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_block_info::Arguments,
) -> Result<BlockInfo, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    if arguments.path.is_empty() {
        let message = format!("Domain '{}': no disk is named", arguments.domain.name);
        return Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message));
    }
    let guest = driver.guest(&arguments.domain)?;
    let view = guest.view.get();
    let wrong =
        |why: String| Error::new(Code::INVALID_ARG, Origin::QEMU, format!("Domain '{}': {why}", view.name));
    let path = arguments.path.as_str();
    let disk = view.root().and_then(|root| blocks::find(root, path));
    let disk = disk.ok_or_else(|| wrong(format!("no disk has the target or source '{path}'")))?;
    let source = blocks::source(disk)
        .ok_or_else(|| wrong(format!("disk '{path}' has no source at present; give it a medium")))?;
    if view.live.is_none() {
        let format = disk.path_attr("driver", "type").unwrap_or("raw");
        let image = driver.environment.image(&view.name, source, format).await?;
        return Ok(BlockInfo {
            allocation: image.actual_size.unwrap_or(0),
            capacity: image.virtual_size,
            physical: image.file_size().or(image.actual_size).unwrap_or(0),
        });
    }
    let guest = driver.observed(&arguments.domain)?;
    let alias = disk.path_attr("alias", "name").unwrap_or_default();
    let (stats, drives) =
        (guest.ask("query-blockstats", Value::Null).await?, guest.ask("query-block", Value::Null).await?);
    let missing = || guest.wrong(Code::INTERNAL, &format!("QEMU has no drive '{alias}' for disk '{path}'"));
    let figures = blocks::figures(&stats, &drives, alias).ok_or_else(missing)?;
    let size = figures.size.ok_or_else(missing)?;
    // The file itself is the node below the format.
    let storage = blocks::entry(&stats, alias).and_then(|entry| entry.pointer("/parent/node-name"));
    let nodes = guest.ask("query-named-block-nodes", json!({ "flat": true })).await?;
    let node = nodes.as_array().into_iter().flatten().find(|node| node.get("node-name") == storage);
    let physical = node.and_then(|node| node.pointer("/image/virtual-size")).and_then(Value::as_u64);
    Ok(BlockInfo {
        allocation: if disk.attr("type") == Some("block") { figures.highest } else { size.taken },
        capacity: size.capacity,
        physical: physical.unwrap_or(size.taken),
    })
}

pub(super) async fn domain_get_cpu_stats(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_cpu_stats::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, TEXT_OKAY)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.start_cpu != -1 {
        // Linux counts time on each CPU for a cgroup of version 1 alone.
        return Err(guest.wrong(
            Code::OPERATION_UNSUPPORTED,
            "the host does not count its time on single CPUs; ask for the total (start_cpu -1)",
        ));
    }
    let usage = process::usage(guest.live().pid).ok_or_else(|| not_running(guest.name()))?;
    let mut parameters = vec![
        Parameter::new("cpu_time", usage.total_ns()),
        Parameter::new("user_time", usage.user_ns),
        Parameter::new("system_time", usage.system_ns),
    ];
    // The number of values for each CPU; asked for the number of CPUs it is that of the values too, for the total is one.
    let count = i32::try_from(parameters.len()).unwrap_or(i32::MAX);
    parameters.truncate(usize::try_from(arguments.count).unwrap_or(usize::MAX));
    Ok(ParameterList { parameters, count })
}

pub(super) async fn domain_get_control_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_control_info::Arguments,
) -> Result<ControlInfo, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let observed = driver.observed(&arguments.domain)?;
    let guest = driver.guest(&arguments.domain)?;
    if observed.monitor().is_err() {
        return Ok(ControlInfo { state: 3, details: 2, state_time_ms: 0 });
    }
    Ok(match (guest.object.job(), guest.object.busy()) {
        (Some(job), _) => {
            let elapsed = u64::try_from(job.progress().elapsed.as_millis()).unwrap_or(u64::MAX);
            ControlInfo { state: 1, details: 0, state_time_ms: elapsed }
        }
        (None, Some(busy)) => ControlInfo { state: 2, details: 0, state_time_ms: busy.since_ms },
        (None, None) => ControlInfo { state: 0, details: 0, state_time_ms: 0 },
    })
}

/// `virDomainJobOperation` of lasting work by its name.
fn operation(name: &str) -> i32 {
    match name {
        "domain_create" | "autostart" => 1,
        "domain_managed_save" | "domain_save" => 2,
        "domain_restore" => 3,
        "domain_core_dump" => 8,
        _ => 0,
    }
}

pub(super) async fn domain_get_job_stats(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_job_stats::Arguments,
) -> Result<JobStats, Error> {
    unsupported_flags(&call, arguments.flags, JOB_COMPLETED | JOB_KEEP)?;
    let guest = driver.guest(&arguments.domain)?;
    if arguments.flags & JOB_COMPLETED == 0 && guest.view.get().live.is_none() {
        return Err(not_running(&guest.view.get().name));
    }
    let job = guest.object.job().filter(|_| arguments.flags & JOB_COMPLETED == 0);
    Ok(job.map_or(JobStats { kind: 0, parameters: Vec::new() }, |job| job_stats(&job.progress())))
}

fn job_stats(progress: &Progress) -> JobStats {
    let info = super::job_info(progress);
    JobStats {
        kind: info.kind,
        parameters: vec![
            Parameter::new("operation", operation(progress.operation)),
            Parameter::new("time_elapsed", info.time_elapsed_ms),
            Parameter::new("data_total", info.data_total_bytes),
            Parameter::new("data_processed", info.data_processed_bytes),
            Parameter::new("data_remaining", info.data_remaining_bytes),
            Parameter::new("memory_total", info.memory_total_bytes),
            Parameter::new("memory_processed", info.memory_processed_bytes),
            Parameter::new("memory_remaining", info.memory_remaining_bytes),
        ],
    }
}
