//! How much memory and how many CPUs a domain has, and I/O threads: changing it.

use super::processors::{CONFIG, GUEST, LIVE, MAXIMUM, current, maximum};
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::amend::place;
use crate::guest::{COMMAND_WITHIN, Guest};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_add_iothread, domain_del_iothread, domain_set_max_memory, domain_set_memory,
    domain_set_memory_flags, domain_set_memory_stats_period, domain_set_vcpus, domain_set_vcpus_flags,
};
use bulkhead_wire::types::DomainRef;
use bulkhead_xml::Element;
use serde_json::{Value, json};

/// `VIR_DOMAIN_VCPU_HOTPLUGGABLE`: CPUs that are added to a definition can be taken away again while it runs.
const HOTPLUGGABLE: u32 = 16;

fn wrong(code: Code, domain: &str, why: &str) -> Error {
    Error::new(code, Origin::QEMU, format!("Domain '{domain}': {why}"))
}

pub(super) async fn domain_set_vcpus(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_set_vcpus::Arguments,
) -> Result<(), Error> {
    set_vcpus(driver, &arguments.domain, arguments.count, LIVE).await
}

pub(super) async fn domain_set_vcpus_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_vcpus_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | MAXIMUM | GUEST | HOTPLUGGABLE)?;
    set_vcpus(driver, &arguments.domain, arguments.count, arguments.flags).await
}

