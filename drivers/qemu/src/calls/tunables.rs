//! How the host treats a guest: shares and limits, in its definition and on its control groups.

use super::hold::Change;
use super::processors::side;
use super::stats::TEXT_OKAY;
use super::unsupported_flags;
use crate::domain::{PERF_EVENTS, sets};
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::amend::{CONFIG, LIVE, place};
use crate::guest::group::{Disk, Group, Memory, Part, UNLIMITED_KIB};
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_get_blkio_parameters, domain_get_memory_parameters, domain_get_numa_parameters,
    domain_get_perf_events, domain_get_scheduler_parameters, domain_get_scheduler_parameters_flags,
    domain_get_scheduler_type, domain_set_blkio_parameters, domain_set_memory_parameters,
    domain_set_numa_parameters, domain_set_scheduler_parameters, domain_set_scheduler_parameters_flags,
};
use bulkhead_wire::types::{DomainRef, Parameter, ParameterList, ParameterValue, SchedulerType};
use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// A parameter, the element that keeps it, and whether it may be negative.
const SCHEDULER: [(&str, &str, bool); 9] = [
    ("cpu_shares", "shares", false),
    ("vcpu_period", "period", false),
    ("vcpu_quota", "quota", true),
    ("emulator_period", "emulator_period", false),
    ("emulator_quota", "emulator_quota", true),
    ("global_period", "global_period", false),
    ("global_quota", "global_quota", true),
    ("iothread_period", "iothread_period", false),
    ("iothread_quota", "iothread_quota", true),
];
/// Parameters and elements share their names.
const MEMORY: [(&str, Memory); 3] =
    [("hard_limit", Memory::Hard), ("soft_limit", Memory::Soft), ("swap_hard_limit", Memory::Swap)];
const BLKIO_DEVICES: [(&str, &str); 5] = [
    ("device_weight", "weight"),
    ("device_read_iops_sec", "read_iops_sec"),
    ("device_write_iops_sec", "write_iops_sec"),
    ("device_read_bytes_sec", "read_bytes_sec"),
    ("device_write_bytes_sec", "write_bytes_sec"),
];
/// `virDomainNumatuneMemMode`.
const NUMA_MODES: [&str; 4] = ["strict", "preferred", "interleave", "restrictive"];

/// The definition that is asked about, unless the guest runs and its groups tell how things are.
fn defined(view: &View, flags: u32) -> Result<Option<&Element>, Error> {
    let flags = flags & (LIVE | CONFIG);
    let live = flags == LIVE || (flags == 0 && view.live.is_some());
    let root = side(view, flags)?;
    Ok((!live).then_some(root))
}

fn number(element: Option<&Element>, name: &str) -> Option<String> {
    Some(element?.child_text(name)?.trim().to_owned())
}

/// The groups of a guest, for those who only look.
fn group<'a>(driver: &'a Qemu, view: &'a View) -> Group<'a> {
    Group { stack: &driver.environment.stack, key: view.uuid.to_string(), name: &view.name }
}

/// Nothing is told of a guest whose group can't be looked into.
fn told<R>(value: Option<R>, view: &View, controller: &str) -> Result<R, Error> {
    value.ok_or_else(|| {
        let message = format!(
            "Domain '{}': there is no cgroup with the {controller} controller for it; ask for its definition (--config)",
            view.name
        );
        Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
    })
}

