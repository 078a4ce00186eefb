//! `<cpu>`: the model with its defaults, topology, NUMA cells.

use super::context::Context;
use super::{refuse, sets};
use crate::device::schema::{Shape, attribute, number, on_off, one_of, shape, text, yes_no};
use crate::device::value::{self, Kind};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

const U64: Kind = Kind::Number(0, u64::MAX);
const COUNT: Kind = Kind::Number(1, u32::MAX as u64);

const NUMA: Shape = shape(
    "numa",
    &[],
    &[
        shape(
            "cell",
            &[
                number("id"),
                text("cpus"),
                attribute("memory", U64).required(),
                text("unit"),
                one_of("memAccess", &["shared", "private"]),
                yes_no("discard"),
            ],
            &[
                shape(
                    "distances",
                    &[],
                    &[shape("sibling", &[number("id").required(), number("value").required()], &[]).many()],
                ),
                shape(
                    "cache",
                    &[
                        number("level").required(),
                        one_of("associativity", &["none", "direct", "full"]).required(),
                        one_of("policy", &["none", "writeback", "writethrough"]).required(),
                    ],
                    &[
                        shape("size", &[attribute("value", U64).required(), text("unit")], &[]),
                        shape("line", &[attribute("value", U64).required(), text("unit")], &[]),
                    ],
                )
                .many(),
            ],
        )
        .many(),
        shape(
            "interconnects",
            &[],
            &[
                shape(
                    "latency",
                    &[
                        number("initiator").required(),
                        number("target").required(),
                        number("cache"),
                        one_of("type", &["access", "read", "write"]).required(),
                        attribute("value", U64).required(),
                    ],
                    &[],
                )
                .many(),
                shape(
                    "bandwidth",
                    &[
                        number("initiator").required(),
                        number("target").required(),
                        number("cache"),
                        one_of("type", &["access", "read", "write"]).required(),
                        attribute("value", U64).required(),
                        text("unit"),
                    ],
                    &[],
                )
                .many(),
            ],
        ),
    ],
);

const CPU: Shape = shape(
    "cpu",
    &[
        one_of("mode", &["custom", "host-model", "host-passthrough", "maximum"]),
        one_of("match", &["minimum", "exact", "strict"]),
        one_of("check", &["none", "partial", "full"]),
        on_off("migratable"),
        on_off("deprecated_features"),
    ],
    &[
        shape("model", &[one_of("fallback", &["allow", "forbid"]), text("vendor_id")], &[]).kept(),
        shape("vendor", &[], &[]).kept(),
        shape(
            "topology",
            &[
                attribute("sockets", COUNT).required(),
                attribute("dies", COUNT),
                attribute("clusters", COUNT),
                attribute("cores", COUNT).required(),
                attribute("threads", COUNT).required(),
            ],
            &[],
        ),
        shape(
            "cache",
            &[
                attribute("level", Kind::Number(1, 3)),
                one_of("mode", &["emulate", "passthrough", "disable"]).required(),
            ],
            &[],
        ),
        shape(
            "maxphysaddr",
            &[one_of("mode", &["emulate", "passthrough"]).required(), number("bits"), number("limit")],
            &[],
        ),
        shape(
            "feature",
            &[
                one_of("policy", &["force", "require", "optional", "disable", "forbid"]),
                text("name").required(),
            ],
            &[],
        )
        .many(),
        NUMA,
    ],
);

/// The CPU of a guest that names none.
fn default_model(context: &Context) -> Option<&'static str> {
    let machine = context.machine.as_str();
    Some(match context.arch.as_str() {
        "x86_64" | "i686" if machine == "isapc" => "486",
        "x86_64" => "qemu64",
        "i686" => "qemu32",
        "s390x" if context.virt_type == "qemu" => "qemu",
        "ppc64" | "ppc64le" if context.is_pseries() => "POWER10",
        "ppc64" | "ppc64le" if machine == "mac99" => "ppc64",
        "armv6l" | "armv7l" | "aarch64" => match machine {
            "vexpress-a9" | "realview-pbx-a9" => "cortex-a9",
            "versatilepb" | "versatileab" => "arm926",
            "sbsa-ref" => "neoverse-n1",
            _ if context.is_virt() || machine == "vexpress-a15" => "cortex-a15",
            _ => return None,
        },
        "riscv64" => "rv64",
        "riscv32" => "rv32",
        "loongarch64" => "la464",
        _ => return None,
    })
}

