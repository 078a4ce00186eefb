//! Disks of a guest: their size, the limits of their throughput, those that failed.

use super::observed::Observed;
use super::processors::{CONFIG, LIVE, side};
use super::stats::TEXT_OKAY;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::blocks;
use crate::guest::{COMMAND_WITHIN, Guest};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_block_resize, domain_get_block_io_tune, domain_get_disk_errors, domain_set_block_io_tune,
};
use bulkhead_wire::types::{DiskError, DiskErrors, Parameter, ParameterList, ParameterValue};
use bulkhead_xml::Element;
use serde_json::{Map, Value, json};

/// The size is in bytes (`VIR_DOMAIN_BLOCK_RESIZE_BYTES`), and not in KiB.
const RESIZE_BYTES: u32 = 1;
/// A disk of a guest that runs, by its target or source: its alias, and the node that the device sees.
async fn drive(guest: &Observed<'_>, disk: &str) -> Result<(String, Value), Error> {
    let found = blocks::find(guest.root(), disk).and_then(|disk| disk.path_attr("alias", "name"));
    let alias = found.ok_or_else(|| {
        guest.wrong(Code::INVALID_ARG, &format!("no disk has the target or source '{disk}'"))
    })?;
    let drives = guest.ask("query-block", Value::Null).await?;
    let drive = blocks::entry(&drives, alias).cloned();
    let drive = drive.ok_or_else(|| {
        guest.wrong(Code::INTERNAL, &format!("QEMU has no drive '{alias}' for disk '{disk}'"))
    })?;
    Ok((alias.to_owned(), drive))
}

pub(super) async fn domain_block_resize(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_block_resize::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, RESIZE_BYTES)?;
    let guest = driver.observed(&arguments.domain)?;
    let bytes = if arguments.flags & RESIZE_BYTES != 0 {
        Some(arguments.size)
    } else {
        arguments.size.checked_mul(1024)
    };
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| {
        guest.wrong(Code::OVERFLOW, &format!("{} KiB are more than a disk can have", arguments.size))
    })?;
    let (alias, drive) = drive(&guest, &arguments.disk).await?;
    let node = drive.pointer("/inserted/node-name").and_then(Value::as_str).ok_or_else(|| {
        guest.wrong(Code::INVALID_ARG, &format!("disk '{alias}' has no medium that could be resized"))
    })?;
    // Sizes of whole sectors: formats know no others.
    let bytes = bytes.div_ceil(512) * 512;
    guest.ask("block_resize", json!({ "node-name": node, "size": bytes })).await.map(drop)
}

/// The limits of a disk in libvirt's order: parameter and element share the name; QEMU's argument stands beside it.
pub(super) const TUNE: [(&str, &str); 13] = [
    ("total_bytes_sec", "bps"),
    ("read_bytes_sec", "bps_rd"),
    ("write_bytes_sec", "bps_wr"),
    ("total_iops_sec", "iops"),
    ("read_iops_sec", "iops_rd"),
    ("write_iops_sec", "iops_wr"),
    ("total_bytes_sec_max", "bps_max"),
    ("read_bytes_sec_max", "bps_rd_max"),
    ("write_bytes_sec_max", "bps_wr_max"),
    ("total_iops_sec_max", "iops_max"),
    ("read_iops_sec_max", "iops_rd_max"),
    ("write_iops_sec_max", "iops_wr_max"),
    ("size_iops_sec", "iops_size"),
];
pub(super) const TUNE_LENGTHS: [(&str, &str); 6] = [
    ("total_bytes_sec_max_length", "bps_max_length"),
    ("read_bytes_sec_max_length", "bps_rd_max_length"),
    ("write_bytes_sec_max_length", "bps_wr_max_length"),
    ("total_iops_sec_max_length", "iops_max_length"),
    ("read_iops_sec_max_length", "iops_rd_max_length"),
    ("write_iops_sec_max_length", "iops_wr_max_length"),
];
const GROUP: &str = "group_name";

