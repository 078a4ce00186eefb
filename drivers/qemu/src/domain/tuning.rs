//! How the host treats the guest: memory backing, limits, placement. Tables of what is kept, in libvirt's order.

use super::{refuse, sets};
use crate::device::schema::{
    Attribute, Shape, attribute, content, flag, number, on_off, one_of, shape, text, yes_no,
};
use crate::device::value::{self, Kind};
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};

const U64: Kind = Kind::Number(0, u64::MAX);
const SCHEDULER: Attribute = one_of("scheduler", &["batch", "idle", "fifo", "rr"]);
const PRIORITY: Attribute = number("priority");

/// `<memoryBacking>`.
const MEMORY_BACKING: Shape = shape(
    "memoryBacking",
    &[],
    &[
        shape(
            "hugepages",
            &[],
            &[shape("page", &[attribute("size", U64).required(), text("unit"), text("nodeset")], &[]).many()],
        )
        .kept(),
        flag("nosharepages"),
        flag("locked"),
        shape("source", &[one_of("type", &["file", "anonymous", "memfd"])], &[]),
        shape("access", &[one_of("mode", &["shared", "private"])], &[]),
        shape("allocation", &[one_of("mode", &["immediate", "ondemand"]), number("threads")], &[]),
        flag("discard"),
    ],
);

/// `<blkiotune>`.
pub(super) const BLKIO_TUNE: Shape = shape(
    "blkiotune",
    &[],
    &[
        content("weight", Kind::Number(0, u32::MAX as u64)),
        shape(
            "device",
            &[],
            &[
                content("path", Kind::Text),
                content("weight", Kind::Number(0, u32::MAX as u64)),
                content("read_iops_sec", U64),
                content("write_iops_sec", U64),
                content("read_bytes_sec", U64),
                content("write_bytes_sec", U64),
            ],
        )
        .many(),
    ],
);

/// The limits of `<memtune>`, in the order of printing.
const MEMORY_LIMITS: &[&str] = &["hard_limit", "soft_limit", "min_guarantee", "swap_hard_limit"];

/// `<cputune>`.
const CPU_TUNE: Shape = shape(
    "cputune",
    &[],
    &[
        content("shares", U64),
        content("period", U64),
        content("quota", Kind::Text),
        content("global_period", U64),
        content("global_quota", Kind::Text),
        content("emulator_period", U64),
        content("emulator_quota", Kind::Text),
        content("iothread_period", U64),
        content("iothread_quota", Kind::Text),
        shape("vcpupin", &[number("vcpu").required(), text("cpuset").required()], &[]).many(),
        shape("emulatorpin", &[text("cpuset").required()], &[]),
        shape("iothreadpin", &[number("iothread").required(), text("cpuset").required()], &[]).many(),
        shape("emulatorsched", &[SCHEDULER.required(), PRIORITY], &[]),
        shape("vcpusched", &[text("vcpus").required(), SCHEDULER.required(), PRIORITY], &[]).many(),
        shape("iothreadsched", &[text("iothreads").required(), SCHEDULER.required(), PRIORITY], &[]).many(),
        shape(
            "cachetune",
            &[text("vcpus").required()],
            &[
                shape(
                    "cache",
                    &[
                        number("id").required(),
                        number("level").required(),
                        one_of("type", &["both", "code", "data"]).required(),
                        attribute("size", U64).required(),
                        text("unit"),
                    ],
                    &[],
                )
                .many(),
                shape("monitor", &[number("level").required(), text("vcpus").required()], &[]).many(),
            ],
        )
        .many(),
        shape(
            "memorytune",
            &[text("vcpus").required()],
            &[
                shape("node", &[number("id").required(), number("bandwidth").required()], &[]).many(),
                shape("monitor", &[text("vcpus").required()], &[]).many(),
            ],
        )
        .many(),
    ],
);

const NUMA_MODES: &[&str] = &["strict", "preferred", "interleave", "restrictive"];

/// `<numatune>`.
const NUMA_TUNE: Shape = shape(
    "numatune",
    &[],
    &[
        shape(
            "memory",
            &[one_of("mode", NUMA_MODES), text("nodeset"), one_of("placement", &["static", "auto"])],
            &[],
        ),
        shape(
            "memnode",
            &[number("cellid").required(), one_of("mode", NUMA_MODES), text("nodeset").required()],
            &[],
        )
        .many(),
    ],
);

