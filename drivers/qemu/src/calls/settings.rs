//! The host's own settings: how it shares equal pages, how many huge pages it keeps, what its firmware says of it.

use super::host::{cells, invalid};
use super::stats::TEXT_OKAY;
use super::tunables::{unknown, wrong_kind};
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::node;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    connect_get_sysinfo, node_alloc_pages, node_get_memory_parameters, node_get_sev_info,
    node_set_memory_parameters, node_suspend_for_duration,
};
use bulkhead_wire::types::{Parameter, ParameterList, ParameterValue};
use bulkhead_xml::Element;
use std::path::PathBuf;

/// Where the kernel tells how it shares equal pages, and is told.
const KSM: &str = "/sys/kernel/mm/ksm";
/// Where the kernel tells what the firmware says.
const FIRMWARE: &str = "/sys/devices/virtual/dmi/id";

/// A parameter, its file, whether it can be set, and whether it is of 64 bits.
const SHARING: [(&str, &str, bool, bool); 8] = [
    ("shm_pages_to_scan", "pages_to_scan", true, false),
    ("shm_sleep_millisecs", "sleep_millisecs", true, false),
    ("shm_pages_shared", "pages_shared", false, true),
    ("shm_pages_sharing", "pages_sharing", false, true),
    ("shm_pages_unshared", "pages_unshared", false, true),
    ("shm_pages_volatile", "pages_volatile", false, true),
    ("shm_full_scans", "full_scans", false, true),
    ("shm_merge_across_nodes", "merge_across_nodes", true, false),
];

/// Blocks of `<sysinfo>` with their entries and the kernel's files for them.
const SYSINFO: [(&str, &[(&str, &str)]); 4] = [
    (
        "bios",
        &[
            ("vendor", "bios_vendor"),
            ("version", "bios_version"),
            ("date", "bios_date"),
            ("release", "bios_release"),
        ],
    ),
    (
        "system",
        &[
            ("manufacturer", "sys_vendor"),
            ("product", "product_name"),
            ("version", "product_version"),
            ("serial", "product_serial"),
            ("uuid", "product_uuid"),
            ("sku", "product_sku"),
            ("family", "product_family"),
        ],
    ),
    (
        "baseBoard",
        &[
            ("manufacturer", "board_vendor"),
            ("product", "board_name"),
            ("version", "board_version"),
            ("serial", "board_serial"),
            ("asset", "board_asset_tag"),
        ],
    ),
    (
        "chassis",
        &[
            ("manufacturer", "chassis_vendor"),
            ("version", "chassis_version"),
            ("serial", "chassis_serial"),
            ("asset", "chassis_asset_tag"),
        ],
    ),
];

pub(super) async fn connect_get_sysinfo(
    _driver: &Qemu,
    call: CallContext,
    arguments: connect_get_sysinfo::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let mut document = Element::new("sysinfo").with("type", "smbios");
    for (block, entries) in SYSINFO {
        let mut element = Element::new(block);
        for (name, file) in entries {
            let value = node::content(format!("{FIRMWARE}/{file}"));
            if !value.trim().is_empty() {
                element.push(Element::new("entry").with("name", *name).with_text(value.trim()));
            }
        }
        if !element.children.is_empty() {
            document.push(element);
        }
    }
    if document.children.is_empty() {
        let message = "Host SMBIOS information is not available: its firmware tells nothing of it";
        return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
    }
    Ok(document.to_xml())
}

pub(super) async fn node_get_memory_parameters(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_get_memory_parameters::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, TEXT_OKAY)?;
    let read = |(name, file, _, wide): (&str, &str, bool, bool)| {
        let value: u64 = node::number(format!("{KSM}/{file}"))?;
        Some(if wide {
            Parameter::new(name, value)
        } else {
            Parameter::new(name, u32::try_from(value).unwrap_or(u32::MAX))
        })
    };
    let parameters: Vec<Parameter> = SHARING.into_iter().filter_map(read).collect();
    Ok(ParameterList::answer(parameters, arguments.count))
}

