//! Name, identity, memory and vCPUs: the simple elements at the top of a definition.

use super::{refuse, sets};
use crate::device::schema::{Shape, attribute, number, one_of, shape, text, yes_no};
use crate::device::value::{self, Kind};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// More than any machine type takes.
const MAXIMUM_VCPUS: u32 = 16384;

/// The domain's name, whatever it is.
pub(super) fn named(root: &Element) -> Result<String, Error> {
    let missing = || Error::new(refuse::NO_NAME, Origin::DOMAIN, "<domain> has no <name>; add one");
    root.child_text("name").filter(|name| !name.is_empty()).ok_or_else(missing)
}

/// The domain's name, checked.
pub(super) fn name(root: &Element) -> Result<String, Error> {
    let name = named(root)?;
    if name.contains('\n') {
        return Err(Error::new(Code::XML_DETAIL, Origin::XML, "<name> holds a line break; remove it"));
    }
    if name.contains('/') || name == "." || name == ".." {
        return Err(refuse::xml(format!("<name> '{name}' can't be the name of a file")));
    }
    // Of longer names the files made of them (`NAME.xml.unreadable`) could not be named.
    if name.len() > NAME_MAX_BYTES {
        return Err(Error::new(
            Code::SYSTEM_ERROR,
            Origin::NONE,
            format!("<name> has {} bytes, at most {NAME_MAX_BYTES} are possible", name.len()),
        ));
    }
    Ok(name)
}

/// Longest name of a domain.
const NAME_MAX_BYTES: usize = 236;

/// A text without line breaks that may be absent.
pub(super) fn title(root: &Element) -> Result<Option<Element>, Error> {
    let Some(title) = root.child_text("title").filter(|title| !title.is_empty()) else {
        return Ok(None);
    };
    if title.contains('\n') {
        return Err(refuse::xml("<title> holds a line break; remove it or use <description>"));
    }
    Ok(Some(Element::new("title").with_text(title)))
}

/// Memory in KiB of the element of that name, if it is there.
fn memory_of(root: &Element, name: &str) -> Result<Option<u64>, Error> {
    let Some(element) = root.child(name) else {
        return Ok(None);
    };
    let text = element.text();
    // A size is digits and nothing else here.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse::value(format!("<{name}>: '{text}' is not a size")));
    }
    if text.is_empty() {
        return Ok(Some(0));
    }
    let bytes = value::bytes(&text, element.attr("unit"), 1024, &format!("<{name}>"))?;
    if bytes > (i64::MAX as u64) {
        return Err(Error::new(
            Code::OVERFLOW,
            Origin::NONE,
            format!("<{name}>: {text} is too large for its unit"),
        ));
    }
    Ok(Some(bytes.div_ceil(1024)))
}

fn in_kib(name: &str, kib: u64) -> Element {
    Element::new(name).with("unit", "KiB").with_text(kib.to_string())
}

