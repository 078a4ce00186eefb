//! Disks and interfaces of a domain: what is read of them, and what limits them.

use super::disks::{TUNE, TUNE_LENGTHS, tuned};
use super::processors::side;
use super::stats::TEXT_OKAY;
use super::tunables::{unknown, wrong_kind};
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::amend::{CONFIG, LIVE, place};
use crate::guest::view::View;
use crate::guest::{COMMAND_WITHIN, Guest, blocks};
use bulkhead_wire::control::FilePurpose;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_block_peek, domain_del_throttle_group, domain_get_interface_parameters,
    domain_set_block_threshold, domain_set_interface_parameters, domain_set_throttle_group,
};
use bulkhead_wire::types::{ByteString, Parameter, ParameterList, ParameterValue};
use bulkhead_xml::Element;
use serde_json::{Map, Value, json};
use std::os::unix::fs::FileExt;

/// Most bytes of one look into a disk (`REMOTE_DOMAIN_BLOCK_PEEK_BUFFER_MAX`).
const PEEK_MAX_BYTES: u32 = 4 << 20;

pub(super) async fn domain_block_peek(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_block_peek::Arguments,
) -> Result<ByteString, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let wrong = |code, why: &str| Error::new(code, Origin::QEMU, format!("Domain '{}': {why}", view.name));
    let domain_block_peek::Arguments { path, offset, size, .. } = arguments;
    let disk = view.root().and_then(|root| blocks::find(root, &path));
    let disk = disk.ok_or_else(|| wrong(Code::INVALID_ARG, &format!("disk '{path}' not found in domain")))?;
    let Some(source) = blocks::source(disk) else {
        let why = format!("disk '{path}' has no file or device of the host that could be looked into");
        return Err(wrong(Code::OPERATION_UNSUPPORTED, &why));
    };
    let format = disk.path_attr("driver", "type").unwrap_or("raw");
    if format != "raw" {
        let why = format!("only disks of the format raw can be looked into, and '{path}' is {format}");
        return Err(wrong(Code::OPERATION_UNSUPPORTED, &why));
    }
    if size > PEEK_MAX_BYTES {
        let why = format!("{size} bytes are more than the {PEEK_MAX_BYTES} that one look shows");
        return Err(wrong(Code::INVALID_ARG, &why));
    }
    let what = format!("Domain '{}': disk {path}", view.name);
    let file = driver.environment.open_file(&what, source, FilePurpose::Read).await?;
    let bytes = driver
        .environment
        .on_disk(&what, move || {
            let mut bytes = vec![0; size as usize];
            let mut read = 0;
            while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, offset.saturating_add(read as u64))? {
                    0 => break,
                    more => read += more,
                }
            }
            bytes.truncate(read);
            Ok(bytes)
        })
        .await?;
    if bytes.len() < size as usize {
        let why = format!("disk '{path}' has {} bytes from {offset} on, not {size}", bytes.len());
        return Err(wrong(Code::INVALID_ARG, &why));
    }
    Ok(ByteString(bytes))
}

pub(super) async fn domain_set_block_threshold(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_block_threshold::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let device = &arguments.device;
    let disk = blocks::find(guest.root(), device).and_then(|disk| disk.path_attr("alias", "name"));
    let alias = disk.ok_or_else(|| {
        guest.wrong(Code::INVALID_ARG, &format!("no disk has the target or source '{device}'"))
    })?;
    let drives = guest.ask("query-block", Value::Null).await?;
    let node = blocks::entry(&drives, alias).and_then(|drive| drive.pointer("/inserted/node-name")?.as_str());
    let node = node.ok_or_else(|| {
        guest.wrong(Code::INVALID_ARG, &format!("disk '{device}' has no medium that could be written to"))
    })?;
    let told = json!({ "node-name": node, "write-threshold": arguments.threshold });
    guest.ask("block-set-write-threshold", told).await.map(drop)
}

/// Parameters of an interface, with the element and attribute that keep each.
const BANDWIDTH: [(&str, &str, &str); 7] = [
    ("inbound.average", "inbound", "average"),
    ("inbound.peak", "inbound", "peak"),
    ("inbound.burst", "inbound", "burst"),
    ("inbound.floor", "inbound", "floor"),
    ("outbound.average", "outbound", "average"),
    ("outbound.peak", "outbound", "peak"),
    ("outbound.burst", "outbound", "burst"),
];

/// The interface of that MAC address or name on the host.
fn interface<'a>(root: &'a Element, device: &str) -> Option<&'a Element> {
    let interfaces = || root.child("devices").into_iter().flat_map(|devices| devices.all("interface"));
    let by_mac = interfaces().find(|one| {
        one.path_attr("mac", "address").is_some_and(|address| address.eq_ignore_ascii_case(device))
    });
    by_mac.or_else(|| interfaces().find(|one| one.path_attr("target", "dev") == Some(device)))
}

fn no_interface(name: &str, device: &str) -> Error {
    let message =
        format!("Domain '{name}': '{device}' is not a known interface; name its MAC address or its target");
    Error::new(Code::INVALID_ARG, Origin::DOMAIN, message)
}

