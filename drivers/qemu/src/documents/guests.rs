//! The `<guest>`s of the capabilities: each architecture with its emulator and machine types.

use super::{parent, text};
use crate::capabilities::Capabilities;
use bulkhead_xml::Element;

/// Architectures whose words have 32 bits; those of all others have 64.
const NARROW: &[&str] = &[
    "armv6l",
    "armv7l",
    "i686",
    "m68k",
    "microblaze",
    "microblazeel",
    "ppc",
    "riscv32",
    "sh4",
    "sh4eb",
    "xtensa",
    "xtensaeb",
    "or1k",
    "mips",
    "mipsel",
];
/// Architectures whose machines have ACPI that can be switched.
const WITH_ACPI: &[&str] = &["i686", "x86_64", "aarch64"];

/// One architecture and what its emulator answered.
pub(crate) fn describe(arch: &str, emulator: &str, capabilities: &Capabilities, kvm: bool) -> Element {
    let mut of_arch = Element::new("arch")
        .with("name", arch)
        .with_child(text("wordsize", if NARROW.contains(&arch) { "32" } else { "64" }))
        .with_child(text("emulator", emulator));
    let mut machines: Vec<_> =
        capabilities.machines.iter().filter(|machine| machine.name != "none").collect();
    // The default first, the others as QEMU lists them.
    machines.sort_by_key(|machine| !machine.default);
    for machine in machines {
        let entry = |name: &str, canonical: Option<&str>| {
            let mut entry = text("machine", name);
            if let Some(canonical) = canonical {
                entry.set("canonical", canonical);
            }
            entry.set("maxCpus", machine.cpu_max.to_string());
            if machine.deprecated {
                entry.set("deprecated", "yes");
            }
            entry
        };
        of_arch.push(entry(&machine.name, None));
        if let Some(alias) = &machine.alias {
            of_arch.push(entry(alias, Some(&machine.name)));
        }
    }
    of_arch.push(Element::new("domain").with("type", "qemu"));
    if kvm {
        of_arch.push(Element::new("domain").with("type", "kvm"));
    }
    let mut features = Vec::new();
    if arch == "i686" {
        features.extend(["pae", "nonpae"].map(Element::new));
    }
    if WITH_ACPI.contains(&arch) {
        features.push(Element::new("acpi").with("default", "on").with("toggle", "yes"));
    }
    if matches!(arch, "i686" | "x86_64") {
        features.push(Element::new("apic").with("default", "on").with("toggle", "no"));
    }
    features.extend(["cpuselection", "deviceboot"].map(Element::new));
    features.push(Element::new("disksnapshot").with("default", "on").with("toggle", "no"));
    features.push(Element::new("externalSnapshot"));
    parent("guest", [text("os_type", "hvm"), of_arch, parent("features", features)])
}
