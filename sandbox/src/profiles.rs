//! The profiles of all our processes, in one place.
//!
//! A driver's profile is fixed but for the folders of the stack; a helper's is made for the instance from what the
//! broker has checked against the helper's class.

use crate::profile::{Access, Extra, FileRule, Limits, Place, Profile, SystemCalls};
use std::path::{Path, PathBuf};

/// The folders that a driver's profile is made from.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Definitions of this driver.
    pub etc: PathBuf,
    /// Persistent state of this driver.
    pub lib: PathBuf,
    /// Live state of this driver.
    pub run: PathBuf,
    /// Cache of this driver.
    pub cache: PathBuf,
    /// Logs of the stack.
    pub log: PathBuf,
}

fn rule(path: impl Into<PathBuf>, access: Access, reason: &str) -> FileRule {
    FileRule { place: Place::Path(path.into()), access, reason: reason.to_owned() }
}

fn driver(name: &str, files: Vec<FileRule>) -> Profile {
    Profile {
        name: name.to_owned(),
        files,
        bind_ports: Vec::new(),
        network: None,
        capabilities: Vec::new(),
        system_calls: SystemCalls::Driver(Vec::new()),
        limits: Limits { open_files: Some(16_384), core_bytes: Some(0), address_space_bytes: Some(4 << 30) },
        locked: None,
        hide: true,
        scratch: None,
        group: None,
        terminals: None,
    }
}

/// The qemu driver: its own definitions and state; QEMU itself is reached through descriptors.
#[must_use]
pub fn qemu(folders: &Folders) -> Profile {
    let affinity = (Extra::Affinity, "guests' threads are pinned to processors".to_owned());
    Profile {
        system_calls: SystemCalls::Driver(vec![affinity]),
        ..driver(
            "qemu",
            vec![
                rule(&folders.etc, Access::Manage, "definitions of domains"),
                rule(
                    &folders.lib,
                    Access::Manage,
                    "firmware variables and other state that outlives a reboot",
                ),
                rule(&folders.run, Access::Manage, "live state of running guests"),
                rule(&folders.cache, Access::Manage, "what QEMU binaries can do"),
                rule("/proc", Access::Read, "CPU time of guests, and the host's CPU, memory and NUMA nodes"),
                rule("/sys/devices/system", Access::Read, "the host's CPU topology, caches and NUMA nodes"),
                rule("/sys/devices/system/node", Access::ReadWrite, "huge pages are reserved on NUMA nodes"),
                rule(
                    "/sys/kernel/mm/ksm",
                    Access::ReadWrite,
                    "how the host shares equal pages is told and set",
                ),
                rule(
                    "/sys/devices/virtual/dmi/id",
                    Access::Read,
                    "what the host's firmware says of the host",
                ),
                rule(
                    "/usr/share/qemu/firmware",
                    Access::Read,
                    "which firmware is installed and what it can do",
                ),
                rule("/usr/share/OVMF", Access::Read, "templates of firmware variables"),
                rule("/usr/share/AAVMF", Access::Read, "templates of firmware variables"),
                rule("/etc/qemu/firmware", Access::Read, "which firmware the host's owner configured"),
            ],
        )
    }
}

/// The network driver: interfaces of the stack's network namespace.
#[must_use]
pub fn network(folders: &Folders) -> Profile {
    Profile {
        network: Some("taps and bridges are made in the stack's network namespace".to_owned()),
        capabilities: vec![(
            "CAP_NET_ADMIN".to_owned(),
            "makes bridges and taps, and rules for what passes between them".to_owned(),
        )],
        system_calls: SystemCalls::Driver(vec![(
            Extra::Interfaces,
            "bridges and taps, and rules for what passes between them".to_owned(),
        )]),
        ..driver(
            "network",
            vec![
                rule(&folders.etc, Access::Manage, "definitions of networks"),
                rule(
                    &folders.lib,
                    Access::Manage,
                    "what serves names and addresses to guests is configured there",
                ),
                rule(&folders.run, Access::Manage, "live state of networks"),
                rule("/dev/net/tun", Access::ReadWrite, "taps are attached to through it"),
                rule(
                    "/etc/resolv.conf",
                    Access::Read,
                    "does this host know servers that guests' questions can go to?",
                ),
            ],
        )
    }
}

/// The log driver: the log folder and nothing else.
#[must_use]
pub fn log(folders: &Folders) -> Profile {
    driver("log", vec![rule(&folders.log, Access::Manage, "guests' logs")])
}

