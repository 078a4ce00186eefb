//! The machine of a domain: single CPUs, how I/O threads poll, what follows its end, what is counted of it.

use super::processors::{current, maximum};
use super::sizes::{iothread_ids, set_iothreads};
use super::tunables::{unknown, wrong_kind};
use super::unsupported_flags;
use crate::domain::{PERF_EVENTS, sets};
use crate::driver::Qemu;
use crate::guest::amend::{CONFIG, LIVE, place};
use crate::guest::{COMMAND_WITHIN, Guest};
use crate::monitor::Monitor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_graphics_reload, domain_pm_wakeup, domain_set_iothread_params, domain_set_launch_security_state,
    domain_set_lifecycle_action, domain_set_perf_events, domain_set_vcpu,
};
use bulkhead_wire::types::{Parameter, ParameterValue};
use bulkhead_xml::Element;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time in which the guest must give a CPU back.
const UNPLUGGED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A virtual CPU in a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpu {
    enabled: bool,
    hotpluggable: bool,
}

/// All virtual CPUs that a definition allows. Where they are not named one by one, those that are there come first, and are
/// there to stay.
fn cpus(root: &Element) -> Vec<Cpu> {
    let named = root.child("vcpus");
    let (now, most) = (current(root), maximum(root));
    let one = |number: u32| {
        let text = number.to_string();
        let element = named.and_then(|named| named.all("vcpu").find(|vcpu| vcpu.attr("id") == Some(&text)));
        match element {
            Some(element) => Cpu {
                enabled: element.attr("enabled") == Some("yes"),
                hotpluggable: element.attr("hotpluggable") == Some("yes"),
            },
            None => Cpu { enabled: number < now, hotpluggable: number >= now },
        }
    };
    (0..most).map(one).collect()
}

/// Writes them into a definition, one by one.
fn set_cpus(root: &mut Element, cpus: &[Cpu]) {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let mut list = Element::new("vcpus");
    for (number, cpu) in cpus.iter().enumerate() {
        let vcpu = Element::new("vcpu").with("id", number.to_string()).with("enabled", yes(cpu.enabled));
        list.push(vcpu.with("hotpluggable", yes(cpu.hotpluggable)));
    }
    let enabled = cpus.iter().filter(|cpu| cpu.enabled).count();
    let vcpu = root.child_or_insert("vcpu");
    if enabled < cpus.len() {
        vcpu.set("current", enabled.to_string());
    } else {
        vcpu.unset("current");
    }
    root.take("vcpus");
    place(root, list);
}

/// Has so many virtual CPUs be there, where they are named one by one: those with the lowest numbers.
pub(super) fn set_count(root: &mut Element, count: u32) {
    let mut all = cpus(root);
    let mut left = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(
        // Those that are there to stay.
        all.iter().filter(|cpu| cpu.enabled && !cpu.hotpluggable).count(),
    );
    for cpu in all.iter_mut().filter(|cpu| cpu.hotpluggable) {
        cpu.enabled = left > 0;
        left = left.saturating_sub(1);
    }
    set_cpus(root, &all);
}

