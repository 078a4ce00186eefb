//! Statistics of domains, from what readers see and the kernel tells. No QEMU is asked: one that is stuck holds nobody up.

use crate::guest::view::{View, cpu_times_ns, resident_kib};
use bulkhead_wire::types::{DomainStatistics, MemoryStatistic, State, TypedParameter, TypedValue};

/// `virDomainStatsTypes`.
const STATE: u32 = 1;
const CPU_TOTAL: u32 = 2;
const BALLOON: u32 = 4;
const VCPU: u32 = 8;
const INTERFACE: u32 = 16;
const BLOCK: u32 = 32;
/// All groups that can be told.
pub(crate) const GROUPS: u32 = STATE | CPU_TOTAL | BALLOON | VCPU | INTERFACE | BLOCK;

/// `virDomainMemoryStatTags`: what the guest has, and what its process takes.
const ACTUAL_BALLOON: i32 = 6;
const RESIDENT: i32 = 7;

struct Parameters(Vec<TypedParameter>);

impl Parameters {
    fn put(&mut self, field: impl Into<String>, value: TypedValue) {
        self.0.push(TypedParameter { field: field.into(), value });
    }

    fn count(&mut self, field: &str, count: usize) {
        self.put(field, TypedValue::UnsignedInt(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

/// The statistics of one domain; `groups` of `virDomainStatsTypes`.
pub(crate) fn of_domain(view: &View, groups: u32) -> DomainStatistics {
    let wanted = |group: u32| groups & group != 0;
    let mut parameters = Parameters(Vec::new());
    if wanted(STATE) {
        parameters.put("state.state", TypedValue::Int(view.state as i32));
        parameters.put("state.reason", TypedValue::Int(view.reason));
    }
    if let Some(live) = view.live.as_ref().filter(|_| wanted(CPU_TOTAL)) {
        let (user, system) = cpu_times_ns(live.pid);
        parameters.put("cpu.time", TypedValue::UnsignedLong(user + system));
        parameters.put("cpu.user", TypedValue::UnsignedLong(user));
        parameters.put("cpu.system", TypedValue::UnsignedLong(system));
    }
    if wanted(BALLOON) {
        balloon(view, &mut parameters);
    }
    if wanted(VCPU) {
        vcpus(view, &mut parameters);
    }
    if view.live.is_some() && wanted(INTERFACE) {
        interfaces(view, &mut parameters);
    }
    if wanted(BLOCK) {
        disks(view, &mut parameters);
    }
    DomainStatistics { domain: view.reference(), parameters: parameters.0 }
}

fn balloon(view: &View, parameters: &mut Parameters) {
    let info = view.info();
    parameters.put("balloon.current", TypedValue::UnsignedLong(info.memory_kib));
    parameters.put("balloon.maximum", TypedValue::UnsignedLong(info.max_memory_kib));
    if let Some(live) = &view.live {
        parameters.put("balloon.rss", TypedValue::UnsignedLong(resident_kib(live.pid)));
    }
}

fn vcpus(view: &View, parameters: &mut Parameters) {
    let (current, maximum) = view.vcpus();
    parameters.put("vcpu.current", TypedValue::UnsignedInt(current));
    parameters.put("vcpu.maximum", TypedValue::UnsignedInt(maximum));
    if view.live.is_some() && view.state != State::Shutoff {
        for vcpu in 0..current {
            // Running: none of them is taken away from a guest here.
            parameters.put(format!("vcpu.{vcpu}.state"), TypedValue::Int(1));
        }
    }
}

fn interfaces(view: &View, parameters: &mut Parameters) {
    let devices = view.root().and_then(|root| root.child("devices"));
    let all: Vec<_> = devices.into_iter().flat_map(|devices| devices.all("interface")).collect();
    parameters.count("net.count", all.len());
    for (index, interface) in all.iter().enumerate() {
        if let Some(name) = interface.path_attr("target", "dev") {
            parameters.put(format!("net.{index}.name"), TypedValue::Text(name.to_owned()));
        }
    }
}

fn disks(view: &View, parameters: &mut Parameters) {
    let devices = view.root().and_then(|root| root.child("devices"));
    let all: Vec<_> = devices.into_iter().flat_map(|devices| devices.all("disk")).collect();
    parameters.count("block.count", all.len());
    for (index, disk) in all.iter().enumerate() {
        if let Some(name) = disk.path_attr("target", "dev") {
            parameters.put(format!("block.{index}.name"), TypedValue::Text(name.to_owned()));
        }
        let source = ["file", "dev"].iter().find_map(|attribute| disk.path_attr("source", attribute));
        if let Some(path) = source {
            parameters.put(format!("block.{index}.path"), TypedValue::Text(path.to_owned()));
        }
    }
}

/// Numbers about the memory of a domain that runs; none of one that does not.
pub(crate) fn memory(view: &View, most: u32) -> Vec<MemoryStatistic> {
    let Some(live) = &view.live else { return Vec::new() };
    let all = [
        MemoryStatistic { tag: ACTUAL_BALLOON, value: live.memory_kib },
        MemoryStatistic { tag: RESIDENT, value: resident_kib(live.pid) },
    ];
    all.into_iter().take(most as usize).collect()
}