pub(super) async fn domain_get_block_io_tune(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_block_io_tune::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = side(&view, arguments.flags)?;
    let count = TUNE.len() + 1 + TUNE_LENGTHS.len();
    if arguments.count == 0 {
        let count = i32::try_from(count).unwrap_or(0);
        return Ok(ParameterList { parameters: Vec::new(), count });
    }
    let named = arguments.disk.as_deref().unwrap_or_default();
    let disk = blocks::find(root, named).ok_or_else(|| {
        let message = format!("Domain '{}': no disk has the target or source '{named}'", view.name);
        Error::new(Code::INVALID_ARG, Origin::QEMU, message)
    })?;
    let tune = disk.child("iotune");
    let number = |name: &str| -> u64 {
        tune.and_then(|tune| tune.child_text(name)).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let mut parameters: Vec<Parameter> =
        TUNE.iter().map(|(name, _)| Parameter::new(*name, number(name))).collect();
    let group = tune.and_then(|tune| tune.child_text(GROUP)).unwrap_or_default();
    parameters.push(Parameter::new(GROUP, group));
    parameters.extend(TUNE_LENGTHS.iter().map(|(name, _)| Parameter::new(*name, number(name))));
    Ok(ParameterList::answer(parameters, arguments.count))
}

/// Puts limits into a disk. A total replaces the limits of both directions, and the other way round.
pub(super) fn tuned(old: Option<&Element>, parameters: &[Parameter]) -> Element {
    let text = |name: &str| -> Option<String> {
        let given = parameters.iter().find(|parameter| parameter.field == name);
        match given.map(|parameter| &parameter.value) {
            Some(ParameterValue::UnsignedLong(value)) => Some(value.to_string()),
            Some(ParameterValue::Text(text)) => Some(text.clone()),
            _ => {
                let (direction, rest) = name.split_once('_')?;
                let others: &[&str] = if direction == "total" { &["read", "write"] } else { &["total"] };
                let replaced = others.iter().any(|other| {
                    let other = format!("{other}_{rest}");
                    parameters.iter().any(|parameter| {
                        parameter.field == other && parameter.value != ParameterValue::UnsignedLong(0)
                    })
                });
                old.filter(|_| !replaced).and_then(|old| old.child_text(name))
            }
        }
    };
    let mut tune = Element::new("iotune");
    let names = TUNE.iter().map(|(name, _)| *name).chain([GROUP]);
    for name in names.chain(TUNE_LENGTHS.iter().map(|(name, _)| *name)) {
        if let Some(text) = text(name).filter(|text| !text.is_empty() && text.trim() != "0") {
            tune.push(Element::new(name).with_text(text));
        }
    }
    tune
}

/// What QEMU is told of limits.
fn throttle(tune: &Element, id: &str, alias: &str) -> Value {
    let number =
        |name: &str| -> u64 { tune.child_text(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0) };
    let mut told = Map::new();
    told.insert("id".to_owned(), json!(id));
    for (name, theirs) in TUNE {
        // The basic six must be told, the others only where they are set.
        let basic = !name.ends_with("_max") && name != "size_iops_sec";
        if basic || number(name) > 0 {
            told.insert(theirs.to_owned(), json!(number(name)));
        }
    }
    for (name, theirs) in TUNE_LENGTHS.into_iter().filter(|(name, _)| number(name) > 0) {
        told.insert(theirs.to_owned(), json!(number(name)));
    }
    told.insert("group".to_owned(), json!(tune.child_text(GROUP).unwrap_or_else(|| alias.to_owned())));
    Value::Object(told)
}

pub(super) async fn domain_set_block_io_tune(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_block_io_tune::Arguments,
) -> Result<(), Error> {
    let domain_set_block_io_tune::Arguments { domain, disk, parameters, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let known = |name: &str| TUNE.iter().chain(&TUNE_LENGTHS).any(|(known, _)| *known == name);
    for parameter in &parameters {
        let fits = match &parameter.value {
            ParameterValue::UnsignedLong(_) => known(&parameter.field),
            ParameterValue::Text(_) => parameter.field == GROUP,
            _ => false,
        };
        if !fits && !known(&parameter.field) && parameter.field != GROUP {
            let message = format!("Parameter '{}' is no limit of a disk", parameter.field);
            return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::NONE, message));
        }
        if !fits {
            let message =
                format!("Parameter '{}' can't be of type {}", parameter.field, parameter.value.kind());
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
    }
    let name = domain.name.clone();
    let given = |name: &str| parameters.iter().any(|parameter| parameter.field == name);
    for unit in ["bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"] {
        if given(&format!("total_{unit}"))
            && (given(&format!("read_{unit}")) || given(&format!("write_{unit}")))
        {
            let message = format!(
                "Domain '{name}': limit {unit} of disk '{disk}' in total, or in each direction, not both"
            );
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
    }
    let target = disk.clone();
    let edit = move |root: &mut Element| {
        let target =
            blocks::find(root, &target).and_then(|disk| disk.path_attr("target", "dev")).map(str::to_owned);
        let devices = root.child_mut("devices").into_iter().flat_map(Element::elements_mut);
        let mut disks = devices.filter(|device| device.name == "disk");
        let found = target
            .as_ref()
            .and_then(|target| disks.find(|disk| disk.path_attr("target", "dev") == Some(target.as_str())));
        let Some(found) = found else {
            let message = format!("Domain '{name}': no disk has the target or source '{disk}'");
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        };
        let tune = tuned(found.child("iotune"), &parameters);
        found.take("iotune");
        if !tune.children.is_empty() {
            let after = found.elements().position(|child| child.name == "target").map_or(0, |at| at + 1);
            let after = after.min(found.children.len());
            found.children.insert(after, bulkhead_xml::Node::Element(tune));
        }
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_block_io_tune", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, &edit).await?;
                if sides.live {
                    // Worked out once more on its own, to see what became of the disk.
                    let before = guest.active()?.live_root();
                    let mut after = Element::clone(&before);
                    edit(&mut after)?;
                    let both = blocks::disks(&after).zip(blocks::disks(&before));
                    for (disk, _) in both.filter(|(now, then)| now != then) {
                        guest.throttle(disk).await?;
                    }
                }
                guest.apply(amended).await
            })
        })
        .await?
}

