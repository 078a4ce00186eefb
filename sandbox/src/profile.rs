//! What a process may do, as data that a reviewer can read. Every rule has a reason.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What may be done with a file or below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read files, list folders.
    Read,
    /// Read and write what is there, and truncate it; no new files.
    ReadWrite,
    /// Read and execute: programs and their libraries.
    Execute,
    /// Everything but devices: make, rename and remove files and folders.
    Manage,
}

/// How a rule names its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// By path. A path that does not exist grants nothing.
    Path(PathBuf),
    /// By a descriptor that the broker opened and passes under this number.
    Opened(i32),
    /// The same, and where the process has a view of its own, it is shown there at this path.
    Shown(i32, PathBuf),
}

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRule {
    /// Which.
    pub place: Place,
    /// What may be done with it.
    pub access: Access,
    /// Why it is needed.
    pub reason: String,
}

/// The system calls a process may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemCalls {
    /// Only those of a driver (see `filter`), and these extra groups, each with its reason.
    Driver(Vec<(Extra, String)>),
    /// All but those that no helper needs (see `filter`). A helper is a program that we did not write: what it calls is
    /// its business as long as it is harmless.
    Helper {
        /// May it open network sockets, with the reason?
        sockets: Option<String>,
        /// May it start programs, with the reason? Then it and they are alone in a process namespace, where there can be one,
        /// and end together.
        programs: Option<String>,
        /// Does it fail when it can't change a file's mode, with the reason? Then it is told that it did, and nothing changes.
        modes: Option<String>,
        /// May it change owner and mode of files that it has open, with the reason?
        owners: Option<String>,
        /// Does it fail when it can't become somebody else, with the reason? Then it is told that it did, and nothing changes.
        identities: Option<String>,
    },
}

/// A group of system calls beyond a driver's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extra {
    /// Saying on which of the host's processors threads of this user run.
    Affinity,
    /// Netlink sockets that look for and change interfaces and rules for packets, and attaching to a tap.
    Interfaces,
}

/// Resource limits; `None` leaves the inherited one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open files.
    pub open_files: Option<u64>,
    /// Bytes of a core file. Zero where memory may hold a guest's or a user's secrets.
    pub core_bytes: Option<u64>,
    /// Bytes of address space.
    pub address_space_bytes: Option<u64>,
}

/// All that a process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Whose it is, for reports.
    pub name: String,
    /// Files and folders.
    pub files: Vec<FileRule>,
    /// TCP ports that may be bound, each with its reason.
    pub bind_ports: Vec<(u16, String)>,
    /// The network of the stack, with the reason; else an empty one.
    pub network: Option<String>,
    /// Capabilities that stay, each with its reason (`CAP_NET_ADMIN`).
    pub capabilities: Vec<(String, String)>,
    /// System calls.
    pub system_calls: SystemCalls,
    /// Limits.
    pub limits: Limits,
    /// Keep memory out of swap, with the reason.
    pub locked: Option<String>,
    /// Hide everything that no rule names (a mount namespace); false leaves the view as it is.
    pub hide: bool,
    /// Room for temporary files that nobody else sees and that ends with it, with the reason. Where there is no view of its own,
    /// it has none.
    pub scratch: Option<String>,
    /// Whose control groups it makes and enters, if any: the helper's key.
    #[serde(default)]
    pub group: Option<String>,
    /// Terminals of its own, with the reason: it may make some, and can't see anybody else's.
    pub terminals: Option<String>,
}

impl Profile {
    /// The profile as it travels to the process.
    ///
    /// # Errors
    /// Never for profiles made of what this type can hold.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// Text that is no profile.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// What the profile asks for, in a few words each, for `status`.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut words = vec![format!("files: {}", self.files.len())];
        words.push(if self.network.is_some() { "network: stack" } else { "network: none" }.to_owned());
        if !self.capabilities.is_empty() {
            let names: Vec<_> = self.capabilities.iter().map(|(name, _)| name.as_str()).collect();
            words.push(format!("capabilities: {}", names.join(" ")));
        }
        words
    }
}
