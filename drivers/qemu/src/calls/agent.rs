//! What a guest's agent is asked.

use super::observed::Observed;
use super::unsupported_flags;
use crate::base64::base64;
use crate::driver::Qemu;
use crate::guest::agent::AGENT_WITHIN;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_agent_command, domain_fsfreeze, domain_fsthaw, domain_fstrim, domain_get_fsinfo,
    domain_get_guest_info, domain_get_hostname, domain_get_time, domain_interface_addresses, domain_set_time,
    domain_set_user_password,
};
use bulkhead_wire::types::{
    DomainRef, FileSystem, FileSystems, GuestAddress, GuestInterface, GuestTime, Parameter,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Where addresses come from: leases, the agent, the host's neighbours.
const SOURCE_LEASE: u32 = 0;
const SOURCE_AGENT: u32 = 1;
/// Names by the leases of networks, or by the agent (`virDomainGetHostnameFlags`).
const HOSTNAME_LEASE: u32 = 1;
const HOSTNAME_AGENT: u32 = 2;
/// The password is hashed already (`VIR_DOMAIN_PASSWORD_ENCRYPTED`).
const PASSWORD_ENCRYPTED: u32 = 1;
/// `virDomainGuestInfoTypes`.
const INFO_USERS: u32 = 1;
const INFO_OS: u32 = 2;
const INFO_TIMEZONE: u32 = 4;
const INFO_HOSTNAME: u32 = 8;
const INFO_FILESYSTEM: u32 = 16;
const INFO_DISKS: u32 = 32;
const INFO_INTERFACES: u32 = 64;
const INFO_LOAD: u32 = 128;
/// What is told here.
const INFO_SERVED: u32 =
    INFO_USERS | INFO_OS | INFO_TIMEZONE | INFO_HOSTNAME | INFO_FILESYSTEM | INFO_INTERFACES;
const INFO_KNOWN: u32 = INFO_SERVED | INFO_DISKS | INFO_LOAD;
/// libvirt has no number of its own for "no hostname found" but this.
const NO_HOSTNAME: Code = Code(108);
/// The longest that a command of a client's may take.
const COMMAND_MAX: Duration = Duration::from_secs(55);

/// Take the time from the guest's clock that runs without it (`VIR_DOMAIN_TIME_SYNC`).
const TIME_SYNC: u32 = 1;
const NS_PER_SECOND: i64 = 1_000_000_000;

pub(super) fn senseless(guest: &Observed<'_>, what: &str) -> Error {
    guest.wrong(Code::INTERNAL, &format!("its agent's answer about {what} makes no sense"))
}

pub(super) async fn domain_get_time(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_time::Arguments,
) -> Result<GuestTime, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let time = guest.agent().execute("guest-get-time", Value::Null, AGENT_WITHIN).await?;
    let time = time.as_i64().ok_or_else(|| senseless(&guest, "the time"))?;
    Ok(GuestTime {
        seconds: time.div_euclid(NS_PER_SECOND),
        nanoseconds: u32::try_from(time.rem_euclid(NS_PER_SECOND)).unwrap_or(0),
    })
}

pub(super) async fn domain_set_time(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_time::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, TIME_SYNC)?;
    let guest = driver.observed(&arguments.domain)?;
    let time = arguments
        .seconds
        .checked_mul(NS_PER_SECOND)
        .and_then(|time| time.checked_add(i64::from(arguments.nanoseconds)))
        .ok_or_else(|| guest.wrong(Code::OVERFLOW, "that time lies beyond what its agent can be told"))?;
    let time = if arguments.flags & TIME_SYNC != 0 { Value::Null } else { json!({ "time": time }) };
    guest.agent().execute("guest-set-time", time, AGENT_WITHIN).await.map(drop)
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'a>(guest: &Observed<'_>, value: &'a Value, what: &str) -> Result<&'a Vec<Value>, Error> {
    value.as_array().ok_or_else(|| senseless(guest, what))
}

async fn ask(guest: &Observed<'_>, command: &str) -> Result<Value, Error> {
    guest.agent().execute(command, Value::Null, AGENT_WITHIN).await
}

