//! The `<host>` of the capabilities: processor, memory, NUMA cells, caches. Read anew each time; the files say how things are.

use super::{parent, text};
use crate::capabilities::usual_vendor;
use crate::node::{self, content, listed, number, of_processor};
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// Processor features that libvirt names otherwise than Linux does: Linux's name and libvirt's.
const RENAMED: &[(&str, &str)] = &[
    ("amd_ssbd", "amd-ssbd"),
    ("arch_capabilities", "arch-capabilities"),
    ("avx512_bf16", "avx512-bf16"),
    ("avx512_bitalg", "avx512bitalg"),
    ("avx512_vbmi2", "avx512vbmi2"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512_vpopcntdq", "avx512-vpopcntdq"),
    ("avx_vnni", "avx-vnni"),
    ("constant_tsc", "invtsc"),
    ("cr8_legacy", "cr8legacy"),
    ("flush_l1d", "flush-l1d"),
    ("intel_pt", "intel-pt"),
    ("md_clear", "md-clear"),
    ("nrip_save", "nrip-save"),
    ("pclmulqdq", "pclmuldq"),
    ("sha_ni", "sha-ni"),
    ("sse4_1", "sse4.1"),
    ("sse4_2", "sse4.2"),
    ("tsc_deadline_timer", "tsc-deadline"),
    ("virt_ssbd", "virt-ssbd"),
];
/// The processor features that libvirt's CPU documents name.
const FEATURES: &[&str] = &[
    "3dnow",
    "3dnowext",
    "3dnowprefetch",
    "abm",
    "acpi",
    "adx",
    "aes",
    "amd-psfd",
    "amd-ssbd",
    "amd-stibp",
    "amx-bf16",
    "amx-fp16",
    "amx-int8",
    "amx-tile",
    "apic",
    "arat",
    "arch-capabilities",
    "arch-lbr",
    "avx",
    "avx-ifma",
    "avx-ne-convert",
    "avx-vnni",
    "avx-vnni-int16",
    "avx-vnni-int8",
    "avx2",
    "avx512-4fmaps",
    "avx512-4vnniw",
    "avx512-bf16",
    "avx512-fp16",
    "avx512-vp2intersect",
    "avx512-vpopcntdq",
    "avx512bitalg",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512er",
    "avx512f",
    "avx512ifma",
    "avx512pf",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vl",
    "avx512vnni",
    "bmi1",
    "bmi2",
    "bus-lock-detect",
    "cid",
    "cldemote",
    "clflush",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cmp_legacy",
    "cmpccxadd",
    "core-capability",
    "cr8legacy",
    "cx16",
    "cx8",
    "dca",
    "de",
    "ds",
    "ds_cpl",
    "dtes64",
    "erms",
    "est",
    "extapic",
    "f16c",
    "fb-clear",
    "fbsdp-no",
    "flush-l1d",
    "flushbyasid",
    "fma",
    "fma4",
    "fpu",
    "fsgsbase",
    "fsrc",
    "fsrm",
    "fsrs",
    "fxsr",
    "fxsr_opt",
    "fzrm",
    "gfni",
    "hle",
    "ht",
    "hypervisor",
    "ia64",
    "ibpb",
    "ibrs",
    "ibs",
    "intel-pt",
    "intel-pt-lip",
    "invpcid",
    "invtsc",
    "la57",
    "lahf_lm",
    "lfence-always-serializing",
    "lm",
    "lwp",
    "mca",
    "mce",
    "md-clear",
    "misalignsse",
    "mmx",
    "mmxext",
    "monitor",
    "movbe",
    "movdir64b",
    "movdiri",
    "mpx",
    "msr",
    "mtrr",
    "no-nested-data-bp",
    "nodeid_msr",
    "npt",
    "nrip-save",
    "ntsc",
    "null-sel-clr-base",
    "nx",
    "osfxsr",
    "ospke",
    "osvw",
    "osxsave",
    "pae",
    "pat",
    "pause-filter",
    "pbe",
    "pcid",
    "pclmuldq",
    "pdcm",
    "pdpe1gb",
    "perfctr_core",
    "perfctr_nb",
    "pfthreshold",
    "pge",
    "pks",
    "pku",
    "pni",
    "popcnt",
    "prefetchiti",
    "pschange-mc-no",
    "pse",
    "pse36",
    "rdctl-no",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "sep",
    "serialize",
    "sgx",
    "sha-ni",
    "sha512",
    "skinit",
    "sm3",
    "sm4",
    "smap",
    "smep",
    "smx",
    "spec-ctrl",
    "split-lock-detect",
    "ss",
    "ssbd",
    "sse",
    "sse2",
    "sse4.1",
    "sse4.2",
    "sse4a",
    "ssse3",
    "stibp",
    "stibp-always-on",
    "svm",
    "svm-lock",
    "svme-addr-chk",
    "syscall",
    "tbm",
    "tce",
    "tm",
    "tm2",
    "topoext",
    "tsc",
    "tsc-deadline",
    "tsc-scale",
    "tsc_adjust",
    "tsx-ctrl",
    "tsx-ldtrk",
    "umip",
    "v-vmsave-vmload",
    "vaes",
    "vgif",
    "virt-ssbd",
    "vmcb-clean",
    "vme",
    "vmx",
    "vnmi",
    "vpclmulqdq",
    "waitpkg",
    "wbnoinvd",
    "wdt",
    "x2apic",
    "xfd",
    "xgetbv1",
    "xop",
    "xsave",
    "xsavec",
    "xsaveerptr",
    "xsaveopt",
    "xsaves",
    "xtpr",
];
/// Features of the model below, which are not named one by one.
const OF_MODEL: &[&str] = &[
    "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov",
    "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm", "pni", "cx16",
];
/// The processor that every host of this architecture with KVM has at least.
const MODEL: &str = "kvm64-v1";

/// libvirt's names of the processor's features.
fn features(flags: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for flag in flags.split_whitespace() {
        let name = RENAMED.iter().find(|(linux, _)| *linux == flag).map_or(flag, |(_, name)| *name);
        if FEATURES.contains(&name) && !OF_MODEL.contains(&name) {
            found.push(name);
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What the host's processor has, in libvirt's words; nothing where that is not told.
pub(crate) fn processor_features(arch: &str) -> Vec<String> {
    if arch != "x86_64" {
        return Vec::new();
    }
    let flags = of_processor(&content("/proc/cpuinfo"), "flags").unwrap_or_default();
    let found = features(&flags).into_iter().chain(OF_MODEL.iter().copied());
    found.map(str::to_owned).collect()
}

/// Whose processor the host's is.
pub(crate) fn processor_vendor() -> Option<&'static str> {
    of_processor(&content("/proc/cpuinfo"), "vendor_id").and_then(|own| usual_vendor(&own))
}

/// The processor.
fn processor(arch: &str, cpuinfo: &str) -> Element {
    let info = node::info(arch);
    let mut cpu = Element::new("cpu").with_child(text("arch", arch));
    if arch == "x86_64" {
        cpu.push(text("model", MODEL));
        if let Some(vendor) = of_processor(cpuinfo, "vendor_id").and_then(|own| usual_vendor(&own)) {
            cpu.push(text("vendor", vendor));
        }
        let microcode = of_processor(cpuinfo, "microcode")
            .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        if let Some(version) = microcode {
            cpu.push(Element::new("microcode").with("version", version.to_string()));
        }
        if let (Some(family), Some(model), Some(stepping)) = (
            of_processor(cpuinfo, "cpu family"),
            of_processor(cpuinfo, "model"),
            of_processor(cpuinfo, "stepping"),
        ) {
            cpu.push(
                Element::new("signature")
                    .with("family", family)
                    .with("model", model)
                    .with("stepping", stepping),
            );
        }
    }
    cpu.push(
        Element::new("topology")
            .with("sockets", info.sockets.to_string())
            .with("dies", "1")
            .with("clusters", "1")
            .with("cores", info.cores.to_string())
            .with("threads", info.threads.to_string()),
    );
    let bits = of_processor(cpuinfo, "address sizes")
        .and_then(|sizes| sizes.split_whitespace().next().map(str::to_owned));
    if let Some(bits) = bits {
        cpu.push(Element::new("maxphysaddr").with("mode", "emulate").with("bits", bits));
    }
    for name in features(&of_processor(cpuinfo, "flags").unwrap_or_default()) {
        cpu.push(Element::new("feature").with("name", name));
    }
    for size in page_sizes_kib() {
        cpu.push(Element::new("pages").with("unit", "KiB").with("size", size.to_string()));
    }
    cpu
}

/// The page that everything is made of, and huge ones, in KiB.
fn page_sizes_kib() -> Vec<u64> {
    let own = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let mut sizes: Vec<u64> =
        own.and_then(|size| u64::try_from(size).ok()).map(|size| size >> 10).into_iter().collect();
    let names = std::fs::read_dir("/sys/devices/system/node/node0/hugepages").into_iter().flatten().flatten();
    sizes.extend(names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
    }));
    sizes.sort_unstable();
    sizes
}

/// One NUMA cell.
fn cell(node: usize, all: &BTreeSet<usize>) -> Element {
    let folder = format!("/sys/devices/system/node/node{node}");
    let memory_kib = node::node_meminfo(node, "MemTotal").unwrap_or(0);
    let mut cell = Element::new("cell").with("id", node.to_string());
    cell.push(text("memory", memory_kib.to_string()).with("unit", "KiB"));
    let mut huge_kib = 0;
    let mut pages = Vec::new();
    for (index, size) in page_sizes_kib().into_iter().enumerate() {
        let count: u64 = match index {
            0 => 0,
            _ => number(format!("{folder}/hugepages/hugepages-{size}kB/nr_hugepages")).unwrap_or(0),
        };
        huge_kib += count * size;
        pages.push((size, count));
    }
    if let Some((size, count)) = pages.first_mut() {
        *count = memory_kib.saturating_sub(huge_kib) / (*size).max(1);
    }
    for (size, count) in pages {
        cell.push(text("pages", count.to_string()).with("unit", "KiB").with("size", size.to_string()));
    }
    let distances = content(format!("{folder}/distance"));
    let distances: Vec<&str> = distances.split_whitespace().collect();
    if !distances.is_empty() {
        let siblings = all.iter().zip(distances).map(|(other, distance)| {
            Element::new("sibling").with("id", other.to_string()).with("value", distance)
        });
        cell.push(parent("distances", siblings));
    }
    let of_node = listed(&content(format!("{folder}/cpulist")));
    let online = node::cpus("online");
    let cpus: Vec<usize> = match of_node.is_empty() {
        true => online.into_iter().collect(),
        false => of_node.intersection(&online).copied().collect(),
    };
    let count = cpus.len();
    let cpus = cpus.into_iter().map(|cpu| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let place = |name: &str| number::<i64>(format!("{topology}/{name}")).unwrap_or(0).max(0).to_string();
        // Unset is the kernel's -1 as libvirt prints it.
        let cluster = number::<i64>(format!("{topology}/cluster_id")).unwrap_or(-1);
        let cluster = u16::try_from(cluster).unwrap_or(u16::MAX);
        Element::new("cpu")
            .with("id", cpu.to_string())
            .with("socket_id", place("physical_package_id"))
            .with("die_id", place("die_id"))
            .with("cluster_id", cluster.to_string())
            .with("core_id", place("core_id"))
            .with("siblings", content(format!("{topology}/thread_siblings_list")).trim())
    });
    cell.with_child(parent("cpus", cpus).with("num", count.to_string()))
}

