//! From bytes to the complete tree.

use super::host::Host;
use super::machine::Settled;
use super::{
    addresses, basics, clock, cpu, devices, facilities, features, fit, machine, namespace, os, place, refuse,
    tuning,
};
use crate::device::schema::Shape;
use crate::device::siblings;
use crate::device::value;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Limits, Node, parse};

/// The tables of elements that need no more than their table.
struct Simple<'a>(&'a Element, &'a mut Element);

impl Simple<'_> {
    fn add(&mut self, shape: &Shape) -> Result<(), Error> {
        shape.read_child(self.0, self.1)
    }
}

/// Reads a document.
pub(super) fn document(xml: &[u8]) -> Result<Element, Error> {
    parse(xml, Limits::default(), "domain/metadata")
        .map_err(|error| Error::new(Code::XML_DETAIL, Origin::DOMAIN, error.to_string()))
}

/// Completes a document.
pub(super) fn read(mut document: Element, host: &Host) -> Result<Element, Error> {
    checked(&mut document, host).map_err(|error| place::located(error, &document))
}

fn checked(document: &mut Element, host: &Host) -> Result<Element, Error> {
    if document.name != "domain" {
        return Err(refuse::value(format!("The document is a <{}>, not a <domain>", document.name)));
    }
    // In a namespace of its own, none of its elements is one that counts.
    if document.namespace.is_some() {
        return Err(Error::new(
            refuse::NO_NAME,
            Origin::DOMAIN,
            "<domain> is in a namespace; remove its 'xmlns'",
        ));
    }
    // Who it is comes before what it is, as with libvirt.
    basics::named(document)?;
    given_uuid(document)?;
    join_devices(document);
    let settled = machine::settle(document, host)?;
    complete(document, settled)
}

/// A document may have several `<devices>`; they count as one.
fn join_devices(document: &mut Element) {
    let Some(mut joined) = document.take("devices") else {
        return;
    };
    while let Some(more) = document.take("devices") {
        joined.children.extend(more.children);
    }
    document.push(joined);
}

/// The uuid that the document gives, if it does.
fn given_uuid(input: &Element) -> Result<Option<String>, Error> {
    let given = input.child_text("uuid").or_else(|| os::system_uuid(input)).filter(|text| !text.is_empty());
    let known = |text: String| {
        value::uuid(&text).ok_or_else(|| refuse::internal(format!("<uuid>: '{text}' is no UUID")))
    };
    given.map(known).transpose()
}