async fn set_vcpus(driver: &Qemu, domain: &DomainRef, count: u32, flags: u32) -> Result<(), Error> {
    let refuse =
        |why: &str| Error::new(Code::INVALID_ARG, Origin::DOMAIN, format!("Domain '{}': {why}", domain.name));
    if count == 0 {
        return Err(refuse("a domain has at least one virtual CPU"));
    }
    if flags & MAXIMUM != 0 && flags & CONFIG == 0 {
        return Err(refuse("the most CPUs it may have are changed in its definition: add the flag for that"));
    }
    if flags & MAXIMUM != 0 && flags & LIVE != 0 {
        return Err(refuse("the most CPUs it may have can't change while it runs"));
    }
    if flags & GUEST != 0 {
        let why = "switching CPUs by the guest's agent is not served; change their number itself";
        return Err(wrong(Code::ARGUMENT_UNSUPPORTED, &domain.name, why));
    }
    driver
        .guest(domain)?
        .object
        .run("domain_set_vcpus", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let view = guest.view();
                let most = |root: &Element| -> Result<(), Error> {
                    let most = maximum(root);
                    if flags & MAXIMUM == 0 && count > most {
                        let why = format!("it may have {most} virtual CPUs at most, not {count}");
                        return Err(wrong(Code::INVALID_ARG, &view.name, &why));
                    }
                    Ok(())
                };
                // A guest that goes on from a stored state must have the CPUs that it began with, and the others beside them.
                let live = crate::guest::amend::Sides { live: sides.live, config: false };
                let named = guest
                    .amended(live, |root| {
                        most(root)?;
                        super::machine::set_count(root, count);
                        Ok(())
                    })
                    .await?;
                let config = crate::guest::amend::Sides { live: false, config: sides.config };
                let amended = guest
                    .amended(config, |root| {
                        most(root)?;
                        if root.child("vcpus").is_some() && flags & MAXIMUM == 0 {
                            super::machine::set_count(root, count);
                            return Ok(());
                        }
                        // A list of them is of the number that there was.
                        root.take("vcpus");
                        let (now, most) = (current(root), maximum(root));
                        let (now, most) =
                            if flags & MAXIMUM != 0 { (now.min(count), count) } else { (count, most) };
                        let vcpu = root.child_or_insert("vcpu");
                        vcpu.set_text(most.to_string());
                        if now < most {
                            vcpu.set("current", now.to_string());
                        } else {
                            vcpu.unset("current");
                        }
                        Ok(())
                    })
                    .await?;
                if sides.live {
                    guest.plug_cpus(count).await?;
                    guest.apply(named).await?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

impl Guest {
    /// Plugs CPUs until there are so many. All or none: those that were plugged go again if one can't be.
    async fn plug_cpus(&self, count: u32) -> Result<(), Error> {
        let monitor = self.monitor()?;
        let failed = |error| self.monitor_error(&error);
        let slots =
            monitor.execute("query-hotpluggable-cpus", Value::Null, COMMAND_WITHIN).await.map_err(failed)?;
        let slots: Vec<&Value> = slots.as_array().into_iter().flatten().rev().collect();
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let there = slots.iter().filter(|slot| slot.get("qom-path").is_some()).count();
        if wanted < there {
            let name = &self.view().name;
            let why = "taking CPUs away needs the guest's consent, which is not waited for here; change its definition";
            return Err(wrong(Code::OPERATION_UNSUPPORTED, name, why));
        }
        let mut plugged = Vec::new();
        let free = slots.iter().enumerate().filter(|(_, slot)| slot.get("qom-path").is_none());
        for (number, slot) in free.take(wanted - there) {
            let mut device = slot.get("props").and_then(Value::as_object).cloned().unwrap_or_default();
            let id = format!("vcpu{number}");
            device.insert("driver".to_owned(), slot.get("type").cloned().unwrap_or_default());
            device.insert("id".to_owned(), json!(id));
            if let Err(error) = monitor.execute("device_add", Value::Object(device), COMMAND_WITHIN).await {
                for id in plugged {
                    let _ = monitor.execute("device_del", json!({ "id": id }), COMMAND_WITHIN).await;
                }
                return Err(self.monitor_error(&error));
            }
            plugged.push(id);
        }
        Ok(())
    }
}

pub(super) async fn domain_set_memory(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_set_memory::Arguments,
) -> Result<(), Error> {
    set_memory(driver, &arguments.domain, arguments.memory, LIVE).await
}

pub(super) async fn domain_set_memory_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_memory_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | MAXIMUM)?;
    set_memory(driver, &arguments.domain, arguments.memory, arguments.flags).await
}

pub(super) async fn domain_set_max_memory(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_set_max_memory::Arguments,
) -> Result<(), Error> {
    set_memory(driver, &arguments.domain, arguments.memory, MAXIMUM).await
}

fn kib(root: &Element, name: &str) -> u64 {
    root.child_text(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn set_kib(root: &mut Element, name: &str, kib: u64) {
    place(root, Element::new(name).with("unit", "KiB").with_text(kib.to_string()));
}

async fn set_memory(driver: &Qemu, domain: &DomainRef, memory: u64, flags: u32) -> Result<(), Error> {
    if memory == 0 {
        let message = format!("Domain '{}': a domain can't be without memory", domain.name);
        return Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message));
    }
    driver
        .guest(domain)?
        .object
        .run("domain_set_memory", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let view = guest.view();
                if flags & MAXIMUM != 0 && sides.live {
                    let why = "the most memory it may have can't change while it runs; change its definition";
                    return Err(wrong(Code::OPERATION_INVALID, &view.name, why));
                }
                let config = crate::guest::amend::Sides { live: false, config: sides.config };
                let amended = guest
                    .amended(config, |root| {
                        if flags & MAXIMUM != 0 {
                            if root.at("cpu/numa").is_some() {
                                let why = "its memory is that of its NUMA cells; change them";
                                return Err(wrong(Code::OPERATION_INVALID, &view.name, why));
                            }
                            let now = kib(root, "currentMemory");
                            set_kib(root, "memory", memory);
                            set_kib(root, "currentMemory", now.min(memory));
                            return Ok(());
                        }
                        if memory > kib(root, "memory") {
                            let why = "it can't have more memory than the most it may have";
                            return Err(wrong(Code::INVALID_ARG, &view.name, why));
                        }
                        set_kib(root, "currentMemory", memory);
                        Ok(())
                    })
                    .await?;
                if sides.live {
                    let root = &guest.active()?.live_root();
                    if memory > kib(root, "memory") {
                        let why = "it can't have more memory than the most it may have";
                        return Err(wrong(Code::INVALID_ARG, &view.name, why));
                    }
                    balloon_of(root, &view.name)?;
                    let bytes = memory.saturating_mul(1024);
                    let asked = guest.monitor()?.within(COMMAND_WITHIN).balloon(bytes).await;
                    asked.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

/// The balloon of a guest that has one.
fn balloon_of<'a>(root: &'a Element, domain: &str) -> Result<&'a Element, Error> {
    let balloon = root.child("devices").and_then(|devices| devices.child("memballoon"));
    balloon.filter(|balloon| balloon.attr("model") != Some("none")).ok_or_else(|| {
        let why = "its memory can't change without a balloon; add <memballoon> to its definition";
        wrong(Code::OPERATION_INVALID, domain, why)
    })
}

pub(super) async fn domain_set_memory_stats_period(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_memory_stats_period::Arguments,
) -> Result<(), Error> {
    let (period, flags) = (arguments.period, arguments.flags);
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    if period < 0 {
        return Err(wrong(Code::INVALID_ARG, &arguments.domain.name, "a period can't be negative"));
    }
    driver
        .guest(&arguments.domain)?
        .object
        .run("domain_set_memory_stats_period", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let view = guest.view();
                let amended = guest
                    .amended(sides, |root| {
                        balloon_of(root, &view.name)?;
                        let devices = root.child_or_insert("devices");
                        let Some(balloon) = devices.child_mut("memballoon") else { return Ok(()) };
                        balloon.take("stats");
                        if period > 0 {
                            let stats = Element::new("stats").with("period", period.to_string());
                            balloon.children.insert(0, bulkhead_xml::Node::Element(stats));
                        }
                        Ok(())
                    })
                    .await?;
                if sides.live {
                    let root = guest.active()?.live_root();
                    let alias = balloon_of(&root, &view.name)?.path_attr("alias", "name").unwrap_or_default();
                    let arguments = json!({ "path": format!("/machine/peripheral/{alias}"),
                        "property": "guest-stats-polling-interval", "value": period });
                    let set = guest.monitor()?.execute("qom-set", arguments, COMMAND_WITHIN).await;
                    set.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

/// The ids of a domain's I/O threads: those that are named, and the first numbers for the rest.
pub(super) fn iothread_ids(root: &Element) -> Vec<u32> {
    let named = root.child("iothreadids").into_iter().flat_map(|ids| ids.all("iothread"));
    let mut ids: Vec<u32> =
        named.filter_map(|thread| thread.attr("id").and_then(|id| id.parse().ok())).collect();
    let count = root.child_text("iothreads").and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0);
    let mut next = 1;
    // A definition with more threads than anybody has is refused before it gets here; this bounds the work all the same.
    while ids.len() < count.min(4096) {
        if !ids.contains(&next) {
            ids.push(next);
        }
        next += 1;
    }
    ids.sort_unstable();
    ids
}

pub(super) fn set_iothreads(root: &mut Element, ids: &[u32]) {
    root.take("iothreads");
    let old = root.take("iothreadids");
    if ids.is_empty() {
        return;
    }
    place(root, Element::new("iothreads").with_text(ids.len().to_string()));
    let mut list = Element::new("iothreadids");
    for id in ids {
        let id = id.to_string();
        let known =
            old.iter().flat_map(|old| old.all("iothread")).find(|thread| thread.attr("id") == Some(&id));
        list.push(known.cloned().unwrap_or_else(|| Element::new("iothread").with("id", id)));
    }
    place(root, list);
}

async fn change_iothread(
    driver: &Qemu,
    domain: &DomainRef,
    id: u32,
    flags: u32,
    adds: bool,
) -> Result<(), Error> {
    let name = domain.name.clone();
    let refuse =
        move |why: String| Error::new(Code::INVALID_ARG, Origin::DOMAIN, format!("Domain '{name}': {why}"));
    if id == 0 {
        return Err(refuse("I/O threads are numbered from 1".to_owned()));
    }
    let edit = move |root: &mut Element| {
        let mut ids = iothread_ids(root);
        match (adds, ids.iter().position(|known| *known == id)) {
            (true, Some(_)) => return Err(refuse(format!("it has an I/O thread {id} already"))),
            (false, None) => return Err(refuse(format!("it has no I/O thread {id}"))),
            (true, None) => ids.push(id),
            (false, Some(at)) => {
                let text = id.to_string();
                let mut devices = root.child("devices").into_iter().flat_map(Element::elements);
                if devices.any(|device| device.path_attr("driver", "iothread") == Some(&text)) {
                    return Err(refuse(format!("a device of it uses I/O thread {id}; remove that first")));
                }
                ids.remove(at);
            }
        }
        ids.sort_unstable();
        set_iothreads(root, &ids);
        Ok(())
    };
    driver
        .guest(domain)?
        .object
        .run(if adds { "domain_add_iothread" } else { "domain_del_iothread" }, move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    let object = format!("iothread{id}");
                    let (command, arguments) = if adds {
                        ("object-add", json!({ "qom-type": "iothread", "id": object }))
                    } else {
                        ("object-del", json!({ "id": object }))
                    };
                    let done = guest.monitor()?.execute(command, arguments, COMMAND_WITHIN).await;
                    done.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

pub(super) async fn domain_add_iothread(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_add_iothread::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    change_iothread(driver, &arguments.domain, arguments.id, arguments.flags, true).await
}

pub(super) async fn domain_del_iothread(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_del_iothread::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    change_iothread(driver, &arguments.domain, arguments.id, arguments.flags, false).await
}
