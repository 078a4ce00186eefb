//! On which of the host's processors the threads of a guest run.

use super::hold::Change;
use super::processors::{current, fit, side};
use super::sizes::iothread_ids;
use super::tunables::{define, set_number};
use super::unsupported_flags;
use crate::domain::sets;
use crate::driver::Qemu;
use crate::guest::amend::{CONFIG, LIVE, place};
use crate::guest::process;
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_get_emulator_pin_info, domain_get_vcpu_pin_info, domain_pin_emulator, domain_pin_iothread,
    domain_pin_vcpu, domain_pin_vcpu_flags,
};
use bulkhead_wire::types::{ByteString, CpuMaps, DomainRef};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// Says in a definition where a thread runs.
fn set_pin(root: &mut Element, element: &str, attribute: &str, number: u32, set: &BTreeSet<u32>) {
    let number = number.to_string();
    let pin = Element::new(element).with(attribute, number.as_str()).with("cpuset", sets::format(set));
    let mut tune = root.take("cputune").unwrap_or_else(|| Element::new("cputune"));
    let same = |other: &&mut Element| other.name == element && other.attr(attribute) == Some(&number);
    if let Some(other) = tune.elements_mut().find(same) {
        *other = pin;
    } else {
        tune.push(pin);
    }
    place(root, tune);
}

/// Where a definition says that an I/O thread may run.
pub(super) fn iothread_cpus(root: &Element, number: u32) -> Vec<u8> {
    let number = number.to_string();
    let mut pins = root.child("cputune").into_iter().flat_map(|tune| tune.all("iothreadpin"));
    pinned(root, pins.find(|pin| pin.attr("iothread") == Some(&number)))
}

pub(super) async fn domain_pin_iothread(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pin_iothread::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let set = wanted(&arguments.domain, &arguments.map)?;
    let (thread, name) = (arguments.thread, arguments.domain.name.clone());
    let change = Change::PinIo(thread, set.clone());
    define(driver, &arguments.domain, arguments.flags, change, move |root| {
        if !iothread_ids(root).contains(&thread) {
            let message = format!("Domain '{name}': iothread {thread} not found");
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        set_pin(root, "iothreadpin", "iothread", thread, &set);
        Ok(())
    })
    .await
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
    define(driver, &arguments.domain, arguments.flags, Change::PinCpu(vcpu, set.clone()), move |root| {
        if vcpu >= current(root) {
            let message = format!("Domain '{name}': it has no virtual CPU {vcpu}, only {}", current(root));
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        set_pin(root, "vcpupin", "vcpu", vcpu, &set);
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
    define(driver, &arguments.domain, arguments.flags, Change::PinEmulator(set.clone()), move |root| {
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
