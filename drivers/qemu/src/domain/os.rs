//! `<os>`: machine, boot order, kernel, BIOS settings. The firmware is [`super::firmware`]'s.

use super::context::Context;
use super::{firmware, refuse};
use crate::device::schema::{Shape, attribute, content, one_of, place, shape, text, yes_no};
use crate::device::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const OS: Shape = shape(
    "os",
    &[one_of("firmware", &["efi", "bios"])],
    &[
        place("type"),
        place("firmware"),
        place("loader"),
        place("nvram"),
        content("kernel", Kind::Text),
        content("initrd", Kind::Text),
        content("cmdline", Kind::Text),
        content("dtb", Kind::Text),
        content("shim", Kind::Text),
        shape(
            "acpi",
            &[],
            &[content("table", Kind::Text)
                .with(&[one_of("type", &["raw", "rawset", "slic", "msdm"]).required()])
                .many()],
        ),
        shape("boot", &[one_of("dev", &["fd", "cdrom", "hd", "network"]).required()], &[]).many(),
        shape("bootmenu", &[yes_no("enable"), attribute("timeout", Kind::Number(0, u32::MAX as u64))], &[]),
        shape("smbios", &[one_of("mode", &["none", "emulate", "host", "sysinfo"]).required()], &[]),
        shape("bios", &[yes_no("useserial"), text("rebootTimeout")], &[]),
    ],
);

/// The order in which `<os>` is printed.
const ORDER: &[&str] = &[
    "type", "firmware", "loader", "nvram", "kernel", "initrd", "cmdline", "dtb", "shim", "acpi", "boot",
    "bootmenu", "bios", "smbios",
];

/// `<os>` in canonical form, and whether its firmware needs SMM.
pub(super) fn complete(input: &Element, name: &str, context: &Context) -> Result<(Element, bool), Error> {
    let empty = Element::new("os");
    let given = input.child("os").unwrap_or(&empty);
    let mut os = OS.read(given)?;
    os.push(
        Element::new("type")
            .with("arch", context.arch.as_str())
            .with("machine", context.machine.as_str())
            .with_text(context.os_type.as_str()),
    );
    let needs_smm = firmware::complete(input, given, &mut os, name, context)?;
    for element in ["kernel", "initrd", "cmdline", "dtb"] {
        if os.child(element).is_some_and(|child| child.text().is_empty()) {
            os.take(element);
        }
    }
    complete_boot(input, &mut os)?;
    if let Some(menu) = os.child_mut("bootmenu") {
        let enabled = menu.attr("enable") == Some("yes");
        if let Some(timeout) = menu.attr("timeout")
            && timeout.parse::<u32>().is_ok_and(|timeout| timeout > 65535)
            && enabled
        {
            return Err(refuse::unsupported(format!(
                "<bootmenu>: timeout {timeout} is above 65535 milliseconds"
            )));
        }
        if !enabled {
            menu.unset("timeout");
        }
        if menu.attr("enable").is_none() {
            os.take("bootmenu");
        }
    }
    if let Some(bios) = os.child_mut("bios")
        && let Some(timeout) = bios.attr("rebootTimeout")
    {
        match timeout.parse::<i32>() {
            Ok(-1..=65535) => {}
            _ => {
                return Err(refuse::xml(format!(
                    "<bios>: rebootTimeout '{timeout}' is not from -1 to 65535"
                )));
            }
        }
    }
    if let Some(acpi) = os.child("acpi") {
        let mut kinds = Vec::new();
        for table in acpi.elements() {
            let kind = table.attr("type").unwrap_or_default();
            if kind != "raw" && kinds.contains(&kind) {
                return Err(refuse::xml(format!("<acpi>: there are two tables of type '{kind}'")));
            }
            kinds.push(kind);
        }
    }
    os.children.sort_by_key(|node| match node {
        bulkhead_xml::Node::Element(child) => {
            ORDER.iter().position(|name| *name == child.name).unwrap_or(usize::MAX)
        }
        _ => usize::MAX,
    });
    Ok((os, needs_smm))
}

