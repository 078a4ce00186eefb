//! Parts of a complete definition that must fit each other, found when all of them are there.

use super::context::Context;
use super::{refuse, sets};
use crate::device::refusal;
use crate::device::value;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// The controller of caches and memory bandwidth.
const RESOURCE_CONTROL: Origin = Origin(67);

/// Checks the whole tree.
pub(super) fn check(root: &Element, context: &Context<'_>) -> Result<(), Error> {
    block_devices_differ(root)?;
    bandwidths_differ(root)?;
    scheduled_threads_exist(root)?;
    usb_companions_have_masters(root)?;
    huge_pages_have_nodes(root)?;
    caches_are_divided_by_kvm(root, context)
}

fn block_devices_differ(root: &Element) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for device in root.child("blkiotune").into_iter().flat_map(|tune| tune.all("device")) {
        let path = device.child_text("path").unwrap_or_default();
        if !seen.insert(path.clone()) {
            return Err(refuse::unsupported(format!(
                "<blkiotune>: '{path}' is there twice; keep one <device>"
            )));
        }
    }
    Ok(())
}

fn bandwidths_differ(root: &Element) -> Result<(), Error> {
    for tune in root.child("cputune").into_iter().flat_map(|tune| tune.all("memorytune")) {
        let mut seen = BTreeSet::new();
        for node in tune.all("node").filter_map(|node| node.attr("id")) {
            if !seen.insert(node) {
                return Err(Error::new(
                    Code::XML_ERROR,
                    RESOURCE_CONTROL,
                    format!("<memorytune>: node {node} has two bandwidths; keep one"),
                ));
            }
        }
    }
    Ok(())
}

fn scheduled_threads_exist(root: &Element) -> Result<(), Error> {
    let count = root.child_text("iothreads").and_then(|count| value::decimal(&count)).unwrap_or(0);
    let mut ids: BTreeSet<u64> = root
        .child("iothreadids")
        .into_iter()
        .flat_map(|ids| ids.all("iothread"))
        .filter_map(|thread| thread.attr("id").and_then(value::decimal))
        .collect();
    // Those that are counted and not named get the lowest numbers that are free.
    let mut next = 1;
    while (ids.len() as u64) < count {
        ids.insert(next);
        next += 1;
    }
    for tuned in root.child("cputune").into_iter().flat_map(Element::elements) {
        if tuned.name == "iothreadsched"
            && let Some(id) = tuned.attr("iothreads").and_then(value::decimal)
            && !ids.contains(&id)
        {
            return Err(refuse::unsupported(format!("<iothreadsched>: the guest has no I/O thread {id}")));
        }
    }
    Ok(())
}

fn usb_companions_have_masters(root: &Element) -> Result<(), Error> {
    let of_usb = |devices: &'_ Element| -> Vec<Element> {
        devices.all("controller").filter(|c| c.attr("type") == Some("usb")).cloned().collect()
    };
    let controllers = root.child("devices").map(of_usb).unwrap_or_default();
    for companion in &controllers {
        let is_companion = companion.attr("model").is_some_and(|model| model.starts_with("ich9-uhci"));
        let has_master = controllers.iter().any(|other| {
            other.attr("index") == companion.attr("index") && other.attr("model") == Some("ich9-ehci1")
        });
        if is_companion && !has_master {
            return Err(refuse::detail(format!(
                "<controller> ({}): '{}' is the companion of an 'ich9-ehci1' with the same index; add that",
                companion.position,
                companion.attr("model").unwrap_or_default()
            )));
        }
    }
    Ok(())
}

fn huge_pages_have_nodes(root: &Element) -> Result<(), Error> {
    let cells = root.at("cpu/numa").map_or(0, |numa| numa.all("cell").count());
    let mut default: Option<&str> = None;
    for page in root.at("memoryBacking/hugepages").into_iter().flat_map(|pages| pages.all("page")) {
        let nodes = page.attr("nodeset").and_then(sets::parse).unwrap_or_default();
        // A guest without cells is one node, number 0.
        let beyond = nodes.iter().find(|node| usize::try_from(**node).is_ok_and(|node| node >= cells.max(1)));
        if let Some(node) = beyond {
            return Err(refuse::detail(format!(
                "<page>: the guest has no NUMA node {node}; change 'nodeset'"
            )));
        }
        if nodes.is_empty() || cells == 0 {
            let size = page.attr("size").unwrap_or_default();
            if let Some(other) = default.replace(size) {
                return Err(refuse::detail(format!(
                    "<hugepages>: {other} and {size} KiB are both the size for all of the guest; keep one <page>"
                )));
            }
        }
    }
    Ok(())
}

fn caches_are_divided_by_kvm(root: &Element, context: &Context<'_>) -> Result<(), Error> {
    let tune = root.child("cputune").into_iter().flat_map(Element::elements);
    match tune.into_iter().find(|part| matches!(part.name.as_str(), "cachetune" | "memorytune")) {
        Some(part) if context.virt_type != "kvm" => {
            Err(refusal::unsupported_by_qemu(part, "only KVM's guests can have it; use domain type 'kvm'"))
        }
        _ => Ok(()),
    }
}
