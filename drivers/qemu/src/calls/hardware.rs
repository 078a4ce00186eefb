//! What is done to the machine of a guest, or looked at in it: keys, interrupts, memory, disks, threads.

use super::pins::iothread_cpus;
use super::processors::{CONFIG, LIVE, side};
use super::sizes::iothread_ids;
use super::stats::TEXT_OKAY;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::process;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_get_iothread_info, domain_get_launch_security_info, domain_inject_nmi,
    domain_managed_save_get_xml_desc, domain_memory_peek, domain_monitor_command, domain_send_key,
    domain_start_dirty_rate_calc,
};
use bulkhead_wire::types::{ByteString, IoThread, IoThreads, Parameter};
use serde_json::{Value, json};

/// The virtual address of the first CPU (`VIR_MEMORY_VIRTUAL`).
const MEMORY_VIRTUAL: u32 = 1;
/// The address on the bus (`VIR_MEMORY_PHYSICAL`).
const MEMORY_PHYSICAL: u32 = 2;
/// Most bytes of one look into memory.
const PEEK_MAX_BYTES: u32 = 64 << 10;
/// ByteString that QEMU prints at once.
const PEEK_STEP: u32 = 4096;
/// A command for people (`VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP`).
const HUMAN: u32 = 1;
/// Keys that are pressed together.
const KEYS_MAX: usize = 16;

/// Linux's codes of keys that have another number on a PC's keyboard: those above 88 do.
const EXTENDED: [(u32, u32); 33] = [
    (96, 0x9c),
    (97, 0x9d),
    (98, 0xb5),
    (99, 0x54),
    (100, 0xb8),
    (102, 0xc7),
    (103, 0xc8),
    (104, 0xc9),
    (105, 0xcb),
    (106, 0xcd),
    (107, 0xcf),
    (108, 0xd0),
    (109, 0xd1),
    (110, 0xd2),
    (111, 0xd3),
    (113, 0xa0),
    (114, 0xae),
    (115, 0xb0),
    (116, 0xde),
    (117, 0x59),
    (119, 0xc6),
    (125, 0xdb),
    (126, 0xdc),
    (127, 0xdd),
    (140, 0xa1),
    (142, 0xdf),
    (143, 0xe3),
    (155, 0xec),
    (158, 0xea),
    (159, 0xe9),
    (163, 0x99),
    (164, 0xa2),
    (165, 0x90),
];

/// The number that QEMU knows a key by.
fn key(code_set: u32, code: u32) -> Option<u32> {
    match code_set {
        // Linux.
        0 if (1..=88).contains(&code) => Some(code),
        0 => EXTENDED.iter().find(|(linux, _)| *linux == code).map(|(_, number)| *number),
        // XT, and QEMU's own numbers.
        1 | 9 if (1..=0xff).contains(&code) => Some(code),
        _ => None,
    }
}

pub(super) async fn domain_send_key(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_send_key::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    if !matches!(arguments.code_set, 0 | 1 | 9) {
        let message = format!(
            "Domain '{}': key codes of set {} are not known here; use Linux's (0), XT's (1) or QEMU's own (9)",
            arguments.domain.name, arguments.code_set
        );
        return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::QEMU, message));
    }
    if arguments.codes.is_empty() || arguments.codes.len() > KEYS_MAX {
        let message = format!("Domain '{}': from 1 to {KEYS_MAX} keys can be pressed", arguments.domain.name);
        return Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message));
    }
    let mut keys = Vec::new();
    for code in &arguments.codes {
        let number = key(arguments.code_set, *code).ok_or_else(|| {
            let message =
                format!("Domain '{}': {code} is no key of that set of codes", arguments.domain.name);
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        })?;
        keys.push(json!({ "type": "number", "data": number }));
    }
    let guest = driver.observed(&arguments.domain)?;
    let mut keys = json!({ "keys": keys });
    if arguments.hold_ms > 0
        && let Some(keys) = keys.as_object_mut()
    {
        keys.insert("hold-time".to_owned(), json!(arguments.hold_ms));
    }
    guest.ask("send-key", keys).await.map(drop)
}