/// The CPU in canonical form; `None` where libvirt knows no default.
pub(super) fn complete(input: &Element, vcpus: u32, context: &Context) -> Result<Option<Element>, Error> {
    let empty = Element::new("cpu");
    let given = input.child("cpu").unwrap_or(&empty);
    const POLICIES: &[&str] = &["force", "require", "optional", "disable", "forbid"];
    if let Some(policy) = given
        .all("feature")
        .filter_map(|feature| feature.attr("policy"))
        .find(|policy| !POLICIES.contains(policy))
    {
        return Err(Error::new(
            Code::CONFIG_UNSUPPORTED,
            Origin::CPU,
            format!("<cpu>: feature policy '{policy}' is not among {}", POLICIES.join(", ")),
        ));
    }
    let mut cpu = CPU.read(given)?;
    let mode = cpu.attr("mode").unwrap_or("custom").to_owned();
    let model_name = given.child_text("model").map(|name| name.trim().to_owned());
    let model_name = model_name.filter(|name| !name.is_empty());
    complete_model(given, &mut cpu, &mode, model_name, context)?;
    match given.child_text("vendor") {
        Some(vendor) if !vendor.is_empty() => cpu.child_or_insert("vendor").set_text(vendor),
        _ => {
            cpu.take("vendor");
        }
    }
    complete_features(&mut cpu)?;
    complete_topology(&mut cpu, vcpus)?;
    check_cache(&cpu, &mode)?;
    check_address_bits(&cpu, &mode)?;
    if let Some(numa) = cpu.child_mut("numa") {
        complete_numa(numa, vcpus)?;
    }
    CPU.arrange(&mut cpu);
    Ok((!cpu.attributes.is_empty() || !cpu.children.is_empty()).then_some(cpu))
}

fn complete_model(
    given: &Element,
    cpu: &mut Element,
    mode: &str,
    model_name: Option<String>,
    context: &Context,
) -> Result<(), Error> {
    if let Some(vendor) = given.path_attr("model", "vendor_id") {
        if vendor.len() != 12 {
            return Err(Error::new(
                Code::XML_ERROR,
                Origin::CPU,
                format!("<cpu>: vendor_id '{vendor}' has not exactly 12 characters"),
            ));
        }
        if vendor.contains(',') {
            return Err(Error::new(Code::XML_ERROR, Origin::CPU, "<cpu>: vendor_id holds a comma"));
        }
    }
    if mode != "host-passthrough" && mode != "maximum" {
        cpu.unset("migratable");
    }
    match mode {
        "custom" => {
            let (name, implied) = match model_name {
                Some(name) => (Some(name), false),
                None => (default_model(context).map(str::to_owned), true),
            };
            let Some(name) = name else {
                cpu.take("model");
                return Ok(());
            };
            cpu.set("mode", "custom");
            if cpu.attr("match").is_none() {
                cpu.set("match", "exact");
            }
            let check = cpu.attr("check").map(str::to_owned);
            let checked = context.virt_type == "kvm" && !implied;
            cpu.set("check", check.unwrap_or_else(|| if checked { "partial" } else { "none" }.to_owned()));
            let model = cpu.child_or_insert("model");
            if implied {
                model.set("fallback", "forbid");
            } else if model.attr("fallback").is_none() {
                model.set("fallback", "allow");
            }
            model.set_text(name);
        }
        "host-model" => {
            cpu.unset("match");
            if cpu.attr("check").is_none() {
                cpu.set("check", "partial");
            }
            match model_name {
                Some(name) if context.arch.starts_with("ppc") => {
                    let model = cpu.child_or_insert("model");
                    if model.attr("fallback").is_none() {
                        model.set("fallback", "allow");
                    }
                    model.set_text(name);
                }
                _ => {
                    cpu.take("model");
                }
            }
        }
        _ => {
            cpu.take("model");
            cpu.unset("match");
            if cpu.attr("check").is_none() {
                cpu.set("check", "none");
            }
            if mode == "host-passthrough" && context.is_x86() && cpu.attr("migratable").is_none() {
                let same = context.arch == context.host.arch;
                cpu.set("migratable", if same { "on" } else { "off" });
            }
        }
    }
    Ok(())
}

fn complete_features(cpu: &mut Element) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for feature in cpu.elements_mut().filter(|child| child.name == "feature") {
        let name = feature.attr("name").unwrap_or_default().to_owned();
        if feature.attr("policy").is_none() {
            feature.set("policy", "require");
        }
        if !seen.insert(name.clone()) {
            return Err(Error::new(
                Code::XML_ERROR,
                Origin::CPU,
                format!("<cpu>: feature '{name}' is given twice; remove one"),
            ));
        }
    }
    Ok(())
}

