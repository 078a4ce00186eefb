//! Virtual CPUs, as they are: how many, what they do, where they may do it.

use super::observed::Observed;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::process;
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{domain_get_max_vcpus, domain_get_vcpus, domain_get_vcpus_flags};
use bulkhead_wire::types::{ByteString, VcpuInfo, Vcpus};
use bulkhead_xml::Element;
use serde_json::{Value, json};

/// Of the guest as it runs (`VIR_DOMAIN_AFFECT_LIVE`).
pub(super) const LIVE: u32 = 1;
/// Of the definition (`VIR_DOMAIN_AFFECT_CONFIG`).
pub(super) const CONFIG: u32 = 2;
/// The most there may be (`VIR_DOMAIN_VCPU_MAXIMUM`).
pub(super) const MAXIMUM: u32 = 4;
/// As the guest's agent has it (`VIR_DOMAIN_VCPU_GUEST`).
pub(super) const GUEST: u32 = 8;
/// Most bytes that all maps together may have.
const MAPS_MAX_BYTES: usize = 8 << 20;

/// The host's thread of a virtual CPU.
pub(super) struct Thread {
    pub(super) number: u32,
    pub(super) thread: i32,
}

/// The threads of a guest's CPUs, by number.
pub(super) async fn threads(guest: &Observed<'_>) -> Result<Vec<Thread>, Error> {
    let answer = guest.ask("query-cpus-fast", Value::Null).await?;
    let read = |cpu: &Value| {
        let number = u32::try_from(cpu.get("cpu-index")?.as_u64()?).ok()?;
        Some(Thread { number, thread: i32::try_from(cpu.get("thread-id")?.as_i64()?).ok()? })
    };
    let mut threads: Vec<Thread> = answer.as_array().into_iter().flatten().filter_map(read).collect();
    threads.sort_by_key(|thread| thread.number);
    Ok(threads)
}

/// How many CPUs a definition allows.
pub(super) fn maximum(root: &Element) -> u32 {
    root.child_text("vcpu").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// How many of them are there.
pub(super) fn current(root: &Element) -> u32 {
    let current = root.path_attr("vcpu", "current").and_then(|text| text.parse().ok());
    current.unwrap_or_else(|| maximum(root))
}

/// Brings a map to the length that was asked for.
pub(super) fn fit(mut map: Vec<u8>, bytes: usize) -> Vec<u8> {
    map.resize(bytes, 0);
    map
}

pub(super) async fn domain_get_vcpus(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_get_vcpus::Arguments,
) -> Result<Vcpus, Error> {
    let view = driver.guest(&arguments.domain)?.view.get();
    let guest = Observed::new(&driver.environment, view.clone(), super::observed::ANSWER_WITHIN);
    let guest = guest.ok_or_else(|| {
        let message =
            format!("Domain '{}': an inactive domain has no virtual CPUs to tell of; start it", view.name);
        Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
    })?;
    let (Ok(most), Ok(bytes)) = (usize::try_from(arguments.max), usize::try_from(arguments.map_bytes)) else {
        return Err(guest.wrong(Code::INVALID_ARG, "a negative number of CPUs or bytes was asked for"));
    };
    let mut vcpus = Vcpus { info: Vec::new(), maps: ByteString::default() };
    let pid = guest.live().pid;
    for Thread { number, thread } in threads(&guest).await?.into_iter().take(most) {
        let usage = process::thread_usage(pid, thread).unwrap_or_default();
        vcpus.info.push(VcpuInfo { number, state: 1, cpu_time_ns: usage.total_ns(), cpu: usage.cpu });
        if vcpus.maps.0.len().saturating_add(bytes) > MAPS_MAX_BYTES {
            return Err(guest.wrong(Code::INVALID_ARG, "maps of that length do not fit into one answer"));
        }
        vcpus.maps.0.extend(fit(process::thread_cpus(pid, thread).unwrap_or_default(), bytes));
    }
    Ok(vcpus)
}

pub(super) async fn domain_get_max_vcpus(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_max_vcpus::Arguments,
) -> Result<i32, Error> {
    let flags = LIVE | MAXIMUM;
    domain_get_vcpus_flags(
        driver,
        call,
        domain_get_vcpus_flags::Arguments { domain: arguments.domain, flags },
    )
    .await
}

/// The tree that flags mean: that of the guest as it runs, or of its definition; neither is the one that there is.
pub(super) fn side(view: &View, flags: u32) -> Result<&Element, Error> {
    let invalid = |why: &str| {
        let message = format!("Domain '{}': {why}", view.name);
        Error::new(Code::OPERATION_INVALID, Origin::DOMAIN, message)
    };
    match flags & (LIVE | CONFIG) {
        0 => view.root().ok_or_else(|| invalid("it has gone")),
        LIVE => {
            view.live.as_ref().map(|live| &*live.root).ok_or_else(|| crate::guest::not_running(&view.name))
        }
        CONFIG => view
            .persistent
            .as_ref()
            .map(|definition| &definition.root)
            .ok_or_else(|| invalid("it is transient: there is no definition that outlives its run")),
        _ => Err(Error::new(
            Code::INVALID_ARG,
            Origin::DOMAIN,
            format!("Domain '{}': ask for the live or for the persistent state, not for both", view.name),
        )),
    }
}

pub(super) async fn domain_get_vcpus_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_vcpus_flags::Arguments,
) -> Result<i32, Error> {
    let flags = arguments.flags;
    unsupported_flags(&call, flags, LIVE | CONFIG | MAXIMUM | GUEST)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    if flags & GUEST != 0 {
        if flags & LIVE == 0 && view.live.is_none() {
            let message = format!("Domain '{}': only a guest that runs can be asked; start it", view.name);
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        let guest = driver.observed(&arguments.domain)?;
        let within = crate::guest::agent::AGENT_WITHIN;
        let cpus = guest.agent().execute("guest-get-vcpus", Value::Null, within).await?;
        let cpus = cpus.as_array().into_iter().flatten();
        let counted = cpus.filter(|cpu| flags & MAXIMUM != 0 || cpu.get("online") == Some(&json!(true)));
        return Ok(i32::try_from(counted.count()).unwrap_or(i32::MAX));
    }
    let root = side(&view, flags)?;
    let number = if flags & MAXIMUM != 0 { maximum(root) } else { current(root) };
    Ok(i32::try_from(number).unwrap_or(i32::MAX))
}
