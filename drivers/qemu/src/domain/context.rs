//! The guest as a whole, as far as its parts depend on it.

use super::host::Host;
use bulkhead_xml::Element;

/// What is settled of a guest before its devices are read.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The guest's architecture (`x86_64`).
    pub arch: String,
    /// The machine type, aliases resolved (`pc-q35-10.0`).
    pub machine: String,
    /// The domain's type (`kvm`, `qemu`).
    pub virt_type: String,
    /// The kind of guest (`hvm`).
    pub os_type: String,
    /// The host.
    pub host: &'a Host,
    /// The whole document as it was given.
    pub document: &'a Element,
}

impl Context<'_> {
    /// A PC with an i440FX chip set (one conventional PCI bus).
    #[must_use]
    pub fn is_i440fx(&self) -> bool {
        self.is_x86() && (self.machine == "pc" || self.machine.starts_with("pc-") && !self.is_q35())
    }

    /// A PC with a Q35 chip set (PCI Express).
    #[must_use]
    pub fn is_q35(&self) -> bool {
        self.is_x86() && (self.machine == "q35" || self.machine.starts_with("pc-q35"))
    }

    /// Any x86 guest.
    #[must_use]
    pub fn is_x86(&self) -> bool {
        matches!(self.arch.as_str(), "x86_64" | "i686")
    }

    /// Any Arm guest.
    #[must_use]
    pub fn is_arm(&self) -> bool {
        matches!(self.arch.as_str(), "aarch64" | "armv7l" | "armv6l")
    }

    /// Any RISC-V guest.
    #[must_use]
    pub fn is_riscv(&self) -> bool {
        matches!(self.arch.as_str(), "riscv32" | "riscv64")
    }

    /// The `virt` machine of an architecture whose `virt` has PCI Express.
    #[must_use]
    pub fn is_virt(&self) -> bool {
        (self.is_arm() || self.is_riscv() || self.arch == "loongarch64")
            && (self.machine == "virt" || self.machine.starts_with("virt-"))
    }

    /// An sPAPR (pseries) guest.
    #[must_use]
    pub fn is_pseries(&self) -> bool {
        self.arch.starts_with("ppc64") && (self.machine == "pseries" || self.machine.starts_with("pseries-"))
    }

    /// A mainframe guest with channel devices.
    #[must_use]
    pub fn is_s390(&self) -> bool {
        self.arch.starts_with("s390")
    }
}