/// Without any boot order the disks are booted from.
fn complete_boot(input: &Element, os: &mut Element) -> Result<(), Error> {
    let devices = input.child("devices");
    let ordered: Vec<&str> = devices
        .iter()
        .flat_map(|devices| devices.elements())
        .filter_map(|device| device.path_attr("boot", "order"))
        .collect();
    if os.child("boot").is_some() {
        if !ordered.is_empty() {
            return Err(refuse::unsupported(
                "Boot order is given both in <os> and at devices; keep one of them",
            ));
        }
    } else if ordered.is_empty() {
        os.push(Element::new("boot").with("dev", "hd"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for order in ordered {
        let same = order.trim().parse::<u32>().ok();
        if same.is_some_and(|order| !seen.insert(order)) {
            return Err(refuse::unsupported(format!("Boot order {order} is given to more than one device")));
        }
    }
    Ok(())
}

/// `<sysinfo>`: texts for SMBIOS and the firmware's configuration device.
const SYSINFO: Shape = shape(
    "sysinfo",
    &[one_of("type", &["smbios", "fwcfg"]).required()],
    &[
        shape("bios", &[], &[ENTRY]),
        shape("system", &[], &[ENTRY]),
        shape("baseBoard", &[], &[ENTRY]).many(),
        shape("chassis", &[], &[ENTRY]),
        shape("oemStrings", &[], &[content("entry", Kind::Text).many()]),
        content("entry", Kind::Text).with(&[text("name"), text("file")]).many(),
    ],
);

const ENTRY: Shape = content("entry", Kind::Text).with(&[text("name")]).many();

/// The names of each table's entries, in the order of printing.
const ENTRIES: &[(&str, &[&str])] = &[
    ("bios", &["vendor", "version", "date", "release"]),
    ("system", &["manufacturer", "product", "version", "serial", "uuid", "sku", "family"]),
    ("baseBoard", &["manufacturer", "product", "version", "serial", "asset", "location"]),
    ("chassis", &["manufacturer", "version", "serial", "asset", "sku"]),
];

/// The UUID that the system's SMBIOS table is to show, which is the domain's.
pub(super) fn system_uuid(input: &Element) -> Option<String> {
    input
        .all("sysinfo")
        .filter(|info| info.attr("type") == Some("smbios"))
        .filter_map(|info| info.child("system"))
        .flat_map(|system| system.all("entry"))
        .find(|entry| entry.attr("name") == Some("uuid"))
        .map(Element::text)
}

/// All `<sysinfo>` in canonical form.
pub(super) fn sysinfo(input: &Element, uuid: &str) -> Result<Vec<Element>, Error> {
    let mut all = Vec::new();
    for given in input.all("sysinfo") {
        let mut info = SYSINFO.read(given)?;
        if info.attr("type") == Some("fwcfg") {
            info.children.retain(|node| matches!(node, bulkhead_xml::Node::Element(e) if e.name == "entry"));
            for entry in info.elements_mut() {
                if entry.attr("name").is_none() {
                    return Err(refuse::value("<sysinfo>: an entry of type 'fwcfg' needs its 'name'"));
                }
                if entry.attr("file").is_some() {
                    entry.children.clear();
                }
            }
        } else {
            info.children.retain(|node| !matches!(node, bulkhead_xml::Node::Element(e) if e.name == "entry"));
            for table in info.elements_mut() {
                complete_table(table, uuid)?;
            }
            info.children
                .retain(|node| matches!(node, bulkhead_xml::Node::Element(e) if !e.children.is_empty()));
        }
        all.push(info);
    }
    Ok(all)
}

fn complete_table(table: &mut Element, uuid: &str) -> Result<(), Error> {
    let Some((_, names)) = ENTRIES.iter().find(|(name, _)| *name == table.name) else {
        return Ok(());
    };
    let mut entries: Vec<Element> = Vec::new();
    for name in *names {
        let found = table.elements().find(|entry| entry.attr("name") == Some(name));
        if let Some(entry) = found.filter(|entry| !entry.text().is_empty()) {
            entries.push(entry.clone());
        }
    }
    for entry in &mut entries {
        let text = entry.text();
        if entry.attr("name") == Some("date") && !is_bios_date(&text) {
            return Err(refuse::detail(format!(
                "<sysinfo>: the BIOS' date '{text}' is not MM/DD/YY or MM/DD/YYYY"
            )));
        }
        if table.name == "system" && entry.attr("name") == Some("uuid") {
            let Some(own) = crate::device::value::uuid(&text) else {
                return Err(refuse::detail(format!("<sysinfo>: '{text}' is no UUID")));
            };
            if own != uuid {
                return Err(refuse::detail(format!(
                    "<sysinfo>: UUID {own} is not that of the domain, {uuid}"
                )));
            }
            entry.set_text(own);
        }
    }
    table.children = entries.into_iter().map(bulkhead_xml::Node::Element).collect();
    Ok(())
}

fn is_bios_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |text: &str| text.parse::<u32>().ok();
    match parts[..] {
        [month, day, year] => {
            number(month).is_some_and(|month| (1..=12).contains(&month))
                && number(day).is_some_and(|day| (1..=31).contains(&day))
                && number(year).is_some_and(|year| year <= 99 || (1900..=9999).contains(&year))
        }
        _ => false,
    }
}