fn complete_topology(cpu: &mut Element, vcpus: u32) -> Result<(), Error> {
    let Some(topology) = cpu.child_mut("topology") else {
        return Ok(());
    };
    let mut product: u64 = 1;
    for name in ["sockets", "dies", "clusters", "cores", "threads"] {
        if topology.attr(name).is_none() {
            topology.set(name, "1");
        }
        let part = topology.attr(name).and_then(|part| part.parse::<u64>().ok());
        product = product.saturating_mul(part.unwrap_or(1));
    }
    if product != u64::from(vcpus) {
        return Err(refuse::unsupported_by_qemu(format!(
            "<cpu>: the topology makes {product} vCPUs, but <vcpu> says {vcpus}; make them equal"
        )));
    }
    Ok(())
}

fn check_cache(cpu: &Element, mode: &str) -> Result<(), Error> {
    let Some(cache) = cpu.child("cache") else {
        return Ok(());
    };
    let level = cache.attr("level");
    match cache.attr("mode") {
        Some("passthrough") if mode != "host-passthrough" && mode != "maximum" => {
            Err(refuse::unsupported_by_qemu(
                "<cpu>: cache mode 'passthrough' needs CPU mode 'host-passthrough' or 'maximum'",
            ))
        }
        Some("passthrough") if level.is_some() => {
            Err(refuse::unsupported_by_qemu("<cpu>: cache mode 'passthrough' takes no level; remove it"))
        }
        Some("emulate") if level.is_some_and(|level| level != "3") => {
            Err(refuse::unsupported_by_qemu("<cpu>: cache mode 'emulate' is for level 3 alone"))
        }
        Some("disable") if level.is_some() => {
            Err(refuse::unsupported_by_qemu("<cpu>: cache mode 'disable' takes no level; remove it"))
        }
        _ => Ok(()),
    }
}

fn check_address_bits(cpu: &Element, mode: &str) -> Result<(), Error> {
    let Some(bits) = cpu.child("maxphysaddr") else {
        return Ok(());
    };
    match bits.attr("mode") {
        Some("passthrough") if mode != "host-passthrough" && mode != "maximum" => {
            Err(refuse::unsupported_by_qemu(
                "<cpu>: maxphysaddr mode 'passthrough' needs CPU mode 'host-passthrough' or 'maximum'",
            ))
        }
        Some("passthrough") if bits.attr("bits").is_some() => Err(refuse::unsupported_by_qemu(
            "<cpu>: maxphysaddr mode 'passthrough' takes no 'bits'; use 'limit'",
        )),
        Some("emulate") if bits.attr("limit").is_some() => {
            Err(refuse::unsupported_by_qemu("<cpu>: maxphysaddr mode 'emulate' takes no 'limit'; use 'bits'"))
        }
        _ => Ok(()),
    }
}

/// Rewrites a number with a unit as KiB.
pub(super) fn to_kib(element: &mut Element, name: &str) -> Result<u64, Error> {
    let bytes = value::bytes(
        element.attr(name).unwrap_or("0"),
        element.attr("unit"),
        1024,
        &format!("<{}>", element.name),
    )?;
    let kib = bytes.div_ceil(1024);
    element.set(name, kib.to_string());
    element.set("unit", "KiB");
    Ok(kib)
}

