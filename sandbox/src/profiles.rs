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
    FileRule {
        place: Place::Path(path.into()),
        access,
        reason: reason.to_owned(),
    }
}

fn driver(name: &str, files: Vec<FileRule>) -> Profile {
    Profile {
        name: name.to_owned(),
        files,
        bind_ports: Vec::new(),
        network: None,
        capabilities: Vec::new(),
        system_calls: SystemCalls::Driver(Vec::new()),
        limits: Limits {
            open_files: Some(16_384),
            core_bytes: Some(0),
            address_space_bytes: Some(4 << 30),
        },
        hide: true,
        terminals: None,
    }
}

/// The qemu driver: its own definitions and state; QEMU itself is reached through descriptors.
#[must_use]
pub fn qemu(folders: &Folders) -> Profile {
    driver(
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
            rule(
                "/proc",
                Access::Read,
                "CPU time of guests, and the host's CPU, memory and NUMA nodes",
            ),
            rule(
                "/sys/devices/system",
                Access::Read,
                "the host's CPU topology, caches and NUMA nodes",
            ),
            rule(
                "/usr/share/qemu/firmware",
                Access::Read,
                "which firmware is installed and what it can do",
            ),
            rule("/usr/share/OVMF", Access::Read, "templates of firmware variables"),
            rule(
                "/usr/share/AAVMF",
                Access::Read,
                "templates of firmware variables",
            ),
            rule(
                "/etc/qemu/firmware",
                Access::Read,
                "which firmware the host's owner configured",
            ),
        ],
    )
}

/// The network driver: interfaces of the stack's network namespace.
#[must_use]
pub fn network(folders: &Folders) -> Profile {
    Profile {
        network: Some("taps and bridges are made in the stack's network namespace".to_owned()),
        capabilities: vec![(
            "CAP_NET_ADMIN".to_owned(),
            "makes taps and plugs them into bridges".to_owned(),
        )],
        system_calls: SystemCalls::Driver(vec![(Extra::Interfaces, "taps and bridges".to_owned())]),
        ..driver(
            "network",
            vec![
                rule(&folders.etc, Access::Manage, "definitions of networks"),
                rule(&folders.lib, Access::Manage, "lease databases"),
                rule(&folders.run, Access::Manage, "live state of networks"),
                rule(
                    "/dev/net/tun",
                    Access::ReadWrite,
                    "taps are attached to through it",
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

/// The profile of a driver by its name; `None` for a driver without one.
#[must_use]
pub fn of_driver(name: &str, folders: &Folders) -> Option<Profile> {
    match name {
        "qemu" => Some(qemu(folders)),
        "network" => Some(network(folders)),
        "log" => Some(log(folders)),
        _ => None,
    }
}

/// A helper, before the files of the instance are added: libraries and the program itself.
#[must_use]
pub fn helper(
    class: &str,
    program: &Path,
    network: Option<String>,
    terminals: Option<String>,
    data: &[(&str, &str)],
) -> Profile {
    let mut files = vec![rule(program, Access::Execute, "the program itself")];
    for folder in ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"] {
        files.push(rule(folder, Access::Execute, "shared libraries and their loader"));
    }
    files.push(rule(
        "/etc/ld.so.cache",
        Access::Read,
        "where shared libraries are",
    ));
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
    files.extend(
        data.iter()
            .map(|(path, reason)| rule(*path, Access::Read, reason)),
    );
    Profile {
        name: class.to_owned(),
        files,
        bind_ports: Vec::new(),
        network: network.clone(),
        capabilities: Vec::new(),
        system_calls: SystemCalls::Helper {
            sockets: network,
            programs: None,
        },
        limits: Limits {
            open_files: None,
            core_bytes: Some(0),
            address_space_bytes: None,
        },
        hide: false,
        terminals,
    }
}