/// The storage driver: definitions and which pools are active. Pools themselves are reached through their workers.
#[must_use]
pub fn storage(folders: &Folders) -> Profile {
    driver(
        "storage",
        vec![
            rule(&folders.etc, Access::Manage, "definitions of pools"),
            rule(&folders.run, Access::Manage, "which pools are active, and what is being made in them"),
        ],
    )
}

/// The secret driver: definitions with their sealed values, and the key, in two folders.
#[must_use]
pub fn secret(folders: &Folders) -> Profile {
    Profile {
        locked: Some("values of secrets and their key must not reach swap".to_owned()),
        ..driver(
            "secret",
            vec![
                rule(&folders.etc, Access::Manage, "the key that values are sealed with"),
                rule(&folders.lib, Access::Manage, "definitions of secrets and their sealed values"),
            ],
        )
    }
}

/// The gateway: nothing but the connections that it is given.
#[must_use]
pub fn gateway() -> Profile {
    driver("gateway", Vec::new())
}

/// The profile of a driver by its name; `None` for a driver without one.
#[must_use]
pub fn of_driver(name: &str, folders: &Folders) -> Option<Profile> {
    match name {
        "qemu" => Some(qemu(folders)),
        "network" => Some(network(folders)),
        "log" => Some(log(folders)),
        "storage" => Some(storage(folders)),
        "secret" => Some(secret(folders)),
        "gateway" => Some(gateway()),
        _ => None,
    }
}

/// The loaders of dynamically linked programs. The kernel executes them in front of the program; those of other machines
/// do not exist and grant nothing.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib64/ld64.so.2",
    "/lib/ld64.so.1",
    "/lib64/ld-linux-loongarch-lp64d.so.1",
];

/// Data that every instance of a class may read, each with the reason; `None` for a class that does not exist.
fn data(class: &str) -> Option<&'static [(&'static str, &'static str)]> {
    match class {
        "qemu" => Some(&[
            ("/usr/share/qemu", "firmware and key maps"),
            ("/usr/share/seabios", "firmware"),
            ("/usr/share/ipxe", "network boot firmware"),
            ("/usr/lib/ipxe", "network boot firmware"),
            ("/usr/share/vgabios", "firmware"),
            ("/usr/share/OVMF", "firmware"),
            ("/usr/share/AAVMF", "firmware"),
            ("/usr/share/ovmf", "firmware"),
            ("/sys/devices/system", "the host's CPU topology"),
            ("/proc/self", "its own threads and memory"),
            ("/proc/sys/vm/overcommit_memory", "whether memory that is not reserved can be had"),
            ("/etc/nsswitch.conf", "user networking looks names up"),
            ("/etc/resolv.conf", "user networking passes the name server on"),
            ("/etc/hosts", "user networking looks names up"),
        ]),
        "qemu-probe" => {
            Some(&[("/usr/share/qemu", "firmware and key maps"), ("/usr/share/seabios", "firmware")])
        }
        "qemu-img" | "swtpm" | "pool" => Some(&[]),
        "dnsmasq" => Some(&[
            ("/etc/resolv.conf", "whom guests' questions are passed on to"),
            ("/etc/hosts", "names of this host's owner are told to guests, as stock does"),
            ("/etc/passwd", "its user's name"),
            ("/etc/group", "its group's name"),
            ("/etc/nsswitch.conf", "looks the former up"),
            ("/etc/localtime", "tells when it began"),
        ]),
        "swtpm-setup" => Some(&[
            ("/etc/swtpm-localca.options", "what the host's owner wants to stand in certificates"),
            ("/etc/passwd", "its user's name"),
            ("/etc/group", "its group's name"),
            ("/etc/nsswitch.conf", "looks the former up"),
            ("/etc/localtime", "tells when it began"),
        ]),
        _ => None,
    }
}

/// Programs that every instance of a class starts, and why.
fn programs(class: &str) -> (&'static [&'static str], Option<&'static str>) {
    match class {
        "swtpm-setup" => (
            &["/usr/bin/swtpm", "/usr/bin/swtpm_localca", "/usr/bin/swtpm_cert", "/usr/bin/certtool"],
            Some("it makes a TPM by talking to an emulator, and has its certificates made"),
        ),
        "dnsmasq" => (&[], Some("a question over TCP, which may last, is answered by a process of its own")),
        _ => (&[], None),
    }
}