pub(super) async fn domain_set_vcpu(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_vcpu::Arguments,
) -> Result<(), Error> {
    let domain_set_vcpu::Arguments { domain, map, state, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let name = domain.name.clone();
    let wrong = move |code, why: &str| Error::new(code, Origin::QEMU, format!("Domain '{name}': {why}"));
    if !matches!(state, 0 | 1) {
        return Err(wrong(Code::INVALID_ARG, "unsupported state value: a CPU is there (1) or not (0)"));
    }
    let wanted = sets::parse(&map).filter(|set| !set.is_empty()).ok_or_else(|| {
        Error::new(Code::INVALID_ARG, Origin::NONE, format!("'{map}' is no set of virtual CPUs; write 1-2,5"))
    })?;
    let on = state == 1;
    let chosen = wanted.clone();
    let edit = move |root: &mut Element| {
        let mut all = cpus(root);
        for number in &chosen {
            let cpu = usize::try_from(*number).ok().and_then(|number| all.get_mut(number));
            let Some(cpu) = cpu else {
                return Err(wrong(
                    Code::INVALID_ARG,
                    &format!("vcpu {number} is not among those it may have"),
                ));
            };
            if !on && !cpu.hotpluggable {
                let why = format!("vCPU '{number}' can't be modified: it is there to stay");
                return Err(wrong(Code::INVALID_ARG, &why));
            }
            cpu.enabled = on;
        }
        set_cpus(root, &all);
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_vcpu", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    guest.switch_cpus(&guest.monitor()?, &wanted, on).await?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

impl Guest {
    /// Plugs the virtual CPUs that a definition has beside those which are there to stay.
    pub(crate) async fn plug_named_cpus(&self, monitor: &Monitor, live: &Element) -> Result<(), Error> {
        let named = live.child("vcpus").into_iter().flat_map(|vcpus| vcpus.all("vcpu"));
        let plugged =
            named.filter(|cpu| ["enabled", "hotpluggable"].iter().all(|name| cpu.attr(name) == Some("yes")));
        let numbers = plugged.filter_map(|cpu| cpu.attr("id")?.parse().ok()).collect();
        self.switch_cpus(monitor, &numbers, true).await
    }

    /// Plugs virtual CPUs, or takes them away, which the guest must agree to.
    async fn switch_cpus(&self, monitor: &Monitor, wanted: &BTreeSet<u32>, on: bool) -> Result<(), Error> {
        let failed = |error| self.monitor_error(&error);
        for number in wanted {
            let slots = monitor.execute("query-hotpluggable-cpus", Value::Null, COMMAND_WITHIN).await;
            let slots = slots.map_err(failed)?;
            // QEMU names the last one first.
            let slot = slots.as_array().into_iter().flatten().rev().nth(*number as usize);
            let slot =
                slot.ok_or_else(|| self.invalid(&format!("QEMU has no place for virtual CPU {number}")))?;
            let there = slot.get("qom-path").and_then(Value::as_str);
            match (on, there) {
                (true, None) => {
                    let mut device =
                        slot.get("props").and_then(Value::as_object).cloned().unwrap_or_default();
                    device.insert("driver".to_owned(), slot.get("type").cloned().unwrap_or_default());
                    device.insert("id".to_owned(), json!(format!("vcpu{number}")));
                    let added = monitor.execute("device_add", Value::Object(device), COMMAND_WITHIN).await;
                    added.map_err(failed)?;
                }
                (false, Some(path)) => {
                    let id = path.strip_prefix("/machine/peripheral/").ok_or_else(|| {
                        let why = format!("vcpu '{number}' can't be unplugged: it was there from the start");
                        self.failure(Code::OPERATION_UNSUPPORTED, &why)
                    })?;
                    monitor
                        .execute("device_del", json!({ "id": id }), COMMAND_WITHIN)
                        .await
                        .map_err(failed)?;
                    self.wait_unplugged(path).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn wait_unplugged(&self, path: &str) -> Result<(), Error> {
        let monitor = self.monitor()?;
        let gone = async {
            loop {
                let slots = monitor.execute("query-hotpluggable-cpus", Value::Null, COMMAND_WITHIN).await;
                let slots = slots.map_err(|error| self.monitor_error(&error))?;
                let mut paths = slots.as_array().into_iter().flatten().map(|slot| slot.get("qom-path"));
                if !paths.any(|there| there.and_then(Value::as_str) == Some(path)) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(UNPLUGGED_WITHIN, gone).await.unwrap_or_else(|_elapsed| {
            let why = "the guest has not given the virtual CPU back; it may do so later, look at its XML";
            Err(self.failure(Code::OPERATION_TIMEOUT, why))
        })
    }

    /// An error with the guest's name.
    pub(super) fn failure(&self, code: Code, why: &str) -> Error {
        Error::new(code, Origin::QEMU, format!("Domain '{}': {why}", self.view().name))
    }
}

/// Parameters of an I/O thread: QEMU's property, and where a definition has it.
const POLLING: [(&str, &str, Option<&str>); 5] = [
    ("poll_max_ns", "poll-max-ns", Some("max")),
    ("poll_grow", "poll-grow", Some("grow")),
    ("poll_shrink", "poll-shrink", Some("shrink")),
    ("thread_pool_min", "thread-pool-min", None),
    ("thread_pool_max", "thread-pool-max", None),
];

/// Sets a value of one I/O thread in a definition.
fn set_polling(root: &mut Element, id: u32, changes: &[(&str, Option<&str>, i64)]) {
    let ids = iothread_ids(root);
    set_iothreads(root, &ids);
    let text = id.to_string();
    let mut threads = root.child_mut("iothreadids").into_iter().flat_map(Element::elements_mut);
    let Some(thread) = threads.find(|thread| thread.attr("id") == Some(&text)) else { return };
    for (name, attribute, value) in changes {
        match attribute {
            Some(attribute) => thread.child_or_insert("poll").set(attribute, value.to_string()),
            None => thread.set(name, value.to_string()),
        }
    }
}

pub(super) async fn domain_set_iothread_params(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_iothread_params::Arguments,
) -> Result<(), Error> {
    let domain_set_iothread_params::Arguments { domain, thread, parameters, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let mut changes = Vec::new();
    for Parameter { field, value } in &parameters {
        let known = POLLING.into_iter().find(|(name, ..)| name == field);
        let (name, property, attribute) = known.ok_or_else(|| unknown(field))?;
        let value = match value {
            ParameterValue::UnsignedLong(value) => i64::try_from(*value).ok(),
            ParameterValue::UnsignedInt(value) => Some(i64::from(*value)),
            ParameterValue::Int(value) => Some(i64::from(*value)),
            _ => None,
        };
        let value = value.filter(|value| *value >= 0).ok_or_else(|| {
            let message = format!("Parameter '{field}' is a number that is not negative");
            Error::new(Code::INVALID_ARG, Origin::NONE, message)
        })?;
        changes.push((name, property, attribute, value));
    }
    let kept: Vec<(&str, Option<&str>, i64)> =
        changes.iter().map(|(name, _, attribute, value)| (*name, *attribute, *value)).collect();
    let name = domain.name.clone();
    let edit = move |root: &mut Element| {
        if !iothread_ids(root).contains(&thread) {
            let message = format!("Domain '{name}': cannot find IOThread '{thread}' in iothreadids");
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        set_polling(root, thread, &kept);
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_iothread_params", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    // The larger number first where both change, so that neither passes the other.
                    let mut ordered = changes;
                    ordered.sort_by_key(|(name, ..)| *name != "thread_pool_max");
                    for (_, property, _, value) in ordered {
                        let path = format!("/objects/iothread{thread}");
                        let told = json!({ "path": path, "property": property, "value": value });
                        let set = guest.monitor()?.execute("qom-set", told, COMMAND_WITHIN).await;
                        set.map_err(|error| guest.monitor_error(&error))?;
                    }
                }
                guest.apply(amended).await
            })
        })
        .await?
}

/// `virDomainLifecycle` and `virDomainLifecycleAction`.
const LIFECYCLES: [&str; 3] = ["on_poweroff", "on_reboot", "on_crash"];
const ACTIONS: [&str; 6] =
    ["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"];

pub(super) async fn domain_set_lifecycle_action(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_lifecycle_action::Arguments,
) -> Result<(), Error> {
    let domain_set_lifecycle_action::Arguments { domain, kind, action, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let wrong =
        |code, why: &str| Error::new(code, Origin::DOMAIN, format!("Domain '{}': {why}", domain.name));
    let pick = |list: &[&'static str], number: u32| {
        usize::try_from(number).ok().and_then(|number| list.get(number).copied())
    };
    let which = pick(&LIFECYCLES, kind)
        .ok_or_else(|| wrong(Code::INVALID_ARG, &format!("invalid lifecycle type '{kind}'")))?;
    let what = pick(&ACTIONS, action)
        .ok_or_else(|| wrong(Code::INVALID_ARG, &format!("invalid lifecycle action '{action}'")))?;
    if which != "on_crash" && what.starts_with("coredump") {
        let why = format!("<{which}> can't be '{what}': only who has crashed leaves a core");
        return Err(wrong(Code::CONFIG_UNSUPPORTED, &why));
    }
    let name = domain.name.clone();
    let edit = move |root: &mut Element| {
        root.child_or_insert(which).set_text(what);
        let is = |name: &str, action: &str| root.child_text(name).as_deref() == Some(action);
        let reset = |name: &str| is(name, "restart") || is(name, "rename-restart");
        if reset("on_poweroff") && is("on_reboot", "destroy")
            || is("on_poweroff", "preserve") && which != "on_crash" && is("on_reboot", "destroy")
        {
            let message =
                format!("Domain '{name}': <on_reboot> and <on_poweroff> as wished exclude each other");
            return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
        }
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_lifecycle_action", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live && which == "on_reboot" {
                    let reboot = if what == "destroy" { "shutdown" } else { "reset" };
                    let told = json!({ "reboot": reboot });
                    let set = guest.monitor()?.execute("set-action", told, COMMAND_WITHIN).await;
                    set.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

pub(super) async fn domain_set_perf_events(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_perf_events::Arguments,
) -> Result<(), Error> {
    let domain_set_perf_events::Arguments { domain, parameters, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let mut changes = Vec::new();
    for parameter in &parameters {
        let known = PERF_EVENTS.iter().copied().find(|name| *name == parameter.field);
        let name = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::Boolean(enabled) = parameter.value else {
            return Err(wrong_kind(parameter, "boolean"));
        };
        changes.push((name, enabled));
    }
    let counts = changes.iter().find(|(_, enabled)| *enabled).map(|(name, _)| *name);
    let edit = move |root: &mut Element| {
        let mut perf = root.take("perf").unwrap_or_else(|| Element::new("perf"));
        for (name, enabled) in &changes {
            let value = if *enabled { "yes" } else { "no" };
            let event = Element::new("event").with("name", *name).with("enabled", value);
            if let Some(other) = perf.elements_mut().find(|event| event.attr("name") == Some(name)) {
                *other = event;
            } else {
                perf.push(event);
            }
        }
        place(root, perf);
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_perf_events", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                if let Some(name) = counts.filter(|_| sides.live) {
                    let why = format!("counter {name} can't be opened for a guest that runs; set it in its definition (--config)");
                    return Err(guest.failure(Code::OPERATION_UNSUPPORTED, &why));
                }
                guest.amend(sides, edit).await
            })
        })
        .await?
}

pub(super) async fn domain_pm_wakeup(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pm_wakeup::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    driver.observed(&arguments.domain)?.ask("system_wakeup", Value::Null).await.map(drop)
}

/// `VIR_DOMAIN_GRAPHICS_RELOAD_TYPE_VNC`; 0 is any.
const RELOAD_VNC: u32 = 1;

pub(super) async fn domain_graphics_reload(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_graphics_reload::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.kind > RELOAD_VNC {
        let why = format!("there is no kind {} of displays that read certificates", arguments.kind);
        return Err(guest.wrong(Code::INVALID_ARG, &why));
    }
    let told = json!({ "type": "vnc", "tls-certs": true });
    guest.ask("display-reload", told).await.map(drop)
}

pub(super) async fn domain_set_launch_security_state(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_launch_security_state::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let kind =
        view.root().and_then(|root| root.child("launchSecurity")).and_then(|element| element.attr("type"));
    let why = match kind {
        Some(kind) => format!("a secret can't be put into a guest of type '{kind}' here"),
        None => {
            "a secret can be put into a guest alone whose memory is encrypted (<launchSecurity>)".to_owned()
        }
    };
    let message = format!("Domain '{}': {why}", view.name);
    Err(Error::new(Code::OPERATION_UNSUPPORTED, Origin::QEMU, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::amend::tree;

    #[test]
    fn cpus_are_switched_one_by_one_and_those_there_to_stay_stay() {
        let mut root = tree("<domain><vcpu current='1'>3</vcpu></domain>").unwrap();
        let mut all = cpus(&root);
        assert_eq!(all[0], Cpu { enabled: true, hotpluggable: false });
        all[2].enabled = true;
        set_cpus(&mut root, &all);
        assert_eq!((current(&root), maximum(&root)), (2, 3));
        set_count(&mut root, 2);
        let enabled: Vec<bool> = cpus(&root).iter().map(|cpu| cpu.enabled).collect();
        assert_eq!(enabled, [true, true, false]);
        set_count(&mut root, 3);
        assert!(root.path_attr("vcpu", "current").is_none());
    }

    #[test]
    fn an_io_thread_keeps_how_it_polls() {
        let mut root = tree("<domain><iothreads>2</iothreads></domain>").unwrap();
        set_polling(&mut root, 2, &[("poll_max_ns", Some("max"), 5), ("thread_pool_min", None, 1)]);
        let thread = root.child("iothreadids").unwrap().all("iothread").nth(1).unwrap();
        assert_eq!((thread.path_attr("poll", "max"), thread.attr("thread_pool_min")), (Some("5"), Some("1")));
    }
}