/// Caches from the second level on, each once, however many processors share it.
fn caches() -> Option<Element> {
    let mut banks = Vec::new();
    for cpu in node::cpus("online") {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cache");
        for index in 0..8 {
            let index = format!("{folder}/index{index}");
            let Some(level) = number::<u32>(format!("{index}/level")).filter(|level| *level >= 2) else {
                continue;
            };
            let shared = content(format!("{index}/shared_cpu_list")).trim().to_owned();
            if listed(&shared).first() != Some(&cpu) {
                continue;
            }
            let kind = match content(format!("{index}/type")).trim() {
                "Data" => "data",
                "Instruction" => "code",
                _ => "both",
            };
            let size = content(format!("{index}/size"));
            let size: u64 = size.trim().trim_end_matches('K').parse().unwrap_or(0);
            let id: u32 = number(format!("{index}/id")).unwrap_or(0);
            banks.push((level, id, kind, size, shared));
        }
    }
    banks.sort();
    let banks: Vec<Element> = banks
        .into_iter()
        .map(|(level, id, kind, kib, shared)| {
            let (size, unit) = if kib >= 1024 && kib % 1024 == 0 { (kib >> 10, "MiB") } else { (kib, "KiB") };
            Element::new("bank")
                .with("id", id.to_string())
                .with("level", level.to_string())
                .with("type", kind)
                .with("size", size.to_string())
                .with("unit", unit)
                .with("cpus", shared)
        })
        .collect();
    (!banks.is_empty()).then(|| parent("cache", banks))
}