pub(super) async fn domain_get_interface_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_interface_parameters::Arguments,
) -> Result<ParameterList, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG | TEXT_OKAY)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = side(&view, arguments.flags)?;
    if arguments.count == 0 {
        let count = i32::try_from(BANDWIDTH.len()).unwrap_or(0);
        return Ok(ParameterList { parameters: Vec::new(), count });
    }
    let device = &arguments.device;
    let found = interface(root, device).ok_or_else(|| no_interface(&view.name, device))?;
    let limits = found.child("bandwidth");
    let value = |element, attribute| -> u32 {
        let text = limits.and_then(|limits| limits.path_attr(element, attribute));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let parameters = BANDWIDTH
        .into_iter()
        .map(|(name, element, attribute)| Parameter::new(name, value(element, attribute)));
    Ok(ParameterList::answer(parameters.collect(), arguments.count))
}

/// Changes the limits of an interface. A direction without an average has none.
fn limit(interface: &mut Element, changes: &[(&'static str, &'static str, u32)]) {
    let mut limits = interface.take("bandwidth").unwrap_or_else(|| Element::new("bandwidth"));
    for (element, attribute, value) in changes {
        let direction = limits.child_or_insert(element);
        if *value == 0 {
            direction.unset(attribute);
        } else {
            direction.set(attribute, value.to_string());
        }
    }
    for direction in ["inbound", "outbound"] {
        let none =
            |direction: &Element| direction.attr("average").is_none() && direction.attr("floor").is_none();
        if limits.child(direction).is_some_and(none) {
            limits.take(direction);
        }
    }
    if !limits.children.is_empty() {
        interface.push(limits);
    }
}

pub(super) async fn domain_set_interface_parameters(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_interface_parameters::Arguments,
) -> Result<(), Error> {
    let domain_set_interface_parameters::Arguments { domain, device, parameters, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let mut changes = Vec::new();
    for parameter in &parameters {
        let known = BANDWIDTH.into_iter().find(|(name, ..)| *name == parameter.field);
        let (_, element, attribute) = known.ok_or_else(|| unknown(&parameter.field))?;
        let ParameterValue::UnsignedInt(value) = parameter.value else {
            return Err(wrong_kind(parameter, "uint"));
        };
        changes.push((element, attribute, value));
    }
    let name = domain.name.clone();
    let edit = move |root: &mut Element| {
        let mac = interface(root, &device).and_then(|one| one.path_attr("mac", "address")).map(str::to_owned);
        let devices = root.child_mut("devices").into_iter().flat_map(Element::elements_mut);
        let mut interfaces = devices.filter(|device| device.name == "interface");
        let found =
            mac.and_then(|mac| interfaces.find(|one| one.path_attr("mac", "address") == Some(mac.as_str())));
        let found = found.ok_or_else(|| no_interface(&name, &device))?;
        if found.attr("type") == Some("user") {
            let message = format!(
                "Domain '{name}': throughput of interface {device} can't be limited, as it is one of type 'user'"
            );
            return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
        }
        limit(found, &changes);
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_interface_parameters", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    let why = "throughput of an interface can't be changed while it runs; change its definition (--config)";
                    return Err(guest.failure(Code::OPERATION_UNSUPPORTED, why));
                }
                guest.apply(amended).await
            })
        })
        .await?
}

/// Names of limits in a group, and QEMU's for them.
fn throttle_limits(group: &Element) -> Value {
    let number =
        |name: &str| -> u64 { group.child_text(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0) };
    let theirs = |name: &str| {
        let plain = name.replace("bytes_sec", "bps").replace("iops_sec", "iops").replace('_', "-");
        // libvirt says first which direction is meant, QEMU last: `read-bps-max` and `bps-read-max`.
        let (direction, rest) = plain.split_once('-').unwrap_or(("", &plain));
        match (direction, rest.split_once('-')) {
            ("size", _) => "iops-size".to_owned(),
            (_, None) => format!("{rest}-{direction}"),
            (_, Some((unit, tail))) => format!("{unit}-{direction}-{tail}"),
        }
    };
    let mut limits = Map::new();
    for (name, _) in TUNE.iter().chain(&TUNE_LENGTHS) {
        // Lengths of 0 are refused; what is not told stays as it was made.
        if number(name) > 0 || !name.ends_with("_length") {
            limits.insert(theirs(name), json!(number(name)));
        }
    }
    Value::Object(limits)
}

fn group_of<'a>(root: &'a Element, name: &str) -> Option<&'a Element> {
    let named = |group: &&Element| group.child_text("group_name").as_deref() == Some(name);
    root.child("throttlegroups")?.all("throttlegroup").find(named)
}

fn is_used(root: &Element, name: &str) -> bool {
    let filters = blocks::disks(root).filter_map(|disk| disk.child("throttlefilters"));
    let mut filters = filters.flat_map(|filters| filters.all("throttlefilter"));
    filters.any(|filter| filter.attr("group") == Some(name))
}

fn refuse(view: &View, code: Code, why: &str) -> Error {
    Error::new(code, Origin::DOMAIN, format!("Domain '{}': {why}", view.name))
}

