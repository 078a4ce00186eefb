//! What a QEMU binary can do: machines, devices, objects, CPU models, learned once over QMP.
//!
//! Owns: which questions are asked ([`queries`], then [`host_model_queries`]), how the answers are read
//! ([`Capabilities::from_replies`], [`Capabilities::read_host_model`]) and when
//! a stored answer is still good ([`CacheKey`]). Never does: I/O. The replies come from a program that may have been
//! taken over, so every list and text in them is bounded.

mod cache;
pub(crate) mod comparison;
mod host_model;
mod query;

pub use cache::{CacheKey, HostFacts};
pub use host_model::{HostModel, host_model_queries};
pub(crate) use host_model::{usual_name, usual_vendor};
pub use query::{Query, Reply, ReplyError, queries};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What one QEMU binary can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// QEMU's version.
    pub version: Version,
    /// The architecture it emulates, in QEMU's spelling (`x86_64`, `aarch64`).
    pub target: String,
    /// Whether KVM works with it here.
    pub kvm: bool,
    /// The machine types.
    pub machines: Vec<Machine>,
    /// The names of all device and object types.
    pub types: BTreeSet<String>,
    /// Properties of those types whose properties were asked for.
    pub properties: BTreeMap<String, BTreeSet<String>>,
    /// Options of the command line and their properties.
    pub options: BTreeMap<String, BTreeSet<String>>,
    /// The CPU models.
    pub cpus: Vec<Cpu>,
    /// CPU features that the best CPU of this accelerator has here; empty if QEMU could not tell.
    pub cpu_features: BTreeSet<String>,
    /// Who makes the processors that the best CPU looks like (`AMD`); empty if it is none of those known.
    pub vendor: String,
    /// What a guest gets that asks for the host's CPU model, where that is known.
    pub host_model: Option<HostModel>,
}

/// A version of QEMU; compares by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

impl Version {
    /// A version's first two numbers, for comparing.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, micro: 0 }
    }
}

/// One machine type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The full name (`pc-q35-10.0`).
    pub name: String,
    /// The short name (`q35`).
    pub alias: Option<String>,
    /// Whether QEMU takes it when none is named.
    pub default: bool,
    /// The most vCPUs.
    pub cpu_max: u32,
    /// Whether vCPUs can be plugged.
    pub hotpluggable_cpus: bool,
    /// Whether NUMA nodes can be given memory.
    pub numa: bool,
    /// Whether it will go away.
    pub deprecated: bool,
    /// The CPU model it takes when none is named.
    pub default_cpu: Option<String>,
    /// The id of its main memory.
    pub default_ram_id: Option<String>,
    /// Whether ACPI can be switched, where that is known.
    pub acpi: Option<bool>,
}

/// One CPU model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its name (`qemu64`).
    pub name: String,
    /// Its QOM type (`qemu64-x86_64-cpu`).
    pub type_name: String,
    /// Features that keep it from running here; `None` if QEMU could not tell.
    pub unavailable: Option<Vec<String>>,
    /// Whether it will go away.
    pub deprecated: bool,
    /// The model that it is another name of.
    pub alias_of: Option<String>,
}

impl Capabilities {
    /// The machine type of that name or alias.
    #[must_use]
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .or_else(|| self.machines.iter().find(|machine| machine.alias.as_deref() == Some(name)))
    }

    /// Whether there is a device or object type of that name.
    #[must_use]
    pub fn has_type(&self, name: &str) -> bool {
        self.types.contains(name)
    }

    /// Whether a type has a property; `false` also for types whose properties were not asked for.
    #[must_use]
    pub fn has_property(&self, type_name: &str, property: &str) -> bool {
        self.properties.get(type_name).is_some_and(|properties| properties.contains(property))
    }

    /// Whether an option of the command line has a property.
    #[must_use]
    pub fn has_option(&self, option: &str, property: &str) -> bool {
        self.options.get(option).is_some_and(|properties| properties.contains(property))
    }

    /// Whether QEMU is at least this old.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= Version::new(major, minor)
    }
}