pub(super) async fn domain_inject_nmi(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_inject_nmi::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    driver.observed(&arguments.domain)?.ask("inject-nmi", Value::Null).await.map(drop)
}

/// Reads what QEMU's `x` and `xp` print: an address, a colon, bytes in hexadecimal.
fn printed(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        for word in line.split_once(':')?.1.split_whitespace() {
            bytes.push(u8::from_str_radix(word.strip_prefix("0x")?, 16).ok()?);
        }
    }
    Some(bytes)
}

pub(super) async fn domain_memory_peek(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_memory_peek::Arguments,
) -> Result<ByteString, Error> {
    unsupported_flags(&call, arguments.flags, MEMORY_VIRTUAL | MEMORY_PHYSICAL)?;
    let guest = driver.observed(&arguments.domain)?;
    let command = match arguments.flags {
        MEMORY_VIRTUAL => "x",
        MEMORY_PHYSICAL => "xp",
        _ => return Err(guest.wrong(Code::INVALID_ARG, "say which addresses are meant: virtual or physical")),
    };
    let fits = arguments.offset.checked_add(u64::from(arguments.size)).is_some();
    if arguments.size > PEEK_MAX_BYTES || !fits {
        let why =
            format!("{} bytes from {:#x} are more than one look shows", arguments.size, arguments.offset);
        return Err(guest.wrong(Code::INVALID_ARG, &why));
    }
    let mut bytes: Vec<u8> = Vec::new();
    let mut left = arguments.size;
    while left > 0 {
        let (step, at) = (left.min(PEEK_STEP), arguments.offset + u64::from(arguments.size - left));
        let line = format!("{command} /{step}xb {at:#x}");
        let text = guest.ask("human-monitor-command", json!({ "command-line": line })).await?;
        let shown = text.as_str().and_then(printed).filter(|shown| shown.len() == step as usize);
        let shown = shown.ok_or_else(|| {
            let why = format!("QEMU can't show {step} bytes at {at:#x}: nothing may be there");
            guest.wrong(Code::INTERNAL, &why)
        })?;
        bytes.extend(shown);
        left -= step;
    }
    Ok(ByteString(bytes))
}

pub(super) async fn domain_get_iothread_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_iothread_info::Arguments,
) -> Result<IoThreads, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let guest = driver.guest(&arguments.domain)?;
    let view = guest.view.get();
    let live = arguments.flags & LIVE != 0 || (arguments.flags & CONFIG == 0 && view.live.is_some());
    let mut threads = Vec::new();
    if live {
        let guest = driver.observed(&arguments.domain)?;
        let answer = guest.ask("query-iothreads", Value::Null).await?;
        for thread in answer.as_array().into_iter().flatten() {
            let id = thread.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix("iothread"));
            let Some(id) = id.and_then(|id| id.parse().ok()) else { continue };
            let number = thread.get("thread-id").and_then(Value::as_i64);
            let number = number.and_then(|number| i32::try_from(number).ok()).unwrap_or(-1);
            let map = process::thread_cpus(guest.live().pid, number).unwrap_or_default();
            threads.push(IoThread { id, map: ByteString(map) });
        }
        threads.sort_by_key(|thread| thread.id);
    } else {
        let root = side(&view, arguments.flags)?;
        let thread = |id| IoThread { id, map: ByteString(iothread_cpus(root, id)) };
        threads.extend(iothread_ids(root).into_iter().map(thread));
    }
    Ok(IoThreads { count: u32::try_from(threads.len()).unwrap_or(u32::MAX), threads })
}