/// `<iothreadids>`.
pub(super) const IOTHREAD_IDS: Shape = shape(
    "iothreadids",
    &[],
    &[shape(
        "iothread",
        &[
            attribute("id", Kind::Number(1, u32::MAX as u64)).required(),
            number("thread_pool_min"),
            number("thread_pool_max"),
        ],
        &[shape("poll", &[attribute("max", U64), attribute("grow", U64), attribute("shrink", U64)], &[])],
    )
    .many()],
);

/// `<defaultiothread>`.
pub(super) const DEFAULT_IOTHREAD: Shape =
    shape("defaultiothread", &[number("thread_pool_min"), number("thread_pool_max")], &[]);

/// `<throttlegroups>`.
pub(super) const THROTTLE_GROUPS: Shape = shape(
    "throttlegroups",
    &[],
    &[shape(
        "throttlegroup",
        &[],
        &[
            content("total_bytes_sec", U64),
            content("read_bytes_sec", U64),
            content("write_bytes_sec", U64),
            content("total_iops_sec", U64),
            content("read_iops_sec", U64),
            content("write_iops_sec", U64),
            content("total_bytes_sec_max", U64),
            content("read_bytes_sec_max", U64),
            content("write_bytes_sec_max", U64),
            content("total_iops_sec_max", U64),
            content("read_iops_sec_max", U64),
            content("write_iops_sec_max", U64),
            content("size_iops_sec", U64),
            content("group_name", Kind::Text),
            content("total_bytes_sec_max_length", U64),
            content("read_bytes_sec_max_length", U64),
            content("write_bytes_sec_max_length", U64),
            content("total_iops_sec_max_length", U64),
            content("read_iops_sec_max_length", U64),
            content("write_iops_sec_max_length", U64),
        ],
    )
    .many()],
);

/// `<resource>`.
pub(super) const RESOURCE: Shape =
    shape("resource", &[], &[content("partition", Kind::Text), shape("fibrechannel", &[text("appid")], &[])]);

/// `<idmap>`.
pub(super) const ID_MAP: Shape = shape(
    "idmap",
    &[],
    &[
        shape("uid", &[number("start"), number("target"), number("count")], &[]).many(),
        shape("gid", &[number("start"), number("target"), number("count")], &[]).many(),
    ],
);

/// `<pm>`.
pub(super) const POWER: Shape = shape(
    "pm",
    &[],
    &[
        shape("suspend-to-mem", &[yes_no("enabled")], &[]),
        shape("suspend-to-disk", &[yes_no("enabled")], &[]),
    ],
);

/// The host's performance counters that libvirt knows.
pub(crate) const PERF_EVENTS: &[&str] = &[
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
];

/// `<perf>`.
pub(super) const PERF: Shape = shape(
    "perf",
    &[],
    &[shape("event", &[one_of("name", PERF_EVENTS).required(), yes_no("enabled").required()], &[]).many()],
);

/// `<keywrap>`.
pub(super) const KEY_WRAP: Shape = shape(
    "keywrap",
    &[],
    &[shape("cipher", &[one_of("name", &["aes", "dea"]).required(), on_off("state").required()], &[]).many()],
);