/// Changes the definition, and the guest that runs.
pub(super) async fn define(
    driver: &Qemu,
    domain: &DomainRef,
    flags: u32,
    change: Change,
    edit: impl Fn(&mut Element) -> Result<(), Error> + Send + Sync + 'static,
) -> Result<(), Error> {
    driver
        .guest(domain)?
        .object
        .run("domain_set_parameters", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    change.make(guest).await?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

pub(super) fn unknown(field: &str) -> Error {
    Error::new(
        Code::ARGUMENT_UNSUPPORTED,
        Origin::NONE,
        format!("Parameter '{field}' is not one of this call"),
    )
}

pub(super) fn wrong_kind(parameter: &Parameter, expected: &str) -> Error {
    let message =
        format!("Parameter '{}' is of type {}, and not {expected}", parameter.field, parameter.value.kind());
    Error::new(Code::INVALID_ARG, Origin::NONE, message)
}

/// Sets a number in an element of the domain; none of it is left if nothing is in it.
pub(super) fn set_number(root: &mut Element, parent: &str, child: Element, present: bool) {
    let mut element = root.take(parent).unwrap_or_else(|| Element::new(parent));
    element.take(&child.name);
    if present {
        element.push(child);
    }
    if !element.children.is_empty() {
        place(root, element);
    }
}

pub(super) async fn domain_get_scheduler_type(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_get_scheduler_type::Arguments,
) -> Result<SchedulerType, Error> {
    driver.guest(&arguments.domain)?;
    let parameters = i32::try_from(SCHEDULER.len()).unwrap_or(0);
    Ok(SchedulerType { name: "posix".to_owned(), parameters })
}

pub(super) async fn domain_get_scheduler_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_scheduler_parameters::Arguments,
) -> Result<Vec<Parameter>, Error> {
    let domain_get_scheduler_parameters::Arguments { domain, count } = arguments;
    let arguments = domain_get_scheduler_parameters_flags::Arguments { domain, count, flags: 0 };
    domain_get_scheduler_parameters_flags(driver, call, arguments).await
}

pub(super) async fn domain_get_scheduler_parameters_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_scheduler_parameters_flags::Arguments,
) -> Result<Vec<Parameter>, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let known: BTreeMap<&str, i64> = match defined(&view, arguments.flags)? {
        Some(root) => {
            let tune = root.child("cputune");
            let value = |element| number(tune, element).and_then(|text| text.parse().ok()).unwrap_or(0);
            SCHEDULER.into_iter().map(|(_, element, _)| (element, value(element))).collect()
        }
        None => held(&group(driver, &view), &view).await?,
    };
    let parameters = SCHEDULER.into_iter().map(|(name, element, signed)| {
        let value = known.get(element).copied().unwrap_or(0);
        if signed { Parameter::new(name, value) } else { Parameter::new(name, value.unsigned_abs()) }
    });
    Ok(parameters.take(usize::try_from(arguments.count).unwrap_or(0)).collect())
}

/// The scheduler's parameters that a guest which runs has, by their elements.
async fn held(group: &Group<'_>, view: &View) -> Result<BTreeMap<&'static str, i64>, Error> {
    let shares = told(group.shares().await, view, "cpu")?;
    let mut known = BTreeMap::from([("shares", i64::try_from(shares).unwrap_or(i64::MAX))]);
    let parts: [(&str, &str, Part<'_>); 4] = [
        ("global_period", "global_quota", None),
        ("period", "quota", Some("vcpu0")),
        ("emulator_period", "emulator_quota", Some("emulator")),
        ("iothread_period", "iothread_quota", Some("iothread1")),
    ];
    for (period_name, quota_name, part) in parts {
        // A part that is not there has no quota of its own.
        let (quota, period) = group.quota(part).await.unwrap_or((-1, 100_000));
        known.insert(quota_name, quota);
        known.insert(period_name, i64::try_from(period).unwrap_or(i64::MAX));
    }
    Ok(known)
}

/// The numbers that the kernel takes, in us.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const QUOTAS: std::ops::RangeInclusive<i64> = 1_000..=17_592_186_044_415;

pub(super) async fn domain_set_scheduler_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_scheduler_parameters::Arguments,
) -> Result<(), Error> {
    let domain_set_scheduler_parameters::Arguments { domain, parameters } = arguments;
    let arguments = domain_set_scheduler_parameters_flags::Arguments { domain, parameters, flags: 0 };
    domain_set_scheduler_parameters_flags(driver, call, arguments).await
}

pub(super) async fn domain_set_scheduler_parameters_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_scheduler_parameters_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let mut changes = Vec::new();
    for parameter in &arguments.parameters {
        let (_, element, signed) = SCHEDULER
            .into_iter()
            .find(|(name, _, _)| *name == parameter.field)
            .ok_or_else(|| unknown(&parameter.field))?;
        let value = match (&parameter.value, signed) {
            (ParameterValue::UnsignedLong(value), false) => i64::try_from(*value).unwrap_or(i64::MAX),
            (ParameterValue::Long(value), true) => *value,
            (_, true) => return Err(wrong_kind(parameter, "llong")),
            (_, false) => return Err(wrong_kind(parameter, "ullong")),
        };
        let range = match element {
            _ if element.ends_with("period") => Some(PERIODS),
            _ if signed && value > 0 => Some(QUOTAS),
            _ => None,
        };
        if let Some(range) = range.filter(|range| value != 0 && !range.contains(&value)) {
            let message = format!(
                "invalid argument: value of '{}' is out of range [{}, {}]",
                parameter.field,
                range.start(),
                range.end()
            );
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        changes.push((element, value));
    }
    let change = Change::Scheduler(changes.clone());
    define(driver, &arguments.domain, arguments.flags, change, move |root| {
        for (element, value) in &changes {
            let child = Element::new(element).with_text(value.to_string());
            set_number(root, "cputune", child, *value != 0);
        }
        Ok(())
    })
    .await
}

pub(super) async fn domain_get_memory_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_memory_parameters::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = defined(&view, arguments.flags)?;
    let group = group(driver, &view);
    let mut parameters = Vec::new();
    for (name, limit) in MEMORY {
        let value = match root {
            Some(root) => number(root.child("memtune"), name).and_then(|text| text.parse().ok()),
            // Not every host counts what is swapped out.
            None if limit == Memory::Swap => group.memory(limit).await,
            None => Some(told(group.memory(limit).await, &view, "memory")?),
        };
        parameters.push(Parameter::new(name, value.unwrap_or(UNLIMITED_KIB)));
    }
    Ok(ParameterList::answer(parameters, arguments.count))
}