pub(super) async fn domain_set_throttle_group(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_throttle_group::Arguments,
) -> Result<(), Error> {
    let domain_set_throttle_group::Arguments { domain, group: name, parameters, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let known = |name: &str| TUNE.iter().chain(&TUNE_LENGTHS).any(|(known, _)| *known == name);
    for parameter in &parameters {
        match &parameter.value {
            ParameterValue::UnsignedLong(_) if known(&parameter.field) => {}
            ParameterValue::Text(_) if parameter.field == "group_name" => {}
            _ if parameter.field == "group_name" => return Err(wrong_kind(parameter, "string")),
            _ if known(&parameter.field) => return Err(wrong_kind(parameter, "ullong")),
            _ => return Err(unknown(&parameter.field)),
        }
    }
    let object = name.clone();
    let edit = move |root: &mut Element| {
        let limits = tuned(group_of(root, &name), &parameters);
        let mut group = Element::new("throttlegroup");
        group.children = limits.children;
        group.take("group_name");
        group.push(Element::new("group_name").with_text(name.as_str()));
        let mut groups = root.take("throttlegroups").unwrap_or_else(|| Element::new("throttlegroups"));
        let same = |other: &&mut Element| other.child_text("group_name").as_deref() == Some(&name);
        if let Some(other) = groups.elements_mut().find(same) {
            *other = group;
        } else {
            groups.push(group);
        }
        place(root, groups);
        Ok(())
    };
    driver
        .guest(&domain)?
        .object
        .run("domain_set_throttle_group", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, &edit).await?;
                if sides.live {
                    let before = guest.active()?.live_root();
                    let mut after = Element::clone(&before);
                    edit(&mut after)?;
                    let limits = group_of(&after, &object).map(throttle_limits).unwrap_or_default();
                    let id = format!("throttle-{object}");
                    let (command, told) = if group_of(&before, &object).is_some() {
                        let path = format!("/objects/{id}");
                        ("qom-set", json!({ "path": path, "property": "limits", "value": limits }))
                    } else {
                        ("object-add", json!({ "qom-type": "throttle-group", "id": id, "limits": limits }))
                    };
                    let done = guest.monitor()?.execute(command, told, COMMAND_WITHIN).await;
                    done.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

pub(super) async fn domain_del_throttle_group(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_del_throttle_group::Arguments,
) -> Result<(), Error> {
    let domain_del_throttle_group::Arguments { domain, group, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG)?;
    let handle = driver.guest(&domain)?;
    let view = handle.view.get();
    let name = group.ok_or_else(|| refuse(&view, Code::INVALID_ARG, "name a throttle group"))?;
    let object = format!("throttle-{name}");
    let edit = move |root: &mut Element| {
        if group_of(root, &name).is_none() {
            return Err(refuse(&view, Code::INVALID_ARG, &format!("throttlegroup '{name}' does not exist")));
        }
        if is_used(root, &name) {
            let why = format!("throttlegroup '{name}' is used by a disk; take it out of there first");
            return Err(refuse(&view, Code::OPERATION_INVALID, &why));
        }
        let Some(mut groups) = root.take("throttlegroups") else { return Ok(()) };
        groups.children.retain(|node| match node {
            bulkhead_xml::Node::Element(other) => other.child_text("group_name").as_deref() != Some(&name),
            _ => true,
        });
        if !groups.children.is_empty() {
            place(root, groups);
        }
        Ok(())
    };
    handle
        .object
        .run("domain_del_throttle_group", move |guest: &mut Guest| {
            Box::pin(async move {
                let sides = guest.sides(flags)?;
                let amended = guest.amended(sides, edit).await?;
                if sides.live {
                    let done =
                        guest.monitor()?.execute("object-del", json!({ "id": object }), COMMAND_WITHIN).await;
                    done.map_err(|error| guest.monitor_error(&error))?;
                }
                guest.apply(amended).await
            })
        })
        .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_without_an_average_has_no_limit() {
        let mut one = Element::new("interface");
        limit(&mut one, &[("inbound", "average", 1000), ("inbound", "peak", 2000), ("outbound", "peak", 5)]);
        let limits = one.child("bandwidth").unwrap();
        assert_eq!(limits.path_attr("inbound", "peak"), Some("2000"));
        assert!(limits.child("outbound").is_none());
        limit(&mut one, &[("inbound", "average", 0)]);
        assert!(one.child("bandwidth").is_none());
    }

    #[test]
    fn limits_of_a_group_have_qemus_names() {
        let group = tuned(
            None,
            &[
                Parameter::new("read_bytes_sec", 7_u64),
                Parameter::new("total_iops_sec_max", 9_u64),
                Parameter::new("total_iops_sec_max_length", 2_u64),
            ],
        );
        let limits = throttle_limits(&group);
        assert_eq!(limits["bps-read"], 7);
        assert_eq!((&limits["iops-total-max"], &limits["iops-total-max-length"]), (&json!(9), &json!(2)));
        assert!(limits.get("iops-size").is_some() && limits.get("bps-read-max-length").is_none());
    }
}