/// `<cputune>`: sets in their usual spelling, schedulers for each thread by itself.
pub(super) fn cpu_tune(input: &Element) -> Result<Option<Element>, Error> {
    let Some(given) = input.child("cputune") else {
        return Ok(None);
    };
    let mut tune = CPU_TUNE.read(given)?;
    for limit in tune.elements() {
        let number = limit.text().trim().parse::<i128>();
        let range = match limit.name.as_str() {
            name if name.ends_with("period") => 1000..=1_000_000,
            name if name.ends_with("quota") => -1..=17_592_186_044_415,
            _ => continue,
        };
        let unlimited = limit.name.ends_with("quota") && number.as_ref().is_ok_and(|number| *number < 0);
        if !unlimited && !number.is_ok_and(|number| number == 0 || range.contains(&number)) {
            return Err(refuse::unsupported(format!(
                "<cputune>: {} must be from {} to {}",
                limit.name,
                range.start(),
                range.end()
            )));
        }
    }
    let mut pinned = std::collections::BTreeSet::new();
    let mut children = Vec::new();
    for mut child in std::mem::take(&mut tune.children).into_iter().filter_map(|node| match node {
        Node::Element(element) => Some(element),
        _ => None,
    }) {
        if let Some(cpus) = child.attr("cpuset").map(str::to_owned) {
            let set = sets::parse(&cpus)
                .ok_or_else(|| refuse::xml(format!("<cputune>: cpuset '{cpus}' is no set of CPUs")))?;
            child.set("cpuset", sets::format(&set));
        }
        match child.name.as_str() {
            "vcpupin" if !pinned.insert(child.attr("vcpu").map(str::to_owned)) => {
                return Err(refuse::internal("<cputune>: a vCPU is pinned twice; remove one <vcpupin>"));
            }
            "vcpusched" => expand(&child, "vcpus", &mut children)?,
            "iothreadsched" => expand(&child, "iothreads", &mut children)?,
            _ => children.push(child),
        }
    }
    // Threads in ascending order; the sort keeps the order of everything else.
    let rank = |child: &Element| {
        let name = match child.name.as_str() {
            "vcpusched" => "vcpus",
            "iothreadsched" => "iothreads",
            _ => return None,
        };
        child.attr(name).and_then(|id| id.parse::<u32>().ok())
    };
    for name in ["vcpusched", "iothreadsched"] {
        if let Some(start) = children.iter().position(|child| child.name == name) {
            let count = children.iter().filter(|child| child.name == name).count();
            if let Some(group) = children.get_mut(start..start + count) {
                group.sort_by_key(rank);
            }
        }
    }
    tune.children = children.into_iter().map(Node::Element).collect();
    Ok((!tune.children.is_empty()).then_some(tune))
}

fn expand(child: &Element, name: &str, into: &mut Vec<Element>) -> Result<(), Error> {
    let text = child.attr(name).unwrap_or_default();
    let set = sets::parse(text)
        .ok_or_else(|| refuse::xml(format!("<{}>: '{text}' is no set of numbers", child.name)))?;
    for id in set {
        let mut one = child.clone();
        one.set(name, id.to_string());
        if matches!(one.attr("scheduler"), Some("batch" | "idle")) {
            one.unset("priority");
        }
        into.push(one);
    }
    Ok(())
}

/// `<numatune>`: sets in their usual spelling, and modes.
pub(super) fn numa_tune(input: &Element, cpu: Option<&Element>) -> Result<Option<Element>, Error> {
    let Some(given) = input.child("numatune") else {
        return Ok(None);
    };
    let mut tune = NUMA_TUNE.read(given)?;
    let automatic = tune.path_attr("memory", "placement") == Some("auto");
    let cells = cpu.and_then(|cpu| cpu.child("numa"));
    if tune.child("memnode").is_some() {
        if cells.is_none() {
            return Err(refuse::xml("<memnode> needs the guest to have NUMA cells; add <numa> to <cpu>"));
        }
        if automatic {
            return Err(refuse::unsupported("<memnode> and placement='auto' exclude each other"));
        }
    }
    let mode = tune.path_attr("memory", "mode").unwrap_or("strict").to_owned();
    for child in tune.elements_mut() {
        if child.attr("mode").is_none() {
            child.set("mode", "strict");
        }
        if child.name == "memnode" && (mode == "restrictive") != (child.attr("mode") == Some("restrictive")) {
            return Err(refuse::xml("Mode 'restrictive' is for <memory> and every <memnode>, or for none"));
        }
        if let Some(nodes) = child.attr("nodeset").map(str::to_owned) {
            let set = sets::parse(&nodes).ok_or_else(|| {
                refuse::unsupported(format!("<numatune>: nodeset '{nodes}' is no set of nodes"))
            })?;
            child.set("nodeset", sets::format(&set));
        }
        if child.name == "memory" {
            if automatic {
                child.unset("nodeset");
            } else if child.attr("nodeset").is_none() {
                if child.attr("placement") == Some("static") {
                    return Err(refuse::unsupported("<numatune>: placement 'static' needs a nodeset"));
                }
                // Without a place it goes where the vCPUs go.
                if input.path_attr("vcpu", "placement") == Some("auto") {
                    child.set("placement", "auto");
                }
            } else {
                child.unset("placement");
            }
        }
    }
    NUMA_TUNE.arrange(&mut tune);
    Ok((!tune.children.is_empty()).then_some(tune))
}