pub(super) async fn node_set_memory_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: node_set_memory_parameters::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let mut changes = Vec::new();
    for parameter in &arguments.parameters {
        let known = SHARING.into_iter().find(|(name, _, set, _)| *set && *name == parameter.field);
        let (_, file, ..) = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::UnsignedInt(value) = parameter.value else {
            return Err(wrong_kind(parameter, "uint"));
        };
        changes.push((PathBuf::from(KSM).join(file), value));
    }
    driver
        .environment
        .on_disk("How the host shares equal pages", move || {
            changes.into_iter().try_for_each(|(file, value)| std::fs::write(file, value.to_string()))
        })
        .await
}

/// Set the number of huge pages (`VIR_NODE_ALLOC_PAGES_SET`); else they are added.
const SET: u32 = 1;

pub(super) async fn node_alloc_pages(
    driver: &Qemu,
    call: CallContext,
    arguments: node_alloc_pages::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, SET)?;
    let node_alloc_pages::Arguments { sizes, counts, start_cell, cells: most, flags } = arguments;
    if sizes.is_empty() || sizes.len() != counts.len() || most == 0 {
        let message = "Name sizes of pages, as many numbers of them, and at least one NUMA node";
        return Err(invalid(Origin::NONE, message.to_owned()));
    }
    let mut changes = Vec::new();
    for cell in cells(start_cell, usize::try_from(most).unwrap_or(usize::MAX))? {
        for (size, count) in sizes.iter().zip(&counts) {
            if u64::from(*size) == node::PAGE_KIB {
                let message = "Operation not supported: the number of ordinary pages is the host's memory";
                return Err(Error::new(Code::OPERATION_UNSUPPORTED, Origin::NONE, message));
            }
            let file =
                format!("/sys/devices/system/node/node{cell}/hugepages/hugepages-{size}kB/nr_hugepages");
            let now: u64 = node::number(&file).ok_or_else(|| {
                let message = format!("NUMA node {cell} of the host has no pages of {size} KiB");
                Error::new(Code::OPERATION_FAILED, Origin::NONE, message)
            })?;
            let wanted = if flags & SET != 0 { *count } else { now.saturating_add(*count) };
            changes.push((file, now, wanted));
        }
    }
    let changed = driver
        .environment
        .on_disk("Huge pages of the host", move || {
            let mut changed = 0;
            for (file, now, wanted) in changes {
                if now != wanted {
                    std::fs::write(&file, wanted.to_string())?;
                }
                // The kernel gives as many as it finds room for.
                changed += i32::from(node::number::<u64>(&file) == Some(wanted));
            }
            Ok(changed)
        })
        .await?;
    Ok(changed)
}

pub(super) async fn node_suspend_for_duration(
    _driver: &Qemu,
    call: CallContext,
    arguments: node_suspend_for_duration::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let kind = ["Suspend-to-RAM", "Suspend-to-Disk", "Hybrid-Suspend"];
    let kind = usize::try_from(arguments.target).ok().and_then(|target| kind.get(target).copied());
    let kind = kind.ok_or_else(|| {
        let message = format!("invalid argument: there is no suspend target {}", arguments.target);
        invalid(Origin::NONE, message)
    })?;
    let message =
        format!("{kind} of the host is nothing that a driver of guests may do; use 'systemctl suspend'");
    Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::NONE, message))
}

pub(super) async fn node_get_sev_info(
    driver: &Qemu,
    call: CallContext,
    arguments: node_get_sev_info::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, TEXT_OKAY)?;
    let arch = &driver.environment.host.arch;
    let message = format!("Operation not supported: guests of {arch} are not encrypted (SEV) here");
    Err(Error::new(Code::OPERATION_UNSUPPORTED, Origin::QEMU, message))
}