pub(super) async fn domain_get_hostname(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_hostname::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, HOSTNAME_LEASE | HOSTNAME_AGENT)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.flags & HOSTNAME_LEASE != 0 {
        return Err(guest
            .wrong(NO_HOSTNAME, "no network of this stack has given it a lease with a name; ask its agent"));
    }
    let name = ask(&guest, "guest-get-host-name").await?;
    name.get("host-name")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| senseless(&guest, "its name"))
}

/// A file system as the agent tells of it; its disks by their targets, where their addresses are known.
fn file_system(guest: &Observed<'_>, told: &Value) -> FileSystem {
    let disks = told.get("disk").and_then(Value::as_array);
    let devices = disks.into_iter().flatten().filter_map(|disk| target(guest, disk));
    FileSystem {
        mount_point: text(told, "mountpoint"),
        name: text(told, "name"),
        kind: text(told, "type"),
        devices: devices.collect(),
    }
}

/// The target of the disk at an address that the agent names.
fn target(guest: &Observed<'_>, told: &Value) -> Option<String> {
    let pci = told.get("pci-controller");
    let part = |from: Option<&Value>, name: &str| from?.get(name)?.as_u64();
    let number = |text: Option<&str>| -> Option<u64> {
        let text = text?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    let mut disks = crate::guest::blocks::disks(guest.root());
    let disk = disks.find(|disk| {
        let attribute = |name: &str| number(disk.path_attr("address", name));
        match disk.path_attr("address", "type") {
            Some("pci") => {
                ["domain", "bus", "slot", "function"].iter().all(|name| attribute(name) == part(pci, name))
            }
            Some("drive") => {
                ["bus", "target", "unit"].iter().all(|name| attribute(name) == part(Some(told), name))
            }
            _ => false,
        }
    })?;
    disk.path_attr("target", "dev").map(str::to_owned)
}

pub(super) async fn domain_get_fsinfo(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_fsinfo::Arguments,
) -> Result<FileSystems, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let told = ask(&guest, "guest-get-fsinfo").await?;
    let told = list(&guest, &told, "file systems")?;
    let systems: Vec<FileSystem> = told.iter().map(|told| file_system(&guest, told)).collect();
    Ok(FileSystems { count: u32::try_from(systems.len()).unwrap_or(u32::MAX), systems })
}

/// A command whose answer is a number.
async fn counted(guest: &Observed<'_>, command: &str, arguments: Value) -> Result<i32, Error> {
    let number = guest.agent().execute(command, arguments, AGENT_WITHIN).await?;
    let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| senseless(guest, command))
}

pub(super) async fn domain_fsfreeze(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_fsfreeze::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.mount_points.is_empty() {
        return counted(&guest, "guest-fsfreeze-freeze", Value::Null).await;
    }
    let some = json!({ "mountpoints": arguments.mount_points });
    counted(&guest, "guest-fsfreeze-freeze-list", some).await
}

pub(super) async fn domain_fsthaw(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_fsthaw::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    if !arguments.mount_points.is_empty() {
        return Err(guest
            .wrong(Code::OPERATION_UNSUPPORTED, "its agent can only let all file systems go on; name none"));
    }
    counted(&guest, "guest-fsfreeze-thaw", Value::Null).await
}

pub(super) async fn domain_fstrim(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_fstrim::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.mount_point.is_some() {
        return Err(
            guest.wrong(Code::ARGUMENT_UNSUPPORTED, "its agent trims all file systems at once; name none")
        );
    }
    guest
        .agent()
        .execute("guest-fstrim", json!({ "minimum": arguments.minimum }), AGENT_WITHIN)
        .await
        .map(drop)
}

fn interfaces(told: &[Value]) -> Vec<GuestInterface> {
    let address = |told: &Value| {
        Some(GuestAddress {
            kind: match told.get("ip-address-type")?.as_str()? {
                "ipv4" => 0,
                "ipv6" => 1,
                _ => return None,
            },
            address: told.get("ip-address")?.as_str()?.to_owned(),
            prefix: told
                .get("prefix")
                .and_then(Value::as_u64)
                .and_then(|prefix| u32::try_from(prefix).ok())?,
        })
    };
    let one = |told: &Value| GuestInterface {
        name: text(told, "name"),
        hardware_address: told.get("hardware-address").and_then(Value::as_str).map(str::to_owned),
        addresses: told
            .get("ip-addresses")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(address)
            .collect(),
    };
    told.iter().map(one).collect()
}

