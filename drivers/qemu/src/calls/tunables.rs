//! How the host treats a guest: shares, limits, places. All of it is kept in the definition; what would have to be done to a
//! guest that runs needs cgroups, which this stack does not put guests into, and says so.

use super::processors::{current, fit, side};
use super::stats::TEXT_OKAY;
use super::unsupported_flags;
use crate::domain::sets;
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::amend::{CONFIG, LIVE, place};
use crate::guest::process;
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_get_blkio_parameters, domain_get_emulator_pin_info, domain_get_memory_parameters,
    domain_get_numa_parameters, domain_get_perf_events, domain_get_scheduler_parameters,
    domain_get_scheduler_parameters_flags, domain_get_scheduler_type, domain_get_vcpu_pin_info,
    domain_pin_emulator, domain_pin_vcpu, domain_pin_vcpu_flags, domain_set_blkio_parameters,
    domain_set_memory_parameters, domain_set_numa_parameters, domain_set_scheduler_parameters,
    domain_set_scheduler_parameters_flags,
};
use bulkhead_wire::types::{
    ByteString, CpuMaps, DomainRef, Parameter, ParameterList, ParameterValue, SchedulerType,
};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

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
const MEMORY: [(&str, &str); 3] =
    [("hard_limit", "hard_limit"), ("soft_limit", "soft_limit"), ("swap_hard_limit", "swap_hard_limit")];
/// No limit, in KiB.
const UNLIMITED: u64 = (1 << 53) - 1;
const BLKIO_DEVICES: [(&str, &str); 5] = [
    ("device_weight", "weight"),
    ("device_read_iops_sec", "read_iops_sec"),
    ("device_write_iops_sec", "write_iops_sec"),
    ("device_read_bytes_sec", "read_bytes_sec"),
    ("device_write_bytes_sec", "write_bytes_sec"),
];
/// `virDomainNumatuneMemMode`.
const NUMA_MODES: [&str; 4] = ["strict", "preferred", "interleave", "restrictive"];
/// The host's performance counters that libvirt knows.
const PERF: [&str; 23] = [
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
    "cpu_throttled",
];

/// The error of whoever wants something that takes a cgroup.
fn without_cgroup(name: &str, controller: &str) -> Error {
    let message = format!(
        "Domain '{name}': there is no cgroup with the {controller} controller for it, so that nothing of this holds while it runs; ask for its definition (--config)"
    );
    Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
}

/// The definition that is asked about. Of a guest that runs without a cgroup there is nothing to tell.
fn defined<'a>(view: &'a View, flags: u32, controller: &str) -> Result<&'a Element, Error> {
    let flags = flags & (LIVE | CONFIG);
    if flags == LIVE || (flags == 0 && view.live.is_some()) {
        side(view, LIVE)?;
        return Err(without_cgroup(&view.name, controller));
    }
    side(view, flags)
}

fn number(element: Option<&Element>, name: &str) -> Option<String> {
    Some(element?.child_text(name)?.trim().to_owned())
}