/// `<host>`; `uuid` tells this host from others.
pub(crate) fn describe(arch: &str, uuid: &str) -> Element {
    let cpuinfo = content("/proc/cpuinfo");
    let nodes = node::nodes();
    let cells = nodes.iter().map(|node| cell(*node, &nodes));
    let mut host = Element::new("host")
        .with_child(text("uuid", uuid))
        .with_child(processor(arch, &cpuinfo))
        .with_child(Element::new("power_management"))
        .with_child(Element::new("iommu").with("support", "no"))
        .with_child(
            Element::new("topology").with_child(parent("cells", cells).with("num", nodes.len().to_string())),
        );
    if let Some(caches) = caches() {
        host.push(caches);
    }
    host.with_child(parent("secmodel", [text("model", "none"), text("doi", "0")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: x\n\
                           stepping\t: 1\nmicrocode\t: 0x1000065\nflags\t\t: fpu sse4_1 sha_ni xsave hypervisor lahf_lm mine\n\
                           address sizes\t: 48 bits physical, 48 bits virtual\n\nprocessor\t: 1\nstepping\t: 9\n";

    #[test]
    fn a_processor_is_told_by_libvirts_names() {
        let cpu = processor("x86_64", CPUINFO);
        assert_eq!(cpu.child_text("vendor").as_deref(), Some("AMD"));
        assert_eq!(cpu.path_attr("microcode", "version"), Some("16777317"));
        assert_eq!(cpu.path_attr("signature", "stepping"), Some("1"));
        assert_eq!(cpu.path_attr("maxphysaddr", "bits"), Some("48"));
        let names: Vec<_> = cpu.all("feature").filter_map(|feature| feature.attr("name")).collect();
        assert_eq!(names, ["hypervisor", "lahf_lm", "sha-ni", "sse4.1", "xsave"]);
    }

    #[test]
    fn this_host_has_cells_with_memory_and_processors() {
        let host = describe("x86_64", "1");
        let cell = host.at("topology/cells/cell").unwrap();
        assert!(cell.child_text("memory").unwrap().parse::<u64>().unwrap() > 0);
        assert!(cell.at("cpus/cpu").unwrap().attr("socket_id").is_some());
    }
}