fn complete_numa(numa: &mut Element, vcpus: u32) -> Result<(), Error> {
    let count = u32::try_from(numa.all("cell").count()).unwrap_or(u32::MAX);
    let mut ids = BTreeSet::new();
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    for (index, cell) in numa.elements_mut().filter(|child| child.name == "cell").enumerate() {
        let id = match cell.attr("id") {
            Some(id) => id.parse::<u32>().unwrap_or(u32::MAX),
            None => u32::try_from(index).unwrap_or(u32::MAX),
        };
        if id >= count {
            return Err(refuse::xml(format!(
                "<numa>: cell ids must run from 0 to {} without gaps, {id} does not fit",
                count.saturating_sub(1)
            )));
        }
        if !ids.insert(id) {
            return Err(refuse::xml(format!("<numa>: cell {id} is given twice")));
        }
        cell.set("id", id.to_string());
        to_kib(cell, "memory")?;
        if let Some(cpus) = cell.attr("cpus") {
            let set = sets::parse(cpus).ok_or_else(|| {
                refuse::xml(format!("<numa>: cpus '{cpus}' of cell {id} is no set of vCPUs"))
            })?;
            if let Some(clash) = set.iter().find(|cpu| taken.contains(cpu)) {
                return Err(refuse::unsupported(format!(
                    "<numa>: vCPU {clash} of cell {id} is in another cell too"
                )));
            }
            taken.extend(&set);
            cell.set("cpus", sets::format(&set));
        }
        for cache in cell.elements_mut().filter(|child| child.name == "cache") {
            for size in cache.elements_mut() {
                if size.attr("unit").is_none() {
                    size.set("unit", "KiB");
                }
            }
        }
        check_distances(cell, id, count)?;
    }
    // vCPUs that are in no cell are in the first.
    if taken.last().is_none_or(|last| *last < vcpus)
        && taken.len() < vcpus as usize
        && let Some(cell) =
            numa.elements_mut().find(|child| child.name == "cell" && child.attr("id") == Some("0"))
    {
        let mut cpus = cell.attr("cpus").and_then(sets::parse).unwrap_or_default();
        cpus.extend((0..vcpus).filter(|cpu| !taken.contains(cpu)));
        cell.set("cpus", sets::format(&cpus));
        const ATTRIBUTES: &[&str] = &["id", "cpus", "memory"];
        cell.attributes
            .sort_by_key(|(name, _)| ATTRIBUTES.iter().position(|known| known == name).unwrap_or(9));
    }
    if taken.last().is_some_and(|last| *last >= vcpus) {
        return Err(refuse::internal(format!(
            "<numa>: vCPU {} is beyond the {vcpus} of <vcpu>",
            taken.last().copied().unwrap_or(0)
        )));
    }
    numa.children.sort_by_key(|node| match node {
        bulkhead_xml::Node::Element(cell) if cell.name == "cell" => {
            cell.attr("id").and_then(|id| id.parse::<u32>().ok()).unwrap_or(0)
        }
        _ => u32::MAX,
    });
    complete_distances(numa, count);
    if let Some(interconnects) = numa.child_mut("interconnects") {
        for bandwidth in interconnects.elements_mut().filter(|child| child.name == "bandwidth") {
            to_kib(bandwidth, "value")?;
        }
    }
    Ok(())
}

/// Guests whose memory can grow have NUMA cells, one if the definition names none.
pub(super) fn add_numa_cell(cpu: &mut Element, vcpus: u32, memory: u64) {
    if cpu.child("numa").is_some() {
        return;
    }
    let cpus: BTreeSet<u32> = (0..vcpus).collect();
    let cell = Element::new("cell")
        .with("id", "0")
        .with("cpus", sets::format(&cpus))
        .with("memory", memory.to_string())
        .with("unit", "KiB");
    cpu.push(Element::new("numa").with_child(cell));
}

fn check_distances(cell: &Element, id: u32, count: u32) -> Result<(), Error> {
    for sibling in cell.child("distances").iter().flat_map(|d| d.elements()) {
        let number = |name| sibling.attr(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let (other, distance) = (number("id"), number("value"));
        let fits = (10..=254).contains(&distance) && (distance == 10) == (other == id);
        if !fits {
            return Err(refuse::xml(format!(
                "<numa>: distance {distance} from cell {id} to {other} is wrong: 10 to itself, 11 to 254 to others"
            )));
        }
        if other >= count {
            return Err(refuse::xml(format!(
                "<numa>: cell {id} has a distance to {other}, which is no cell"
            )));
        }
    }
    Ok(())
}

/// Distances are symmetric, and 10 to oneself; what one side says the other gets.
fn complete_distances(numa: &mut Element, count: u32) {
    use std::collections::BTreeMap;
    let mut known: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for (index, cell) in numa.all("cell").enumerate() {
        let from = u32::try_from(index).unwrap_or(u32::MAX);
        for sibling in cell.child("distances").iter().flat_map(|d| d.elements()) {
            let number = |name| sibling.attr(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
            known.insert((from, number("id")), number("value"));
        }
    }
    if known.is_empty() {
        return;
    }
    let given = known.clone();
    for (&(from, to), &distance) in &given {
        known.entry((to, from)).or_insert(distance);
    }
    for (index, cell) in numa.elements_mut().filter(|child| child.name == "cell").enumerate() {
        let from = u32::try_from(index).unwrap_or(u32::MAX);
        if !known.keys().any(|(start, _)| *start == from) {
            continue;
        }
        known.entry((from, from)).or_insert(10);
        let mut distances = Element::new("distances");
        for to in 0..count {
            let distance = known.get(&(from, to)).copied().unwrap_or(20);
            distances
                .push(Element::new("sibling").with("id", to.to_string()).with("value", distance.to_string()));
        }
        cell.take("distances");
        cell.children.insert(0, bulkhead_xml::Node::Element(distances));
    }
}
