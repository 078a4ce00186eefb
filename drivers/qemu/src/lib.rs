//! The qemu driver: libvirt's domain XML in, QEMU guests out.
//!
//! The pure half: [`domain`] turns XML into a complete definition and back, [`device`] holds what each kind of
//! device adds to that, [`args`] turns a definition into a command line, [`capabilities`] is what a QEMU binary
//! can do. The other half talks: [`monitor`] speaks QMP.

pub mod args;
pub mod capabilities;
pub mod device;
pub mod domain;
pub mod monitor;