pub(super) async fn domain_interface_addresses(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_interface_addresses::Arguments,
) -> Result<Vec<GuestInterface>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    match arguments.source {
        // Leases are given by networks of this stack's own, of which there are none yet.
        SOURCE_LEASE => Ok(Vec::new()),
        SOURCE_AGENT => {
            let told = ask(&guest, "guest-network-get-interfaces").await?;
            Ok(interfaces(list(&guest, &told, "interfaces")?))
        }
        source => {
            let why = format!("addresses of source {source} can't be had; ask its agent (1)");
            Err(guest.wrong(Code::ARGUMENT_UNSUPPORTED, &why))
        }
    }
}

pub(super) async fn domain_set_user_password(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_user_password::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, PASSWORD_ENCRYPTED)?;
    let guest = driver.observed(&arguments.domain)?;
    let (Some(user), Some(password)) = (arguments.user, arguments.password) else {
        return Err(guest.wrong(Code::INVALID_ARG, "name a user and a password"));
    };
    let told = json!({ "username": user, "password": base64(password.as_bytes()),
        "crypted": arguments.flags & PASSWORD_ENCRYPTED != 0 });
    guest.agent().execute("guest-set-user-password", told, AGENT_WITHIN).await.map(drop)
}

fn count(list: &[Value]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// One part of what a guest says of itself.
async fn info(guest: &Observed<'_>, part: u32, into: &mut Vec<Parameter>) -> Result<(), Error> {
    let mut add = |name: String, value: String| {
        if !value.is_empty() {
            into.push(Parameter::new(name, value));
        }
    };
    match part {
        INFO_HOSTNAME => {
            add("hostname".to_owned(), text(&ask(guest, "guest-get-host-name").await?, "host-name"));
        }
        INFO_TIMEZONE => {
            let zone = ask(guest, "guest-get-timezone").await?;
            add("timezone.name".to_owned(), text(&zone, "zone"));
            let offset =
                zone.get("offset").and_then(Value::as_i64).and_then(|offset| i32::try_from(offset).ok());
            into.extend(offset.map(|offset| Parameter::new("timezone.offset", offset)));
        }
        INFO_OS => {
            let os = ask(guest, "guest-get-osinfo").await?;
            for name in [
                "id",
                "name",
                "pretty-name",
                "version",
                "version-id",
                "machine",
                "variant",
                "variant-id",
                "kernel-release",
                "kernel-version",
            ] {
                add(format!("os.{name}"), text(&os, name));
            }
        }
        INFO_USERS => {
            let users = ask(guest, "guest-get-users").await?;
            let users = list(guest, &users, "users")?;
            into.push(Parameter::new("user.count", count(users)));
            for (index, user) in users.iter().enumerate() {
                into.push(Parameter::new(format!("user.{index}.name"), text(user, "user")));
                // Seconds with a fraction; libvirt tells ms.
                if let Some(login) = user.get("login-time").and_then(Value::as_f64) {
                    let ms = Duration::try_from_secs_f64(login).unwrap_or_default().as_millis();
                    let ms = u64::try_from(ms).unwrap_or(u64::MAX);
                    into.push(Parameter::new(format!("user.{index}.login-time"), ms));
                }
            }
        }
        INFO_FILESYSTEM => {
            let systems = ask(guest, "guest-get-fsinfo").await?;
            let systems = list(guest, &systems, "file systems")?;
            into.push(Parameter::new("fs.count", count(systems)));
            for (index, told) in systems.iter().enumerate() {
                let system = file_system(guest, told);
                into.push(Parameter::new(format!("fs.{index}.mountpoint"), system.mount_point));
                into.push(Parameter::new(format!("fs.{index}.name"), system.name));
                into.push(Parameter::new(format!("fs.{index}.fstype"), system.kind));
                for (name, theirs) in [("total-bytes", "total-bytes"), ("used-bytes", "used-bytes")] {
                    if let Some(value) = told.get(theirs).and_then(Value::as_u64) {
                        into.push(Parameter::new(format!("fs.{index}.{name}"), value));
                    }
                }
            }
        }
        INFO_INTERFACES => {
            let told = ask(guest, "guest-network-get-interfaces").await?;
            let all = interfaces(list(guest, &told, "interfaces")?);
            into.push(Parameter::new("if.count", u32::try_from(all.len()).unwrap_or(u32::MAX)));
            for (index, interface) in all.into_iter().enumerate() {
                into.push(Parameter::new(format!("if.{index}.name"), interface.name));
                if let Some(address) = interface.hardware_address {
                    into.push(Parameter::new(format!("if.{index}.hwaddr"), address));
                }
                let addresses = u32::try_from(interface.addresses.len()).unwrap_or(u32::MAX);
                into.push(Parameter::new(format!("if.{index}.addr.count"), addresses));
                for (number, address) in interface.addresses.into_iter().enumerate() {
                    let kind = if address.kind == 0 { "ipv4" } else { "ipv6" };
                    into.push(Parameter::new(format!("if.{index}.addr.{number}.type"), kind));
                    into.push(Parameter::new(format!("if.{index}.addr.{number}.addr"), address.address));
                    into.push(Parameter::new(format!("if.{index}.addr.{number}.prefix"), address.prefix));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

pub(super) async fn domain_get_guest_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_guest_info::Arguments,
) -> Result<Vec<Parameter>, Error> {
    unsupported_flags(&call, arguments.flags, super::stats::TEXT_OKAY)?;
    let guest = driver.observed(&arguments.domain)?;
    if arguments.types & !INFO_SERVED != 0 {
        let unknown = arguments.types & !INFO_KNOWN;
        let why = if unknown == 0 {
            "what its disks and its load are is not asked for here; leave that out".to_owned()
        } else {
            format!("there is no information of types {unknown:#x}")
        };
        return Err(guest.wrong(Code::ARGUMENT_UNSUPPORTED, &why));
    }
    let mut told = Vec::new();
    for part in (0..32).map(|bit| 1 << bit).filter(|part| INFO_SERVED & part != 0) {
        if arguments.types != 0 && arguments.types & part == 0 {
            continue;
        }
        match info(&guest, part, &mut told).await {
            // Whoever asks for everything gets what there is; an older agent does not have all of it.
            Err(error) if arguments.types == 0 && error.code == Code::INTERNAL => {}
            done => done?,
        }
    }
    Ok(told)
}

pub(super) async fn domain_agent_command(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_agent_command::Arguments,
) -> Result<Option<String>, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let DomainRef { name, .. } = &arguments.domain;
    let wrong = |why: &str| Error::new(Code::INTERNAL, Origin::QEMU, format!("Domain '{name}': {why}"));
    let parsed: Value = serde_json::from_str(&arguments.command)
        .map_err(|error| wrong(&format!("the agent's command is no JSON: {error}")))?;
    let command = parsed.get("execute").and_then(Value::as_str);
    let command = command.ok_or_else(|| wrong("the agent's command names nothing to 'execute'"))?;
    let within = match arguments.timeout {
        -2 => COMMAND_MAX,
        seconds => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(COMMAND_MAX),
            _ => AGENT_WITHIN,
        },
    };
    let told = parsed.get("arguments").cloned().unwrap_or_default();
    let answer = driver.observed(&arguments.domain)?.agent().execute(command, told, within).await?;
    Ok(Some(json!({ "return": answer }).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_addresses_that_make_no_sense_nothing_is_told() {
        let told = json!([{ "name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses": [
            { "ip-address-type": "ipv4", "ip-address": "10.0.2.15", "prefix": 24 },
            { "ip-address-type": "x25", "ip-address": "7", "prefix": 1 }, 7] }, {}]);
        let read = interfaces(told.as_array().unwrap());
        assert_eq!(read[0].addresses.len(), 1);
        assert_eq!((read[0].addresses[0].prefix, read[1].name.as_str()), (24, ""));
    }
}