/// Why a helper of this class must believe that it becomes somebody else, if it must.
fn identities(class: &str) -> Option<String> {
    (class == "dnsmasq").then(|| "it does not start as root where it can't give up its groups".to_owned())
}

/// Why a helper of this class must believe that it changes modes of files, if it must.
fn modes(class: &str) -> Option<String> {
    let fails = matches!(class, "swtpm" | "swtpm-setup");
    fails.then(|| "the emulator does not start where it can't set its state's mode".to_owned())
}

/// Why a helper of this class may change owner and mode of files that it has open, if it may.
fn owners(class: &str) -> Option<String> {
    (class == "pool").then(|| "a volume belongs to whom its definition names".to_owned())
}

/// Capabilities of a helper of this class, where its user has them.
fn capabilities(class: &str) -> Vec<(String, String)> {
    let names: &[(&str, &str)] = match class {
        "pool" => &[
            ("CAP_CHOWN", "a volume belongs to whom its definition names"),
            ("CAP_FOWNER", "a volume's mode is set whoever it belongs to"),
            ("CAP_DAC_OVERRIDE", "volumes of guests' own users are looked at and changed"),
        ],
        "dnsmasq" => &[
            ("CAP_NET_ADMIN", "tells the kernel which address belongs to whom that has none yet"),
            ("CAP_NET_BIND_SERVICE", "names are asked for at port 53, addresses at 67, files at 69"),
            ("CAP_NET_RAW", "tells guests of IPv6 networks, and binds to a bridge"),
        ],
        _ => &[],
    };
    names.iter().map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned())).collect()
}

/// Why a helper of this class has terminals, if it has.
fn terminals(class: &str) -> Option<String> {
    (class == "qemu").then(|| "its consoles are terminals".to_owned())
}

/// A helper, before the files of the instance are added: libraries, the program itself, and what its class reads. `None` for
/// a class that does not exist.
#[must_use]
pub fn helper(class: &str, program: &Path, network: Option<String>) -> Option<Profile> {
    let (data, terminals) = (data(class)?, terminals(class));
    let mut files = vec![rule(program, Access::Execute, "the program itself")];
    for folder in ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"] {
        // Mapping a library takes the right to read it alone.
        files.push(rule(folder, Access::Read, "shared libraries"));
    }
    for loader in LOADERS {
        files.push(rule(*loader, Access::Execute, "the loader of shared libraries"));
    }
    files.push(rule("/etc/ld.so.cache", Access::Read, "where shared libraries are"));
    let folder = program.parent().unwrap_or(Path::new("/"));
    if !crate::ceiling::PROGRAM_FOLDERS.iter().any(|usual| folder == Path::new(usual))
        && let Some(prefix) = folder.parent()
    {
        for name in ["lib", "share"] {
            files.push(rule(
                prefix.join(name),
                Access::Read,
                "libraries and data that came with the program",
            ));
        }
    }
    for device in ["/dev/null", "/dev/zero", "/dev/full"] {
        files.push(rule(device, Access::ReadWrite, "harmless"));
    }
    for device in ["/dev/urandom", "/dev/random"] {
        files.push(rule(device, Access::Read, "random numbers, for the guest too"));
    }
    if let Some(reason) = &terminals {
        files.push(rule("/dev/pts", Access::ReadWrite, reason));
        files.push(rule("/dev/ptmx", Access::ReadWrite, reason));
    }
    let (programs, starts) = programs(class);
    files.extend(programs.iter().map(|path| rule(*path, Access::Execute, starts.unwrap_or_default())));
    files.extend(data.iter().map(|(path, reason)| rule(*path, Access::Read, reason)));
    Some(Profile {
        name: class.to_owned(),
        files,
        bind_ports: Vec::new(),
        network: network.clone(),
        capabilities: capabilities(class),
        system_calls: SystemCalls::Helper {
            sockets: network,
            programs: starts.map(str::to_owned),
            modes: modes(class),
            owners: owners(class),
            identities: identities(class),
        },
        limits: Limits { open_files: None, core_bytes: Some(0), address_space_bytes: None },
        locked: None,
        // The others' files are named by descriptors, whose paths need not be the same later.
        hide: matches!(class, "swtpm-setup" | "pool"),
        scratch: (class == "swtpm-setup").then(|| "it has a file in /tmp, wherever it is told to".to_owned()),
        group: None,
        terminals,
    })
}
