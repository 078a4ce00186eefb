//! A complete definition becomes a QEMU command line, the one that libvirt 11.3 makes for QEMU 10.
//!
//! Owns: the order of options, what belongs to the machine as a whole, names of block nodes and descriptors. Each kind
//! of device adds its own part (`device/<kind>/args.rs`). Never does: I/O, filling in defaults, choosing addresses; the
//! same input gives the same command line. Values reach QEMU as JSON or with their commas doubled, so that no
//! text of the definition can become another option, and text with control characters is refused.

pub mod alias;

mod address;
mod assemble;
mod boot;
pub(crate) mod builder;
mod clock;
mod cpu;
mod firmware;
pub(crate) mod json;
mod machine;
pub(crate) mod memory;
pub(crate) mod nodes;
mod numa;
pub(crate) mod option;
pub(crate) mod plug;
#[cfg(test)]
mod properties;
mod smbios;
pub(crate) mod virtio;

pub(crate) use assemble::of_device;
pub use assemble::{build, reduce_interfaces};

use bulkhead_wire::types::secret::SecretLookup;

/// How QEMU is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The emulator's path.
    pub program: String,
    /// Its arguments, without the program itself.
    pub arguments: Vec<String>,
    /// The variables it gets, and no others.
    pub environment: Vec<(String, String)>,
    /// The open files it inherits. Empty for [`Rendering::Native`].
    pub descriptors: Vec<DescriptorUse>,
    /// The secrets whose sealed values its arguments still lack. Empty for [`Rendering::Native`].
    pub secrets: Vec<SecretUse>,
}

/// One inherited descriptor: the number that the arguments name it by, and what must be open there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorUse {
    /// What it is for.
    pub purpose: Purpose,
    /// Its number in QEMU.
    pub number: u32,
}

/// One of QEMU's secret objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// Its id.
    pub object: String,
    /// Where its value comes from.
    pub source: SecretSource,
    /// The argument that describes it.
    argument: usize,
}

/// Where the value of a secret object comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// From the secret driver, for this `virSecretUsageType`.
    Stored {
        /// Which.
        lookup: SecretLookup,
        /// What for.
        usage_type: i32,
    },
    /// From the definition itself.
    Text(String),
}

/// What an inherited descriptor is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The listening socket of the QMP monitor.
    Monitor,
    /// The listening (or, for a guest's end that connects, connected) socket of a character device.
    Character {
        /// The device's alias.
        alias: String,
    },
    /// The file that a character device writes to, open for writing at its end or its beginning.
    File {
        /// The device's alias.
        alias: String,
    },
    /// The file that all output of a character device is copied to.
    Log {
        /// The device's alias.
        alias: String,
    },
    /// One queue of a network device's host end.
    Tap {
        /// The device's alias.
        alias: String,
        /// The queue, from 0.
        queue: u32,
    },
    /// `/dev/vhost-net`, once for each queue.
    VhostNet {
        /// The device's alias.
        alias: String,
        /// The queue, from 0.
        queue: u32,
    },
    /// `/dev/vhost-vsock` with the guest's CID set.
    VhostVsock {
        /// The device's alias.
        alias: String,
    },
    /// `/dev/vhost-vdpa-N`.
    Vdpa {
        /// The device's alias.
        alias: String,
    },
    /// The socket of the TPM emulator.
    Tpm {
        /// The device's alias.
        alias: String,
    },
    /// A file that holds the key under which values of secrets stand in the arguments.
    MasterKey,
}

/// Which of the two forms of one command line is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rendering {
    /// As `domainXMLToNative` answers: sockets by path, descriptors by made-up numbers.
    Native,
    /// As the guest is started: sockets, taps and secrets as inherited descriptors.
    Launch,
    /// As a device is added to a guest that runs: as for a start, with images that are opened for what they are used for.
    Plug,
}

/// The guest's private places, and the few facts that are neither definition nor capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The guest's own folder: `monitor.sock`, `master-key.aes`, graphics sockets, its home.
    pub guest: String,
    /// The folder of its channels' sockets.
    pub channels: String,
    /// The folder of file-backed memory.
    pub memory: String,
    /// The socket of the guest's own D-Bus.
    pub bus: String,
    /// The folder of the TLS certificates of graphics, disks and character devices.
    pub certificates: String,
    /// Seconds since 1970, for clocks that are set relative to now.
    pub now: i64,
    /// Whether `/dev/vhost-net` can be had.
    pub vhost_net: bool,
    /// QEMU waits for a state to go on from.
    pub incoming: bool,
    /// Which form is wanted.
    pub rendering: Rendering,
}

impl CommandLine {
    /// Puts the value of a secret into the arguments, as it is under the master key.
    pub(crate) fn seal(&mut self, used: &SecretUse, value: &str, vector: &str) {
        if let Some(argument) = self.arguments.get_mut(used.argument) {
            *argument = builder::secret_object(&used.object, value, vector).to_string();
        }
    }

    /// The line as a person would type it into a shell, variables first: the answer of `domainXMLToNative`.
    #[must_use]
    pub fn to_shell(&self) -> String {
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={}", quote(value)));
        let words = std::iter::once(&self.program).chain(&self.arguments).map(|word| quote(word));
        variables.chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// A word for a shell; quoted only where it must be.
fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_@%+=:,./-".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
