//! What the guest's agent does inside: processors, keys of users, sleep.

use super::agent::senseless;
use super::observed::Observed;
use super::unsupported_flags;
use crate::domain::sets;
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::agent::AGENT_WITHIN;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_agent_set_response_timeout, domain_authorized_ssh_keys_get, domain_authorized_ssh_keys_set,
    domain_get_guest_vcpus, domain_pm_suspend_for_duration, domain_set_guest_vcpus,
};
use bulkhead_wire::types::Parameter;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Keys are added to those that there are (`VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND`).
const APPEND: u32 = 1;
/// Keys are taken away (`VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE`).
const REMOVE: u32 = 2;
/// The shortest time: as long as it takes.
const TIMEOUT_MIN: i32 = -2;

/// The processors as the agent tells of them: number, whether it runs, whether it may be switched off.
async fn processors(guest: &Observed<'_>) -> Result<Vec<(u32, bool, bool)>, Error> {
    let told = guest.agent().execute("guest-get-vcpus", Value::Null, AGENT_WITHIN).await?;
    let read = |cpu: &Value| {
        let flag = |name: &str| cpu.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = u32::try_from(cpu.get("logical-id")?.as_u64()?).ok()?;
        Some((number, flag("online"), flag("can-offline")))
    };
    let all = told.as_array().ok_or_else(|| senseless(guest, "its processors"))?;
    Ok(all.iter().filter_map(read).collect())
}

pub(super) async fn domain_get_guest_vcpus(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_guest_vcpus::Arguments,
) -> Result<Vec<Parameter>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let all = processors(&guest).await?;
    let listed = |fits: &dyn Fn(&(u32, bool, bool)) -> bool| {
        let numbers: BTreeSet<u32> = all.iter().filter(|cpu| fits(cpu)).map(|cpu| cpu.0).collect();
        sets::format(&numbers)
    };
    Ok(vec![
        Parameter::new("vcpus", listed(&|_| true)),
        Parameter::new("online", listed(&|cpu| cpu.1)),
        Parameter::new("offlinable", listed(&|cpu| cpu.2)),
    ])
}

pub(super) async fn domain_set_guest_vcpus(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_guest_vcpus::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let set = sets::parse(&arguments.map).filter(|set| !set.is_empty());
    let set = set.ok_or_else(|| {
        let message = format!("'{}' is no set of processors; write 1-2,5", arguments.map);
        Error::new(Code::INVALID_ARG, Origin::NONE, message)
    })?;
    let on = match arguments.state {
        0 => false,
        1 => true,
        _ => {
            return Err(
                guest.wrong(Code::INVALID_ARG, "unsupported state value: a processor runs (1) or not (0)")
            );
        }
    };
    let all = processors(&guest).await?;
    for number in &set {
        let known = all.iter().find(|cpu| cpu.0 == *number);
        let why = match known {
            None => format!("its agent knows no processor {number}"),
            Some((_, _, false)) if !on => format!("its processor {number} can't be switched off"),
            Some(_) => continue,
        };
        return Err(guest.wrong(Code::INVALID_ARG, &why));
    }
    let told: Vec<Value> = set.iter().map(|number| json!({ "logical-id": number, "online": on })).collect();
    let done = guest.agent().execute("guest-set-vcpus", json!({ "vcpus": told }), AGENT_WITHIN).await?;
    // The agent answers how many of them it has come to.
    match done.as_u64().and_then(|done| usize::try_from(done).ok()) {
        Some(done) if done >= set.len() => Ok(()),
        _ => Err(guest.wrong(Code::INTERNAL, "its agent could not switch all of these processors")),
    }
}

pub(super) async fn domain_agent_set_response_timeout(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_agent_set_response_timeout::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let (timeout, name) = (arguments.timeout, &arguments.domain.name);
    if timeout < TIMEOUT_MIN {
        let message = format!(
            "Domain '{name}': guest agent timeout '{timeout}' is less than the minimum '{TIMEOUT_MIN}'"
        );
        return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
    }
    driver
        .guest(&arguments.domain)?
        .object
        .run("domain_agent_set_response_timeout", move |guest: &mut Guest| {
            Box::pin(async move { guest.set_agent_timeout(timeout) })
        })
        .await?;
    Ok(0)
}

pub(super) async fn domain_authorized_ssh_keys_get(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_authorized_ssh_keys_get::Arguments,
) -> Result<Vec<String>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let told = json!({ "username": arguments.user });
    let answer = guest.agent().execute("guest-ssh-get-authorized-keys", told, AGENT_WITHIN).await?;
    let keys = answer.get("keys").and_then(Value::as_array).ok_or_else(|| senseless(&guest, "its keys"))?;
    Ok(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

pub(super) async fn domain_authorized_ssh_keys_set(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_authorized_ssh_keys_set::Arguments,
) -> Result<(), Error> {
    let flags = arguments.flags;
    unsupported_flags(&call, flags, APPEND | REMOVE)?;
    let guest = driver.observed(&arguments.domain)?;
    if flags & APPEND != 0 && flags & REMOVE != 0 {
        return Err(guest.wrong(Code::INVALID_ARG, "keys are added or removed, not both"));
    }
    if arguments.keys.is_empty() && flags != 0 {
        return Err(guest.wrong(Code::INVALID_ARG, "name keys that are to be added or removed"));
    }
    let (command, told) = if flags & REMOVE != 0 {
        ("guest-ssh-remove-authorized-keys", json!({ "username": arguments.user, "keys": arguments.keys }))
    } else {
        let reset = flags & APPEND == 0;
        let told = json!({ "username": arguments.user, "keys": arguments.keys, "reset": reset });
        ("guest-ssh-add-authorized-keys", told)
    };
    guest.agent().execute(command, told, AGENT_WITHIN).await.map(drop)
}

/// `virNodeSuspendTarget`: the agent's commands, and what the definition may forbid.
const SUSPENDS: [(&str, &str); 3] = [
    ("guest-suspend-ram", "suspend-to-mem"),
    ("guest-suspend-disk", "suspend-to-disk"),
    ("guest-suspend-hybrid", "suspend-to-mem"),
];

pub(super) async fn domain_pm_suspend_for_duration(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_pm_suspend_for_duration::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let name = &arguments.domain.name;
    let wrong = |code, why: &str| Error::new(code, Origin::QEMU, format!("Domain '{name}': {why}"));
    if arguments.seconds != 0 {
        return Err(wrong(Code::ARGUMENT_UNSUPPORTED, "it can't be told for how long to sleep; say 0"));
    }
    let target = usize::try_from(arguments.target).ok().and_then(|target| SUSPENDS.get(target));
    let (command, element) = target
        .ok_or_else(|| wrong(Code::INVALID_ARG, &format!("unknown suspend target: {}", arguments.target)))?;
    let guest = driver.observed(&arguments.domain)?;
    let pm = guest.root().child("pm").and_then(|pm| pm.path_attr(element, "enabled"));
    if pm == Some("no") {
        let why = format!("its definition forbids that sleep (<{element} enabled='no'/>)");
        return Err(wrong(Code::OPERATION_UNSUPPORTED, &why));
    }
    guest.agent().suspend(command).await
}