impl Guest {
    /// Has QEMU hold a disk to its limits.
    pub(crate) async fn throttle(&self, disk: &Element) -> Result<(), Error> {
        let alias = disk.path_attr("alias", "name").unwrap_or_default();
        let monitor = self.monitor()?;
        let failed = |error| self.monitor_error(&error);
        let drives = monitor.execute("query-block", Value::Null, COMMAND_WITHIN).await.map_err(failed)?;
        let id = blocks::entry(&drives, alias).and_then(|drive| drive.get("qdev")).and_then(Value::as_str);
        let id = id.ok_or_else(|| self.invalid(&format!("QEMU has no drive '{alias}'")))?;
        let empty = Element::new("iotune");
        let told = throttle(disk.child("iotune").unwrap_or(&empty), id, alias);
        monitor.execute("block_set_io_throttle", told, COMMAND_WITHIN).await.map(drop).map_err(failed)
    }
}

pub(super) async fn domain_get_disk_errors(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_disk_errors::Arguments,
) -> Result<DiskErrors, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let disks: Vec<&Element> = blocks::disks(guest.root()).collect();
    if arguments.max == 0 {
        let count = i32::try_from(disks.len()).unwrap_or(i32::MAX);
        return Ok(DiskErrors { errors: Vec::new(), count });
    }
    let drives = guest.ask("query-block", Value::Null).await?;
    let failed = |disk: &&Element| {
        let drive = blocks::entry(&drives, disk.path_attr("alias", "name")?)?;
        let error = match drive.get("io-status")?.as_str()? {
            "failed" => 1,
            "nospace" => 2,
            _ => return None,
        };
        Some(DiskError { disk: disk.path_attr("target", "dev")?.to_owned(), error })
    };
    let most = usize::try_from(arguments.max).unwrap_or(usize::MAX);
    let errors: Vec<DiskError> = disks.iter().filter_map(failed).take(most).collect();
    Ok(DiskErrors { count: i32::try_from(errors.len()).unwrap_or(i32::MAX), errors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_and_its_directions_replace_one_another() {
        let old =
            tuned(None, &[Parameter::new("total_bytes_sec", 5_u64), Parameter::new("read_iops_sec", 7_u64)]);
        let new = tuned(Some(&old), &[Parameter::new("read_bytes_sec", 3_u64)]);
        let names: Vec<&str> = new.elements().map(|element| element.name.as_str()).collect();
        assert_eq!(names, ["read_bytes_sec", "read_iops_sec"]);
        assert!(
            tuned(
                Some(&old),
                &[Parameter::new("total_bytes_sec", 0_u64), Parameter::new("read_iops_sec", 0_u64)]
            )
            .children
            .is_empty()
        );
    }
}