const LAUNCH_SECURITY: Shape = shape(
    "launchSecurity",
    &[
        one_of("type", &["sev", "sev-snp", "s390-pv"]).required(),
        yes_no("kernelHashes"),
        yes_no("authorKey"),
        yes_no("vcek"),
    ],
    &[
        content("cbitpos", Kind::Number(0, u32::MAX as u64)),
        content("reducedPhysBits", Kind::Number(0, u32::MAX as u64)),
        content("policy", Kind::Text),
        content("dhCert", Kind::Text),
        content("session", Kind::Text),
        content("guestVisibleWorkarounds", Kind::Text),
        content("idBlock", Kind::Text),
        content("idAuth", Kind::Text),
        content("hostData", Kind::Text),
    ],
);

/// `<launchSecurity>`: its table, and that no emulator here has it.
pub(super) fn launch_security(input: &Element) -> Result<Option<Element>, Error> {
    let Some(given) = input.child("launchSecurity") else {
        return Ok(None);
    };
    let read = LAUNCH_SECURITY.read(given)?;
    Err(refuse::unsupported_by_qemu(format!(
        "Launch security '{}' is not to be had with this emulator; remove <launchSecurity>",
        read.attr("type").unwrap_or_default()
    )))
}

const SECLABEL: Shape = shape(
    "seclabel",
    &[one_of("type", &["none", "dynamic", "static"]), text("model"), yes_no("relabel")],
    &[content("label", Kind::Text), content("imagelabel", Kind::Text), content("baselabel", Kind::Text)],
);

/// `<seclabel>`s with their defaults.
pub(super) fn seclabels(input: &Element) -> Result<Vec<Element>, Error> {
    let given: Vec<&Element> = input.all("seclabel").collect();
    let mut labels: Vec<Element> = Vec::new();
    for &label in &given {
        let mut read = SECLABEL.read(label)?;
        let mut kind = read.attr("type").unwrap_or("dynamic").to_owned();
        if label.attr("model").is_none() {
            // Asked for in so many words, a label of the host's own model is none where the host labels nothing.
            let default = matches!(label.attr("type"), Some("none" | "dynamic"));
            if given.len() > 1 || !default {
                return Err(refuse::xml("A security label needs a model ('model' attribute of <seclabel>)"));
            }
            "none".clone_into(&mut kind);
            read.set("model", "none");
        }
        read.set("type", kind.as_str());
        read.take("imagelabel");
        match kind.as_str() {
            "none" => {
                read.unset("relabel");
                read.take("label");
                read.take("baselabel");
            }
            "static" => {
                if read.child("label").is_none() {
                    return Err(refuse::xml("A static security label needs its <label>"));
                }
                if read.attr("relabel").is_none() {
                    read.set("relabel", "no");
                }
                read.take("baselabel");
            }
            _ => {
                read.take("label");
                read.set("relabel", "yes");
            }
        }
        SECLABEL.arrange(&mut read);
        if labels.iter().any(|label| label.attr("model") == read.attr("model")) {
            return Err(refuse::detail("A security model has two labels; remove one"));
        }
        labels.push(read);
    }
    Ok(labels)
}

/// `<memoryBacking>`; sizes of pages in KiB.
pub(super) fn memory_backing(input: &Element) -> Result<Option<Element>, Error> {
    let mut holder = Element::new("domain");
    MEMORY_BACKING.read_child(input, &mut holder)?;
    let Some(mut backing) = holder.take("memoryBacking") else {
        return Ok(None);
    };
    for page in backing.child_mut("hugepages").into_iter().flat_map(Element::elements_mut) {
        let (size, unit) = (page.attr("size").unwrap_or_default(), page.attr("unit"));
        let bytes = value::bytes(size, unit, 1024, "<page>")?;
        page.set("size", bytes.div_ceil(1024).to_string());
        page.set("unit", "KiB");
    }
    Ok(Some(backing))
}

/// `<memtune>` in KiB.
pub(super) fn memory_tune(input: &Element) -> Result<Option<Element>, Error> {
    let Some(given) = input.child("memtune") else {
        return Ok(None);
    };
    let mut tune = Element::new("memtune");
    for name in MEMORY_LIMITS {
        if let Some(limit) = given.child(name) {
            let bytes = value::bytes(&limit.text(), limit.attr("unit"), 1024, &format!("<{name}>"))?;
            // The largest value means "no limit" and is not printed.
            if bytes.div_ceil(1024) < (i64::MAX as u64) >> 10 {
                tune.push(Element::new(name).with("unit", "KiB").with_text(bytes.div_ceil(1024).to_string()));
            }
        }
    }
    Ok((!tune.children.is_empty()).then_some(tune))
}