pub(super) async fn domain_set_memory_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_memory_parameters::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let mut changes = Vec::new();
    for parameter in &arguments.parameters {
        let known = MEMORY.into_iter().find(|(name, _)| *name == parameter.field);
        let (element, kind) = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::UnsignedLong(limit) = parameter.value else {
            return Err(wrong_kind(parameter, "ullong"));
        };
        changes.push((element, kind, limit));
    }
    let change = Change::Memory(changes.iter().map(|(_, kind, limit)| (*kind, *limit)).collect());
    define(driver, &arguments.domain, arguments.flags, change, move |root| {
        for (element, _, limit) in &changes {
            let child = Element::new(element).with("unit", "KiB").with_text(limit.to_string());
            set_number(root, "memtune", child, *limit < UNLIMITED_KIB);
        }
        let tune = root.child("memtune");
        let limit = |name| number(tune, name).and_then(|text| text.parse().ok()).unwrap_or(UNLIMITED_KIB);
        if limit("hard_limit") > limit("swap_hard_limit") {
            let message = "memory hard_limit tunable value must be lower than or equal to swap_hard_limit";
            return Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message));
        }
        Ok(())
    })
    .await
}

pub(super) async fn domain_get_blkio_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_blkio_parameters::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = defined(&view, arguments.flags)?;
    // What holds for single disks of the host is what was set.
    let tune = root.or(view.root()).and_then(|root| root.child("blkiotune"));
    let weight: u32 = match root {
        Some(_) => number(tune, "weight").and_then(|text| text.parse().ok()).unwrap_or(0),
        None => told(group(driver, &view).weight().await, &view, "io")?,
    };
    let mut parameters = vec![Parameter::new("weight", weight)];
    for (name, element) in BLKIO_DEVICES {
        let devices = tune.into_iter().flat_map(|tune| tune.all("device"));
        let entries = devices.filter_map(|device| {
            let value = number(Some(device), element).filter(|value| value != "0")?;
            Some(format!("{},{value}", device.child_text("path")?))
        });
        parameters.push(Parameter::new(name, entries.collect::<Vec<_>>().join(",")));
    }
    Ok(ParameterList::answer(parameters, arguments.count))
}

pub(super) async fn domain_set_blkio_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_blkio_parameters::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let (mut weight, mut devices) = (None, Vec::new());
    for parameter in &arguments.parameters {
        if parameter.field == "weight" {
            let ParameterValue::UnsignedInt(value) = parameter.value else {
                return Err(wrong_kind(parameter, "uint"));
            };
            weight = Some(value);
            continue;
        }
        let known = BLKIO_DEVICES.into_iter().find(|(name, _)| *name == parameter.field);
        let (_, element) = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::Text(text) = &parameter.value else {
            return Err(wrong_kind(parameter, "string"));
        };
        let words: Vec<&str> = text.split(',').collect();
        for pair in words.chunks(2) {
            let [path, value] = pair else {
                return Err(pairs_wanted(parameter));
            };
            if !path.starts_with('/') || value.parse::<u64>().is_err() {
                return Err(pairs_wanted(parameter));
            }
            devices.push((element, (*path).to_owned(), (*value).to_owned()));
        }
    }
    let disks = |(element, path, value): &(&str, String, String)| {
        let disk = match *element {
            "weight" => Disk::Weight,
            "read_iops_sec" => Disk::ReadRequests,
            "write_iops_sec" => Disk::WriteRequests,
            "read_bytes_sec" => Disk::ReadBytes,
            _ => Disk::WriteBytes,
        };
        Some((disk, path.clone(), value.parse().ok()?))
    };
    let change = Change::Disks { weight, disks: devices.iter().filter_map(disks).collect() };
    define(driver, &arguments.domain, arguments.flags, change, move |root| {
        if let Some(weight) = weight {
            let child = Element::new("weight").with_text(weight.to_string());
            set_number(root, "blkiotune", child, weight > 0);
        }
        let mut tune = root.take("blkiotune").unwrap_or_else(|| Element::new("blkiotune"));
        for (element, path, value) in &devices {
            let same = |device: &&mut Element| {
                device.name == "device" && device.child_text("path").as_ref() == Some(path)
            };
            if let Some(device) = tune.elements_mut().find(same) {
                device.child_or_insert(element).set_text(value.clone());
                continue;
            }
            let device = Element::new("device").with_child(Element::new("path").with_text(path.clone()));
            tune.push(device.with_child(Element::new(element).with_text(value.clone())));
        }
        if !tune.children.is_empty() {
            place(root, tune);
        }
        Ok(())
    })
    .await
}