/// `<maxMemory>`, `<memory>` and `<currentMemory>`. Guests with NUMA cells have what their cells say, and memory
/// devices come on top.
pub(super) fn memory(
    root: &Element,
    cpu: Option<&Element>,
    devices: &Element,
) -> Result<Vec<Element>, Error> {
    let mut total = memory_of(root, "memory")?.unwrap_or(0);
    let current = memory_of(root, "currentMemory")?.unwrap_or(0);
    let maximum = memory_of(root, "maxMemory")?.unwrap_or(0);
    let plugged = plugged_memory(devices);
    let cells: u64 = cpu
        .and_then(|cpu| cpu.child("numa"))
        .iter()
        .flat_map(|numa| numa.all("cell"))
        .filter_map(|cell| cell.attr("memory")?.parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    if cells > 0 {
        total = cells.saturating_add(plugged);
    } else if total == 0 {
        return Err(refuse::xml("<domain> has no memory; add <memory unit='MiB'>...</memory>"));
    } else if plugged > total {
        return Err(refuse::xml(format!(
            "Memory devices have {plugged} KiB, more than the {total} KiB of <memory>"
        )));
    }
    let mut all = Vec::new();
    if maximum > 0 {
        let slots = root.path_attr("maxMemory", "slots").unwrap_or("0");
        let slots = value::decimal(slots)
            .ok_or_else(|| refuse::value(format!("<maxMemory>: slots '{slots}' is not a number")))?;
        if maximum < total {
            return Err(refuse::unsupported(format!(
                "<maxMemory> is {maximum} KiB, less than the {total} KiB of <memory>"
            )));
        }
        let mut element = in_kib("maxMemory", maximum);
        if slots > 0 {
            element.attributes.insert(0, ("slots".to_owned(), slots.to_string()));
        }
        all.push(element);
    } else if root.path_attr("maxMemory", "slots").is_some() {
        return Err(refuse::xml("<maxMemory> has slots but no size; give one"));
    }
    let mut memory = in_kib("memory", total);
    if let Some(dump) = root.path_attr("memory", "dumpCore") {
        if !matches!(dump, "on" | "off") {
            return Err(refuse::value(format!("<memory>: dumpCore '{dump}' is neither on nor off")));
        }
        memory.attributes.insert(0, ("dumpCore".to_owned(), dump.to_owned()));
    }
    all.push(memory);
    all.push(in_kib("currentMemory", if current == 0 || current > total { total } else { current }));
    Ok(all)
}

/// Memory in KiB that the guest has before memory devices are added.
pub(super) fn initial_memory(memory: &[Element], devices: &Element) -> u64 {
    let total = memory
        .iter()
        .find(|element| element.name == "memory")
        .and_then(|element| element.text().parse::<u64>().ok())
        .unwrap_or(0);
    total.saturating_sub(plugged_memory(devices))
}

/// Memory in KiB of the memory devices.
fn plugged_memory(devices: &Element) -> u64 {
    devices
        .all("memory")
        .filter_map(|device| device.at("target/size")?.text().parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

const VCPU: Shape =
    shape("vcpu", &[one_of("placement", &["static", "auto"]), text("cpuset"), text("current")], &[]);

const VCPUS: Shape = shape(
    "vcpus",
    &[],
    &[shape(
        "vcpu",
        &[
            number("id").required(),
            yes_no("enabled").required(),
            yes_no("hotpluggable"),
            attribute("order", Kind::Number(1, u32::MAX as u64)),
        ],
        &[],
    )
    .many()],
);

/// `<vcpu>` and how many vCPUs there can be.
pub(super) fn vcpu(root: &Element) -> Result<(Element, u32), Error> {
    let empty = Element::new("vcpu");
    let given = root.child("vcpu").unwrap_or(&empty);
    let mut vcpu = VCPU.read(given)?;
    let count = |text: &str| text.parse::<u32>().ok().filter(|count| *count <= MAXIMUM_VCPUS);
    let text = given.text();
    let maximum = if text.is_empty() {
        1
    } else {
        count(text.trim()).ok_or_else(|| {
            refuse::xml(format!("<vcpu>: '{text}' is not a number of vCPUs up to {MAXIMUM_VCPUS}"))
        })?
    };
    if maximum == 0 {
        return Err(refuse::internal("<vcpu>: a guest has at least one vCPU"));
    }
    if let Some(current) = vcpu.attr("current").map(str::to_owned) {
        let enabled = count(current.trim())
            .filter(|enabled| *enabled > 0)
            .ok_or_else(|| refuse::xml(format!("<vcpu>: current '{current}' is not a number of vCPUs")))?;
        if enabled > maximum {
            return Err(refuse::unsupported(format!(
                "<vcpu>: current {enabled} is more than the maximum {maximum}"
            )));
        }
        if enabled == maximum {
            vcpu.unset("current");
        } else {
            vcpu.set("current", enabled.to_string());
        }
    }
    let automatic = vcpu.attr("placement") == Some("auto")
        || vcpu.attr("placement").is_none()
            && vcpu.attr("cpuset").is_none()
            && root.path_attr("numatune/memory", "placement") == Some("auto");
    if automatic {
        vcpu.unset("cpuset");
    } else if let Some(given) = vcpu.attr("cpuset").map(str::to_owned) {
        let set = sets::parse(&given)
            .ok_or_else(|| refuse::xml(format!("<vcpu>: cpuset '{given}' is no set of CPUs")))?;
        vcpu.set("cpuset", sets::format(&set));
    }
    vcpu.set("placement", if automatic { "auto" } else { "static" });
    VCPU.arrange(&mut vcpu);
    vcpu.set_text(maximum.to_string());
    Ok((vcpu, maximum))
}

/// `<vcpus>`: single vCPUs that are switched on or off.
pub(super) fn vcpus(root: &Element) -> Result<Option<Element>, Error> {
    let Some(given) = root.child("vcpus") else {
        return Ok(None);
    };
    let vcpus = VCPUS.read(given)?;
    Ok((!vcpus.children.is_empty()).then_some(vcpus))
}

/// `<genid>`, made up if it is empty.
pub(super) fn generation_id(
    root: &Element,
    fresh: impl FnOnce() -> String,
) -> Result<Option<Element>, Error> {
    let Some(text) = root.child_text("genid") else {
        return Ok(None);
    };
    let id = if text.trim().is_empty() {
        fresh()
    } else {
        value::uuid(&text).ok_or_else(|| refuse::internal(format!("<genid>: '{text}' is no UUID")))?
    };
    Ok(Some(Element::new("genid").with_text(id)))
}

/// What happens at the guest's end: element, choices, default.
const EVENTS: &[(&str, &[&str], Option<&str>)] = &[
    ("on_poweroff", &["destroy", "restart", "rename-restart", "preserve"], Some("destroy")),
    ("on_reboot", &["destroy", "restart", "rename-restart", "preserve"], Some("restart")),
    (
        "on_crash",
        &["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"],
        Some("destroy"),
    ),
    ("on_lockfailure", &["poweroff", "restart", "pause", "ignore"], None),
];

/// `<on_poweroff>` and its like.
pub(super) fn events(root: &Element) -> Result<Vec<Element>, Error> {
    let mut all = Vec::new();
    for (name, choices, default) in EVENTS {
        let given = root.child_text(name).filter(|text| !text.is_empty());
        let action = match (&given, default) {
            (Some(action), _) if choices.contains(&action.as_str()) => action.as_str(),
            (Some(action), _) => {
                return Err(refuse::internal(format!(
                    "<{name}>: '{action}' is not among {}",
                    choices.join(", ")
                )));
            }
            (None, Some(default)) => default,
            (None, None) => continue,
        };
        all.push(Element::new(name).with_text(action));
    }
    let text = |index: usize| all.get(index).map(Element::text).unwrap_or_default();
    let (poweroff, reboot) = (text(0), text(1));
    if poweroff == "restart" && matches!(reboot.as_str(), "destroy" | "preserve") {
        return Err(refuse::unsupported_by_qemu(format!(
            "<on_reboot> '{reboot}' and <on_poweroff> '{poweroff}' exclude each other"
        )));
    }
    Ok(all)
}