fn complete(input: &Element, settled: Settled<'_>) -> Result<Element, Error> {
    let Settled { context, emulator, unfit } = settled;
    let context = &context;
    let name = basics::name(input)?;
    let uuid = given_uuid(input)?.unwrap_or_else(|| context.host.new_uuid());
    let (vcpu, vcpus) = basics::vcpu(input)?;
    let mut cpu = cpu::complete(input, vcpus, context)?;
    let (os, needs_smm) = os::complete(input, &name, context)?;
    let mut features = features::complete(input, context)?;
    if needs_smm {
        features = Some(features::with_smm(features));
    }
    let clock = clock::complete(input, context)?;
    let mut devices = devices::complete(input, &emulator, context)?;
    devices::arrange(&mut devices);
    let memory = basics::memory(input, cpu.as_ref(), &devices)?;
    if memory.iter().any(|element| element.name == "maxMemory")
        && let Some(cpu) = &mut cpu
    {
        cpu::add_numa_cell(cpu, vcpus, basics::initial_memory(&memory, &devices));
    }
    siblings::check(&devices, context)?;
    addresses::assign(&mut devices, context)?;
    devices::arrange(&mut devices);
    if let Some(unfit) = unfit {
        return Err(unfit);
    }
    machine::check_vcpus(vcpus, context)?;
    for device in devices.elements() {
        crate::device::check(device, context)?;
    }
    siblings::check_for_qemu(&devices, context)?;
    let mut root = Element::new("domain").with("type", context.virt_type.as_str());
    let passed_through = namespace::complete(input)?;
    if !passed_through.is_empty() {
        root.set("xmlns:qemu", namespace::QEMU);
    }
    root.push(Element::new("name").with_text(name));
    root.push(Element::new("uuid").with_text(uuid.as_str()));
    push_all(&mut root, basics::generation_id(input, || context.host.new_uuid())?);
    push_all(&mut root, basics::title(input)?);
    push_all(&mut root, description(input));
    push_all(&mut root, metadata(input));
    push_all(&mut root, memory);
    Simple(input, &mut root).add(&tuning::BLKIO_TUNE)?;
    push_all(&mut root, tuning::memory_tune(input)?);
    push_all(&mut root, tuning::memory_backing(input)?);
    root.push(vcpu);
    push_all(&mut root, basics::vcpus(input)?);
    push_all(&mut root, iothreads(input)?);
    Simple(input, &mut root).add(&tuning::IOTHREAD_IDS)?;
    Simple(input, &mut root).add(&tuning::DEFAULT_IOTHREAD)?;
    Simple(input, &mut root).add(&tuning::THROTTLE_GROUPS)?;
    push_all(&mut root, tuning::cpu_tune(input)?);
    push_all(&mut root, tuning::numa_tune(input, cpu.as_ref())?);
    Simple(input, &mut root).add(&tuning::RESOURCE)?;
    push_all(&mut root, os::sysinfo(input, &uuid)?);
    root.push(os);
    Simple(input, &mut root).add(&tuning::ID_MAP)?;
    push_all(&mut root, features);
    push_all(&mut root, cpu);
    root.push(clock);
    push_all(&mut root, basics::events(input)?);
    Simple(input, &mut root).add(&tuning::POWER)?;
    Simple(input, &mut root).add(&tuning::PERF)?;
    root.push(devices);
    push_all(&mut root, tuning::seclabels(input)?);
    Simple(input, &mut root).add(&tuning::KEY_WRAP)?;
    push_all(&mut root, tuning::launch_security(input)?);
    push_all(&mut root, passed_through);
    fit::check(&root, context)?;
    Ok(root)
}

/// Whether the host has what a complete tree needs.
pub(super) fn check_facilities(root: &Element, host: &Host) -> Result<(), Error> {
    facilities::check(root, &machine::settle(root, host)?.context)
}

/// Gives addresses to those devices of a complete tree that have none.
pub(super) fn place_again(root: &mut Element, host: &Host) -> Result<(), Error> {
    let document = root.clone();
    let settled = machine::settle(&document, host)?;
    if let Some(devices) = root.child_mut("devices") {
        addresses::assign(devices, &settled.context)?;
        devices::arrange(devices);
    }
    Ok(())
}

fn push_all(root: &mut Element, elements: impl IntoIterator<Item = Element>) {
    for element in elements {
        root.push(element);
    }
}

/// `<metadata>` as it stands, with the declarations of the prefixes that it uses and that stood around it.
fn metadata(input: &Element) -> Option<Element> {
    let mut metadata = input.child("metadata").filter(|metadata| !metadata.children.is_empty())?.clone();
    for (name, space) in &input.attributes {
        let Some(prefix) = name.strip_prefix("xmlns:").filter(|_| metadata.attr(name).is_none()) else {
            continue;
        };
        let used = |markup: &str| {
            let starts = [format!("<{prefix}:"), format!(" {prefix}:"), format!("\n{prefix}:")];
            starts.iter().any(|start| markup.contains(start.as_str()))
        };
        if metadata.children.iter().any(|node| matches!(node, Node::Raw(markup) if used(markup))) {
            metadata.set(name, space.as_str());
        }
    }
    Some(metadata)
}

fn description(input: &Element) -> Option<Element> {
    let text = input.child_text("description").filter(|text| !text.is_empty())?;
    Some(Element::new("description").with_text(text))
}

/// How many I/O threads there are: those that are counted, and no fewer than those that have ids.
fn iothreads(input: &Element) -> Result<Option<Element>, Error> {
    let given = match input.child_text("iothreads") {
        None => 0,
        Some(text) => value::decimal(&text)
            .ok_or_else(|| refuse::xml(format!("<iothreads>: '{text}' is not a number")))?,
    };
    let named = input.child("iothreadids").map_or(0, |ids| ids.all("iothread").count() as u64);
    let count = given.max(named);
    Ok((count > 0).then(|| Element::new("iothreads").with_text(count.to_string())))
}