/// Has a definition changed. A guest that runs is not: it has no cgroup.
async fn define(
    driver: &Qemu,
    domain: &DomainRef,
    flags: u32,
    controller: &'static str,
    edit: impl Fn(&mut Element) -> Result<(), Error> + Send + Sync + 'static,
) -> Result<(), Error> {
    driver
        .guest(domain)?
        .object
        .run("domain_set_parameters", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                if sides.live {
                    return Err(without_cgroup(&guest.view().name, controller));
                }
                guest.amend(sides, edit).await
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
fn set_number(root: &mut Element, parent: &str, child: Element, present: bool) {
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
    let tune = defined(&view, arguments.flags, "cpu")?.child("cputune");
    let parameters = SCHEDULER.into_iter().map(|(name, element, signed)| {
        let text = number(tune, element).unwrap_or_default();
        if signed {
            Parameter::new(name, text.parse::<i64>().unwrap_or(0))
        } else {
            Parameter::new(name, text.parse::<u64>().unwrap_or(0))
        }
    });
    Ok(parameters.take(usize::try_from(arguments.count).unwrap_or(0)).collect())
}

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
        let text = match (&parameter.value, signed) {
            (ParameterValue::UnsignedLong(value), false) => value.to_string(),
            (ParameterValue::Long(value), true) => value.to_string(),
            (_, true) => return Err(wrong_kind(parameter, "llong")),
            (_, false) => return Err(wrong_kind(parameter, "ullong")),
        };
        changes.push((element, text));
    }
    define(driver, &arguments.domain, arguments.flags, "cpu", move |root| {
        for (element, text) in &changes {
            set_number(root, "cputune", Element::new(element).with_text(text.clone()), text != "0");
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
    let tune = defined(&view, arguments.flags, "memory")?.child("memtune");
    let limit = |element| number(tune, element).and_then(|text| text.parse().ok()).unwrap_or(UNLIMITED);
    let parameters = MEMORY.into_iter().map(|(name, element)| Parameter::new(name, limit(element)));
    Ok(ParameterList::answer(parameters.collect(), arguments.count))
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
        let (_, element) = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::UnsignedLong(limit) = parameter.value else {
            return Err(wrong_kind(parameter, "ullong"));
        };
        changes.push((element, limit));
    }
    define(driver, &arguments.domain, arguments.flags, "memory", move |root| {
        for (element, limit) in &changes {
            let child = Element::new(element).with("unit", "KiB").with_text(limit.to_string());
            set_number(root, "memtune", child, *limit < UNLIMITED);
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
    let tune = defined(&view, arguments.flags, "io")?.child("blkiotune");
    let weight: u32 = number(tune, "weight").and_then(|text| text.parse().ok()).unwrap_or(0);
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
    define(driver, &arguments.domain, arguments.flags, "io", move |root| {
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
    define(driver, &arguments.domain, arguments.flags, "cpuset", move |root| {
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
    Ok(PERF.into_iter().map(|name| Parameter::new(name, enabled(name))).collect())
}

/// The host's CPUs that are there, as a map.
pub(super) fn host_cpus() -> Vec<u8> {
    let present = std::fs::read_to_string("/sys/devices/system/cpu/present").unwrap_or_default();
    map_of(&sets::parse(present.trim()).unwrap_or_else(|| BTreeSet::from([0])))
}

fn map_of(set: &BTreeSet<u32>) -> Vec<u8> {
    let mut map = Vec::new();
    for cpu in set {
        let byte = usize::try_from(cpu / 8).unwrap_or(0);
        if map.len() <= byte {
            map.resize(byte + 1, 0);
        }
        if let Some(byte) = map.get_mut(byte) {
            *byte |= 1 << (cpu % 8);
        }
    }
    map
}

fn set_of(map: &[u8]) -> BTreeSet<u32> {
    let bits = map.iter().enumerate().flat_map(|(index, byte)| {
        (0..8_u32).filter(move |bit| byte >> bit & 1 != 0).map(move |bit| (index, bit))
    });
    bits.filter_map(|(index, bit)| Some(u32::try_from(index).ok()? * 8 + bit)).collect()
}

/// Where a definition says that a CPU, or QEMU's other threads, may run: its own place, that of all, or anywhere.
fn pinned(root: &Element, own: Option<&Element>) -> Vec<u8> {
    let text = own.and_then(|pin| pin.attr("cpuset")).or_else(|| root.path_attr("vcpu", "cpuset"));
    text.and_then(sets::parse).map_or_else(host_cpus, |set| map_of(&set))
}

fn vcpu_pin(root: &Element, number: u32) -> Option<&Element> {
    let number = number.to_string();
    root.child("cputune")?.all("vcpupin").find(|pin| pin.attr("vcpu") == Some(&number))
}

pub(super) async fn domain_get_vcpu_pin_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_vcpu_pin_info::Arguments,
) -> Result<CpuMaps, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = side(&view, arguments.flags)?;
    let (bytes, most) = sizes(&view, arguments.map_bytes, arguments.cpus)?;
    let mut maps = CpuMaps { maps: ByteString::default(), count: 0 };
    for number in (0..current(root)).take(most) {
        maps.maps.0.extend(fit(pinned(root, vcpu_pin(root, number)), bytes));
        maps.count += 1;
    }
    Ok(maps)
}

/// Sizes that a client asked for, as far as they make sense.
fn sizes(view: &View, bytes: i32, most: i32) -> Result<(usize, usize), Error> {
    let fits = |bytes: usize, most: usize| bytes.saturating_mul(most) <= 8 << 20;
    match (usize::try_from(bytes), usize::try_from(most)) {
        (Ok(bytes), Ok(most)) if fits(bytes, most) => Ok((bytes, most)),
        _ => {
            let message = format!("Domain '{}': maps of {bytes} bytes for {most} do not fit", view.name);
            Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message))
        }
    }
}

pub(super) async fn domain_get_emulator_pin_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_emulator_pin_info::Arguments,
) -> Result<CpuMaps, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = side(&view, arguments.flags)?;
    let (bytes, _) = sizes(&view, arguments.map_bytes, 1)?;
    let live = view.live.as_ref().filter(|_| arguments.flags & CONFIG == 0);
    let map = match live.and_then(|live| process::thread_cpus(live.pid, live.pid.cast_signed())) {
        Some(map) => map,
        None => pinned(root, root.at("cputune/emulatorpin")),
    };
    Ok(CpuMaps { maps: ByteString(fit(map, bytes)), count: 1 })
}

/// The set that a client's map means, within the host's CPUs.
fn wanted(domain: &DomainRef, map: &ByteString) -> Result<BTreeSet<u32>, Error> {
    let host = set_of(&host_cpus());
    let set: BTreeSet<u32> = set_of(&map.0).intersection(&host).copied().collect();
    if set.is_empty() {
        let message = format!("Domain '{}': none of the host's CPUs is named to pin it to", domain.name);
        return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
    }
    Ok(set)
}

pub(super) async fn domain_pin_vcpu(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pin_vcpu::Arguments,
) -> Result<(), Error> {
    let domain_pin_vcpu::Arguments { domain, vcpu, map } = arguments;
    domain_pin_vcpu_flags(driver, call, domain_pin_vcpu_flags::Arguments { domain, vcpu, map, flags: LIVE })
        .await
}

pub(super) async fn domain_pin_vcpu_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pin_vcpu_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let set = wanted(&arguments.domain, &arguments.map)?;
    let (vcpu, name) = (arguments.vcpu, arguments.domain.name.clone());
    define(driver, &arguments.domain, arguments.flags, "cpuset", move |root| {
        if vcpu >= current(root) {
            let message = format!("Domain '{name}': it has no virtual CPU {vcpu}, only {}", current(root));
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        let number = vcpu.to_string();
        let pin = Element::new("vcpupin").with("vcpu", number.as_str()).with("cpuset", sets::format(&set));
        let mut tune = root.take("cputune").unwrap_or_else(|| Element::new("cputune"));
        let same = |other: &&mut Element| other.name == "vcpupin" && other.attr("vcpu") == Some(&number);
        if let Some(other) = tune.elements_mut().find(same) {
            *other = pin;
        } else {
            tune.push(pin);
        }
        place(root, tune);
        Ok(())
    })
    .await
}

pub(super) async fn domain_pin_emulator(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pin_emulator::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let set = wanted(&arguments.domain, &arguments.map)?;
    define(driver, &arguments.domain, arguments.flags, "cpuset", move |root| {
        set_number(root, "cputune", Element::new("emulatorpin").with("cpuset", sets::format(&set)), true);
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_sets_are_the_same_thing() {
        let set = BTreeSet::from([0, 7, 8, 17]);
        assert_eq!(map_of(&set), [0x81, 0x01, 0x02]);
        assert_eq!(set_of(&map_of(&set)), set);
        assert_eq!(set_of(&[]), BTreeSet::new());
    }
}
