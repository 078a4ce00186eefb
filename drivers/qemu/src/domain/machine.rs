//! Which emulator runs the guest, as what machine.

use super::context::Context;
use super::host::Host;
use super::refuse;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// The types of domains that libvirt's XML knows.
const VIRT_TYPES: &[&str] = &[
    "qemu",
    "kqemu",
    "kvm",
    "xen",
    "lxc",
    "uml",
    "openvz",
    "test",
    "vmware",
    "hyperv",
    "vbox",
    "phyp",
    "parallels",
    "bhyve",
    "vz",
    "hvf",
];

/// The architectures that libvirt's XML knows.
const ARCHITECTURES: &[&str] = &[
    "alpha",
    "armv6l",
    "armv7l",
    "armv7b",
    "aarch64",
    "cris",
    "i686",
    "ia64",
    "lm32",
    "loongarch64",
    "m68k",
    "microblaze",
    "microblazeel",
    "mips",
    "mipsel",
    "mips64",
    "mips64el",
    "or32",
    "parisc",
    "parisc64",
    "ppc",
    "ppc64",
    "ppc64le",
    "ppcemb",
    "riscv32",
    "riscv64",
    "s390",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "unicore32",
    "x86_64",
    "xtensa",
    "xtensaeb",
];

/// The guest's machine and emulator.
pub(super) struct Settled<'a> {
    pub(super) context: Context<'a>,
    pub(super) emulator: String,
    /// Why the emulator can't run it; faults in the document itself come first.
    pub(super) unfit: Option<Error>,
}

/// What the guest is, and the emulator for it.
pub(super) fn settle<'a>(root: &'a Element, host: &'a Host) -> Result<Settled<'a>, Error> {
    let virt_type = root
        .attr("type")
        .ok_or_else(|| refuse::internal("<domain> has no type; add type='kvm' or type='qemu'"))?;
    if !VIRT_TYPES.contains(&virt_type) {
        return Err(refuse::value(format!(
            "Domain type '{virt_type}' is unknown; 'kvm' and 'qemu' are to be had"
        )));
    }
    let kind = root.at("os/type");
    let os_type = match kind.map(Element::text) {
        Some(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ if root.child("bootloader").is_some() => "xen".to_owned(),
        _ => {
            return Err(refuse::xml("<os> has no <type>; add <type>hvm</type>"));
        }
    };
    let given_emulator = root.at("devices/emulator").map(Element::text).filter(|path| !path.is_empty());
    let arch = match kind.and_then(|kind| kind.attr("arch")) {
        Some(arch) if ARCHITECTURES.contains(&arch) => arch.to_owned(),
        Some(arch) => return Err(refuse::unsupported(format!("Architecture '{arch}' is unknown"))),
        None => architecture(root, host),
    };
    let emulator = match given_emulator {
        Some(path) => path,
        None => match host.emulator(&arch) {
            Some(emulator) => emulator.path.clone(),
            None => {
                return Err(refuse::unsupported_by_qemu(format!(
                    "There is no emulator for architecture '{arch}' on this host"
                )));
            }
        },
    };
    check_emulator(host, &emulator, &arch)?;
    let requested = kind.and_then(|kind| kind.attr("machine"));
    let known = host.emulator(&arch).ok_or_else(|| {
        refuse::unsupported_by_qemu(format!("There is no emulator for architecture '{arch}' on this host"))
    })?;
    let unsupported = |what: &str, value: &str| {
        refuse::unsupported_by_qemu(format!("Emulator '{emulator}' has no {what} '{value}'"))
    };
    let mut unfit =
        root.child("bootloader").map(|_| refuse::unsupported_by_qemu("QEMU has no <bootloader>; remove it"));
    if unfit.is_some() {
        // The first reason is told.
    } else if os_type != "hvm" {
        unfit = Some(unsupported("guests of type", &os_type));
    } else if virt_type != "qemu" && (virt_type != "kvm" || !known.kvm) {
        unfit = Some(unsupported("domain type", virt_type));
    }
    let machine = match requested {
        None if os_type == "hvm" => known.default_machine.clone(),
        None => os_type.clone(),
        Some(name) => host.canonical_machine(&arch, name).unwrap_or_else(|| {
            unfit.get_or_insert_with(|| unsupported("machine type", name));
            name.to_owned()
        }),
    };
    let context = Context { arch, machine, virt_type: virt_type.to_owned(), os_type, host, document: root };
    Ok(Settled { context, emulator, unfit })
}

/// A machine has places for so many vCPUs and no more.
pub(super) fn check_vcpus(vcpus: u32, context: &Context<'_>) -> Result<(), Error> {
    let machine = context.host.emulator(&context.arch).and_then(|known| known.machines.get(&context.machine));
    match machine.map(|machine| machine.maximum_vcpus) {
        Some(most) if most > 0 && vcpus > most => Err(refuse::unsupported_by_qemu(format!(
            "<vcpu>: machine type '{}' has at most {most} vCPUs, not {vcpus}",
            context.machine
        ))),
        _ => Ok(()),
    }
}

/// The architecture of the given emulator, or the host's if that emulator can run it.
pub(super) fn architecture(root: &Element, host: &Host) -> String {
    let emulator = root.at("devices/emulator").map(Element::text).filter(|path| !path.is_empty());
    if let Some(path) = &emulator {
        let native = host.emulator(&host.arch).is_some_and(|own| own.path == *path);
        if !native && let Some((arch, _)) = host.emulators.iter().find(|(_, other)| other.path == *path) {
            return arch.clone();
        }
    }
    // A machine type that only one architecture has says which one it is.
    if let Some(machine) = root.path_attr("os/type", "machine")
        && host.canonical_machine(&host.arch, machine).is_none()
        && emulator.is_none()
    {
        let mut having = host.emulators.keys().filter(|arch| host.canonical_machine(arch, machine).is_some());
        if let (Some(only), None) = (having.next(), having.next()) {
            return only.clone();
        }
    }
    host.arch.clone()
}

/// Only the programs that the host lists are emulators: nothing that a client names is run to find out.
fn check_emulator(host: &Host, path: &str, arch: &str) -> Result<(), Error> {
    let mut known = host.emulators.iter().filter(|(_, emulator)| emulator.path == path).peekable();
    if known.peek().is_none() {
        return Err(Error::new(
            Code::SYSTEM_ERROR,
            Origin::QEMU,
            format!("<emulator>: '{path}' is none of this host's emulators; name one of these, or none"),
        ));
    }
    let x86 = |name: &str| matches!(name, "i686" | "x86_64");
    let family = |name: &str| name.trim_end_matches("le").to_owned();
    if known.any(|(name, _)| name == arch || x86(name) && x86(arch) || family(name) == family(arch)) {
        return Ok(());
    }
    Err(refuse::unsupported_by_qemu(format!("<emulator>: '{path}' does not emulate architecture '{arch}'")))
}