fn pairs_wanted(parameter: &Parameter) -> Error {
    let message =
        format!("Parameter '{}': a list of paths and numbers is wanted: PATH,N,...", parameter.field);
    Error::new(Code::INVALID_ARG, Origin::QEMU, message)
}

pub(super) async fn domain_get_numa_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_numa_parameters::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    // QEMU itself is told at its start, so that what the guest runs with is what holds.
    let memory = side(&view, arguments.flags)?.at("numatune/memory");
    let mode = memory.and_then(|memory| memory.attr("mode")).unwrap_or("strict");
    let mode = NUMA_MODES.iter().position(|known| *known == mode).and_then(|mode| i32::try_from(mode).ok());
    let nodes = memory.and_then(|memory| memory.attr("nodeset")).unwrap_or_default();
    let parameters =
        vec![Parameter::new("numa_mode", mode.unwrap_or(0)), Parameter::new("numa_nodeset", nodes)];
    Ok(ParameterList::answer(parameters, arguments.count))
}

pub(super) async fn domain_set_numa_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_numa_parameters::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let (mut mode, mut nodes) = (None, None);
    for parameter in &arguments.parameters {
        match (parameter.field.as_str(), &parameter.value) {
            ("numa_mode", ParameterValue::Int(value)) => {
                let known = usize::try_from(*value).ok().and_then(|value| NUMA_MODES.get(value).copied());
                mode = Some(known.ok_or_else(|| {
                    let message = format!("Parameter 'numa_mode': there is no mode {value}");
                    Error::new(Code::INVALID_ARG, Origin::QEMU, message)
                })?);
            }
            ("numa_nodeset", ParameterValue::Text(text)) => {
                let set = sets::parse(text).ok_or_else(|| {
                    let message = format!("Parameter 'numa_nodeset': '{text}' is no set of nodes");
                    Error::new(Code::INVALID_ARG, Origin::QEMU, message)
                })?;
                nodes = Some(sets::format(&set));
            }
            ("numa_mode", _) => return Err(wrong_kind(parameter, "int")),
            ("numa_nodeset", _) => return Err(wrong_kind(parameter, "string")),
            _ => return Err(unknown(&parameter.field)),
        }
    }
    let change = Change::Nodes { mode, nodes: nodes.clone() };
    define(driver, &arguments.domain, arguments.flags, change, move |root| {
        let mut tune = root.take("numatune").unwrap_or_else(|| Element::new("numatune"));
        let memory = tune.child_or_insert("memory");
        if let Some(mode) = mode {
            memory.set("mode", mode);
        }
        if let Some(nodes) = &nodes {
            memory.set("nodeset", nodes.clone());
        }
        place(root, tune);
        Ok(())
    })
    .await
}

pub(super) async fn domain_get_perf_events(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_perf_events::Arguments,
) -> Result<Vec<Parameter>, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let running = arguments.flags & LIVE != 0 || (arguments.flags & CONFIG == 0 && view.live.is_some());
    let root = side(&view, arguments.flags)?;
    let enabled = |name: &str| {
        let mut events = root.child("perf").into_iter().flat_map(|perf| perf.all("event"));
        // None is counted for a guest that runs, whatever its definition wishes.
        !running
            && events.any(|event| event.attr("name") == Some(name) && event.attr("enabled") == Some("yes"))
    };
    Ok(PERF_EVENTS.iter().map(|name| Parameter::new(*name, enabled(name))).collect())
}