pub(super) async fn domain_start_dirty_rate_calc(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_start_dirty_rate_calc::Arguments,
) -> Result<(), Error> {
    // 0 samples pages, 1 and 2 let the accelerator count.
    unsupported_flags(&call, arguments.flags, 3)?;
    let guest = driver.observed(&arguments.domain)?;
    if !(1..=60).contains(&arguments.seconds) {
        return Err(guest.wrong(Code::INVALID_ARG, "it can be measured for 1 to 60 seconds"));
    }
    let mode = match arguments.flags {
        0 => "page-sampling",
        1 => "dirty-bitmap",
        2 => "dirty-ring",
        _ => return Err(guest.wrong(Code::INVALID_ARG, "it can be measured in one way at a time")),
    };
    let told = json!({ "calc-time": arguments.seconds, "mode": mode });
    guest.ask("calc-dirty-rate", told).await.map(drop)
}

pub(super) async fn domain_get_launch_security_info(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_launch_security_info::Arguments,
) -> Result<Vec<Parameter>, Error> {
    unsupported_flags(&call, arguments.flags, TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    match view.root().and_then(|root| root.child("launchSecurity")) {
        None => Ok(Vec::new()),
        Some(security) => {
            let message = format!(
                "Domain '{}': what launch security of type '{}' measures can't be told here",
                view.name,
                security.attr("type").unwrap_or_default()
            );
            Err(Error::new(Code::OPERATION_UNSUPPORTED, Origin::QEMU, message))
        }
    }
}

pub(super) async fn domain_managed_save_get_xml_desc(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_managed_save_get_xml_desc::Arguments,
) -> Result<String, Error> {
    // With secrets: a read-only client is asked about where they are asked for everywhere else.
    unsupported_flags(&call, arguments.flags, 0)?;
    let definition = driver
        .guest(&arguments.domain)?
        .object
        .run("domain_managed_save_get_xml_desc", |guest: &mut Guest| {
            Box::pin(async move { guest.saved_definition().await })
        })
        .await??;
    Ok(definition.to_xml(false))
}

pub(super) async fn domain_monitor_command(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_monitor_command::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, HUMAN)?;
    let guest = driver.observed(&arguments.domain)?;
    let text = arguments.command.as_str();
    if arguments.flags & HUMAN != 0 {
        let said = guest.ask("human-monitor-command", json!({ "command-line": text })).await?;
        return Ok(said.as_str().unwrap_or_default().to_owned());
    }
    let parsed: Value = serde_json::from_str(text)
        .map_err(|error| guest.wrong(Code::INTERNAL, &format!("the monitor command is no JSON: {error}")))?;
    let command = parsed
        .get("execute")
        .and_then(Value::as_str)
        .ok_or_else(|| guest.wrong(Code::INTERNAL, "the monitor command names nothing to 'execute'"))?;
    let parameters = parsed.get("arguments").cloned().unwrap_or_default();
    let id = parsed.get("id").cloned().unwrap_or_else(|| json!("bulkhead"));
    let answer = guest.monitor()?.execute(command, parameters, super::observed::ANSWER_WITHIN).await;
    // What QEMU refuses is an answer too.
    let reply = match answer {
        Ok(value) => json!({ "return": value, "id": id }),
        Err(crate::monitor::MonitorError::Refused { class, description, .. }) => {
            json!({ "id": id, "error": { "class": class, "desc": description } })
        }
        Err(error) => {
            let error = Error::from(&error);
            return Err(Error { message: format!("Domain '{}': {}", guest.name(), error.message), ..error });
        }
    };
    Ok(reply.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_linux_and_of_a_pc() {
        assert_eq!((key(0, 28), key(0, 111), key(9, 0xd3)), (Some(28), Some(0xd3), Some(0xd3)));
        assert_eq!((key(0, 0), key(0, 65535), key(4, 1)), (None, None, None));
    }

    #[test]
    fn what_qemu_prints_of_memory_is_read_or_refused() {
        assert_eq!(printed("0000: 0x53 0xff\r\n0002: 0x00\n"), Some(vec![0x53, 0xff, 0]));
        assert_eq!(printed("Cannot access memory\n"), None);
    }
}
